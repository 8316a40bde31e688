"""Scenes: digits of different classes on procedural textures, with exact masks and boxes."""

# tested in tests/tiny/test_tiny.py

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .._shared.errors import CamfnError

SIZE: int = 64
"""Height and width of a scene in pixels."""

_HELD_OUT = 40
"""Glyphs of each digit that no model was trained on."""


class Scenes(NamedTuple):
    """Pictures, and the labels, masks and boxes of their digits.

    Attributes:
        images: (B, 3, 64, 64), RGB in [0, 1].
        labels: (B, D), the digits in each picture, all different.
        masks: (B, D, 64, 64), bool, the pixels of each digit.
        boxes: (B, D, 4), x0 y0 x1 y1 in pixels, tight around the masks, the upper ends exclusive.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    boxes: Tensor


def scenes(
    count: int,
    *,
    generator: torch.Generator,
    digits: int = 2,
    split: Literal["test", "train"] = "test",
    without: int | Sequence[int] = (),
) -> Scenes:
    """Draw scenes: digits of different classes, 18 to 28 pixels high, turned a little, none touching another.

    A scene is its parts: with a generator of the same seed, `without` gives the same scenes less one digit, with the
    texture that was behind it. This is a removal that leaves no artifact, for the networks were trained on scenes of
    fewer digits; what it changes in a score is what the digit did.

    Args:
        count: how many, B.
        generator: where to draw from; a CPU generator.
        digits: how many in each, D, one to four.
        split: "train" takes the glyphs that the models were trained on, "test" the others.
        without: digits to leave out of the pictures, by their place among `labels`; labels, masks and boxes keep them.

    Raises:
        CamfnError: for another number of digits, another split, or a digit to leave out that is not there.

    Example:
        >>> import torch
        >>> world = scenes(2, generator=torch.Generator().manual_seed(0))
        >>> world.images.shape, world.labels.shape, world.masks.shape, world.boxes.shape
        (torch.Size([2, 3, 64, 64]), torch.Size([2, 2]), torch.Size([2, 2, 64, 64]), torch.Size([2, 2, 4]))
        >>> less = scenes(2, generator=torch.Generator().manual_seed(0), without=1)
        >>> changed = (world.images != less.images).any(1)
        >>> bool(changed[world.masks[:, 1]].all()), bool(changed[world.masks[:, 0]].any())
        (True, False)
    """
    left_out = {without} if isinstance(without, int) else set(without)
    if not 1 <= digits <= 4:
        raise CamfnError(f"digits: expected 1 to 4 a scene, got {digits}")
    if split not in ("test", "train"):
        raise CamfnError(f"split: expected 'test' or 'train', got {split!r}")
    if not left_out <= set(range(digits)):
        raise CamfnError(f"without: expected places of digits, 0 to {digits - 1}, got {without}")
    labels = torch.rand(count, 10, generator=generator).argsort(1)[:, :digits]
    ink = _ink(labels, generator, split)
    masks = ink > 0.5
    images = _texture(count, generator)
    # a digit's brightness and the texture's are never within 0.25 of each other
    colors = 0.8 + 0.2 * torch.rand(count, digits, 3, 1, 1, generator=generator)
    for i in sorted(set(range(digits)) - left_out):
        images = torch.lerp(images, colors[:, i], ink[:, i, None])
    return Scenes(images, labels, masks, _boxes(masks))


def _ink(labels: Tensor, generator: torch.Generator, split: str) -> Tensor:
    """Draw the digits, each alone in a quadrant: (B, D, H, W) in [0, 1]."""
    count, digits = labels.shape
    glyphs = _glyphs()
    train = glyphs.shape[1] - _HELD_OUT
    first, last = (0, train) if split == "train" else (train, glyphs.shape[1])
    chosen = glyphs[labels, torch.randint(first, last, (count, digits), generator=generator)]
    half = SIZE / 2
    quadrant = torch.rand(count, 4, generator=generator).argsort(1)[:, :digits]
    side = 18 + 10 * torch.rand(count, digits, generator=generator)
    jitter = torch.rand(2, count, digits, generator=generator) * (half - side)
    center = torch.stack([quadrant % 2, quadrant // 2]) * half + side / 2 + jitter
    angle = math.radians(12) * (2 * torch.rand(count, digits, generator=generator) - 1)
    # from a pixel's place, in [-1, 1] over the picture, to the glyph's own [-1, 1]
    scale, (x, y) = SIZE / side, center / half - 1
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [cos, sin, -(cos * x + sin * y), -sin, cos, sin * x - cos * y]
    theta = torch.stack(rows, -1).reshape(-1, 2, 3)
    places = functional.affine_grid(theta, [theta.shape[0], 1, SIZE, SIZE], align_corners=False)
    drawn = functional.grid_sample(chosen.reshape(-1, 1, 8, 8), places, align_corners=False)
    return (1.5 * drawn).clamp(max=1).reshape(count, digits, SIZE, SIZE)


def _texture(count: int, generator: torch.Generator) -> Tensor:
    """Waves and clouds in random colors, (B, 3, H, W) in [0, 0.55]."""
    line = torch.linspace(0, 1, SIZE)
    turn, phase, shift = (2 * math.pi * torch.rand(count, 3, 1, 1, generator=generator) for _ in range(3))
    waves = 1 + 9 * torch.rand(count, 3, 1, 1, generator=generator)
    along = line * turn.cos() + line[:, None] * turn.sin()
    stripes = (2 * math.pi * waves * along + phase).sin() * (shift / 2 + 3 * line[:, None]).cos()
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    clouds = functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic", align_corners=False)
    grain = torch.rand(count, 1, SIZE, SIZE, generator=generator)
    return (0.3 * clouds + 0.1 * stripes + 0.1 * grain + 0.05).clamp(0, 0.55)


def _boxes(masks: Tensor) -> Tensor:
    """Return the tight boxes of masks, x0 y0 x1 y1."""
    columns, rows = masks.any(-2), masks.any(-1)
    ends = [(line.int().argmax(-1), SIZE - line.flip(-1).int().argmax(-1)) for line in (columns, rows)]
    (x0, x1), (y0, y1) = ends
    return torch.stack([x0, y0, x1, y1], -1).float()


@cache
def _glyphs() -> Tensor:
    """Read the digits: (10, n, 8, 8) in [0, 1], two pixels a byte in the file."""
    packed = torch.load(Path(__file__).with_name("data") / "digits.pt", weights_only=True)
    pixels = torch.stack([packed // 16, packed % 16], -1)
    return pixels.reshape(10, -1, 8, 8).float() / 15
