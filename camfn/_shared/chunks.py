"""Rows a chunk at a time: as many as memory allows, and fewer where it runs out."""

# tested in tests/shared/test_rows.py

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from .checks import check_chunk_size, holds_data, progress_bar
from .errors import CamfnError
from .memory import Allocated, free_bytes

ChunkSize: TypeAlias = "int | Literal['auto'] | None"
"""Rows at once: a number, None for all, or "auto" for as many as a byte budget allows."""

Progress: TypeAlias = Callable[..., None]
"""Called with (rows done, rows in all) after each chunk.

The run tells one that has a keyword `engine` how the rows run: "folded", "vmapped" or "one by one".
"""

Engine: TypeAlias = Literal["folded", "vmapped", "one by one"]
"""How rows run: as one larger batch, under `torch.vmap`, or in a loop."""

_UNMEASURED = 32
"""Rows at once for "auto" while a graph is traced, and for fake and meta tensors: no memory can be measured then."""

_LARGEST = 16 * 2**20
"""The largest tensor, in bytes, that "auto" lets a chunk make on a CPU.

glibc returns blocks of twice this size to the kernel when they are freed (`DEFAULT_MMAP_THRESHOLD_MAX`), and maps new
pages for the next chunk. The page faults of these mappings cost more time than a larger chunk saves. A run may see an
unchanged batch beside the chunk, so that its tensors are larger than those measured.
"""


def chunked(
    run: Callable[[Tensor], Tensor],
    rows: Tensor,
    chunk_size: ChunkSize,
    progress: Progress | None,
    engine: Engine,
    done: Tensor | None = None,
) -> Tensor:
    """Concatenate `run(part)` over parts of the rows; halve the parts where an accelerator runs out of memory.

    `done` holds the results of the first rows, if there are any.
    """
    size = 1 if engine == "one by one" else _size(chunk_size, rows)
    tell = telling(progress, engine)
    found = [] if done is None else [done]
    start, halved, total = sum(map(len, found)), False, rows.shape[0]
    if found:
        tell(start, total)
    while start < total:
        try:
            if size is None:
                part, size = measured(run, rows[start : start + 1])
            else:
                part = run(rows[start : start + size])
        except torch.OutOfMemoryError:
            if size is None or size == 1:
                raise
            size = (size + 1) // 2
            if not halved:
                warnings.warn(f"out of memory: going on with {size} rows at once", stacklevel=5)
            halved = True
            continue
        found.append(part)
        start += part.shape[0]
        tell(start, total)
    return torch.cat(found)


def check_rows(rows: Tensor, chunk_size: ChunkSize, progress: Progress | None) -> None:
    """Refuse no rows, and what is no size of a chunk or cannot be told the progress."""
    progress_bar("perturbed runs", progress)
    check_chunk_size("perturbed runs", chunk_size)
    if not rows.shape[0]:
        raise CamfnError("expected at least one row to run, got none")


def telling(progress: Progress | None, engine: Engine) -> Callable[[int, int], None]:
    """Return the function of (done, total) that calls `progress`, with the engine if it has a keyword of that name."""
    if progress is None:
        return lambda done, total: None
    if not torch.compiler.is_compiling() and _takes_engine(progress):
        return partial(progress, engine=engine)
    return progress


def _takes_engine(progress: Progress) -> bool:
    """Whether a function has the keyword `engine`."""
    try:
        return "engine" in signature(progress).parameters
    except (TypeError, ValueError):
        return False


def _size(chunk_size: ChunkSize, rows: Tensor) -> int | None:
    """Return the rows at once, or None if they must be measured."""
    total = rows.shape[0]
    if chunk_size is None:
        return total
    if isinstance(chunk_size, str) and chunk_size == "auto":
        return None if holds_data(rows) else _UNMEASURED
    return min(chunk_size, total)


def measured(run: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, int]:
    """Run some rows; return their results, and how many rows to run at once."""
    with Allocated() as allocated:
        found = run(rows)
    count = rows.shape[0]
    fits = count * free_bytes(rows.device) // 4 // max(1, allocated.peak)
    if rows.device.type == "cpu":
        fits = min(fits, count * _LARGEST // max(1, allocated.largest))
    return found, max(1, fits)
