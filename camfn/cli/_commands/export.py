"""The command `camfn export`: the map inside of an exported model, and a web page with such models inside."""

# tested in tests/cli/commands/test_export.py

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .._options.command import PHOTOS, ModelOption, app
from .._options.options import NO_OPTIONS, ModelOptions, option_groups
from .._terminal.terminal import progress_bars, refusals


@app.command()
@option_groups
def export(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="What to write: NAME.onnx, NAME.pt2 (torch.export) or NAME.aot.pt2 (AOTInductor). "
            "With --page: files that were exported before; without any, the model is exported. With "
            "--fetch-runtime: the package onnxruntime-web, as a tarball or a folder.",
            show_default=False,
        ),
    ] = None,
    model: ModelOption = "lite0",
    methods: Annotated[
        str, typer.Option("--method", "--methods", help="A name (see: camfn methods); of a page, several by commas.")
    ] = "grad_cam",
    layers: Annotated[
        str,
        typer.Option(
            "--layer", "--layers", help="A dotted name (see: camfn layers), or auto; of a page, several by commas."
        ),
    ] = "auto",
    options: ModelOptions = NO_OPTIONS,
    page: Annotated[
        Path | None,
        typer.Option(
            help="Write a web page that explains photos in the browser: a folder, or one file that ends in .html and "
            "opens by a double click.",
            show_default=False,
        ),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(
            help="onnxruntime-web for the page, a tarball or a folder. [default: what was fetched]", show_default=False
        ),
    ] = None,
    fetch_runtime: Annotated[
        bool, typer.Option("--fetch-runtime", help="Fetch onnxruntime-web from npm (33 MB), and keep it for pages.")
    ] = False,
    heatmap: Annotated[
        str | None,
        typer.Option(
            help="Of a file: a third output, the map clipped, stretched and resized: 224, or HEIGHTxWIDTH.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Of a file: input makes the class an input, -1 the top class; or a class.", show_default="input"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    seed: Annotated[int, typer.Option(help="Of the methods that draw.")] = 0,
) -> None:
    """Export a model with its map inside: one file, or a web page that explains photos by itself.

    camfn export lite0.onnx --model lite0 writes one file of standard operators, whose inputs are images and classes and
    whose outputs are logits and maps. Nothing is written that onnxruntime did not run and that does not agree.

    Each method at each layer is exported and checked against the model, and the page offers them all; weights are in it
    once. An export takes 15 to 100 seconds. The page's runtime comes from npm, once: camfn export --fetch-runtime.
    """
    with refusals():
        from ..._shared.errors import UsageError

        given = list(files or ())
        if fetch_runtime:
            _fetch(given)
            if page is None:
                return
            given = []
        if page is None:
            if len(given) != 1:
                raise UsageError(
                    "what is to be written? As in camfn export lite0.onnx, or camfn export --page one.html"
                )
            _write_file(given[0], model, methods, layers, options, heatmap, target, force, seed)
            return
        if heatmap or target:
            raise UsageError("--heatmap and --target are of one file: a page draws the map, and any class of it")
        _write_page(page, given, runtime, model, methods, layers, options, seed)


def _write_file(
    file: Path,
    model: str,
    method: str,
    layer: str,
    options: ModelOptions,
    heatmap: str | None,
    target: str | None,
    force: bool,
    seed: int,
) -> None:
    """Write one file of a model, and say what is in it."""
    from ..._photos.methods import pick_method
    from ...export._onnx import require
    from .._jobs.export import check_file, check_method, target_of, write_file
    from .._options.options import read_size

    check_file(file, force)
    side = None if heatmap is None else read_size("heatmap", heatmap)
    chosen = pick_method(method, seed)
    check_method(chosen)
    if file.suffix == ".onnx":
        require()
    loaded = options.load(model)
    size = (side, side) if isinstance(side, int) else side
    with progress_bars() as progress:
        task = progress.add_task("exporting", total=None)
        lines = write_file(
            file,
            loaded,
            chosen,
            layer,
            heatmap=size,
            target=target_of(target, loaded),
            progress=lambda stage: progress.update(task, description=stage),
        )
    for line in lines:
        print(line)


@app.command()
@option_groups
def verify(
    file: Annotated[Path, typer.Argument(help="A file that camfn export wrote, .onnx or .pt2.", show_default=False)],
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help=PHOTOS, show_default=False)],
    model: Annotated[
        str | None, typer.Option("--model", help="The model whose export it is. [default: as the file says]")
    ] = None,
    options: ModelOptions = NO_OPTIONS,
) -> None:
    """Compare an exported file with its model on photos, and print the largest differences.

    The file says its model and how photos are prepared. Give --weights and --classes as you gave them to camfn export.

    Ends with 0 if they agree to 1e-4 of the largest value, with 1 if not.
    """
    with refusals():
        from .._jobs.deployed import load_beside, open_file
        from .._jobs.export import compare_with
        from .._options.options import named_photos

        deployed = open_file(str(file))
        found, problems = named_photos(photos)
        lines, agree = compare_with(deployed, found, load_beside(deployed, model, options))
        for line in lines:
            print(line)
        if not agree and options.weights is None:
            print("a file does not say its weights: if the model was exported with --weights, give the same here")
    raise typer.Exit(0 if agree and not problems else 1)


def _write_page(
    page: Path,
    files: list[Path],
    runtime: Path | None,
    model: str,
    methods: str,
    layers: str,
    options: ModelOptions,
    seed: int,
) -> None:
    """Write a page of files, or of a model that is exported for it, and say what is in it."""
    from ...export import page as write_page
    from .._jobs.page import check_methods, check_page

    check_page(page, runtime)
    if files:
        write_page(page, files, runtime=runtime)
        _say(page)
        return
    from ..._photos.methods import pick_methods
    from ..._shared.lists import split_list
    from ...export._onnx import require
    from .._jobs.page import page_of
    from .._options.options import pick_layer

    require()
    chosen = pick_methods(methods, seed)
    check_methods(chosen)
    loaded = options.load(model)
    names = [pick_layer(loaded.model, name) for name in split_list(layers, "layers")]
    with progress_bars() as progress:
        task = progress.add_task("exporting", total=None)

        def show(words: str, done: int, total: int) -> None:
            progress.update(task, description=words, completed=done, total=total)

        found = page_of(page, loaded, chosen, names, runtime, show)
    for each in found:
        _told(each)
    _say(page)


def _told(facts: dict[str, Any]) -> None:
    """Say how an export agrees with its model."""
    from ...export._facts import differences_of

    off = differences_of(facts["verified"])
    layer = facts["layer"] if isinstance(facts["layer"], str) else " + ".join(facts["layer"] or ["all attentions"])
    print(f"{facts['method']} at {layer}: as {facts['verified']['against']}, largest relative differences: {off}")


def _say(page: Path) -> None:
    """Say where the page is and how it opens."""
    parts = [page] if page.is_file() else [file for file in page.rglob("*") if file.is_file()]
    how = "opens by a double click" if page.is_file() else f"serve it: python -m http.server --directory {page}"
    print(f"page: {page} ({sum(part.stat().st_size for part in parts) / 1e6:.1f} MB); {how}")


def _fetch(sources: list[Path]) -> None:
    """Fetch the runtime of pages, with a bar."""
    from ..._shared.errors import UsageError
    from ...export import fetch_runtime
    from ...export._runtime import VERSION

    if len(sources) > 1:
        raise UsageError(f"--fetch-runtime: expected one tarball or folder, got {', '.join(map(str, sources))}")
    with progress_bars() as progress:
        task = progress.add_task("onnxruntime-web, bytes", total=None)

        def show(come: int, total: int) -> None:
            progress.update(task, completed=come, total=total or None)

        folder = fetch_runtime(*sources, progress=show)
    print(f"runtime: onnxruntime-web {VERSION}, checked, in {folder}")
