"""Pairs of cases on the photos that both have: the difference, its interval and its p, for many pairs at once."""

# tested in tests/evaluate/tables/test_versus.py

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from math import nan
from typing import NamedTuple

import torch

from .._measures.own import known_metric
from .._measures.row import Row
from .resample import Draws, ends, interval, resampled
from .significance import signed_ranks

_CHUNK = 1000
"""Pairs at once: each takes a number for each resample."""


class Compared(NamedTuple):
    """How much better the first of a pair is: mean, interval, p (None without a test), and number of photos."""

    value: float
    low: float
    high: float
    p: float | None
    photos: int


def compare_means(
    pairs: Sequence[tuple[str, str]], of_case: dict[str, list[Row]], metric: str, draws: Draws, near_zero: float
) -> Iterator[Compared]:
    """Compare pairs by a metric that is a mean over photos; smaller differences than `near_zero` are none.

    As in `resampled`, products of matrices make the means of all resamples, here of the differences of all pairs.
    """
    place = {photo: i for i, photo in enumerate(draws.photos)}
    number = {case: i for i, case in enumerate(of_case)}
    values = torch.zeros(len(of_case), len(place), dtype=torch.float64)
    have = torch.zeros_like(values)
    for case, rows in of_case.items():
        for row in rows:
            values[number[case], place[row.photo]] = row.values[metric]
            have[number[case], place[row.photo]] = 1
    values *= known_metric(metric).better
    for start in range(0, len(pairs), _CHUNK):
        first, second = zip(*((number[a], number[b]) for a, b in pairs[start : start + _CHUNK]))
        both = have[list(first)] * have[list(second)]
        apart = (values[list(first)] - values[list(second)]) * both
        means = (draws.times @ apart.T) / (draws.times @ both.T)
        p = signed_ranks(torch.where(apart.abs() <= near_zero, 0.0, apart).numpy())
        counts = both.sum(1).int().tolist()
        for value, low, high, of_pair, photos in zip(means[0].tolist(), *ends(means[1:]).tolist(), p, counts):
            found = Compared(value, low, high, of_pair, photos)
            yield found if photos > 1 else found._replace(low=nan, high=nan)


def compare_joined(
    pairs: Sequence[tuple[str, str]], of_case: dict[str, list[Row]], metric: str, draws: Draws
) -> Iterator[Compared]:
    """Compare pairs by a metric that is computed of all photos at once; there is no test."""
    better = known_metric(metric).better
    # pairs with the same photos in common share what is computed of a case
    of_photos = cache(lambda case, common: resampled(of_case[case], metric, draws, common)[0])
    for first, second in pairs:
        common = frozenset({row.photo for row in of_case[first]} & {row.photo for row in of_case[second]})
        if not common:
            yield Compared(nan, nan, nan, None, 0)
            continue
        apart = better * (of_photos(first, common) - of_photos(second, common))
        low, high = interval(apart[1:]) if len(common) > 1 else (nan, nan)
        yield Compared(apart[0].item(), low, high, None, len(common))
