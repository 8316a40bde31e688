"""What is left to do, in pieces that can be done anywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..zoo import Loaded
from ._cases import Case
from ._photos import Photo

Loader = Callable[[str], Loaded]
"""A model's name to what `zoo.load` returns."""


class Work(NamedTuple):
    """What is done together: one photo, the cases of one model that there are no rows of."""

    photo: Photo
    cases: tuple[Case, ...]

    @property
    def model(self) -> str:
        """The model of all cases."""
        return self.cases[0].model


def plan(photos: Sequence[Photo], cases: Sequence[Case], done: set[tuple[str, str]]) -> list[Work]:
    """List what there are no rows of, one model after the other."""
    found = []
    for model in dict.fromkeys(case.model for case in cases):
        for photo in photos:
            missing = tuple(case for case in cases if case.model == model and (photo.name, str(case)) not in done)
            if missing and (photo.name, "") not in done:
                found.append(Work(photo, missing))
    return found


class Models:
    """Models by name, one at a time in memory."""

    def __init__(self, loader: Loader, device: str) -> None:
        self.loader, self.device = loader, device
        self.held: tuple[str, Loaded] | None = None

    def __call__(self, name: str) -> Loaded:
        if self.held is None or self.held[0] != name:
            self.held = None
            loaded = self.loader(name)
            loaded.model.to(self.device)
            self.held = (name, loaded)
        return self.held[1]
