"""Pairs of inverse functions between a layer's own shape and (B, C, *spatial)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY

import torch
from einops import rearrange
from torch import Tensor

from .._shared.checks import describe, space, whole
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.value import Value, frozen


def _frozen(layout: Value, *names: str) -> None:
    """Turn fields of a layout that hold sequences into tuples."""
    for name in names:
        object.__setattr__(layout, name, tuple(getattr(layout, name)))


@frozen
class tokens(Value):
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

    grid: Sequence[int]
    _: KW_ONLY
    prefix: int = 1
    suffix: int = 0
    keep_prefix: bool = True
    channels_first: bool = False
    batch_first: bool = True

    def __post_init__(self) -> None:
        space("tokens: grid", self.grid)
        whole("tokens: prefix", self.prefix, 0)
        whole("tokens: suffix", self.suffix, 0)
        _frozen(self, "grid")
        if self.channels_first and not self.batch_first:
            raise CamfnError(
                "tokens: (B, C, tokens) is channels_first=True, (tokens, B, C) batch_first=False; not both"
            )

    def to_map(self, raw: Tensor) -> Tensor:
        """Turn tokens into a map (B, C, *grid)."""
        end = self.prefix + math.prod(self.grid)
        if raw.ndim != 3 or self._in_order(raw).shape[1] != end + self.suffix:
            shape = "({}, B, C)" if not self.batch_first else "(B, C, {})" if self.channels_first else "(B, {}, C)"
            suffix = f", suffix={self.suffix}" if self.suffix else ""
            raise CamfnError(
                f"layout tokens({self.grid}, prefix={self.prefix}{suffix}) stands for "
                f"{shape.format(end + self.suffix)}; the layer gives {tuple(raw.shape)}"
            )
        patches = self._in_order(raw)[:, self.prefix : end].transpose(1, 2)
        return patches.reshape(*patches.shape[:2], *self.grid)

    def from_map(self, cam: Tensor, like: Tensor) -> Tensor:
        """Turn a map into tokens, with the others of `like`, or zeros."""
        end = self.prefix + math.prod(self.grid)
        others = self._in_order(like if self.keep_prefix else torch.zeros_like(like))
        patches = cam.flatten(2).transpose(1, 2)
        return self._in_order(torch.cat([others[:, : self.prefix], patches, others[:, end:]], 1))

    def _in_order(self, raw: Tensor) -> Tensor:
        """Swap the axes to (B, tokens, C), or back."""
        return raw.transpose(1, 2) if self.channels_first else raw if self.batch_first else raw.transpose(0, 1)


@frozen
class unrolled(Value):
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

    grid: Sequence[int]
    strides: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        space("unrolled: grid", self.grid)
        if not isinstance(self.strides, (list, tuple)):
            raise ArgumentTypeError(
                f"unrolled: strides: expected a list of strides, as [(2, 2)], got {describe(self.strides)}"
            )
        for stride in self.strides:
            space("unrolled: strides", stride, len(self.grid))
        _frozen(self, "grid", "strides")
        object.__setattr__(self, "strides", tuple(tuple(stride) for stride in self.strides))
        products = self._products()
        if any(size % product for size, product in zip(self.grid, products)):
            raise CamfnError(f"unrolled: expected a grid of multiples of {products}, got {tuple(self.grid)}")

    def to_map(self, raw: Tensor) -> Tensor:
        """Turn tokens into a map (B, C, *grid)."""
        count = math.prod(self.grid)
        if raw.ndim != 3 or raw.shape[1] != count:
            raise CamfnError(
                f"layout unrolled({tuple(self.grid)}) stands for (B, {count}, C); the layer gives {tuple(raw.shape)}"
            )
        order, places, sizes = self._axes()
        return rearrange(raw, f"b ({order}) c -> b c {places}", **sizes)

    def from_map(self, cam: Tensor, like: Tensor) -> Tensor:
        """Turn a map into tokens."""
        order, places, sizes = self._axes()
        return rearrange(cam, f"b c {places} -> b ({order}) c", **sizes)

    def _products(self) -> tuple[int, ...]:
        return tuple(math.prod(stride[i] for stride in self.strides) for i in range(len(self.grid)))

    def _axes(self) -> tuple[str, str, dict[str, int]]:
        """Return the axes of the tokens in the layer's order and on the map, and their sizes, for einops."""
        axes = range(len(self.grid))
        sizes = {f"s{i}_{step}": stride[i] for step, stride in enumerate(self.strides) for i in axes}
        sizes |= {f"s{i}_rest": size // product for i, (size, product) in enumerate(zip(self.grid, self._products()))}
        steps = [*map(str, range(len(self.strides))), "rest"]
        order = " ".join(f"s{i}_{step}" for step in steps for i in axes)
        places = " ".join("(" + " ".join(f"s{i}_{step}" for step in reversed(steps)) + ")" for i in axes)
        return order, places, sizes


@frozen
class channels_last(Value):
    """Channels last, (B, *spatial, C), as a map (B, C, *spatial): Swin, and other networks that end in a LayerNorm.

    Example:
        >>> channels_last().to_map(torch.ones(2, 7, 7, 768)).shape
        torch.Size([2, 768, 7, 7])
    """

    def to_map(self, raw: Tensor) -> Tensor:
        """Move the channels to the second place."""
        return raw.movedim(-1, 1)

    def from_map(self, cam: Tensor, like: Tensor) -> Tensor:
        """Move the channels to the last place."""
        return cam.movedim(1, -1)


@frozen
class windows(Value):
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

    grid: tuple[int, int]
    window: tuple[int, int]
    _: KW_ONLY
    shift: tuple[int, int] = (0, 0)
    dilated: bool = False
    channels_first: bool = False

    def __post_init__(self) -> None:
        for name in ("grid", "window"):
            space(f"windows: {name}", getattr(self, name), 2)
        space("windows: shift", self.shift, 2, least=-(2**31))
        _frozen(self, "grid", "window", "shift")

    def to_map(self, raw: Tensor) -> Tensor:
        """Join the windows to the map (B, C, *grid)."""
        return self._padded_map(raw)[..., : self.grid[0], : self.grid[1]]

    def from_map(self, cam: Tensor, like: Tensor) -> Tensor:
        """Cut a map into windows, with the padding of `like`."""
        (height, width), (h, w), original = self.grid, self.window, self._padded_map(like)
        wide = torch.cat([cam, original[..., :height, width:]], -1)
        padded = torch.cat([wide, original[..., height:, :]], -2).roll([-s for s in self.shift], (-2, -1))
        pieces = rearrange(padded, f"b c {self._map_axes()} -> b down across h w c", h=h, w=w)
        pieces = pieces.reshape(-1, *self._with_channels_last(like).shape[1:])
        return pieces.movedim(-1, 1) if self.channels_first else pieces

    def _padded_map(self, raw: Tensor) -> Tensor:
        """Join the windows to the map with its padding, as it was before the network rolled it."""
        (height, width), (h, w) = self.grid, self.window
        down, across = -(-height // h), -(-width // w)
        if samples_of(raw.shape, self.window, down * across, self.channels_first) is None:
            merged, apart = (f"(B * {down * across}, {h}, {w}, C)", f"(B, {down * across}, {h * w}, C)")
            if self.channels_first:
                merged, apart = (f"(B * {down * across}, C, {h}, {w})", f"(B, C, {down * across}, {h * w})")
            raise CamfnError(
                f"layout windows({self.grid}, {self.window}) stands for {merged}, or {apart}; the layer gives "
                f"{tuple(raw.shape)}"
            )
        pieces = self._with_channels_last(raw)
        pieces = pieces.reshape(-1, down, across, h, w, pieces.shape[-1])
        return rearrange(pieces, f"b down across h w c -> b c {self._map_axes()}").roll(self.shift, (-2, -1))

    def _map_axes(self) -> str:
        return "(h down) (w across)" if self.dilated else "(down h) (across w)"

    def _with_channels_last(self, raw: Tensor) -> Tensor:
        return raw.movedim(1, -1) if self.channels_first else raw


def samples_of(shape: Sequence[int], window: tuple[int, int], count: int, channels_first: bool) -> int | None:
    """Number of samples in an output of `count` windows a sample; None where its shape holds no such windows.

    The windows are merged into the first dimension of the output, or have a dimension of their own.
    """
    (h, w), inner = window, tuple(shape[2:] if channels_first else shape[1:-1])
    if inner == (count, h * w):
        return shape[0]
    merged = inner == (h, w) or (inner == (h * w,) and not channels_first)
    return shape[0] // count if merged and shape[0] % count == 0 else None
