"""What the zoo asks of a library for one model, and what the library gives."""

# tested in tests/zoo/load/test_load.py

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor, nn

from .._photo.recipe import Recipe, Size


class Request(NamedTuple):
    """What a network has to be built with; None for the library's own default.

    Attributes:
        pretrained: with the library's own weights.
        auxiliary: the weights that will be filled in have auxiliary heads; None without such weights.
        classes: number of classes.
        channels: channels of the image.
        size: height and width of the image.
        trust: whether code in the model's file may be run.
    """

    pretrained: bool = True
    auxiliary: bool | None = None
    classes: int | None = None
    channels: int | None = None
    size: Size | None = None
    trust: bool = False


class Given(NamedTuple):
    """A network of a library with the library's preprocessing.

    Attributes:
        model: the network.
        preprocess: the library's own.
        view: the part of a photo that `preprocess` keeps.
        classes: names by index, or None.
        number: number of classes; None where only a forward shows it.
        recipe: `preprocess` in numbers; None where it is more than resize, crop, mean and deviation.
        source: where the preprocessing comes from, in words.
        batch: the only number of photos that the network takes at once; None for any.
        channels: channels of the image; None where they are those of `recipe`.
        size: height and width of the image, where the network says them and has no `recipe`.
        sized: whether `preprocess` has the size of the request already.
        weights: where the weights come from, in words, if not from the library.
    """

    model: nn.Module
    preprocess: Callable[[Image.Image], Tensor] | None
    view: Callable[[Image.Image], Image.Image] | None
    classes: list[str] | None = None
    number: int | None = None
    recipe: Recipe | None = None
    source: str = ""
    batch: int | None = None
    channels: int | None = None
    size: Size | None = None
    sized: bool = False
    weights: str | None = None


Build = Callable[[str, Request], Given]


def set_fields(options: dict[str, Any], **values: Any) -> dict[str, Any]:
    """Add the values that are not None to the options."""
    return options | {key: value for key, value in values.items() if value is not None}
