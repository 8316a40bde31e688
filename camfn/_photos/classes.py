"""Classes of a photo, from words: an index, a name, top or top:K."""

from __future__ import annotations

from typing import NamedTuple

from .._shared.errors import UsageError
from .._shared.spelling import near
from ..zoo import Loaded
from ..zoo._names import synonyms


class Wanted(NamedTuple):
    """Classes to explain for each photo.

    Attributes:
        chosen: one class for all photos, or None for the best of each.
        best: how many of the best.
    """

    chosen: int | None
    best: int = 1

    @property
    def suffixes(self) -> list[str]:
        """Tell the files of the classes apart; known before any forward, so that existing files can be."""
        if self.chosen is not None:
            return [f".{self.chosen}"]
        return [""] if self.best == 1 else [f".top{rank}" for rank in range(1, self.best + 1)]


def pick_target(text: str, loaded: Loaded) -> Wanted:
    """Understand a class index, a class name, `top` or `top:3`."""
    count = class_count(loaded)
    word, _, number = text.partition(":")
    if word == "top":
        if number and not (number.isdecimal() and int(number)):
            raise UsageError(f"target {text!r}: expected top or top:K, as top:3")
        if count is not None and int(number or 1) > count:
            raise UsageError(f"target {text!r}: {loaded.name} has {count} classes")
        return Wanted(None, int(number or 1))
    if text.removeprefix("-").isdecimal():
        index = int(text)
        if index < 0 or (count is not None and index >= count):
            known = f"{count} classes, 0 to {count - 1}" if count else "classes from 0"
            raise UsageError(f"class {index} is out of range: {loaded.name} has {known}")
        return Wanted(index)
    if loaded.classes is None:
        raise UsageError(f"the class names of {loaded.name} are not known: give an index, top or top:3, not {text!r}")
    return Wanted(_class_named(text, loaded.classes))


def class_count(loaded: Loaded) -> int | None:
    """Count the classes of a model, where that can be told without running it."""
    if loaded.classes is not None:
        return len(loaded.classes)
    count = getattr(loaded.model, "num_classes", None)
    if count == 0:
        raise UsageError(f"{loaded.name} has no classes: it ends in features, without a classifier")
    return count if isinstance(count, int) else None


def _class_named(text: str, classes: list[str]) -> int:
    """Find a class by its name, then without regard to case, then by its other names."""
    exact = [i for i, name in enumerate(classes) if name == text]
    if len(exact) == 1:
        return exact[0]
    word = text.casefold()
    others = synonyms(classes)
    found = [i for i, name in enumerate(classes) if name.casefold() == word]
    found = found or [i for i, names in enumerate(others) if word in (name.casefold() for name in names)]
    if len(found) == 1:
        return found[0]
    if found:
        places = " or ".join(f"{i} ({', '.join(others[i]) or classes[i]})" for i in found)
        raise UsageError(f"several classes are called {text!r}: give an index, {places}")
    names = list(dict.fromkeys([*classes, *(name for names in others for name in names)]))
    instead = f"There are {', '.join(names[:5])} and more."
    raise UsageError(
        f"no class {text!r}. {near(text, names, words=True, instead=instead)} An index, top or top:3 will do as well"
    )
