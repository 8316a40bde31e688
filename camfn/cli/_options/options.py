"""Options that the commands share, and their checks before any forward runs."""

# tested in tests/cli/options/test_options.py and tests/cli/test_cli.py

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import typer

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..._photos.classes import ClassChoice
    from ..._photos.read import ReadAs
    from ...zoo import Loaded


class ModelOptions(NamedTuple):
    """What a user says of a model beside its name; the fields are options of every command that loads one.

    Attributes:
        weights: a checkpoint, "none" for random weights, or None for the library's own.
        classes: a file of class names.
        input_size: side or HxW of the input.
        resize: the shorter side, or HxW, before the crop.
        mean: numbers separated by commas, or "imagenet".
        std: the same.
        template: the text of a class, with {} for its name.
        preprocess: file.py:function.
        trust: run the code that a pickled model holds.
    """

    weights: Annotated[
        str | None,
        typer.Option(
            help="A local checkpoint (.pth, .ckpt, .safetensors), whose head and prefix are found; `none` for random "
            "weights. [default: the library's own]",
            show_default=False,
        ),
    ] = None
    classes: Annotated[
        str | None, typer.Option(help="A file of class names: one a line, or JSON.", show_default=False)
    ] = None
    input_size: Annotated[
        str | None, typer.Option(help="Of the network's input: 224, or HEIGHTxWIDTH.", show_default=False)
    ] = None
    resize: Annotated[
        str | None,
        typer.Option(help="The photo's shorter side before the center crop, or HEIGHTxWIDTH.", show_default=False),
    ] = None
    mean: Annotated[
        str | None, typer.Option(help="Of the photos, in 0..1: 0.5, or one a channel, or imagenet.", show_default=False)
    ] = None
    std: Annotated[str | None, typer.Option(help="Their deviation, likewise.", show_default=False)] = None
    template: Annotated[
        str | None,
        typer.Option(
            help="Of CLIP with --classes: the text of a class. [default: a photo of a {}]",
            show_default=False,
        ),
    ] = None
    preprocess: Annotated[
        str | None,
        typer.Option(help="Instead of these: file.py:function, a photo to (C, H, W).", show_default=False),
    ] = None
    trust: Annotated[
        bool | None,
        typer.Option("--trust", help="Run the code that a pickled model (.pt) holds.", show_default=False),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `zoo.load` that were given.

        Raises:
            UsageError: a text that is no size, or no number.
        """
        given = {key: value for key, value in self._asdict().items() if value is not None}
        for key in ("input_size", "resize"):
            if key in given:
                given[key] = read_size(key, given[key])
        for key in ("mean", "std"):
            if key in given and given[key] != "imagenet":
                given[key] = _numbers(key, given[key])
        return given

    def names(self) -> list[str] | None:
        """Return the class names of `--classes`; None where the model has to know them."""
        from ...zoo._names.classes import class_names

        return None if self.classes is None else class_names(self.classes)

    def load(self, model: str) -> Loaded:
        """Load a model with these options."""
        from ...zoo import load

        return load(model, **self.arguments())

    def loader(self, models: list[str]) -> dict[str, Any]:
        """Return the argument `loader` of `evaluate.run` for several models; none without options.

        Raises:
            UsageError: weights or class names, which are one model's, for several.
        """
        from ..._shared.errors import UsageError
        from ...zoo import load

        own = [f"--{key}" for key in ("weights", "classes") if getattr(self, key) not in (None, "none")]
        if own and len(models) > 1:
            raise UsageError(f"{' and '.join(own)}: of one model, and there are {len(models)}: {', '.join(models)}")
        return {"loader": partial(load, **self.arguments())} if self.arguments() else {}


class ReadOptions(NamedTuple):
    """How photos are read; the fields are options of every command that reads photos.

    Attributes:
        window: LOW,HIGH, full or auto.
        frame: of several frames, counted from 1.
    """

    window: Annotated[
        str | None,
        typer.Option(
            help="Gray values to show of photos of 16 bits and DICOM: LOW,HIGH; full; or auto, each photo's own range.",
            show_default=False,
        ),
    ] = None
    frame: Annotated[int | None, typer.Option(min=1, help="Of several frames, counted from 1.", show_default=False)] = (
        None
    )

    def record(self) -> dict[str, Any]:
        """Return the options that were given."""
        return {key: value for key, value in self._asdict().items() if value is not None}

    def read_as(self) -> ReadAs:
        """Return how photos are read.

        Raises:
            UsageError: a window that is none.
        """
        from ..._photos.read import ReadAs
        from ..._photos.window import read_window

        return ReadAs(read_window(self.window), self.frame)


NO_OPTIONS, AS_THEY_ARE = ModelOptions(), ReadOptions()


def option_groups(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an option for each field of its parameters that are named tuples, as `ModelOptions`."""
    hints = {name: _annotated(hint) for name, hint in get_type_hints(command, include_extras=True).items()}
    groups = {name: hint for name, hint in hints.items() if hasattr(hint, "_fields")}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            kind, fields = inspect.Parameter.POSITIONAL_OR_KEYWORD, get_type_hints(groups[name], include_extras=True)
            parameters += [inspect.Parameter(key, kind, default=None, annotation=hint) for key, hint in fields.items()]
        else:
            parameters.append(parameter.replace(annotation=hints[name]))

    @wraps(command)
    def called(**given: Any) -> Any:
        made = {name: group(**{key: given.pop(key) for key in group._fields}) for name, group in groups.items()}
        return command(**given, **made)

    vars(called)["__signature__"] = inspect.Signature(parameters)
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def _annotated(hint: Any) -> Any:
    """Return a hint without the `Optional` that Python 3.10 puts around it where the default is None."""
    inner = [one for one in get_args(hint) if get_origin(one) is Annotated]
    return inner[0] if get_origin(hint) is Union and inner else hint


def named_photos(words: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Find the photos that a user named, and say at once which are missing.

    Returns:
        The photos, and the lines that were printed.
    """
    from ..._photos.find import find_photos

    photos, problems = find_photos(words)
    for problem in problems:
        print(f"camfn: {problem}", file=sys.stderr)
    return photos, problems


def read_photos(photos: Sequence[Path], read: Callable[[Path], Any], told: Sequence[str]) -> tuple[list[Any], bool]:
    """Read photos, and print at once what is wrong with those that cannot be read.

    Args:
        photos: paths.
        read: reads one, or returns a `PhotoError`.
        told: lines that were printed before.

    Returns:
        The name and the content of each that can be read, and whether there are others.

    Raises:
        PhotoError: none can be read.
    """
    from ..._shared.errors import PhotoError

    found = [(path.name, read(path)) for path in photos]
    errors = [photo for _, photo in found if isinstance(photo, PhotoError)]
    if errors and len(errors) == len(found):
        raise errors[0]
    for problem in map(str, errors):
        if problem not in told:
            print(f"camfn: {problem}", file=sys.stderr)
    return [(name, photo) for name, photo in found if not isinstance(photo, PhotoError)], bool(errors)


def read_size(name: str, text: str) -> int | tuple[int, int]:
    """Read 224, or 224x320."""
    sides = [int(side) for side in text.lower().split("x") if side.isdecimal() and side.isascii()]
    if len(sides) != text.lower().count("x") + 1 or len(sides) > 2 or 0 in sides:
        raise _refusal(f"--{name.replace('_', '-')} {text!r}: expected a number of pixels, as 224, or 224x320")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _numbers(name: str, text: str) -> tuple[float, ...]:
    """Read numbers separated by commas."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise _refusal(f"--{name} {text!r}: expected numbers, as 0.5 or 0.485,0.456,0.406, or imagenet") from error


def _refusal(message: str) -> Exception:
    from ..._shared.errors import UsageError

    return UsageError(message)


def refuse_layer(method: Callable[..., Any], name: str, layer: str) -> None:
    """Raise an error if a user names a layer and the method takes none."""
    from ..._shared.errors import UsageError
    from ...catalogue import info_of

    if layer != "auto" and not info_of(method).takes_layer:
        raise UsageError(f"{name} is of the whole network and takes no layer: leave --layer out")


def refuse_form(task: str, choice: ClassChoice) -> None:
    """Raise an error if a target is not one that the task explains."""
    from ..._shared.errors import UsageError

    if task != "classify" and choice.form != "score":
        raise UsageError(f"--task {task} takes a class name, an index, top or top:K as --target")


def refuse_task(task: str, like: Path | None, method: Callable[..., Any], changed: bool) -> None:
    """Raise an error if the options do not fit the task."""
    from ..._shared.errors import UsageError
    from ...catalogue import info_of

    if (task == "similar") != (like is not None):
        raise UsageError(
            "--task similar needs --like PHOTO, the photo to be like; other tasks take --like grad-cam alone, a look"
        )
    if like is not None and not like.is_file():
        raise UsageError(f"there is no photo {like} to be like")
    info = info_of(method)
    if task != "classify" and (changed or info.kind != "layer" or "head" in info.needs):
        raise UsageError(f"--task {task} takes a method on one layer, without transformations, such as --method odam")


def refuse_look(colormap: str, figure: Path | None, several_maps: bool, overlay: bool) -> None:
    """Raise an error if the options do not fit pictures as pytorch-grad-cam draws them."""
    from ..._shared.errors import UsageError

    if colormap != "turbo":
        raise UsageError(f"--like grad-cam draws in jet: leave out --colormap {colormap}, or --like")
    if figure is not None:
        raise UsageError(
            "--like grad-cam stretches each map by itself, which no bar of a figure tells: leave --figure out"
        )
    if several_maps:
        raise UsageError("--like grad-cam draws one map over a photo: no detections and no slices")
    if not overlay:
        raise UsageError("--like grad-cam draws overlays: leave out --no-overlay, or --like")


def pick_device(name: str) -> torch.device:
    """Find the device with this name, or the best one for "auto"; raise an error if this machine lacks it."""
    import torch

    from ..._shared.errors import UsageError

    kind, _, number = name.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind not in counts or (number and not number.isdecimal()):
        raise UsageError(f"no device {name!r}: expected cpu, cuda, mps or auto")
    if int(number or 0) >= counts[kind]:
        raise UsageError(f"the device {name} cannot be used on this machine: take --device cpu or --device auto")
    return torch.device(f"{kind}:{number}" if number else kind)


def pick_colormap(name: str) -> None:
    """Check that the colormap exists."""
    import torch

    from ... import image

    image.colorize(torch.zeros(1, 1, 1), name)


def pick_layer(model: nn.Module, name: str) -> str | None:
    """Check that the model has this layer; return None for "auto"."""
    from ..._cut.layer_checks import layer_name

    return None if name == "auto" else layer_name(model, name)


def pick_layers(model: nn.Module, names: str) -> tuple[str, ...]:
    """Check names and patterns of several layers, separated by commas, and return the names of the layers."""
    from ...transforms._fuse import matching

    given = tuple(filter(None, (name.strip() for name in names.split(","))))
    return tuple(matching(model, given))
