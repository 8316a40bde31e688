"""Targets in words: their grammar, and what it refuses before a command loads a model."""

# tested in tests/photos/test_targets.py

from __future__ import annotations

import shlex

from torch import nn

from .._shared.errors import UsageError
from .._shared.lists import split_at, unquoted
from ..zoo import Loaded
from ..zoo._libraries.prompts import ASK, WordDetector, asked
from ..zoo._libraries.texts import ImageTower
from .classes import ClassChoice, Form
from .names import class_at, class_count, class_named, class_of

GRAMMAR = (
    "a class by name or index, top, top:K, contrast:A or contrast:A,B, probability:A, rest:A, higher:N or lower:N of a "
    "regression, several labels A+B, or text:WORDS"
)
"""The forms of a target, as messages list them."""


def pick_target(text: str | None, loaded: Loaded) -> ClassChoice:
    """Read a target in words; None, where a user gave none, is the class with the largest logit.

    A class whose name reads as another target, such as `top`, `a+b` or `contrast:x`, is an ambiguity error; a user
    names it by `class:NAME` or in quotes.

    Raises:
        UsageError: no such target, or words that can be read in two ways.
    """
    towers = isinstance(loaded.model, ImageTower) and not loaded.model.has_classes
    if towers and not (text or "").strip().startswith("text:"):
        raise UsageError(
            f"{loaded.name} compares images with texts and has no classes: give words, as in --target 'text:a red "
            "car', or names of classes, as in --classes names.txt"
        )
    if text is None:
        return ClassChoice(None)
    text = text.strip()
    literal = None if text.isdecimal() else _class_called(text, loaded)
    try:
        parsed = _parsed(text, loaded)
    except UsageError as error:
        if literal is None:
            raise _with_quotes(error, text, loaded) from error
        return ClassChoice(literal)
    if literal is None or parsed == ClassChoice(literal):
        return parsed
    raise _ambiguous(text, f"class:{text}", "top:1" if text.casefold() == "top" else _in_parts(text))


def pick_detections(text: str | None, loaded: Loaded) -> ClassChoice:
    """Read a target of a detector, which may show more boxes than it has classes; None is the twenty best.

    Raises:
        UsageError: as of `pick_target`.
    """
    text = "top: 20" if text is None else text.strip()
    kind, _, number = text.partition(":")
    if kind == "top" and number.strip().isdecimal() and int(number) and _class_called(text, loaded) is None:
        return ClassChoice(None, int(number))
    return pick_target(text, loaded)


def asked_for(loaded: Loaded, text: str | None, detects: bool) -> tuple[Loaded, str | None]:
    """Ask a detector that reads words for those of a target `text:a cat. a dog`; return it and the target for it.

    Raises:
        UsageError: the run explains it as a classifier, or no words or two lists of them say what to look for.
    """
    if not isinstance(loaded.model, WordDetector):
        return loaded, text
    kind, _, words = (text or "").strip().partition(":")
    things = [thing.strip() for thing in words.split(".") if thing.strip()] if kind == "text" else []
    if not detects:
        raise UsageError(f"{loaded.name} draws boxes around what words say: add --task detect")
    if loaded.classes and kind == "text":
        raise UsageError("--classes says what to look for already: give --target top:K, or one of its names")
    if not loaded.classes and not things:
        raise UsageError(f"{loaded.name} reads words, and got none: {ASK}")
    return (asked(loaded, things), None) if things else (loaded, text)


def refuse_words(text: str | None, model: str, names: list[str] | None) -> None:
    """Refuse a target before the model is loaded, as far as it can be known to be none.

    Args:
        text: the target in words; None where a user gave none.
        model: its name, for the message.
        names: the class names that a user gives; None where only the model knows them.

    Raises:
        UsageError: as of `pick_target`.
    """
    text = None if text is None else text.strip()
    if text is None or (text.startswith("text:") and text.removeprefix("text:").strip()):
        return
    kind, colon, words = text.partition(":")
    if names is not None:
        pick_target(text, Loaded(nn.Identity(), nn.Identity(), nn.Identity(), names, model))
    elif not text or (colon and not words.strip() and kind in ("text", "contrast", "probability", "rest")):
        raise UsageError(f"target {text!r}: expected {GRAMMAR}")
    elif colon and kind == "top" and not (words.strip().isdecimal() and int(words)):
        raise UsageError(f"target {text!r}: expected top or top:K, as top:3")


def _class_called(text: str, loaded: Loaded) -> int | None:
    """Return the class that has a text as its whole name, in any case of letters; None if not exactly one has."""
    word = text.casefold()
    found = [i for i, name in enumerate(loaded.classes or ()) if name.casefold() == word]
    exact = [i for i in found if (loaded.classes or ())[i] == text]
    return (exact or found)[0] if len(exact or found) == 1 else None


def _ambiguous(text: str, name: str, other: str) -> UsageError:
    """Say how each of two readings is written in a shell."""
    return UsageError(
        f"target {text!r} holds the name of a class, and can be read in another way: give --target {shlex.quote(name)} "
        f"for the class of that name, or --target {shlex.quote(other)}"
    )


def _in_parts(text: str) -> str:
    """Write a target that reads as a class too so that it reads as its parts alone."""
    kind, colon, words = text.partition(":")
    if colon and kind in ("top", "higher", "lower"):
        plain = f"{kind}:{int(words)}" if words.strip().isdecimal() else text
        return plain if plain != text else f"{kind}: {words}"
    if colon and kind == "class":
        return _quoted(words)
    lead, words, mark = (f"{kind}:", words, ",") if colon else ("", text, "+")
    return lead + mark.join(part if unquoted(part) != part else _quoted(part) for part in _split(words, mark))


def _quoted(name: str) -> str:
    """Put a class name in quotes; one with both kinds of quotes has none."""
    return f'"{name}"' if '"' not in name else f"'{name}'"


def _with_quotes(error: UsageError, text: str, loaded: Loaded) -> UsageError:
    """Add to an error the target with class names that hold , + or : in quotes, if that is one."""
    quoted = text
    if "--target" in str(error):
        return error
    for name in sorted(loaded.classes or (), key=len, reverse=True):
        place = quoted.casefold().find(name.casefold())
        if place >= 0 and any(mark in name for mark in ",+:\"'") and quoted[place - 1 : place] not in ("'", '"'):
            quoted = quoted[:place] + _quoted(name) + quoted[place + len(name) :]
    try:
        if quoted == text:
            return error
        _parsed(quoted, loaded)
    except UsageError:
        return error
    return UsageError(f"{error}. A name with , + or : in it stands in quotes: --target {shlex.quote(quoted)}")


def _parsed(text: str, loaded: Loaded) -> ClassChoice:
    """Read a target by its grammar."""
    kind, colon, words = (part.strip() for part in text.partition(":"))
    if colon and kind == "class" and (named := _class_called(words, loaded)) is not None:
        return ClassChoice(named)
    if kind == "top" and (colon or text == "top"):
        return ClassChoice(None, _rank(text, words, loaded) if colon else 1)
    if colon and kind == "text":
        return _text(words, loaded)
    if colon and kind in ("higher", "lower"):
        form: Form = "higher" if kind == "higher" else "lower"
        return ClassChoice(_output(words, loaded) if words else None, form=form)
    if colon and kind in ("probability", "rest"):
        inner = _best_or_class(words, loaded)
        return inner._replace(form="probability" if kind == "probability" else "rest")
    if colon and kind == "contrast":
        return _contrast(words, loaded)
    labels = [_class(part, loaded) for part in _parts_of(text, "", "+", loaded)]
    if len(set(labels)) < len(labels):
        raise UsageError(f"target {text!r}: expected each label once")
    if len(labels) > 1:
        return ClassChoice(labels[0], form="several", others=tuple(labels[1:]))
    return ClassChoice(labels[0])


def _split(text: str, mark: str) -> list[str]:
    return [part.strip() for part in split_at(text, mark, "target", brackets=False)]


def _parts_of(words: str, lead: str, mark: str, loaded: Loaded) -> list[str]:
    """Split a list of classes; refuse it where some parts together are the name of a class too."""
    parts = split_at(words, mark, "target", brackets=False)
    for start in range(len(parts)):
        for end in range(start + 2, len(parts) + (start > 0)):
            index = _class_called(mark.join(parts[start:end]).strip(), loaded)
            if index is not None:
                name = (loaded.classes or ())[index]
                quoted = lead + mark.join([*parts[:start], _quoted(name), *parts[end:]])
                if all(_class_called(part.strip(), loaded) is not None for part in parts[start:end]):
                    raise _ambiguous(f"{lead}{words}", quoted, _in_parts(f"{lead}{words}"))
                raise UsageError(f"the class {name!r} of a list stands in quotes: --target {shlex.quote(quoted)}")
    return [part.strip() for part in parts]


def _class(text: str, loaded: Loaded) -> int:
    """Read one class; in quotes it is a name, whatever it looks like."""
    if not text:
        raise UsageError(f"a target has an empty name in it: expected {GRAMMAR}")
    return class_of(text, loaded) if unquoted(text) == text else class_named(unquoted(text), loaded)


def _rank(text: str, number: str, loaded: Loaded) -> int:
    """Read K of top:K."""
    count = class_count(loaded)
    if not (number.isdecimal() and int(number)):
        raise UsageError(f"target {text!r}: expected top or top:K, as top:3")
    if count is not None and int(number) > count:
        raise UsageError(f"target {text!r}: {loaded.name} has {count} classes")
    return int(number)


def _best_or_class(words: str, loaded: Loaded) -> ClassChoice:
    """Read top, top:K or one class."""
    kind, colon, number = words.partition(":")
    if kind == "top" and _class_called(words, loaded) is None:
        return ClassChoice(None, _rank(words, number, loaded) if colon else 1)
    if kind == "top":
        instead = f"write class:{words} for the class, or top:1 for the best"
        raise UsageError(f"{words!r} is the name of a class, and more: {instead}")
    return ClassChoice(_class(words, loaded))


def _contrast(words: str, loaded: Loaded) -> ClassChoice:
    """Read a class, alone or with the classes to compare it with."""
    whole = _class_called(words, loaded)
    if words.startswith("class:") and (named := _class_called(words.removeprefix("class:"), loaded)) is not None:
        return ClassChoice(named, form="contrast")
    parts = _split(words, ",") if whole is not None else _parts_of(words, "contrast:", ",", loaded)
    if len(parts) == 1:
        return _best_or_class(words, loaded)._replace(form="contrast")
    try:
        classes = [_class(part, loaded) for part in parts]
    except UsageError:
        if whole is None:
            raise
        return ClassChoice(whole, form="contrast")
    if whole is not None:
        alone = f"contrast:{_quoted(words)}"
        raise _ambiguous(f"contrast:{words}", alone, _in_parts(f"contrast:{words}"))
    if len(set(classes)) < len(classes):
        raise UsageError(f"contrast:{words}: expected each class once")
    return ClassChoice(classes[0], form="contrast", others=tuple(classes[1:]))


def _output(words: str, loaded: Loaded) -> int:
    """Read an output of a regression: an index, or a name where names are known."""
    return class_at(words, loaded) if loaded.classes is None else _class(words, loaded)


def _text(words: str, loaded: Loaded) -> ClassChoice:
    """Read a text for a model that compares images with texts."""
    if not words:
        raise UsageError("text: expected words, as in 'text:a photo of a dog'")
    if not isinstance(loaded.model, ImageTower):
        raise UsageError(
            f"text:{words}: {loaded.name} does not compare images with texts: take a CLIP or SigLIP of Hugging Face, "
            "as in --model hf:openai/clip-vit-base-patch32"
        )
    return ClassChoice(None, form="text", text=words, reference=loaded.model.embed(words))
