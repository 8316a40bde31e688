"""The rows that a run has yet to make, in pieces that any worker can take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from .._photos.layer import Layer
from ..zoo import Loaded
from ._cases import Case
from ._photos import Photo

Loader = Callable[[str], Loaded]
"""A function of a model's name that returns a `zoo.Loaded`, as `zoo.load` does."""


Layers = dict[tuple[str, bool, torch.Size], Layer]
"""Layers of one model by the name that was given, whether the method reads attention, and the shape of the images."""


class Work(NamedTuple):
    """One piece of work: a photo, and the cases of one model that have no row for it."""

    photo: Photo
    cases: tuple[Case, ...]

    @property
    def model(self) -> str:
        """The model of all cases."""
        return self.cases[0].model


def plan(photos: Sequence[Photo], cases: Sequence[Case], done: set[tuple[str, str]]) -> list[Work]:
    """List the work without rows, one model after the other; `done` has the (photo, case) of all rows."""
    works = []
    for model in dict.fromkeys(case.model for case in cases):
        for photo in photos:
            missing = tuple(case for case in cases if case.model == model and (photo.name, str(case)) not in done)
            if missing and (photo.name, "") not in done:
                works.append(Work(photo, missing))
    return works


class Models:
    """Loads models by name, and keeps the last one in memory, with the layers that were found in it."""

    def __init__(self, loader: Loader, device: str) -> None:
        self.loader, self.device = loader, device
        self.held: tuple[str, Loaded] | None = None
        self.layers: Layers = {}

    def __call__(self, name: str) -> Loaded:
        if self.held is None or self.held[0] != name:
            self.held = None
            self.layers = {}
            loaded = self.loader(name)
            loaded.model.to(self.device)
            self.held = (name, loaded)
        return self.held[1]
