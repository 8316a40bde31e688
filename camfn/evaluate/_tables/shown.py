"""What the report shows of one model: columns, rows with equal ones folded, sentences, and the numbers of the plots."""

# tested in tests/evaluate/tables/test_report.py

from __future__ import annotations

import shlex
from collections.abc import Sequence
from math import isfinite
from typing import Any

from .._measures.metrics import METRICS
from .._measures.own import in_order, known_metric, short
from .._measures.row import Row
from .grid import Cell
from .standing import Standing, Standings, labels
from .table import column_of, notes_of, photos_of, three_digits

_GROUPS = {
    "max_sensitivity": "robustness",
    "randomization": "robustness",
    "coherency": "robustness",
    "complexity": "shape",
    "adcc": "summary",
    "arcc": "summary",
}
"""Groups of the metrics that need no boxes; all others ask whether the map is faithful to the network."""

_ORDER = ("localization", "faithfulness", "robustness", "summary", "shape", "your own", "cost")
_AT_FIRST = ("localization", "faithfulness", "your own")
CURVES = ("deletion", "insertion", "pixel_flipping")
"""Metrics whose vectors are probabilities over the share of pixels that changed."""


def readable(text: str) -> str:
    """Write what cannot be seen, or turns the direction of writing, as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def group_of(name: str) -> str:
    """Return the group of a metric."""
    if name not in METRICS:
        return "your own"
    if METRICS[name].boxes:
        return "localization"
    return _GROUPS.get(name, "faithfulness" if METRICS[name].better else "shape")


def model_of(ranking: Standings, rows: Sequence[Row], step: float) -> dict[str, Any]:
    """Return what the template reads of a model; `rows` are those of its cases."""
    measured = in_order({name for s in ranking for name in s.estimates})
    names = [ranking.by, *(name for name in measured if name != ranking.by)]
    names.sort(key=lambda name: name != ranking.by and 1 + _ORDER.index(group_of(name)))
    groups = [group for group in _ORDER if group in {"cost", *map(group_of, names)}]
    shown = [group for group in groups if group in {*_AT_FIRST, group_of(ranking.by)}]
    columns = _columns(ranking, names, shown)
    folded = fold(ranking)
    of_metric = {name: column_of(ranking, name, True) for name in names}
    listed = [_line(group, ranking, columns, of_metric) for group in folded]
    methods = [s for s in ranking if not s.is_baseline]
    return {
        "name": ranking.model,
        "short": f"{photos_of(ranking.photos)}, {len(methods)} method{'s' * (len(methods) != 1)}",
        "facts": _facts(ranking, rows, len(methods), len(measured)),
        "sentences": sentences(ranking, folded),
        "command": _command(ranking),
        "groups": groups,
        "shown": shown,
        "by": ranking.by,
        "metric": short(ranking.by),
        "columns": columns,
        "rows": listed,
        "notes": [note for note in notes_of(ranking) if note[:1] not in "*=+["],
        "gallery": [],
        "data": _numbers(ranking, rows, folded, of_metric, step),
    }


def fold(ranking: Standings) -> list[list[Standing]]:
    """Group the cases that are equal but for rounding in every metric, in the order of the table; baselines last."""
    names = {name for s in ranking for name in s.estimates}
    largest = {name: max(abs(s.estimates[name].value) for s in ranking if name in s.estimates) for name in names}
    groups: list[list[Standing]] = []
    for s in ranking:
        twin = next((group for group in groups if _equal(group[0], s, largest)), None)
        if twin is None or s.is_baseline or twin[0].is_baseline:
            groups.append([s])
        else:
            twin.append(s)
    return sorted(groups, key=lambda group: group[0].is_baseline)


def _equal(one: Standing, other: Standing, largest: dict[str, float]) -> bool:
    """Whether two cases have the same metrics, and all their numbers agree to four digits, or to rounding near zero."""
    if not one.estimates or one.estimates.keys() != other.estimates.keys():
        return False
    for name, e in one.estimates.items():
        a, b = e.value, other.estimates[name].value
        if abs(a - b) > max(1e-4 * max(abs(a), abs(b)), 1e-12 * largest[name]):
            return False
    return True


def _columns(ranking: Standings, names: Sequence[str], shown: Sequence[str]) -> list[dict[str, Any]]:
    """List the columns: the metric that orders, costs, the other metrics by group."""
    found = []
    for name in names:
        info, group = known_metric(name), group_of(name)
        arrow = {1: "↑", -1: "↓", 0: ""}[info.better]
        found.append(
            {"key": name, "label": short(name).replace("_", " "), "arrow": arrow, "up": int(info.better >= 0)}
            | {"about": info.about, "group": "" if name == ranking.by else group}
        )
    costs = [("forwards", "forwards", "", ""), ("seconds", "seconds", "median time of one explanation", "cost")]
    for place, (key, label, about, group) in enumerate(costs):
        about = about or "operations of one explanation over those of one forward of the network"
        column = {"key": key, "label": label, "arrow": "", "up": 0, "about": about, "group": group}
        found.insert(1 + place if not group else len(found), column)
    return [column | {"shown": column["group"] in ("", *shown)} for column in found]


def _line(
    group: Sequence[Standing], ranking: Standings, columns: Sequence[dict[str, Any]], of_metric: dict[str, list[Cell]]
) -> dict[str, Any]:
    """Return one row of the table: a case, and those that are equal to it."""
    called, first, place = labels(ranking), group[0], list(ranking).index(group[0])
    costs = {"forwards": first.forwards, "seconds": first.seconds}
    cells = []
    for column in columns:
        key = column["key"]
        if key in costs:
            cell, value = Cell(three_digits(costs[key])), costs[key]
        else:
            cell = of_metric[key][place]
            value = first.estimates[key].value if key in first.estimates else None
        look = "best" if cell.best else "level" if "=" in cell.mark else ""
        cells.append(
            {"text": cell.text or "–", "mark": cell.mark.replace("-", "−"), "interval": cell.interval, "look": look}
            | {"value": "" if value is None else f"{value:.9g}", "group": column["group"], "shown": column["shown"]}
        )
    same = [called[s.case] for s in group[1:]]
    return {"name": called[first.case], "same": same, "base": first.is_baseline, "cells": cells}


def _facts(ranking: Standings, rows: Sequence[Row], methods: int, metrics: int) -> list[tuple[str, object]]:
    """Count what was measured, and name the layers that were explained."""
    own = [row for row in rows if row.layer and not any(row.case == s.case and s.is_baseline for s in ranking)]
    layers = list(dict.fromkeys(row.layer for row in own))
    listed = ", ".join(layers[:4]) + (f" and {len(layers) - 4} more" if len(layers) > 4 else "")
    found: list[tuple[str, object]] = [("photos", ranking.photos), ("methods", methods), ("metrics", metrics)]
    return [*found, *([("layer" if len(layers) == 1 else "layers", listed)] if layers else [])]


def sentences(ranking: Standings, folded: Sequence[Sequence[Standing]]) -> list[str]:
    """Say in words what the rows show: the best, what is not told apart from it, at which cost, beside the center."""
    called, by, name = labels(ranking), ranking.by, short(ranking.by).replace("_", " ")
    methods = [s for s in ranking if not s.is_baseline and by in s.estimates]
    best = next((s for s in methods if s.mark == "*"), None)
    if best is None:
        return [f"No method has a number of {name}."]
    e = best.estimates[by]
    interval = f", 95 % interval {e.low:.3g} to {e.high:.3g}" if e.low == e.low else ""
    found = [f"{called[best.case]} does best by {name}: {e.value:.3g}{interval}."]
    others, level = len(methods) - 1, [s for s in methods if s.mark == "="]
    if others and known_metric(by).join is None and known_metric(by).better:
        if not level:
            found.append(f"It is told apart from {'the other method' if others == 1 else f'all {others} others'}.")
        elif len(level) == others:
            who = "The other method is not" if others == 1 else f"None of the {others} others is"
            found.append(f"{who} told apart from it: these photos cannot rank them.")
        else:
            found.append(
                f"{len(level)} of the {others} others {'is' if len(level) == 1 else 'are'} not told apart from it."
            )
        cheap = min([best, *level], key=lambda s: round(s.forwards or 1e9, 2))
        if cheap.forwards and best.forwards and cheap.forwards < 0.95 * best.forwards:
            few, many = three_digits(cheap.forwards), three_digits(best.forwards)
            costs = f"{few} forward{'s' * (few != '1')} in place of {many}"
            found.append(f"The cheapest of these, {called[cheap.case]}, costs {costs}.")
    if any(s.case.endswith(" auto center") for s in ranking):
        above = sum(s.estimates[by].verdict == "+" for s in methods)
        who = f"{above} of {len(methods)} methods are" if others else f"It is {'' if above else 'not '}"
        found.append(f"{who.strip()} better than the center baseline, which asks no network.")
    twins = max(folded, key=len)
    if len(twins) > 1:
        names = [called[s.case] for s in twins]
        found.append(f"{', '.join(names[:-1])} and {names[-1]} are equal in every number.")
    return found


def _command(ranking: Standings) -> str:
    """Write the command that explains a photo by the best method."""
    best = next((s for s in ranking if s.mark == "*"), None)
    if best is None:
        return ""
    method, _, layer = best.method.partition(" @ ")
    words = ["camfn", "explain", "PHOTO", "--model", ranking.model, "--method", method]
    return shlex.join([*words, *(["--layer", layer] if layer else [])])


def _numbers(
    ranking: Standings,
    rows: Sequence[Row],
    folded: Sequence[Sequence[Standing]],
    of_metric: dict[str, list[Cell]],
    step: float,
) -> dict[str, Any]:
    """Return the numbers of the plots: for each row mean, ends of the interval, and 2 for the best, 1 for level."""
    called, place = labels(ranking), {s.case: number for number, s in enumerate(ranking)}
    listed = []
    for group in folded:
        first, numbers = group[0], {}
        for name, cells in of_metric.items():
            if name in first.estimates:
                e, cell = first.estimates[name], cells[place[first.case]]
                rank = 2 if cell.best else int("=" in cell.mark)
                numbers[name] = [_rounded(e.value), _rounded(e.low), _rounded(e.high), rank]
        one = {
            "n": readable(called[first.case]),
            "base": int(first.is_baseline),
            "f": _rounded(first.forwards),
            "m": numbers,
        }
        one["center"] = int(first.case.endswith(" auto center"))
        listed.append(one | {"c": _curves(first.case, rows)})
    arrows = {1: " ↑", -1: " ↓", 0: ""}
    names = {name: short(name).replace("_", " ") + arrows[known_metric(name).better] for name in of_metric}
    return {"by": ranking.by, "metrics": names, "step": step, "rows": listed}


def _curves(case: str, rows: Sequence[Row]) -> dict[str, list[float]]:
    """Return the mean curves of a case."""
    found = {}
    for name in CURVES:
        curves = [row.vectors[name] for row in rows if row.case == case and row.vectors.get(name)]
        if curves and len({len(curve) for curve in curves}) == 1:
            mean = [sum(column) / len(column) for column in zip(*curves)]
            if all(map(isfinite, mean)):
                found[name] = [round(value, 5) for value in mean]
    return found


def _rounded(value: float | None) -> float | None:
    """Return a number with seven digits; None for one that is not finite, which JSON cannot hold."""
    return None if value is None or not isfinite(value) else float(f"{value:.7g}")
