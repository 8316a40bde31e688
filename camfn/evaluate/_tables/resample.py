"""Bootstrap resamples of the photos, the same for all cases of a model, and what counts as equal."""

# tested in tests/evaluate/tables/test_rank.py and tests/evaluate/tables/test_versus.py

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .._measures.own import known_metric
from .._measures.row import Row

RESAMPLES = 1000
"""Number of bootstrap resamples of the photos."""

LEVEL = 0.05
"""Level of the tests."""


def fewest(comparisons: int = 1) -> int:
    """Return the photos that a verdict takes.

    On n photos the most one-sided result of a paired test has p = 2 / 2**n, which Holm multiplies by the number of
    comparisons; below this number of photos no result is under the level.
    """
    return next(n for n in range(1, 100) if 2 * max(1, comparisons) / 2**n < LEVEL)


class Draws(NamedTuple):
    """Resamples of photos.

    Attributes:
        photos: names of the photos.
        times: how often each resample contains each photo, (1 + RESAMPLES, photos); row 0 is ones.
    """

    photos: list[str]
    times: Tensor


def draw(rows: Iterable[Row], seed: int) -> Draws:
    """Draw resamples of the photos of the rows. All cases have the same, so that they differ on equal photos."""
    photos = sorted({row.photo for row in rows})
    drawn = torch.randint(len(photos), (RESAMPLES, len(photos)), generator=torch.Generator().manual_seed(seed))
    times = torch.zeros(1 + RESAMPLES, len(photos), dtype=torch.float64)
    times[0] = 1
    times[1:].scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=torch.float64))
    return Draws(photos, times)


def by_case(rows: Iterable[Row], model: str) -> dict[str, list[Row]]:
    """Group the rows of a model by case; a number that is not finite is no number."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.case.startswith(f"{model} "):
            values = {name: value for name, value in row.values.items() if math.isfinite(value)}
            found.setdefault(row.case, []).append(row._replace(values=values))
    return found


def resampled(rows: Sequence[Row], name: str, draws: Draws, only: Iterable[str] | None = None) -> tuple[Tensor, Tensor]:
    """Compute a metric of one case on each resample of the photos.

    A mean over a resample is a product of matrices: `times @ values / times @ have` are all means at once. A metric
    that is not a mean, such as MaxBoxAcc, is computed anew by `Metric.join` on the vectors of each resample.

    Args:
        rows: the rows of one case.
        name: the metric.
        draws: the resamples.
        only: photos to take; None for all.

    Returns:
        The metric of each resample, (1 + RESAMPLES,), NaN for a resample without a number; and 1 for each photo that
        has a number, otherwise 0, (photos,).
    """
    join, taken = known_metric(name).join, None if only is None else set(only)
    place = {photo: i for i, photo in enumerate(draws.photos)}
    have = torch.zeros(len(place), dtype=torch.float64)
    values = torch.zeros(len(place), dtype=torch.float64)
    vectors: dict[int, list[float]] = {}
    for row in rows:
        if name in row.values and (taken is None or row.photo in taken):
            have[place[row.photo]] = 1
            values[place[row.photo]] = row.values[name]
            vectors[place[row.photo]] = row.vectors.get(name, [])
    if join is None:
        return (draws.times @ (values * have)) / (draws.times @ have), have
    order = sorted(vectors)
    ious = torch.tensor([vectors[i] for i in order], dtype=torch.float64)
    return joined(join, ious, draws.times[:, order].long()), have


def joined(join: Callable[[Tensor], Tensor], vectors: Tensor, counts: Tensor) -> Tensor:
    """Join vectors (n, T), each as often as a resample has its photo, (R, n): (R,); resamples of one size at once."""
    found = torch.full((len(counts),), torch.nan, dtype=torch.float64)
    sizes = counts.sum(1)
    for size in set(sizes.tolist()):
        chosen = sizes == size
        if size:
            photos = torch.arange(len(vectors)).repeat(int(chosen.sum()))
            picked = vectors[photos.repeat_interleave(counts[chosen].flatten())].reshape(-1, size, *vectors.shape[1:])
            found[chosen] = _each(join, picked).double()
    return found


def _each(join: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
    """Join each sample, at once if `join` can, for one of a user's may read its numbers."""
    try:
        return torch.vmap(join)(samples)
    except Exception:
        return torch.stack([torch.as_tensor(join(sample)) for sample in samples])


def ends(values: Tensor) -> Tensor:
    """Return the 2.5 and 97.5 percentiles over the first dimension, without NaN, (2, ...)."""
    return torch.nanquantile(values, torch.tensor([0.025, 0.975], dtype=values.dtype), dim=0)


def interval(values: Tensor) -> tuple[float, float]:
    """Return the two `ends` of a line of values."""
    low, high = ends(values).tolist()
    return low, high


def tolerance(values: Iterable[float]) -> float:
    """Return the difference below which two numbers of a metric are equal: maps that coincide differ by rounding."""
    return 1e-4 * max((abs(value) for value in values), default=0.0)


def alike(values: Sequence[float], within: float) -> list[float]:
    """Give numbers that differ by rounding one value, so that they tie: neighbors closer than `within` are equal."""
    found, start, last = {}, float("nan"), float("-inf")
    for value in sorted(values):
        start = start if value - last <= within else value
        found[value], last = start, value
    return [found[value] for value in values]
