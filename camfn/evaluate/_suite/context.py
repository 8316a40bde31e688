"""What all units of a run have in common, and what a unit does."""

# tested in tests/evaluate/suite/test_run.py

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..._shared.errors import UsageError
from ...zoo import Loaded
from .._inputs.cases import Case
from .._measures.memo import Shared
from .asked import Asked
from .explain import Explained, Explainer
from .protocol import Suite
from .sources import Source

Vectors = dict[str, Tensor]
"""Measure to its value for each question."""


@dataclass(frozen=True)
class Context:
    """What all units of a run have in common.

    Attributes:
        suite: settings.
        source: where the pictures come from.
        loaded: the model; None where maps are measured without it.
        device: where it is.
        grids: names of the cells of each grid.
        labels: class of each cell.
        size: height and width of a grid in pixels.
        scale: 1, or the factor by which cells are smaller than the network's input.
        shared: what all pictures of the model share, such as its layers.
        one_forward: operations of one forward of one picture.
    """

    suite: Suite
    source: Source
    loaded: Loaded | None
    device: str
    grids: Sequence[Sequence[str]]
    labels: dict[str, int]
    size: tuple[int, int]
    scale: float
    shared: Shared
    one_forward: int

    @property
    def model(self) -> Loaded:
        """The model.

        Raises:
            UsageError: this measure runs the network, and there is none.
        """
        if self.loaded is None:
            raise UsageError("this measure runs the network: give the model")
        return self.loaded

    def explainer(self, model: Any, asked: Asked, name: str) -> Explainer:
        """Return what explains questions by cases."""
        return Explainer(model, asked, self.suite, name, self.shared.layers, self.one_forward)


class Unit(Protocol):
    """One unit of a run."""

    def explain(self, case: Case) -> Explained:
        """Explain the unit's questions by a case."""

    def measure(self, maps: Tensor) -> Vectors:
        """Measure the maps of its questions."""
