"""The table of `camfn compare`: the methods of the picture, measured on its photos as `camfn evaluate` measures."""

# tested in tests/cli/jobs/test_compare.py

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..._photos.read import ReadAs
from ...evaluate import METRICS, Case, Photo, Protocol, Row, Shared, cases, evaluate_photo
from ...evaluate._tables.rank import lead_of
from ...evaluate._tables.table import PRINTED

if TYPE_CHECKING:
    from .compare import Comparison

UNBOXED = tuple(name for name, metric in METRICS.items() if not metric.boxes)
"""Metrics that no box is needed for: the photos of a comparison have none."""


class Measured(NamedTuple):
    """What a comparison measures.

    Attributes:
        model: its name, for the title.
        by: the metric that orders the table.
        protocol: the settings, of `camfn evaluate`.
        read_as: the window of deep gray values, and the frame.
    """

    model: str
    by: str
    protocol: Protocol
    read_as: ReadAs

    def cases(self, comparison: Comparison) -> list[Case]:
        """Return the methods that the comparison drew, and the two baselines."""
        methods = [name for name in comparison.chosen if name in comparison.drawn]
        return cases([self.model], methods, [comparison.layer_name or "auto"])

    def rows(self, comparison: Comparison, photos: Sequence[Path], finished: Callable[[], None]) -> list[Row]:
        """Measure the methods that the comparison drew, at its layers; call `finished` after each on each photo."""
        found = []
        of_model, shared = self.cases(comparison), Shared()
        shared.layers.update(comparison.layers())
        measure = partial(evaluate_photo, loaded=comparison.loaded, protocol=self.protocol, shared=shared)
        for path in photos:
            photo = Photo(str(path), path, read_as=self.read_as)
            for row in measure(photo, of_model, device=comparison.device):
                if row.case:  # a photo that cannot be read was named before
                    found.append(row)
                    finished()
        return found


def measured_by(
    model: str, by: str | None, target: str | None, seed: int, chunk_size: int, read_as: ReadAs
) -> Measured:
    """Say what to measure: the metrics of the narrow tables for which no box is needed, and `by` beside them.

    Raises:
        UsageError: `by` is no metric that ranks photos without boxes.
    """
    lead = lead_of(UNBOXED, by)
    names = tuple(dict.fromkeys([lead, *(name for name in PRINTED if name in UNBOXED)]))
    protocol = Protocol(metrics=names, target=target or "top", seed=seed, chunk_size=chunk_size)
    return Measured(model, lead, protocol, read_as)


def print_refusals(rows: Sequence[Row]) -> bool:
    """Print each different refusal of a metric or a method on stderr; say whether there is one.

    What a map shows nothing for, the comparison has said.
    """
    problems = dict.fromkeys(f"{row.method}: {row.problem}" for row in rows if row.kind)
    for problem in problems:
        print(f"camfn: {problem}", file=sys.stderr)
    return bool(problems)
