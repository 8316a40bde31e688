"""Boxes drawn on photos."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._shared.errors import CamfnError
from .._shared.optional import extra
from ._checks import as_photo


def boxes(
    photo: Tensor,
    boxes: Tensor,
    labels: Sequence[str] | None = None,
    *,
    color: str | tuple[int, int, int] = "yellow",
    width: int | None = None,
) -> Tensor:
    """Draw boxes on a photo, each with its label inside the upper left corner.

    Args:
        photo: (3, H, W), RGB, float in [0, 1] or uint8; an `overlay` will do.
        boxes: (N, 4), x0 y0 x1 y1 in pixels of the photo; parts outside the photo are not drawn.
        labels: one text a box.
        color: of lines and texts, a name or RGB of 0 to 255.
        width: of the lines in pixels; by default a two hundredth of the longer side, at least 1.

    Returns:
        (3, H, W) in [0, 1], device and dtype of `photo` (float32 for uint8).

    Raises:
        CamfnError: boxes of another shape, or with upper ends below lower ones; not one label a box.
        ImportError: torchvision is missing.

    Example:
        >>> import torch
        >>> from camfn.image import boxes
        >>> boxes(torch.zeros(3, 40, 60), torch.tensor([[5.0, 5.0, 30.0, 20.0]])).amax()
        tensor(1.)
    """
    with extra("torchvision", "image.boxes"):
        from torchvision.utils import draw_bounding_boxes

    work = as_photo(photo, "photo")
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not bool((boxes[:, 2:] >= boxes[:, :2]).all()):
        raise CamfnError(
            f"boxes: expected x0 y0 x1 y1, shape (N, 4), with x0 <= x1 and y0 <= y1; got {tuple(boxes.shape)}"
        )
    if labels is not None and len(labels) != len(boxes):
        raise CamfnError(f"labels: expected one for each of the {len(boxes)} boxes, got {len(labels)}")
    pixels = (work.detach() * 255).round().to(torch.uint8)
    line = width or max(1, max(photo.shape[1:]) // 200)
    if len(boxes):
        names = None if labels is None else list(labels)
        pixels = draw_bounding_boxes(pixels, boxes.detach().round(), names, colors=color, width=line)
    return pixels.to(work) / 255
