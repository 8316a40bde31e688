"""Readings of the pieces that some blocks cut a map into: windows, dilated windows, patches side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import nn

from .._shared.vocabulary import Reading
from .facts import Facts, around, axis, facts
from .pairs import samples_of, windows

Pair = tuple[int, int]


class Cut(NamedTuple):
    """How the block around a layer cuts its map.

    Attributes:
        source: the fact it rests on.
        window: (height, width) of a window; of a grid, where `number` windows make it up, this follows.
        number: of windows along each dimension, where that is what the block tells.
        shift: the map is rolled up and left by so much before it is cut.
        dilated: the places of a window lie far apart.
        grid: of the whole map, where the block tells.
        adapts: a map is padded to a multiple of the window; a window larger than the map is cut down, and not shifted.
        always: all that is inside of the block is cut; otherwise, what has as many samples as the image is whole.
    """

    source: str
    window: Pair | None = None
    number: Pair | None = None
    shift: Pair = (0, 0)
    dilated: bool = False
    grid: Pair | None = None
    adapts: bool = False
    always: bool = False


def cut_of(model: nn.Module, name: str) -> Cut | None:
    """Find the innermost block around the layer that cuts its map, if any."""
    for path, part in around(model, name):
        inside = name[len(path) :].strip(".").partition(".")[0]
        for look in (_swin, _torchvision_maxvit, _timm_maxvit, _mobilevit):
            found = look(part, path, inside)
            if found:
                return found
    return None


def _swin(part: Any, path: str, inside: str) -> Cut | None:
    size, shift = getattr(part, "window_size", None), getattr(part, "shift_size", None)
    if size is None or shift is None:
        return None
    return Cut(f"window_size of {path}", _pair(size), shift=_pair(shift), adapts=True)


def _timm_maxvit(part: Any, path: str, inside: str) -> Cut | None:
    size = getattr(part, "partition_size", None)
    if size is None:
        return None
    blocks = getattr(part, "partition_block", None)
    if blocks is None:
        if inside not in ("attn_block", "attn_grid"):
            return None
        blocks = inside == "attn_block"  # both at once, and no flag
    return Cut(f"partition_size of {path}", _pair(size), dilated=not blocks)


def _torchvision_maxvit(part: Any, path: str, inside: str) -> Cut | None:
    whole = inside in ("", "departition_op")
    if whole or not all(hasattr(part, key) for key in ("partition_type", "p", "g", "grid_size")):
        return None
    # a grid is cut into blocks, and then the axes of blocks and of places in a block change roles
    dilated = part.partition_type == "grid" and inside not in ("partition_op", "departition_swap")
    size = _pair(part.g if dilated else part.p)
    return Cut(f"partition_type of {path}", size, dilated=dilated, grid=_pair(part.grid_size), always=True)


def _mobilevit(part: Any, path: str, inside: str) -> Cut | None:
    if inside not in ("transformer", "norm", "layernorm"):
        return None
    if hasattr(part, "patch_area") and hasattr(part, "patch_size"):
        size = _pair(part.patch_size)
    elif hasattr(part, "patch_height") and hasattr(part, "patch_width"):
        size = part.patch_height, part.patch_width
    else:
        return None
    return Cut(f"patches of {size} in {path}", number=size, dilated=True, always=True)


def may_be_padded(model: nn.Module, name: str, shape: Sequence[int], image: Sequence[int]) -> bool:
    """Whether an output is one window a sample, of a block that does not tell whether it padded the map to that.

    Args:
        model: the whole.
        name: of the layer.
        shape: of its output.
        image: (C, *spatial).
    """
    for _, part in around(model, name):
        size = getattr(part, "window_size", None)
        if size and not hasattr(part, "shift_size"):
            window, stem = _pair(size), facts(model, name, image).stem
            if stem and window != stem.grid and tuple(shape[1:-1]) in (window, (math.prod(window),)):
                return "att" in name or any(cells < length for cells, length in zip(stem.grid, window))
    return False


def _pair(value: int | Iterable[int]) -> Pair:
    if isinstance(value, int):
        return value, value
    first, second = value
    return int(first), int(second)


def window_readings(cut: Cut, known: Facts, module: nn.Module, shape: Sequence[int], samples: int) -> list[Reading]:
    """Readings of a layer's output as pieces of a map of one of the sizes that the stem's grid may have shrunk to.

    Args:
        cut: how the block cuts.
        known: facts of the tower.
        module: the layer.
        shape: of its output.
        samples: in the batch.
    """
    if len(shape) not in (3, 4):
        return []
    told = axis(module, shape)
    found: dict[tuple[Pair, bool], Reading] = {}
    for grid in _grids(cut, known):
        (h, w), shift = _window(cut, grid)
        count = math.ceil(grid[0] / h) * math.ceil(grid[1] / w)
        for channels_first in (False, True):
            if told not in (None, 1 if channels_first else -1):
                continue
            if samples_of(shape, (h, w), count, channels_first) == samples:
                found[grid, channels_first] = _reading(cut, grid, (h, w), shift, count, channels_first, shape)
    return list(found.values())


def _grids(cut: Cut, known: Facts) -> list[Pair]:
    """Sizes that the map may have: the stem's grid, halved any number of times."""
    if cut.grid:
        return [cut.grid]
    if known.stem is None or len(known.stem.grid) != 2:
        return []
    rows, columns = known.stem.grid
    halved = [(math.ceil(rows / 2**power), math.ceil(columns / 2**power)) for power in range(8)]
    if cut.number:
        # a map that is no multiple of the patches is resized to one, or what is left over is dropped
        down, across = cut.number
        fitted = [
            (whole(h / down) * down, whole(w / across) * across) for h, w in halved for whole in (math.ceil, math.floor)
        ]
        return [grid for grid in fitted if min(grid) > 0]
    h, w = cut.window or (1, 1)
    return [grid for grid in halved if cut.adapts or not (grid[0] % h or grid[1] % w)]


def _window(cut: Cut, grid: Pair) -> tuple[Pair, Pair]:
    """Size and shift of the windows of a grid."""
    if cut.number:
        return (grid[0] // cut.number[0], grid[1] // cut.number[1]), cut.shift
    assert cut.window
    if cut.adapts and min(grid) <= max(cut.window):
        return (min(min(grid), cut.window[0]), min(min(grid), cut.window[1])), (0, 0)
    return cut.window, cut.shift


def _reading(
    cut: Cut, grid: Pair, window: Pair, shift: Pair, count: int, channels_first: bool, shape: Sequence[int]
) -> Reading:
    words = f"{count} {'dilated ' * cut.dilated}windows of {window}"
    if cut.adapts:
        words += f", shifted by {shift},"
    options = [f"shift={shift}"] * cut.adapts
    options += ["dilated=True"] * cut.dilated + ["channels_first=True"] * channels_first
    return Reading(
        "windows",
        grid,
        shape[1 if channels_first else -1],
        0,
        windows(grid, window, shift=shift, dilated=cut.dilated, channels_first=channels_first),
        f"{words} of a grid of {grid} ({cut.source})",
        f"layout=camfn.layout.windows({', '.join(map(str, [grid, window, *options]))})",
    )
