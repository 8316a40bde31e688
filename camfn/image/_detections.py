"""All detections of a photo in one picture: their maps joined, boxes in a color a class, labels that can be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from .._shared.checks import describe, is_concrete, one_of, tensor, whole
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.maps import min_max
from ._checks import as_maps, as_photo
from ._labels import class_color, draw_boxes
from ._labels import corners as corners_of
from ._paint import overlay
from ._scale import normalize, upsample

Rescale = Literal["whole", "inside"]
"""Where each map is stretched: over the whole photo, or inside of its own box alone."""


def inside(cam: Tensor, boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Stretch each map inside of its own box to [0, 1], and leave nothing outside of it.

    As the tutorial of pytorch-grad-cam does it ("renormalize in bounding boxes"): the map is upsampled to the photo,
    cut at the box, and `(m - min) / (max - min)` of the cut. What lies outside of the box is no longer seen, and a weak
    map looks as strong as any other.

    Args:
        cam: (n, h, w), the raw map of each detection.
        boxes: (n, 4), x0 y0 x1 y1 in pixels of the photo.
        size: of the photo, (height, width).

    Returns:
        (n, height, width) in [0, 1]; a constant map is 0.

    Raises:
        CamfnError: not one box a map, or a size that is none.

    Example:
        >>> import torch
        >>> inside(torch.tensor([[[1.0, 2.0], [3.0, 9.0]]]), torch.tensor([[0, 0, 1, 2]]), (2, 2))
        tensor([[[0., 0.],
                 [1., 0.]]])
    """
    heat = upsample(as_maps(cam, "inside: cam", spatial=2), size)
    _check_boxes("inside", boxes, len(heat))
    found = torch.zeros_like(heat)
    # a box thinner than a pixel is the pixel that it begins in
    start, end = boxes[:, :2].round(), boxes[:, 2:].round()
    thin = start == end
    start = start.where(~thin, boxes[:, :2].floor())
    rounded = torch.cat([start, end.where(~thin, start + 1)], 1)
    for one, row, (x0, y0, x1, y1) in zip(found, heat, rounded.long().clamp(min=0).tolist()):
        part = row[y0:y1, x0:x1]
        if part.numel():
            one[y0:y1, x0:x1] = min_max(part[None], (1, 2))[0]
    return found


def detections(
    photo: Tensor,
    cam: Tensor,
    boxes: Tensor,
    labels: Sequence[str] | None = None,
    classes: Sequence[int] | None = None,
    *,
    corners: Tensor | None = None,
    rescale: Rescale = "whole",
    alpha: float = 0.5,
    colormap: str = "turbo",
    least: int = 640,
) -> Tensor:
    """Draw all detections of a photo: the strongest of their maps at each place, and every box with its label.

    A class has one color. Labels stand on their color at the edges of their boxes, or near them, so that none hides
    another where there is room.

    Args:
        photo: (3, H, W), RGB, float in [0, 1] or uint8.
        cam: (n, h, w), the raw map of each detection, of the whole photo.
        boxes: (n, 4), x0 y0 x1 y1 in pixels of the photo, the best first.
        labels: one text a box.
        classes: one class index a box, which chooses its color; without them all have one color.
        corners: (n, 4, 2), of rotated boxes; they are drawn in place of `boxes`.
        rescale: "whole": each map is stretched by itself, as `normalize` does; "inside": as `inside` does.
        alpha: as in `overlay`.
        colormap: as in `overlay`; "seismic" keeps the sign.
        least: a smaller photo is enlarged so that its longer side has so many pixels, for labels to be read.

    Returns:
        (3, H, W) in [0, 1], in the type to compute in.

    Raises:
        CamfnError: not one box, label and class a map; as in `overlay`.
        ImportError: Pillow is missing.

    Example:
        >>> import torch
        >>> boxes = torch.tensor([[10.0, 10.0, 60.0, 50.0], [70.0, 20.0, 95.0, 60.0]])
        >>> detections(torch.zeros(3, 80, 100), torch.rand(2, 5, 5), boxes, ["cat 0.9", "dog 0.8"], [3, 7]).shape
        torch.Size([3, 512, 640])
    """
    one_of("detections: rescale", rescale, get_args(Rescale))
    whole("detections: least", least, 0)
    maps = as_maps(cam, "detections: cam", spatial=2)
    _check_boxes("detections", boxes, len(maps))
    for name, given, kind in (("labels", labels, str), ("classes", classes, int)):
        right = given is None or (isinstance(given, (list, tuple)) and all(isinstance(one, kind) for one in given))
        if not right or (given is not None and len(given) != len(maps)):
            got = describe(given)
            raise ArgumentTypeError(f"detections: {name}: expected one for each of {len(maps)} boxes, got {got}")
    if corners is not None:
        tensor("detections: corners", corners)
        if tuple(corners.shape) != (len(maps), 4, 2) or not is_concrete(corners) or not corners.is_floating_point():
            got = describe(corners)
            raise CamfnError(f"detections: corners: expected x and y of four corners, ({len(maps)}, 4, 2), got {got}")
    work = as_photo(photo, "detections: photo")
    size = int(work.shape[1]), int(work.shape[2])
    signed = isinstance(colormap, str) and colormap == "seismic"
    heat = inside(maps, boxes, size) if rescale == "inside" else upsample(normalize(maps, signed=signed), size)
    if signed and rescale == "inside":
        heat = (1 + heat) / 2
    joined = _joined(heat, 0.5 if signed else 0.0) if len(heat) else heat.new_zeros(1, *size)
    picture = overlay(work, joined, alpha=alpha, colormap=colormap)[0] if len(heat) else work
    scale = max(1.0, least / max(size))
    if scale > 1:
        large = round(size[0] * scale), round(size[1] * scale)
        picture = functional.interpolate(picture[None], large, mode="bilinear", align_corners=False)[0].clamp(0, 1)
    outlines = corners_of(boxes) if corners is None else corners.detach().cpu()
    texts = list(labels) if labels is not None else [""] * len(boxes)
    colors = [class_color(index) for index in (classes if classes is not None else [0] * len(boxes))]
    return draw_boxes(picture, outlines * scale, texts, colors, user="image.detections")


def _joined(heat: Tensor, zero: float) -> Tensor:
    """Take at each place the value that is furthest from zero, (1, H, W)."""
    return heat.gather(0, (heat - zero).abs().argmax(0, keepdim=True))


def _check_boxes(name: str, boxes: Tensor, count: int) -> None:
    """Refuse boxes that are not corners, one a map."""
    tensor(f"{name}: boxes", boxes)
    if not is_concrete(boxes) or boxes.is_complex() or boxes.dtype is torch.bool or tuple(boxes.shape) != (count, 4):
        raise CamfnError(f"{name}: boxes: expected x0 y0 x1 y1 of each map, ({count}, 4), got {describe(boxes)}")
    if not bool(boxes.isfinite().all()) or not bool((boxes[:, 2:] >= boxes[:, :2]).all()):
        raise CamfnError(f"{name}: boxes: expected x0 <= x1 and y0 <= y1, all finite")
