"""Pictures of concepts: each place in the color of its strongest one, numbered, with a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .._shared.checks import describe, is_concrete, number, same_device, tensor, within
from .._shared.devices import brought
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.maps import resize, safe_divide
from .._shared.optional import extra
from ._checks import as_maps, as_photo
from ._montage import wrap_text

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont


PALETTE = ("D55E00", "0072B2", "F0E442", "009E73", "CC79A7", "56B4E9", "E69F00", "882255", "DDDDDD", "000000")
"""Okabe and Ito's colors, which people with every kind of color vision can distinguish, and three more."""


_NUMBERED = 0.1
"""The share of the full strength from which a picture shows the number of a concept."""


def concepts(
    photo: Tensor,
    maps: Tensor,
    labels: Sequence[str] | Sequence[Sequence[str]] | None = None,
    *,
    alpha: float = 0.8,
    scale: float | Tensor | None = None,
    colors: Tensor | None = None,
) -> Tensor:
    """Show where concepts are: each place in the color of its strongest concept, the more opaque the stronger.

    Maps are upsampled first. All concepts are drawn on one scale, so that a weak one looks weak beside a strong one.
    With labels, a concept's number stands where it is strongest, if no other is stronger there and it has a tenth of
    the full strength, and a legend below the photo has number, color and label. The first seven colors are told apart
    in every kind of color vision.

    Args:
        photo: (B, 3, H, W), or one (3, H, W) for all maps; RGB, float in [0, 1] or uint8.
        maps: (B, r, h, w), not negative, as of `factorize.deep_feature_factorization`.
        labels: a text a concept, or for each image a text a concept; needs Pillow (`pip install 'camfn[cli]'`).
        alpha: opacity where a concept is at full strength.
        scale: the full strength, a number or one an image (B,); None is the greatest value of each image's maps. One
            number for several images lets them be compared.
        colors: (r, 3), RGB in [0, 1]; by default the palette, which has ten.

    Returns:
        (B, 3, H', W'), device and dtype of `photo` (float32 for uint8); H' is more than H by the legend, and W' more
        than W only where no word would fit.

    Raises:
        CamfnError: negative or non-finite maps, more concepts than colors, labels that do not fit, other batch sizes.
        ImportError: labels were given and Pillow is missing.

    Example:
        >>> import torch
        >>> from camfn.image import concepts
        >>> concepts(torch.rand(3, 60, 80), torch.rand(2, 4, 7, 7)).shape
        torch.Size([2, 3, 60, 80])
    """
    photos = as_photo(photo, "photo", batched=True)
    photos = photos if photos.ndim == 4 else photos[None]
    work = _strengths(maps)
    same_device("concepts: photo", photos, work, "maps")
    batch, rank = work.shape[:2]
    if photos.shape[0] not in (1, batch):
        raise CamfnError(f"concepts: expected one photo, or one an image of the maps, got {len(photos)} for {batch}")
    number("concepts: alpha", alpha, "[0, 1]", "An opacity")
    if colors is not None:
        tensor("concepts: colors", colors, "(concepts, 3) in [0, 1]")
    texts = _texts(labels, batch, rank)
    paint = brought(_palette(rank) if colors is None else colors, photos)
    if paint.shape != (rank, 3) or not within(paint, 0.0, 1.0):
        raise CamfnError(f"colors: expected ({rank}, 3), one color a concept, in [0, 1]; got {tuple(paint.shape)}")
    full = work.amax((1, 2, 3)) if scale is None else _full_strength(scale, work)
    strength = safe_divide(resize(work, photos.shape[-2:]), full[:, None, None, None]).to(photos)
    most, strongest = strength.max(1)
    pictures = torch.lerp(photos, paint[strongest].movedim(-1, 1), (alpha * most.clamp(max=1))[:, None])
    if texts is not None and batch:
        each = zip(pictures, strength, strongest, strict=True)
        pictures = torch.stack([_mark(picture, levels, which, paint) for picture, levels, which in each])
        pictures = _with_legends(pictures, texts, paint)
    return pictures.to(photo.dtype) if photo.is_floating_point() else pictures


def _full_strength(scale: float | Tensor, work: Tensor) -> Tensor:
    """Return the strength that is opaque, (B,); refuse anything but one number, or one an image."""
    if not isinstance(scale, Tensor):
        number("concepts: scale", scale, "(0, inf)")
        return torch.full((len(work),), scale, dtype=work.dtype, device=work.device)
    same_device("concepts: scale", scale, work, "maps")
    if scale.is_complex() or tuple(scale.shape) not in ((), (1,), (len(work),)) or not within(scale, 0.0, torch.inf):
        raise CamfnError(
            f"concepts: scale: expected a positive number, or one an image, ({len(work)},); got {tuple(scale.shape)}"
        )
    return scale.to(work).expand(len(work))


def _strengths(maps: Tensor) -> Tensor:
    """Check (B, concepts, H, W) maps that are not negative."""
    work = as_maps(maps, "maps")
    if work.ndim != 4:
        raise CamfnError(f"maps: expected (B, concepts, H, W), got {tuple(maps.shape)}; for a single image: maps[None]")
    if not is_concrete(work):
        raise CamfnError(f"maps: expected numbers that can be read, got a tensor on {work.device}")
    if bool((work < 0).any()):
        raise CamfnError(f"maps: expected no negative strengths, got {work.min().item():.4g}")
    return work


def _texts(labels: Sequence[str] | Sequence[Sequence[str]] | None, batch: int, rank: int) -> list[list[str]] | None:
    """Return one list of labels for each image."""
    if labels is None:
        return None
    if isinstance(labels, str) or not isinstance(labels, (list, tuple)):
        raise ArgumentTypeError(f"labels: expected {rank} texts, or {rank} an image, got {describe(labels)}")
    given = list(labels)
    if not all(isinstance(text, str) for label in given for text in _each(label)):
        raise ArgumentTypeError(f"labels: expected {rank} texts, or {rank} an image, got {given!r:.80}")
    shared = all(isinstance(label, str) for label in given)
    texts = [cast("list[str]", given)] * batch if shared else [list(label) for label in given]
    if len(texts) != batch or any(len(each) != rank for each in texts):
        raise CamfnError(
            f"labels: expected {rank} texts, or {rank} for each of the {batch} images, got {len(texts)} of "
            f"{sorted({len(each) for each in texts})}"
        )
    return texts


def _each(label: object) -> list[object]:
    """Return the texts of a label: itself, or those of a list."""
    return list(label) if isinstance(label, (list, tuple)) else [label]


def _palette(rank: int) -> Tensor:
    """Return the first colors of the palette, (rank, 3)."""
    if rank > len(PALETTE):
        raise CamfnError(f"{rank} concepts have no {rank} colors that can be told apart: pass colors=, ({rank}, 3)")
    return torch.tensor([list(bytes.fromhex(color)) for color in PALETTE[:rank]]) / 255


def _mark(picture: Tensor, strength: Tensor, strongest: Tensor, paint: Tensor) -> Tensor:
    """Draw the number of each concept at its strongest place, among the places where no other concept is stronger."""
    with extra("Pillow", "a picture of concepts with labels"):
        from PIL import Image, ImageDraw

    height, width = strongest.shape
    size = _letter_size(width)
    layer = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(layer)
    for k, level in enumerate(strength):
        there = torch.where(strongest == k, level, 0.0)
        if bool(there.max() >= _NUMBERED):
            y, x = divmod(int(there.argmax()), width)
            edge = min(size, width // 2, height // 2)
            _badge(draw, min(max(x, edge), width - 1 - edge), min(max(y, edge), height - 1 - edge), size, k, paint[k])
    rgba = brought(_tensor(layer), picture)
    return torch.lerp(picture, rgba[:3], rgba[3:])


def _with_legends(pictures: Tensor, texts: list[list[str]], paint: Tensor) -> Tensor:
    """Add a white strip below each picture, of the same height for all."""
    size = _letter_size(pictures.shape[-1])
    short = max(0, 14 * size - pictures.shape[-1])
    pictures = functional.pad(pictures, (short // 2, short - short // 2), value=1.0)
    strips = [_legend(each, pictures.shape[-1], size, paint) for each in texts]
    height = max(strip.shape[1] for strip in strips)
    strips = [functional.pad(strip, (0, 0, 0, height - strip.shape[1]), value=1.0) for strip in strips]
    return torch.cat([pictures, brought(torch.stack(strips), pictures)], dim=2)


def _legend(texts: list[str], width: int, size: int, paint: Tensor) -> Tensor:
    """Draw a white strip with the number, color and label of each concept."""
    from PIL import Image, ImageDraw

    font = _font(size)
    left, line = 3 * size, math.ceil(1.35 * size)
    blocks = [wrap_text(text, width - left - size // 2, font) for text in texts]
    heights = [max(len(block) * line, 2 * size) + size // 2 for block in blocks]
    strip = Image.new("RGB", (width, sum(heights) + size // 2), "white")
    draw = ImageDraw.Draw(strip)
    top = size // 2
    for k, (block, height) in enumerate(zip(blocks, heights, strict=True)):
        _badge(draw, 3 * size // 2, top + size, size, k, paint[k])
        first = top + size - (len(block) - 1) * line / 2 if len(block) * line <= 2 * size else top + line / 2
        for row, words in enumerate(block):
            draw.text((left, first + row * line), words, fill="black", font=font, anchor="lm")
        top += height
    return _tensor(strip)


def _badge(draw: ImageDraw, x: float, y: float, size: int, k: int, color: Tensor) -> None:
    """Draw a disc in a concept's color, with its number."""
    fill = tuple(round(255 * part) for part in color.tolist())
    dark = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2] < 128
    draw.ellipse((x - size, y - size, x + size, y + size), fill=fill, outline="black", width=max(1, size // 8))
    draw.text((x, y), str(k + 1), fill="white" if dark else "black", font=_font(size), anchor="mm")


def _letter_size(width: int) -> int:
    """Return the font size in pixels for a picture of this width."""
    return max(12, width // 28)


def _font(size: int) -> FreeTypeFont:
    from PIL import ImageFont

    return cast("FreeTypeFont", ImageFont.load_default(size))


def _tensor(picture: Image) -> Tensor:
    """Convert a picture of Pillow to (channels, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
