"""Parts of an image that places of a map stand for: which they are, and how one is overwritten."""

# tested in tests/layout/test_place_rules.py

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import TypeAlias

import torch
from torch import Tensor

Part: TypeAlias = "tuple[tuple[int, int, int], ...]"
"""A part of an image: along each axis the axis, the first position and the one after the last."""


def own_part(axes: Sequence[int], cell: Sequence[int], grid: Sequence[int], size: Sequence[int]) -> Part:
    """Return the part of an image of this size that a cell of a grid along these axes stands for."""
    return tuple(
        (axis, i * size[axis] // n, max(-(-(i + 1) * size[axis] // n), i * size[axis] // n + 1))
        for axis, i, n in zip(axes, cell, grid)
    )


def quarters(part: Part) -> list[Part]:
    """Cut a part of an image in two along its two longest axes; an axis of one position stays."""
    longest = sorted(range(len(part)), key=lambda i: part[i][1] - part[i][2])[:2]
    pieces = [
        [(axis, start, (start + stop) // 2), (axis, (start + stop) // 2, stop)]
        if i in longest and stop - start > 1
        else [(axis, start, stop)]
        for i, (axis, start, stop) in enumerate(part)
    ]
    return list(product(*pieces))


def overwrite(image: Tensor, part: Part) -> None:
    """Write noise of the image's own mean and spread into a part of it, in place."""
    view = image
    for axis, start, stop in part:
        view = view.narrow(axis, start, stop - start)
    noise = torch.randn(view.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread_of = image.double().std() if image.numel() > 1 else image.new_zeros(())
    scale = torch.where(spread_of > 0, spread_of, 1.0)
    view.copy_((image.double().mean() + scale * noise.to(image.device)).to(image.dtype).expand_as(view))


def spread(grid: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """List places that lie evenly in a grid, as many as there are or `count`, by the sequence R of Roberts."""
    total = math.prod(grid)
    if total <= count:
        return [tuple(int(i) for i in torch.unravel_index(torch.tensor(k), tuple(grid))) for k in range(total)]
    root = 2.0
    for _ in range(30):
        root = (1 + root) ** (1 / (len(grid) + 1))
    places: dict[tuple[int, ...], None] = {}
    k = 0
    while len(places) < count:
        places[tuple(int((0.5 + k * root ** -(d + 1)) % 1 * n) for d, n in enumerate(grid))] = None
        k += 1
    return list(places)
