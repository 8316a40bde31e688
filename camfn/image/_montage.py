"""Montages of pictures with captions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .._shared.checks import describe, number, space, whole
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.optional import extra
from ._checks import as_photo
from ._paint import slice_numbers, slices

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont


def montage(
    images: Iterable[Tensor],
    captions: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    cell: tuple[int, int] | None = None,
    padding: int = 8,
    caption_size: int | None = None,
    font: str | PathLike[str] | None = None,
    background: float = 1.0,
) -> Tensor:
    """Lay pictures out in a grid, each with its caption below.

    Each picture is scaled, sides in proportion, to fit a cell all of them share and is centered in it. A caption is
    wrapped to the width of its cell, which it widens to six times its letters' size; a word wider than that is broken.
    Nothing is cut off.

    Args:
        images: (3, H, W) pictures of any sizes, float in [0, 1] or uint8; or one (N, 3, H, W) tensor.
        captions: one text a picture; needs Pillow (`pip install 'camfn[cli]'`).
        columns: pictures a row; by default all of them up to three, else the square root of their number, rounded up.
        cell: (height, width) of the common cell in pixels, by default the greatest height and the greatest width.
        padding: pixels between the pictures and around them.
        caption_size: font size in pixels, by default a sixteenth of the cell's width, 12 to 32.
        font: a TrueType or OpenType file; by default Pillow's own font, which has few letters beyond ASCII and draws
            others, such as é, as boxes.
        background: gray value in [0, 1] behind the pictures; captions are black on a light one, white on a dark one.

    Returns:
        (3, H, W) in [0, 1], device and dtype of the first picture (float32 for uint8).

    Raises:
        CamfnError: no pictures; not one caption for each; one that is no picture; a size below 1.
        OSError: `font` cannot be read.
        ImportError: captions were given and Pillow is missing.

    Example:
        >>> import torch
        >>> from camfn.image import montage
        >>> montage([torch.rand(3, 20, 30), torch.rand(3, 10, 10)], padding=2).shape
        torch.Size([3, 24, 66])
    """
    bare = isinstance(images, Tensor) and images.ndim != 4  # one picture, or none, is no list
    if bare or isinstance(images, (str, bytes, dict)) or not isinstance(images, Iterable):
        raise ArgumentTypeError(f"montage: images: expected a list of pictures (3, H, W), got {describe(images)}")
    if font is not None and not isinstance(font, (str, PathLike)):
        raise ArgumentTypeError(f"montage: font: expected the path of a font file, got {describe(font)}")
    given = list(images)
    _check_grid(len(given), captions, columns, cell, padding, caption_size, background)
    first = as_photo(given[0], "images[0]")
    photos = [as_photo(image, f"images[{i}]").detach().to(first) for i, image in enumerate(given)]
    count = columns or (len(photos) if len(photos) <= 3 else math.ceil(math.sqrt(len(photos))))
    height, width = cell or (max(p.shape[1] for p in photos), max(p.shape[2] for p in photos))
    size = caption_size or min(max(width // 16, 12), 32)
    if captions is not None:
        width = max(width, 6 * size)  # in a narrower cell, a line would be shorter than most words

    rows = []
    for start in range(0, len(photos), count):
        cells = [_letterbox(photo, height, width, background) for photo in photos[start : start + count]]
        if captions is not None:
            strips = _captions(captions[start : start + count], width, size, font, background)
            pairs = zip(cells, strips, strict=True)
            cells = [torch.cat([picture, strip.to(first).expand(3, -1, -1)], dim=1) for picture, strip in pairs]
        cells += [torch.full_like(cells[0], background)] * (count - len(cells))
        rows.append(torch.cat([functional.pad(c, (padding, 0, padding, 0), value=background) for c in cells], dim=2))
    grid = functional.pad(torch.cat(rows, dim=1), (0, padding, 0, padding), value=background)
    return grid.to(given[0].dtype) if given[0].is_floating_point() else grid


def slice_montage(
    volume: Tensor, heatmap: Tensor, *, axis: int = 0, count: int = 9, alpha: float = 0.5, colormap: str = "turbo"
) -> Tensor:
    """Draw slices of a volume, or frames of a video, in a grid, each with its part of the heatmap and its number.

    Args:
        volume: (D, H, W) gray or (3, D, H, W) RGB, float in [0, 1] or uint8.
        heatmap: (d, h, w) in [0, 1], as `normalize` makes it, of any size; it is upsampled to the volume.
        axis: along which to cut: 0 the depth, 1 the height, 2 the width.
        count: how many slices, evenly spread from the first to the last; all of them where there are fewer.
        alpha: as in `overlay`.
        colormap: as in `overlay`.

    Returns:
        (3, H, W), one picture, in the type to compute in; below each slice its number from 1, as "5 of 40".

    Raises:
        CamfnError: as in `slices`.
        ImportError: Pillow is missing.

    Example:
        >>> import torch
        >>> from camfn.image import slice_montage
        >>> slice_montage(torch.rand(40, 64, 64), torch.rand(4, 5, 5), count=4).shape
        torch.Size([3, 192, 168])
    """
    pictures = slices(volume, heatmap, axis=axis, count=count, alpha=alpha, colormap=colormap)
    length = volume.shape[volume.ndim - 3 + axis]
    numbers = slice_numbers(length, count)
    return montage(list(pictures), [f"{number + 1} of {length}" for number in numbers.tolist()])


def _check_grid(
    count: int,
    captions: Sequence[str] | None,
    columns: int | None,
    cell: tuple[int, int] | None,
    padding: int,
    caption_size: int | None,
    background: float,
) -> None:
    """Refuse a grid that cannot be laid out."""
    if count == 0:
        raise CamfnError("montage: expected at least one picture, got none")
    if captions is not None and (isinstance(captions, str) or not isinstance(captions, (list, tuple))):
        raise ArgumentTypeError(f"montage: captions: expected a list of texts, one a picture, got {describe(captions)}")
    if captions is not None and (len(captions) != count or not all(isinstance(text, str) for text in captions)):
        raise CamfnError(f"montage: expected one caption for each of the {count} pictures, got {describe(captions)}")
    if columns is not None:
        whole("montage: columns", columns)
    if cell is not None:
        space("montage: cell", cell, 2)
    whole("montage: padding", padding, 0)
    if caption_size is not None:
        whole("montage: caption_size", caption_size)
    number("montage: background", background, "[0, 1]")


def _letterbox(photo: Tensor, height: int, width: int, background: float) -> Tensor:
    """Scale a photo to fit (height, width), sides in proportion, and center it there."""
    scale = min(height / photo.shape[1], width / photo.shape[2])
    fitted = max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[2] * scale))
    if fitted != photo.shape[1:]:
        photo = functional.interpolate(photo[None], fitted, mode="bilinear", antialias=True)[0].clamp(0, 1)
    spare_h, spare_w = height - fitted[0], width - fitted[1]
    sides = (spare_w // 2, spare_w - spare_w // 2, spare_h // 2, spare_h - spare_h // 2)
    return functional.pad(photo, sides, value=background)


def _captions(
    texts: Sequence[str], width: int, size: int, font: str | PathLike[str] | None, background: float
) -> list[Tensor]:
    """Draw texts as (1, height, width) gray strips, as high as the one with most lines needs."""
    with extra("Pillow", "a montage with captions"):
        from PIL import Image, ImageDraw, ImageFont

    letters = cast("FreeTypeFont", ImageFont.load_default(size)) if font is None else _font(font, size)
    blocks = [wrap_text(text, width - 2, letters) for text in texts]  # a glyph may reach a pixel beyond its advance
    line, gap = max(math.ceil(1.3 * size), sum(letters.getmetrics())), math.ceil(0.3 * size)
    strips = []
    for block in blocks:
        ink = Image.new("L", (width, gap + line * max(map(len, blocks))))
        draw = ImageDraw.Draw(ink)
        for row, words in enumerate(block):
            draw.text((width / 2, gap + row * line), words, fill=255, font=letters, anchor="ma")
        alpha = torch.from_numpy(np.array(ink)).float()[None] / 255
        foreground = 0.0 if background >= 0.5 else 1.0
        strips.append(background + alpha * (foreground - background))
    return strips


def _font(path: str | PathLike[str], size: int) -> FreeTypeFont:
    """Read a font; an error names the file."""
    from PIL import ImageFont

    try:
        return ImageFont.truetype(fspath(path), size)
    except OSError as error:
        raise CamfnError(f"montage: font: expected the path of a font file, got {str(path)!r}: {error}") from error


def wrap_text(text: str, width: int, font: FreeTypeFont) -> list[str]:
    """Break a text into lines no wider than `width` pixels: at spaces, and inside a word only where it is wider."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        current = ""
        for word in paragraph.split():
            joined = f"{current} {word}" if current else word
            if font.getlength(joined) <= width:
                current = joined
                continue
            lines += [current] if current else []
            current = word
            while font.getlength(current) > width:
                fit = next(n for n in range(len(current) - 1, 0, -1) if font.getlength(current[:n]) <= width)
                lines.append(current[:fit])
                current = current[fit:]
        lines.append(current)
    return lines
