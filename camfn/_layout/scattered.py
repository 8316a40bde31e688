"""Layouts of tokens that are scattered in a sequence, or packed with those of other images."""

# tested in tests/layout/test_scattered.py

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY
from typing import cast

import torch
from torch import Tensor

from .._shared.checks import describe, space, whole
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.value import Value, frozen

_ORDERS = ("blocks", "rows", "merged")


@frozen
class spans(Value):
    """Places at given positions of a sequence (B, N, C), as a map (B, C, *grid).

    So it is where text stands around the image's tokens, where a class token stands in the middle of them (Vim), and
    where places do not follow each other row by row. The other tokens are left out of the map; `from_map` keeps them as
    they were. A sequence (N, C) without a batch is one sample.

    Args:
        positions: positions in the sequence of the places of the map, row by row: numbers and ranges.
        grid: number of places along each spatial dimension.

    Raises:
        CamfnError: there are not as many positions as places, a position comes twice, or the layer's sequence is
            shorter.

    Example:
        >>> class_in_the_middle = spans([range(98), range(99, 197)], (14, 14))
        >>> class_in_the_middle.to_map(torch.ones(1, 197, 192)).shape
        torch.Size([1, 192, 14, 14])
        >>> columns_first = spans([range(row, 6, 2) for row in range(2)], (2, 3))
        >>> columns_first.to_map(torch.arange(6.0).reshape(1, 6, 1))[0, 0].tolist()
        [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]
    """

    positions: Sequence[int | range]
    grid: Sequence[int]

    def __post_init__(self) -> None:
        grid = space("spans: grid", self.grid)
        flat = _flat(self.positions)
        if len(flat) != math.prod(grid):
            raise CamfnError(
                f"spans: expected as many positions as the grid {grid} has places, {math.prod(grid)}; got {len(flat)}"
            )
        if len(set(flat)) != len(flat) or min(flat) < 0:
            raise CamfnError("spans: positions: expected each position once, from 0")
        object.__setattr__(self, "grid", grid)
        object.__setattr__(self, "positions", _runs(flat))

    def to_map(self, raw: Tensor) -> Tensor:
        """Pick the places out of the sequence."""
        flat = _flat(self.positions)
        if raw.ndim not in (2, 3) or raw.shape[-2] <= max(flat):
            raise CamfnError(
                f"layout spans with positions up to {max(flat)} stands for (B, N, C) with N > {max(flat)}; the layer "
                f"gives {tuple(raw.shape)}"
            )
        return _picked(raw.reshape(-1, *raw.shape[-2:]), flat, tuple(self.grid))

    def from_map(self, cam: Tensor, like: Tensor) -> Tensor:
        """Put the places of a map into the sequence, with the other tokens of `like`."""
        return _put(cam, like.reshape(-1, *like.shape[-2:]), _flat(self.positions)).reshape(like.shape)


@frozen
class packed(Value):
    """Patches of one or several images in one sequence (N, C), as the map of each or of one, for Qwen-VL and its like.

    Args:
        grid_thw: (time, height, width) in patches, of one image or of each, as the processor's `image_grid_thw`.
        merge: number of patches along each side that the network merges to one token, its `spatial_merge_size`.
        order: "blocks" where the `merge` x `merge` patches of one token follow each other, as in the towers of Qwen-VL;
            "rows" where all patches go row by row; "merged" behind the merger, where each token is a block of patches.
            Or the index of the block that stands at each position, as Qwen2.5-VL's `get_window_index` gives for the
            layers in windows; behind the merger the index of the token.
        image: which image to map, where they differ in size; None maps all, (B, C, *spatial) with as many as there are.

    The map is (B, C, height, width), or (B, C, time, height, width) for video. `from_map` keeps the tokens of other
    images. A batch of one, (1, N, C), is taken too.

    Raises:
        CamfnError: the layer has another number of tokens; or the images differ in size, and `image` is not given.

    Example:
        >>> layout = packed([(1, 4, 6)], merge=2)
        >>> layout.to_map(torch.arange(24.0).reshape(24, 1))[0, 0].int().tolist()[:2]
        [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]
        >>> packed([(1, 4, 6), (1, 8, 8)], merge=2, order="merged", image=1).to_map(torch.ones(22, 64)).shape
        torch.Size([1, 64, 4, 4])
    """

    grid_thw: Sequence[Sequence[int]] | Sequence[int] | Tensor
    merge: int = 1
    _: KW_ONLY
    order: str | Sequence[int] = "blocks"
    image: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid_thw", _grids(self.grid_thw))
        whole("packed: merge", self.merge)
        if not isinstance(self.order, str):
            object.__setattr__(self, "order", tuple(_flat(self.order)))
            if sorted(self.order) != list(range(len(self.order))):
                raise CamfnError("packed: order: expected each index once, from 0")
        elif self.order not in _ORDERS:
            raise CamfnError(f"packed: order: expected one of {_ORDERS}, or indices; got {self.order!r}")
        for _, height, width in self._sizes:
            if height % self.merge or width % self.merge:
                raise CamfnError(
                    f"packed: expected heights and widths that are multiples of merge={self.merge}, got {self.grid_thw}"
                )
        if self.image is not None and not -len(self._sizes) <= self.image < len(self._sizes):
            raise CamfnError(f"packed: image={self.image} is out of range: there are {len(self._sizes)} images")
        if self.image is None and len(set(self._sizes)) > 1:
            raise CamfnError(
                f"packed: the images differ in size, {self.grid_thw}: say which to map, image=0 to "
                f"image={len(self._sizes) - 1}"
            )

    @property
    def _sizes(self) -> tuple[tuple[int, int, int], ...]:
        """Size of each image in patches, as `__post_init__` wrote it."""
        return cast("tuple[tuple[int, int, int], ...]", self.grid_thw)

    def to_map(self, raw: Tensor) -> Tensor:
        """Lay the patches of each image out."""
        positions, grid, count = self._positions(self._tokens(raw))
        batches = [_picked(raw.reshape(1, count, raw.shape[-1]), flat, grid) for flat in positions]
        return torch.cat(batches)

    def from_map(self, cam: Tensor, like: Tensor) -> Tensor:
        """Put the patches of a map into the sequence, with the tokens of other images of `like`."""
        positions, _, count = self._positions(self._tokens(like))
        flat = [position for each in positions for position in each]
        joined = cam.flatten(2).movedim(0, 1).flatten(1)[None]  # (1, C, all patches)
        return _put(joined, like.reshape(1, count, like.shape[-1]), flat).reshape(like.shape)

    def _tokens(self, raw: Tensor) -> int:
        """Return the number of tokens of a layer's output; refuse a batch of several."""
        if raw.ndim == 2 or (raw.ndim == 3 and raw.shape[0] == 1):
            return raw.shape[-2]
        raise CamfnError(
            f"layout packed({self.grid_thw}) stands for (N, C) or (1, N, C); the layer gives {tuple(raw.shape)}"
        )

    def _positions(self, tokens: int) -> tuple[list[list[int]], tuple[int, ...], int]:
        """Return the positions of each image's places, row by row, the grid of these, and the number of tokens."""
        patches = sum(map(math.prod, self._sizes))
        blocks = patches // self.merge**2
        merged = self.order == "merged" or (not isinstance(self.order, str) and tokens == blocks)
        if tokens != (blocks if merged else patches):
            raise CamfnError(
                f"layout packed({self.grid_thw}, merge={self.merge}, order={_short(self.order)}) stands for "
                f"{blocks if merged else patches} tokens; the layer gives {tokens}"
            )
        found: list[list[int]] = []
        grid: tuple[int, ...] = ()
        start = 0
        wanted = None if self.image is None else self.image % len(self._sizes)
        side = 1 if merged or self.order == "rows" else self.merge
        places = self._where(blocks, 1 if merged else self.merge**2)
        for i, (time, height, width) in enumerate(self._sizes):
            shrink = self.merge if merged else 1
            size = time, height // shrink, width // shrink
            if wanted in (None, i):
                found.append([places[start + one] if places else start + one for one in _block_order(size, side)])
                grid = size if time > 1 else size[1:]
            start += math.prod(size)
        return found, grid, tokens

    def _where(self, blocks: int, of: int) -> list[int]:
        """Return where each token stands, by its place in the order of blocks; empty where that is the order."""
        if isinstance(self.order, str):
            return []
        if len(self.order) != blocks:
            raise CamfnError(f"packed: order: expected the indices of {blocks} blocks, got {len(self.order)}")
        where = [0] * (blocks * of)
        for position, block in enumerate(self.order):
            for inner in range(of):
                where[block * of + inner] = position * of + inner
        return where


def _block_order(size: tuple[int, int, int], side: int) -> list[int]:
    """Return for each place, row by row, its position where blocks of so many places a side follow each other."""
    time, height, width = size
    across = width // side
    return [
        t * height * width + ((row // side) * across + column // side) * side * side + row % side * side + column % side
        for t in range(time)
        for row in range(height)
        for column in range(width)
    ]


def _picked(raw: Tensor, flat: Sequence[int], grid: tuple[int, ...]) -> Tensor:
    """Return the tokens (B, N, C) at these positions as a map (B, C, *grid)."""
    index = torch.tensor(flat, device=raw.device)
    chosen = raw.index_select(1, index).transpose(1, 2)
    return chosen.reshape(*chosen.shape[:2], *grid)


def _put(cam: Tensor, like: Tensor, flat: Sequence[int]) -> Tensor:
    """Return the tokens `like` (B, N, C) with those at some positions from a map."""
    patches = cam.flatten(2).transpose(1, 2)
    source = list(range(like.shape[1]))
    for place, position in enumerate(flat):
        source[position] = like.shape[1] + place
    return torch.cat([like, patches], 1).index_select(1, torch.tensor(source, device=like.device))


def _flat(positions: Iterable[int | range]) -> list[int]:
    """List positions that are given as numbers and ranges."""
    flat: list[int] = []
    for one in _listed("positions", positions):
        if isinstance(one, range):
            flat.extend(one)
        else:
            whole("spans: positions", one, 0)
            flat.append(int(one))
    return flat


def _listed(name: str, values: object) -> list[int | range]:
    if isinstance(values, Tensor) and values.ndim == 1 and not values.is_floating_point():
        return [int(value) for value in values.tolist()]
    if not isinstance(values, (list, tuple, range)):
        raise ArgumentTypeError(f"{name}: expected a list of whole numbers, got {describe(values)}")
    return list(values)


def _runs(flat: Sequence[int]) -> tuple[int | range, ...]:
    """Write positions as the ranges of equal steps that they are made of, so that equal positions are equal values."""
    runs: list[int | range] = []
    i = 0
    while i < len(flat):
        end = i + 1
        step = flat[end] - flat[i] if end < len(flat) else 1
        while end < len(flat) and flat[end] - flat[end - 1] == step:
            end += 1
        if end - i > 2:
            runs.append(range(flat[i], flat[end - 1] + (1 if step > 0 else -1), step))
            i = end
        else:
            runs.append(flat[i])
            i += 1
    return tuple(runs)


def _grids(value: object) -> tuple[tuple[int, ...], ...]:
    """Return the sizes (time, height, width) of images, given as a tensor, as a list of them, or as one."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if not isinstance(value, (list, tuple)) or not value:
        raise ArgumentTypeError(f"packed: grid_thw: expected [(time, height, width), ...], got {describe(value)}")
    each = [value] if not isinstance(value[0], (list, tuple)) else value
    return tuple(space("packed: grid_thw", list(one), 3) for one in each)


def _short(order: str | Sequence[int]) -> str:
    return repr(order) if isinstance(order, str) else "the indices given"
