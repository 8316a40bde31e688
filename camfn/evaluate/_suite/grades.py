"""The grade of every metric: does it order a map that is shuffled more and more, on one photo and on ten?"""

# tested in tests/evaluate/suite/test_tables.py

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .._measures.own import known_metric
from .._store.store import Store
from .grade import orders_of
from .measures import MEASURES
from .protocol import is_grade

DRAWS, MEAN_OF = 200, 10
"""Draws of so many photos, whose mean is graded."""

RESAMPLES = 2000

ROUNDING = 1e-5
"""A difference below this share of a metric's largest value is what float32 leaves."""


class Grade(NamedTuple):
    """The grade of a metric.

    Attributes:
        name: the metric.
        base: whose map was shuffled.
        one: mean over photos of how well it orders the levels, in [-1, 1].
        mean: the same of the mean over `MEAN_OF` photos.
        low: lower end of the interval of the difference between the map and its full shuffle, positive for better.
        high: upper end.
        photos: number of photos.
        rounding: a difference that means nothing.
    """

    name: str
    base: str
    one: float
    mean: float
    low: float
    high: float
    photos: int
    rounding: float = 0.0

    @property
    def tells(self) -> bool:
        """Whether it tells a map from noise."""
        return self.low > self.rounding


def grades_of(store: Store, *, partial: bool = False) -> list[Grade]:
    """Grade every metric of a folder, the best first, for each map that was made worse.

    Args:
        store: a folder of the suite.
        partial: by values that change places, and not by the shuffle.
    """
    found = []
    graded = [row for row in store.rows if is_grade(row.photo) and row.photo.startswith("partial/") == partial]
    for base in dict.fromkeys(row.method for row in graded):
        rows = [row for row in graded if row.method == base and row.vectors]
        for name in dict.fromkeys(name for row in rows for name in row.vectors):
            lines = [row.vectors[name] for row in rows if name in row.vectors]
            if lines := [line for line in lines if all(map(math.isfinite, line))]:
                found.append(_grade(name, base, torch.tensor(lines, dtype=torch.float64)))
    return sorted(found, key=lambda grade: (grade.base, -grade.mean, -grade.one))


def _grade(name: str, base: str, values: Tensor) -> Grade:
    """Grade one metric by its values, (photos, levels)."""
    better, values = _direction(name), values.double()
    photos = len(values)
    one = sum(orders_of(values, better)) / photos
    generator = torch.Generator().manual_seed(0)
    few = min(MEAN_OF, photos)
    draws = torch.rand(DRAWS, photos, generator=generator).argsort(1)[:, :few]
    mean = sum(orders_of(torch.stack([values[draw].mean(0) for draw in draws]), better)) / DRAWS
    gain = better * (values[:, 0] - values[:, -1])
    resampled = gain[torch.randint(photos, (RESAMPLES, photos), generator=generator)].mean(1)
    low, high = torch.quantile(resampled, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Grade(name, base, one, mean, low, high, photos, ROUNDING * float(values.abs().max()))


def _direction(name: str) -> int:
    """Return 1 where higher is better or nothing is, -1 where lower is."""
    return (MEASURES[name].better if name in MEASURES else known_metric(name).better) or 1


def gray_of(grades: list[Grade], base: str) -> dict[str, bool]:
    """Say of each graded metric whether it does not tell a map from noise."""
    return {grade.name: not grade.tells for grade in grades if grade.base == base}
