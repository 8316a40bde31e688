"""Rows to a ranked table: means over photos, bootstrap intervals, ranks and costs."""

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
from ._measures import METRICS
from ._store import Store

LEADS = ("energy_in_box", "insertion", "road_combined")
"""Metrics to order by, unless one is named: the first that was measured."""

RESAMPLES = 1000


class Estimate(NamedTuple):
    """A metric of one case.

    Attributes:
        value: over the photos that have a number.
        low: lower end of the 95 % bootstrap interval, photos resampled.
        high: its upper end.
        photos: how many have a number.
        gain: interval of the difference from the center baseline, on the same photos, (low, high); positive is better.
    """

    value: float
    low: float
    high: float
    photos: int
    gain: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """`+` where it is better than the center baseline beyond the interval, `-` where worse, otherwise nothing."""
        if self.gain is None:
            return ""
        return "+" if self.gain[0] > 0 else "-" if self.gain[1] < 0 else ""


class Standing(NamedTuple):
    """A case in the ranked table.

    Attributes:
        case: as `str(Case)`.
        estimates: metric to estimate.
        ranks: metric to rank, 1 for the best, sharing the mean where equal to four digits; no baseline has one.
        rank: mean of the ranks; None for a baseline.
        forwards: mean cost of an explanation.
        seconds: median time of one.
        problems: rows with a remark.
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
    """The models that there are rows of."""
    return list(dict.fromkeys(row.case.split(" ", 1)[0] for row in rows if row.case))


def lead_of(metrics: Sequence[str], asked: str | None = None) -> str:
    """The metric to order by.

    Raises:
        UsageError: the one asked for was not measured, or only describes.
    """
    ranked = [name for name in metrics if METRICS[name].better]
    if asked is not None and asked not in ranked:
        raise UsageError(f"cannot rank by {asked!r}: expected one of {', '.join(ranked)}")
    return asked or next((name for name in LEADS if name in ranked), ranked[0] if ranked else "complexity")


def rank(rows: Sequence[Row], model: str, *, by: str | None = None, seed: int = 0) -> list[Standing]:
    """Rank the cases of one model.

    Args:
        rows: of a `Store`.
        model: whose cases.
        by: the metric to order by; by default energy in box, or insertion where there are no boxes.
        seed: of the bootstrap.

    Returns:
        The best first, baselines at their places.

    Raises:
        UsageError: there are no such numbers.

    Example:
        >>> rows = [Row("a", "net auto x", values={"iou": 0.5}), Row("a", "net auto y", values={"iou": 0.75})]
        >>> [(standing.method, standing.rank) for standing in rank(rows, "net")]
        [('y', 1.0), ('x', 2.0)]
    """
    mine = [row for row in rows if row.case.split(" ", 1)[0] == model]
    photos = sorted({row.photo for row in mine})
    found = {name for row in mine for name in row.values}
    names = [name for name in METRICS if name in found]
    if not names:
        raise UsageError(
            f"no numbers of {model} to rank: every row has a problem, as {mine[0].problem if mine else ''!r}"
        )
    lead = lead_of(names, by)
    by_case: dict[str, list[Row]] = {}
    for row in mine:
        by_case.setdefault(row.case, []).append(row)
    # how often each resample takes each photo: the same for all cases, so that differences are of the same photos
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
    sign = METRICS[lead].better or 1
    return sorted(standings, key=lambda s: -sign * s.estimates[lead].value if lead in s.estimates else float("inf"))


def write_table(standings: Sequence[Standing], path: str | os.PathLike[str]) -> None:
    """Write a ranked table as CSV: for each metric its value, its interval, and what it is beside the center baseline.

    Args:
        standings: of `rank`.
        path: the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_table(rank([Row("a", "net auto x", values={"iou": 0.5})], "net"), Path(folder, "table.csv"))
        ...     Path(folder, "table.csv").read_text().splitlines()[1]
        'net auto x,1,,,1,0.5,0.5,0.5,'
    """
    names = [name for name in METRICS if any(name in s.estimates for s in standings)]
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
    """Write the ranked table of each model beside the rows.

    Args:
        store: of a run.
        by: the metric to order by.

    Returns:
        The files, table-MODEL.csv, with no `:` or `/` in it.

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
    return case.endswith(" center")


def _resampled(rows: Sequence[Row], name: str, photos: Sequence[str], times: Tensor) -> tuple[Tensor, Tensor]:
    """The metric of each resample, (1 + RESAMPLES,), the photos as they are first; and which photos have it."""
    join = METRICS[name].join
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
    if not any(name in row.values for row in rows):
        return None
    found, have = _resampled(rows, name, photos, times)
    low, high = _interval(found[1:])
    gain = None
    if center is not None and METRICS[name].better and bool((center[1] == have).all()):
        gain = _interval((METRICS[name].better * (found - center[0]))[1:])
    return Estimate(found[0].item(), low, high, int(have.sum()), gain)


def _interval(values: Tensor) -> tuple[float, float]:
    low, high = torch.nanquantile(values, torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return low, high


def _standing(case: str, rows: Sequence[Row], estimates: dict[str, dict[str, Estimate]]) -> Standing:
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
    for name, own in estimates[case].items():
        better = METRICS[name].better
        others = [
            round(e[name].value * better, 4) for other, e in estimates.items() if name in e and not _baseline(other)
        ]
        if better:
            # equal to four digits is equal: methods whose maps coincide differ by rounding
            mine = round(own.value * better, 4)
            ranks[name] = 1 + sum(other > mine for other in others) + (sum(other == mine for other in others) - 1) / 2
    return standing._replace(ranks=ranks, rank=sum(ranks.values()) / len(ranks) if ranks else None)


def _baseline(case: str) -> bool:
    return case.endswith((" center", " random"))


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
