"""The case that does best on one metric, and what it does on photos that had no part in the choice."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .._shared.errors import UsageError
from ._cases import BASELINES, Case
from ._measures import METRICS
from ._photos import Photo
from ._protocol import Protocol
from ._rank import Estimate, Standing, rank
from ._run import run


class Tuned(NamedTuple):
    """What was chosen.

    Attributes:
        case: the best on the photos for tuning.
        tuning: all candidates, ranked on those photos.
        held_out: what the choice does on the others; with the difference from the center baseline.
        default: what `grad_cam` at the suggested layer does on those others, for comparison.
        photos: names of the photos held out.
    """

    case: Case
    tuning: list[Standing]
    held_out: Estimate
    default: Estimate
    photos: list[str]


def tune(
    photos: Sequence[Photo],
    cases: Sequence[Case],
    metric: str,
    out: str | os.PathLike[str],
    *,
    share: float = 0.5,
    protocol: Protocol | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Tuned:
    """Choose the layer, method and options that do best on a metric.

    The photos are split by the seed. Candidates are compared on one part; the best is then measured once on the other,
    since the best of many looks better than it is where it was chosen.

    Args:
        photos: from `read_photos`.
        cases: candidates, of one model; several layers and options, as `cases` crosses them.
        metric: a name of `METRICS` that has a better direction.
        out: a folder; results are kept in `tuning` and `held-out` there, and a run that was killed goes on.
        share: of the photos that is held out.
        protocol: how it is measured; of its metrics only `metric` counts.
        progress: told (rows done, rows to do) after each, twice.
        options: of `run`: loader, device, engine, workers, force.

    Returns:
        The choice, and its estimate on the photos held out.

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
    if metric not in METRICS or not METRICS[metric].better:
        raise UsageError(
            f"cannot tune for {metric!r}: expected one of {', '.join(n for n in METRICS if METRICS[n].better)}"
        )
    if len({case.model for case in cases}) != 1:
        raise UsageError("tune: expected the cases of one model")
    protocol = replace(protocol or Protocol(), metrics=(metric,))
    held = round(share * len(photos))
    if min(held, len(photos) - held) < 2:
        raise UsageError(
            f"tune: {len(photos)} photos at a held-out share of {share:g} leave {len(photos) - held} to choose "
            f"with and {held} to measure: expected two or more of each"
        )
    order = torch.randperm(len(photos), generator=protocol.generator("held-out")).tolist()
    aside = [photos[i] for i in sorted(order[:held])]
    kept = [photos[i] for i in sorted(order[held:])]
    model = cases[0].model
    tried = run(kept, cases, Path(out) / "tuning", protocol=protocol, progress=progress, **options)
    asked = {str(case) for case in cases}
    names = {photo.name for photo in kept}
    rows = [row for row in tried.rows if row.case in asked and row.photo in names]
    standings = rank(rows, model, by=metric)
    # a case that fails on some photos has a mean over the easier rest
    whole = max((s.estimates[metric].photos for s in standings if metric in s.estimates), default=0)
    best = next(
        (s for s in standings if not s.is_baseline and metric in s.estimates and s.estimates[metric].photos == whole),
        None,
    )
    if best is None:
        raise UsageError(f"tune: no candidate has a number for {metric}: do the photos have boxes?")
    case = next(case for case in cases if str(case) == best.case)
    usual = Case(model, "auto", "grad_cam")
    last = list(dict.fromkeys([case, usual, *(Case(model, "auto", name) for name in BASELINES)]))
    measured = run(aside, last, Path(out) / "held-out", protocol=protocol, progress=progress, **options)
    names, asked = {photo.name for photo in aside}, {str(each) for each in last}
    rows = [row for row in measured.rows if row.photo in names and row.case in asked]
    final = {s.case: s.estimates.get(metric) for s in rank(rows, model, by=metric)}
    found, default = final.get(str(case)), final.get(str(usual))
    if found is None or default is None:
        raise UsageError(f"tune: {case} has no number for {metric} on the photos held out")
    return Tuned(case, standings, found, default, sorted(names))
