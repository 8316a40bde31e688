"""The tables of a folder: a line for each method, equal ones folded, and gray what does not tell a map from noise."""

# tested in tests/evaluate/suite/test_tables.py

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

from .._store.store import Store
from .._tables.grid import Cell, Grid
from .figures import Draws, Figure, Line, lines_of
from .grades import MEAN_OF, Grade, grades_of, gray_of
from .measures import LEAD, MEASURES
from .plan import GRADED
from .protocol import TRACKS, Suite

FEWEST = 8
"""A table ranks a line of so many photos or more, where another line has them: one photo has no interval."""


class Table(NamedTuple):
    """The numbers of a track.

    Attributes:
        track: of `TRACKS`.
        id: of the protocol.
        lead: the measure that orders the lines: that of `LEAD`, or the first that is not gray; None if all are.
        lines: in the order of the lead measure, without one by name; then those of few photos, controls last.
        figures: of each line, measure to estimate.
        gray: measures that do not tell a map from noise; they enter no rank.
        like_best: of each line, whether the lead measure does not tell it from the best.
        told: pairs of methods that the lead measure tells apart, and all pairs.
        left_out: the setting that these pictures do not have, and why; empty for none.
        further: how the network was trained further on pictures without one cell; empty where it was not.
    """

    track: str
    id: str
    lead: str | None
    lines: list[Line]
    figures: list[dict[str, Figure]]
    gray: dict[str, bool]
    like_best: list[bool]
    told: tuple[int, int]
    left_out: str = ""
    further: str = ""


def tables_of(store: Store) -> list[Table]:
    """Make the table of each track that a folder has rows of."""
    gray = gray_of(grades_of(store), GRADED)
    found = [_table(store, track, gray) for track in TRACKS if track in LEAD]
    return [table for table in found if table is not None]


def _table(store: Store, track: str, gray: dict[str, bool]) -> Table | None:
    """Make one table; None without rows."""
    lines = lines_of(store, track)
    if not lines:
        return None
    record = store.header["protocols"]["grid"]["record"]
    draws = Draws(lines, record, store.header["protocol"]["seed"])
    lead = _lead(track, lines, gray)
    figures = [{name: draws.figure(values) for name, values in line.numbers.items() if values} for line in lines]

    photos = [each[lead].clusters if lead in each else 0 for each in figures] if lead else [0] * len(lines)
    enough = min(FEWEST, max(photos))

    def order(at: int) -> tuple[bool, bool, float, str]:
        found = figures[at].get(lead) if lead else None
        few = photos[at] < enough
        return lines[at].control, few, -(found.value if found else float("-inf")), "" if lead else lines[at].name

    places = sorted(range(len(lines)), key=order)
    methods = [at for at in places if lead and not lines[at].control and lead in figures[at] and photos[at] >= enough]
    alike = [at in methods and not _told(draws, lines[at], lines[methods[0]], lead or "") for at in places]
    pairs = list(combinations(methods, 2))
    told = sum(_told(draws, lines[one], lines[other], lead or "") for one, other in pairs)
    ordered, estimates = [lines[at] for at in places], [figures[at] for at in places]
    name = store.header["protocols"][track]["id"]
    left_out = _left_out(store, record) if track == "grid" else ""
    further = record["model"].get("trained_further", "")
    return Table(track, name, lead, ordered, estimates, gray, alike, (told, len(pairs)), left_out, further)


def _left_out(store: Store, record: dict[str, Any]) -> str:
    """Say why a folder has no rows of DiPart; they come before those of DiFull."""
    kinds = {row.photo.partition("/")[0] for row in store.rows}
    if "dipart" in kinds or "difull" not in kinds:
        return ""
    side = record["parameters"]["side"]
    if record["grids"]["scale"] != 1:
        return "DiPart is left out: the network takes no larger picture, and cells are smaller than its input."
    return f"DiPart is left out: {side} cells a side do not divide the last features of the grid."


def _lead(track: str, lines: Sequence[Line], gray: dict[str, bool]) -> str | None:
    """Return the measure that ranks the methods of a track; None where none tells a map from noise."""
    has = {name for line in lines for name, values in line.numbers.items() if values}
    own = (name for name, measure in MEASURES.items() if measure.track == track and name in has)
    return next((name for name in (LEAD[track], *own) if not gray.get(name)), None)


def _told(draws: Draws, one: Line, other: Line, lead: str) -> bool:
    """Whether the lead measure tells two lines apart."""
    if one is other:
        return False
    low, high = draws.difference(one.numbers[lead], other.numbers[lead])
    return low > 0 or high < 0


def grid_of(table: Table, suite: Suite, *, intervals: bool = True) -> Grid:
    """Lay a table out, with the costs beside the numbers."""
    names = [name for name, measure in MEASURES.items() if measure.track == table.track]
    names = [name for name in names if any(name in figures for figures in table.figures)]
    lead, counted = table.lead, _counts(table, names)
    heads = [("method", ""), *((_head(name, table), "higher") for name in names)]
    heads += [*([("n", "")] if counted else []), ("forwards", "")]
    alone = sum(table.like_best) == 1
    lines = []
    for at, (line, figures, alike) in enumerate(zip(table.lines, table.figures, table.like_best, strict=True)):
        cells = [Cell(line.label)]
        for name in names:
            best = name == lead and alike and alone
            mark = "=" if name == lead and alike and not alone else ""
            cells.append(_cell(figures.get(name), best, mark, intervals)._replace(gray=table.gray.get(name, False)))
        cells += [Cell(counted[at])] if counted else []
        cells.append(Cell("" if line.control or line.forwards is None else f"{line.forwards:.3g}"))
        lines.append(cells)
    controls = [line.control for line in table.lines]
    gray = [i for i, name in enumerate(names, 1) if table.gray.get(name)]
    title = f"{table.id}, {f'by {lead}' if lead else 'ranked by nothing'}"
    notes = _notes(table, names, suite, bool(counted))
    return Grid(title, heads, lines, controls, notes, f"tab:{table.track}", gray)


def _counts(table: Table, names: Sequence[str]) -> list[str]:
    """Return how many maps each line has a number of; none where all lines have the same number."""
    first = table.lead or names[0]
    counts = [figures[first].n if first in figures else 0 for figures in table.figures]
    # a control that lacks the measure has an empty cell
    said = {count for count, line in zip(counts, table.lines, strict=True) if count or not line.control}
    return [f"{count or ''}" for count in counts] if len(said) > 1 else []


def _head(name: str, table: Table) -> str:
    """Name a column; in parentheses what does not tell a map from noise."""
    return f"({name})" if table.gray.get(name) else name


def _cell(figure: Figure | None, best: bool, mark: str, intervals: bool) -> Cell:
    """Write an estimate."""
    if figure is None:
        return Cell("")
    interval = f"[{without_zero(figure.low)}, {without_zero(figure.high)}]" if intervals else ""
    return Cell(without_zero(figure.value, 3), best, mark, interval)


def without_zero(value: float, digits: int = 2) -> str:
    """Write a number without the zero ahead of the point."""
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def _notes(table: Table, names: Sequence[str], suite: Suite, counts_differ: bool) -> list[str]:
    """Say how to read a table."""
    lead, (told, pairs) = table.lead, table.told
    counts = {figures[lead or names[0]].clusters for figures in table.figures if (lead or names[0]) in figures}
    notes = [f"{name}: {MEASURES[name].about}; {_cost(name, suite)}." for name in names]
    many = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{next(iter(counts), 0)}"
    apart = f" {lead} tells {told} of {pairs} pairs apart." if lead else ""
    notes.append(f"Intervals: 95 %, of {many} photos, which are resampled.{apart}")
    if table.track == "single":
        how = f"was trained further: {table.further.strip().rstrip('.')}" if table.further else "was not"
        notes.append(
            f"IDSDS compares networks only where each was trained further on pictures without one cell; this one {how}."
        )
    if table.left_out:
        notes.append(table.left_out)
    if counts_differ:
        notes.append(
            f"n: maps of the line, by {lead or names[0]}; lines of other n have other photos. Lines of fewer than "
            f"{FEWEST} photos stand below the others, and are not ranked."
        )
    if lead:
        notes.append("* : best, and told from all others. = : best, or not told from it (paired, by photo).")
    notes += [f"One map: {line.name}." for line in table.lines if len(line.names) > 2]
    gray = [name for name in names if table.gray.get(name)]
    if gray:
        notes.append(f"In parentheses: {', '.join(gray)} does not tell a map from its shuffle here, and ranks nothing.")
    elif not any(name in table.gray for name in names) and table.track not in ("grid", "tiny"):
        notes.append("Not graded in this folder: --tracks grade says whether a measure tells a map from its shuffle.")
    return notes


def _cost(name: str, suite: Suite) -> str:
    """Write what a measure costs beside the explanation."""
    measure = MEASURES[name]
    shared, own = measure.shared(suite), measure.own(suite)
    parts = [f"{shared} forwards a photo, for all methods" if shared else "", f"{own} forwards a map" if own else ""]
    return " and ".join(filter(None, parts)) or "no forwards"


def grid_of_grades(grades: Sequence[Grade], track_id: str, *, partial: bool = False) -> Grid:
    """Lay the grades out, those that do not tell a map from noise in parentheses.

    Args:
        grades: of `grades_of`.
        track_id: of the protocol.
        partial: whether they are by values that change places, and not by the shuffle.
    """
    bases = list(dict.fromkeys(grade.base for grade in grades))
    by_name = {(grade.name, grade.base): grade for grade in grades}
    names = list(
        dict.fromkeys(grade.name for grade in sorted(grades, key=lambda g: (g.base != bases[0], -g.mean, -g.one)))
    )
    photos = max((grade.photos for grade in grades), default=0)
    few = min(MEAN_OF, photos)
    heads = [("metric", "")]
    for base in bases:
        heads += [(f"{base}: one photo", "higher"), (f"mean of {few}", "higher"), ("whole - noise", "")]
    lines, dim = [], []
    for name in names:
        first = by_name.get((name, bases[0]))
        gray = first is not None and not first.tells
        cells = [Cell(f"({name})" if gray else name)]
        for base in bases:
            grade = by_name.get((name, base))
            if grade is None:
                cells += [Cell(""), Cell(""), Cell("")]
            else:
                interval = f"[{grade.low:.3g}, {grade.high:.3g}]"
                cells += [Cell(without_zero(grade.one)), Cell(without_zero(grade.mean)), Cell(interval)]
        lines.append([cell._replace(gray=gray) for cell in cells])
        dim.append(gray)
    way = (
        "A share of a map's values changes places among themselves, so that their histogram stays (F-Fidelity)"
        if partial
        else "A map is replaced by its own shuffle in steps"
    )
    notes = [
        f"{way}, on {photos} photos. Columns: rank correlation of the metric "
        f"with the step, 1 if each step is worse; the same of the mean over {few} photos; 95 % interval of the metric "
        "of the map less that of its full shuffle, its sign turned where lower is better.",
        "In parentheses: the interval holds 0 or lies below it. The metric does not tell this map from noise"
        + (", and ranks nothing." if not partial else ". What ranks is decided by the shuffle above."),
    ]
    what = "of which more and more values change places" if partial else "that is shuffled more and more"
    title = f"{track_id}: which metrics order a map {what}"
    return Grid(title, heads, lines, dim, notes, "tab:partial" if partial else "tab:grade")


def grids_of_grades(store: Store) -> list[Grid]:
    """Lay out the grades of a folder: by the shuffle, then by values that change places."""
    track_id = store.header["protocols"]["grade"]["id"]
    both = [(partial, grades_of(store, partial=partial)) for partial in (False, True)]
    return [grid_of_grades(grades, track_id, partial=partial) for partial, grades in both if grades]


def grids_of(store: Store, *, intervals: bool = True) -> list[Grid]:
    """Lay out all tables of a folder: the tracks, then the grades."""
    suite = suite_of(store.header)
    found = [grid_of(table, suite, intervals=intervals) for table in tables_of(store)]
    return [*found, *grids_of_grades(store)]


def suite_of(header: dict[str, Any]) -> Suite:
    """Read the settings back from the records of a folder."""
    settings: dict[str, Any] = {}
    for protocol in header["protocols"].values():
        settings |= protocol["record"]["parameters"]
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    return Suite(**given)
