"""What makes rows in any worker: a unit is made once, and all cases of it share what does not look at a map."""

# tested in tests/evaluate/suite/test_run.py

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...zoo import Loaded
from .._inputs.cases import Case
from .._measures.core import failed, settle
from .._measures.memo import Shared
from .._measures.row import Row
from .._runs.work import Work
from .context import Context, Unit
from .exact import exact
from .explain import CONTROLS
from .grade import Grade, Partial
from .measures import SHARED
from .protocol import Suite, is_grade
from .regrade import Regrade
from .sources import Source
from .units import KINDS


@dataclass(frozen=True)
class Maker:
    """Makes the rows of units; a worker holds one in the place of a `Protocol`.

    Attributes:
        suite: settings.
        source: where the pictures come from.
        grids: names of the cells of each grid.
        labels: class of each cell.
        size: height and width of a grid in pixels.
        scale: 1, or the factor by which cells are smaller than the network's input.
        one_forward: operations of one forward of one picture.
        metrics: words of the metrics that are graded; None for all of `METRICS`.
        classifies: whether the network gives classes: only then there are grids, parts, questions and grades.
        kinds: names of the pictures whose groups of classes are known.
        undivided: whether there is no DiPart: cells do not divide the last features of a grid, or are smaller than the
            network's input.
    """

    suite: Suite
    source: Source
    grids: tuple[tuple[str, ...], ...]
    labels: dict[str, int]
    size: tuple[int, int]
    scale: float
    one_forward: int
    metrics: tuple[Any, ...] | None = None
    classifies: bool = True
    kinds: tuple[str, ...] = ()
    undivided: bool = False

    def rows(self, work: Work, loaded: Loaded, device: str, shared: Shared) -> Iterator[Row]:
        """Yield the row of each case of a unit."""
        unit: Unit | Exception
        try:
            with exact():
                unit = self.unit(work.photo.name, loaded, device, shared)
        except Exception as error:
            settle(device, error)
            unit = error
        for case in work.cases:
            row = Row(work.photo.name, str(case), model=case.model, method=case.name)
            if isinstance(unit, Exception):
                yield failed(row, unit)
                continue
            try:
                with exact():
                    made = _made(row, unit, case)
            except Exception as error:
                settle(device, error)
                made = failed(row, error)
            yield made

    def context(self, loaded: Loaded | None, device: str = "cpu", shared: Shared | None = None) -> Context:
        """Return what all units have in common."""
        grids = (self.grids, self.labels, self.size, self.scale)
        return Context(self.suite, self.source, loaded, device, *grids, shared or Shared(), self.one_forward)

    def unit(self, name: str, loaded: Loaded | None, device: str = "cpu", shared: Shared | None = None) -> Unit:
        """Make a unit by its name."""
        context = self.context(loaded, device, shared)
        kind = name.partition("/")[0]
        if kind in ("grade", "partial"):
            return (Grade if kind == "grade" else Partial)(context, name, self.metrics)
        if is_grade(name):
            return Regrade(context, name)
        made: Unit = KINDS[kind](context, name)
        return made


def _made(row: Row, unit: Unit, case: Case) -> Row:
    """Explain a case, and measure its maps."""
    explained = unit.explain(case)
    maps = explained.maps
    row = row._replace(layer=explained.layer, forwards=explained.forwards, seconds=explained.seconds)
    if case.method not in CONTROLS:
        row = row._replace(cam=maps)
    if not bool(maps.isfinite().all()):
        return row._replace(problem="the map has values that are not finite")
    row = with_values(row, unit.measure(maps))
    return unit.said(row) if isinstance(unit, Grade) else row


def with_values(row: Row, vectors: Mapping[str, Tensor]) -> Row:
    """Write vectors to a row, and the mean of each as its value; a ratio's is the ratio of the means."""
    listed = {name: vector.double().tolist() for name, vector in vectors.items()}
    values = {}
    for name, vector in vectors.items():
        if name.endswith(SHARED) or not len(vector):
            continue
        mean, way = vector.double().mean(), vectors.get(f"{name}{SHARED}")
        values[name] = float(mean if way is None else mean / way.double().mean().clamp(min=1e-12))
    values = {name: value for name, value in values.items() if value == value}
    return row._replace(values=values, vectors=listed)
