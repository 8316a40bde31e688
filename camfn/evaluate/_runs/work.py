"""The rows that a run has yet to make, in pieces that any worker can take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from ...zoo import Loaded
from .._inputs.cases import Case
from .._inputs.photos import Photo
from .._measures.memo import Shared
from .._measures.row import Row

Loader = Callable[[str], Loaded]
"""A function of a model's name that returns a `zoo.Loaded`, as `zoo.load` does."""


class Work(NamedTuple):
    """One piece of work: a photo, and the cases of one model that are due for it."""

    photo: Photo
    cases: tuple[Case, ...]

    @property
    def model(self) -> str:
        """The model of all cases."""
        return self.cases[0].model


class Makes(Protocol):
    """What makes the rows of a suite, in the place of the settings by which `evaluate_photo` makes them."""

    def rows(self, work: Work, loaded: Loaded, device: str, shared: Shared) -> Iterator[Row]:
        """Yield each row of a piece of work as soon as it is measured."""


TRIES = 3
"""How often a row is tried that ends in an accident."""


def is_due(row: Row | None, retry: bool = False) -> bool:
    """Say whether a run has to make a row: it is not there, an accident left tries, or all problems are tried again."""
    if row is None or not row.kind:
        return row is None
    return retry or (row.kind == "accident" and row.tries < TRIES)


def plan(
    photos: Sequence[Photo], cases: Sequence[Case], rows: Mapping[tuple[str, str], Row], *, retry: bool = False
) -> list[Work]:
    """List the work that is due, one model after the other.

    Args:
        photos: all photos.
        cases: all cases.
        rows: the rows that are there, by photo and case; (photo, "") for a photo that cannot be read.
        retry: whether rows with a refusal, and accidents that were tried three times, are due too.
    """
    works = []
    for model in dict.fromkeys(case.model for case in cases):
        of_model = [(case, str(case)) for case in cases if case.model == model]
        for photo in photos:
            unreadable = rows.get((photo.name, ""))
            if unreadable is not None and not is_due(unreadable, retry):
                continue
            due = tuple(case for case, name in of_model if is_due(rows.get((photo.name, name)), retry))
            if due:
                works.append(Work(photo, due))
    return works


class Models:
    """Loads models by name, and keeps the last one in memory, with what was found of it."""

    def __init__(self, loader: Loader, device: str) -> None:
        self.loader, self.device = loader, device
        self.held: tuple[str, Loaded] | None = None
        self.shared = Shared()

    def __call__(self, name: str) -> Loaded:
        if self.held is None or self.held[0] != name:
            self.held = None
            self.shared = Shared()
            loaded = self.loader(name)
            loaded.model.to(self.device)
            self.held = (name, loaded)
        return self.held[1]

    def forget(self) -> None:
        """Give the memory of the model back."""
        self.held, self.shared = None, Shared()
