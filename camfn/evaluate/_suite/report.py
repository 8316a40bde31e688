"""The suite's report: all tables of all models on one page, from the template of `write_report`."""

# tested in tests/evaluate/suite/test_report.py

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from shlex import join
from typing import Any
from urllib.parse import quote

from .._store.export import write_file
from .._store.store import Store
from .._tables.grid import Cell, Grid
from .._tables.report import facts_of, problems_of, rendered
from .grades import grades_of
from .strips import strips_of
from .tables import Table, grid_of, grids_of_grades, suite_of, tables_of

_ARROWS = {"higher": "↑", "lower": "↓", "": ""}
_FILES = ("rows.csv", "leaderboard.csv", "run.json", "maps", "accidents.txt")


def write_suite_report(stores: Sequence[Store], folder: Path, *, command: str = "") -> Path:
    """Write report.html of runs of the suite: one file that contains all and opens no connection.

    Args:
        stores: the folder of each model.
        folder: where to write it.
        command: the command that made the run, to be copied.

    Returns:
        The file.

    Raises:
        MissingPackageError: jinja2 is missing.
    """
    models = [_model(store, folder) for store in stores]
    shown = join(["camfn", "suite", "table", folder.name or "."])
    made: dict[str, Any] = {
        "title": "Does the map show the right answer?",
        "fingerprint": sha256(repr(models).encode(errors="backslashreplace")).hexdigest(),
        "facts": [fact for fact in facts_of(stores[0]) if fact[0] != "photos"],  # notes count those of each table
        "commands": [*([command] if command else []), shown, join(["camfn", "suite", "verify", folder.name or "."])],
        "links": [],
        "models": models,
        "without": [],
        "problems": [problem for store in stores for problem in problems_of(store)],
        "protocol": _settings(stores),
        "about": "Every track has a right answer: the rows truth, both, center and random are maps made of it, or of "
        "nothing. The numbers are means over photos, and camfn suite verify makes them again from the maps.",
    }
    path = folder / "report.html"
    write_file(path, rendered(made))
    return path


def _model(store: Store, folder: Path) -> dict[str, Any]:
    """Return what the template reads of one model."""
    suite, tables, grades = suite_of(store.header), tables_of(store), grades_of(store)
    shown = [_table(grid_of(table, suite), sentence(table)) for table in tables]
    for table, made in zip(tables, shown, strict=True):
        made["strips"] = strips_of(store, table.lines) if table.track == "grid" else None
    said = f"{sum(grade.tells for grade in grades)} of {len(grades)} metrics tell a map from its shuffle."
    histogram = "The values of the map are the same at every step, in other places."
    shown += [_table(grid, each) for grid, each in zip(grids_of_grades(store), (said, histogram), strict=False)]
    inside = "" if store.folder == folder else f"{quote(store.folder.name)}/"
    links = [(name, inside + name) for name in _FILES if (store.folder / name).exists()]
    many = f"{len(shown)} table{'s' * (len(shown) != 1)}"
    return {"name": store.folder.name, "short": many, "tables": shown, "links": links, "data": None, "gallery": []}


def _settings(stores: Sequence[Store]) -> list[tuple[str, str]]:
    """List the settings, which all models share; of the tracks those that have rows."""
    tracks = list(dict.fromkeys(table.track for store in stores for table in tables_of(store)))
    tracks += ["grade"] if any(map(grades_of, stores)) else []
    settings = vars(suite_of(stores[0].header)) | {"tracks": tracks}
    told = {
        name: ", ".join(map(str, one)) if isinstance(one, (list, tuple)) else str(one) for name, one in settings.items()
    }
    return [(name.replace("_", " "), value) for name, value in told.items()]


def sentence(table: Table) -> str:
    """Say which method is best, how sure this is, and how many pairs the lead measure tells apart."""
    lead, (told, pairs) = table.lead, table.told
    best = next((at for at, line in enumerate(table.lines) if not line.control), None)
    if lead is None or best is None or lead not in table.figures[best]:
        return "No measure of this track tells a map from noise, so that it ranks no method."
    figure, level = table.figures[best][lead], sum(table.like_best) - 1
    who = (
        f"{level} other{'s are' if level > 1 else ' is'} not told from the best"
        if level
        else "The best is told from all others"
    )
    apart = f" {lead} tells {told} of {pairs} pair{'s' * (pairs != 1)} apart." if pairs else ""
    value = f"{figure.value:.3f}, 95 % interval {figure.low:.2f} to {figure.high:.2f}"
    alone = len([line for line in table.lines if not line.control]) == 1
    names = table.lines[best].names
    called = f"{', '.join(names[:-1])} and {names[-1]} do" if len(names) > 1 else f"{names[0]} does"
    return f"{called} best by {lead}: {value}.{'' if alone else f' {who}.'}{apart}"


def _table(grid: Grid, said: str) -> dict[str, Any]:
    """Return a table as the template reads it."""
    heads = [
        {"label": name.replace("_", " ") if place else name, "arrow": _ARROWS[way], "gray": place in grid.gray}
        | {"up": int(way != "lower")}
        for place, (name, way) in enumerate(grid.heads)
    ]
    rows = [
        {
            "name": line[0].text,
            "base": dim and not line[0].gray,
            "gray": line[0].gray,
            "cells": list(map(_cell, line[1:])),
        }
        for line, dim in zip(grid.lines, grid.dim, strict=True)
    ]
    notes = list(map(_note, grid.notes))
    return {"title": grid.title, "said": said, "heads": heads, "rows": rows, "notes": notes, "strips": None}


def _note(note: str) -> str:
    """Write a note with the page's marks: the best is green."""
    return note.replace("* : ", "Green: ").replace(" = : ", " =: ")


def _cell(cell: Cell) -> dict[str, Any]:
    """Return a cell as the template reads it; `value` is what the table is sorted by."""
    try:
        value = f"{float(cell.text):.9g}"
    except ValueError:
        value = ""
    look = "gray" if cell.gray else "best" if cell.best else "level" if "=" in cell.mark else ""
    return {"text": cell.text or "–", "mark": cell.mark, "interval": cell.interval, "look": look, "value": value}
