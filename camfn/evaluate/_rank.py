"""The ranked table of a run: means over photos, bootstrap intervals, ranks and costs."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .._shared.errors import UsageError
from ._core import Row
from ._own import in_order, known_metric
from ._store import Store

LEADS = ("energy_in_box", "insertion", "road_combined")
"""Metrics to order by, unless the caller names one: the first with numbers."""

RESAMPLES = 1000
"""Number of bootstrap resamples of the photos."""


class Estimate(NamedTuple):
    """A metric of one case.

    Attributes:
        value: the metric over all photos that have a number.
        low: lower end of the 95 % bootstrap interval over photos.
        high: upper end of this interval.
        photos: number of photos that have a number.
        gain: interval (low, high) of the difference from the center baseline, on the same photos; positive is better.
    """

    value: float
    low: float
    high: float
    photos: int
    gain: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """`+` if all of `gain` is better than the center baseline, `-` if all of it is worse, otherwise empty."""
        if self.gain is None:
            return ""
        return "+" if self.gain[0] > 0 else "-" if self.gain[1] < 0 else ""


class Standing(NamedTuple):
    """A case in the ranked table.

    Attributes:
        case: `str(Case)`.
        estimates: metric to estimate.
        ranks: metric to rank, 1 for the best; cases equal to four digits share their mean rank. Empty for a baseline.
        rank: mean of the ranks; None for a baseline.
        forwards: mean cost of an explanation, in forwards.
        seconds: median time of an explanation.
        problems: number of rows with a problem.
    """

    case: str
    estimates: dict[str, Estimate]
    ranks: dict[str, float]
    rank: float | None
    forwards: float | None
    seconds: float | None
    problems: int

    @property
    def method(self) -> str:
        """The method with its options, and the layer where it is not "auto"."""
        _, layer, method = self.case.split(" ", 2)
        return method if layer == "auto" else f"{method} @ {layer}"

    @property
    def is_baseline(self) -> bool:
        """Whether this is the center or the random map."""
        return self.method.partition(" ")[0] in ("center", "random")


def models_of(rows: Sequence[Row]) -> list[str]:
    """List the models of the rows."""
    return list(dict.fromkeys(row.case.split(" ", 1)[0] for row in rows if row.case))


def lead_of(metrics: Sequence[str], by: str | None = None) -> str:
    """Choose the metric to order by: `by`, or the first of `LEADS` among `metrics`.

    Raises:
        UsageError: `by` is not among the metrics, or has no better direction.
    """
    ranked = [name for name in metrics if known_metric(name).better]
    if by is not None and by not in ranked:
        raise UsageError(f"cannot rank by {by!r}: expected one of {', '.join(ranked)}")
    return by or next((name for name in LEADS if name in ranked), ranked[0] if ranked else "complexity")


def rank(rows: Sequence[Row], model: str, *, by: str | None = None, seed: int = 0) -> list[Standing]:
    """Rank the cases of one model.

    Args:
        rows: the rows of a `Store`.
        model: name of the model.
        by: the metric to order by; by default energy in box, or insertion for photos without boxes.
        seed: seed of the bootstrap.

    Returns:
        One standing for each case, the best first, with the baselines among them.

    Raises:
        UsageError: no row of the model has a number, or `by` has none.

    Example:
        >>> rows = [Row("a", "net auto x", values={"iou": 0.5}), Row("a", "net auto y", values={"iou": 0.75})]
        >>> [(standing.method, standing.rank) for standing in rank(rows, "net")]
        [('y', 1.0), ('x', 2.0)]
    """
    of_model = [row for row in rows if row.case.split(" ", 1)[0] == model]
    photos = sorted({row.photo for row in of_model})
    measured = {name for row in of_model for name in row.values}
    names = in_order(measured)
    if not names:
        raise UsageError(
            f"no numbers of {model} to rank: every row has a problem, as {of_model[0].problem if of_model else ''!r}"
        )
    lead = lead_of(names, by)
    by_case: dict[str, list[Row]] = {}
    for row in of_model:
        by_case.setdefault(row.case, []).append(row)
    # times[r, p]: how often resample r contains photo p; all cases have the same, so that they differ on equal photos
    drawn = torch.randint(len(photos), (RESAMPLES, len(photos)), generator=torch.Generator().manual_seed(seed))
    times = torch.zeros(RESAMPLES, len(photos), dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(drawn.shape, dtype=torch.float64)
    )
    times = torch.cat([torch.ones(1, len(photos), dtype=torch.float64), times])
    estimates: dict[str, dict[str, Estimate]] = {case: {} for case in by_case}
    for name in names:
        center = next(
            (_resampled(rows_, name, photos, times) for case, rows_ in by_case.items() if _is_center(case)), None
        )
        for case, rows_ in by_case.items():
            estimate = _estimate(rows_, name, photos, times, None if _is_center(case) else center)
            if estimate is not None:
                estimates[case][name] = estimate
    standings = [_standing(case, by_case[case], estimates) for case in by_case]
    sign = known_metric(lead).better or 1
    return sorted(standings, key=lambda s: -sign * s.estimates[lead].value if lead in s.estimates else float("inf"))


def write_table(standings: Sequence[Standing], path: str | os.PathLike[str]) -> None:
    """Write a ranked table as CSV: for each metric its value, its interval, and its verdict beside the center baseline.

    Args:
        standings: the result of `rank`.
        path: the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_table(rank([Row("a", "net auto x", values={"iou": 0.5})], "net"), Path(folder, "table.csv"))
        ...     Path(folder, "table.csv").read_text().splitlines()[1]
        'net auto x,1,,,1,0.5,0.5,0.5,'
    """
    names = in_order({name for s in standings for name in s.estimates})
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        columns = [
            column for name in names for column in (name, f"{name}_low", f"{name}_high", f"{name}_beside_center")
        ]
        writer.writerow(["case", "mean_rank", "forwards", "seconds", "photos", *columns])
        for s in standings:
            cells: list[object] = [s.case, _short(s.rank), _short(s.forwards), _short(s.seconds)]
            cells.append(max((e.photos for e in s.estimates.values()), default=0))
            for name in names:
                e = s.estimates.get(name)
                cells += ["", "", "", ""] if e is None else [_short(e.value), _short(e.low), _short(e.high), e.verdict]
            writer.writerow(cells)


def write_tables(store: Store, *, by: str | None = None) -> list[Path]:
    """Write the ranked table of each model into the folder of a run.

    Args:
        store: the folder of a run.
        by: the metric to order by.

    Returns:
        The files, table-MODEL.csv, with `-` in place of `:` and `/`.

    Example:
        >>> import tempfile
        >>> from camfn.evaluate import Protocol
        >>> from camfn.evaluate._store import header_of
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = Store(folder, header_of(Protocol(metrics=("iou",)), "cpu"))
        ...     with store.writing():
        ...         store.append(Row("cat", "net auto grad_cam", values={"iou": 0.5}))
        ...     [path.name for path in write_tables(store)]
        ['table-net.csv']
    """
    files = []
    for model in models_of(store.rows):
        path = store.folder / f"table-{model.replace(':', '-').replace('/', '-')}.csv"
        write_table(rank(store.rows, model, by=by), path)
        files.append(path)
    return files


def _is_center(case: str) -> bool:
    """Whether a case is the center baseline."""
    return case.endswith(" center")


def _resampled(rows: Sequence[Row], name: str, photos: Sequence[str], times: Tensor) -> tuple[Tensor, Tensor]:
    """Compute a metric of one case on each resample of the photos.

    A mean over a resample is a product of matrices: `times`, (1 + RESAMPLES, photos), counts how often each resample
    contains each photo, so `times @ values / times @ have` are all means at once. Row 0 of `times` is ones: the photos
    as they are. A metric that is not a mean, such as MaxBoxAcc, is computed anew by `Metric.join` on the vectors of
    each resample.

    Returns:
        The metric of each resample, (1 + RESAMPLES,), NaN for a resample without a number; and 1 for each photo that
        has a number, otherwise 0, (photos,).
    """
    join = known_metric(name).join
    place = {photo: i for i, photo in enumerate(photos)}
    have = torch.zeros(len(photos), dtype=torch.float64)
    values = torch.zeros(len(photos), dtype=torch.float64)
    vectors: dict[int, list[float]] = {}
    for row in rows:
        if name in row.values:
            have[place[row.photo]] = 1
            values[place[row.photo]] = row.values[name]
            vectors[place[row.photo]] = row.vectors.get(name, [])
    if join is None:
        return (times @ (values * have)) / (times @ have), have
    order = sorted(vectors)
    ious = torch.tensor([vectors[i] for i in order], dtype=torch.float64)
    counts = times[:, order].long()
    return torch.stack(
        [join(ious.repeat_interleave(count, 0)) if count.any() else torch.tensor(float("nan")) for count in counts]
    ).double(), have


def _estimate(
    rows: Sequence[Row], name: str, photos: Sequence[str], times: Tensor, center: tuple[Tensor, Tensor] | None
) -> Estimate | None:
    """Estimate a metric of one case; `center` has the resamples of the center baseline. None without a number."""
    if not any(name in row.values for row in rows):
        return None
    resamples, have = _resampled(rows, name, photos, times)
    low, high = _interval(resamples[1:])
    gain = None
    if center is not None and known_metric(name).better and bool((center[1] == have).all()):
        gain = _interval((known_metric(name).better * (resamples - center[0]))[1:])
    return Estimate(resamples[0].item(), low, high, int(have.sum()), gain)


def _interval(values: Tensor) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles, without NaN."""
    low, high = torch.nanquantile(values, torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return low, high


def _standing(case: str, rows: Sequence[Row], estimates: dict[str, dict[str, Estimate]]) -> Standing:
    """Make the standing of a case of its rows, and rank its estimates among those of all methods."""
    forwards = [row.forwards for row in rows if row.forwards is not None]
    seconds = sorted(row.seconds for row in rows if row.seconds is not None)
    standing = Standing(
        case,
        estimates[case],
        {},
        None,
        sum(forwards) / len(forwards) if forwards else None,
        seconds[len(seconds) // 2] if seconds else None,
        sum(bool(row.problem) for row in rows),
    )
    if standing.is_baseline:
        return standing
    ranks = {}
    for name, estimate in estimates[case].items():
        better = known_metric(name).better
        others = [
            round(e[name].value * better, 4) for other, e in estimates.items() if name in e and not _is_baseline(other)
        ]
        if better:
            # four digits, since methods whose maps coincide differ by rounding
            value = round(estimate.value * better, 4)
            ranks[name] = 1 + sum(other > value for other in others) + (sum(other == value for other in others) - 1) / 2
    return standing._replace(ranks=ranks, rank=sum(ranks.values()) / len(ranks) if ranks else None)


def _is_baseline(case: str) -> bool:
    """Whether a case is the center or the random baseline."""
    return case.endswith((" center", " random"))


def _short(value: float | None) -> str:
    """Write a number with four digits; None is empty."""
    return "" if value is None else f"{value:.4g}"
