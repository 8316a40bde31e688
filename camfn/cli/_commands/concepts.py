"""The command `camfn concepts`: what a class's photos consist of, and how much each part matters to the class."""

# tested in tests/cli/commands/test_concepts.py

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from .._options.command import PHOTOS, DeviceOption, ModelOption, app, header
from .._options.options import AS_THEY_ARE, NO_OPTIONS, ModelOptions, ReadOptions, named_photos, option_groups
from .._terminal.terminal import progress_bars, refusals

if TYPE_CHECKING:
    from ...factorize import Negative


@app.command()
@option_groups
def concepts(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help=PHOTOS, show_default=False)],
    class_: Annotated[str, typer.Option("--class", help="The class: its name, or its index.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The picture to write; the numbers go beside it.")] = Path("concepts.png"),
    model: ModelOption = "lite0",
    rank: Annotated[int, typer.Option(min=1, max=30, help="Number of concepts.")] = 8,
    size: Annotated[int, typer.Option(min=0, help="Side of a crop in pixels of the model's input; 0: 2/7 of it.")] = 0,
    shown: Annotated[int, typer.Option(min=1, max=12, help="Crops beside each concept's map.")] = 5,
    designs: Annotated[int, typer.Option(min=2, help="Runs for each concept and photo, for its importance.")] = 32,
    layer: Annotated[str, typer.Option(help="A dotted name (see: camfn layers), or auto.")] = "auto",
    negative: Annotated[str, typer.Option(help="Negative activations: error, or relu to set them to 0.")] = "error",
    every: Annotated[
        bool, typer.Option("--all/--predicted", help="All photos, or those that the model takes for the class.")
    ] = False,
    options: ModelOptions = NO_OPTIONS,
    reading: ReadOptions = AS_THEY_ARE,
    device: DeviceOption = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Crops, and photos, at a time.")] = 16,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Find what the photos of a class consist of, and how much each concept matters to the class (CRAFT).

    Writes a picture, with a row for each concept, the most important first: its map over the photo where it is
    strongest, and the crops that have most of it; beside it a .json with the importance of each concept in each photo,
    and a .npz with concepts and maps.

    Ends with 0 if all went well; with 1 if a photo could not be read, the others' results kept; with 2 if what was
    asked for cannot be done.
    """
    with refusals():
        from ..._photos.names import one_class
        from ..._shared.errors import UsageError
        from .._files.files import check_writable, keep_photos
        from .._jobs.craft import CraftJob
        from .._options.options import pick_device, pick_layer

        if negative not in ("error", "relu"):
            raise UsageError(f"--negative {negative!r}: expected error or relu")
        check_writable(out, force)
        for file in (out.with_suffix(".json"), out.with_suffix(".npz")):
            check_writable(file, force, (".json", ".npz"))
        place, read_as = pick_device(device), reading.read_as()
        photos, told = named_photos(photos)
        keep_photos([out], photos)
        loaded = options.load(model)
        job = CraftJob(
            photos=photos,
            out=out,
            loaded=loaded,
            class_index=one_class(class_, loaded),
            rank=rank,
            size=size,
            shown=shown,
            designs=designs,
            negative=cast("Negative", negative),
            every=every,
            layer_name=pick_layer(loaded.model, layer),
            device=place,
            batch_size=loaded.batch or batch_size,
            read_as=read_as,
            header=header(model, options, loaded, place, **reading.record(), rank=rank, negative=negative),
        )
        with progress_bars() as progress:
            bar = progress.add_task("reading photos", total=None)

            def show(stage: str, done: int, total: int | None) -> None:
                progress.update(bar, description=stage, completed=done, total=total)

            problems = job.run(told, show)
    raise typer.Exit(1 if problems else 0)
