"""The classes to explain, as a user writes them: an index, a name, top or top:K."""

# tested in tests/cli/test_cli.py

from __future__ import annotations

from typing import NamedTuple

from .._shared.errors import UsageError
from .._shared.spelling import near
from ..zoo import Loaded
from ..zoo._names import synonyms


class ClassChoice(NamedTuple):
    """The classes to explain for each photo.

    Attributes:
        chosen: the index of one class for all photos, or None for the classes with the largest logits of each photo.
        best: the number of classes with the largest logits.
    """

    chosen: int | None
    best: int = 1

    @property
    def suffixes(self) -> list[str]:
        """Endings of the file names, one a class; they are known before any forward, as the check of files needs."""
        if self.chosen is not None:
            return [f".{self.chosen}"]
        return [""] if self.best == 1 else [f".top{rank}" for rank in range(1, self.best + 1)]


def pick_target(text: str, loaded: Loaded) -> ClassChoice:
    """Read a class index, a class name, `top` or `top:3`."""
    count = class_count(loaded)
    word, _, number = text.partition(":")
    if word == "top":
        if number and not (number.isdecimal() and int(number)):
            raise UsageError(f"target {text!r}: expected top or top:K, as top:3")
        if count is not None and int(number or 1) > count:
            raise UsageError(f"target {text!r}: {loaded.name} has {count} classes")
        return ClassChoice(None, int(number or 1))
    if text.removeprefix("-").isdecimal():
        index = int(text)
        if index < 0 or (count is not None and index >= count):
            known = f"{count} classes, 0 to {count - 1}" if count else "classes from 0"
            raise UsageError(f"class {index} is out of range: {loaded.name} has {known}")
        return ClassChoice(index)
    if loaded.classes is None:
        raise UsageError(f"the class names of {loaded.name} are not known: give an index, top or top:3, not {text!r}")
    return ClassChoice(_class_named(text, loaded.classes))


def class_count(loaded: Loaded) -> int | None:
    """Return the number of classes of a model, or None if only a forward can show it."""
    if loaded.classes is not None:
        return len(loaded.classes)
    count = getattr(loaded.model, "num_classes", None)
    if count == 0:
        raise UsageError(f"{loaded.name} has no classes: it ends in features, without a classifier")
    return count if isinstance(count, int) else None


def _class_named(text: str, classes: list[str]) -> int:
    """Find a class by its exact name, then by its name in any case of letters, then by its other names."""
    exact = [i for i, name in enumerate(classes) if name == text]
    if len(exact) == 1:
        return exact[0]
    word = text.casefold()
    others = synonyms(classes)
    matches = [i for i, name in enumerate(classes) if name.casefold() == word]
    matches = matches or [i for i, names in enumerate(others) if word in (name.casefold() for name in names)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        choices = " or ".join(f"{i} ({', '.join(others[i]) or classes[i]})" for i in matches)
        raise UsageError(f"several classes are called {text!r}: give an index, {choices}")
    names = list(dict.fromkeys([*classes, *(name for names in others for name in names)]))
    instead = f"There are {', '.join(names[:5])} and more."
    raise UsageError(
        f"no class {text!r}. {near(text, names, words=True, instead=instead)} An index, top or top:3 will do as well"
    )
