"""Plots of an evaluation for the docs: metrics against cost, mean curves, ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from camfn.evaluate import Row, Standing
from camfn.evaluate._measures.own import in_order, known_metric, short
from camfn.evaluate._tables.plots import drawn, empty
from camfn.evaluate._tables.standing import labels

_COST_PLOTS = ("energy_in_box", "iou", "insertion", "deletion", "road_combined", "average_gain", "average_drop", "adcc")
"""Metrics to plot against the cost, up to six; other metrics fill the places of those without numbers."""


def cost_plot(standings: Sequence[Standing]) -> bytes:
    """Plot metrics against the cost in forwards, with intervals; baselines are lines. Returns a PNG."""
    ranked = [s for s in standings if not s.is_baseline and s.forwards]
    called = {case: name.partition(":")[0] for case, name in labels(standings).items()}
    measured = [n for n in in_order({name for s in standings for name in s.estimates}) if known_metric(n).better]
    names = [name for name in _COST_PLOTS if name in measured][:6]
    names += [name for name in measured if name not in names][: 6 - len(names)]
    columns = min(3, len(names))
    figure = empty(5.2 * columns, 4.2 * -(-len(names) // columns))
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(-(-len(names) // columns), columns, place)
        for s in ranked:
            if name in s.estimates:
                e = s.estimates[name]
                low, high = max(0.0, e.value - e.low), max(0.0, e.high - e.value)
                axes.errorbar(
                    s.forwards, e.value, yerr=[[low], [high]], fmt="o", color="#1f5fa8", ecolor="#b9cde4", ms=4
                )
        _name_points(
            axes, [(s.forwards or 1, s.estimates[name].value, called[s.case]) for s in ranked if name in s.estimates]
        )
        for s, style in ((s, "--" if s.method == "center" else ":") for s in standings if s.is_baseline):
            if name in s.estimates:
                axes.axhline(s.estimates[name].value, color="#c0392b", linestyle=style, linewidth=1, label=s.method)
        axes.set_xscale("log")
        # room for the names of the most expensive methods
        axes.set_xlim(right=4 * max([1.0, *(s.forwards or 1.0 for s in ranked)]))
        axes.set_title(
            f"{short(name)} ({'higher' if known_metric(name).better > 0 else 'lower'} is better)", fontsize=10
        )
        axes.set_xlabel("forwards", fontsize=9)
        axes.tick_params(labelsize=8)
        if place == 1 and axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False)
    return drawn(figure)


def curve_plot(rows: Sequence[Row], standings: Sequence[Standing], step: float) -> bytes | None:
    """Plot mean curves of deletion and insertion, the five best and the baselines in color. Returns a PNG."""
    names = [name for name in ("deletion", "insertion") if any(name in row.vectors for row in rows)]
    if not names:
        return None
    figure, called = empty(6.2 * len(names), 4.4), labels(standings)
    palette = ("#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(1, len(names), place)
        order = sorted(
            (s for s in standings if name in s.estimates and not s.is_baseline),
            key=lambda s: -known_metric(name).better * s.estimates[name].value,
        )
        best = {s.case: color for s, color in zip(order, palette)}
        for s in [*reversed(order), *(s for s in standings if s.is_baseline and name in s.estimates)]:
            curves = [row.vectors[name] for row in rows if row.case == s.case and name in row.vectors]
            mean = [sum(column) / len(column) for column in zip(*curves, strict=True)]
            shares = [min(1.0, i * step) for i in range(len(mean))]
            color = best.get(s.case, "#c0392b" if s.is_baseline else "#dddddd")
            style = {"center": "--", "random": ":"}.get(s.method, "-")
            label = called[s.case] if s.case in best or s.is_baseline else None
            axes.plot(shares, mean, style, color=color, linewidth=1.6 if label else 0.8, label=label)
        axes.set_title(f"{name}: mean probability", fontsize=10)
        axes.set_xlabel(f"share of pixels {'brought back' if name == 'insertion' else 'removed'}", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8, edgecolor="none", framealpha=0.8)
    return drawn(figure)


def rank_plot(standings: Sequence[Standing]) -> bytes | None:
    """Plot the ranks of the methods (rows) by each metric (columns). Returns a PNG."""
    ranked = [s for s in standings if s.ranks]
    names = in_order({name for s in ranked for name in s.ranks})
    if not names:
        return None
    called = labels(standings)
    figure = empty(1.6 + 0.62 * len(names) + 1.6, 1.7 + 0.27 * len(ranked))
    axes = figure.add_subplot()
    grid = [[s.ranks.get(name, float("nan")) for name in names] for s in ranked]
    axes.imshow(grid, cmap="RdYlBu_r", vmin=1, vmax=max(2, len(ranked)), aspect="auto")
    for i, line in enumerate(grid):
        for j, value in enumerate(line):
            if value == value:
                dark = value < 0.15 * len(ranked) or value > 0.88 * len(ranked)
                axes.text(j, i, f"{value:g}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axes.set_xticks(range(len(names)), [short(name) for name in names], rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(ranked)), [called[s.case] for s in ranked], fontsize=8)
    axes.set_title("rank by each metric", fontsize=10)
    return drawn(figure)


def _name_points(axes: Any, points: list[tuple[float, float, str]]) -> None:
    """Write the names of points, one name for points that lie close together; the table has all names."""
    if not points:
        return
    low, high = axes.get_ylim()
    named: list[tuple[float, float]] = []
    for x, y, name in sorted(points, key=lambda point: -point[1]):
        is_near = any(abs(y - other_y) < 0.05 * (high - low) and 0.2 < x / other_x < 5 for other_x, other_y in named)
        if not is_near:
            axes.annotate(name, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=6.5)
            named.append((x, y))
