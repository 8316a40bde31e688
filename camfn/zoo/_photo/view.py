"""The part of a photo that a network sees: after a center crop, or found by trying a preprocessing out."""

# tested in tests/zoo/load/test_load.py and tests/zoo/libraries/test_own.py

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..._shared.errors import LoadError
from ..._shared.given import explained

_EDGES = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Where the edges of the trial photos are, as shares of the photo."""


def center_view(
    photo: Image.Image, *, resize: Callable[[Image.Image], Image.Image], crop: Sequence[int]
) -> Image.Image:
    """Cut out the part of a photo that remains after `resize` and a center crop to (height, width) `crop`.

    A crop larger than the resized photo pads it; so does this, in black.
    """
    width, height = resize(Image.new("L", photo.size)).size
    left, top = _start(width, crop[1]), _start(height, crop[0])
    box = (left, top, left + crop[1], top + crop[0])
    across, down = photo.width / width, photo.height / height
    x0, y0, x1, y1 = (round(edge * scale) for edge, scale in zip(box, (across, down, across, down), strict=True))
    return photo.crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))


def _start(length: int, crop: int) -> int:
    """Return where a center crop begins; torchvision and timm round a crop and a padding differently."""
    return round((length - crop) / 2) if crop <= length else -((crop - length) // 2)


def whole(photo: Image.Image) -> Image.Image:
    """Return the photo: the model sees all of it."""
    return photo


def checked_call(preprocess: Callable[[Any], Any], photo: Any) -> Tensor:
    """Call a user's preprocessing on a photo, and check what comes back.

    Raises:
        LoadError: the function raised an error, or returned no tensor of one photo.
    """
    with explained(f"--preprocess {getattr(preprocess, '__name__', type(preprocess).__name__)}", LoadError):
        given = preprocess(photo)
    if not isinstance(given, Tensor) or given.ndim not in (3, 4) or not given.is_floating_point():
        got = f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        raise LoadError(f"preprocess: expected a function of an RGB photo to a tensor of floats (C, H, W), got {got}")
    if given.ndim == 4 and given.shape[0] == 1 and isinstance(photo, Image.Image):
        raise LoadError(
            f"preprocess: expected one photo, (C, H, W), got {tuple(given.shape)}: leave the batch axis out; a network "
            "of volumes takes them from files in NIfTI, .nii or .nii.gz"
        )
    return given


def seen_view(photo: Image.Image, *, preprocess: Callable[[Image.Image], Tensor]) -> Image.Image:
    """Cut out the part of a photo that a preprocessing keeps, found by what becomes of edges between black and white.

    Raises:
        LoadError: the preprocessing draws numbers, or is no resize and crop.
    """
    find = _box if getattr(preprocess, "__hash__", None) else _box.__wrapped__
    return photo.crop(find(preprocess, photo.size))


@lru_cache(maxsize=256)
def _box(preprocess: Callable[[Image.Image], Tensor], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Find the box (left, top, right, bottom) of a photo of a size (width, height) that a preprocessing keeps."""
    x0, x1 = _span(preprocess, size, 0)
    y0, y1 = _span(preprocess, size, 1)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def _span(preprocess: Callable[[Image.Image], Tensor], size: tuple[int, int], axis: int) -> tuple[int, int]:
    """Find where the kept part begins and ends along the width (axis 0) or the height (axis 1)."""
    before, after, length = [], [], 0
    for share in _EDGES:
        edge = round(size[axis] * share)
        photo = Image.new("RGB", size)
        photo.paste((255, 255, 255), (0, 0, edge, size[1]) if axis == 0 else (0, 0, size[0], edge))
        seen = checked_call(preprocess, photo).double()
        if not torch.equal(seen, checked_call(preprocess, photo).double()):
            raise LoadError("preprocess gives another tensor each time: leave out what draws numbers (augmentations)")
        line = seen.mean(0).mean(0 if axis == 0 else 1)
        length = len(line)
        # from white to black, whatever numbers these have become
        white, black = line[0], line[-1]
        if (white - black).abs() > 1e-6:
            before.append(edge)
            levels = (line - black) / (white - black)
            between = ((levels.abs() > 0.02) & ((levels - 1).abs() > 0.02)).sum()
            if between > 8 + length / 8:
                raise LoadError(_UNKNOWN)
            after.append(float(levels.sum()))
    if len(before) < 2:
        raise LoadError(_UNKNOWN)
    x, y = torch.tensor(before).double(), torch.tensor(after).double()
    scale = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum().clamp_min(1e-12)
    start = y.mean() - scale * x.mean()
    if scale <= 0 or float((scale * x + start - y).abs().max()) > 1:
        raise LoadError(_UNKNOWN)
    return round(float(-start / scale)), round(float((length - start) / scale))


_UNKNOWN = (
    "which part of a photo the preprocessing keeps is not known, for it does more than resize and crop: give the "
    "function an attribute `view`, a function of a photo to the part that is kept"
)
