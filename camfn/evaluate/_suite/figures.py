"""Numbers of a folder: estimates whose intervals resample photos, paired differences, and equal rows as one."""

# tested in tests/evaluate/suite/test_tables.py

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._measures.row import Row
from .._store.store import Store
from .explain import CONTROLS
from .measures import MEASURES, SHARED
from .protocol import is_grade
from .scenes import scenes_of

RESAMPLES = 2000
"""Bootstrap resamples of the photos."""

EQUAL = 2e-4
"""Rows whose every number is equal within this are one row: their maps are one map."""

Place = tuple[str, int]
"""A unit, and the place of a question in it."""


class Figure(NamedTuple):
    """An estimate.

    Attributes:
        value: the mean over all questions; for a ratio, the ratio of the means.
        low: lower end of the 95 % interval, which resamples photos.
        high: upper end.
        n: number of questions.
        clusters: number of photos.
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int


class Line(NamedTuple):
    """One line of a table: a case, or several whose numbers are equal.

    Attributes:
        names: the methods with their options.
        layer: of the first.
        forwards: cost of an explanation in the first unit; None where it was not counted.
        numbers: measure to its number for each place, and to what divides it.
        control: whether it is one of the rows that every table has.
    """

    names: tuple[str, ...]
    layer: str
    forwards: float | None
    numbers: dict[str, dict[Place, tuple[float, float]]]
    control: bool

    @property
    def name(self) -> str:
        """The names of equal rows, joined."""
        return " = ".join(self.names)

    @property
    def label(self) -> str:
        """The names and the layer, if there is one."""
        return f"{self.name} @ {self.layer}" if self.layer else self.name


def clusters_of(unit: str, count: int, record: dict[str, Any]) -> list[str]:
    """Name the photo of each of so many numbers of a unit: photos are independent, cells and digits are not.

    Args:
        unit: name of the unit.
        count: of its numbers.
        record: of the track `grid`, which lists the cells of each grid.
    """
    kind, _, name = unit.partition("/")
    if kind in ("gridpg", "dipart", "difull", "twin"):
        cells: list[str] = record["grids"]["cells"][int(name)]
        return cells[:count]
    photos = scenes_of(name) if record["source"]["kind"] == "scenes" else [name]
    return [photo for photo in photos for _ in range(count // len(photos))]


def lines_of(store: Store, track: str) -> list[Line]:
    """Collect the numbers of a track, a line for each case; equal ones are folded, controls come last.

    Args:
        store: a folder of the suite.
        track: of `TRACKS`, but "grade".
    """
    measures = [name for name, measure in MEASURES.items() if measure.track == track]
    found: dict[tuple[str, str], Line] = {}
    for row in store.rows:
        numbers = _numbers(row, measures)
        if not numbers or is_grade(row.photo):
            continue
        control = row.method in CONTROLS
        key = (row.method, "" if control else row.layer)
        line = found.setdefault(key, Line((row.method,), key[1], _cost(row), {}, control))
        for name, values in numbers.items():
            line.numbers.setdefault(name, {}).update(values)
    folded: list[Line] = []
    for line in found.values():
        same = next((i for i, other in enumerate(folded) if not line.control and _equal(line, other)), None)
        if same is None:
            folded.append(line)
        else:
            folded[same] = folded[same]._replace(names=(*folded[same].names, *line.names))
    return sorted(folded, key=lambda line: line.control)


def _numbers(row: Row, measures: Sequence[str]) -> dict[str, dict[Place, tuple[float, float]]]:
    """Read the numbers of a row, each with what divides it."""
    found = {}
    for name in measures:
        values = row.vectors.get(name)
        if values:
            ways = row.vectors.get(f"{name}{SHARED}") or [1.0] * len(values)
            pairs = enumerate(zip(values, ways, strict=True))
            found[name] = {(row.photo, i): pair for i, pair in pairs if pair[0] == pair[0]}
    return found


def _cost(row: Row) -> float | None:
    """Return the forwards of one explanation: a row has several, one for each question."""
    if row.forwards is None:
        return None
    lengths = [len(values) for values in row.vectors.values()]
    return row.forwards / (sum(lengths) if row.photo.startswith(("questions/", "groupings/")) else max(lengths))


def _equal(one: Line, other: Line) -> bool:
    """Whether two lines have equal numbers everywhere."""
    if other.control or one.layer != other.layer or set(one.numbers) != set(other.numbers):
        return False
    return all(
        set(mine) == set(theirs) and all(abs(mine[place][0] - theirs[place][0]) <= EQUAL for place in mine)
        for mine, theirs in ((one.numbers[name], other.numbers[name]) for name in one.numbers)
    )


class Draws:
    """Bootstrap resamples of the photos of a track: the same for every line, so that lines differ on equal photos.

    Args:
        lines: all lines.
        record: of the track `grid`.
        seed: of the draws.
    """

    def __init__(self, lines: Sequence[Line], record: dict[str, Any], seed: int) -> None:
        places = sorted({place for line in lines for values in line.numbers.values() for place in values})
        units: dict[str, int] = {}
        for unit, place in places:
            units[unit] = max(units.get(unit, 0), place + 1)
        self.photo = {
            (unit, i): photo
            for unit, count in units.items()
            for i, photo in enumerate(clusters_of(unit, _whole(unit, count, record), record))
        }
        self.photos = sorted(set(self.photo.values()))
        self.index = {photo: i for i, photo in enumerate(self.photos)}
        generator = torch.Generator().manual_seed(seed)
        self.seed = generator.initial_seed()
        self.known: dict[bytes, Tensor] = {}

    def figure(self, values: dict[Place, tuple[float, float]]) -> Figure:
        """Estimate a mean, or the ratio of two."""
        sums, photos = self._sums(values)
        ends = self._resampled(sums)
        low, high = torch.nanquantile(ends, torch.tensor([0.025, 0.975], dtype=ends.dtype)).tolist()
        whole = sums.sum(0)
        return Figure(float(whole[0] / whole[1]), low, high, len(values), photos)

    def difference(
        self, one: dict[Place, tuple[float, float]], other: dict[Place, tuple[float, float]]
    ) -> tuple[float, float]:
        """Return the interval of the difference of two lines on the places that both have."""
        common = set(one) & set(other)
        first, second = (self._sums({place: each[place] for place in common})[0] for each in (one, other))
        ends = self._resampled(first) - self._resampled(second)
        low, high = torch.nanquantile(ends, torch.tensor([0.025, 0.975], dtype=ends.dtype)).tolist()
        return low, high

    def _sums(self, values: dict[Place, tuple[float, float]]) -> tuple[Tensor, int]:
        """Add up numbers and what divides them by photo, (photos, 2), without photos that have none."""
        sums: dict[int, tuple[float, float]] = {}
        for place, (number, way) in values.items():
            photo = self.index[self.photo[place]]
            before = sums.get(photo, (0.0, 0.0))
            sums[photo] = (before[0] + number, before[1] + way)
        present = sorted(sums)
        return torch.tensor([sums[photo] for photo in present], dtype=torch.float64).view(-1, 2), len(present)

    def _resampled(self, sums: Tensor) -> Tensor:
        """Return the ratio on each resample of the photos; a line is compared with many others."""
        key = sums.numpy().tobytes()
        if key not in self.known:
            generator = torch.Generator().manual_seed(self.seed)
            drawn = torch.randint(len(sums), (RESAMPLES, len(sums)), generator=generator)
            total = sums[drawn].sum(1)
            self.known[key] = total[:, 0] / total[:, 1]
        return self.known[key]


def _whole(unit: str, count: int, record: dict[str, Any]) -> int:
    """Return the numbers of a unit, of which a measure may lack the last."""
    photos = len(scenes_of(unit.partition("/")[2])) if record["source"]["kind"] == "scenes" and "-" in unit else 1
    return -(-count // photos) * photos
