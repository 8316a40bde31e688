"""The tables of folders as one value: shown in a notebook, written in LaTeX, Markdown and plain text."""

# tested in tests/evaluate/suite/test_shown.py

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..._shared.checks import describe
from ..._shared.errors import UsageError
from .._store.store import Store
from .._tables.grid import Grid, latex_of, markdown_of
from .._tables.rank import rankings
from .._tables.records import write_text
from .._tables.table import grid_of
from .tables import grids_of


@dataclass(frozen=True)
class Tables:
    """Tables, as the commands print them; a notebook shows them.

    Attributes:
        grids: the tables.
    """

    grids: tuple[Grid, ...]

    def __len__(self) -> int:
        return len(self.grids)

    def __iter__(self) -> Iterator[Grid]:
        return iter(self.grids)

    def __str__(self) -> str:
        return "\n".join(grid.to_text() for grid in self.grids)

    def to_latex(self, path: str | os.PathLike[str] | None = None) -> str:
        r"""Return the tables in LaTeX, for `\usepackage{booktabs,graphicx,xcolor}`.

        Args:
            path: a file to write them to, too.
        """
        return write_text(latex_of(self.grids), path)

    def to_markdown(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the tables in Markdown; arguments as of `to_latex`."""
        return write_text(markdown_of(self.grids), path)

    def _repr_html_(self) -> str:
        """Show the tables in a notebook."""
        return "".join(grid.to_html() for grid in self.grids)


class Submissions(list[Store]):
    """The folders of a run of the suite, as a list that a notebook shows as their tables."""

    def _repr_html_(self) -> str:
        """Show the tables in a notebook."""
        return tables(self)._repr_html_()


def tables(stores: Store | Iterable[Store], *, by: str | None = None, intervals: bool = True) -> Tables:
    """Lay out the tables of folders: of the suite those of each track and the grades, of others the ranked methods.

    Args:
        stores: what `run` or `truth` returns, or `Store(folder)` of a folder that is there.
        by: the metric that orders the ranked methods; by default as in `rank`.
        intervals: of the suite, whether each number has its interval.

    Raises:
        UsageError: no folder, or one without numbers.

    Example:
        >>> import tempfile
        >>> from camfn.evaluate import Suite, truth
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = tables(truth("tiny:cnn", "grad_cam, fem", folder, suite=Suite(tracks=("tiny",), scenes=2)))
        >>> len(found), found.to_markdown().splitlines()[2].split(" | ")[0]
        (1, '| method')
    """
    listed = [stores] if isinstance(stores, Store) else list(stores)
    wrong = [each for each in listed if not isinstance(each, Store)]
    if wrong or not listed:
        got = describe(wrong[0]) if wrong else "none"
        raise UsageError(f"tables: stores: expected a Store, or several, got {got}: Store(folder) reads a folder")
    grids: list[Grid] = []
    for store in listed:
        if "protocols" in store.header:
            grids += grids_of(store, intervals=intervals)
        else:
            seed = store.header["protocol"]["seed"]
            grids += [grid_of(ranking) for ranking in rankings(store.rows, by=by, seed=seed)[0]]
    return Tables(tuple(grids))
