"""Heads: how a target reads the boxes and scores of a detector out of what it returns."""

# tested in tests/targets/test_boxes.py

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from .._shared.checks import describe
from .._shared.errors import CamfnError
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


@frozen
class detr_head(Value):
    """Read Hugging Face's DETR, YOLOS and similar: `logits` (B, N, K + 1) and `pred_boxes` (B, N, 4), as fractions.

    Scores are softmax probabilities without the last class, which is "no object"; objectness is one minus the
    probability of that class. Boxes are corners as fractions of the image.

    Example:
        >>> import torch
        >>> out = {"logits": torch.zeros(1, 5, 4), "pred_boxes": torch.full((1, 5, 4), 0.5)}
        >>> detr_head().boxes_of(out)[0, 0], detr_head().scores_of(out).shape
        (tensor([0.2500, 0.2500, 0.7500, 0.7500]), torch.Size([1, 5, 3]))
    """

    def boxes_of(self, outputs: Any) -> Tensor:
        """Read the corners of every query's box, (B, N, 4)."""
        boxes = named_output(outputs, "pred_boxes")
        if boxes.ndim != 3 or boxes.shape[-1] != 4:
            raise CamfnError(
                "detr_head reads logits (B, N, K + 1) and pred_boxes (B, N, 4), as DETR and YOLOS return; the model "
                f"returned {describe(outputs)}. For other detectors: BoxHead(boxes_of, scores_of)"
            )
        center, size = boxes.split(2, -1)
        return torch.cat([center - size / 2, center + size / 2], -1)

    def scores_of(self, outputs: Any) -> Tensor:
        """Read the probabilities of the classes of every query, (B, N, K)."""
        return self._probabilities(outputs)[..., :-1]

    @property
    def objectness_of(self) -> Callable[[Any], Tensor]:
        """Function from outputs to the probability that a query found an object, (B, N)."""
        return self._objectness

    @property
    def fixed(self) -> bool:
        """A query stands for the same place in every image, by and large."""
        return True

    def _objectness(self, outputs: Any) -> Tensor:
        return 1 - self._probabilities(outputs)[..., -1]

    def _probabilities(self, outputs: Any) -> Tensor:
        with_no_object: Tensor = named_output(outputs, "logits").softmax(-1)
        return with_no_object


def read(head: Head, outputs: Any) -> tuple[Tensor, Tensor]:
    """Return the boxes and the class scores of a detector's outputs; refuse wrong shapes."""
    boxes, scores = head.boxes_of(outputs), head.scores_of(outputs)
    if boxes.ndim != 3 or boxes.shape[2] != 4 or scores.ndim != 3 or scores.shape[:2] != boxes.shape[:2]:
        raise CamfnError(
            f"head: expected boxes (B, N, 4) and scores (B, N, K), got {tuple(boxes.shape)} and {tuple(scores.shape)}"
        )
    return boxes, scores
