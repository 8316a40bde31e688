"""Candidates of a detector: which of them a box means, and how much they overlap."""

# tested in tests/targets/test_boxes.py

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .._shared.boxes import box_iou
from .._shared.checks import describe, is_concrete, same_device
from .._shared.devices import tensor_on
from .._shared.errors import ArgumentTypeError, CamfnError
from ._score import Classes, Move, class_index

Box: TypeAlias = "int | Tensor | Sequence[float] | None"
"""A candidate's index, one for all or (B,) integers; coordinates, (4,) or (B, 4); None for the best candidate."""


def rows_at(values: Tensor, which: Tensor) -> Tensor:
    """Take one candidate's row a sample: (B, N, D) at (B,) to (B, D)."""
    return values.gather(1, which[:, None, None].expand(-1, 1, values.shape[2]))[:, 0]


def checked_box(box: Any) -> Any:
    """Return a box as a value holds it: None, an index, a tensor, or a tuple of coordinates."""
    if isinstance(box, (list, tuple)):
        refuse_other_coordinates(box)
        return tuple(checked_box(item) if isinstance(item, (list, tuple)) else item for item in box)
    if box is None or isinstance(box, Tensor) or type(box) is int:
        return box
    if hasattr(box, "__array__"):  # a NumPy array
        return torch.as_tensor(box)
    raise ArgumentTypeError(f"box: expected a candidate's index, coordinates x0 y0 x1 y1, or None; got {describe(box)}")


def refuse_other_coordinates(box: Any) -> None:
    """Refuse a list that is neither four coordinates nor such lists."""
    rows = box if box and all(isinstance(row, (list, tuple)) for row in box) else [box]
    if any(
        len(row) != 4 or not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in row) for row in rows
    ):
        raise ArgumentTypeError(
            f"box: expected a candidate's index, coordinates x0 y0 x1 y1, (4,) or (B, 4); got {box!r:.60}"
        )


def index_or_corners(box: Box, boxes: Tensor) -> tuple[Tensor | None, Tensor | None]:
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


def candidate(box: Box, classes: Classes, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index of the candidate that the box stands for, (B,), and whether there is such a candidate, (B,)."""
    index, corners = index_or_corners(box, boxes)
    if index is not None:
        return index, torch.ones_like(index, dtype=torch.bool)
    fit = scores.detach().amax(2) if classes is None else of_class(scores.detach(), classes, scores[..., 0])
    if corners is not None:
        fit = fit * box_iou(boxes.detach(), corners[:, None])
    best = fit.max(1)
    return best.indices, best.values > 0


def corners(box: Box, classes: Classes, boxes: Tensor, scores: Tensor) -> Tensor:
    """Return the coordinates of the box, (B, 4): the caller's, or those of the candidate that the box stands for."""
    _, corners = index_or_corners(box, boxes)
    if corners is not None:
        return corners
    which, _ = candidate(box, classes, boxes, scores)
    return rows_at(boxes.detach(), which)


def of_class(scores: Tensor, classes: Classes, overlap: Tensor) -> Tensor:
    """Return each candidate's score of the class, (B, N); without a class, of the best class by score times overlap."""
    index = best_class(scores, overlap)[:, None] if classes is None else class_index(scores[:, 0], classes)
    return scores.gather(2, index[:, None].expand(-1, scores.shape[1], 1))[..., 0]


def best_class(scores: Tensor, overlap: Tensor) -> Tensor:
    """Return the class with the largest score times overlap over all candidates, (B,)."""
    return (scores * overlap[..., None]).detach().amax(1).argmax(1)


_CELLS = 512
"""Least number of cells along each side of the mask that `_moved_box` draws for a box."""


def moved_box(box: Box, size: tuple[int, int] | None, move: Move) -> Tensor:
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
