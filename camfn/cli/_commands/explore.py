"""The command `camfn explore`: one page of classes, methods and layers of photos."""

# tested in tests/cli/commands/test_explore.py

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .._options.command import PHOTOS, DeviceOption, ModelOption, app
from .._options.options import AS_THEY_ARE, NO_OPTIONS, ModelOptions, ReadOptions, named_photos, option_groups
from .._terminal.terminal import progress_bars, refusals


class ExploreTask(str, Enum):
    """The task of a model, of those that a page shows."""

    classify = "classify"
    detect = "detect"


@app.command()
@option_groups
def explore(
    context: typer.Context,
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help=PHOTOS, show_default=False)],
    out: Annotated[Path, typer.Option(help="The page to write, .html.")] = Path("explore.html"),
    model: ModelOption = "lite0",
    target: Annotated[
        str | None,
        typer.Option(
            help="Targets as of explain, separated by commas, or by ; where one has a comma: a,b,top:3.",
            show_default="top:3, of a detector top:20",
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="As of compare: names separated by commas, with options, or cheap.")
    ] = "cheap",
    layers: Annotated[
        str,
        typer.Option(
            help="Dotted names separated by commas (see: camfn layers), or auto:K for K of different depth.",
            show_default="auto:3, of a detector all levels joined",
        ),
    ] = "auto",
    task: Annotated[ExploreTask, typer.Option(help="What the model does.")] = ExploreTask.classify,
    options: ModelOptions = NO_OPTIONS,
    reading: ReadOptions = AS_THEY_ARE,
    device: DeviceOption = "auto",
    chunk_size: Annotated[int | None, typer.Option(min=1, help="Perturbed forwards at a time.")] = None,
    seed: Annotated[int, typer.Option(help="Of the methods that draw: random_cam, rise, ...")] = 0,
    title: Annotated[
        str | None, typer.Option(help="Heading of the page.", show_default="the model and the photos")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write one page to explore photos: each class by each method at each layer, one hover or arrow key away.

    The page is one file that opens by a double click and asks nothing of any network. It shows the raw range of each
    map, its sign, which methods give the same map, and which never ask for the class; its address names the view.

    Methods that do not perturb (cheap) share one forward of each photo, with one backward for each target. With
    --task detect the targets are the detections of each photo, and their boxes are buttons.

    Ends with 0 if all went well; with 1 if a photo could not be read, the others' maps kept; with 2 if the command
    cannot do what the options ask.
    """
    with refusals():
        from ..._photos.methods import from_groups, pick_methods
        from ..._shared.errors import UsageError
        from ..._shared.files import no_file
        from ...explore import page
        from .._files.files import check_writable
        from .._files.records import command_again
        from .._jobs.explore import ExploreJob, split_targets
        from .._jobs.volume import any_volumes
        from .._options.options import pick_device, read_photos

        if model.endswith(".onnx"):
            there = f"explore cuts a model, and {model} holds one map alone: camfn explain shows it"
            raise UsageError(there if Path(model).is_file() else f"--model: {no_file(Path(model))}")
        chosen, place, read_as = pick_methods(methods, seed), pick_device(device), reading.read_as()
        check_writable(out, force, (".html", ".htm"))
        detect = task is ExploreTask.detect
        words = split_targets(target, detect, model, options.names())
        named, told = named_photos(photos)
        volumes = any_volumes(named, (), task.value, read_as)
        job = ExploreJob(chosen, from_groups(methods), words, layers, detect, volumes, place, chunk_size)
        job.refuse_many(len(named))
        views, problems = read_photos(named, lambda path: job.read(path, read_as), told)
        loaded = options.load(model)
        with progress_bars() as progress:
            bar = progress.add_task("explaining", total=len(views))
            found = job.run(loaded, views, lambda: progress.advance(bar))
        out.parent.mkdir(parents=True, exist_ok=True)
        heading = title or f"What did {model} look at? {', '.join(photo.name for photo in found.photos)}"
        again = " ".join([command_again(context, str(photos[0])), *map(shlex.quote, map(str, photos[1:]))])
        page(found, out, title=heading, command=again)
    for message in job.messages:
        print(message)
    print(f"page: {out}")
    raise typer.Exit(1 if problems else 0)
