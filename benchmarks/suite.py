"""Write tables of runs of the suite into docs/suite.md, and a leaderboard: `python -m benchmarks.suite FOLDER...`."""

from __future__ import annotations

import sys
from pathlib import Path

from camfn.evaluate import Store
from camfn.evaluate._suite.board import board_of, write_board
from camfn.evaluate._suite.tables import grids_of

DOCS = Path(__file__).parent.parent / "docs"
START, END = "<!-- tables -->", "<!-- end of the tables -->"


def main(folders: list[str]) -> None:
    """Write the tables of the folders, in this order."""
    stores = [Store(folder) for folder in folders]
    tables = [grid.to_markdown() for store in stores for grid in grids_of(store)]
    for store in stores:
        write_board(board_of(store), DOCS / "leaderboard.csv")
    page = DOCS / "suite.md"
    text = page.read_text(encoding="utf-8")
    before, after = text.partition(START)[0], text.partition(END)[2]
    page.write_text(f"{before}{START}\n\n" + "\n".join(tables) + f"\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
