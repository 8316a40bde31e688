"""The tables of results on the terminal and in files, and the options that ask for them."""

# tested in tests/cli/commands/test_table.py

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from ...evaluate import Difference, Ranking, Row, Store
    from ...evaluate._tables.grid import Grid

ByOption = Annotated[
    str | None,
    typer.Option(
        help="The metric that orders the table. [default: energy_in_box; insertion without boxes]", show_default=False
    ),
]

LatexOption = Annotated[
    Path | None, typer.Option(metavar="FILE.tex", help="The tables in LaTeX (booktabs, graphicx).", show_default=False)
]
WideOption = Annotated[bool, typer.Option("--wide", help="All metrics and intervals, in lines as long as they get.")]
MarkdownOption = Annotated[
    Path | None, typer.Option(metavar="FILE.md", help="The tables in Markdown.", show_default=False)
]

COLUMNS = 100
"""Characters of a line of a table, unless the terminal is narrower or the user says --wide."""


class TableOptions(NamedTuple):
    """What the tables show of results; the fields are options of `evaluate` and `table`.

    Attributes:
        wide: all metrics, each with its interval.
        against: a method to compare with each other one.
        latex: a file for the tables in LaTeX.
        markdown: a file for the tables in Markdown.
        ranks: a file for the plot of the mean ranks.
        parquet: a file for the rows behind the tables.
    """

    wide: WideOption = False
    against: Annotated[
        str | None,
        typer.Option(
            help="A method of the table: its differences from each other one, photo by photo, with a test.",
            show_default=False,
        ),
    ] = None
    latex: LatexOption = None
    markdown: MarkdownOption = None
    ranks: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.pdf",
            help="A plot of mean ranks: which methods are told apart (.pdf, .svg, .png).",
            show_default=False,
        ),
    ] = None
    parquet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.parquet", help="The rows, one for each photo and method, in Parquet.", show_default=False
        ),
    ] = None

    def check(self, cases: Sequence[str] = (), models: Sequence[str] = ()) -> None:
        """Refuse files that cannot be written and, where the cases are known, a method that is none of them.

        Raises:
            UsageError: names the option.
            MissingPackageError: pyarrow is missing, which --parquet needs.
        """
        from ..._shared.errors import UsageError
        from ...evaluate._runs.needed import require
        from ...evaluate._tables.versus import find_case
        from ...image._vector import KINDS

        if self.parquet is not None:
            require("pyarrow", f"--parquet {self.parquet}", "the file")
        for option in ("latex", "markdown", "ranks", "parquet"):
            path = getattr(self, option)
            if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
                raise UsageError(f"--{option} {path}: expected a file in a folder that exists")
        if self.ranks is not None and self.ranks.suffix.lower()[1:] not in KINDS:
            raise UsageError(f"--ranks {self.ranks}: expected a file that ends in .pdf, .svg or .png")
        if self.ranks is not None:
            require("matplotlib", "--ranks", "its plot")
        for model in models if self.against is not None else ():
            find_case(self.against or "", [case for case in cases if case.startswith(f"{model} ")], model)


AS_USUAL = TableOptions()


def write_rows(store: Store, shown: TableOptions) -> list[Path]:
    """Write the rows to the file that --parquet names; return the file, if there is one."""
    if shown.parquet is None:
        return []
    store.to_parquet(shown.parquet)
    return [shown.parquet]


def show_tables(rows: Sequence[Row], shown: TableOptions, *, by: str | None, seed: int) -> tuple[list[Path], int]:
    """Print the tables of each model, and write the files that the options name.

    Returns:
        The files, and the number of lines on stderr that say what could not be shown.

    Raises:
        UsageError: no model has numbers.
    """
    from ...evaluate._tables.plots import write_ranks
    from ...evaluate._tables.rank import models_of, rankings
    from ...evaluate._tables.records import file_names
    from ...evaluate._tables.table import grid_of

    found, without = rankings(rows, by=by, seed=seed)
    names = file_names(models_of(rows))
    grids: list[Grid] = []
    written: list[Path] = []
    for ranking in found:
        if grids:
            print()
        print_table(ranking, shown.wide)
        grids.append(grid_of(ranking, wide=shown.wide))
        if shown.against is not None:
            grids += _attempt(without, _against, rows, ranking, shown.against, seed)
        if shown.ranks is not None:
            path = (
                shown.ranks if len(found) == 1 else shown.ranks.with_stem(f"{shown.ranks.stem}-{names[ranking.model]}")
            )
            if _attempt(without, write_ranks, rows, ranking.model, path, by=ranking.by, seed=seed):
                written.append(path)
    written += write_grids(grids, shown.latex, shown.markdown)
    for reason in without:
        print(f"camfn: {reason}", file=sys.stderr)
    return written, len(without)


def print_table(ranking: Ranking, wide: bool = False) -> None:
    """Print a ranked table."""
    from rich.console import Console

    console = Console()
    _print_text(ranking.to_text(wide=wide, width=min(console.width, COLUMNS) if console.is_terminal else COLUMNS))


def sentence_of(difference: Difference, name: str) -> str:
    """Say what a difference shows, as in "better than center by 0.053 to 0.307 (p 0.002)"."""
    low, high = difference.low, difference.high
    p = "" if difference.adjusted is None else f", p {difference.adjusted:.2g}"
    if difference.verdict == "not told apart":
        return f"not told apart from {name}: the difference is {low:+.3f} to {high:+.3f}{p}"
    ends = sorted((abs(low), abs(high)))
    return f"{difference.verdict} than {name} by {ends[0]:.3f} to {ends[1]:.3f}{p}"


def _against(rows: Sequence[Row], ranking: Ranking, words: str, seed: int) -> list[Grid]:
    """Print the differences of one method from the others, and return their table."""
    from ...evaluate import differences
    from ...evaluate._tables.table import grid_of_differences

    found = differences(rows, ranking.model, ranking.by, against=words, seed=seed)
    if not found:
        return []
    grid = grid_of_differences(found, ranking.by, ranking.standings, ranking.model)
    _print_text("\n" + grid.to_text())
    return [grid]


def _attempt(without: list[str], work: Any, *arguments: Any, **options: Any) -> Any:
    """Call `work`, or add why it cannot be done to `without` and return an empty tuple: the rest is still shown."""
    from ..._shared.errors import CamfnError

    try:
        return work(*arguments, **options)
    except CamfnError as error:
        without.append(str(error))
        return ()


def write_grids(grids: Sequence[Grid], latex: Path | None, markdown: Path | None) -> list[Path]:
    """Write the tables in LaTeX and in Markdown; return the files."""
    from ...evaluate._tables.grid import latex_of, markdown_of
    from ...evaluate._tables.records import write_text

    if latex is not None:
        write_text(latex_of(grids), latex)
    if markdown is not None:
        write_text(markdown_of(grids), markdown)
    return [path for path in (latex, markdown) if path is not None]


def _print_text(text: str) -> None:
    """Print a table; on a terminal the best numbers are bold, and the baselines red."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for line in text.splitlines():
        drawn = Text(line, style="red" if line.startswith(("center  ", "random  ")) else "")
        drawn.highlight_regex(r"\S+(?=\*)", "bold")
        console.print(drawn, soft_wrap=True)
