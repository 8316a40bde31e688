"""The ranked table of a run: means over photos, bootstrap intervals, ranks, costs, and what is not told apart."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..._shared.errors import UsageError
from .._measures.own import in_order, known_metric
from .._measures.row import Row
from .._store.store import Store
from .records import file_names, frame_of, write_table, write_text
from .resample import Draws, alike, by_case, draw, interval, resampled, tolerance
from .standing import Estimate, Standing, Standings, is_baseline
from .standing import models_of as models_of_cases
from .table import grid_of
from .versus import differences

LEADS = ("energy_in_box", "insertion", "road_combined")
"""Metrics to order by, unless the caller names one: the first with numbers."""


class Ranking(Standings):
    """The ranked table of one model: a sequence of standings, the best first.

    Attributes:
        standings: one for each case, with the baselines among them.
        model: name of the model.
        by: the metric that orders them.
        photos: number of photos.
    """

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with a line for each case, and the columns of table-MODEL.csv as numbers.

        Raises:
            MissingPackageError: pandas is missing.

        Example:
            >>> rows = [Row("a", "net auto x", values={"iou": 0.5}), Row("a", "net auto y", values={"iou": 0.75})]
            >>> rank(rows, "net").to_pandas()[["method", "iou"]].values.tolist()
            [['y', 0.75], ['x', 0.5]]
        """
        return frame_of(self.standings)

    def to_latex(
        self, path: str | os.PathLike[str] | None = None, *, metrics: Sequence[str] | None = None, wide: bool = False
    ) -> str:
        r"""Return the table in LaTeX, for `\usepackage{booktabs,graphicx}`; a table wider than a line shrinks to it.

        Args:
            path: a file to write it to, too.
            metrics: the columns; None for the metrics that matter most.
            wide: all metrics, each with its interval.

        Example:
            >>> rows = [Row("a", "net auto x", values={"iou": 0.5}), Row("a", "net auto y", values={"iou": 0.75})]
            >>> print(rank(rows, "net").to_latex().splitlines()[10])
                y & \textbf{0.750} \\
        """
        return write_text(grid_of(self, metrics, wide).to_latex(), path)

    def to_markdown(
        self, path: str | os.PathLike[str] | None = None, *, metrics: Sequence[str] | None = None, wide: bool = False
    ) -> str:
        """Return the table in Markdown; arguments as of `to_latex`.

        Example:
            >>> rows = [Row("a", "net auto x", values={"iou": 0.5}), Row("a", "net auto y", values={"iou": 0.75})]
            >>> print(rank(rows, "net").to_markdown().splitlines()[4])
            | y | **0.750** |
        """
        return write_text(grid_of(self, metrics, wide).to_markdown(), path)

    def to_text(self, *, metrics: Sequence[str] | None = None, wide: bool = False, width: int = 100) -> str:
        """Return the table as `camfn evaluate` prints it, in lines of at most `width` characters unless `wide`."""
        return grid_of(self, metrics, wide, width).to_text()

    def _repr_html_(self) -> str:
        """Show the table in a notebook, with the metrics that matter most."""
        return grid_of(self).to_html()


def models_of(rows: Sequence[Row]) -> list[str]:
    """List the models of the rows."""
    return models_of_cases(row.case for row in rows)


def lead_of(metrics: Sequence[str], by: str | None = None) -> str:
    """Choose the metric to order by: `by`, or the first of `LEADS` among `metrics`.

    Raises:
        UsageError: `by` is not among the metrics, or has no better direction.
    """
    ranked = [name for name in metrics if known_metric(name).better]
    if by is not None and by not in ranked:
        raise UsageError(f"cannot rank by {by!r}: expected one of {', '.join(ranked)}")
    return by or next((name for name in LEADS if name in ranked), ranked[0] if ranked else "complexity")


def rank(rows: Sequence[Row], model: str, *, by: str | None = None, seed: int = 0) -> Ranking:
    """Rank the cases of one model.

    Args:
        rows: the rows of a `Store`.
        model: name of the model.
        by: the metric to order by; by default energy in box, or insertion for photos without boxes.
        seed: seed of the bootstrap.

    Returns:
        One standing for each case, the best first, with the baselines among them. The best is marked `*`, and each
        case that `differences` does not tell apart from it `=`; `level` says the same for every metric.

    Raises:
        UsageError: no row of the model has a number, or `by` has none.

    Example:
        >>> rows = [Row("a", "net auto x", values={"iou": 0.5}), Row("a", "net auto y", values={"iou": 0.75})]
        >>> [(standing.method, standing.ranks, standing.mark) for standing in rank(rows, "net")]
        [('y', {'iou': 1.0}, '*'), ('x', {'iou': 2.0}, '=')]
    """
    of_case = by_case(rows, model)
    names = in_order({name for listed in of_case.values() for row in listed for name in row.values})
    if not names:
        raise UsageError(f"no numbers of {model} to rank: {_why_none(rows, model)}")
    lead = lead_of(names, by)
    draws = draw([row for listed in of_case.values() for row in listed], seed)
    estimates = _estimates(of_case, names, draws)
    ranks = _ranks(estimates, names)
    sign = known_metric(lead).better or 1
    found = [_standing(case, of_case[case], estimates[case], ranks[case], model) for case in of_case]
    found.sort(key=lambda s: -sign * s.estimates[lead].value if lead in s.estimates else float("inf"))
    return Ranking(tuple(_marked(found, rows, model, lead, seed)), model, lead, len(draws.photos))


def write_tables(store: Store, *, by: str | None = None) -> list[Path]:
    """Write the ranked table of each model into the folder of a run.

    Args:
        store: the folder of a run.
        by: the metric to order by.

    Returns:
        The files, table-MODEL.csv, with `-` in place of what file names do not take, such as `:` and `/`.

    Example:
        >>> import tempfile
        >>> from camfn.evaluate import Protocol
        >>> from camfn.evaluate._store.store import header_of
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = Store(folder, header_of(Protocol(metrics=("iou",)), "cpu"))
        ...     with store.writing():
        ...         store.append(Row("cat", "net auto grad_cam", values={"iou": 0.5}))
        ...     [path.name for path in write_tables(store)]
        ['table-net.csv']
    """
    found, _ = rankings(store.rows, by=by)
    names = file_names(models_of(store.rows))
    files = [store.folder / f"table-{names[ranking.model]}.csv" for ranking in found]
    for ranking, file in zip(found, files):
        write_table(ranking, file)
    return files


def rankings(rows: Sequence[Row], *, by: str | None = None, seed: int = 0) -> tuple[list[Ranking], list[str]]:
    """Rank the cases of each model, and say of each model without numbers why it has none.

    Raises:
        UsageError: no model has numbers, or `by` has none.
    """
    found, without = [], []
    for model in models_of(rows):
        try:
            found.append(rank(rows, model, by=by, seed=seed))
        except UsageError as error:  # noqa: PERF203  one model in a few
            without.append(str(error))
    if not found:
        raise UsageError(" ".join(without) or f"no numbers to rank: {_why_none(rows, '')}")
    return found, without


def _why_none(rows: Sequence[Row], model: str) -> str:
    """Say why a model has no numbers: photos that cannot be read, or a problem in every row."""
    of_model = [row for row in rows if row.case.startswith(f"{model} ")]
    unread = [row for row in rows if not row.case]
    if of_model:
        problem = next((row.problem for row in of_model if row.problem), "no metric that its photos allow")
        return f"every row has a problem, as {problem!r}"
    if unread:
        read = "the photo could not be" if len(unread) == 1 else f"none of the {len(unread)} photos could be"
        return f"{read} read, as {unread[0].photo}: {unread[0].problem}"
    return "there are no rows"


def _estimates(of_case: dict[str, list[Row]], names: Sequence[str], draws: Draws) -> dict[str, dict[str, Estimate]]:
    """Estimate each metric of each case, beside the center baseline."""
    found: dict[str, dict[str, Estimate]] = {case: {} for case in of_case}
    center_case = next((case for case in of_case if case.endswith(" auto center")), None)
    for name in names:
        center = None if center_case is None else resampled(of_case[center_case], name, draws)
        for case, listed in of_case.items():
            estimate = _estimate(listed, name, draws, None if case == center_case else center)
            if estimate is not None:
                found[case][name] = estimate
    return found


def _estimate(rows: Sequence[Row], name: str, draws: Draws, center: tuple[Tensor, Tensor] | None) -> Estimate | None:
    """Estimate a metric of one case; `center` has the resamples of the center baseline. None without a number."""
    if not any(name in row.values for row in rows):
        return None
    resamples, have = resampled(rows, name, draws)
    low, high = interval(resamples[1:]) if have.sum() > 1 else (float("nan"), float("nan"))
    gain = None
    if center is not None and known_metric(name).better and bool((center[1] == have).all()):
        gain = interval((known_metric(name).better * (resamples - center[0]))[1:])
    return Estimate(resamples[0].item(), low, high, int(have.sum()), gain)


def _ranks(estimates: dict[str, dict[str, Estimate]], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Rank the methods by each metric; the baselines have no ranks."""
    found: dict[str, dict[str, float]] = {case: {} for case in estimates}
    for name in names:
        better = known_metric(name).better
        values = {
            case: e[name].value for case, e in estimates.items() if better and name in e and not is_baseline(case)
        }
        scores = alike([better * value for value in values.values()], tolerance(values.values()))
        for case, score in zip(values, scores):
            found[case][name] = 1 + sum(other > score for other in scores) + (scores.count(score) - 1) / 2
    return found


def _standing(
    case: str, rows: Sequence[Row], estimates: dict[str, Estimate], ranks: dict[str, float], model: str
) -> Standing:
    """Make the standing of a case of its rows, estimates and ranks."""
    forwards = [row.forwards for row in rows if row.forwards is not None]
    seconds = sorted(row.seconds for row in rows if row.seconds is not None)
    return Standing(
        case,
        estimates,
        ranks,
        sum(forwards) / len(forwards) if forwards else None,
        seconds[len(seconds) // 2] if seconds else None,
        sum(bool(row.problem) for row in rows),
        model,
    )


def _marked(found: Sequence[Standing], rows: Sequence[Row], model: str, lead: str, seed: int) -> Iterator[Standing]:
    """Mark the best method by `lead`, and what is not told apart from the best by each metric."""
    names = in_order({name for s in found for name in s.estimates})
    best = {name: _best(found, name) for name in names}
    level = {name: _level(rows, model, name, case, seed) for name, case in best.items() if case is not None}
    for s in found:
        by = tuple(name for name in level if s.case in level[name])
        mark = "*" if s.case == best.get(lead) else "=" if lead in by else ""
        yield s._replace(mark=mark, level=by)


def _best(found: Sequence[Standing], name: str) -> str | None:
    """Return the best method by a metric, baselines aside; a mean over fewer photos cannot win."""
    have = [s for s in found if name in s.estimates]
    most = max((s.estimates[name].photos for s in have), default=0)
    able = [s for s in have if not s.is_baseline and s.estimates[name].photos == most]
    better = known_metric(name).better or 1
    return max(able, key=lambda s: better * s.estimates[name].value).case if able else None


def _level(rows: Sequence[Row], model: str, name: str, best: str, seed: int) -> set[str]:
    """List the cases that are not told apart from the best by a metric; none where there is no test."""
    if known_metric(name).join is not None or not known_metric(name).better:
        return set()
    pairs = differences(rows, model, name, seed=seed)
    level = [d for d in pairs if d.verdict == "not told apart" and best in (d.first, d.second)]
    return {case for d in level for case in (d.first, d.second)} - {best}
