"""Pairs of inverse functions between a layer's own shape and (B, C, *spatial)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from ._types import Layout


def tokens(grid: Sequence[int], *, prefix: int = 1, suffix: int = 0, keep_prefix: bool = True) -> Layout:
    """Tokens (B, prefix + N + suffix, C) as a map (B, C, *grid), for vision transformers.

    Args:
        grid: number of patches along each spatial dimension, (height, width) for images; N is their product.
        prefix: tokens with no place, which come first: class, distillation, registers.
        suffix: tokens with no place, which come last, such as YOLOS' detection tokens.
        keep_prefix: what becomes of both when a changed map goes back into the network: kept as they were, or zero.

    Raises:
        ValueError: the layer has another number of tokens.

    Example:
        >>> layout = tokens((14, 14))
        >>> layout.to_map(torch.ones(2, 197, 384)).shape
        torch.Size([2, 384, 14, 14])
    """
    sizes = {f"s{i}": size for i, size in enumerate(grid)}
    places = " ".join(sizes)
    end = prefix + math.prod(grid)
    count = end + suffix

    def to_map(raw: Tensor) -> Tensor:
        if raw.ndim != 3 or raw.shape[1] != count:
            behind = f", suffix={suffix}" if suffix else ""
            raise ValueError(
                f"layout tokens({tuple(grid)}, prefix={prefix}{behind}) stands for (B, {count}, C); "
                f"the layer gives {tuple(raw.shape)}"
            )
        return rearrange(raw[:, prefix:end], f"b ({places}) c -> b c {places}", **sizes)

    def from_map(cam: Tensor, like: Tensor) -> Tensor:
        others = like if keep_prefix else torch.zeros_like(like)
        return torch.cat([others[:, :prefix], rearrange(cam, f"b c {places} -> b ({places}) c"), others[:, end:]], 1)

    return Layout(to_map, from_map)


def channels_last() -> Layout:
    """Channels last, (B, *spatial, C), as a map (B, C, *spatial): Swin, and other networks that end in a LayerNorm.

    Example:
        >>> channels_last().to_map(torch.ones(2, 7, 7, 768)).shape
        torch.Size([2, 768, 7, 7])
    """
    return Layout(lambda raw: raw.movedim(-1, 1), lambda cam, like: cam.movedim(1, -1))


def windows(grid: tuple[int, int], window: tuple[int, int], *, shift: tuple[int, int] = (0, 0)) -> Layout:
    """Windows of a map, (B n, h, w, C) or (B n, h w, C), put together to (B, C, *grid): inside Swin's attention.

    The n windows of a sample follow each other row by row. Where the grid is no multiple of the window, the network
    pads it below and on the right; that part is cut off, and put back as it was.

    Args:
        grid: (height, width) of the whole map.
        window: (height, width) of one window.
        shift: by how much the map was rolled up and left before it was cut, in blocks with shifted windows.

    Raises:
        ValueError: the layer has windows of another size, or another number of them.

    Example:
        >>> windows((14, 14), (7, 7), shift=(3, 3)).to_map(torch.ones(8, 49, 96)).shape
        torch.Size([2, 96, 14, 14])
    """
    (height, width), (h, w) = grid, window
    down, across = -(-height // h), -(-width // w)

    def whole(raw: Tensor) -> Tensor:
        fits = raw.shape[1:-1] in ((h, w), (h * w,)) and raw.shape[0] % (down * across) == 0
        if not fits:
            raise ValueError(
                f"layout windows({grid}, {window}) stands for (B * {down * across}, {h}, {w}, C) or "
                f"(B * {down * across}, {h * w}, C); the layer gives {tuple(raw.shape)}"
            )
        raw = raw.reshape(raw.shape[0], h, w, raw.shape[-1])
        full = rearrange(raw, "(b down across) h w c -> b c (down h) (across w)", down=down, across=across)
        return full.roll(shift, (-2, -1))

    def from_map(cam: Tensor, like: Tensor) -> Tensor:
        padding = whole(like)
        below = torch.cat([cam, padding[..., :height, width:]], -1)
        full = torch.cat([below, padding[..., height:, :]], -2).roll([-s for s in shift], (-2, -1))
        cut = rearrange(full, "b c (down h) (across w) -> (b down across) h w c", h=h, w=w)
        return cut.reshape(-1, *like.shape[1:])

    return Layout(lambda raw: whole(raw)[..., :height, :width], from_map)
