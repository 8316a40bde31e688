"""Write the tables of runs of the suite into the docs, and a leaderboard: `python -m benchmarks.suite FOLDER...`.

The leaderboard names the day and the commit of this folder as those of the runs.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from itertools import chain
from pathlib import Path

from camfn.evaluate import Store
from camfn.evaluate._suite.board import Made, board_of, write_board
from camfn.evaluate._suite.tables import FEWEST, Table, grid_of, grids_of_grades, suite_of, tables_of, without_zero

DOCS = Path(__file__).parent.parent / "docs"
START, END = "<!-- tables -->", "<!-- end of the tables -->"
TRACKS = {
    "grid": "Photos in a grid",
    "tiny": "The digit, and its parts",
    "single": "Single deletions",
    "groups": "Groups of pixels",
    "ceiling": "The way to the best order",
    "contrast": "Why this class and not another",
}
GRADES = ("Grades by the shuffle", "Grades by values that change places")


def main(folders: Sequence[str]) -> None:
    """Write the tables of the folders, in this order."""
    stores = [Store(folder) for folder in folders]
    asked = ["git", "-C", str(DOCS), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    for store in stores:
        write_board(board_of(store, Made("camfn", date.today().isoformat(), commit)), DOCS / "leaderboard.csv")
    _write(DOCS / "suite-tables.md", chain.from_iterable(_model(store) for store in stores))
    _write(DOCS / "suite.md", chain.from_iterable(_short(store) for store in stores))


def _write(page: Path, parts: Iterator[str]) -> None:
    """Write what stands between the two marks of a page."""
    text = page.read_text(encoding="utf-8")
    before, after = text.partition(START)[0], text.partition(END)[2]
    # an interval stays on one line of its cell
    tables = re.sub(r"\[(-?[\d.]+), (-?[\d.]+)\]", "[\\1,\u00a0\\2]", "\n\n".join(parts))
    page.write_text(f"{before}{START}\n\n{tables}\n\n{END}{after}", encoding="utf-8")


def _model(store: Store) -> Iterator[str]:
    """Yield all tables of a model, each with a heading."""
    yield f"## {_name(store)}"
    suite = suite_of(store.header)
    for table in tables_of(store):
        yield f"### {TRACKS[table.track]}, `{_name(store)}`"
        yield grid_of(table, suite).to_markdown().strip()
    for title, grid in zip(GRADES, grids_of_grades(store)):
        yield f"### {title}, `{_name(store)}`"
        yield grid.to_markdown().strip()


def _short(store: Store) -> Iterator[str]:
    """Yield one table of a model: each method, and the number that orders each track."""
    tables = [table for table in tables_of(store) if table.lead]
    methods = dict.fromkeys(name for table in tables for line in table.lines for name in line.names)
    equal: dict[tuple[str, ...], list[str]] = {}
    for name in methods:
        equal.setdefault(tuple(_cell(table, name) for table in tables), []).append(name.replace("_", r"\_"))
    yield f"**{_name(store)}**: " + ", ".join(f"`{table.lead}` of `{table.track}`" for table in tables) + "."
    rows = [["method", *(f"{table.lead} ↑" for table in tables)], ["---", *("---:" for _ in tables)]]
    rows += [[" = ".join(names), *cells] for cells, names in equal.items()]
    yield "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(table: Table, name: str) -> str:
    """Write the number that orders a track, in bold where it is the best or not told from it; none of few photos."""
    assert table.lead is not None
    for line, figures, best in zip(table.lines, table.figures, table.like_best, strict=True):
        figure = figures.get(table.lead)
        if name in line.names and figure is not None and figure.clusters >= FEWEST:
            text = without_zero(figure.value)
            return f"**{text}**" if best else text
    return ""


def _name(store: Store) -> str:
    model: str = store.header["protocols"]["grid"]["record"]["model"]["spec"]
    return model


if __name__ == "__main__":
    main(sys.argv[1:])
