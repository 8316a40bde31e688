"""Commands and what they print."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from ._factorize_job import FactorizeJob
    from ._job import Job
    from .factorize import Negative

app = typer.Typer(
    help="Class activation maps: where in a photo a network sees a class.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

_MODELS = "lite0, torchvision:NAME, timm:NAME, hf:NAME or tiny:NAME."
ModelOption = Annotated[str, typer.Option("--model", help=_MODELS)]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        help="A local state dict (.pth, .safetensors), or `none` for random weights. [default: the library's own]",
        show_default=False,
    ),
]


class TaskOption(str, Enum):
    """What a model does."""

    classify = "classify"
    detect = "detect"
    segment = "segment"
    similar = "similar"


class FusionOption(str, Enum):
    """What makes one map of several."""

    mean = "mean"
    max = "max"
    tanh_max = "tanh_max"
    product = "product"


DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"camfn {version('camfn')}")
        raise typer.Exit


@app.callback()
def _common(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Class activation maps: where in a photo a network sees a class."""


@app.command()
def explain(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Image files.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("maps"),
    model: ModelOption = "lite0",
    method: Annotated[str, typer.Option(help="See: camfn methods.")] = "grad_cam",
    layer: Annotated[str, typer.Option(help="A dotted name (see: camfn layers), or auto.")] = "auto",
    target: Annotated[str, typer.Option(help="A class index, a class name, top, or top:K for the K best.")] = "top",
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Photos at a time.")] = 8,
    chunk_size: Annotated[int | None, typer.Option(min=1, help="Perturbed forwards at a time.")] = None,
    seed: Annotated[int, typer.Option(help="Of the methods that draw: random_cam, ss_cam, rise, ...")] = 0,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Opacity of the overlay.")] = 0.5,
    colormap: Annotated[str, typer.Option(help="Of the overlay; seismic keeps the map's sign.")] = "turbo",
    augment: Annotated[bool, typer.Option("--augment", help="Average over flips and brightness.")] = False,
    eigen_smooth: Annotated[
        bool, typer.Option("--eigen-smooth", help="Take the first component of the weighted channels.")
    ] = False,
    smooth: Annotated[int, typer.Option(min=0, help="Average over so many noisy copies.", metavar="N")] = 0,
    several: Annotated[
        str | None,
        typer.Option("--layers", help="Several layers, names or patterns: a,b or features.*.conv.", show_default=False),
    ] = None,
    fuse: Annotated[
        FusionOption, typer.Option(help="How their maps become one.", case_sensitive=False)
    ] = FusionOption.mean,
    task: Annotated[
        TaskOption, typer.Option(help="What the model does; top:K are then the K best boxes, or the K largest regions.")
    ] = TaskOption.classify,
    like: Annotated[
        Path | None, typer.Option(help="Of --task similar: the photo to be like.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Explain photos: an overlay, the raw map, and a record of the run.

    Writes STEM.METHOD.png, the overlay on the part of the photo that the network sees; STEM.METHOD.npy, the raw map at
    the layer's resolution; and one explanations.json. A class that was named is in the file names, as in
    cat.grad_cam.281.png; with top:K the rank is, as in cat.grad_cam.top1.png. Of several photos with one stem the later
    ones are numbered: cat, cat-2.

    Ends with 0 if all went well; with 1 if a photo could not be read or a map shows nothing, the others' results kept;
    with 2, before any forward, if what was asked for cannot be done; with 130 if it was interrupted, every file that
    was written whole.
    """
    with _refusals():
        from ._ask import (
            UsageError,
            of_network,
            pick_colormap,
            pick_device,
            pick_layer,
            pick_layers,
            pick_method,
            pick_target,
            plan,
            refuse_layer,
            refuse_task,
        )
        from ._batch import Changes, on_attention
        from ._job import Job, versions
        from .zoo import load

        chosen, place = pick_method(method, seed), pick_device(device)
        pick_colormap(colormap)
        refuse_layer(chosen, method, layer)
        if of_network(chosen) and (several is not None or eigen_smooth):
            raise UsageError(f"{method} is of the whole network: leave --layers and --eigen-smooth out")
        loaded = load(model, weights=weights)
        wanted = pick_target(target, loaded)
        if several is not None and (layer != "auto" or method == "cam" or on_attention(chosen)):
            raise UsageError(
                "--layers fuses several layers: give no --layer beside it, and another method than cam or one "
                "on attention"
            )
        names = () if several is None else pick_layers(loaded.model, several)
        if eigen_smooth:
            from .transforms import eigen_smooth as smoothed

            smoothed(chosen)  # refuses what cannot be smoothed
        changes = Changes(eigen_smooth, names, fuse.value, augment, smooth, seed)
        refuse_task(task.value, like, chosen, changes != Changes(seed=seed))
        kind: Callable[..., Job] = Job
        if task is not TaskOption.classify:
            from ._task_job import TaskJob

            kind = partial(TaskJob, task=task.value, like=like)
        job = kind(
            plans=plan(photos, out, method, wanted, force),
            out=out,
            loaded=loaded,
            method=chosen,
            wanted=wanted,
            layer_name=pick_layer(loaded.model, layer),
            device=place,
            batch_size=batch_size,
            chunk_size=chunk_size,
            alpha=alpha,
            colormap=colormap,
            changes=changes,
            header={
                "model": model,
                "weights": weights or "default",
                "method": method,
                "target": target,
                **({} if task is TaskOption.classify else {"task": task.value}),
                **_told(changes._asdict()),
                "device": str(place),
                "versions": versions(),
            },
        )
        problems = _run(job)
    raise typer.Exit(1 if problems else 0)


@app.command()
def guided(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Image files.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("maps"),
    model: ModelOption = "lite0",
    method: Annotated[
        str,
        typer.Option(
            help="guided_grad_cam, guided_backprop, deconvnet, input_gradient, smooth_grad or integrated_gradients."
        ),
    ] = "guided_grad_cam",
    layer: Annotated[str, typer.Option(help="Of guided_grad_cam: a dotted name, or auto.")] = "auto",
    target: Annotated[str, typer.Option(help="A class index, a class name, top, or top:K for the K best.")] = "top",
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Photos at a time.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the method that draws: smooth_grad.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Draw the gradients of photos: fine pictures at the network's own resolution.

    Writes what explain writes: STEM.METHOD.png, the picture, gray where the gradient is zero, lighter above and darker
    below; STEM.METHOD.npy, the gradient itself, (3, height, width); and one explanations.json. Ends with 0, 1, 2 or 130
    as explain does.
    """
    with _refusals():
        from ._ask import pick_device, pick_layer, pick_picture, pick_target, plan, refuse_layer
        from ._job import Job, versions
        from .zoo import load

        chosen, place = pick_picture(method, seed), pick_device(device)
        refuse_layer(chosen, method, layer)
        loaded = load(model, weights=weights)
        wanted = pick_target(target, loaded)
        job = Job(
            plans=plan(photos, out, method, wanted, force),
            out=out,
            loaded=loaded,
            method=chosen,
            wanted=wanted,
            layer_name=pick_layer(loaded.model, layer),
            device=place,
            batch_size=batch_size,
            chunk_size=None,
            alpha=1.0,
            colormap="turbo",
            header={
                "model": model,
                "weights": weights or "default",
                "method": method,
                "target": target,
                "device": str(place),
                "versions": versions(),
            },
        )
        problems = _run(job)
    raise typer.Exit(1 if problems else 0)


@app.command()
def factorize(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Image files.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("maps"),
    model: ModelOption = "lite0",
    rank: Annotated[int, typer.Option(min=1, max=10, help="Number of concepts.")] = 5,
    layer: Annotated[str, typer.Option(help="A dotted name (see: camfn layers), or auto.")] = "auto",
    together: Annotated[
        bool, typer.Option("--together/--apart", help="The same concepts in all photos, or own ones in each.")
    ] = True,
    negative: Annotated[str, typer.Option(help="Negative activations: error, or relu to set them to 0.")] = "error",
    weights: WeightsOption = None,
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
    with _refusals():
        from ._ask import UsageError, Wanted, pick_device, pick_layer, plan
        from ._factorize_job import RECORD, FactorizeJob
        from ._job import versions
        from .zoo import load

        if negative not in ("error", "relu"):
            raise UsageError(f"--negative {negative!r}: expected error or relu")
        place, loaded = pick_device(device), load(model, weights=weights)
        job = FactorizeJob(
            plans=plan(photos, out, "concepts", Wanted(None), force, RECORD),
            out=out,
            loaded=loaded,
            rank=rank,
            together=together,
            negative=cast("Negative", negative),
            layer_name=pick_layer(loaded.model, layer),
            device=place,
            batch_size=batch_size,
            alpha=alpha,
            header={
                "model": model,
                "weights": weights or "default",
                "rank": rank,
                "together": together,
                "negative": negative,
                "device": str(place),
                "versions": versions(),
            },
        )
        problems = _run(job)
    raise typer.Exit(1 if problems else 0)


@app.command("methods")
def list_methods() -> None:
    """List the methods, each with its meaning in one line."""
    from ._ask import named_methods

    table = Table("method", "meaning")
    for name, method in named_methods().items():
        table.add_row(name, _first_line(method))
    Console().print(table)


@app.command("layers")
def list_layers(
    model: Annotated[str, typer.Argument(help=_MODELS, show_default=False)],
    weights: WeightsOption = None,
) -> None:
    """List the layers of a model that can be explained, the one that `--layer auto` takes first."""
    with _refusals():
        import numpy as np
        from PIL import Image

        from . import layers
        from .zoo import load

        loaded = load(model, weights=weights)
        noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
        suggestions = layers.suggest(loaded.model, loaded.preprocess(Image.fromarray(noise))[None])
    table = Table("layer", "map", "channels", "reason", title=f"{model}: layers, the best first")
    for item in suggestions:
        style = None if item.depends else "dim"
        table.add_row(item.name, " x ".join(map(str, item.spatial)), str(item.channels), item.reason, style=style)
    Console().print(table)


@app.command()
def compare(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="An image file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("compare.png"),
    methods: Annotated[
        str, typer.Option(help="Names separated by commas; cheap, those that run the network once; or all.")
    ] = "cheap",
    model: ModelOption = "lite0",
    layer: Annotated[str, typer.Option(help="A dotted name (see: camfn layers), or auto.")] = "auto",
    target: Annotated[str, typer.Option(help="A class index, a class name, or top.")] = "top",
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    chunk_size: Annotated[int | None, typer.Option(min=1, help="Perturbed forwards at a time.")] = None,
    seed: Annotated[int, typer.Option(help="Of the methods that draw: random_cam, ss_cam, rise, ...")] = 0,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Opacity of the overlay.")] = 0.5,
    colormap: Annotated[str, typer.Option(help="Of the overlay; seismic keeps the map's sign.")] = "turbo",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Draw one photo's maps by several methods side by side, each with its method and class below.

    With all, the methods that perturb the photo or the layer thousands of times are run as well, with a progress bar;
    what a method cannot do with this model is said, and its place left out.
    """
    with _refusals():
        from ._ask import UsageError, pick_colormap, pick_device, pick_layer, pick_methods, pick_target, writable
        from ._compare import comparison
        from ._job import write_whole
        from ._photo import read_photo
        from .image import save
        from .zoo import load

        chosen, place = pick_methods(methods, seed), pick_device(device)
        pick_colormap(colormap)
        writable(out, force)
        picture = read_photo(photo)
        loaded = load(model, weights=weights)
        wanted = pick_target(target, loaded)
        if wanted.best > 1:
            raise UsageError(f"compare draws one class: give --target top, an index or a name, not {target!r}")
        loaded.model.to(place)
        with _progress() as progress:
            tasks = progress.add_task("methods", total=len(chosen)), progress.add_task("perturbing", visible=False)
            montage, told = comparison(
                loaded,
                picture,
                chosen,
                wanted,
                pick_layer(loaded.model, layer),
                place,
                strict=methods not in ("all", "cheap"),
                chunk_size=chunk_size,
                look=(alpha, colormap),
                progress=_second_bar(progress, tasks[1]),
                finished=lambda: progress.advance(tasks[0]),
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, lambda path: save(montage, path))
    for line in told:
        print(line)
    print(f"comparison: {out}")


def _run(job: Job | FactorizeJob) -> int:
    """Run a job, printing as it goes; count the photos and maps that came out useless."""
    problems, announced = 0, False
    with _progress() as progress:
        photos = progress.add_task("explaining", total=len(job.plans))
        job.progress = _second_bar(progress, progress.add_task("perturbing", visible=False))
        for record in progress.track(job.run(), total=len(job.plans), task_id=photos):
            if job.layer and not announced:
                print(f"layer {job.layer.name}: {job.layer.reason}")
                announced = True
            problems += _show(record, job.out)
    print(f"record of the run: {job.record_file}")
    return problems


def _progress() -> Progress:
    """Bars with the time left, on a terminal only."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # print, unlike typer.echo, goes through what rich puts in the place of sys.stdout to keep lines and bar apart;
    # what is piped from stdout must not go there
    redirect = sys.stdout.isatty()
    return Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal, redirect_stdout=redirect
    )


def _second_bar(progress: Progress, task: TaskID) -> Callable[[int, int], None]:
    """A bar for the perturbed forwards of one method, seen only while they run."""
    before = [0]

    def told(done: int, total: int) -> None:
        if done <= before[0]:
            progress.reset(task)  # another method or photo: its own time
        before[0] = done if done < total else 0
        progress.update(task, completed=done, total=total, visible=done < total)

    return told


def _told(changes: dict[str, Any]) -> dict[str, Any]:
    """The transformations that were asked for, as the record has them."""
    told = {key: value for key, value in changes.items() if value and key not in ("how", "seed")}
    told |= {"fuse": changes["how"]} if changes["layers"] else {}
    return {"changes": told} if told else {}


def _show(record: dict[str, Any], out: Path) -> int:
    """Print what came of one photo; count what did not."""
    problems = [record["problem"]] if record["problem"] else []
    if record.get("picture"):
        shown = max(record["concepts"], key=lambda concept: concept["share"])
        best = shown["classes"][0]["name"]
        print(f"{record['photo']}: most of it {best} (concept {shown['concept']}): {out / record['picture']}")
    for found in record.get("explanations", ()):
        label = f"{found['name']} ({found['index']})" if found["name"] else f"class {found['index']}"
        if found["problem"]:
            problems.append(f"{record['photo']}: no overlay for {label}: {found['problem']}")
        else:
            print(f"{record['photo']}: {label}, probability {found['probability']:.3g}: {out / found['overlay']}")
    for problem in problems:
        print(f"camfn: {problem}", file=sys.stderr)
    return len(problems)


def _first_line(method: object) -> str:
    return (inspect.getdoc(method) or "").partition("\n")[0]


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what cannot be done into one line and exit code 2, and an interruption into one line and 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("camfn: interrupted; what was written is whole", err=True)
        raise typer.Exit(130) from None
    except ValueError as error:
        # camfn's refusals are ValueErrors whose text says what to do
        typer.echo("camfn: " + " ".join(str(error).split()), err=True)
        raise typer.Exit(2) from error
