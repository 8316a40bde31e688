"""Wilcoxon's signed-rank test, exact with ties, and Holm's correction for many tests."""

# tested in tests/evaluate/tables/test_versus.py

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..._shared.optional import extra

EXACT = 100
"""Up to so many differences the distribution of the signed ranks is exact; beyond, it is a normal one."""


def mean_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Rank numbers from the smallest, 1; equal ones share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def holm(p: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm): the k-th smallest of m by m - k + 1, and never below the one before."""
    order = np.argsort(p, kind="stable")
    steps = np.asarray(p, dtype=float)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(p) else []
    return [float(value) for value in adjusted]


def signed_ranks(differences: NDArray[np.float64]) -> list[float]:
    """Return the two-sided p of Wilcoxon's signed-rank test of each line, (lines, photos), without zeros.

    Under the hypothesis each rank has either sign alike, so the distribution of the sum of the positive ranks is a
    product over ranks. It is exact with ties too, which `scipy.stats.wilcoxon` has for 13 differences at most.
    """
    known: dict[bytes, NDArray[np.float64]] = {}
    return [_signed_rank(line[line != 0], known) for line in differences]


def _signed_rank(d: NDArray[np.float64], known: dict[bytes, NDArray[np.float64]]) -> float:
    """Return the p of one line; `known` has the distributions of the lines before, by their ranks."""
    if not len(d):
        return 1.0
    if len(d) > EXACT:
        with extra("scipy", "Wilcoxon's test", name="evaluate"):
            from scipy.stats import wilcoxon
        return float(wilcoxon(d, method="approx").pvalue)
    twice = np.rint(2 * mean_ranks(np.abs(d))).astype(int)  # mean ranks of ties end in .5
    key = np.sort(twice).tobytes()
    if key not in known:
        chance = np.ones(1)
        for rank in twice:
            chance = (np.pad(chance, (0, rank)) + np.pad(chance, (rank, 0))) / 2
        known[key] = np.cumsum(chance)
    below, positive = known[key], twice[d > 0].sum()
    # the distribution is symmetric, so the chance of as much or more is that of as little on the other side
    return float(min(1.0, 2 * min(below[positive], below[twice.sum() - positive])))
