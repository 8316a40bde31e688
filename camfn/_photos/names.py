"""Classes of a model by index and by name, in any case of letters, and by the other names that WordNet has."""

# tested in tests/photos/test_targets.py

from __future__ import annotations

from .._shared.errors import UsageError
from .._shared.spelling import near
from ..zoo import Loaded
from ..zoo._names.names import synonyms


def class_count(loaded: Loaded) -> int | None:
    """Return the number of classes of a model, or None if only a forward can show it."""
    if loaded.classes is not None:
        return len(loaded.classes)
    count = getattr(loaded.model, "num_classes", None)
    if count == 0:
        raise UsageError(f"{loaded.name} has no classes: it ends in features, without a classifier")
    return count if isinstance(count, int) else None


def class_at(text: str, loaded: Loaded) -> int:
    """Read the index of a class.

    Raises:
        UsageError: no whole number, or out of range.
    """
    count = class_count(loaded)
    if not text.removeprefix("-").isdecimal():
        raise UsageError(f"class index {text!r}: expected a whole number")
    index = int(text)
    if index < 0 or (count is not None and index >= count):
        known = f"{count} classes, 0 to {count - 1}" if count else "classes from 0"
        raise UsageError(f"class {index} is out of range: {loaded.name} has {known}")
    return index


def class_named(text: str, loaded: Loaded, *, others_too: str = ", top or top:3") -> int:
    """Find a class by its exact name, then by its name in any case of letters, then by its other names.

    `others_too` ends the list of what a caller takes beside a name and an index, for the message.

    Raises:
        UsageError: there is none, or several.
    """
    classes = loaded.classes
    if classes is None:
        raise UsageError(f"the class names of {loaded.name} are not known: give an index{others_too}, not {text!r}")
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
    instead = f"There are {', '.join(map(_shown, names[:5]))} and more."
    hint = near(text, names, words=True, instead=instead)
    raise UsageError(f"no class {text!r}. {hint} An index{others_too} will do as well")


def _shown(name: str) -> str:
    """Write a name in a list; in quotes where it holds a mark of the grammar."""
    return f'"{name}"' if any(mark in name for mark in ",+:") else name


def class_of(text: str, loaded: Loaded, *, others_too: str = ", top or top:3") -> int:
    """Read one class: a name, an index (any whole number), `class:NAME` or `index:N`; `others_too` as `class_named`.

    Raises:
        UsageError: there is none, or several.
    """
    kind, colon, rest = text.partition(":")
    if colon and kind == "class":
        return class_named(rest, loaded, others_too=others_too)
    if colon and kind == "index":
        return class_at(rest, loaded)
    if text.removeprefix("-").isdecimal():
        return class_at(text, loaded)
    return class_named(text, loaded, others_too=others_too)


def one_class(text: str, loaded: Loaded) -> int:
    """Read the class that an option asks for, of which all photos are: no `top`, which each photo has of its own.

    Raises:
        UsageError: there is none, or several.
    """
    kind = text.partition(":")[0]
    if kind in ("top", "contrast", "probability", "rest", "higher", "lower") and text not in (loaded.classes or ()):
        raise UsageError(f"--class {text}: expected one class for all photos, its name or its index")
    return class_of(text, loaded, others_too="")


def class_of_photo(label: str, loaded: Loaded) -> int:
    """Return the class of a photo by the name of its folder or in its table, which is no target in words.

    Raises:
        UsageError: there is none, several, or the label is the name of one class and the index of another.
    """
    if label.isdecimal():
        named = [i for i, name in enumerate(loaded.classes or ()) if name == label]
        if named and named != [int(label)]:
            raise UsageError(
                f"{label!r} is the index of a class and the name of class {named[0]}: name folders and labels by class "
                "names alone, or by indices alone"
            )
        return class_at(label, loaded)
    try:
        return class_named(label, loaded)
    except UsageError:
        # folders are often named with underscores
        return class_named(label.replace("_", " "), loaded)
