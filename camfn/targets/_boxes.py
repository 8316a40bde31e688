"""Targets for detectors: the class score, objectness or coordinate of one box, and its match on a perturbed image.

The targets read a detector through a head, such as a `BoxHead`: two functions of its outputs, `boxes_of` and
`scores_of`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from .._shared.boxes import box_iou
from .._shared.checks import describe, one_of, space
from .._shared.devices import brought, tensor_on
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.maps import safe_divide
from .._shared.value import frozen
from ._candidates import (
    Box,
    best_class,
    candidate,
    checked_box,
    corners,
    moved_box,
    of_class,
    rows_at,
)
from ._heads import Head, read
from ._score import Arithmetic, Classes, Move, checked_classes, class_index

Part: TypeAlias = Literal["class", "objectness", "x0", "y0", "x1", "y1", "center_x", "center_y", "width", "height"]
"""Which of a candidate's numbers to explain."""


@frozen
class _OfBox(Arithmetic):
    """A target that refers to a box of a detector."""

    box: Box = None
    classes: Classes = None
    _: KW_ONLY
    head: Head
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", checked_box(self.box))
        object.__setattr__(self, "classes", checked_classes("classes", self.classes))
        if not all(callable(getattr(self.head, key, None)) for key in ("boxes_of", "scores_of")):
            raise ArgumentTypeError(
                f"head: expected a BoxHead, torchvision_head() or detr_head(), got {describe(self.head)}; for example "
                "BoxHead(boxes_of=lambda out: out[..., :4], scores_of=lambda out: out[..., 5:].sigmoid())"
            )
        if self.size is not None:
            object.__setattr__(self, "size", space("size of the image, in the unit of the boxes,", self.size, 2))

    @property
    def moved(self) -> Callable[[Move], Arithmetic]:
        """Move the box."""
        return self._move

    def _move(self, move: Move) -> Arithmetic:
        return replace(self, box=moved_box(self.box, self.size, move))


@frozen
class box_score(_OfBox, tree=True):
    """One number of one box of a detector: ODAM's targets (2304.06354).

    Four coordinates stand for the candidate with the largest IoU times class score; the score is 0 where no candidate
    overlaps. A method that perturbs chooses the candidate and the class once, from the unperturbed image.

    Args:
        box: a candidate's index, coordinates, or None for the best candidate.
        classes: the class, as for `class_score`; None takes the candidate's best class.
        head: functions that read the detector's outputs.
        part: the class score; objectness; a corner's coordinate, or the center or the size along one axis.
        size: (height, width) of the image in the boxes' unit; `transforms.augment` needs it to move the box.

    Raises:
        CamfnError: an unknown part, boxes or scores of a wrong shape, an index out of range, or no objectness.

    Example:
        >>> import torch
        >>> from camfn.targets import BoxHead
        >>> head = BoxHead(lambda out: out[..., :4], lambda out: out[..., 4:])
        >>> out = torch.tensor([[[0.0, 0.0, 2.0, 2.0, 0.9, 0.1], [4.0, 4.0, 6.0, 8.0, 0.2, 0.7]]])
        >>> box_score(1, head=head)(out), box_score([0, 0, 2, 3], 1, head=head)(out)
        (tensor([0.7000]), tensor([0.1000]))
        >>> box_score(1, head=head, part="height")(out)
        tensor([4.])
    """

    _: KW_ONLY
    part: Part = "class"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("part", self.part, ("class", "objectness", *_COORDINATES))
        if self.part == "objectness" and self.head.objectness_of is None:
            raise CamfnError("this head has no objectness: give it as BoxHead(..., objectness_of=...)")

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        boxes, scores = read(self.head, outputs)
        which, exists = candidate(self.box, self.classes, boxes, scores)
        if self.part == "class":
            own = rows_at(scores, which)
            value = own.gather(1, class_index(own, self.classes))[:, 0]
        elif self.part == "objectness":
            assert self.head.objectness_of is not None
            value = self.head.objectness_of(outputs).gather(1, which[:, None])[:, 0]
        else:
            corners = rows_at(boxes, which)
            value = corners @ tensor_on(_COORDINATES[self.part], corners.device, corners.dtype)
        return torch.where(exists, value, 0.0)

    @property
    def pinned(self) -> Callable[[Any], Arithmetic]:
        """Take the candidate and the class at these outputs."""
        return self._pin

    def _pin(self, outputs: Any) -> Arithmetic:
        boxes, scores = read(self.head, outputs)
        which, _ = candidate(self.box, self.classes, boxes, scores)
        chosen = replace(self, classes=class_index(rows_at(scores, which), self.classes)[:, 0])
        place = rows_at(boxes.detach(), which)
        if not self.head.fixed:
            return replace(chosen, box=place)
        return _Candidate(replace(chosen, box=which), place)


@frozen
class _Candidate(Arithmetic, tree=True):
    """A `box_score` of candidates by their index, whose places, (B, 4), are known too."""

    target: box_score
    place: Tensor

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        return self.target(outputs)

    @property
    def pinned(self) -> Callable[[Any], Arithmetic]:
        """Choose as the target does."""
        return self.target.pinned

    @property
    def moved(self) -> Callable[[Move], box_score]:
        """Move the places."""
        return self._move

    def _move(self, move: Move) -> box_score:
        return replace(self.target, box=moved_box(self.place, self.target.size, move))

    def __repr__(self) -> str:
        return repr(self.target)


@frozen
class overlap_score(_OfBox, tree=True):
    """IoU-matched score: the largest `IoU(box, b_n) s_n(class)` over the candidates n.

    The gradient goes through both factors. pytorch-grad-cam's target for Faster R-CNN adds the score and a constant
    IoU, for candidates above an IoU of one half.

    Args:
        box: as for `box_score`.
        classes: the class; None takes, for each sample, the class of the best candidate.
        head: functions that read the detector's outputs.
        size: as for `box_score`.

    Example:
        >>> import torch
        >>> from camfn.targets import BoxHead
        >>> head = BoxHead(lambda out: out[..., :4], lambda out: out[..., 4:])
        >>> out = torch.tensor([[[0.0, 0.0, 2.0, 2.0, 0.9, 0.1], [4.0, 4.0, 6.0, 8.0, 0.2, 0.7]]])
        >>> overlap_score([0, 0, 2, 4], 0, head=head)(out)
        tensor([0.4500])
    """

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        boxes, scores = read(self.head, outputs)
        overlap = box_iou(boxes, corners(self.box, self.classes, boxes, scores)[:, None])
        return (overlap * of_class(scores, self.classes, overlap)).amax(1)

    @property
    def pinned(self) -> Callable[[Any], overlap_score]:
        """Take the place and the class at these outputs."""
        return self._pin

    def _pin(self, outputs: Any) -> overlap_score:
        boxes, scores = read(self.head, outputs)
        place = corners(self.box, self.classes, boxes, scores)
        best = best_class(scores, box_iou(boxes, place[:, None])) if self.classes is None else self.classes
        return replace(self, box=place, classes=best)


@frozen
class detection_similarity(_OfBox, tree=True):
    """Similarity of the most similar candidate to a detection: D-RISE's score (2006.03204, eq. 2 and 3).

    `max_n IoU(box, b_n) cos(p, p_n) o_n` with the class scores `p_n` and the objectness `o_n`; `o_n` is 1 where the
    head has no objectness. Use it with `methods.d_rise`, deletion and insertion. The gradient goes through the IoU too.

    Args:
        box: as for `box_score`.
        classes: the class for which `p` is 1; `p` is 0 for the other classes.
        head: functions that read the detector's outputs.
        probabilities: `p` itself, (K,) or (B, K), in place of a class. Without a class and `p`, `p` is the scores of
            the candidate that the box stands for; a method that perturbs reads them once.
        size: as for `box_score`.

    Example:
        >>> import torch
        >>> from camfn.targets import BoxHead
        >>> head = BoxHead(lambda out: out[..., :4], lambda out: out[..., 4:])
        >>> out = torch.tensor([[[0.0, 0.0, 2.0, 2.0, 0.3, 0.4]]])
        >>> detection_similarity([0, 0, 2, 4], 1, head=head)(out)  # 0.5 * 0.4 / 0.5
        tensor([0.4000])
    """

    _: KW_ONLY
    probabilities: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.probabilities
        if given is not None and not (isinstance(given, Tensor) and given.is_floating_point()):
            raise ArgumentTypeError(f"probabilities: expected a tensor (K,) or (B, K), got {describe(given)}")

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        boxes, scores = read(self.head, outputs)
        place, wanted = self._place_and_probabilities(boxes, scores)
        cosine = safe_divide((scores * wanted[:, None]).sum(2), scores.norm(dim=2) * wanted.norm(dim=1)[:, None])
        similarity = box_iou(boxes, place[:, None]) * cosine
        objectness_of = self.head.objectness_of
        return (similarity if objectness_of is None else similarity * objectness_of(outputs)).amax(1)

    @property
    def pinned(self) -> Callable[[Any], detection_similarity]:
        """Take the place and the probabilities at these outputs."""
        return self._pin

    def _pin(self, outputs: Any) -> detection_similarity:
        place, wanted = self._place_and_probabilities(*read(self.head, outputs))
        return replace(self, box=place, classes=None, probabilities=wanted)

    def _place_and_probabilities(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the corners of the box, (B, 4), and the probabilities of what is in it, (B, K)."""
        place, (batch, _, count) = corners(self.box, self.classes, boxes, scores), scores.shape
        if self.probabilities is not None:
            rows = self.probabilities if self.probabilities.ndim == 2 else self.probabilities[None]
            if rows.ndim != 2 or rows.shape[1] != count or (rows.shape[0] != 1 and rows.shape[0] != batch):
                given = tuple(self.probabilities.shape)
                raise CamfnError(f"probabilities: expected shape ({count},) or {(batch, count)}, got {given}")
            return place, brought(rows, scores).expand(batch, count)
        if self.classes is not None:
            own = class_index(scores[:, 0], self.classes)
            return place, torch.zeros_like(scores[:, 0]).scatter(1, own, 1.0)
        which, _ = candidate(self.box, None, boxes, scores)
        return place, rows_at(scores.detach(), which)


_COORDINATES = {
    "x0": (1.0, 0.0, 0.0, 0.0),
    "y0": (0.0, 1.0, 0.0, 0.0),
    "x1": (0.0, 0.0, 1.0, 0.0),
    "y1": (0.0, 0.0, 0.0, 1.0),
    "center_x": (0.5, 0.0, 0.5, 0.0),
    "center_y": (0.0, 0.5, 0.0, 0.5),
    "width": (-1.0, 0.0, 1.0, 0.0),
    "height": (0.0, -1.0, 0.0, 1.0),
}
