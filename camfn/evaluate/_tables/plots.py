"""Plots of an evaluation, by matplotlib without its global state."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..._shared.errors import UsageError
from ..._shared.files import write_whole
from ..._shared.optional import extra
from ...image._vector import KINDS, written
from .._measures.own import short
from .._measures.row import Row
from .rank import rank
from .standing import labels
from .versus import Friedman, friedman


def diagram(found: Friedman, *, called: Mapping[str, str] | None = None, kind: str = "png") -> bytes:
    """Draw mean ranks over photos on a line, the best to the left; a bar joins methods that are not told apart.

    Args:
        found: the result of `friedman`.
        called: case to its name; None for the case itself.
        kind: "png", "pdf" or "svg".

    Returns:
        The bytes of the file.
    """
    names = [(called or {}).get(case, case) for case in found.ranks]
    ranks = list(found.ranks.values())
    half, top = -(-len(ranks) // 2), 0.9 + 0.32 * len(found.groups)
    figure = empty(9, 0.9 + 0.3 * (top + half))
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(1 - 0.75 * len(ranks), 1.75 * len(ranks))
    axes.set_ylim(top + half + 0.2, -1.9)
    axes.plot([1, len(ranks)], [0, 0], color="black", linewidth=1)
    for tick in range(1, len(ranks) + 1, -(-len(ranks) // 12)):
        axes.plot([tick, tick], [-0.2, 0], color="black", linewidth=1)
        axes.text(tick, -0.35, str(tick), ha="center", va="bottom", fontsize=9)
    for place, (name, mean) in enumerate(zip(names, ranks)):
        left = place < half
        y = top + (place if left else len(ranks) - 1 - place)
        end = 1 - 0.03 * len(ranks) if left else 1.03 * len(ranks)
        axes.plot([mean, mean, end], [0, y, y], color="#888888", linewidth=0.8)
        label = f"{name}  {mean:.2f}" if left else f"{mean:.2f}  {name}"
        axes.text(end, y, f" {label} ", ha="right" if left else "left", va="center", fontsize=9)
    for place, group in enumerate(found.groups):
        ends = [found.ranks[group[0]], found.ranks[group[-1]]]
        y, more = 0.45 + 0.32 * place, 0.004 * len(ranks)
        axes.plot([ends[0] - more, ends[1] + more], [y, y], color="#1f5fa8", linewidth=3.2, solid_capstyle="round")
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
    said = f"mean rank by {short(found.metric)} over {found.photos} photos (1 is the best); Friedman: {p}"
    figure.suptitle(f"{said}\na bar joins methods that are not told apart", fontsize=10)
    return drawn(figure, kind)


def write_ranks(
    rows: Sequence[Row], model: str, path: str | os.PathLike[str], *, by: str | None = None, seed: int = 0
) -> Friedman:
    """Draw the mean ranks of the methods over photos to a file, and return them.

    A bar joins methods that `differences` does not tell apart.

    Args:
        rows: the rows of a `Store`.
        model: name of the model.
        path: the file, .png, .pdf or .svg.
        by: the metric, by default that of `rank`.
        seed: seed of the bootstrap.

    Returns:
        The result of `friedman`.

    Raises:
        UsageError: another kind of file, fewer than three methods, or fewer than two photos.
        MissingPackageError: matplotlib is missing.

    Example:
        >>> import tempfile
        >>> values = {"a": [0.9, 0.8, 0.7], "b": [0.5, 0.6, 0.4], "c": [0.1, 0.7, 0.2]}
        >>> rows = [
        ...     Row(f"photo {i}", f"net auto {name}", values={"iou": value})
        ...     for name, listed in values.items()
        ...     for i, value in enumerate(listed)
        ... ]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = write_ranks(rows, "net", f"{folder}/ranks.svg")
        >>> found.ranks["net auto a"]
        1.0
    """
    kind = Path(path).suffix.lower()[1:]
    if kind not in KINDS:
        raise UsageError(f"{path}: expected a file that ends in {', '.join(f'.{kind}' for kind in KINDS)}")
    ranking = rank(rows, model, by=by, seed=seed)
    found = friedman(rows, model, ranking.by, seed=seed)
    drawn = diagram(found, called=labels(ranking), kind=kind)
    write_whole(Path(path), lambda unfinished: unfinished.write_bytes(drawn))
    return found


def empty(width: float, height: float) -> Any:
    """Make an empty figure of this size in inches."""
    with extra("matplotlib", "a plot of results", name="evaluate"):
        from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=90)


def drawn(figure: Any, kind: str = "png") -> bytes:
    """Draw a figure as a file of this kind: letters as letters, without the date."""
    return written(figure, kind, dpi=90 if kind == "png" else 300)
