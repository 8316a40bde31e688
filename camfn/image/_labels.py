"""Boxes and labels on a picture: colors of classes, ink that can be read on them, labels that hide no other."""

# tested in tests/image/test_detections.py and tests/image/test_boxes.py

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .._shared.optional import extra

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

Color: TypeAlias = "tuple[int, int, int]"
Rectangle: TypeAlias = "tuple[float, float, float, float]"


def class_color(index: int) -> Color:
    """Return the color of a class: hues apart by the golden ratio, so that classes that follow each other differ."""
    red, green, blue = colorsys.hsv_to_rgb((0.15 + index * 0.61803398875) % 1, 0.8, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def ink_on(color: Color) -> Color:
    """Return black or white, whichever has the greater contrast with a color (WCAG 2); it is 4.58 or more."""
    light = luminance(color)
    return (0, 0, 0) if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else (255, 255, 255)


def luminance(color: Color) -> float:
    """Return the relative luminance of a color of sRGB, 0 for black to 1 for white (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def corners(boxes: Tensor) -> Tensor:
    """Return the four corners of upright boxes, (n, 4, 2)."""
    x0, y0, x1, y1 = boxes.detach().cpu().float().T
    return torch.stack([torch.stack(pair, -1) for pair in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))], 1)


def draw_boxes(
    picture: Tensor,
    outlines: Tensor,
    texts: Sequence[str],
    colors: Sequence[Color],
    *,
    user: str,
    width: int | None = None,
    cased: bool = True,
) -> Tensor:
    """Draw outlines, the first last so that it lies above, and then the labels.

    Args:
        picture: (3, H, W) in [0, 1].
        outlines: (n, 4, 2), x and y of four corners.
        texts: n labels; empty ones are not drawn.
        colors: n colors.
        user: the function that draws, for the error where Pillow is missing.
        width: of the lines; by default a 320th of the longer side, at least 2.
        cased: whether a dark edge sets the lines off.

    Returns:
        The picture, its device and dtype kept.
    """
    with extra("Pillow", user):
        from PIL import Image, ImageDraw, ImageFont

    pixels = (picture.detach().cpu() * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    canvas = Image.fromarray(pixels)
    draw = ImageDraw.Draw(canvas)
    line, size = width or max(2, max(canvas.size) // 320), max(13, max(canvas.size) // 52)
    for wide, dark in ((line + 2, True), (line, False)) if cased else ((line, False),):
        for n in reversed(range(len(texts))):
            points = [(float(x), float(y)) for x, y in outlines[n]]
            draw.line([*points, *points[:2]], fill=(0, 0, 0) if dark else colors[n], width=wide, joint="curve")
    font: Any = ImageFont.load_default(size)
    taken: list[Rectangle] = []
    for n, text in enumerate(texts):
        if text:
            taken.append(_place(draw, text, font, outlines[n], taken, canvas.size))
            _label(draw, taken[-1], text, font, colors[n])
    drawn = torch.from_numpy(np.array(canvas)).permute(2, 0, 1)
    return drawn.to(picture) / 255


def _place(
    draw: ImageDraw,
    text: str,
    font: Any,
    outline: Tensor,
    taken: list[Rectangle],
    size: tuple[int, int],
) -> Rectangle:
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


def _shared(one: Rectangle, other: Rectangle) -> float:
    """Return the area that two rectangles share."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(across, 0.0) * max(down, 0.0)


def _label(draw: ImageDraw, place: Rectangle, text: str, font: Any, color: Color) -> None:
    """Write a label on its color, in the ink that can be read there."""
    draw.rectangle(place, fill=color)
    left, top, *_ = draw.textbbox((0, 0), text, font=font)
    draw.text((place[0] + 4 - left, place[1] + 4 - top), text, fill=ink_on(color), font=font)
