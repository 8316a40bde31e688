"""A strip of one photo: the photo, and its map at some of the steps."""

# tested in tests/training/test_strip.py

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import image

CELL = 168
"""Side of a picture in a strip, in pixels."""


def shown(images: Tensor) -> Tensor:
    """Return photos for display, (B, 3, H, W) in [0, 1], of images as a model takes them: each stretched to its range.

    Example:
        >>> shown(torch.tensor([-1.0, 3.0]).reshape(1, 1, 1, 2)).flatten(1)
        tensor([[0., 1., 0., 1., 0., 1.]])
    """
    pictures = images.detach().float().cpu()
    pictures = pictures[:, :1].expand(-1, 3, -1, -1) if pictures.shape[1] != 3 else pictures
    if bool(((pictures >= 0) & (pictures <= 1)).all()):
        return pictures
    low = pictures.flatten(1).amin(1)[:, None, None, None]
    spread = pictures.flatten(1).amax(1)[:, None, None, None] - low
    return (pictures - low) / torch.where(spread == 0, 1, spread)


def picture_of(photo: Tensor, cam: Tensor) -> Tensor:
    """Lay a raw map (h, w) over a photo (3, H, W); without finite numbers, the photo alone in gray."""
    if not bool(cam.isfinite().all()):
        return photo.mean(0, keepdim=True).expand_as(photo)
    return image.overlay(photo[None], image.normalize(cam[None]))[0]


def caption_of(step: int, correlation: float | None, cam: Tensor) -> str:
    """Write the step, and the correlation with the map before it."""
    if not bool(cam.isfinite().all()):
        return f"step {step}, no finite map"
    if correlation is None:
        return f"step {step}"
    return f"step {step}, r {correlation:.2f}" if math.isfinite(correlation) else f"step {step}, r undefined"


def thinned(steps: Sequence[int], most: int) -> list[int]:
    """Keep at most so many steps: the first, the last, and of the others those that lie most evenly.

    Example:
        >>> thinned([0, 10, 20, 30, 40], 4)
        [0, 20, 30, 40]
    """
    kept = list(steps)
    while len(kept) > most:
        gaps = [kept[i + 1] - kept[i - 1] for i in range(1, len(kept) - 1)]
        del kept[1 + gaps.index(min(gaps))]
    return kept


def strip_of(photo: Tensor, name: str, pictures: Sequence[Tensor], captions: Sequence[str]) -> Tensor:
    """Lay the photo and its maps side by side, (3, H, W) in [0, 1]."""
    columns = [photo, *pictures]
    return image.montage(columns, [name, *captions], columns=len(columns), cell=(CELL, CELL), caption_size=13)
