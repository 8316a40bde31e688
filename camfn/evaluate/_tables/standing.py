"""One case in the ranked table: its estimates, ranks, costs, and how it is called."""

# tested in tests/evaluate/tables/test_rank.py and tests/evaluate/tables/test_grid.py

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

from .._inputs.cases import BASELINES
from .resample import fewest

_OWN = re.compile(r"(?:.+\.py|[\w.]+):([A-Za-z_]\w*)((?::.*)?)", re.DOTALL)


class Estimate(NamedTuple):
    """A metric of one case.

    Attributes:
        value: the metric over all photos that have a number.
        low: lower end of the 95 % bootstrap interval over photos; NaN for one photo.
        high: upper end of this interval.
        photos: number of photos that have a number.
        gain: interval (low, high) of the difference from the center baseline, on the same photos; positive is better.
    """

    value: float
    low: float
    high: float
    photos: int
    gain: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """`+` if all of `gain` is better than the center baseline, `-` if all of it is worse, otherwise empty.

        Empty, too, for fewer than six photos, on which no paired test at 5 % can tell anything apart.
        """
        if self.gain is None or self.photos < fewest():
            return ""
        return "+" if self.gain[0] > 0 else "-" if self.gain[1] < 0 else ""


class Standing(NamedTuple):
    """A case in the ranked table.

    Attributes:
        case: `str(Case)`.
        estimates: metric to estimate.
        ranks: metric to rank, 1 for the best; cases equal but for rounding share their mean rank. Empty for a baseline.
        forwards: mean cost of an explanation, in forwards.
        seconds: median time of an explanation.
        problems: number of rows with a problem.
        model: the model, with which `case` begins; empty where it has no space.
        mark: `*` for the best by the metric that orders the table, `=` if not told apart from it, otherwise empty.
        level: the metrics by which `differences` does not tell the case apart from the best.
    """

    case: str
    estimates: dict[str, Estimate]
    ranks: dict[str, float]
    forwards: float | None
    seconds: float | None
    problems: int
    model: str = ""
    mark: str = ""
    level: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """The method with its options, and the layer where it is not "auto"."""
        return method_in(self.case, self.model)

    @property
    def is_baseline(self) -> bool:
        """Whether this is the center or the random map."""
        return is_baseline(self.case)


@dataclass(frozen=True)
class Standings(Sequence[Standing]):
    """What `Ranking` holds."""

    standings: tuple[Standing, ...]
    model: str
    by: str
    photos: int

    def __len__(self) -> int:
        return len(self.standings)

    @overload
    def __getitem__(self, place: int) -> Standing: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Standing, ...]: ...
    def __getitem__(self, place: int | slice) -> Standing | tuple[Standing, ...]:
        return self.standings[place]

    def __iter__(self) -> Iterator[Standing]:
        return iter(self.standings)


def method_in(case: str, model: str = "") -> str:
    """Return the method of a case with its options, and the layer where it is not "auto"."""
    _, layer, method = ("", *case[len(model) + 1 :].split(" ", 1)) if model else case.split(" ", 2)
    return method if layer == "auto" else f"{method} @ {layer}"


def is_baseline(case: str) -> bool:
    """Whether a case is the center or the random baseline."""
    return case.endswith(tuple(f" {name}" for name in BASELINES))


def models_of(cases: Iterable[str]) -> list[str]:
    """List the models of cases. A name with spaces, such as a path, is known by the model's baselines."""
    listed = list(dict.fromkeys(case for case in cases if case))
    ends = tuple(f" auto {name}" for name in BASELINES)
    known = {case.removesuffix(end) for case in listed for end in ends if case.endswith(end)} - {""}
    found = []
    for case in listed:
        named = [model for model in known if case.startswith(f"{model} ")]
        found.append(max(named, key=len) if named else case.split(" ", 1)[0])
    return list(dict.fromkeys(found))


def labels(standings: Sequence[Standing]) -> dict[str, str]:
    """Call each case in a table: a function of one's own without its file, unless two would be called the same."""
    full = {s.case: s.method for s in standings}
    brief = {}
    for case, name in full.items():
        method, at, layer = name.partition(" @ ")
        own = _OWN.fullmatch(method)
        brief[case] = (own[1] + own[2] if own else method) + at + layer
    names = list(brief.values())
    return {case: full[case] if names.count(name) > 1 else name for case, name in brief.items()}
