"""Pairs of inverse functions between a layer's own shape and (B, C, *spatial)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from .._shared.errors import CamfnError
from .._shared.vocabulary import Layout


def tokens(
    grid: Sequence[int],
    *,
    prefix: int = 1,
    suffix: int = 0,
    keep_prefix: bool = True,
    channels_first: bool = False,
    batch_first: bool = True,
) -> Layout:
    """Tokens (B, prefix + N + suffix, C) as a map (B, C, *grid), for vision transformers.

    Args:
        grid: number of patches along each spatial dimension, (height, width) for images; N is their product.
        prefix: number of tokens before the patches that stand for no place: class, distillation, registers.
        suffix: number of tokens after the patches that stand for no place, such as YOLOS' detection tokens.
        keep_prefix: whether `from_map` keeps the tokens of the prefix and the suffix as they were, or makes them zero.
        channels_first: True for a layer whose output is (B, C, tokens), as where an MLP-Mixer mixes tokens.
        batch_first: False for a layer whose output is (tokens, B, C), the default of `torch.nn.Transformer`.

    Raises:
        CamfnError: the layer has another number of tokens, or both `channels_first` and `batch_first=False` are given.

    Example:
        >>> layout = tokens((14, 14))
        >>> layout.to_map(torch.ones(2, 197, 384)).shape
        torch.Size([2, 384, 14, 14])
        >>> tokens((14, 14), batch_first=False).to_map(torch.ones(197, 2, 384)).shape
        torch.Size([2, 384, 14, 14])
    """
    if channels_first and not batch_first:
        raise CamfnError("tokens: (B, C, tokens) is channels_first=True, (tokens, B, C) batch_first=False; not both")
    axes = (1, 2) if channels_first else (0, 0) if batch_first else (0, 1)
    shape = "(B, C, {})" if channels_first else "(B, {}, C)" if batch_first else "({}, B, C)"
    sizes = {f"s{i}": size for i, size in enumerate(grid)}
    axis_names = " ".join(sizes)
    end = prefix + math.prod(grid)
    count = end + suffix

    def to_map(raw: Tensor) -> Tensor:
        if raw.ndim != 3 or raw.transpose(*axes).shape[1] != count:
            suffix_text = f", suffix={suffix}" if suffix else ""
            raise CamfnError(
                f"layout tokens({tuple(grid)}, prefix={prefix}{suffix_text}) stands for {shape.format(count)}; "
                f"the layer gives {tuple(raw.shape)}"
            )
        return rearrange(raw.transpose(*axes)[:, prefix:end], f"b ({axis_names}) c -> b c {axis_names}", **sizes)

    def from_map(cam: Tensor, like: Tensor) -> Tensor:
        unchanged = (like if keep_prefix else torch.zeros_like(like)).transpose(*axes)
        patches = rearrange(cam, f"b c {axis_names} -> b ({axis_names}) c")
        return torch.cat([unchanged[:, :prefix], patches, unchanged[:, end:]], 1).transpose(*axes)

    return Layout(to_map, from_map)


def unrolled(grid: Sequence[int], strides: Sequence[Sequence[int]]) -> Layout:
    """Tokens (B, N, C) in the order of Hiera, as a map (B, C, *grid).

    Hiera puts the tokens that one pooling joins far apart in the sequence. A first stride (2, 2) puts all places of
    even row and column first, then the places of even row and odd column, and so on; each further stride orders each
    of these groups in the same way (arXiv 2306.00989, the authors' `Unroll`).

    Args:
        grid: number of tokens along each spatial dimension, a multiple of the strides' product; N is their product.
        strides: strides of the poolings that follow the layer, in the order of execution; one number for each
            dimension of the grid.

    Raises:
        CamfnError: the layer has another number of tokens, or the strides do not divide the grid.

    Example:
        >>> order = unrolled((4, 4), [(2, 2)]).to_map(torch.arange(16.0).reshape(1, 16, 1))
        >>> order[0, 0, 0].tolist()
        [0.0, 4.0, 1.0, 5.0]
    """
    axes = range(len(grid))
    products = [math.prod(stride[i] for stride in strides) for i in axes]
    if any(size % product for size, product in zip(grid, products)):
        raise CamfnError(f"unrolled: expected a grid of multiples of {tuple(products)}, got {tuple(grid)}")
    names = {f"s{i}_{step}": stride[i] for step, stride in enumerate(strides) for i in axes}
    names |= {f"s{i}_rest": size // product for i, (size, product) in enumerate(zip(grid, products))}
    steps = [*map(str, range(len(strides))), "rest"]
    order = " ".join(f"s{i}_{step}" for step in steps for i in axes)
    places = " ".join("(" + " ".join(f"s{i}_{step}" for step in reversed(steps)) + ")" for i in axes)
    count = math.prod(grid)

    def to_map(raw: Tensor) -> Tensor:
        if raw.ndim != 3 or raw.shape[1] != count:
            raise CamfnError(
                f"layout unrolled({tuple(grid)}) stands for (B, {count}, C); the layer gives {tuple(raw.shape)}"
            )
        return rearrange(raw, f"b ({order}) c -> b c {places}", **names)

    return Layout(to_map, lambda cam, like: rearrange(cam, f"b c {places} -> b ({order}) c", **names))


def channels_last() -> Layout:
    """Channels last, (B, *spatial, C), as a map (B, C, *spatial): Swin, and other networks that end in a LayerNorm.

    Example:
        >>> channels_last().to_map(torch.ones(2, 7, 7, 768)).shape
        torch.Size([2, 768, 7, 7])
    """
    return Layout(lambda raw: raw.movedim(-1, 1), lambda cam, like: cam.movedim(1, -1))


def windows(
    grid: tuple[int, int],
    window: tuple[int, int],
    *,
    shift: tuple[int, int] = (0, 0),
    dilated: bool = False,
    channels_first: bool = False,
) -> Layout:
    """Windows of a map, joined to the map (B, C, *grid), for layers in the attention of Swin, MaxViT and MobileViT.

    The n windows of a sample follow each other row by row: (B n, h, w, C), (B n, h w, C) or (B, n, h w, C). Where the
    grid is no multiple of the window, the network pads it below and on the right; `to_map` cuts the padding off, and
    `from_map` puts it back unchanged.

    Args:
        grid: (height, width) of the whole map.
        window: (height, width) of one window.
        shift: number of cells by which the network rolled the map up and left before it cut the windows.
        dilated: True where a window takes every k-th cell, k the number of windows along a dimension, as in the grid
            attention of MaxViT, and in MobileViT, where a window holds one position of each patch.
        channels_first: True for a layer whose output is (B n, C, h, w) or (B, C, n, h w).

    Raises:
        CamfnError: the layer has windows of another size, or another number of them.

    Example:
        >>> windows((14, 14), (7, 7), shift=(3, 3)).to_map(torch.ones(8, 49, 96)).shape
        torch.Size([2, 96, 14, 14])
        >>> every_other = windows((4, 4), (2, 2), dilated=True).to_map(torch.arange(16.0).reshape(4, 4, 1))
        >>> every_other[0, 0, 0].tolist()
        [0.0, 4.0, 1.0, 5.0]
    """
    (height, width), (h, w) = grid, window
    down, across = -(-height // h), -(-width // w)
    map_axes = "(h down) (w across)" if dilated else "(down h) (across w)"

    def with_channels_last(raw: Tensor) -> Tensor:
        return raw.movedim(1, -1) if channels_first else raw

    def padded_map(raw: Tensor) -> Tensor:
        """Join the windows to the map with its padding, as it was before the network rolled it."""
        if samples_of(raw.shape, window, down * across, channels_first) is None:
            merged, apart = (f"(B * {down * across}, {h}, {w}, C)", f"(B, {down * across}, {h * w}, C)")
            if channels_first:
                merged, apart = (f"(B * {down * across}, C, {h}, {w})", f"(B, C, {down * across}, {h * w})")
            raise CamfnError(
                f"layout windows({grid}, {window}) stands for {merged}, or {apart}; the layer gives {tuple(raw.shape)}"
            )
        pieces = with_channels_last(raw)
        pieces = pieces.reshape(-1, down, across, h, w, pieces.shape[-1])
        return rearrange(pieces, f"b down across h w c -> b c {map_axes}").roll(shift, (-2, -1))

    def from_map(cam: Tensor, like: Tensor) -> Tensor:
        original = padded_map(like)
        wide = torch.cat([cam, original[..., :height, width:]], -1)
        padded = torch.cat([wide, original[..., height:, :]], -2).roll([-s for s in shift], (-2, -1))
        pieces = rearrange(padded, f"b c {map_axes} -> b down across h w c", h=h, w=w)
        pieces = pieces.reshape(-1, *with_channels_last(like).shape[1:])
        return pieces.movedim(-1, 1) if channels_first else pieces

    return Layout(lambda raw: padded_map(raw)[..., :height, :width], from_map)


def samples_of(shape: Sequence[int], window: tuple[int, int], count: int, channels_first: bool) -> int | None:
    """Number of samples in an output of `count` windows a sample; None where its shape holds no such windows.

    The windows are merged into the first dimension of the output, or have a dimension of their own.
    """
    (h, w), inner = window, tuple(shape[2:] if channels_first else shape[1:-1])
    if inner == (count, h * w):
        return shape[0]
    merged = inner == (h, w) or (inner == (h * w,) and not channels_first)
    return shape[0] // count if merged and shape[0] % count == 0 else None
