"""The suite "truth" on the command line: `camfn evaluate --suite truth`, `camfn suite verify`, `camfn suite table`."""

# tested in tests/cli/commands/test_suite.py

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from .._options.command import app
from .._options.spellings import App
from .._terminal.tables import LatexOption, MarkdownOption, write_grids
from .._terminal.terminal import progress_bars, refusals

if TYPE_CHECKING:
    from ...evaluate import Store
    from ...evaluate._tables.grid import Grid

suite_app = App(
    help="Submissions of the suite `truth`: verify one, show its tables, join leaderboards.", no_args_is_help=True
)
app.add_typer(suite_app, name="suite", rich_help_panel=None)

BibOption = Annotated[
    Path | None, typer.Option(metavar="FILE.bib", help="The papers of the tracks in BibTeX.", show_default=False)
]
BoardOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE.csv", help="A leaderboard: lines of these protocols are replaced.", show_default=False),
]
ByOption = Annotated[str, typer.Option(help="Of --board: who made the run.", show_default=False)]
DateOption = Annotated[str, typer.Option(help="Of --board: when.", show_default=False)]
CommitOption = Annotated[
    str, typer.Option(help="Of --board: the commit of camfn, if no release made the run.", show_default=False)
]
PlainOption = Annotated[bool, typer.Option("--plain", help="Tables without intervals.")]
FolderArgument = Annotated[
    Path, typer.Argument(help="Folder of a run of the suite (its --out), or of one model in it.")
]


class SuiteOptions(NamedTuple):
    """What a run of the suite takes beside the options of `evaluate`; the fields are options.

    Attributes:
        suite: the name of the suite.
        tracks: of `TRACKS`.
        scenes: of the tiny world.
        grids: number of grids.
        head: functions that read a detector's boxes.
        bib: a file for the sources.
    """

    suite: Annotated[
        str | None,
        typer.Option(
            help="truth: tracks whose right answer is known, in the place of the metrics.", show_default=False
        ),
    ] = None
    tracks: Annotated[
        str | None,
        typer.Option(
            help="Of --suite: grid, tiny, single, groups, ceiling, contrast, grade. [default: all]", show_default=False
        ),
    ] = None
    scenes: Annotated[
        int | None,
        typer.Option(min=1, help="Of --suite: scenes of the tiny world. [default: 200]", show_default=False),
    ] = None
    grids: Annotated[
        int | None, typer.Option(min=1, help="Of --suite: grids of photos. [default: 30]", show_default=False)
    ] = None
    head: Annotated[
        str | None,
        typer.Option(help="Of --suite: file.py:NAME, a BoxHead that reads a detector of yours.", show_default=False),
    ] = None
    bib: BibOption = None

    def asked(self, as_usual: bool) -> bool:
        """Say whether the command names the suite, and refuse options that would do nothing.

        Args:
            as_usual: whether the options of the other evaluation are as they are by default.

        Raises:
            UsageError: options of the suite without it, or options of the other evaluation with it.
        """
        from ..._shared.errors import UsageError

        if self.suite is None and self != NO_SUITE:
            raise UsageError("--tracks, --scenes, --grids, --head and --bib are of the suite: add --suite truth")
        if self.suite is not None and not as_usual:
            raise UsageError(
                "--suite truth has a frozen protocol: of the options of the other evaluation it takes --latex and "
                "--markdown, and none of --target, --removed, --step, --infidelity-samples, --budget, --by, --wide, "
                "--against, --ranks, --parquet, --window and --frame"
            )
        return self.suite is not None

    def settings(self, seed: int, chunk_size: int) -> Any:
        """Return the settings of the suite.

        Raises:
            UsageError: another suite, or another track.
        """
        from ..._shared.errors import UsageError
        from ..._shared.lists import split_list
        from ...evaluate import Suite
        from ...evaluate._suite.protocol import TRACKS

        if self.suite != "truth":
            raise UsageError(f"--suite {self.suite}: there is one suite, truth")
        tracks = TRACKS if self.tracks in (None, "all") else tuple(split_list(self.tracks or "", "tracks"))
        said: dict[str, Any] = {"scenes": self.scenes, "grids": self.grids}
        given = {name: value for name, value in said.items() if value is not None}
        return Suite(tracks=tracks, seed=seed, chunk_size=chunk_size, **given)


NO_SUITE = SuiteOptions()


class Given(NamedTuple):
    """Words of the command that runs the suite."""

    photos: str
    models: str
    methods: str
    layers: str
    metrics: str
    out: Path
    latex: Path | None
    markdown: Path | None


def run_suite(chosen: SuiteOptions, given: Given, drawn: dict[str, int], **settings: Any) -> int:
    """Run the suite, print its tables, and write what the options name.

    Args:
        chosen: the options of the suite.
        given: words of the command.
        drawn: seed and chunk size.
        settings: of `evaluate.truth`.

    Returns:
        The number of different problems of the rows.
    """
    from ..._shared.given import named_object
    from ..._shared.lists import split_list
    from ...evaluate import truth
    from ...evaluate._runs.needed import require
    from ...evaluate._suite.report import write_suite_report

    require("jinja2", "camfn evaluate --suite", "its report")
    check_files(latex=given.latex, markdown=given.markdown, bib=chosen.bib)
    settings["photos"] = None if given.photos == "builtin" else given.photos
    settings["suite"] = chosen.settings(**drawn)
    settings["head"] = None if chosen.head is None else named_object(chosen.head, "--head")
    settings["metrics"] = None if given.metrics == "all" else tuple(split_list(given.metrics, "metrics"))
    stores: list[Store] = []
    for name in split_list(given.models, "models"):
        run = partial(truth, [name], given.methods, given.out, layers=given.layers, **settings)
        with progress_bars() as bars:
            move = partial(_move, bars, bars.add_task(f"{name}: truth", total=None))
            stores += run(progress=move if not bars.disable else _Lines(name))
    show(stores, (given.latex, given.markdown), chosen.bib, None)
    print(write_suite_report(stores, Path(given.out)))
    for store in stores:
        print(store.folder)
    return sum(map(_print_problems, stores))


class _Lines:
    """Says once a minute how far a run is, where there is no terminal for a bar: a log of hours is not empty."""

    def __init__(self, name: str, every: float = 60.0) -> None:
        self.name, self.every, self.said = name, every, monotonic()

    def __call__(self, done: int, total: int) -> None:
        if monotonic() - self.said >= self.every:
            self.said = monotonic()
            print(f"{self.name}: {done} of {total} rows", file=sys.stderr, flush=True)


def _move(bars: Any, task: Any, done: int, total: int) -> None:
    """Move a progress bar."""
    bars.update(task, completed=done, total=total)


def show(
    stores: Sequence[Store],
    files: tuple[Path | None, Path | None],
    bib: Path | None,
    board: Path | None,
    *,
    plain: bool = False,
    made: tuple[str, str, str] = ("", "", ""),
) -> None:
    """Print the tables of folders, and write the files that options name."""
    from ...evaluate._suite.board import Made, bibtex_of, board_of, write_board
    from ...evaluate._suite.tables import grids_of
    from ...evaluate._tables.records import write_text

    grids = [grid for store in stores for grid in grids_of(store, intervals=not plain)]
    for grid in grids:
        print_grid(grid)
    lines = []
    for store in stores:
        own = board_of(store, Made(*made))
        with _or_said(store.folder / "leaderboard.csv") as path:
            write_board(own, path)
        lines += own
    for path in write_grids(grids, *files):
        print(path)
    if bib is not None:
        write_text(bibtex_of({line["track"] for line in lines}), bib)
        print(bib)
    if board is not None:
        write_board(lines, board)
        print(board)


def check_files(*, board: Path | None = None, **files: Path | None) -> None:
    """Refuse files that cannot be written, before any work.

    Raises:
        UsageError: names the option.
    """
    from ..._shared.errors import UsageError
    from ...evaluate._suite.board import read_board

    for option, path in (*files.items(), ("board", board)):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UsageError(f"--{option} {path}: expected a file in a folder that exists")
    if board is not None:
        read_board(board)


def print_grid(grid: Grid) -> None:
    """Print a table; on a terminal what does not tell a map from noise is dim."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for line in grid.to_pieces():
        drawn = Text.assemble(*((text, "dim" if gray else "") for text, gray in line))
        drawn.rstrip()
        console.print(drawn, soft_wrap=True)
    console.print()


@suite_app.command("table")
def suite_table(
    folder: FolderArgument = Path("truth"),
    plain: PlainOption = False,
    latex: LatexOption = None,
    markdown: MarkdownOption = None,
    bib: BibOption = None,
    board: BoardOption = None,
    by: ByOption = "",
    date: DateOption = "",
    commit: CommitOption = "",
) -> None:
    """Show the tables of a run of the suite, and write them in LaTeX, in Markdown or to a leaderboard."""
    with refusals():
        from ..._shared.errors import UsageError
        from ...evaluate import Store
        from ...evaluate._runs.needed import require
        from ...evaluate._suite.report import write_suite_report

        require("jinja2", "camfn suite table", "its report")
        if board is None and (by or date or commit):
            raise UsageError("--by, --date and --commit are of a leaderboard: add --board FILE.csv")
        check_files(latex=latex, markdown=markdown, bib=bib, board=board)
        folders = [folder] if (folder / "results.sqlite").is_file() else sorted(folder.glob("*/"))
        stores = [Store(each) for each in folders if (each / "results.sqlite").is_file()]
        stores = [store for store in stores if "protocols" in store.header]
        if not stores:
            raise UsageError(f"no run of the suite in {folder}: camfn evaluate --suite truth --out {folder}")
        show(stores, (latex, markdown), bib, board, plain=plain, made=(by, date, commit))
        with _or_said(folder / "report.html") as report:
            print(write_suite_report(stores, report.parent))


@contextmanager
def _or_said(path: Path) -> Iterator[Path]:
    """Say on stderr that a file beside the tables cannot be written: a folder of another's may be read alone."""
    from ..._shared.files import reason_of

    try:
        yield path
    except OSError as error:
        print(f"camfn: {path} is not written: {reason_of(error)}", file=sys.stderr)


@suite_app.command("verify")
def suite_verify(
    folder: FolderArgument = Path("truth"),
    photos: Annotated[
        str | None,
        typer.Option(help="The photos, where they are neither scenes nor the built-in ones.", show_default=False),
    ] = None,
    network: Annotated[
        bool, typer.Option("--network/--no-network", help="Also make the numbers for which the network runs.")
    ] = True,
    head: Annotated[
        str | None, typer.Option(help="As for evaluate: file.py:NAME, a BoxHead of your detector.", show_default=False)
    ] = None,
) -> None:
    """Recompute a submission from its maps: ids, pictures, every number, and whether rows were left out.

    Ends with 0 if all is well, with 1 if something is not.
    """
    with refusals():
        from ..._shared.given import named_object
        from ...evaluate import verify

        reads = None if head is None else named_object(head, "--head")
        found = verify(folder, photos=photos, network=network, head=reads)
    for each in found:
        print(each.folder)
        for name in each.ids:
            print(f"  {name}")
        skipped = f"; {each.skipped} rows take the network" if each.skipped else ""
        skipped += f"; {each.without} rows have no numbers, unchecked" if each.without else ""
        print(f"  {each.numbers} numbers of {each.rows} rows made again{skipped}")
        for problem in each.problems[:20]:
            print(f"  WRONG {problem}")
        if len(each.problems) > 20:
            print(f"  and {len(each.problems) - 20} more")
        print("  " + ("verified" if not each.problems else "NOT verified"))
    raise typer.Exit(1 if any(each.problems for each in found) else 0)


def _print_problems(store: Store) -> int:
    """Print each different problem of the rows once, on stderr, and return their number."""
    from collections import Counter

    counts = Counter(row.problem for row in store.rows if row.problem)
    for problem, count in counts.most_common(20):
        print(f"camfn: {problem}{f' ({count} rows)' if count > 1 else ''}", file=sys.stderr)
    return len(counts)
