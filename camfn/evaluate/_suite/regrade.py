"""The grade of measures that have a unit of their own: its maps are replaced by their shuffle, step by step."""

# tested in tests/evaluate/suite/test_degrade.py

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .._inputs.cases import Case
from .degrade import blended
from .explain import Explained
from .grade import scaled
from .units import KINDS

REGRADED = ("gridpg", "parts", "questions", "groupings")
"""Units whose measures are graded. DiPart, DiFull and the twin take the same share of a map as GridPG."""


class Regrade:
    """A unit of a track, and its maps at several levels of shuffling.

    Args:
        context: what all units have in common.
        name: grade_KIND/NAME.
    """

    def __init__(self, context: Any, name: str) -> None:
        self.context, self.name = context, name
        self.of = name.removeprefix("grade_")

    @cached_property
    def unit(self) -> Any:
        """The unit that measures."""
        return KINDS[self.of.partition("/")[0]](self.context, self.of)

    def explain(self, case: Case) -> Explained:
        """Explain the unit's questions."""
        found: Explained = self.unit.explain(case)
        return found._replace(maps=scaled(found.maps))

    def measure(self, maps: Tensor) -> dict[str, Tensor]:
        """Return each measure at each level, the mean over the questions; one that is not finite has none."""
        found: dict[str, list[Tensor]] = {}
        for level in self.context.suite.levels:
            shuffled = blended(maps[0].numel(), level, self.context.suite.generator(self.of, "shuffle"))
            for name, vector in self.unit.measure(shuffled(maps)).items():
                found.setdefault(name, []).append(vector.double().mean())
        vectors = {name: torch.stack(values) for name, values in found.items()}
        return {name: vector for name, vector in vectors.items() if bool(vector.isfinite().all())}
