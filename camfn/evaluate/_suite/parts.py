"""FunnyBirds' measures (2308.06248) of scenes: a scene is its digits, and any set of them can be left out of it."""

# tested in tests/evaluate/suite/test_parts.py

from __future__ import annotations

import torch
from torch import Tensor

from ...image import upsample
from ...metrics import spearman
from .measures import on_parts

THRESHOLDS = tuple(k / 10 for k in range(1, 10))
"""Shares of the greatest importance from which a part counts as important."""

UNTOUCHED = 0.05
"""A part does not matter if the class loses less than this share of its logit without it."""


def part_measures(maps: Tensor, outputs: Tensor, labels: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Measure the maps of the first digits of a scene by what the network says without each set of its digits.

    Completeness is ((CSDC + PC + DC) / 3 + D) / 2, each a mean over `THRESHOLDS`: whether the parts that the map calls
    important have the class's own digit (CSDC), keep the class without all others (PC), lose it when they go (DC), and
    leave out the digits that do not matter (D). Correctness is (1 + Spearman's correlation of importance and drop) / 2.
    Contrastivity asks whether each of two classes has more on its own digit than the other class has there.

    Args:
        maps: (B, h, w), raw, of the first B digits.
        outputs: (2 ** n, K), logits of independent labels; row k is without digit i where bit i of k is 1.
        labels: (n,), the digits.
        masks: (n, H, W).

    Returns:
        Three numbers of each map, (B,).
    """
    count = len(labels)
    importance = on_parts(upsample(maps, masks.shape[1:]), masks)
    found: dict[str, list[Tensor]] = {"completeness": [], "correctness": []}
    for own in range(len(maps)):
        logit = outputs[:, labels[own]].double()
        drops = torch.stack([logit[0] - logit[1 << i] for i in range(count)])
        found["completeness"].append(_completeness(importance[own], logit, drops, own))
        found["correctness"].append((1 + spearman(importance[own][None], drops[None])[0]) / 2)
    stacked = {name: torch.stack(values).double() for name, values in found.items()}
    return stacked | {"contrastivity": _contrastivity(importance)}


def _completeness(importance: Tensor, logit: Tensor, drops: Tensor, own: int) -> Tensor:
    """Compute completeness of one map."""
    irrelevant = [i for i in range(len(drops)) if i != own and drops[i] < UNTOUCHED * logit[0].abs()]
    enough, distracted = [], []
    for threshold in THRESHOLDS:
        important = [
            i for i in range(len(drops)) if importance[i] > 0 and importance[i] >= threshold * importance.max()
        ]
        rest = [i for i in range(len(drops)) if i not in important]
        kept, gone = (logit[sum(1 << i for i in left_out)] > 0 for left_out in (rest, important))
        enough.append((float(own in important) + float(kept) + float(not gone)) / 3)
        if irrelevant:
            distracted.append(1 - len(set(important) & set(irrelevant)) / len(irrelevant))
    first = torch.tensor(enough, dtype=torch.float64).mean()
    return (first + torch.tensor(distracted, dtype=torch.float64).mean()) / 2 if distracted else first


def _contrastivity(importance: Tensor) -> Tensor:
    """Say of each map of a pair whether its own part has more of it than the other map has there, (B,)."""
    total = importance.sum(1, keepdim=True)
    share = torch.where(total > 0, importance / total.clamp(min=1e-12), 0.0)
    own = share.diagonal()
    other = share.roll(1, 0).diagonal()
    return (own > other).double() + 0.5 * (own == other)
