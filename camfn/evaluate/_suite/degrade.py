"""Maps made worse step by step: a shuffle that replaces a map, and a share of its values that change places."""

# tested in tests/evaluate/suite/test_degrade.py

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Degrade = Callable[[Tensor], Tensor]
"""Maps (B, *S) to worse ones."""


def blended(count: int, level: float, generator: torch.Generator) -> Degrade:
    """Replace a share of a map by its own shuffle: (1 - t) h + t h[perm].

    Args:
        count: values of a map.
        level: t, from 0 for the map to 1 for its shuffle.
        generator: draws the permutation; the same for each level.
    """
    order = torch.randperm(count, generator=generator)
    return lambda cam: (1 - level) * cam + level * cam.flatten(1)[:, order.to(cam.device)].view_as(cam)


def permuted(count: int, level: float, generator: torch.Generator) -> Degrade:
    """Let a share of the values change places among themselves, so that the histogram stays (F-Fidelity, 2410.02970).

    Args:
        count: values of a map.
        level: the share.
        generator: draws which values, and their order.
    """
    order = torch.arange(count)
    some = torch.randperm(count, generator=generator)[: int(level * count + 1e-9)]
    order[some] = some[torch.randperm(len(some), generator=generator)]
    return lambda cam: cam.flatten(1)[:, order.to(cam.device)].view_as(cam)
