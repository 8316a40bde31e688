"""Which layers lie inside a detector's head, and which inside the tower that reads the image."""

# tested in tests/test_layers.py

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor

from .scores import Group
from .watch import Ran, Watched


def head_over_levels(run: Watched, groups: Sequence[Group], image: Tensor) -> Ran | None:
    """Find the last module that reads maps of several sizes and returns none of them: a detector's head.

    A neck reads such maps too, but other layers come after it, or the maps that it returns are the network's own.
    """
    maps = {id(group.output): tuple(group.output.shape[2:]) for group in groups if _is_map(group.output, image)}
    for ran in reversed(run.calls):
        read = read_by(ran)
        sizes = {maps[key] for key in read if key in maps}
        if len(sizes) < 2 or any(not ran.holds(group.calls[-1]) for group in groups if group.calls[-1].end > ran.start):
            continue
        made = {maps[id(x)] for x in ran.outputs if id(x) in maps and id(x) not in read}
        if len(made) < 2 and any(ran.holds(one) and one.works for one in run.calls):
            return ran
    return None


def packs_levels(grids: Sequence[Sequence[int]], shapes: Sequence[Sequence[int]]) -> bool:
    """Whether one of these shapes holds the places of several grids, one size after the other, in a row."""
    sizes = sorted({math.prod(grid) for grid in grids})
    rows = {length for shape in shapes for length in shape}
    return any(sum(sizes[i:j]) in rows for i in range(len(sizes)) for j in range(i + 2, len(sizes) + 1))


def read_by(ran: Ran) -> set[int]:
    """Return the ids of the tensors that a call read and that other calls returned."""
    return {read.key for read in ran.reads if read.source is not None}


def _is_map(x: Tensor, image: Tensor) -> bool:
    return x.ndim == image.ndim and x.shape[0] == image.shape[0]


def towers(run: Watched, inputs: Any, image: Tensor) -> list[str]:
    """Name the outermost modules that read the image and no words, in a network that reads both; [""] for any other.

    Masks are no words, whose numbers are integers of two dimensions.
    """
    root = run.calls[-1]
    if not any(read.integer and len(read.shape) == 2 for read in root.reads):
        return [""]
    size = tuple(image.shape[-min(3, image.ndim - 1) :])
    found: list[Ran] = []
    for ran in reversed(run.calls):
        sees = any(read.shape[-len(size) :] == size and not read.integer for read in ran.reads)
        if sees and not any(read.integer for read in ran.reads) and not any(one.holds(ran) for one in found):
            found.append(ran)
    return [ran.name for ran in found] or [""]


def inside(name: str, parts: Collection[str]) -> bool:
    """Whether a dotted name is that of one of these parts, or lies in one of them."""
    return any(not part or name == part or name.startswith(f"{part}.") for part in parts)
