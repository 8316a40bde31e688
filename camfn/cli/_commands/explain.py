"""The commands `camfn explain`, `methods` and `layers`."""

# tested in tests/cli/test_cli.py

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._options.command import MODELS, PHOTOS, DeviceOption, ModelOption, TargetOption, app, header
from .._options.options import AS_THEY_ARE, NO_OPTIONS, ModelOptions, ReadOptions, named_photos, option_groups
from .._terminal.terminal import refusals, run_job

if TYPE_CHECKING:
    from .._jobs.job import Job


class TaskOption(str, Enum):
    """The task of a model."""

    classify = "classify"
    detect = "detect"
    segment = "segment"
    similar = "similar"


class RescaleOption(str, Enum):
    """Where maps of detections are stretched for pictures."""

    whole = "whole"
    inside = "inside"


class FusionOption(str, Enum):
    """The rule that makes one map of several."""

    mean = "mean"
    max = "max"
    tanh_max = "tanh_max"
    product = "product"


@app.command()
@option_groups
def explain(
    context: typer.Context,
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help=PHOTOS, show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("maps"),
    model: ModelOption = "lite0",
    method: Annotated[
        str,
        typer.Option(help="A name (see: camfn methods), with options as in score_cam:top_k=0.1, or file.py:function."),
    ] = "grad_cam",
    layer: Annotated[str, typer.Option(help="A dotted name (see: camfn layers), or auto.")] = "auto",
    target: TargetOption = None,
    options: ModelOptions = NO_OPTIONS,
    reading: ReadOptions = AS_THEY_ARE,
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
    rescale: Annotated[
        RescaleOption, typer.Option(help="Of --task detect: stretch maps in pictures, or inside of their boxes alone.")
    ] = RescaleOption.whole,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="grad-cam|PHOTO",
            help="grad-cam: pictures as pytorch-grad-cam draws them. Of --task similar: the photo to be like.",
            show_default=False,
        ),
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="Of the map, several by commas: npy, npz: raw; tiff: raw, at the photo's size; png: gray.",
        ),
    ] = "npy",
    overlay: Annotated[bool, typer.Option("--overlay/--no-overlay", help="Draw each map over its photo.")] = True,
    figure: Annotated[
        Path | None, typer.Option(help="A figure of all maps: a name in .pdf, .svg or .png.", show_default=False)
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Say beside each map whether it may be believed.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Explain photos: an overlay, the raw map, and a record of the run.

    Writes STEM.METHOD.png, the overlay on the part of the photo that the network sees; STEM.METHOD.npy, the raw map at
    the layer's resolution (and .npz, .tiff, .map.png with --format); and a line of explanations.jsonl for each map, to
    which every run in the folder adds. A class that was named is in the file names, as in cat.grad_cam.281.png; with
    top:K the rank is, as in cat.grad_cam.top1.png. Of several photos with one stem the later ones are numbered: cat,
    cat-2.

    With --task detect the targets are the detections that the detector's own package shows, 20 of them without
    --target, each with its own map in the photo's frame, all of one forward; STEM.METHOD.png shows them all.

    Ends with 0 if all went well; with 1 if a photo could not be read or a map shows nothing, the others' results kept;
    with 2, before any forward, if what was asked for cannot be done; with 130 if it was interrupted, every file that
    was written whole; with 70 after a bug or an accident, such as a full disk.
    """
    with refusals():
        from ..._photos.classes import NO_CLASS
        from ..._photos.explain import Changes
        from ..._photos.methods import label_of, pick_method
        from ..._photos.words import asked_for, pick_detections, pick_target, refuse_words
        from ..._shared.errors import UsageError
        from ...catalogue import info_of
        from .._files.figure import ENDINGS, check_figure
        from .._files.files import check_writable, keep_photos, plan_files
        from .._files.outputs import pick_outputs
        from .._files.records import command_again
        from .._jobs.job import Job
        from .._jobs.volume import VolumeJob, any_volumes, refuse_flat
        from .._options.options import (
            pick_colormap,
            pick_device,
            pick_layer,
            pick_layers,
            refuse_form,
            refuse_layer,
            refuse_look,
            refuse_task,
        )

        deployed = None
        if model.endswith((".onnx", ".pt2")):
            from .._jobs.deployed import DeployedJob, facts_of, is_deployed, load_file, method_of, refuse_changes

        if model.endswith((".onnx", ".pt2")) and is_deployed(model):
            deployed = load_file(model, options.arguments())
            method = method_of(deployed, method)
        chosen, place, read_as = pick_method(method, seed), pick_device(device), reading.read_as()
        pick_colormap(colormap)
        outputs = pick_outputs(formats, overlay)
        if figure is not None:
            check_figure(figure)
            check_writable(figure, force, ENDINGS, option="--figure")
        refuse_layer(chosen, method, layer)
        info = info_of(chosen)
        if info.kind == "network" and (several is not None or eigen_smooth):
            raise UsageError(f"{method} is of the whole network: leave --layers and --eigen-smooth out")
        photos, told = named_photos(photos)
        keep_photos([figure] if figure else [], photos, option="--figure")
        volumes = any_volumes(photos, outputs.formats, task.value, read_as)
        refuse_words(target, model, options.names())
        loaded = options.load(model) if deployed is None else deployed
        if volumes:
            refuse_flat(photos[0], loaded)
        if check and loaded.batch not in (None, 1):
            raise UsageError(f"--check explains one photo at a time, and {loaded.name} takes {loaded.batch} at once")
        loaded, target = asked_for(loaded, target, task is TaskOption.detect)
        choice = pick_detections(target, loaded) if task is TaskOption.detect else pick_target(target, loaded)
        refuse_form(task.value, choice)
        if not info.explains_class:
            if target not in (None, "top"):
                print(f"{method} explains no class: its map is the same for every target")
            choice = NO_CLASS
        if several is not None and (layer != "auto" or "head" in info.needs or info.kind == "attention"):
            raise UsageError(
                "--layers fuses several layers: give no --layer beside it, and another method than cam or one "
                "on attention"
            )
        names = () if several is None else pick_layers(loaded.model, several)
        if eigen_smooth:
            from ...transforms import eigen_smooth as smoothed

            smoothed(chosen)  # raises an error for a method that eigen_smooth cannot change
        changes = Changes(eigen_smooth, names, fuse.value, augment, smooth, seed)
        as_grad_cam = task is not TaskOption.similar and str(like) == "grad-cam"
        refuse_task(task.value, None if as_grad_cam else like, chosen, changes != Changes(seed=seed))
        if as_grad_cam:
            several_maps = volumes or task is TaskOption.detect
            refuse_look(colormap, figure, several_maps, overlay)
        kind: Callable[..., Job] = Job
        if task is TaskOption.detect:
            from .._jobs.detect import DetectJob

            all_of_one = choice.best > 1 and overlay
            pictures = plan_files(photos, out, label_of(method), NO_CLASS, force, endings=["png"]) if all_of_one else []
            kind = partial(DetectJob, rescale=rescale.value, pictures=pictures)
        elif task is not TaskOption.classify:
            from .._jobs.task import TaskJob

            kind = partial(TaskJob, task=task.value, like=like)
        if volumes:
            kind = VolumeJob
        if deployed is not None:
            named = {
                "layer": layer != "auto",
                "layers": several,
                "task": task is not TaskOption.classify,
            }
            named |= {"augment": augment, "smooth": bool(smooth), "eigen-smooth": eigen_smooth}
            refuse_changes(model, facts_of(deployed), choice, named, check)
            kind = DeployedJob
        job = kind(
            plans=plan_files(photos, out, label_of(method), choice, force, endings=outputs.endings),
            out=out,
            loaded=loaded,
            method=chosen,
            choice=choice,
            layer_name=None if deployed is not None else pick_layer(loaded.model, layer),
            device=place,
            batch_size=loaded.batch or batch_size,
            read_as=read_as,
            chunk_size=chunk_size,
            alpha=alpha,
            colormap=colormap,
            as_grad_cam=as_grad_cam,
            changes=changes,
            outputs=outputs,
            check=check,
            seed=seed,
            figure=figure,
            command=partial(command_again, context),
            header=header(
                model,
                options,
                loaded,
                place,
                **reading.record(),
                method=method,
                target=(target or "top") if info.explains_class else None,
                **({} if task is TaskOption.classify else {"task": task.value}),
                **_changes_record(changes._asdict()),
            ),
        )
        problems = run_job(job, told)
    raise typer.Exit(1 if problems else 0)


@app.command("methods")
def list_methods(
    names: Annotated[
        str, typer.Argument(help="A list as of compare: all, cheap, capped, attention, names.", show_default=False)
    ] = "",
) -> None:
    """List the methods, each with its meaning in one line; of a group, those that it stands for."""
    with refusals():
        from rich.console import Console
        from rich.table import Table

        from ..._photos.methods import read_methods
        from ..._shared.lists import split_list
        from ...catalogue import METHODS

        table = Table("method", "meaning")
        if names:
            for method in [each for item in split_list(names, "methods") for each in read_methods(item)]:
                table.add_row(str(method), _first_line(method.function))
        else:
            for row in METHODS:
                table.add_row(row.name, _first_line(row.function))
        Console().print(table)


@app.command("layers")
@option_groups
def list_layers(
    model: Annotated[str, typer.Argument(help=MODELS, show_default=False)],
    options: ModelOptions = NO_OPTIONS,
) -> None:
    """List the layers of a model that can be explained, the one that `--layer auto` takes first."""
    with refusals():
        import numpy as np
        from PIL import Image
        from rich.console import Console
        from rich.table import Table

        from ... import layers
        from ..._photos.classes import gives_one_number, no_class

        loaded = options.load(model)
        noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
        images = loaded.preprocess(Image.fromarray(noise))[None]
        target = no_class if gives_one_number(loaded.model, images) else None
        suggestions = layers.suggest(loaded.model, images, target)
    table = Table("layer", "map", "channels", "reason", title=f"{model}: layers, the best first")
    for item in suggestions:
        style = None if item.depends else "dim"
        table.add_row(item.name, " x ".join(map(str, item.spatial)), str(item.channels), item.reason, style=style)
    Console().print(table)


def _changes_record(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a run's record that lists the transformations; empty without any."""
    listed = {key: value for key, value in changes.items() if value and key not in ("how", "seed")}
    listed |= {"fuse": changes["how"]} if changes["layers"] else {}
    return {"changes": listed} if listed else {}


def _first_line(method: object) -> str:
    """Return the first line of a method's docstring."""
    return (inspect.getdoc(method) or "").partition("\n")[0]
