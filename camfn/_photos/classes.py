"""Targets in words: a class by name or index, the best classes, contrasts, probabilities, regressions, texts."""

# tested in tests/photos/test_targets.py

from __future__ import annotations

import math
import re
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._shared.checks import describe
from .._shared.errors import CamfnError, UsageError
from .._shared.lists import split_at, unquoted
from .._shared.vocabulary import ScoreFn
from ..targets import class_probability, class_score, contrast, logits_of, regression, rest, several, similarity
from ..targets._score import named_output
from ..zoo import Loaded
from ..zoo._texts import ImageTower
from .names import class_at, class_count, class_named, class_of

Form = Literal["score", "probability", "rest", "contrast", "higher", "lower", "several", "text"]

GRAMMAR = (
    "a class by name or index, top, top:K, contrast:A or contrast:A,B, probability:A, rest:A, higher:N or lower:N of a "
    "regression, several labels A+B, or text:WORDS"
)
"""The forms of a target, as messages list them."""


class Picked(NamedTuple):
    """One target of a batch, its choices made.

    Attributes:
        score: a function of the outputs, (B,).
        classes: the class of each photo, (B,); None for a target of no class or of several.
    """

    score: ScoreFn
    classes: Tensor | None


class ClassChoice(NamedTuple):
    """What to explain of each photo.

    Attributes:
        chosen: the index of one class, or output, for all photos; None for those with the largest logits of each photo.
        best: the number of classes with the largest logits.
        form: what of the class is explained: its logit, its probability, ...
        others: of "contrast", the classes to compare with, empty for those that look most like it; of "several", the
            labels after the first.
        text: of "text", the words.
        reference: of "text", their embedding, (D,).
    """

    chosen: int | None
    best: int = 1
    form: Form = "score"
    others: tuple[int, ...] = ()
    text: str = ""
    reference: Tensor | None = None

    @property
    def suffixes(self) -> list[str]:
        """Endings of the file names, one a target; they are known before any forward, as the check of files needs."""
        if self.form == "text":
            return [f".text-{re.sub(r'[^a-z0-9]+', '-', self.text.casefold()).strip('-')[:60]}"]
        kind = "" if self.form in ("score", "several") else f"{self.form}"
        if self.chosen is None:
            ranks = [""] if self.best == 1 else [f"top{rank}" for rank in range(1, self.best + 1)]
            return ["".join(f".{part}" for part in (kind, rank) if part) for rank in ranks]
        indices = "-".join(map(str, (self.chosen, *self.others)))
        return ["".join(f".{part}" for part in (kind, indices.replace("-", "+") if not kind else indices) if part)]

    def pick(self, outputs: Any) -> list[Picked]:
        """Make the choices at the outputs of a batch, one target for each of the best classes.

        Raises:
            UsageError: the model has fewer classes or outputs than the target asks for, or no top class.
        """
        if self.reference is not None:
            return [Picked(similarity(self.reference), None)]
        logits = columns_of(outputs)
        batch, count = logits.shape
        largest = max(self.best - 1, self.chosen or 0, *self.others, 0)
        if largest >= count:
            raise UsageError(f"the model has {count} classes, 0 to {count - 1}, fewer than the target asks for")
        if count == 1:
            return [self._of_one_output(batch, logits)]
        if self.chosen is None and self.form in ("higher", "lower"):
            raise UsageError(f"the model returns {count} numbers a photo: say which, as in {self.form}:0")
        if self.form == "several":
            return [Picked(several([self.chosen or 0, *self.others]), None)]
        if self.chosen is not None:
            columns = torch.full((batch, 1), self.chosen, device=logits.device)
        else:
            columns = logits.detach().topk(self.best).indices
        return [Picked(self._score(classes), classes) for classes in columns.T]

    def _score(self, classes: Tensor) -> ScoreFn:
        """Return the score of one class a photo, (B,)."""
        if self.form == "contrast":
            return contrast(classes, list(self.others) or None)
        if self.form == "lower":
            return -class_score(classes)
        kinds = {"probability": class_probability, "rest": rest}
        return kinds.get(self.form, class_score)(classes)

    def _of_one_output(self, batch: int, logits: Tensor) -> Picked:
        """Return the score of a model with one number a photo, which has no top class and no probability."""
        if (self.chosen is None and self.form == "score") or self.form not in ("score", "higher", "lower"):
            raise UsageError(
                "the model returns one number a photo, and has no top class to explain or compare: give --target "
                "higher: for what raises the number, or lower: for what lowers it"
            )
        score = regression(0, sign=-1 if self.form == "lower" else 1)
        return Picked(score, torch.zeros(batch, dtype=torch.long, device=logits.device))

    def label(self, index: int | None, classes: list[str] | None) -> str:
        """Write the target for people, as in captions and records."""
        names = [_name(i, classes) for i in (index, *self.others) if i is not None]
        if self.form == "text":
            return self.text
        if self.form == "several":
            return " + ".join(_name(i, classes) for i in (self.chosen or 0, *self.others))
        if self.form == "contrast":
            return f"{names[0]} against {' and '.join(names[1:]) or 'the likest'}"
        return {"probability": "probability of ", "rest": "ReST of ", "lower": "less ", "higher": "more "}.get(
            self.form, ""
        ) + names[0]

    def record(
        self, index: int | None, score: float | None, logits: Tensor, classes: list[str] | None
    ) -> dict[str, Any]:
        """Describe one explained target, for records: index, name, score and probability, null where there is none."""
        if score is None:  # the method explains no class
            return {"index": None, "name": None, "score": None, "probability": None}
        plain = self.form in ("score", "higher", "lower") and (classes is None or index is None)
        name = None if plain and self.form == "score" else self.label(index, classes)
        several_classes = index is not None and len(logits) > 1 and self.form not in ("higher", "lower")
        probability = float(logits.softmax(0)[index]) if several_classes else None
        finite = {"score": score, "probability": probability}
        return {"index": index, "name": name} | {
            key: value if value is not None and math.isfinite(value) else None for key, value in finite.items()
        }


NO_CLASS = ClassChoice(None)
"""The choice for a method that explains no class."""


def first_score(choice: ClassChoice) -> ScoreFn:
    """Return the score of the first target of a choice as a function of the outputs, for the search of a layer."""
    return lambda outputs: choice.pick(outputs)[0].score(outputs)


def no_class(outputs: Any) -> Tensor:
    """Score photos by all that the model returns, (B,): the target of a method that explains no class."""
    tensor = next(leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point())
    return tensor.flatten(1).sum(1) if tensor.ndim > 1 else tensor


def gives_one_number(model: nn.Module, images: Tensor) -> bool:
    """Say whether a model returns one number a photo, as regressions and one-logit heads do."""
    with torch.no_grad():
        outputs = model(images)
    scores = getattr(outputs, "logits", outputs)
    return isinstance(scores, Tensor) and scores.numel() == len(images)


def pick_target(text: str, loaded: Loaded) -> ClassChoice:
    """Read a target in words.

    A class whose name reads as another target, such as `top`, `a+b` or `contrast:x`, is refused as ambiguous, and is
    named by `class:NAME` or in quotes.

    Raises:
        UsageError: no such target, or words that can be read in two ways.
    """
    text = text.strip()
    if isinstance(loaded.model, ImageTower) and not text.startswith("text:"):
        raise UsageError(
            f"{loaded.name} compares images with texts and has no classes: give words, as in --target 'text:a red car'"
        )
    literal = None if text.isdecimal() else _class_called(text, loaded)
    try:
        parsed = _parsed(text, loaded)
    except UsageError:
        if literal is None:
            raise
        return ClassChoice(literal)
    if literal is None or parsed == ClassChoice(literal):
        return parsed
    instead = "top:1" if text.casefold() == "top" else "quotes around each of its names"
    raise UsageError(f"target {text!r} is the name of a class, and more: give class:{text} for the class, or {instead}")


def columns_of(outputs: Any) -> Tensor:
    """Find the logits or the outputs of a regression, (B, K), in what a model returns."""
    values = named_output(outputs, "logits")
    if isinstance(values, Tensor) and values.ndim == 1:
        return values[:, None]
    try:
        return logits_of(outputs)
    except CamfnError as error:
        raise UsageError(
            f"a target in words needs logits or numbers (B, K); the model returned {describe(outputs)}. Detectors and "
            "segmenters have --task"
        ) from error


def _name(index: int, classes: list[str] | None) -> str:
    return classes[index] if classes and index < len(classes) else f"class {index}"


def _class_called(text: str, loaded: Loaded) -> int | None:
    """Return the class that has a text as its whole name, in any case of letters; None if not exactly one has."""
    word = text.casefold()
    found = [i for i, name in enumerate(loaded.classes or ()) if name.casefold() == word]
    exact = [i for i in found if (loaded.classes or ())[i] == text]
    return (exact or found)[0] if len(exact or found) == 1 else None


def _parsed(text: str, loaded: Loaded) -> ClassChoice:
    """Read a target by its grammar."""
    kind, colon, words = (part.strip() for part in text.partition(":"))
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
    labels = [_class(part, loaded) for part in _split(text, "+")]
    if len(set(labels)) < len(labels):
        raise UsageError(f"target {text!r}: expected each label once")
    if len(labels) > 1:
        return ClassChoice(labels[0], form="several", others=tuple(labels[1:]))
    return ClassChoice(labels[0])


def _split(text: str, mark: str) -> list[str]:
    return [part.strip() for part in split_at(text, mark, "target", brackets=False)]


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
        raise UsageError(f"{words!r} is the name of a class, and more: give class:{words} for the class")
    return ClassChoice(_class(words, loaded))


def _contrast(words: str, loaded: Loaded) -> ClassChoice:
    """Read a class, alone or with the classes to compare it with."""
    whole = _class_called(words, loaded)
    parts = _split(words, ",")
    if len(parts) == 1:
        return _best_or_class(words, loaded)._replace(form="contrast")
    try:
        classes = [_class(part, loaded) for part in parts]
    except UsageError:
        if whole is None:
            raise
        return ClassChoice(whole, form="contrast")
    if whole is not None:
        raise UsageError(f"{words!r} is the name of a class, and a list: put quotes around the names")
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
