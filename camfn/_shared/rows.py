"""Many perturbed runs of one function, a chunk at a time."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from .._shared.errors import CamfnError
from .maps import same_numbers

ChunkSize: TypeAlias = "int | Literal['auto'] | None"
"""Rows at once: a number, None for all, or "auto" for what a byte budget allows."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (rows done, rows in all) after each chunk."""

_UNMEASURED = 32
"""Rows at once for "auto" while compiling, when nothing can be measured."""

_LARGEST = 32 * 2**20
"""Bytes of one tensor on a CPU: glibc maps larger ones anew each time, and the page faults cost more than it saves."""


def map_rows(
    function: Callable[[Tensor], Tensor],
    rows: Tensor,
    *,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Run `vmap(function)` over the first dimension of `rows`, a chunk at a time.

    Where an accelerator runs out of memory, the chunk is halved, with one warning a call.

    Args:
        function: one row to a tensor, here (B,) scores.
        rows: (R, ...), for instance channel indices.
        chunk_size: rows at once: a number, None for all, or "auto", which measures the first row and stays under a
            quarter of the free memory (32 while compiling).
        progress: told (rows done, R) after each chunk.

    Returns:
        (R, B).

    Raises:
        CamfnError: for no rows, or another `chunk_size`.

    Example:
        >>> map_rows(lambda row: row.sum()[None], torch.ones(5, 3), chunk_size=2, progress=print)[:, 0]
        2 5
        4 5
        5 5
        tensor([3., 3., 3., 3., 3.])
    """
    return _chunked(torch.vmap(function), rows, chunk_size, progress)


def map_scores(
    what: str,
    scores: Callable[[Tensor], Tensor],
    change: Callable[[Tensor], Tensor],
    rows: Tensor,
    *,
    together: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor] | None = None,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Run `scores(change(row))` for each row, as one larger batch where that is known to be the same.

    `scores.fold`, where there is one, takes n batches, (n, B, ...), and returns (n, B). It spares the network `vmap`,
    and is taken if on two batches that differ much it agrees with running them one by one. Where data cannot be
    read (while compiling, under `vmap`), and without `fold`, it is `map_rows`.

    Args:
        what: name of `scores` in an error.
        scores: a batch (B, ...) to (B,).
        change: one row to a batch (B, ...); must run under `torch.vmap`.
        rows: (R, ...).
        together: given `scores.fold` and some rows, what the fold makes of them; None is
            `fold(vmap(change)(rows))`.
        chunk_size: rows at once, as in `map_rows`.
        progress: told (rows done, R) after each chunk.

    Returns:
        (R, B).

    Raises:
        CamfnError: if `scores` does not return one score a sample; for no rows, or another `chunk_size`.

    Example:
        >>> images = torch.ones(2, 3)
        >>> map_scores("sum", lambda x: x.sum(1), lambda row: images * row, torch.tensor([1.0, 2.0]))
        tensor([[3., 3.],
                [6., 6.]])
    """
    fold = getattr(scores, "fold", None)

    def checked(changed: Tensor) -> Tensor:
        return one_score(what, scores(changed), changed.shape[0])

    if fold is None or not _agrees(fold, checked, change(rows[0])):
        return map_rows(lambda row: checked(change(row)), rows, chunk_size=chunk_size, progress=progress)
    if together is not None:
        return _chunked(partial(together, fold), rows, chunk_size, progress)
    stacked = torch.vmap(change)
    return _chunked(lambda part: fold(stacked(part)), rows, chunk_size, progress)


def one_score(what: str, scores: Any, batch: int) -> Tensor:
    """Refuse anything but one score a sample."""
    if isinstance(scores, Tensor) and tuple(scores.shape) == (batch,):
        return scores
    got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
    raise CamfnError(
        f"{what} must return one score a sample, shape ({batch},); it returned {got}. "
        "For example lambda a: network_after(a)[:, 281]"
    )


def readable(*tensors: Tensor) -> bool:
    """Whether the data may be read in Python: not while compiling, nor inside a transform of `torch.func`."""
    if torch.compiler.is_compiling():
        return False
    return not any(torch._C._functorch.is_functorch_wrapped_tensor(x) for x in tensors)


def constant(*tensors: Tensor) -> bool:
    """Whether the data may be read, and no derivative in it is being taken: equal values may then stand for another."""
    if not readable(*tensors):
        return False
    tracked = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return not tracked and not any(_has_tangent(x) for x in tensors)


def _has_tangent(x: Tensor) -> bool:
    return torch.autograd.forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]


def _chunked(run: Callable[[Tensor], Tensor], rows: Tensor, chunk_size: ChunkSize, progress: Progress | None) -> Tensor:
    total = rows.shape[0]
    if not total:
        raise CamfnError("expected at least one row to run, got none")
    size = _size(chunk_size, total)
    done: list[Tensor] = []
    start, halved = 0, False
    while start < total:
        try:
            if size is None:
                part, size = _measured(run, rows)
            else:
                part = run(rows[start : start + size])
        except torch.OutOfMemoryError:
            if size is None or size == 1:
                raise
            size = (size + 1) // 2
            if not halved:
                warnings.warn(f"out of memory: going on with {size} rows at once", stacklevel=4)
            halved = True
            continue
        done.append(part)
        start += part.shape[0]
        if progress:
            progress(start, total)
    return torch.cat(done)


def _size(chunk_size: ChunkSize, total: int) -> int | None:
    """Rows at once; None for what has to be measured."""
    if chunk_size is None:
        return total
    if chunk_size == "auto":
        return _UNMEASURED if torch.compiler.is_compiling() else None
    if isinstance(chunk_size, int) and not isinstance(chunk_size, bool) and chunk_size >= 1:
        return min(chunk_size, total)
    raise CamfnError(f"chunk_size: expected a number of rows from 1, None for all, or 'auto', got {chunk_size!r}")


def _measured(run: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, int]:
    """Run the first row; return what it gave, and how many to run at once."""
    with _Allocated() as allocated:
        first = run(rows[:1])
    fits = _free(rows.device) // 4 // max(1, allocated.peak)
    if rows.device.type == "cpu":
        fits = min(fits, _LARGEST // max(1, allocated.largest))
    return first, max(1, min(rows.shape[0], fits))


class _Allocated(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes alive at once among those that operations allocate, on any device; not their scratch space."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: dict[int, int] = {}
        self.live = self.peak = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage(leaf)._cdata for leaf in pytree.tree_leaves((args, kwargs)) if _is_strided(leaf)}
        out = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(out):
            if _is_strided(leaf):
                storage = _storage(leaf)
                if storage._cdata not in given and storage._cdata not in self.sizes:
                    self._add(storage)
        return out

    def _add(self, storage: Any) -> None:
        size = self.sizes[storage._cdata] = storage.nbytes()
        self.live += size
        self.peak, self.largest = max(self.peak, self.live), max(self.largest, size)
        # at exit of the interpreter nobody counts any more
        weakref.finalize(storage, self._free, storage._cdata).atexit = False

    def _free(self, key: int) -> None:
        self.live -= self.sizes.pop(key)


def _is_strided(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.layout is torch.strided


def _storage(leaf: Tensor) -> Any:
    return leaf.untyped_storage()


def _free(device: torch.device) -> int:
    """Free bytes of a device; 2 GiB where it does not say."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    if device.type == "cpu" and "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", ()):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 2 * 2**30


def _agrees(fold: Callable[[Tensor], Tensor], scores: Callable[[Tensor], Tensor], one: Tensor) -> bool:
    """Whether two batches at once give what they give one by one."""
    if not readable(one):
        return False
    # far from the first: what mixes samples, as a mean over the batch does, shows
    other = one.flip(1) / 2
    with torch.no_grad():
        alone = torch.stack([scores(one), scores(other)])
        try:
            together = fold(torch.stack([one, other]))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, IndexError):
            # a batch size that is built in; what else may be wrong has shown above, on one batch
            return False
    if together.shape != alone.shape or not alone.is_floating_point() or not readable(alone, together):
        return False
    return same_numbers(alone, together)
