"""Targets for detectors: the class score, objectness or coordinate of one box, and its match on a perturbed image.

The targets read a detector through a `BoxHead`: two functions of its outputs, `boxes_of` and `scores_of`.
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
from .._shared.devices import brought, tensor_on
from .._shared.errors import CamfnError
from .._shared.maps import safe_divide
from ._score import Classes, Move, Score, class_index, named_output

Box: TypeAlias = "int | Tensor | Sequence[float] | None"
"""A candidate's index, one for all or (B,) integers; coordinates, (4,) or (B, 4); None for the best candidate."""

Part: TypeAlias = Literal["class", "objectness", "x0", "y0", "x1", "y1", "center_x", "center_y", "width", "height"]
"""Which of a candidate's numbers to explain."""


class BoxHead(NamedTuple):
    """Functions that read a detector's outputs; two of them are enough for any detector.

    Attributes:
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


def torchvision_head(count: int = 91) -> BoxHead:
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

    def padded(outputs: Any, key: str) -> Tensor:
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

    def scores(outputs: Any) -> Tensor:
        values, labels = padded(outputs, "scores"), padded(outputs, "labels")
        return values.new_zeros(*values.shape, count).scatter(2, labels[..., None], values[..., None])

    return BoxHead(lambda outputs: padded(outputs, "boxes"), scores, fixed=False)


def detr_head() -> BoxHead:
    """Read Hugging Face's DETR, YOLOS and similar: `logits` (B, N, K + 1) and `pred_boxes` (B, N, 4), as fractions.

    Scores are softmax probabilities without the last class, which is "no object"; objectness is one minus the
    probability of that class. Boxes are corners as fractions of the image.

    Example:
        >>> import torch
        >>> out = {"logits": torch.zeros(1, 5, 4), "pred_boxes": torch.full((1, 5, 4), 0.5)}
        >>> detr_head().boxes_of(out)[0, 0], detr_head().scores_of(out).shape
        (tensor([0.2500, 0.2500, 0.7500, 0.7500]), torch.Size([1, 5, 3]))
    """

    def probabilities(outputs: Any) -> Tensor:
        with_no_object: Tensor = named_output(outputs, "logits").softmax(-1)
        return with_no_object

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
        raise CamfnError("this head has no objectness: give it as BoxHead(..., objectness_of=...)")

    def score(outputs: Any) -> Tensor:
        boxes, scores = _read(head, outputs)
        which, exists = _candidate(box, classes, boxes, scores)
        if part == "class":
            own = scores.gather(1, which[:, None, None].expand(-1, 1, scores.shape[2]))[:, 0]
            value = own.gather(1, class_index(own, classes))[:, 0]
        elif part == "objectness":
            assert head.objectness_of is not None
            value = head.objectness_of(outputs).gather(1, which[:, None])[:, 0]
        else:
            corners = boxes.gather(1, which[:, None, None].expand(-1, 1, 4))[:, 0]
            value = corners @ tensor_on(_COORDINATES[part], corners.device, corners.dtype)
        return torch.where(exists, value, 0.0)

    def pinned(outputs: Any) -> Score:
        boxes, scores = _read(head, outputs)
        which, _ = _candidate(box, classes, boxes, scores)
        own = scores.gather(1, which[:, None, None].expand(-1, 1, scores.shape[2]))[:, 0]
        index = class_index(own, classes)[:, 0]
        place = boxes.detach().gather(1, which[:, None, None].expand(-1, 1, 4))[:, 0]
        fixed = box_score(which if head.fixed else place, index, head=head, part=part, size=size)
        return Score(fixed.function, fixed.pinned, _mover(place, size, lambda new_box: at_box(new_box, index)))

    def at_box(new_box: Tensor, index: Classes = classes) -> Score:
        return box_score(new_box, index, head=head, part=part, size=size)

    return Score(score, pinned, _mover(box, size, at_box))


def overlap_score(box: Box, classes: Classes = None, *, head: BoxHead, size: tuple[int, int] | None = None) -> Score:
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

    return Score(
        score, pinned, _mover(box, size, lambda new_box: overlap_score(new_box, classes, head=head, size=size))
    )


def detection_similarity(
    box: Box,
    classes: Classes = None,
    *,
    head: BoxHead,
    probabilities: Tensor | None = None,
    size: tuple[int, int] | None = None,
) -> Score:
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
        >>> head = BoxHead(lambda out: out[..., :4], lambda out: out[..., 4:])
        >>> out = torch.tensor([[[0.0, 0.0, 2.0, 2.0, 0.3, 0.4]]])
        >>> detection_similarity([0, 0, 2, 4], 1, head=head)(out)  # 0.5 * 0.4 / 0.5
        tensor([0.4000])
    """

    def wanted_probabilities(boxes: Tensor, scores: Tensor) -> Tensor:
        if probabilities is not None:
            return brought(probabilities, scores).expand(scores.shape[0], scores.shape[2])
        if classes is not None:
            own = class_index(scores[:, 0], classes)
            return torch.zeros_like(scores[:, 0]).scatter(1, own, 1.0)
        which, _ = _candidate(box, None, boxes, scores)
        return scores.detach().gather(1, which[:, None, None].expand(-1, 1, scores.shape[2]))[:, 0]

    def score(outputs: Any) -> Tensor:
        boxes, scores = _read(head, outputs)
        place, wanted = _corners(box, classes, boxes, scores), wanted_probabilities(boxes, scores)
        cosine = safe_divide((scores * wanted[:, None]).sum(2), scores.norm(dim=2) * wanted.norm(dim=1)[:, None])
        similarity = box_iou(boxes, place[:, None]) * cosine
        return (similarity if head.objectness_of is None else similarity * head.objectness_of(outputs)).amax(1)

    def pinned(outputs: Any) -> Score:
        boxes, scores = _read(head, outputs)
        place, wanted = _corners(box, classes, boxes, scores), wanted_probabilities(boxes, scores)
        return detection_similarity(place, head=head, probabilities=wanted, size=size)

    def at_box(new_box: Tensor) -> Score:
        return detection_similarity(new_box, classes, head=head, probabilities=probabilities, size=size)

    return Score(score, pinned, _mover(box, size, at_box))


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
    """Return the boxes and the class scores of a detector's outputs; refuse wrong shapes."""
    boxes, scores = head.boxes_of(outputs), head.scores_of(outputs)
    if boxes.ndim != 3 or boxes.shape[2] != 4 or scores.ndim != 3 or scores.shape[:2] != boxes.shape[:2]:
        raise CamfnError(
            f"head: expected boxes (B, N, 4) and scores (B, N, K), got {tuple(boxes.shape)} and {tuple(scores.shape)}"
        )
    return boxes, scores


def _index_or_corners(box: Box, boxes: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return the box as a candidate's index, (B,), or as coordinates, (B, 4); the other is None, or both are."""
    batch, count = boxes.shape[:2]
    if box is None:
        return None, None
    value = tensor_on(box, boxes.device)
    if isinstance(box, int) or (isinstance(box, Tensor) and not value.is_floating_point()):
        if tuple(value.shape) not in ((), (batch,)):
            raise CamfnError(f"box: expected one index, or {batch}, one a sample; got {tuple(value.shape)}")
        if isinstance(box, int) and not -count <= box < count:
            raise CamfnError(f"box {box} is out of range: there are {count} candidates")
        return value.long().expand(batch) % count, None
    if tuple(value.shape) not in ((4,), (1, 4), (batch, 4)):
        raise CamfnError(f"box: expected x0 y0 x1 y1, shape (4,) or ({batch}, 4); got {tuple(value.shape)}")
    return None, value.to(boxes.dtype).expand(batch, 4)


def _candidate(box: Box, classes: Classes, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index of the candidate that the box stands for, (B,), and whether there is such a candidate, (B,)."""
    index, corners = _index_or_corners(box, boxes)
    if index is not None:
        return index, torch.ones_like(index, dtype=torch.bool)
    fit = scores.detach().amax(2) if classes is None else _of_class(scores.detach(), classes, scores[..., 0])
    if corners is not None:
        fit = fit * box_iou(boxes.detach(), corners[:, None])
    best = fit.max(1)
    return best.indices, best.values > 0


def _corners(box: Box, classes: Classes, boxes: Tensor, scores: Tensor) -> Tensor:
    """Return the coordinates of the box, (B, 4): the caller's, or those of the candidate that the box stands for."""
    _, corners = _index_or_corners(box, boxes)
    if corners is not None:
        return corners
    which, _ = _candidate(box, classes, boxes, scores)
    return boxes.detach().gather(1, which[:, None, None].expand(-1, 1, 4))[:, 0]


def _of_class(scores: Tensor, classes: Classes, overlap: Tensor) -> Tensor:
    """Return each candidate's score of the class, (B, N); without a class, of the best class by score times overlap."""
    index = _best_class(scores, overlap)[:, None] if classes is None else class_index(scores[:, 0], classes)
    return scores.gather(2, index[:, None].expand(-1, scores.shape[1], 1))[..., 0]


def _best_class(scores: Tensor, overlap: Tensor) -> Tensor:
    """Return the class with the largest score times overlap over all candidates, (B,)."""
    return (scores * overlap[..., None]).detach().amax(1).argmax(1)


_CELLS = 512
"""Least number of cells along each side of the mask that `_mover` draws for a box."""


def _mover(box: Box, size: tuple[int, int] | None, at_box: Callable[[Tensor], Score]) -> Callable[[Move], Score]:
    """Return the attribute `moved` of a target with a box: it draws the box as a mask, moves it, and reads it back.

    A `Move` is a function of masks only, since an augmentation may rotate or warp the image. So the box becomes a mask
    of at least 512 cells to a side, the move is applied to the mask, and the new box is the smallest one around the
    cells that are left. It is exact to a cell; a box that leaves the image becomes an empty box.

    Args:
        box: the box of the target; only coordinates can be moved.
        size: (height, width) of the image in the boxes' unit.
        at_box: function from new coordinates (B, 4) to the target with that box.
    """

    def moved(move: Move) -> Score:
        if size is None:
            raise CamfnError(
                "the target's box has to move with the images: give the size of the images in the unit of the boxes, "
                "as in box_score(box, head=head, size=(height, width)); (1, 1) where boxes are fractions"
            )
        corners = torch.as_tensor(0 if box is None else box)
        if not corners.is_floating_point() and not isinstance(box, (list, tuple)):
            raise CamfnError(
                "the target names its box by a candidate's index, or takes the best candidate, so its place is known "
                "only from the model's outputs: pin(target, outputs) gives it coordinates"
            )
        corners = corners.float().reshape(-1, 4)
        inside = []  # along x and along y: which cells of the mask lie between the two edges of the box
        for axis, length in enumerate(reversed(size)):
            cells = length * -(-_CELLS // length)
            centers = (torch.arange(cells, device=corners.device) + 0.5) * (length / cells)
            inside.append((centers > corners[:, axis, None]) & (centers < corners[:, axis + 2, None]))
        mask = move((inside[1][:, :, None] & inside[0][:, None]).float()) > 0.5
        edges = []
        for cells_hit, length in zip((mask.any(1), mask.any(2)), reversed(size)):
            count = cells_hit.shape[1]
            first = cells_hit.int().argmax(1)
            end = torch.where(cells_hit.any(1), count - cells_hit.flip(1).int().argmax(1), first)
            edges.append((first * length / count, end * length / count))
        (x0, x1), (y0, y1) = edges
        return at_box(torch.stack([x0, y0, x1, y1], 1))

    return moved
