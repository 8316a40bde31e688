"""Heatmaps at the size of the images, and the order of their pixels by relevance."""

# tested in tests/metrics/test_curves.py and test_road.py

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .._shared.checks import describe, number, same_device, tensor
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.maps import resize
from ..image._checks import as_maps


def most_relevant(heatmap: Tensor, share: float) -> Tensor:
    """Mark the pixels with the largest values: exactly `round(share * N)` of the N in each map.

    Pixels of equal value come in reading order, so the count is exact also for a constant map and for a map with
    many zeros. `most_relevant(-heatmap, share)` marks the least relevant pixels.

    Args:
        heatmap: (B, *S), raw or normalized.
        share: of the pixels, 0 to 1.

    Returns:
        (B, *S), bool.

    Raises:
        CamfnError: a share outside [0, 1]; NaN or infinity, naming the samples.

    Example:
        >>> most_relevant(torch.tensor([[0.0, 3.0, 0.0, 1.0]]), 0.75)
        tensor([[ True,  True, False,  True]])
    """
    maps = as_maps(heatmap, "most_relevant: heatmap")
    return ranks(maps) < count_of("most_relevant", share, math.prod(heatmap.shape[1:]))


def count_of(what: str, share: float, total: int) -> int:
    """Convert a share of the pixels to a number of pixels."""
    number(what, share, "[0, 1]", "A share of the pixels")
    return round(float(share) * total)


def ranks(heatmap: Tensor) -> Tensor:
    """Rank the pixels of each map, (B, *S) to (B, *S): 0 is the most relevant; equal ones come in reading order."""
    order = heatmap.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).reshape(heatmap.shape)


def as_images(what: str, images: Tensor) -> None:
    """Refuse anything but floating-point images (B, C, *T)."""
    tensor(f"{what}: images", images)
    if not images.is_floating_point() or images.ndim < 2 or any(size == 0 for size in images.shape[1:]):
        raise CamfnError(
            f"{what}: expected floating-point images (B, C, *T) with at least one value a sample, got "
            f"{tuple(images.shape)} of {images.dtype}; pass images as the model takes them"
        )


def on_images(what: str, heatmap: Tensor, images: Tensor) -> Tensor:
    """Check maps (B, *S) against images (B, C, *T) and resize them to T where S differs."""
    heatmap = heatmap.to(images.dtype) if isinstance(heatmap, Tensor) and heatmap.dtype == torch.bool else heatmap
    work = as_maps(heatmap, f"{what}: heatmap")
    as_images(what, images)
    same_device(f"{what}: heatmap", work, images, "images")
    if work.ndim != images.ndim - 1 or work.shape[0] != images.shape[0]:
        raise CamfnError(
            f"{what}: expected images (B, C, *T) and a heatmap (B, *S) with as many samples and spatial dimensions, "
            f"got {tuple(images.shape)} and {tuple(heatmap.shape)}"
        )
    size = tuple(images.shape[2:])
    return work if tuple(work.shape[1:]) == size else resize(work[:, None], size)[:, 0]


def is_constant(heatmap: Tensor) -> Tensor:
    """Whether each map, (B, *S), has one value, (B,)."""
    rows = heatmap.flatten(1)
    return (rows == rows[:, :1]).all(1)


def shares_of(what: str, shares: Sequence[float], interval: str, example: str) -> tuple[float, ...]:
    """Return shares of the pixels; raise for anything but a list of numbers in the interval, at least one."""
    if not isinstance(shares, (list, tuple)) or not shares:
        raise ArgumentTypeError(
            f"{what}: shares: expected a list of shares of the pixels, got {describe(shares)}; for example "
            f"shares={example}"
        )
    for share in shares:
        number(f"{what}: shares", share, interval, "A share of the pixels")
    return tuple(shares)
