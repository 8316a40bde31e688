"""How a photo becomes a network's input, in numbers: resize, center crop, mean and deviation."""

# tested in tests/zoo/libraries/test_own.py

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..._shared.errors import LoadError
from ..._shared.value import Value, frozen
from .view import center_view

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Size = tuple[int, int]


@frozen
class Recipe(Value):
    """A photo resized, cropped in the center, and normalized; called with an RGB photo, it gives (C, H, W).

    Attributes:
        size: height and width of the input.
        resize: the length of the photo's shorter side before the crop; or height and width, sides out of proportion;
            or None for no resize.
        mean: one number a channel, of values in 0..1.
        std: one number a channel.
        interpolation: the name of a filter of Pillow.
    """

    size: Size
    resize: int | Size | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"

    def __call__(self, photo: Image.Image) -> Tensor:
        resized = self.resized(photo)
        top, left = (_start(length, crop) for length, crop in zip(resized.size[::-1], self.size))
        seen = resized.crop((left, top, left + self.size[1], top + self.size[0]))
        if len(self.mean) == 1:
            seen = seen.convert("L")
        pixels = torch.from_numpy(np.array(seen)).reshape(*self.size, -1).permute(2, 0, 1).contiguous()
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (self.mean, self.std))
        return pixels.float().div(255).sub_(mean).div_(std)

    def resized(self, photo: Image.Image) -> Image.Image:
        """Resize a photo, before the crop."""
        if self.resize is None:
            return photo
        width, height = photo.size
        if isinstance(self.resize, int):
            short = min(photo.size)
            size = int(self.resize * width / short), int(self.resize * height / short)
        else:
            size = self.resize[::-1]
        return photo if size == photo.size else photo.resize(size, Image.Resampling[self.interpolation.upper()])

    def view(self, photo: Image.Image) -> Image.Image:
        """Cut out the part of a photo that is left after the crop, at the photo's own resolution."""
        return center_view(photo, resize=self.resized, crop=self.size)

    def __str__(self) -> str:
        if self.resize is None:
            how = ""
        elif isinstance(self.resize, int):
            how = f"shorter side to {self.resize}, "
        else:
            how = f"to {self.resize[0]} x {self.resize[1]}, "
        mean, std = (", ".join(f"{number:.4g}" for number in numbers) for numbers in (self.mean, self.std))
        return f"{how}center {self.size[0]} x {self.size[1]}, mean {mean}, deviation {std}, {self.interpolation}"


def changed(
    base: Recipe | None,
    channels: int,
    *,
    size: Size | None,
    resize: int | Size | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Recipe:
    """Change the numbers that were given; without a base, size, mean and deviation have to be given.

    A new size keeps the base's share of the photo.

    Raises:
        LoadError: a number is missing, or the numbers do not fit.
    """
    lacking = [
        option
        for option, given in (("--input-size", size), ("--mean", mean), ("--std", std))
        if given is None and base is None
    ]
    if base is None and (size is None or mean is None or std is None):
        raise LoadError(
            f"how photos become this model's input is not known: give {', '.join(lacking)} (as --input-size 224 --mean "
            "imagenet --std imagenet), or --preprocess file.py:function"
        )
    start = base or Recipe(size or (1, 1), None, IMAGENET[0], IMAGENET[1])
    wanted = size or start.size
    if resize is None:
        resize = _in_proportion(start, wanted) if base else min(wanted)
        if base is None and wanted[0] != wanted[1]:
            resize = wanted
    return replace(
        start,
        size=wanted,
        resize=resize,
        mean=_numbers("mean", start.mean if mean is None else mean, channels),
        std=_numbers("std", start.std if std is None else std, channels),
    )


def _in_proportion(base: Recipe, size: Size) -> int | Size | None:
    """Scale a resize as the size of the input is scaled."""
    if size == base.size or base.resize is None:
        return base.resize
    down, across = (new / old for new, old in zip(size, base.size))
    if isinstance(base.resize, int):
        return int(base.resize * max(down, across) + 0.5)
    return int(base.resize[0] * down + 0.5), int(base.resize[1] * across + 0.5)


def _numbers(name: str, given: Sequence[float], channels: int) -> tuple[float, ...]:
    """Return one number a channel: one for all is repeated; three become their mean where the network takes gray."""
    numbers = tuple(float(number) for number in given)
    if not all(np.isfinite(numbers)) or (name == "std" and min(numbers) <= 0):
        raise LoadError(
            f"--{name} {', '.join(map(str, numbers))}: expected finite numbers{' above 0' * (name == 'std')}"
        )
    if len(numbers) == 1:
        return numbers * channels
    if channels == 1 and len(numbers) == 3:
        return (sum(numbers) / 3,)
    if len(numbers) != channels:
        raise LoadError(f"--{name} has {len(numbers)} numbers, and the network takes {channels} channels")
    return numbers


def _start(length: int, crop: int) -> int:
    """Return where a center crop begins, as torchvision rounds."""
    return round((length - crop) / 2) if crop <= length else -((crop - length) // 2)
