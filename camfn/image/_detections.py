"""All detections of a photo in one picture: their maps joined, boxes in a color a class, labels that can be read."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .._shared.checks import describe, is_concrete, one_of, tensor, whole
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.maps import min_max
from .._shared.optional import extra
from ._checks import as_maps, as_photo
from ._paint import overlay
from ._scale import normalize, upsample

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

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
    signed = colormap == "seismic"
    heat = inside(maps, boxes, size) if rescale == "inside" else upsample(normalize(maps, signed=signed), size)
    if signed and rescale == "inside":
        heat = (1 + heat) / 2
    joined = _joined(heat, 0.5 if signed else 0.0) if len(heat) else heat.new_zeros(1, *size)
    picture = overlay(work, joined, alpha=alpha, colormap=colormap)[0] if len(heat) else work
    scale = max(1.0, least / max(size))
    if scale > 1:
        large = round(size[0] * scale), round(size[1] * scale)
        picture = functional.interpolate(picture[None], large, mode="bilinear", align_corners=False)[0].clamp(0, 1)
    outlines = _outlines(boxes) if corners is None else corners.detach().cpu()
    texts = list(labels) if labels is not None else [""] * len(boxes)
    return _drawn(picture, outlines * scale, texts, list(classes) if classes is not None else [0] * len(boxes))


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


def _outlines(boxes: Tensor) -> Tensor:
    """Return the four corners of upright boxes, (n, 4, 2)."""
    x0, y0, x1, y1 = boxes.detach().cpu().float().T
    return torch.stack([torch.stack(pair, -1) for pair in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))], 1)


def color_of(index: int) -> tuple[int, int, int]:
    """Return the color of a class: hues apart by the golden ratio, so that classes that follow each other differ."""
    red, green, blue = colorsys.hsv_to_rgb((0.15 + index * 0.61803398875) % 1, 0.8, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _drawn(picture: Tensor, outlines: Tensor, texts: list[str], classes: list[int]) -> Tensor:
    """Draw outlines, the best last, and then the labels."""
    with extra("Pillow", "image.detections"):
        from PIL import Image, ImageDraw, ImageFont

    pixels = (picture.detach().cpu() * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    canvas = Image.fromarray(pixels)
    draw = ImageDraw.Draw(canvas)
    line, size = max(2, max(canvas.size) // 320), max(13, max(canvas.size) // 52)
    order = list(range(len(texts)))[::-1]
    for width, dark in ((line + 2, True), (line, False)):
        for n in order:
            points = [(float(x), float(y)) for x, y in outlines[n]]
            color = (0, 0, 0) if dark else color_of(classes[n])
            draw.line([*points, *points[:2]], fill=color, width=width, joint="curve")
    font: Any = ImageFont.load_default(size)
    taken: list[tuple[float, float, float, float]] = []
    for n, text in enumerate(texts):
        if text:
            taken.append(_place(draw, text, font, outlines[n], taken, canvas.size))
            _label(draw, taken[-1], text, font, color_of(classes[n]))
    drawn = torch.from_numpy(np.array(canvas)).permute(2, 0, 1)
    return drawn.to(picture) / 255


def _place(
    draw: ImageDraw,
    text: str,
    font: Any,
    outline: Tensor,
    taken: list[tuple[float, float, float, float]],
    size: tuple[int, int],
) -> tuple[float, float, float, float]:
    """Choose where a label hides no other label: at the box's edges, else near it, else where it hides the least."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 8, bottom - top + 8
    (x0, y0), (x1, y1) = outline.amin(0).tolist(), outline.amax(0).tolist()
    rows = (y0 - height, y0, y1 - height, y1, (y0 + y1 - height) / 2)
    most = max(size[0] - width, 0.0), max(size[1] - height, 0.0)

    def cost(place: tuple[int, tuple[float, float]]) -> tuple[float, int]:
        """The area of other labels that are hidden at the n-th place; then the earlier place."""
        n, (x, y) = place
        return sum(_shared((x, y, x + width, y + height), other) for other in taken), n

    near = [
        (min(max(x, 0.0), most[0]), min(max(y, 0.0), most[1]))
        for y, x in product(rows, (x0, x1 - width, (x0 + x1 - width) / 2))
    ]
    best = min(enumerate(near), key=cost)
    if cost(best)[0] > 0:
        # anywhere else, the nearest first
        x, y = near[0]
        across = [i * most[0] / 8 for i in range(9)] + [x]
        down = [i * height for i in range(int(most[1] // height) + 1)] + [most[1]]
        far = sorted(product(across, down), key=lambda place: (place[0] - x) ** 2 + (place[1] - y) ** 2)
        best = min(enumerate(near + far), key=cost)
    x, y = best[1]
    return x, y, x + width, y + height


def _shared(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """Return the area that two rectangles share."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(across, 0.0) * max(down, 0.0)


def _label(
    draw: ImageDraw, place: tuple[float, float, float, float], text: str, font: Any, color: tuple[int, int, int]
) -> None:
    """Write a label on its color, black or white, whichever can be read."""
    draw.rectangle(place, fill=color)
    light = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    left, top, *_ = draw.textbbox((0, 0), text, font=font)
    ink = (0, 0, 0) if light > 110 else (255, 255, 255)
    draw.text((place[0] + 4 - left, place[1] + 4 - top), text, fill=ink, font=font)
