"""Method against method: paired differences over photos, with intervals, tests and Holm's correction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from ..._shared.errors import UsageError
from ..._shared.optional import extra
from ..._shared.spelling import near
from .._measures.own import known_metric
from .._measures.row import Row
from .difference import Difference as Difference
from .pairs import compare_joined, compare_means
from .resample import alike, by_case, draw, resampled, tolerance
from .significance import holm, mean_ranks
from .standing import is_baseline, method_in
from .table import grid_of_pairs, grid_of_ranks


class Differences(list[Difference]):
    """The differences of several pairs by one metric, as a list that a notebook shows as a table."""

    def __init__(self, found: Iterable[Difference], model: str, metric: str) -> None:
        super().__init__(found)
        self.model, self.metric = model, metric

    def _repr_html_(self) -> str:
        """Show the table in a notebook."""
        return grid_of_pairs(self, self.metric, self.model).to_html()


class Friedman(NamedTuple):
    """Ranks of the methods within each photo, and Friedman's test that all methods are alike.

    Attributes:
        metric: the metric.
        ranks: case to its mean rank over photos, 1 for the best; the best first, without the baselines.
        statistic: Friedman's chi-square, corrected for ties.
        p: probability of a statistic as large if all methods were alike.
        photos: number of photos on which all these methods have a number.
        groups: largest runs of neighbors, by mean rank, no two of which `differences` tells apart.
        left_out: cases without any number of the metric.
    """

    metric: str
    ranks: dict[str, float]
    statistic: float
    p: float
    photos: int
    groups: list[tuple[str, ...]]
    left_out: tuple[str, ...]

    def _repr_html_(self) -> str:
        """Show the mean ranks in a notebook."""
        return grid_of_ranks(self.ranks, self.metric, self.photos, self.p, self.groups, self.left_out).to_html()


def differences(
    rows: Sequence[Row], model: str, metric: str, *, against: str | None = None, seed: int = 0
) -> Differences:
    """Compare the cases of one model in pairs, photo by photo.

    Both cases of a pair explain the same photos, so the differences of a photo are compared, not the means: photos that
    are hard for both take no part. Wilcoxon's test asks whether these differences lean to one side. Holm's correction
    keeps the probability of any false verdict below 5 % over all comparisons of the call.

    Args:
        rows: the rows of a `Store`.
        model: name of the model.
        metric: a metric with a better direction.
        against: a method as the table writes it, or a whole case; only pairs with it are compared, which leaves the
            correction less to correct. Choose it before you see the numbers. None for all pairs.
        seed: seed of the bootstrap.

    Returns:
        A difference for each pair, the better case by its mean first; with `against`, that case is always the first.

    Raises:
        UsageError: no such case, or a metric without numbers or direction.

    Example:
        >>> values = {"mine": [0.5, 0.6, 0.7, 0.8, 0.9, 0.7], "grad_cam": [0.4, 0.4, 0.5, 0.7, 0.7, 0.4]}
        >>> rows = [
        ...     Row(f"photo {i}", f"net auto {name}", values={"iou": value})
        ...     for name, listed in values.items()
        ...     for i, value in enumerate(listed)
        ... ]
        >>> (found,) = differences(rows, "net", "iou", against="mine")
        >>> round(found.value, 3), found.p, found.verdict
        (0.183, 0.03125, 'better')
    """
    sign = known_metric(metric).better
    if not sign:
        raise UsageError(f"cannot compare by {metric!r}: it does not say which way is better")
    of_case = {
        case: [row for row in listed if metric in row.values]
        for case, listed in by_case(rows, model).items()
        if any(metric in row.values for row in listed)
    }
    if not of_case:
        raise UsageError(f"no number of {metric!r} for {model}")
    draws = draw([row for listed in of_case.values() for row in listed], seed)
    whole = draws._replace(times=draws.times[:1])
    means = {case: sign * resampled(listed, metric, whole)[0][0].item() for case, listed in of_case.items()}
    ordered = sorted(of_case, key=lambda case: -means[case])
    pairs = list(combinations(ordered, 2))
    if against is not None:
        chosen = find_case(against, ordered, model)
        pairs = [(chosen, case) for case in ordered if case != chosen]
    near_zero = tolerance(row.values[metric] for listed in of_case.values() for row in listed)
    if known_metric(metric).join is None:
        compared = compare_means(pairs, of_case, metric, draws, near_zero)
    else:
        compared = compare_joined(pairs, of_case, metric, draws)
    plain = [Difference(*pair, c.value, c.low, c.high, c.p, None, c.photos) for pair, c in zip(pairs, compared)]
    return Differences(_corrected(plain), model, metric)


def friedman(rows: Sequence[Row], model: str, metric: str, *, seed: int = 0) -> Friedman:
    """Rank the methods of one model within each photo, and test whether they are alike (Friedman).

    Args:
        rows: the rows of a `Store`.
        model: name of the model.
        metric: a metric with a better direction, that is a mean over photos.
        seed: seed of the bootstrap.

    Returns:
        Mean ranks, the test, and the groups that are not told apart.

    Raises:
        UsageError: fewer than three methods with numbers, fewer than two photos that all have, or no such metric.

    Example:
        >>> values = {"a": [0.9, 0.8, 0.7], "b": [0.5, 0.6, 0.4], "c": [0.1, 0.7, 0.2]}
        >>> rows = [
        ...     Row(f"photo {i}", f"net auto {name}", values={"iou": value})
        ...     for name, listed in values.items()
        ...     for i, value in enumerate(listed)
        ... ]
        >>> found = friedman(rows, "net", "iou")
        >>> list(found.ranks.values()), round(found.statistic, 2), len(found.groups)
        ([1.0, 2.3333333333333335, 2.6666666666666665], 4.67, 1)
    """
    info = known_metric(metric)
    if not info.better or info.join is not None:
        raise UsageError(
            f"no ranks within photos by {metric!r}: expected a metric that says which way is better for each photo"
        )
    of_case = {
        case: {row.photo: row.values[metric] for row in listed if metric in row.values}
        for case, listed in by_case(rows, model).items()
        if not is_baseline(case)
    }
    left_out = tuple(case for case, values in of_case.items() if not values)
    of_case = {case: values for case, values in of_case.items() if values}
    photos = sorted(set.intersection(*map(set, of_case.values()))) if of_case else []
    if len(of_case) < 3 or len(photos) < 2:
        raise UsageError(
            f"Friedman's test by {metric}: {len(of_case)} methods have {len(photos)} photos in common; expected three "
            "methods or more, on two photos or more"
        )
    values = info.better * np.array([[of_case[case][photo] for photo in photos] for case in of_case])
    within = tolerance(values.flat)
    table = np.array([alike(of_photo, within) for of_photo in values.T.tolist()]).T
    with extra("scipy", "Friedman's test", name="evaluate"):
        from scipy.stats import friedmanchisquare
    mean = np.array([mean_ranks(-of_photo) for of_photo in table.T]).mean(0)
    one = bool((table == table[:1]).all())  # no photo tells any method from another: scipy would divide 0 by 0
    statistic, p = (0.0, 1.0) if one else map(float, friedmanchisquare(*table))
    order = np.argsort(mean, kind="stable")
    ranks = {list(of_case)[i]: float(mean[i]) for i in order}
    return Friedman(
        metric,
        ranks,
        statistic,
        p,
        len(photos),
        _groups(list(ranks), differences(rows, model, metric, seed=seed)),
        left_out,
    )


def find_case(words: str, cases: Sequence[str], model: str) -> str:
    """Find the one case that a method's words mean.

    Raises:
        UsageError: none, or several.
    """
    names = {case: method_in(case, model) for case in cases}
    without_layer = {case: name.partition(" @ ")[0] for case, name in names.items()}
    for form in ({case: case for case in cases}, names, without_layer):
        found = [case for case, name in form.items() if name == words]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"{words!r} stands for several rows: {', '.join(names[case] for case in found)}")
    raise UsageError(f"no method {words!r} in the results of {model}. {near(words, names.values(), words=True)}")


def _corrected(listed: Sequence[Difference]) -> list[Difference]:
    """Add Holm's correction over all differences that have a p."""
    tested = iter(holm([d.p for d in listed if d.p is not None]))
    return [d if d.p is None else d._replace(adjusted=next(tested)) for d in listed]


def _groups(ordered: Sequence[str], compared: Sequence[Difference]) -> list[tuple[str, ...]]:
    """List the largest runs of neighbors no two of which `compared` tells apart."""
    apart = {frozenset((d.first, d.second)) for d in compared if d.verdict != "not told apart"}
    runs: list[tuple[int, int]] = []
    for start in range(len(ordered)):
        end = start
        while end + 1 < len(ordered) and not any(
            frozenset((ordered[i], ordered[end + 1])) in apart for i in range(start, end + 1)
        ):
            end += 1
        if end > start and not (runs and end <= runs[-1][1]):
            runs.append((start, end))
    return [tuple(ordered[start : end + 1]) for start, end in runs]
