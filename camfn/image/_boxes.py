"""Boxes drawn on photos."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._shared.checks import describe, is_concrete, tensor, whole
from .._shared.errors import ArgumentTypeError, CamfnError
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
    tensor("boxes: boxes", boxes)
    if not is_concrete(boxes) or boxes.is_complex():
        raise CamfnError(f"boxes: expected numbers that can be read, got {boxes.dtype} on {boxes.device}")
    if width is not None:
        whole("boxes: width", width)
    if labels is not None and (isinstance(labels, str) or not _are_texts(labels)):
        raise ArgumentTypeError(f"boxes: labels: expected a list of texts, one a box, got {describe(labels)}")
    _refuse_color(color)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not bool((boxes[:, 2:] >= boxes[:, :2]).all()):
        raise CamfnError(
            f"boxes: expected x0 y0 x1 y1, shape (N, 4), with x0 <= x1 and y0 <= y1; got {tuple(boxes.shape)}"
        )
    if labels is not None and len(labels) != len(boxes):
        raise CamfnError(f"labels: expected one for each of the {len(boxes)} boxes, got {len(labels)}")
    pixels = (work.detach() * 255).round().to(torch.uint8)
    line = int(width) if width else max(1, max(photo.shape[1:]) // 200)
    if len(boxes):
        names = None if labels is None else list(labels)
        pixels = draw_bounding_boxes(pixels, boxes.detach().round(), names, colors=color, width=line)
    return pixels.to(work) / 255


def _are_texts(labels: object) -> bool:
    """Whether labels are a list of texts."""
    return isinstance(labels, (list, tuple)) and all(isinstance(label, str) for label in labels)


def _refuse_color(color: object) -> None:
    """Refuse anything but a color that Pillow knows by name, or three numbers from 0 to 255."""
    from PIL import ImageColor

    if isinstance(color, str):
        try:
            ImageColor.getrgb(color)
        except ValueError as error:
            raise CamfnError(
                f"boxes: color: expected a name as 'yellow', '#ffcc00' or (r, g, b), got {color!r}"
            ) from error
        return
    if isinstance(color, tuple) and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color):
        return
    raise ArgumentTypeError(
        f"boxes: color: expected a name as 'yellow', or (r, g, b) with whole numbers from 0 to 255, got {color!r:.60}"
    )
