"""Targets for detectors: the class score, objectness or coordinate of one box, and its match on a perturbed image.

The targets read a detector through a head, such as a `BoxHead`: two functions of its outputs, `boxes_of` and
`scores_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, replace
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from .._shared.boxes import box_iou
from .._shared.checks import describe, is_concrete, one_of, same_device, space
from .._shared.devices import brought, tensor_on
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.maps import safe_divide
from .._shared.value import Value, frozen
from ._score import Arithmetic, Classes, Move, checked_classes, class_index, named_output

Box: TypeAlias = "int | Tensor | Sequence[float] | None"
"""A candidate's index, one for all or (B,) integers; coordinates, (4,) or (B, 4); None for the best candidate."""

Part: TypeAlias = Literal["class", "objectness", "x0", "y0", "x1", "y1", "center_x", "center_y", "width", "height"]
"""Which of a candidate's numbers to explain."""


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


@frozen
class _OfBox(Arithmetic):
    """A target that refers to a box of a detector."""

    box: Box = None
    classes: Classes = None
    _: KW_ONLY
    head: Head
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", _checked_box(self.box))
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
        return replace(self, box=_moved_box(self.box, self.size, move))


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
        boxes, scores = _read(self.head, outputs)
        which, exists = _candidate(self.box, self.classes, boxes, scores)
        if self.part == "class":
            own = _rows_at(scores, which)
            value = own.gather(1, class_index(own, self.classes))[:, 0]
        elif self.part == "objectness":
            assert self.head.objectness_of is not None
            value = self.head.objectness_of(outputs).gather(1, which[:, None])[:, 0]
        else:
            corners = _rows_at(boxes, which)
            value = corners @ tensor_on(_COORDINATES[self.part], corners.device, corners.dtype)
        return torch.where(exists, value, 0.0)

    @property
    def pinned(self) -> Callable[[Any], Arithmetic]:
        """Take the candidate and the class at these outputs."""
        return self._pin

    def _pin(self, outputs: Any) -> Arithmetic:
        boxes, scores = _read(self.head, outputs)
        which, _ = _candidate(self.box, self.classes, boxes, scores)
        chosen = replace(self, classes=class_index(_rows_at(scores, which), self.classes)[:, 0])
        place = _rows_at(boxes.detach(), which)
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
        return replace(self.target, box=_moved_box(self.place, self.target.size, move))

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
        >>> head = BoxHead(lambda out: out[..., :4], lambda out: out[..., 4:])
        >>> out = torch.tensor([[[0.0, 0.0, 2.0, 2.0, 0.9, 0.1], [4.0, 4.0, 6.0, 8.0, 0.2, 0.7]]])
        >>> overlap_score([0, 0, 2, 4], 0, head=head)(out)
        tensor([0.4500])
    """

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        boxes, scores = _read(self.head, outputs)
        overlap = box_iou(boxes, _corners(self.box, self.classes, boxes, scores)[:, None])
        return (overlap * _of_class(scores, self.classes, overlap)).amax(1)

    @property
    def pinned(self) -> Callable[[Any], overlap_score]:
        """Take the place and the class at these outputs."""
        return self._pin

    def _pin(self, outputs: Any) -> overlap_score:
        boxes, scores = _read(self.head, outputs)
        place = _corners(self.box, self.classes, boxes, scores)
        best = _best_class(scores, box_iou(boxes, place[:, None])) if self.classes is None else self.classes
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
        boxes, scores = _read(self.head, outputs)
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
        place, wanted = self._place_and_probabilities(*_read(self.head, outputs))
        return replace(self, box=place, classes=None, probabilities=wanted)

    def _place_and_probabilities(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the corners of the box, (B, 4), and the probabilities of what is in it, (B, K)."""
        place, (batch, _, count) = _corners(self.box, self.classes, boxes, scores), scores.shape
        if self.probabilities is not None:
            rows = self.probabilities if self.probabilities.ndim == 2 else self.probabilities[None]
            if rows.ndim != 2 or rows.shape[1] != count or (rows.shape[0] != 1 and rows.shape[0] != batch):
                given = tuple(self.probabilities.shape)
                raise CamfnError(f"probabilities: expected shape ({count},) or {(batch, count)}, got {given}")
            return place, brought(rows, scores).expand(batch, count)
        if self.classes is not None:
            own = class_index(scores[:, 0], self.classes)
            return place, torch.zeros_like(scores[:, 0]).scatter(1, own, 1.0)
        which, _ = _candidate(self.box, None, boxes, scores)
        return place, _rows_at(scores.detach(), which)


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


def _read(head: Head, outputs: Any) -> tuple[Tensor, Tensor]:
    """Return the boxes and the class scores of a detector's outputs; refuse wrong shapes."""
    boxes, scores = head.boxes_of(outputs), head.scores_of(outputs)
    if boxes.ndim != 3 or boxes.shape[2] != 4 or scores.ndim != 3 or scores.shape[:2] != boxes.shape[:2]:
        raise CamfnError(
            f"head: expected boxes (B, N, 4) and scores (B, N, K), got {tuple(boxes.shape)} and {tuple(scores.shape)}"
        )
    return boxes, scores


def _rows_at(values: Tensor, which: Tensor) -> Tensor:
    """Take one candidate's row a sample: (B, N, D) at (B,) to (B, D)."""
    return values.gather(1, which[:, None, None].expand(-1, 1, values.shape[2]))[:, 0]


def _checked_box(box: Any) -> Any:
    """Return a box as a value holds it: None, an index, a tensor, or a tuple of coordinates."""
    if isinstance(box, (list, tuple)):
        _refuse_other_coordinates(box)
        return tuple(_checked_box(item) if isinstance(item, (list, tuple)) else item for item in box)
    if box is None or isinstance(box, Tensor) or type(box) is int:
        return box
    if hasattr(box, "__array__"):  # a NumPy array
        return torch.as_tensor(box)
    raise ArgumentTypeError(f"box: expected a candidate's index, coordinates x0 y0 x1 y1, or None; got {describe(box)}")


def _refuse_other_coordinates(box: Any) -> None:
    """Refuse a list that is neither four coordinates nor such lists."""
    rows = box if box and all(isinstance(row, (list, tuple)) for row in box) else [box]
    if any(
        len(row) != 4 or not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in row) for row in rows
    ):
        raise ArgumentTypeError(
            f"box: expected a candidate's index, coordinates x0 y0 x1 y1, (4,) or (B, 4); got {box!r:.60}"
        )


def _index_or_corners(box: Box, boxes: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return the box as a candidate's index, (B,), or as coordinates, (B, 4); the other is None, or both are."""
    batch, count = boxes.shape[:2]
    if box is None:
        return None, None
    if isinstance(box, Tensor):
        if box.is_complex() or box.dtype is torch.bool:
            raise CamfnError(f"box: expected indices or coordinates, got {box.dtype}")
        if box.is_meta and not boxes.is_meta:
            same_device("box", box, boxes, "boxes")
    value = tensor_on(box, boxes.device)
    if isinstance(box, int) or (isinstance(box, Tensor) and not value.is_floating_point()):
        if value.ndim and (value.ndim > 1 or value.shape[0] != batch):
            raise CamfnError(f"box: expected one index, or {batch}, one a sample; got {tuple(value.shape)}")
        readable = isinstance(box, int) or (box.device.type == "cpu" and is_concrete(box) and box.numel())
        if readable and not -count <= int(value.min()) <= int(value.max()) < count:
            raise CamfnError(f"box {value.tolist()} is out of range: there are {count} candidates")
        return value.long().expand(batch) % count, None
    rows = value if value.ndim == 2 else value[None]
    if rows.ndim != 2 or rows.shape[1] != 4 or (rows.shape[0] != 1 and rows.shape[0] != batch):
        raise CamfnError(f"box: expected x0 y0 x1 y1, shape (4,) or ({batch}, 4); got {tuple(value.shape)}")
    return None, rows.to(boxes.dtype).expand(batch, 4)


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
    return _rows_at(boxes.detach(), which)


def _of_class(scores: Tensor, classes: Classes, overlap: Tensor) -> Tensor:
    """Return each candidate's score of the class, (B, N); without a class, of the best class by score times overlap."""
    index = _best_class(scores, overlap)[:, None] if classes is None else class_index(scores[:, 0], classes)
    return scores.gather(2, index[:, None].expand(-1, scores.shape[1], 1))[..., 0]


def _best_class(scores: Tensor, overlap: Tensor) -> Tensor:
    """Return the class with the largest score times overlap over all candidates, (B,)."""
    return (scores * overlap[..., None]).detach().amax(1).argmax(1)


_CELLS = 512
"""Least number of cells along each side of the mask that `_moved_box` draws for a box."""


def _moved_box(box: Box, size: tuple[int, int] | None, move: Move) -> Tensor:
    """Draw a box as a mask, move the mask, and read the box back, (B, 4).

    A `Move` is a function of masks only, since an augmentation may rotate or warp the image. So the box becomes a mask
    of at least 512 cells to a side, the move is applied to the mask, and the new box is the smallest one around the
    cells that are left. It is exact to a cell; a box that leaves the image becomes an empty box.

    Args:
        box: the box of the target; only coordinates can be moved.
        size: (height, width) of the image in the boxes' unit.
        move: moves a mask (B, *S) on the image.
    """
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
    return torch.stack([x0, y0, x1, y1], 1)
