"""The commands `camfn guided`, `factorize` and `compare`: gradients, concepts, and methods side by side."""

# tested in tests/cli/test_cli.py

from __future__ import annotations

from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from .._options.command import PHOTOS, DeviceOption, ModelOption, TargetOption, app, header
from .._options.options import AS_THEY_ARE, NO_OPTIONS, ModelOptions, ReadOptions, named_photos, option_groups
from .._terminal.tables import ByOption, LatexOption, MarkdownOption, TableOptions, WideOption, show_tables
from .._terminal.terminal import progress_bars, refusals, run_job, second_bar

if TYPE_CHECKING:
    from ...factorize import Negative


class ScaleOption(str, Enum):
    """Which maps of a figure have one scale of colors."""

    each = "each"
    row = "row"
    column = "column"
    all = "all"


@app.command()
@option_groups
def guided(
    context: typer.Context,
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help=PHOTOS, show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("maps"),
    model: ModelOption = "lite0",
    method: Annotated[
        str,
        typer.Option(
            help="guided_grad_cam, guided_backprop, deconvnet, input_gradient, smooth_grad, integrated_gradients, "
            "idgi or guided_ig."
        ),
    ] = "guided_grad_cam",
    layer: Annotated[str, typer.Option(help="Of guided_grad_cam: a dotted name, or auto.")] = "auto",
    target: TargetOption = None,
    options: ModelOptions = NO_OPTIONS,
    reading: ReadOptions = AS_THEY_ARE,
    device: DeviceOption = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Photos at a time.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the method that draws: smooth_grad.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Draw the gradients of photos: fine pictures at the network's own resolution.

    Writes what explain writes: STEM.METHOD.png, the picture, gray where the gradient is zero, lighter above and darker
    below; STEM.METHOD.npy, the gradient itself, (3, height, width); and a line of explanations.jsonl. Ends with
    0, 1, 2 or 130 as explain does.
    """
    with refusals():
        from ..._photos.methods import label_of, pick_picture
        from ..._photos.words import pick_target, refuse_words
        from .._files.files import plan_files
        from .._files.records import command_again
        from .._jobs.job import Job
        from .._options.options import pick_device, pick_layer, refuse_layer

        chosen, place, read_as = pick_picture(method, seed), pick_device(device), reading.read_as()
        refuse_layer(chosen, method, layer)
        photos, told = named_photos(photos)
        refuse_words(target, model, options.names())
        loaded = options.load(model)
        choice = pick_target(target, loaded)
        job = Job(
            plans=plan_files(photos, out, label_of(method), choice, force),
            out=out,
            loaded=loaded,
            method=chosen,
            choice=choice,
            layer_name=pick_layer(loaded.model, layer),
            device=place,
            batch_size=loaded.batch or batch_size,
            read_as=read_as,
            chunk_size=None,
            alpha=1.0,
            colormap="turbo",
            command=partial(command_again, context),
            header=header(
                model,
                options,
                loaded,
                place,
                **reading.record(),
                method=method,
                target=target or "top",
            ),
        )
        problems = run_job(job, told)
    raise typer.Exit(1 if problems else 0)


@app.command()
@option_groups
def factorize(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help=PHOTOS, show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("maps"),
    model: ModelOption = "lite0",
    rank: Annotated[int, typer.Option(min=1, max=10, help="Number of concepts.")] = 5,
    layer: Annotated[str, typer.Option(help="A dotted name (see: camfn layers), or auto.")] = "auto",
    together: Annotated[
        bool, typer.Option("--together/--apart", help="The same concepts in all photos, or own ones in each.")
    ] = True,
    negative: Annotated[str, typer.Option(help="Negative activations: error, or relu to set them to 0.")] = "error",
    options: ModelOptions = NO_OPTIONS,
    reading: ReadOptions = AS_THEY_ARE,
    device: DeviceOption = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Photos at a time.")] = 8,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Opacity of the strongest colors.")] = 0.8,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Find the concepts that a layer sees in photos, without a class (Deep Feature Factorization).

    Writes STEM.concepts.png, the part of the photo that the network sees, each place in the color of its strongest
    concept, with a legend that names what the network makes of each; STEM.concepts.npy, the maps; and one
    concepts.json with the classes of each concept and its share of each photo.

    Ends with 0 if all went well; with 1 if a photo could not be read or has no concept, the others' results kept; with
    2 if what was asked for cannot be done.
    """
    with refusals():
        from ..._photos.classes import ClassChoice
        from ..._shared.errors import UsageError
        from .._files.files import plan_files
        from .._jobs.factorize import RECORD, FactorizeJob
        from .._options.options import pick_device, pick_layer

        if negative not in ("error", "relu"):
            raise UsageError(f"--negative {negative!r}: expected error or relu")
        place, read_as = pick_device(device), reading.read_as()
        photos, told = named_photos(photos)
        loaded = options.load(model)
        job = FactorizeJob(
            plans=plan_files(photos, out, "concepts", ClassChoice(None), force, record=RECORD),
            out=out,
            loaded=loaded,
            rank=rank,
            together=together,
            negative=cast("Negative", negative),
            layer_name=pick_layer(loaded.model, layer),
            device=place,
            batch_size=loaded.batch or batch_size,
            read_as=read_as,
            alpha=alpha,
            header=header(
                model,
                options,
                loaded,
                place,
                **reading.record(),
                rank=rank,
                together=together,
                negative=negative,
            ),
        )
        problems = run_job(job, told)
    raise typer.Exit(1 if problems else 0)


@app.command()
@option_groups
def compare(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help=PHOTOS, show_default=False)],
    out: Annotated[Path, typer.Option(help="The picture (.png, .jpg) or figure (.pdf, .svg) to write.")] = Path(
        "compare.png"
    ),
    methods: Annotated[
        str,
        typer.Option(
            help="Separated by commas: names with options as in score_cam:top_k=0.1, file.py:function, or cheap, all, "
            "capped, attention."
        ),
    ] = "cheap",
    model: ModelOption = "lite0",
    layer: Annotated[str, typer.Option(help="A dotted name (see: camfn layers), or auto.")] = "auto",
    target: TargetOption = None,
    options: ModelOptions = NO_OPTIONS,
    reading: ReadOptions = AS_THEY_ARE,
    device: DeviceOption = "auto",
    chunk_size: Annotated[int | None, typer.Option(min=1, help="Perturbed forwards at a time.")] = None,
    seed: Annotated[int, typer.Option(help="Of the methods that draw: random_cam, ss_cam, rise, ...")] = 0,
    alpha: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Opacity of the overlay. [default: 0.5; in a figure 0.8]", show_default=False),
    ] = None,
    colormap: Annotated[
        str | None,
        typer.Option(
            help="Of the overlay; seismic keeps the map's sign. [default: turbo; in a figure inferno]",
            show_default=False,
        ),
    ] = None,
    width: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=30,
            help="Of a figure, in inches. [default: 3.25; 6.75 for more than 4 methods]",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[
        ScaleOption, typer.Option(help="Of a figure: the maps that share one scale of colors.")
    ] = ScaleOption.each,
    latex: LatexOption = None,
    markdown: MarkdownOption = None,
    by: ByOption = None,
    wide: WideOption = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Draw maps by several methods side by side, each with its method and class below; each photo has its row.

        camfn compare cat.jpg dog.jpg --methods "grad_cam, layer_cam, fem" --out figure.pdf

    A name in .pdf or .svg makes a figure for a paper: vector text, embedded fonts, one bar of colors. It needs
    pip install 'camfn[figure]'. A name in .png or .jpg makes a picture.

    Methods whose maps are equal up to a factor for every photo share one panel, and a line says so.

    --latex, --markdown, --by and --wide measure the maps too, as `camfn evaluate` does, with metrics that need no box:
    a ranked table says which methods the photos tell apart. That takes some 60 forwards for each map.

    With all, the methods that perturb the photo or the layer thousands of times are run as well, with a progress bar;
    capped takes fewer samples for these. The command skips a method of such a group that cannot explain this model, and
    prints why.
    """
    with refusals():
        from ..._photos.methods import from_groups, pick_methods
        from ..._photos.read import read_or_error
        from ..._photos.reading import FIRST_FRAME, frames_told, reading_of
        from ..._photos.words import pick_target, refuse_words
        from ..._shared.errors import UsageError
        from ..._shared.files import write_whole
        from ...image import save
        from .._files.figure import require_figures
        from .._files.files import check_writable, keep_photos
        from .._jobs.compare import Comparison
        from .._jobs.measured import measured_by, print_refusals
        from .._options.options import pick_colormap, pick_device, pick_layer, read_photos

        chosen, place = pick_methods(methods, seed), pick_device(device)
        vector = out.suffix.lower() in (".pdf", ".svg")
        colormap, alpha = colormap or "turbo", (0.8 if vector else 0.5) if alpha is None else alpha
        pick_colormap(colormap)
        check_writable(out, force, (".png", ".jpg", ".jpeg", ".pdf", ".svg"))
        if vector:
            require_figures("compare --out")
        elif width is not None or scale != ScaleOption.each:
            raise UsageError(
                f"--width and --scale are of a figure: give --out {out.with_suffix('.pdf')}, or leave them out"
            )
        refuse_words(target, model, options.names())
        table, read_as = TableOptions(wide=wide, latex=latex, markdown=markdown), reading.read_as()
        table.check()
        measured = None
        if latex or markdown or by or wide:
            measured = measured_by(model, by, target, seed, chunk_size or 16, read_as)
        named, told = named_photos(photos)
        keep_photos([out], named)
        pictures, refused = read_photos(named, lambda path: read_or_error(path, read_as), told)
        loaded = options.load(model)
        choice = pick_target(target, loaded)
        if choice.best > 1:
            raise UsageError(f"compare draws one target: give --target top, an index or a name, not {target!r}")
        loaded.model.to(place)
        with progress_bars() as progress:
            total = len(chosen) * len(pictures)
            tasks = progress.add_task("methods", total=total), progress.add_task("perturbing", visible=False)
            comparison = Comparison(
                loaded=loaded,
                chosen=chosen,
                choice=choice,
                layer_name=pick_layer(loaded.model, layer),
                device=place,
                lenient=from_groups(methods),
                chunk_size=chunk_size,
                look=(alpha, colormap),
                progress=second_bar(progress, tasks[1]),
                finished=lambda: progress.advance(tasks[0]),
            )
            drawn = comparison.figure(pictures, width, scale.value) if vector else comparison.grid(pictures)
        several = [f"{name}{said}" for name, photo in pictures if (said := frames_told(reading_of(photo).record()))]
        comparison.messages += [*several, *([FIRST_FRAME] if several and reading.frame is None else [])]
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, lambda path: save(drawn, path))
        for message in comparison.messages:
            print(message)
        print(f"comparison: {out}")
        if measured is not None:
            with progress_bars() as progress:
                task = progress.add_task("measuring", total=len(measured.cases(comparison)) * len(pictures))
                rows = measured.rows(comparison, named, lambda: progress.advance(task))
            written, problems = show_tables(rows, table, by=measured.by, seed=seed)
            for path in written:
                print(path)
            refused = refused or problems > 0 or print_refusals(rows)
    raise typer.Exit(1 if refused else 0)
