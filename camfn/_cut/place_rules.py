"""How the changes at the places of a map tell whether each place sees its own part of the image: three rules."""

# tested in tests/layout/test_place_rules.py

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

RIGHT = 0.65
"""A reading is right where at least this part of its places see their own part: 4 of 6."""

GUESSED = 0.8
"""So it is for a sequence that no fact supports: 5 of 6, for where half of the places are right, 4 may be."""

SMALL = 9
"""`Trial` tries a sequence of at most so many places at all of them, by the rule `all_of_few`."""

SLACK = 3
"""Half the width of the largest kernels in use, in cells."""

_WIDTH = 16
"""Channels are projected to so many at random, which keeps the lengths of their differences to about a third."""

_CLEAR = 0.25
"""The own place changes by at least this part of what the place that changes most does."""

_AHEAD = 1.5
"""The own places change by so many times what any other does, where the parts of several are overwritten at once, and
where there are few."""


class Places(NamedTuple):
    """How many of the places of a map that were tried see their own part of the image.

    Attributes:
        seeing: the number that do.
        tried: the number of places that were tried.
        depends: whether any place of the map depends on any of these parts.
        clearness: the share of the change that is at the own place, in the mean of the places.
        needed: the clearness that a right reading has at least: on a small grid places may seem to see by chance.
        least: the share of the places that must see their own part.
    """

    seeing: int
    tried: int
    depends: bool
    clearness: float
    needed: float = 0.0
    least: float = RIGHT

    @property
    def share(self) -> float:
        """Share of the places that see their own part."""
        return self.seeing / self.tried

    @property
    def right(self) -> bool:
        """Whether so many do that the map lies where the layout says."""
        return self.share >= self.least and self.clearness >= self.needed

    def clearer_than(self, other: Places) -> bool:
        """Whether another reading of the same output seems right by chance, as where half of it is off."""
        return self.share > other.share + 0.1 or self.clearness > 1.5 * other.clearness


Cells = Sequence[tuple[int, ...]]
"""Places of a map, by their positions in its grid."""


def one_by_one(change: Tensor, cells: Cells, grid: tuple[int, ...], slack: int, least: float = RIGHT) -> Places:
    """Count the places that change most where their own part alone is overwritten, given the changes (K, C, N).

    It takes off what changes everywhere, and what changes at a place whichever part one overwrites. With slack, a
    place so many cells apart may change in its stead, but none more than a quarter of the grid apart.
    """
    if len(cells) == 1:
        return Places(int(change.any()), 1, bool(change.any()), 1.0)
    change = _projected(change)
    apart = change - change.mean(2, keepdim=True)
    apart = apart - apart.mean(0, keepdim=True)
    energy = apart.square().sum(1)
    near = [_near(cell, grid, min(slack, max(grid))) for cell in cells]
    here = torch.stack([energy[k][where].amax() for k, where in enumerate(near)])
    own = torch.stack([energy[k][_near(cell, grid, 0)].sum() for k, cell in enumerate(cells)])
    share = own / energy.sum(1).clamp_min(torch.finfo(energy.dtype).tiny)
    seeing = (here > 0) & (here >= _CLEAR * energy.amax(1))
    needed = 0.0 if slack else min(2 / math.prod(grid), 0.5)
    return Places(int(seeing.sum()), len(cells), bool(change.any()), float(share.mean()), needed, least)


def at_once(change: Tensor, cells: Cells, grid: tuple[int, ...], slack: int) -> Places:
    """Count the places that change more than any other, where the parts of all of them are overwritten in one run.

    Given the change (C, N). By chance the few places that change most are hardly ever these.
    """
    change = _projected(change[None])[0]
    energy = (change - change.mean(1, keepdim=True)).square().sum(0)
    reach = max((r for r in range(slack + 1) if 4 * len(cells) * (2 * r + 1) ** len(grid) <= energy.numel()), default=0)
    near = [_near(cell, grid, reach) for cell in cells]
    others = energy.clone()
    for where in near:
        others[where] = 0
    here = torch.stack([energy[where].amax() for where in near])
    seeing = (here > 0) & (here >= _AHEAD * others.amax())
    own = torch.stack([energy[_near(cell, grid, 0)].sum() for cell in cells]).sum()
    share = own / energy.sum().clamp_min(torch.finfo(energy.dtype).tiny)
    return Places(int(seeing.sum()), len(cells), bool(change.any()), float(share), least=1.0)


def all_of_few(change: Tensor) -> Places:
    """Count the places that change most where any quarter of their own part is overwritten, in a map of few places.

    Given the changes (N, quarters, C, N). Queries, registers and frames depend on each part as it happens, and of a few
    some seem to see their own part. So each quarter must change its own place most, all of them together must change it
    clearly more than any other place, and no other part may change it more; and that at every place.
    """
    energy = change.square().sum(2)
    total = energy.sum(1)
    own, each = total.diagonal(), energy.diagonal(dim1=0, dim2=2).mT
    others = energy.masked_fill(torch.eye(len(energy), dtype=torch.bool, device=energy.device)[:, None], 0)
    most = (each > others.amax(2)).all(1)
    seeing = most & (own >= _AHEAD * others.sum(1).amax(1)) & (own >= total.amax(0))
    share = own / total.sum(1).clamp_min(torch.finfo(energy.dtype).tiny)
    return Places(int(seeing.sum()), len(energy), bool(change.any()), float(share.mean()), least=1.0)


def _projected(change: Tensor) -> Tensor:
    """Project changes (K, C, N) to fewer channels at random, the same each time."""
    channels = change.shape[1]
    if channels <= _WIDTH:
        return change
    matrix = torch.randn(_WIDTH, channels, generator=torch.Generator().manual_seed(0), dtype=change.dtype)
    return torch.einsum("wc,kcn->kwn", matrix.to(change.device), change)


def _near(cell: Sequence[int], grid: Sequence[int], reach: int) -> Tensor:
    """Return a mask (N,) of the places at most so many cells from one, and at most a quarter of the grid."""
    mask = torch.zeros(tuple(grid), dtype=torch.bool)
    reaches = [min(reach, n // 4) for n in grid]
    mask[tuple(slice(max(i - r, 0), i + r + 1) for i, r in zip(cell, reaches))] = True
    return mask.flatten()
