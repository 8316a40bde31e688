"""What the zoo gives: a model with the functions that prepare a photo for it."""

# tested in tests/zoo/load/test_load.py

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from .._photo.recipe import Recipe


class Loaded(NamedTuple):
    """A model with the functions that prepare a photo for it.

    Attributes:
        model: in evaluation mode, on the CPU.
        preprocess: an RGB photo to the (C, H, W) tensor the model was trained on.
        view: an RGB photo to the part of it that `preprocess` keeps, at the photo's own resolution. A map of the model
            belongs on this part; `size(view)` over `size(preprocess)` need not be one ratio (some models squash).
        classes: class names by index, or None where they are not known.
        name: the name that `load` was given.
        about: what was decided and by whom, in words: "photos", "head", "weights", "classes".
        batch: the only number of photos that the model takes at once; None for any.
        recipe: `preprocess` in numbers, called as it is; None where it is more than resize, crop, mean and deviation.
    """

    model: nn.Module
    preprocess: Callable[[Any], Tensor]
    view: Callable[[Any], Any]
    classes: list[str] | None
    name: str
    about: dict[str, str] = {}  # noqa: RUF012
    batch: int | None = None
    recipe: Recipe | None = None
