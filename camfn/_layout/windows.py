"""Candidate layouts for layers inside windowed attention (Swin, MaxViT, MobileViT)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .._shared.vocabulary import Reading
from .facts import LayerContext, Stem, channel_axis
from .pairs import samples_of, windows

Pair = tuple[int, int]


class WindowCut(NamedTuple):
    """How the block around a layer cuts its map into windows.

    Attributes:
        source: the attribute of the block that states the cut, for the reading's reason.
        window: (height, width) of a window; None where the block states the number of windows instead.
        number: number of windows along each dimension; None where the block states the size of a window.
        shift: number of cells by which the block rolls the map up and left before it cuts.
        dilated: whether the places of a window lie far apart in the map.
        grid: (height, width) of the whole map; None where the block does not state it.
        adapts: whether the block pads a map to a multiple of the window, and cuts a window larger than the map down
            to the map, without a shift.
        always: whether every layer inside the block gets windows; otherwise a layer whose output has as many samples
            as the image gets the whole map.
    """

    source: str
    window: Pair | None = None
    number: Pair | None = None
    shift: Pair = (0, 0)
    dilated: bool = False
    grid: Pair | None = None
    adapts: bool = False
    always: bool = False


def window_cut(layer: LayerContext) -> WindowCut | None:
    """Find the innermost block around the layer that cuts its map into windows, and how it cuts."""
    for path, block in layer.ancestors:
        child = layer.name[len(path) :].strip(".").partition(".")[0]
        for cut_by in (_swin_cut, _torchvision_maxvit_cut, _timm_maxvit_cut, _mobilevit_cut):
            cut = cut_by(block, path, child)
            if cut:
                return cut
    return None


# The four functions below take a block, its dotted name, and the name of its child that holds the layer ("" where the
# layer is the block). Each returns how the block cuts that child's map, or None for a block of another network.


def _swin_cut(block: Any, path: str, child: str) -> WindowCut | None:
    size, shift = getattr(block, "window_size", None), getattr(block, "shift_size", None)
    if size is None or shift is None or not (_is_plane(size) and _is_plane(shift)):
        return None
    return WindowCut(f"window_size of {path}", _pair(size), shift=_pair(shift), adapts=True)


def _timm_maxvit_cut(block: Any, path: str, child: str) -> WindowCut | None:
    size = getattr(block, "partition_size", None)
    if size is None or not _is_plane(size):
        return None
    in_blocks = getattr(block, "partition_block", None)
    if in_blocks is None:
        # a block with both attentions has no flag; the name of the child says which attention the layer is in
        if child not in ("attn_block", "attn_grid"):
            return None
        in_blocks = child == "attn_block"
    return WindowCut(f"partition_size of {path}", _pair(size), dilated=not in_blocks)


def _torchvision_maxvit_cut(block: Any, path: str, child: str) -> WindowCut | None:
    returns_the_whole_map = child in ("", "departition_op")
    if returns_the_whole_map or not all(hasattr(block, key) for key in ("partition_type", "p", "g", "grid_size")):
        return None
    # grid attention first cuts the map into blocks, and then exchanges the axis of blocks and that of places
    dilated = block.partition_type == "grid" and child not in ("partition_op", "departition_swap")
    size = _pair(block.g if dilated else block.p)
    return WindowCut(f"partition_type of {path}", size, dilated=dilated, grid=_pair(block.grid_size), always=True)


def _mobilevit_cut(block: Any, path: str, child: str) -> WindowCut | None:
    if child not in ("transformer", "norm", "layernorm"):
        return None
    if hasattr(block, "patch_area") and hasattr(block, "patch_size"):
        size = _pair(block.patch_size)
    elif hasattr(block, "patch_height") and hasattr(block, "patch_width"):
        size = block.patch_height, block.patch_width
    else:
        return None
    return WindowCut(f"patches of {size} in {path}", number=size, dilated=True, always=True)


def may_be_padded(layer: LayerContext, shape: Sequence[int]) -> bool:
    """Whether a layer's output of this shape is one window a sample, which may hold padding (SAM, TinyViT, DaViT).

    The blocks of these networks have a `window_size`, but do not say whether they padded the map to it.
    """
    for _, block in layer.ancestors:
        size = getattr(block, "window_size", None)
        if size and _is_plane(size) and not hasattr(block, "shift_size"):
            window, stem = _pair(size), layer.facts.stem
            if stem and window != stem.grid and tuple(shape[1:-1]) in (window, (math.prod(window),)):
                return "att" in layer.name or any(cells < length for cells, length in zip(stem.grid, window))
    return False


def _is_plane(value: Any) -> bool:
    """Whether a size is one number, or two; windows of volumes and videos have three."""
    return isinstance(value, int) or (isinstance(value, Sequence) and len(value) == 2)


def _pair(value: int | Iterable[int]) -> Pair:
    """Turn one size, or two, into (height, width)."""
    if isinstance(value, int):
        return value, value
    first, second = value
    return int(first), int(second)


def window_readings(cut: WindowCut, layer: LayerContext, shape: Sequence[int]) -> list[Reading]:
    """List the readings of a layer's output as windows of a map, for each size that the map may have.

    Args:
        cut: how the block around the layer cuts its map.
        layer: the layer and its facts.
        shape: shape of the layer's output.
    """
    if len(shape) not in (3, 4):
        return []
    axis = channel_axis(layer.module, shape)
    readings: dict[tuple[Pair, bool], Reading] = {}
    for grid in _possible_grids(cut, layer.facts.stem):
        (h, w), shift = _window_and_shift(cut, grid)
        count = math.ceil(grid[0] / h) * math.ceil(grid[1] / w)
        for channels_first in (False, True):
            if axis not in (None, 1 if channels_first else -1):
                continue
            if samples_of(shape, (h, w), count, channels_first) == layer.image[0]:
                readings[grid, channels_first] = _reading(cut, grid, (h, w), shift, count, channels_first, shape)
    return list(readings.values())


def _possible_grids(cut: WindowCut, stem: Stem | None) -> list[Pair]:
    """List the sizes that the map may have: the size the block states, or the stem's grid halved up to seven times."""
    if cut.grid:
        return [cut.grid]
    if stem is None or len(stem.grid) != 2:
        return []
    rows, columns = stem.grid
    halved = [(math.ceil(rows / 2**power), math.ceil(columns / 2**power)) for power in range(8)]
    if cut.number:
        # MobileViT resizes a map that is no multiple of its patches to the next one, or drops the rest of the map
        down, across = cut.number
        multiples = [
            (to_integer(h / down) * down, to_integer(w / across) * across)
            for h, w in halved
            for to_integer in (math.ceil, math.floor)
        ]
        return [grid for grid in multiples if min(grid) > 0]
    h, w = cut.window or (1, 1)
    return [grid for grid in halved if cut.adapts or not (grid[0] % h or grid[1] % w)]


def _window_and_shift(cut: WindowCut, grid: Pair) -> tuple[Pair, Pair]:
    """Size and shift of the windows that a block cuts a map of this size into."""
    if cut.number:
        return (grid[0] // cut.number[0], grid[1] // cut.number[1]), cut.shift
    assert cut.window
    if cut.adapts and min(grid) <= max(cut.window):
        return (min(min(grid), cut.window[0]), min(min(grid), cut.window[1])), (0, 0)
    return cut.window, cut.shift


def _reading(
    cut: WindowCut, grid: Pair, window: Pair, shift: Pair, count: int, channels_first: bool, shape: Sequence[int]
) -> Reading:
    """Write a reading down: its layout, its reason in words, and the call that asks for it."""
    kind = "dilated windows" if cut.dilated else "windows"
    words = f"{count} {kind} of {window}"
    options = []
    if cut.adapts:
        words += f", shifted by {shift},"
        options.append(f"shift={shift}")
    if cut.dilated:
        options.append("dilated=True")
    if channels_first:
        options.append("channels_first=True")
    return Reading(
        "windows",
        grid,
        shape[1 if channels_first else -1],
        0,
        windows(grid, window, shift=shift, dilated=cut.dilated, channels_first=channels_first),
        f"{words} of a grid of {grid} ({cut.source})",
        f"layout=camfn.layout.windows({', '.join(map(str, [grid, window, *options]))})",
    )
