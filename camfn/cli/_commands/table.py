"""The command `camfn table`: the tables of results that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .._options.command import app
from .._options.options import option_groups
from .._terminal.tables import AS_USUAL, ByOption, TableOptions, show_tables, write_rows
from .._terminal.terminal import refusals


@app.command()
@option_groups
def table(
    folder: Annotated[Path, typer.Argument(help="Folder of an evaluation (its --out), finished or not.")] = Path(
        "evaluation"
    ),
    by: ByOption = None,
    shown: TableOptions = AS_USUAL,
) -> None:
    """Show the tables of results that are there: ranked methods, one method against the others, mean ranks.

    Reads the rows alone: it reads no photo, loads no model, and changes nothing in the folder. --parquet writes
    these rows to one file, for pandas, DuckDB or R.

        camfn table results --by insertion --against grad_cam --latex table.tex --ranks ranks.pdf
    """
    with refusals():
        from ...evaluate import Store

        shown.check()
        store = Store(folder)
        rows = write_rows(store, shown)
        written, problems = show_tables(store.rows, shown, by=by, seed=store.header["protocol"]["seed"])
    for path in [*rows, *written]:
        print(path)
    raise typer.Exit(1 if problems else 0)
