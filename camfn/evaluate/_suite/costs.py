"""What an explanation cost and where it looked, made again: tables print both, and no map shows them."""

# tested in tests/evaluate/suite/test_verify.py

from __future__ import annotations

from typing import Any

from ..._shared.errors import CamfnError
from .._inputs.cases import Case
from .._measures.row import Row
from .explain import CONTROLS
from .protocol import is_grade

NEAR = 0.02
"""Share by which a cost may be off: versions of torch count some operations otherwise."""


class Costs:
    """Explains a case again in the first unit of each kind that it has: there a table reads what it costs.

    Attributes:
        made: explanations that were made again.
        unknown: words of methods that are not at hand, such as a file of another's.
    """

    def __init__(self) -> None:
        self.known: set[tuple[str, str]] = set()
        self.made, self.unknown = 0, dict[str, None]()

    def wrong(self, unit: Any, row: Row, case: Case) -> list[str]:
        """Name the cost and the layer of a row that are not those of its method; nothing where they were seen before.

        Args:
            unit: of the row.
            row: a row with numbers.
            case: its case.
        """
        key = (row.photo.partition("/")[0], row.case)
        if row.method in CONTROLS or is_grade(row.photo) or key in self.known:
            return []
        self.known.add(key)
        try:
            made = unit.explain(case)
        except CamfnError:
            self.unknown[row.method] = None
            return []
        self.made += 1
        found = []
        if made.layer != row.layer:
            found.append(f"{row.photo} {row.case}: the layer is {made.layer!r}, and the row says {row.layer!r}")
        ours, theirs = made.forwards, row.forwards
        if (ours is None) != (theirs is None) or abs((ours or 0) - (theirs or 0)) > NEAR * (ours or 0):
            found.append(
                f"{row.photo} {row.case}: an explanation costs {_said(ours)} forwards, and the row says {_said(theirs)}"
            )
        return found


def _said(cost: float | None) -> str:
    """Write a cost."""
    return "no" if cost is None else f"{cost:.4g}"
