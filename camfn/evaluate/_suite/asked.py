"""What a track asks: pictures, the score that is explained, the score that is measured, and where the truth is."""

# tested in tests/evaluate/suite/test_sources.py

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..._photos.classes import columns_of
from ..._shared.errors import CamfnError, UsageError
from ..._shared.vocabulary import ScoreFn
from ...metrics import scores_of
from ...targets import BoxHead, Head, box_score, head_for, mask_score
from ...zoo import Loaded


class Asked(NamedTuple):
    """Questions about pictures: each is explained by every method, and its map is measured.

    Attributes:
        images: (B, C, H, W), the picture of each question.
        explained: outputs to the score that the methods explain, (B,).
        measured: outputs to the score that the metrics read, (B,).
        names: what each question is called in a row, such as "3" or "3 not 5".
        clusters: the photo of each question: intervals resample these.
        own: the pixels that a map should name, (B, H, W), bool; None where they are not known.
        other: pixels of another object, likewise.
        removed: the value of a removed pixel, which broadcasts to the images.
    """

    images: Tensor
    explained: ScoreFn
    measured: ScoreFn
    names: list[str]
    clusters: list[str]
    own: Tensor | None = None
    other: Tensor | None = None
    removed: Tensor | float = 0.0

    def score(self, model: nn.Module, target: ScoreFn | None = None) -> Callable[[Tensor], Tensor]:
        """Return a score of images, (B, C, H, W) to (B,), by default the one that is measured."""
        return scores_of(model, self.images, target or self.measured)


class Weighted:
    """A score of one question for each sample: weights times what is read from the outputs, summed over classes.

    One class is a row of zeros with a one; "a and not b" has 1 and -1; "a or b" has a half twice.

    Args:
        weights: (B, K).
        read: outputs to (B, K).
    """

    def __init__(self, weights: Tensor, read: Callable[[Any], Tensor] = columns_of) -> None:
        self.weights, self.read = weights, read

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        read = self.read(outputs)
        return (read * self.weights.to(read)).sum(1)


def softmaxed(outputs: Any) -> Tensor:
    """Read probabilities of classes that exclude each other, (B, K)."""
    return columns_of(outputs).softmax(1)


def sigmoids(outputs: Any) -> Tensor:
    """Read probabilities of labels that do not, (B, K)."""
    return columns_of(outputs).sigmoid()


def one_hot(labels: Tensor, count: int) -> Tensor:
    """Return the weights of one class a sample, (B, K)."""
    return torch.zeros(len(labels), count).scatter(1, labels.cpu()[:, None], 1.0)


def is_tiny(loaded: Loaded, name: str) -> bool:
    """Whether a model is that of the tiny world."""
    return loaded.name == f"tiny:{name}"


def tiny_head() -> BoxHead:
    """Return the functions that read the detector of the tiny world."""
    return BoxHead(_tiny_boxes, _tiny_scores, _tiny_objectness)


def head_of(loaded: Loaded, head: Head | None) -> Head | None:
    """Return the functions that read a detector's boxes: those given, or the known ones; None for a classifier."""
    if head is not None:
        return head
    if is_tiny(loaded, "detector"):
        return tiny_head()
    try:
        return head_for(loaded.model)
    except Exception:  # it has no boxes that camfn knows
        return None


def scores_for(
    loaded: Loaded, labels: Tensor, boxes: Tensor | None, masks: Tensor | None, head: Head | None, *, exclusive: bool
) -> tuple[ScoreFn, ScoreFn]:
    """Return the score to explain and the score to measure, of one class a sample.

    Args:
        loaded: the model.
        labels: (B,).
        boxes: (B, 4), in pixels of the images; of a detector's question.
        masks: (B, H, W); of a segmenter's.
        head: of a detector.
        exclusive: whether classes exclude each other: softmax, otherwise sigmoid.

    Raises:
        UsageError: a detector, and no box to ask about.
    """
    if head is not None:
        if boxes is None:
            raise UsageError(f"{loaded.name} draws boxes: give photos with boxes, as a CSV with x0, y0, x1, y1")
        target = box_score(boxes, labels, head=head)
        return target, target
    if is_tiny(loaded, "segmenter"):
        assert masks is not None
        region = mask_score(labels + 1, region=masks)
        return region, partial(_mean_sigmoid, labels=labels + 1, masks=masks)
    count = len(loaded.classes) if loaded.classes else int(labels.max()) + 1
    weights, measured = one_hot(labels, count), softmaxed if exclusive else sigmoids
    return Weighted(weights, _columns(loaded, count)), Weighted(weights, _columns(loaded, count, measured))


def _columns(loaded: Loaded, count: int, read: Callable[[Any], Tensor] = columns_of) -> Callable[[Any], Tensor]:
    """Read as many columns as there are weights; a model whose classes have no names may have more."""

    def columns(outputs: Any) -> Tensor:
        try:
            return read(outputs)[:, :count]
        except CamfnError as error:
            raise UsageError(
                f"{loaded.name}: the suite reads logits (B, K), and boxes of detectors that camfn knows. Of another "
                "detector give a targets.BoxHead: --head file.py:NAME, or head in Python; of another network, a "
                f"function that returns its logits alone: --model file.py:function. {error}"
            ) from error

    return columns


def _mean_sigmoid(outputs: Any, labels: Tensor, masks: Tensor) -> Tensor:
    """Return the mean probability of each sample's class in its mask, (B,)."""
    dense = outputs["out"].softmax(1)
    own = dense.gather(1, labels.view(-1, 1, 1, 1).expand(-1, 1, *dense.shape[2:]))[:, 0]
    weights = masks.to(own)
    found: Tensor = (own * weights).sum((1, 2)) / weights.sum((1, 2))
    return found


def _tiny_boxes(outputs: Tensor) -> Tensor:
    center, size = outputs[..., :2], outputs[..., 2:4]
    return torch.cat([center - size / 2, center + size / 2], -1)


def _tiny_scores(outputs: Tensor) -> Tensor:
    return outputs[..., 4:5].sigmoid() * outputs[..., 5:].softmax(-1)


def _tiny_objectness(outputs: Tensor) -> Tensor:
    return outputs[..., 4].sigmoid()
