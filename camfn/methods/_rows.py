"""Many perturbed runs of one function, a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

ChunkSize: TypeAlias = "int | Literal['auto'] | None"
"""Rows at once: a number, None for all, or "auto" for what a byte budget allows."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (rows done, rows in all) after each chunk."""


def map_rows(
    function: Callable[[Tensor], Tensor],
    rows: Tensor,
    *,
    chunk_size: ChunkSize = 32,
    progress: Progress | None = None,
) -> Tensor:
    """Run `vmap(function)` over the first dimension of `rows`, a chunk at a time.

    Args:
        function: one row to a tensor, here (B,) scores.
        rows: (R, ...), for instance channel indices.
        chunk_size: rows at once.
        progress: told after each chunk.

    Returns:
        (R, B).
    """
    run = torch.vmap(function)
    if chunk_size is None or chunk_size == "auto":
        return torch.as_tensor(run(rows))
    done = []
    for start in range(0, rows.shape[0], chunk_size):
        done.append(run(rows[start : start + chunk_size]))
        if progress:
            progress(min(start + chunk_size, rows.shape[0]), rows.shape[0])
    return torch.cat(done)
