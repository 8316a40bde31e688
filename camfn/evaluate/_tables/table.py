"""What the tables show: the ranked methods, and one method against the others, with how to read them."""

# tested in tests/evaluate/tables/test_grid.py

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..._shared.errors import UsageError
from .._measures.own import in_order, known_metric, short
from .difference import Difference
from .grid import Cell, Grid
from .records import slug
from .resample import LEVEL, fewest, tolerance
from .standing import Standing, Standings, is_baseline, labels, models_of

PRINTED = ("energy_in_box", "iou", "pointing_game", "insertion", "deletion", "road_combined", "average_drop", "adcc")
"""Metrics of the narrow tables, after the one that orders; the wide ones have all metrics."""

_DIRECTION = {1: "higher", -1: "lower", 0: ""}
_COSTS: dict[str, Callable[[Standing], float | None]] = {
    "forwards": lambda s: s.forwards,
    "seconds": lambda s: s.seconds,
}


def grid_of(
    ranking: Standings, metrics: Sequence[str] | None = None, wide: bool = False, width: int | None = None
) -> Grid:
    """Lay out the ranked table: the metric that orders first, then others while a line has `width` characters."""
    measured = in_order({name for s in ranking for name in s.estimates})
    for name in metrics or ():
        if name not in measured:
            raise UsageError(f"no numbers of {name!r}: expected some of {', '.join(measured)}")
    others = [name for name in metrics or measured if name != ranking.by]
    if metrics is None and not wide:
        ranked = [name for name in others if known_metric(name).better]
        others = [*(name for name in PRINTED if name in ranked), *(name for name in ranked if name not in PRINTED)]
        others = others[: len(PRINTED) - 1]
    costs = ["forwards", *(["seconds"] if wide else [])]
    found = _laid_out(ranking, [ranking.by, *others], wide, costs)
    while width is not None and not wide and found.width > width and (others or costs):
        (others.pop if others else costs.pop)(-1 if others else 0)
        found = _laid_out(ranking, [ranking.by, *others], wide, costs)
    hidden = len(measured) - 1 - len(others)
    if width is not None and hidden:
        also = f"--wide: {hidden} more metric{'s' if hidden > 1 else ''}, and the intervals of all."
        found = found._replace(notes=[*found.notes, also])
    return found


def grid_of_differences(listed: Sequence[Difference], metric: str, standings: Sequence[Standing], model: str) -> Grid:
    """Lay out the differences of one case, the first of each pair, from the others.

    Args:
        listed: of one case.
        metric: the metric that was compared.
        standings: all cases, of which no two are to be called the same; empty for those of `listed`.
        model: the model.
    """
    compared = dict.fromkeys(case for d in listed for case in (d.first, d.second))
    called = labels(standings or [Standing(case, {}, {}, None, None, 0, model) for case in compared])
    name = called[listed[0].first]
    number = _numbers([value for d in listed for value in (d.value, d.low, d.high)], sign="+")
    tested = any(d.adjusted is not None for d in listed)
    heads = ["against", "difference", "photos", *(["p (Holm)"] if tested else []), "verdict"]
    lines = []
    for d in listed:
        cells = [Cell(called[d.second]), Cell(number(d.value), interval=_interval(d.low, d.high, number))]
        cells += [Cell(str(d.photos)), *([Cell("" if d.adjusted is None else _p(d.adjusted))] if tested else [])]
        lines.append([*cells, Cell(d.verdict)])
    return Grid(
        f"{model}: {name} against the others by {short(metric)}, photo by photo",
        [(head, "") for head in heads],
        lines,
        [is_baseline(d.second) for d in listed],
        _notes_of_differences(name, sum(d.p is not None for d in listed), max(d.photos for d in listed)),
        f"tab:{slug(model)}-against",
    )


def grid_of_pairs(listed: Sequence[Difference], metric: str, model: str) -> Grid:
    """Lay out the differences of all pairs: those of one case as `grid_of_differences` does, others with both names."""
    if not listed:
        return Grid(f"{model}: nothing to compare by {short(metric)}", [("against", "")], [], [], [], "tab:none")
    of_one = grid_of_differences(listed, metric, (), model)
    if len({d.first for d in listed}) == 1:
        return of_one
    called = labels([Standing(d, {}, {}, None, None, 0, model) for d in {c: 0 for x in listed for c in x[:2]}])
    lines = [[Cell(f"{called[d.first]} - {called[d.second]}"), *line[1:]] for d, line in zip(listed, of_one.lines)]
    tests = sum(d.p is not None for d in listed)
    notes = _notes_of_differences("the first", tests, max(d.photos for d in listed))
    title = f"{model}: all pairs by {short(metric)}, photo by photo"
    return Grid(
        title, [("pair", ""), *of_one.heads[1:]], lines, [False] * len(lines), notes, f"tab:{slug(model)}-pairs"
    )


def grid_of_ranks(
    ranks: Mapping[str, float],
    metric: str,
    photos: int,
    p: float,
    groups: Sequence[Sequence[str]],
    left_out: Sequence[str],
) -> Grid:
    """Lay out mean ranks within photos, with Friedman's test and what is not told apart."""
    (model,) = models_of(ranks) or [""]
    called = labels([Standing(case, {}, {}, None, None, 0, model) for case in (*ranks, *left_out)])
    notes = [f"Friedman's test that all are alike: p {_p(p)}."]
    notes += [f"Not told apart: {', '.join(called[case] for case in group)}." for group in groups if len(group) > 1]
    notes += [f"Without a number: {', '.join(called[case] for case in left_out)}."] if left_out else []
    return Grid(
        f"{model}: mean ranks within {photos_of(photos)} by {short(metric)}",
        [("method", ""), ("mean rank", "lower")],
        [[Cell(called[case]), Cell(f"{rank:.2f}")] for case, rank in ranks.items()],
        [False] * len(ranks),
        notes,
        f"tab:{slug(model)}-ranks",
    )


def _notes_of_differences(name: str, tests: int, photos: int) -> list[str]:
    """Say how to read differences."""
    notes = [
        f"A positive difference: {name} is better, whichever way of the metric is better.",
        "[ ] 95 % bootstrap interval over photos.",
    ]
    if tests:
        notes.append("p: Wilcoxon's signed-rank test, two-sided, with Holm's correction for the lines of this table.")
    also = f", and p is below {LEVEL:g}" if tests else ""
    notes.append(f"Told apart: the interval holds no 0{also}.")
    return notes + too_few(photos, tests)


def _laid_out(ranking: Standings, names: Sequence[str], wide: bool, shown: Sequence[str]) -> Grid:
    """Lay out the ranked table with these metrics."""
    called = labels(ranking.standings)
    columns = [column_of(ranking, name, wide or name == ranking.by) for name in names]
    costs = {head: [cost(s) for s in ranking] for head, cost in _COSTS.items() if head in shown}
    costs = {head: values for head, values in costs.items() if any(values)}
    columns += [[Cell(three_digits(value)) for value in values] for values in costs.values()]
    heads = [(short(name), _DIRECTION[known_metric(name).better]) for name in names]
    direction = _DIRECTION[known_metric(ranking.by).better]
    return Grid(
        f"{ranking.model}: {photos_of(ranking.photos)}, best first by {short(ranking.by)}"
        + (f" ({direction} is better)" if direction else ""),
        [("method", ""), *heads, *((head, "") for head in costs)],
        [[Cell(called[s.case]), *(column[i] for column in columns)] for i, s in enumerate(ranking)],
        [s.is_baseline for s in ranking],
        notes_of(ranking),
        f"tab:{slug(ranking.model)}",
    )


def column_of(ranking: Standings, name: str, with_interval: bool) -> list[Cell]:
    """Write a metric of all cases: the best methods, what is not told apart, and the verdicts beside the center."""
    better = known_metric(name).better
    estimates = {s.case: s.estimates[name] for s in ranking if name in s.estimates}
    methods = [s.case for s in ranking if not s.is_baseline and s.case in estimates]
    most = max((estimates[case].photos for case in methods), default=0)
    scores = {case: better * estimates[case].value for case in methods if estimates[case].photos == most}
    top, within = max(scores.values(), default=0.0), tolerance(scores.values())
    number = _numbers([e.value for e in estimates.values()])
    cells = []
    for s in ranking:
        e = estimates.get(s.case)
        if e is None:
            cells.append(Cell(""))
            continue
        best = bool(better) and s.case in scores and top - scores[s.case] <= within
        level = "=" if name in s.level and not best else ""
        interval = _interval(e.low, e.high, number) if with_interval else ""
        cells.append(Cell(number(e.value), best, level + e.verdict, interval))
    return cells


def notes_of(ranking: Standings) -> list[str]:
    """Say how to read the ranked table."""
    called = labels(ranking.standings)
    by, notes = short(ranking.by), ["* best of its column, baselines aside."]
    if any(s.level for s in ranking):
        notes.append("= not told apart from the best of its column (Wilcoxon over photos, Holm over all pairs).")
    if any(s.case.endswith(" auto center") for s in ranking):
        notes.append("+ better, - worse than the center baseline: the interval of the difference holds no 0.")
    notes.append("[ ] 95 % bootstrap interval over photos.")
    counts = {s.case: s.estimates[ranking.by].photos for s in ranking if ranking.by in s.estimates}
    most = max(counts.values())
    notes += too_few(most, len(counts) * (len(counts) - 1) // 2 if known_metric(ranking.by).join is None else 1)
    fewer = [f"{called[case]} ({count})" for case, count in counts.items() if count < most]
    if fewer:
        notes.append(f"A mean over fewer than {most} photos, hence not comparable: {', '.join(fewer)}.")
    without = [called[s.case] for s in ranking if ranking.by not in s.estimates]
    if without:
        notes.append(f"Without a number of {by}: {', '.join(without)}.")
    return notes


def too_few(photos: int, comparisons: int) -> list[str]:
    """Say that on so few photos nothing can be told apart, whatever the numbers; nothing where something can."""
    need = fewest(comparisons)
    of = f" in {comparisons} comparisons" if comparisons > 1 else ""
    said = f"{photos_of(photos)} are too few to tell anything apart{of}: that takes {need} or more."
    return [said.replace("1 photo are", "1 photo is")] if photos < need else []


def photos_of(count: int) -> str:
    """Write a number of photos."""
    return f"{count} photo{'' if count == 1 else 's'}"


def _numbers(values: Sequence[float], sign: str = "") -> Callable[[float], str]:
    """Return how to write the numbers of a column: three decimals, or three digits for very small or large ones."""
    largest = max((abs(value) for value in values if value == value), default=0.0)
    form = f"{sign}.3f" if 0.1 <= largest < 1000 or not largest else f"{sign}.3g"
    return lambda value: format(value, form)


def _interval(low: float, high: float, number: Callable[[float], str]) -> str:
    """Write an interval; one photo has none."""
    return "" if low != low or high != high else f"[{number(low)}, {number(high)}]"


def _p(value: float) -> str:
    """Write a p-value."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def three_digits(value: float | None) -> str:
    """Write a number with three digits; None is empty."""
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"
