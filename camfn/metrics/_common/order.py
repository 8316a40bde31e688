"""Heatmaps at the size of the images, and the order of their pixels by relevance."""

# tested in tests/metrics/faithfulness/test_curves.py and test_road.py

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..._shared.checks import describe, number, same_device, tensor
from ..._shared.errors import ArgumentTypeError, CamfnError
from ..._shared.maps import resize
from ...image._checks import as_maps


def most_relevant(heatmap: Tensor, share: float) -> Tensor:
    """Mark the pixels with the largest values: exactly `round(share * N)` of the N in each map.

    Pixels of equal value, up to rounding, come in reading order, so the count is exact also for a constant map and for
    a map with many zeros. `most_relevant(-heatmap, share)` marks the least relevant pixels.

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
    """Rank the pixels of each map, (B, *S) to (B, *S): 0 is the most relevant; equal ones come in reading order.

    Values that only rounding sets apart are equal: another machine rounds otherwise, and would give another order.
    """
    rows = heatmap.flatten(1)
    return ranks_of(levels(rows, rows.abs())).reshape(heatmap.shape)


def ranks_of(rows: Tensor) -> Tensor:
    """Rank the values of each row, (B, N): 0 is the largest; equal ones come in their own order."""
    order = rows.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def levels(rows: Tensor, scale: Tensor) -> Tensor:
    """Number the distinct values of each row (B, N), from the lowest; those that only rounding sets apart are one.

    A group of values is one value if it is not wider than rounding; values that follow each other densely over a wider
    range stay apart.

    Args:
        rows: (B, N), finite.
        scale: what rounding is relative to, of the shape of the rows, or (B, 1).
    """
    ordered, order = rows.sort(1)
    slack = 16 * torch.finfo(rows.dtype).eps * scale.expand_as(rows).gather(1, order)
    apart = ordered.diff(dim=1) > torch.maximum(slack[:, 1:], slack[:, :-1])
    edge = torch.ones_like(apart[:, :1]) if apart.shape[1] else torch.ones_like(ordered, dtype=torch.bool)
    # the least and the greatest value of the group of each
    low = torch.where(torch.cat([edge, apart], 1), ordered, -torch.inf).cummax(1).values
    high = torch.where(torch.cat([apart, edge], 1), ordered, torch.inf).flip(1).cummin(1).values.flip(1)
    wide = (high - low)[:, 1:] > slack[:, 1:]
    new = apart | (wide & (ordered[:, 1:] != ordered[:, :-1]))
    level = torch.cat([torch.zeros_like(order[:, :1]), new.cumsum(1)], 1)
    return torch.zeros_like(order).scatter(1, order, level)


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
    """Whether each map, (B, *S), has one value up to rounding, (B,)."""
    rows = heatmap.flatten(1)
    low, high = rows.amin(1), rows.amax(1)
    return high - low <= 16 * torch.finfo(rows.dtype).eps * torch.maximum(high.abs(), low.abs())


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
