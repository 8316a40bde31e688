"""What to explain of each photo: a class, the best classes, contrasts, probabilities, regressions, texts."""

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
from .._shared.vocabulary import ScoreFn
from ..targets import class_probability, class_score, contrast, logits_of, regression, rest, several, similarity
from ..targets._score import named_output

Form = Literal["score", "probability", "rest", "contrast", "higher", "lower", "several", "text"]


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
            "segmenters have --task; of another network, wrap it so that it returns the logits alone, and name the "
            "function that makes it: --model file.py:function"
        ) from error


def _name(index: int, classes: list[str] | None) -> str:
    return classes[index] if classes and index < len(classes) else f"class {index}"
