"""Layouts: inverse pairs between a layer's own shape and (B, C, *spatial)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from ._types import Layout


def tokens(grid: Sequence[int], *, prefix: int = 1, keep_prefix: bool = True) -> Layout:
    """Tokens (B, prefix + N, C) as a map (B, C, *grid), for vision transformers.

    Args:
        grid: number of patches along each spatial dimension, (height, width) for images; N is their product.
        prefix: tokens with no place, which come first: class, distillation, registers.
        keep_prefix: what becomes of them when a changed map goes back into the network: kept as they were, or zero.

    Raises:
        ValueError: the layer has another number of tokens.

    Example:
        >>> layout = tokens((14, 14))
        >>> layout.to_map(torch.ones(2, 197, 384)).shape
        torch.Size([2, 384, 14, 14])
    """
    sizes = {f"s{i}": size for i, size in enumerate(grid)}
    places = " ".join(sizes)
    count = prefix + math.prod(grid)

    def to_map(raw: Tensor) -> Tensor:
        if raw.ndim != 3 or raw.shape[1] != count:
            raise ValueError(
                f"layout tokens({tuple(grid)}, prefix={prefix}) stands for (B, {count}, C); "
                f"the layer gives {tuple(raw.shape)}"
            )
        return rearrange(raw[:, prefix:], f"b ({places}) c -> b c {places}", **sizes)

    def from_map(cam: Tensor, like: Tensor) -> Tensor:
        head = like[:, :prefix] if keep_prefix else torch.zeros_like(like[:, :prefix])
        return torch.cat([head, rearrange(cam, f"b c {places} -> b ({places}) c")], dim=1)

    return Layout(to_map, from_map)


def channels_last() -> Layout:
    """Channels last, (B, *spatial, C), as a map (B, C, *spatial): Swin, and other networks that end in a LayerNorm.

    Example:
        >>> channels_last().to_map(torch.ones(2, 7, 7, 768)).shape
        torch.Size([2, 768, 7, 7])
    """
    return Layout(lambda raw: raw.movedim(-1, 1), lambda cam, like: cam.movedim(1, -1))


class Reading(NamedTuple):
    """How a layer's output may be read as a map.

    Attributes:
        layout: None where it is one already.
        spatial: the map's spatial shape.
        channels: C.
        words: the reading in words.
    """

    layout: Layout | None
    spatial: tuple[int, ...]
    channels: int
    words: str


def read(shape: Sequence[int], image: Sequence[int], *, prefix: int | None = None) -> Reading | None:
    """Find how an output of this shape lays out the space of an image of that spatial shape.

    Channels first, then channels last, then tokens behind `prefix` tokens (0 to 8 are tried where it is not given): a
    reading fits when its grid is no larger than the image and has the same stride along each dimension.

    Args:
        shape: of the layer's output, with its batch dimension.
        image: spatial shape of the input.
        prefix: number of tokens with no place, where the model tells.

    Returns:
        The first reading that fits, or None.

    Example:
        >>> read((1, 197, 384), (224, 224)).words
        'tokens, 1 before a grid of (14, 14)'
    """
    if len(shape) == len(image) + 2:
        if _same_stride(image, shape[2:]):
            return Reading(None, tuple(shape[2:]), shape[1], "channels first")
        if _same_stride(image, shape[1:-1]):
            return Reading(channels_last(), tuple(shape[1:-1]), shape[-1], "channels last")
    if len(shape) == 3 and len(image) > 1:
        for count in range(9) if prefix is None else (prefix,):
            grid = _grid(shape[1] - count, image)
            if grid:
                words = f"tokens, {count} before a grid of {grid}"
                return Reading(tokens(grid, prefix=count), grid, shape[2], words)
    return None


def _same_stride(image: Sequence[int], grid: Sequence[int]) -> bool:
    strides = [size / max(cells, 1) for size, cells in zip(image, grid)]
    # unpadded convolutions and odd sizes make strides differ a little; a grid read the wrong way, by far more
    return min(strides) >= 1 and max(strides) <= 1.34 * min(strides)


def _grid(count: int, image: Sequence[int]) -> tuple[int, ...] | None:
    """Return the grid of `count` cells with the same whole stride along each dimension of the image, if any."""
    if count < 1:
        return None
    stride = round((math.prod(image) / count) ** (1 / len(image)))
    grid = tuple(size // max(stride, 1) for size in image)
    return grid if math.prod(grid) == count else None
