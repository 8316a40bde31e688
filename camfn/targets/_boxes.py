"""Targets of detectors: one chosen box's class score, objectness, coordinate, and its like on a perturbed image.

A detector is read through two functions of its outputs, `boxes_of` and `scores_of`; everything else is built on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from .._shared.boxes import box_iou
from .._shared.checks import describe
from .._shared.errors import CamfnError
from .._shared.maps import safe_divide
from ._score import Classes, Move, Score, class_index, named_output

Box: TypeAlias = "int | Tensor | Sequence[float] | None"
"""A candidate's index, one for all or (B,) integers; coordinates, (4,) or (B, 4); None for the best candidate."""

Part: TypeAlias = Literal["class", "objectness", "x0", "y0", "x1", "y1", "center_x", "center_y", "width", "height"]
"""Which of a candidate's numbers to explain."""


class BoxHead(NamedTuple):
    """How to read a detector's outputs. Any detector can be plugged in with two functions.

    Attributes:
        boxes_of: outputs to the corners x0 y0 x1 y1 of every candidate, (B, N, 4), in any unit.
        scores_of: outputs to its class scores, (B, N, K), none negative; probabilities as a rule.
        objectness_of: outputs to (B, N), how sure the detector is of there being an object; None if it does not say.
        fixed: whether candidate n is the same place on every image, as it is ahead of any suppression and sorting.
            Where it is not, perturbation methods look for the box by its coordinates in every run.

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


def torchvision_head(count: int = 91) -> BoxHead:
    """Read torchvision's detectors, whose outputs are a list with a dict of boxes, labels and scores for each image.

    Boxes are in pixels of the image given. Each detection has a score for its own label only; images with fewer are
    filled up with boxes and scores of 0. Give the model its images as one tensor (B, 3, H, W).

    Args:
        count: number of labels, the background 0 among them; 91 for the weights trained on COCO.

    Example:
        >>> import torch
        >>> found = [{"boxes": torch.ones(1, 4), "labels": torch.tensor([2]), "scores": torch.tensor([0.9])}]
        >>> torchvision_head(4).scores_of(found)
        tensor([[[0.0000, 0.0000, 0.9000, 0.0000]]])
    """

    def padded(outputs: Any, key: str) -> Tensor:
        if not isinstance(outputs, (list, tuple)) or not all(isinstance(one, dict) and key in one for one in outputs):
            raise CamfnError(
                f"torchvision_head reads a list of dicts with boxes, labels and scores, as torchvision's detectors "
                f"return in evaluation mode; the model returned {describe(outputs)}"
            )
        rows = pad_sequence([one[key] for one in outputs], batch_first=True)
        if rows.shape[1]:
            return rows
        # no detections at all: a candidate that is nothing, for maxima and gathers to find
        return functional.pad(rows, (*(0, 0) * (rows.ndim - 2), 0, 1))

    def scores(outputs: Any) -> Tensor:
        values, labels = padded(outputs, "scores"), padded(outputs, "labels")
        return torch.zeros(*values.shape, count).to(values).scatter(2, labels[..., None], values[..., None])

    return BoxHead(lambda outputs: padded(outputs, "boxes"), scores, fixed=False)


def detr_head() -> BoxHead:
    """Read Hugging Face's DETR, YOLOS and their like: `logits` (B, N, K + 1) and `pred_boxes` (B, N, 4), as fractions.

    Scores are softmax probabilities without the last class, which is "no object"; objectness is its complement. Boxes
    are corners as fractions of the image.

    Example:
        >>> import torch
        >>> out = {"logits": torch.zeros(1, 5, 4), "pred_boxes": torch.full((1, 5, 4), 0.5)}
        >>> detr_head().boxes_of(out)[0, 0], detr_head().scores_of(out).shape
        (tensor([0.2500, 0.2500, 0.7500, 0.7500]), torch.Size([1, 5, 3]))
    """

    def probabilities(outputs: Any) -> Tensor:
        found: Tensor = named_output(outputs, "logits").softmax(-1)
        return found

    def boxes(outputs: Any) -> Tensor:
        center, size = named_output(outputs, "pred_boxes").split(2, -1)
        return torch.cat([center - size / 2, center + size / 2], -1)

    return BoxHead(boxes, lambda outputs: probabilities(outputs)[..., :-1], lambda o: 1 - probabilities(o)[..., -1])


def box_score(
    box: Box = None,
    classes: Classes = None,
    *,
    head: BoxHead,
    part: Part = "class",
    size: tuple[int, int] | None = None,
) -> Score:
    """One number of one box of a detector: ODAM's targets (2304.06354).

    Four coordinates stand for the candidate with the largest IoU times class score; the score is 0 where none overlaps.
    What the box and the class leave to the outputs is chosen once where a method perturbs.

    Args:
        box: a candidate's index, coordinates, or None for the best candidate.
        classes: the class, as for `class_score`; None is the candidate's best.
        head: how to read the outputs.
        part: the class score; objectness; a corner's coordinate, or the center or the size along one axis.
        size: (height, width) of the image in the boxes' unit; `transforms.augment` needs it to move the box along.

    Raises:
        CamfnError: an unknown part, boxes or scores of a wrong shape, an index out of range, or no objectness.

    Example:
        >>> import torch
        >>> head = BoxHead(lambda out: out[..., :4], lambda out: out[..., 4:])
        >>> out = torch.tensor([[[0.0, 0.0, 2.0, 2.0, 0.9, 0.1], [4.0, 4.0, 6.0, 8.0, 0.2, 0.7]]])
        >>> box_score(1, head=head)(out), box_score([0, 0, 2, 3], 1, head=head)(out)
        (tensor([0.7000]), tensor([0.1000]))
        >>> box_score(1, head=head, part="height")(out)
        tensor([4.])
    """
    if part not in ("class", "objectness", *_COORDINATES):
        raise CamfnError(f"part: expected class, objectness, {', '.join(_COORDINATES)}; got {part!r}")
    if part == "objectness" and head.objectness_of is None:
        raise CamfnError("this head does not tell the objectness: give it as BoxHead(..., objectness_of=...)")

    def score(outputs: Any) -> Tensor:
        boxes, scores = _read(head, outputs)
        which, there = _chosen(box, classes, boxes, scores)
        if part == "class":
            own = scores.gather(1, which[:, None, None].expand(-1, 1, scores.shape[2]))[:, 0]
            value = own.gather(1, class_index(own, classes))[:, 0]
        elif part == "objectness":
            assert head.objectness_of is not None
            value = head.objectness_of(outputs).gather(1, which[:, None])[:, 0]
        else:
            corners = boxes.gather(1, which[:, None, None].expand(-1, 1, 4))[:, 0]
            value = corners @ torch.tensor(_COORDINATES[part]).to(corners)
        return torch.where(there, value, 0.0)

    def pinned(outputs: Any) -> Score:
        boxes, scores = _read(head, outputs)
        which, _ = _chosen(box, classes, boxes, scores)
        own = scores.gather(1, which[:, None, None].expand(-1, 1, scores.shape[2]))[:, 0]
        index = class_index(own, classes)[:, 0]
        place = boxes.detach().gather(1, which[:, None, None].expand(-1, 1, 4))[:, 0]
        kept = box_score(which if head.fixed else place, index, head=head, part=part, size=size)
        return Score(kept.function, kept.pinned, _mover(place, size, lambda to: rebuilt(to, index)))

    def rebuilt(to: Tensor, index: Classes = classes) -> Score:
        return box_score(to, index, head=head, part=part, size=size)

    return Score(score, pinned, _mover(box, size, rebuilt))


def overlap_score(box: Box, classes: Classes = None, *, head: BoxHead, size: tuple[int, int] | None = None) -> Score:
    """IoU-matched score: the largest `IoU(box, b_n) s_n(class)` over the candidates n.

    Both factors are differentiated. pytorch-grad-cam's target for Faster R-CNN adds the score and a constant IoU, for
    candidates above an IoU of one half.

    Args:
        box: as for `box_score`.
        classes: the class; None is the best candidate's, for each sample.
        head: how to read the outputs.
        size: as for `box_score`.

    Example:
        >>> import torch
        >>> head = BoxHead(lambda out: out[..., :4], lambda out: out[..., 4:])
        >>> out = torch.tensor([[[0.0, 0.0, 2.0, 2.0, 0.9, 0.1], [4.0, 4.0, 6.0, 8.0, 0.2, 0.7]]])
        >>> overlap_score([0, 0, 2, 4], 0, head=head)(out)
        tensor([0.4500])
    """

    def score(outputs: Any) -> Tensor:
        boxes, scores = _read(head, outputs)
        overlap = box_iou(boxes, _corners(box, classes, boxes, scores)[:, None])
        return (overlap * _of_class(scores, classes, overlap)).amax(1)

    def pinned(outputs: Any) -> Score:
        boxes, scores = _read(head, outputs)
        place = _corners(box, classes, boxes, scores)
        index = _best_class(scores, box_iou(boxes, place[:, None])) if classes is None else classes
        return overlap_score(place, index, head=head, size=size)

    return Score(score, pinned, _mover(box, size, lambda to: overlap_score(to, classes, head=head, size=size)))


def detection_similarity(
    box: Box,
    classes: Classes = None,
    *,
    head: BoxHead,
    probabilities: Tensor | None = None,
    size: tuple[int, int] | None = None,
) -> Score:
    """Similarity of the most similar candidate to a detection: D-RISE's score (2006.03204, eq. 2 and 3).

    `max_n IoU(box, b_n) cos(p, p_n) o_n` with the class scores `p_n` and the objectness `o_n`, which is left out where
    the head has none. For `methods.d_rise`, and for deletion and insertion; the IoU is differentiated too.

    Args:
        box: as for `box_score`.
        classes: stands for a `p` that is 1 for this class and 0 elsewhere.
        head: how to read the outputs.
        probabilities: `p` itself, (K,) or (B, K), in place of a class. With neither, it is the scores of the candidate
            that the box stands for, taken once where a method perturbs.
        size: as for `box_score`.

    Example:
        >>> import torch
        >>> head = BoxHead(lambda out: out[..., :4], lambda out: out[..., 4:])
        >>> out = torch.tensor([[[0.0, 0.0, 2.0, 2.0, 0.3, 0.4]]])
        >>> detection_similarity([0, 0, 2, 4], 1, head=head)(out)  # 0.5 * 0.4 / 0.5
        tensor([0.4000])
    """

    def vector(boxes: Tensor, scores: Tensor) -> Tensor:
        if probabilities is not None:
            return probabilities.to(scores).expand(scores.shape[0], scores.shape[2])
        if classes is not None:
            own = class_index(scores[:, 0], classes)
            return (torch.arange(scores.shape[2], device=own.device) == own).to(scores.dtype)
        which, _ = _chosen(box, None, boxes, scores)
        return scores.detach().gather(1, which[:, None, None].expand(-1, 1, scores.shape[2]))[:, 0]

    def score(outputs: Any) -> Tensor:
        boxes, scores = _read(head, outputs)
        place, wanted = _corners(box, classes, boxes, scores), vector(boxes, scores)
        cosine = safe_divide((scores * wanted[:, None]).sum(2), scores.norm(dim=2) * wanted.norm(dim=1)[:, None])
        found = box_iou(boxes, place[:, None]) * cosine
        return (found if head.objectness_of is None else found * head.objectness_of(outputs)).amax(1)

    def pinned(outputs: Any) -> Score:
        boxes, scores = _read(head, outputs)
        place, wanted = _corners(box, classes, boxes, scores), vector(boxes, scores)
        return detection_similarity(place, head=head, probabilities=wanted, size=size)

    def rebuilt(to: Tensor) -> Score:
        return detection_similarity(to, classes, head=head, probabilities=probabilities, size=size)

    return Score(score, pinned, _mover(box, size, rebuilt))


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


def _read(head: BoxHead, outputs: Any) -> tuple[Tensor, Tensor]:
    boxes, scores = head.boxes_of(outputs), head.scores_of(outputs)
    if boxes.ndim != 3 or boxes.shape[2] != 4 or scores.ndim != 3 or scores.shape[:2] != boxes.shape[:2]:
        raise CamfnError(
            f"head: expected boxes (B, N, 4) and scores (B, N, K), got {tuple(boxes.shape)} and {tuple(scores.shape)}"
        )
    return boxes, scores


def _given(box: Box, boxes: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The candidate's index, (B,), or the coordinates, (B, 4), whichever was given."""
    batch, count = boxes.shape[:2]
    if box is None:
        return None, None
    value = torch.as_tensor(box, device=boxes.device)
    if isinstance(box, int) or (isinstance(box, Tensor) and not value.is_floating_point()):
        if tuple(value.shape) not in ((), (batch,)):
            raise CamfnError(f"box: expected one index, or {batch}, one a sample; got {tuple(value.shape)}")
        if isinstance(box, int) and not -count <= box < count:
            raise CamfnError(f"box {box} is out of range: there are {count} candidates")
        return value.long().expand(batch) % count, None
    if tuple(value.shape) not in ((4,), (1, 4), (batch, 4)):
        raise CamfnError(f"box: expected x0 y0 x1 y1, shape (4,) or ({batch}, 4); got {tuple(value.shape)}")
    return None, value.to(boxes.dtype).expand(batch, 4)


def _chosen(box: Box, classes: Classes, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The candidate that a box stands for, (B,), and whether there is one."""
    index, corners = _given(box, boxes)
    if index is not None:
        return index, torch.ones_like(index, dtype=torch.bool)
    fit = scores.detach().amax(2) if classes is None else _of_class(scores.detach(), classes, scores[..., 0])
    if corners is not None:
        fit = fit * box_iou(boxes.detach(), corners[:, None])
    best = fit.max(1)
    return best.indices, best.values > 0


def _corners(box: Box, classes: Classes, boxes: Tensor, scores: Tensor) -> Tensor:
    _, corners = _given(box, boxes)
    if corners is not None:
        return corners
    which, _ = _chosen(box, classes, boxes, scores)
    return boxes.detach().gather(1, which[:, None, None].expand(-1, 1, 4))[:, 0]


def _of_class(scores: Tensor, classes: Classes, overlap: Tensor) -> Tensor:
    """Scores of the class, (B, N)."""
    index = _best_class(scores, overlap)[:, None] if classes is None else class_index(scores[:, 0], classes)
    return scores.gather(2, index[:, None].expand(-1, scores.shape[1], 1))[..., 0]


def _best_class(scores: Tensor, overlap: Tensor) -> Tensor:
    return (scores * overlap[..., None]).detach().amax(1).argmax(1)


_CELLS = 512
"""At least so many to a side of the mask that stands for a box while it is moved."""


def _mover(box: Box, size: tuple[int, int] | None, rebuild: Callable[[Tensor], Score]) -> Callable[[Move], Score]:
    """Move coordinates by moving the mask of the box, and taking the box of what comes out."""

    def moved(move: Move) -> Score:
        if size is None:
            raise CamfnError(
                "the images are moved, and the target's box with them: give their size in the unit of the boxes, as in "
                "box_score(box, head=head, size=(height, width)); (1, 1) where boxes are fractions"
            )
        corners = torch.as_tensor(0 if box is None else box)
        if not corners.is_floating_point() and not isinstance(box, (list, tuple)):
            raise CamfnError(
                "a candidate that is not given by its coordinates is nowhere without outputs: pin(target, outputs)"
            )
        corners = corners.float().reshape(-1, 4)
        spans = []
        for axis, length in enumerate(reversed(size)):
            cells = length * -(-_CELLS // length)
            centers = (torch.arange(cells, device=corners.device) + 0.5) * (length / cells)
            spans.append((centers > corners[:, axis, None]) & (centers < corners[:, axis + 2, None]))
        mask = move((spans[1][:, :, None] & spans[0][:, None]).float()) > 0.5
        ends = []
        for line, length in zip((mask.any(1), mask.any(2)), reversed(size)):
            first = line.int().argmax(1)
            last = torch.where(line.any(1), line.shape[1] - line.flip(1).int().argmax(1), first)
            ends.append((first * length / line.shape[1], last * length / line.shape[1]))
        (x0, x1), (y0, y1) = ends
        return rebuild(torch.stack([x0, y0, x1, y1], 1))

    return moved
