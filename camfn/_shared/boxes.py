"""Boxes as corners: x0, y0, x1, y1 in an image, x0, x1 in a series, x0, y0, z0, x1, y1, z1 in a volume."""

from __future__ import annotations

import torch
from torch import Tensor

from .maps import safe_divide


def corners_of(center: Tensor, size: Tensor) -> Tensor:
    """Return the corners, (..., 2 D), of boxes with these centers and sizes, (..., D) each.

    Example:
        >>> corners_of(torch.tensor([2.0, 3.0]), torch.tensor([2.0, 4.0]))
        tensor([1., 1., 3., 5.])
    """
    return torch.cat([center - size / 2, center + size / 2], -1)


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Divide the area that two boxes share by the area that they cover.

    Args:
        boxes: (..., 2 D), the low corner, then the high one, as x0, y0, x1, y1.
        others: (..., 2 D); broadcasts to `boxes`.

    Returns:
        The broadcast shape without its last dimension, in [0, 1]; 0 for two empty boxes.

    Example:
        >>> box_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0], [4.0, 4.0, 5.0, 5.0]]))
        tensor([0.3333, 0.0000])
    """
    dims = boxes.shape[-1] // 2
    low = torch.maximum(boxes[..., :dims], others[..., :dims])
    high = torch.minimum(boxes[..., dims:], others[..., dims:])
    shared = (high - low).clamp(min=0).prod(-1)
    area, other_area = (
        (corners[..., dims:] - corners[..., :dims]).clamp(min=0).prod(-1) for corners in (boxes, others)
    )
    return safe_divide(shared, area + other_area - shared)
