"""The command `camfn export`: the map inside of an exported model, and a web page with such models inside."""

# tested in tests/cli/test_export.py

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ._command import ModelOption, app
from ._options import NO_OPTIONS, ModelOptions, option_groups
from ._terminal import progress_bars, refusals


@app.command()
@option_groups
def export(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="With --page: files that were exported before; without any, the model is exported. With "
            "--fetch-runtime: the package onnxruntime-web, as a tarball or a folder.",
            show_default=False,
        ),
    ] = None,
    model: ModelOption = "lite0",
    methods: Annotated[str, typer.Option(help="Names separated by commas (see: camfn methods).")] = "grad_cam",
    layers: Annotated[
        str, typer.Option(help="Dotted names separated by commas (see: camfn layers), or auto.")
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
    seed: Annotated[int, typer.Option(help="Of the methods that draw.")] = 0,
) -> None:
    """Export a model with its map inside: a web page that explains photos by itself.

    Each method at each layer is exported and checked against the model, and the page offers them all; weights are in it
    once. An export takes 15 to 100 seconds. The page's runtime comes from npm, once: camfn export --fetch-runtime.
    """
    with refusals():
        from .._shared.errors import UsageError

        given = list(files or ())
        if fetch_runtime:
            _fetch(given)
            if page is None:
                return
            given = []
        if page is None:
            raise UsageError("what is to be written? As in camfn export --page one.html, or --page FOLDER")
        _write_page(page, given, runtime, model, methods, layers, options, seed)


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
    from ..export import page as write_page
    from ._page_job import check_methods, check_page

    check_page(page, runtime)
    if files:
        write_page(page, files, runtime=runtime)
        _say(page)
        return
    from .._photos.methods import pick_methods
    from .._shared.lists import split_list
    from ..export._onnx import require
    from ._options import pick_layer
    from ._page_job import page_of

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
    off = ", ".join(f"{name} {value:.1e}" for name, value in facts["verified"]["differences"].items())
    layer = facts["layer"] if isinstance(facts["layer"], str) else " + ".join(facts["layer"] or ["all attentions"])
    print(f"{facts['method']} at {layer}: as {facts['verified']['against']}, largest relative differences: {off}")


def _say(page: Path) -> None:
    """Say where the page is and how it opens."""
    parts = [page] if page.is_file() else [file for file in page.rglob("*") if file.is_file()]
    how = "opens by a double click" if page.is_file() else f"serve it: python -m http.server --directory {page}"
    print(f"page: {page} ({sum(part.stat().st_size for part in parts) / 1e6:.1f} MB); {how}")


def _fetch(sources: list[Path]) -> None:
    """Fetch the runtime of pages, with a bar."""
    from .._shared.errors import UsageError
    from ..export import fetch_runtime
    from ..export._runtime import VERSION

    if len(sources) > 1:
        raise UsageError(f"--fetch-runtime: expected one tarball or folder, got {', '.join(map(str, sources))}")
    with progress_bars() as progress:
        task = progress.add_task("onnxruntime-web, bytes", total=None)

        def show(come: int, total: int) -> None:
            progress.update(task, completed=come, total=total or None)

        folder = fetch_runtime(*sources, progress=show)
    print(f"runtime: onnxruntime-web {VERSION}, checked, in {folder}")
