"""How photos are prepared for a model: what a user asked for, and the library's own for the rest."""

# tested in tests/zoo/libraries/test_own.py

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from ..._shared.errors import LoadError
from ..._shared.given import named_object
from .._given.request import Given
from .._photo.recipe import IMAGENET, Recipe, Size, changed
from .._photo.view import checked_call, seen_view

Length = int | tuple[int, int]
Numbers = float | Sequence[float] | str


class Preparation(NamedTuple):
    """What a user asked for; None for the library's own.

    Attributes:
        function: a photo to a tensor, instead of the numbers.
        size: height and width of the input.
        resize: the shorter side before the crop, or height and width.
        mean: one number a channel.
        std: one number a channel.
    """

    function: Callable[[Any], Tensor] | None = None
    size: Size | None = None
    resize: Length | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


def read_preparation(
    preprocess: Callable[[Any], Tensor] | str | None,
    input_size: Length | None,
    resize: Length | None,
    mean: Numbers | None,
    std: Numbers | None,
) -> Preparation:
    """Check what a user asked for, and import the function that is named.

    Raises:
        LoadError: a value that is no size or number, or a function beside numbers.
    """
    size = _length("input_size", input_size)
    square = (size, size) if isinstance(size, int) else size
    asked = Preparation(None, square, _length("resize", resize), _numbers("mean", mean, 0), _numbers("std", std, 1))
    if preprocess is None:
        return asked
    if asked != Preparation():
        raise LoadError("give --preprocess alone, or --input-size, --resize, --mean and --std")
    given = named_object(preprocess, "--preprocess", error=LoadError) if isinstance(preprocess, str) else preprocess
    if not callable(given):
        raise LoadError(f"preprocess: expected a function of an RGB photo to (C, H, W), got {type(given).__name__}")
    return Preparation(given)


def _length(name: str, given: Length | None) -> Length | None:
    """Check a side, or height and width."""
    sides = given if isinstance(given, (tuple, list)) else (given,)
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)
    if given is not None and not (whole and len(sides) in (1, 2)):
        raise LoadError(f"{name} {given!r}: expected a number of pixels, or height and width, as (224, 320)")
    return tuple(given) if isinstance(given, list) else given


def _numbers(name: str, given: Numbers | None, row: int) -> Sequence[float] | None:
    """Read one number, a number for each channel, or "imagenet"."""
    if given is None or not isinstance(given, (str, float, int)):
        return given
    if isinstance(given, str):
        if given != "imagenet":
            raise LoadError(f"{name} {given!r}: expected numbers of values in 0..1, as 0.485,0.456,0.406, or imagenet")
        return IMAGENET[row]
    return (float(given),)


class Prepared(NamedTuple):
    """A preprocessing, the view that belongs to it, how it is in words, and in numbers where these say all."""

    preprocess: Callable[[Any], Tensor]
    view: Callable[[Any], Any]
    about: str
    recipe: Recipe | None = None


def prepare(given: Given, asked: Preparation, channels: int | None, name: str) -> Prepared:
    """Prepare photos as asked; without a wish, as the library does.

    Args:
        given: the network and the library's preprocessing.
        asked: what the user asked for.
        channels: of the image, where the network says them.
        name: of the model, as messages say it.

    Raises:
        LoadError: something that has to be known is not.
    """
    if asked.function is not None:
        function = asked.function
        words = f"by {getattr(function, '__name__', type(function).__name__)}"
        view = getattr(function, "view", None) or partial(seen_view, preprocess=function)
        return Prepared(partial(checked_call, function), view, words)
    base = given.recipe
    takes = channels or (len(base.mean) if base else 3)
    same_channels = base is None or takes == len(base.mean)
    if given.sized:
        asked = asked._replace(size=None)
    if asked == Preparation() and given.preprocess is not None and given.view is not None and same_channels:
        words = f"{base}, {given.source}" if base else given.source
        return Prepared(given.preprocess, given.view, words, base)
    if base is None and given.preprocess is not None:
        raise LoadError(
            f"{name} prepares photos in more steps than resize, crop, mean and deviation: leave --input-size, "
            "--resize, --mean and --std out, or give --preprocess file.py:function"
        )
    size = asked.size or (given.size if base is None else None)
    recipe = changed(base, takes, size=size, resize=asked.resize, mean=asked.mean, std=asked.std)
    return Prepared(recipe, recipe.view, str(recipe), recipe)
