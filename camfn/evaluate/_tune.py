"""Choose the case that is best by one metric, and measure it on photos that had no part in the choice."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .._shared.errors import UsageError
from ._inputs.cases import BASELINES, Case
from ._inputs.photos import Photo
from ._inputs.protocol import Protocol
from ._measures.metrics import METRICS, Metric
from ._measures.own import metrics_of
from ._measures.row import Row
from ._runs.run import run
from ._store.store import Store
from ._tables.grid import Grid, latex_of, markdown_of
from ._tables.rank import Ranking, rank
from ._tables.records import write_text
from ._tables.standing import Estimate
from ._tables.table import grid_of, grid_of_differences
from ._tables.versus import Difference, differences


class Tuned(NamedTuple):
    """The result of `tune`.

    Attributes:
        case: the best case on the photos for tuning.
        tuning: all candidates, ranked on the photos for tuning.
        held_out: estimate of the best case on the photos held out, with the difference from the center baseline.
        default: estimate of `grad_cam` at the suggested layer on the photos held out, for comparison.
        photos: names of the photos held out.
        against: the best case against the default, the center and the random baseline on the photos held out, as
            `differences` compares them, with the correction for these comparisons.
    """

    case: Case
    tuning: Ranking
    held_out: Estimate
    default: Estimate
    photos: list[str]
    against: list[Difference]

    def to_latex(self, path: str | os.PathLike[str] | None = None) -> str:
        r"""Return both tables in LaTeX, for `\usepackage{booktabs,graphicx}`: the candidates, and those held out.

        Args:
            path: a file to write it to, too.
        """
        return write_text(latex_of(self.grids()), path)

    def to_markdown(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return both tables in Markdown; arguments as of `to_latex`."""
        return write_text(markdown_of(self.grids()), path)

    def grids(self) -> list[Grid]:
        """Lay out both tables: the candidates on the photos for tuning, and the best against the others held out."""
        held = grid_of_differences(self.against, self.tuning.by, (), self.case.model)
        return [grid_of(self.tuning), held._replace(title=f"{held.title}, on the photos held out")]

    def _repr_html_(self) -> str:
        """Show both tables in a notebook."""
        return "".join(grid.to_html() for grid in self.grids())


def tune(
    photos: Sequence[Photo],
    cases: Sequence[Case],
    metric: str | Metric,
    out: str | os.PathLike[str],
    *,
    share: float = 0.5,
    protocol: Protocol | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Tuned:
    """Choose the layer, method and options that are best by a metric.

    The seed splits the photos in two parts. `tune` compares the candidates on one part, and measures the best once on
    the other part: on the photos of the choice, the best of many looks better than it is.

    Args:
        photos: from `read_photos`.
        cases: candidates of one model, from `cases`, with several layers and options.
        metric: a name of `METRICS`, "file.py:mine:better=lower", or what `metric` returns; with a better direction.
        out: a folder; the results are in its folders `tuning` and `held-out`, and a run that was killed goes on.
        share: the share of the photos to hold out.
        protocol: the settings of the measurement; `tune` replaces its metrics by `metric`.
        progress: called with (rows done, rows to do) after each row, in both runs.
        options: options of `run`: loader, device, engine, workers, force.

    Returns:
        The best case, and its estimate on the photos held out.

    Raises:
        UsageError: fewer than two photos on a side, several models, or no such metric.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from camfn.evaluate import cases, read_photos
        >>> from camfn.zoo import load
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for color in ("red", "green", "blue", "white"):
        ...         Image.new("RGB", (64, 64), color).save(f"{folder}/{color}.png")
        ...     candidates = cases(["net"], ["grad_cam", "eigen_cam"])
        ...     weightless = lambda name: load("torchvision:resnet18", weights="none")
        ...     protocol = Protocol(target="top")
        ...     best = tune(
        ...         read_photos(folder), candidates, "complexity", f"{folder}/out", protocol=protocol, loader=weightless
        ...     )
        >>> best.held_out.photos
        2
    """
    if isinstance(metric, str) and metric in METRICS and not METRICS[metric].better:
        better = ", ".join(name for name in METRICS if METRICS[name].better)
        raise UsageError(f"cannot tune for {metric!r}: expected one of {better}")
    protocol = replace(protocol or Protocol(), metrics=(metric,))
    ((metric, found),) = metrics_of(protocol).items()
    if not found.better:
        raise UsageError(
            f"cannot tune for {metric!r}: expected a metric that says which way is better, higher or lower"
        )
    if len({case.model for case in cases}) != 1:
        raise UsageError("tune: expected the cases of one model")
    count = round(share * len(photos))
    if min(count, len(photos) - count) < 2:
        raise UsageError(
            f"tune: {len(photos)} photos at a held-out share of {share:g} leave {len(photos) - count} to choose "
            f"with and {count} to measure: expected two or more of each"
        )
    order = torch.randperm(len(photos), generator=protocol.generator("held-out")).tolist()
    held_out = [photos[i] for i in sorted(order[:count])]
    for_tuning = [photos[i] for i in sorted(order[count:])]
    model = cases[0].model
    store = run(for_tuning, cases, Path(out) / "tuning", protocol=protocol, progress=progress, **options)
    standings = rank(_rows_of(store, for_tuning, cases), model, by=metric)
    # a case that fails on some photos has a mean over the remaining, perhaps easier ones: `rank` does not mark it
    best = next((standing for standing in standings if standing.mark == "*"), None)
    if best is None:
        raise UsageError(f"tune: no candidate has a number for {metric}: do the photos have boxes?")
    case = next(case for case in cases if str(case) == best.case)
    default = Case(model, "auto", "grad_cam")
    finalists = list(dict.fromkeys([case, default, *(Case(model, "auto", name) for name in BASELINES)]))
    store = run(held_out, finalists, Path(out) / "held-out", protocol=protocol, progress=progress, **options)
    held = _rows_of(store, held_out, finalists)
    estimates = {standing.case: standing.estimates.get(metric) for standing in rank(held, model, by=metric)}
    of_best, of_default = estimates.get(str(case)), estimates.get(str(default))
    if of_best is None or of_default is None:
        raise UsageError(f"tune: {case} has no number for {metric} on the photos held out")
    against = differences(held, model, metric, against=str(case))
    return Tuned(case, standings, of_best, of_default, sorted(photo.name for photo in held_out), against)


def _rows_of(store: Store, photos: Sequence[Photo], cases: Sequence[Case]) -> list[Row]:
    """Select the rows of these photos and cases; the folder may have others from an earlier run."""
    names, listed = {photo.name for photo in photos}, {str(case) for case in cases}
    return [row for row in store.rows if row.photo in names and row.case in listed]
