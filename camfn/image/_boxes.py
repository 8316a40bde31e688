"""Boxes drawn on photos."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._shared.checks import describe, is_concrete, tensor, whole
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.optional import extra
from ._checks import as_photo
from ._labels import class_color, corners, draw_boxes


def boxes(
    photo: Tensor,
    boxes: Tensor,
    labels: Sequence[str] | None = None,
    classes: Sequence[int] | None = None,
    *,
    color: str | tuple[int, int, int] | None = None,
    width: int | None = None,
) -> Tensor:
    """Draw boxes on a photo, each with its label on its own color at an edge.

    Labels are black or white, whichever has the greater contrast with the color, and none hides another as long as
    there is room.

    Args:
        photo: (3, H, W), RGB, float in [0, 1] or uint8; an `overlay` will do.
        boxes: (N, 4), x0 y0 x1 y1 in pixels of the photo; parts outside the photo are not drawn.
        labels: one text a box.
        classes: one class index a box: each class has its own color, the same as in `detections`.
        color: of all boxes, a name or RGB of 0 to 255; yellow unless `classes` choose.
        width: of the lines in pixels; by default a 160th of the longer side, at least 1.

    Returns:
        (3, H, W) in [0, 1], device and dtype of `photo` (float32 for uint8).

    Raises:
        CamfnError: boxes of another shape, or with upper ends below lower ones; not one label and class a box; a color
            beside `classes`.
        ImportError: Pillow is missing.

    Example:
        >>> import torch
        >>> from camfn.image import boxes
        >>> boxes(torch.zeros(3, 40, 60), torch.tensor([[5.0, 5.0, 30.0, 20.0]])).amax()
        tensor(1.)
    """
    work = as_photo(photo, "photo")
    tensor("boxes: boxes", boxes)
    if not is_concrete(boxes) or boxes.is_complex():
        raise CamfnError(f"boxes: expected numbers that can be read, got {boxes.dtype} on {boxes.device}")
    if width is not None:
        whole("boxes: width", width)
    if labels is not None and not _are(str, labels):
        raise ArgumentTypeError(f"boxes: labels: expected a list of texts, one a box, got {describe(labels)}")
    if classes is not None and not _are(int, classes):
        raise ArgumentTypeError(f"boxes: classes: expected a list of indices, one a box, got {describe(classes)}")
    if boxes.dtype == torch.bool or boxes.is_complex():
        raise ArgumentTypeError(f"boxes: expected numbers of pixels, got {describe(boxes)}")
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not bool((boxes[:, 2:] >= boxes[:, :2]).all()):
        raise CamfnError(
            f"boxes: expected x0 y0 x1 y1, shape (N, 4), with x0 <= x1 and y0 <= y1; got {tuple(boxes.shape)}"
        )
    for name, given in (("labels", labels), ("classes", classes)):
        if given is not None and len(given) != len(boxes):
            raise CamfnError(f"{name}: expected one for each of the {len(boxes)} boxes, got {len(given)}")
    if classes is not None and color is not None:
        raise CamfnError("boxes: classes choose the colors: leave out color, or classes")
    chosen = [_rgb(color or "yellow")] * len(boxes) if classes is None else [class_color(index) for index in classes]
    line = int(width) if width else max(1, round(max(photo.shape[1:]) / 160))
    texts = [""] * len(boxes) if labels is None else list(labels)
    return draw_boxes(work, corners(boxes.round()), texts, chosen, user="image.boxes", width=line, cased=False)


def _are(kind: type, listed: object) -> bool:
    """Whether this is a list of texts, or of indices."""
    return isinstance(listed, (list, tuple)) and all(isinstance(one, kind) for one in listed)


def _rgb(color: object) -> tuple[int, int, int]:
    """Return a color that Pillow knows by name, or three numbers from 0 to 255; refuse anything else."""
    if isinstance(color, str):
        with extra("Pillow", "image.boxes"):
            from PIL import ImageColor
        try:
            red, green, blue, *_ = ImageColor.getrgb(color)
        except ValueError as error:
            raise CamfnError(
                f"boxes: color: expected a name as 'yellow', '#ffcc00' or (r, g, b), got {color!r}"
            ) from error
        return red, green, blue
    if isinstance(color, tuple) and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color):
        return color
    raise ArgumentTypeError(
        f"boxes: color: expected a name as 'yellow', or (r, g, b) with whole numbers from 0 to 255, got {color!r:.60}"
    )
