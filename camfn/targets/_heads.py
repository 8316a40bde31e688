"""Heads: how a target reads the boxes and scores of a detector out of what it returns."""

# tested in tests/targets/test_boxes.py

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from .._shared.boxes import corners_of
from .._shared.checks import describe, one_of
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.value import Value, frozen
from ._score import named_output


class Head(Protocol):
    """What the targets read a detector through: a `BoxHead`, or any object with these attributes."""

    @property
    def boxes_of(self) -> Callable[[Any], Tensor]:
        """Function from outputs to the corners x0 y0 x1 y1 of every candidate, (B, N, 4)."""

    @property
    def scores_of(self) -> Callable[[Any], Tensor]:
        """Function from outputs to the class scores of every candidate, (B, N, K)."""

    @property
    def objectness_of(self) -> Callable[[Any], Tensor] | None:
        """Function from outputs to the objectness of every candidate, (B, N); None without it."""

    @property
    def fixed(self) -> bool:
        """Whether candidate n stands for the same place in every image."""


@frozen
class BoxHead(Value, tree=True):
    """Functions that read a detector's outputs; two of them are enough for any detector.

    Args:
        boxes_of: function from outputs to the corners x0 y0 x1 y1 of every candidate, (B, N, 4), in any unit.
        scores_of: function from outputs to the class scores of every candidate, (B, N, K), none negative; usually
            probabilities.
        objectness_of: function from outputs to the objectness of every candidate, (B, N): the detector's confidence
            that there is an object. None for a detector without it.
        fixed: whether candidate n stands for the same place in every image, as before suppression and sorting. If
            not, perturbation methods look for the box by its coordinates in every run.

    Example:
        >>> import torch
        >>> yolo = BoxHead(boxes_of=lambda out: out[..., :4], scores_of=lambda out: out[..., 5:].sigmoid())
        >>> yolo.scores_of(torch.zeros(2, 100, 85)).shape
        torch.Size([2, 100, 80])
    """

    boxes_of: Callable[[Any], Tensor]
    scores_of: Callable[[Any], Tensor]
    objectness_of: Callable[[Any], Tensor] | None = None
    fixed: bool = True


@frozen
class torchvision_head(Value):
    """Read torchvision's detectors, whose outputs are a list with a dict of boxes, labels and scores for each image.

    Boxes are in pixels of the input image. Each detection has a score for its own label only; the head pads images
    with fewer detections with boxes and scores of 0. Give the model its images as one tensor (B, 3, H, W).

    Args:
        count: number of labels, including the background 0; 91 for the weights trained on COCO.

    Example:
        >>> import torch
        >>> found = [{"boxes": torch.ones(1, 4), "labels": torch.tensor([2]), "scores": torch.tensor([0.9])}]
        >>> torchvision_head(4).scores_of(found)
        tensor([[[0.0000, 0.0000, 0.9000, 0.0000]]])
    """

    count: int = 91

    def __post_init__(self) -> None:
        if type(self.count) is not int or self.count < 1:
            raise CamfnError(f"count: expected the number of labels, the background among them; got {self.count!r}")

    def boxes_of(self, outputs: Any) -> Tensor:
        """Read the corners of every detection, (B, N, 4)."""
        return _padded(outputs, "boxes")

    def scores_of(self, outputs: Any) -> Tensor:
        """Read the scores of every detection, 0 but for its own label, (B, N, count)."""
        values, labels = _padded(outputs, "scores"), _padded(outputs, "labels")
        return values.new_zeros(*values.shape, self.count).scatter(2, labels[..., None], values[..., None])

    @property
    def objectness_of(self) -> None:
        """These detectors have no objectness."""
        return None

    @property
    def fixed(self) -> bool:
        """Detections are sorted by their scores."""
        return False


def _padded(outputs: Any, key: str) -> Tensor:
    """Read one entry of each image's detections as one tensor, images with fewer of them padded with 0."""
    if not isinstance(outputs, (list, tuple)) or not all(isinstance(one, dict) and key in one for one in outputs):
        raise CamfnError(
            f"torchvision_head reads a list of dicts with boxes, labels and scores, as torchvision's detectors "
            f"return in evaluation mode; the model returned {describe(outputs)}"
        )
    rows = pad_sequence([one[key] for one in outputs], batch_first=True)
    if rows.shape[1]:
        return rows
    # without any detection, one empty candidate lets maxima and gathers run
    return functional.pad(rows, (*(0, 0) * (rows.ndim - 2), 0, 1))


Activation = Literal["auto", "softmax", "sigmoid"]
"""What makes scores of a detector's logits."""


@frozen
class detr_head(Value):
    """Read DETR and its descendants: logits (B, N, K) and boxes (B, N, 4), center and size as fractions.

    It takes the outputs of Hugging Face (`logits`, `pred_boxes`), of the package rfdetr and of DETR's authors
    (`pred_logits`, `pred_boxes`), and of Ultralytics' RT-DETR. DETR, YOLOS and Table Transformer were trained with
    "softmax": the last class is "no object", scores are the probabilities of the others, and objectness is one minus
    the probability of the last. All that were trained with the focal loss have "sigmoid": each class by itself, and no
    objectness (Conditional, Deformable and DAB-DETR, RT-DETR, D-FINE, LW-DETR, RF-DETR, Grounding DINO, OWL-ViT).
    `head_for(model)` chooses.

    Args:
        activation: "softmax" or "sigmoid"; "auto" knows it from the class of Hugging Face's outputs.
        fixed: whether query n stands for the same place in every image. It does not where queries are picked among the
            places of the image, as in RT-DETR.
        count: K without "no object", which the outputs must have; None takes any.
        phrases: for detectors that read words, as Grounding DINO: the tokens of each phrase. A phrase is then a class,
            whose score is the largest of its tokens.

    Raises:
        CamfnError: the outputs are of another kind, or do not say which activation to use.

    Example:
        >>> import torch
        >>> out = {"logits": torch.zeros(1, 5, 4), "pred_boxes": torch.full((1, 5, 4), 0.5)}
        >>> detr_head("softmax").boxes_of(out)[0, 0], detr_head("softmax").scores_of(out).shape
        (tensor([0.2500, 0.2500, 0.7500, 0.7500]), torch.Size([1, 5, 3]))
        >>> detr_head("sigmoid").scores_of(out).shape
        torch.Size([1, 5, 4])
    """

    activation: Activation = "auto"
    _: KW_ONLY
    fixed: bool = False
    count: int | None = None
    phrases: Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        one_of("activation", self.activation, get_args(Activation))
        if self.phrases is not None:
            object.__setattr__(self, "phrases", _checked_phrases(self.phrases))

    def boxes_of(self, outputs: Any) -> Tensor:
        """Read the corners of every query's box, (B, N, 4)."""
        return corners_of(*_logits_and_boxes(outputs)[1].chunk(2, -1))

    def scores_of(self, outputs: Any) -> Tensor:
        """Read the scores of the classes of every query, (B, N, K)."""
        logits, _ = _logits_and_boxes(outputs)
        scores = logits.softmax(-1)[..., :-1] if self._softmax(outputs) else logits.sigmoid()
        if self.count is not None and scores.shape[-1] != self.count:
            raise CamfnError(f"detr_head: expected {self.count} classes, the model returned {scores.shape[-1]}")
        if self.phrases is None:
            return scores
        highest = max(token for phrase in self.phrases for token in phrase)
        if highest >= scores.shape[-1]:
            raise CamfnError(f"phrases: there is no token {highest}: the model scores {scores.shape[-1]} tokens")
        return torch.stack([scores[..., list(phrase)].amax(-1) for phrase in self.phrases], -1)

    @property
    def objectness_of(self) -> Callable[[Any], Tensor] | None:
        """Function from outputs to the probability that a query found an object, (B, N); None for "sigmoid"."""
        return None if self.activation == "sigmoid" else self._objectness

    def _objectness(self, outputs: Any) -> Tensor:
        """Return one minus the probability of "no object"; 1 where there is no such class."""
        logits, _ = _logits_and_boxes(outputs)
        return 1 - logits.softmax(-1)[..., -1] if self._softmax(outputs) else torch.ones_like(logits[..., 0])

    def _softmax(self, outputs: Any) -> bool:
        """Say whether the last class is "no object"."""
        if self.activation != "auto":
            return self.activation == "softmax"
        name = type(outputs).__name__.removesuffix("ObjectDetectionOutput")
        if name not in SOFTMAX | SIGMOID:
            raise CamfnError(
                f'detr_head: the outputs, {describe(outputs)}, do not say whether a class is "no object": pass '
                'head_for(model), or detr_head("softmax") if there is such a class, as in DETR, and '
                'detr_head("sigmoid") if not'
            )
        return name in SOFTMAX


SOFTMAX = {"Detr", "Yolos", "TableTransformer"}
"""Families of Hugging Face that have a class "no object"."""

SIGMOID = {
    "ConditionalDetr", "DabDetr", "DeformableDetr", "RTDetr", "RTDetrV2", "DFine", "Deimv2", "LwDetr", "RfDetr",
    "GroundingDino", "MMGroundingDino", "OwlViT", "Owlv2",
}  # fmt: skip
"""Families of Hugging Face whose classes are independent of each other."""


def _logits_and_boxes(outputs: Any) -> tuple[Tensor, Tensor]:
    """Find the logits, (B, N, K), and the boxes, (B, N, 4), of what a DETR returns."""
    logits, boxes = named_output(outputs, "logits", "pred_logits"), named_output(outputs, "pred_boxes")
    if isinstance(outputs, tuple) and len(outputs) == 2 and isinstance(outputs[1], tuple) and len(outputs[1]) > 1:
        # Ultralytics' RT-DETR: the decoder's boxes and logits, a row for each of its layers
        boxes, logits = (part[-1] if isinstance(part, Tensor) and part.ndim == 4 else None for part in outputs[1][:2])
    read = isinstance(logits, Tensor) and isinstance(boxes, Tensor) and logits.ndim == boxes.ndim == 3
    if not read or boxes.shape[-1] != 4 or boxes.shape[:2] != logits.shape[:2]:
        raise CamfnError(
            "detr_head reads logits (B, N, K) and pred_boxes (B, N, 4), as DETR and its descendants return; the model "
            f"returned {describe(outputs)}. For other detectors: head_for(model), or BoxHead(boxes_of, scores_of)"
        )
    return logits, boxes


def _checked_phrases(given: Any) -> tuple[tuple[int, ...], ...]:
    """Return the tokens of each phrase as tuples."""
    if not isinstance(given, (list, tuple)) or not given:
        raise ArgumentTypeError(f"phrases: expected a list of tokens for each phrase, as [[1], [3, 4]], got {given!r}")
    for phrase in given:
        whole = isinstance(phrase, (list, tuple)) and phrase and all(type(t) is int and t >= 0 for t in phrase)
        if not whole:
            raise ArgumentTypeError(f"phrases: expected the places of a phrase's tokens, as [3, 4], got {phrase!r}")
    return tuple(map(tuple, given))


def read(head: Head, outputs: Any) -> tuple[Tensor, Tensor]:
    """Return the boxes and the class scores of a detector's outputs; refuse wrong shapes."""
    if not all(callable(getattr(head, key, None)) for key in ("boxes_of", "scores_of")):
        raise ArgumentTypeError(f"head: expected a BoxHead, or what head_for(model) finds, got {describe(head)}")
    boxes, scores = head.boxes_of(outputs), head.scores_of(outputs)
    if boxes.ndim != 3 or boxes.shape[2] != 4 or scores.ndim != 3 or scores.shape[:2] != boxes.shape[:2]:
        raise CamfnError(
            f"head: expected boxes (B, N, 4) and scores (B, N, K), got {tuple(boxes.shape)} and {tuple(scores.shape)}"
        )
    return boxes, scores
