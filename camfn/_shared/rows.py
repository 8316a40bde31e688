"""Run one function on many rows (perturbed variants of a batch), a chunk of rows at a time."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from .._shared.errors import CamfnError
from .checks import check_chunk_size, holds_data, is_concrete, progress_bar
from .maps import same_numbers

ChunkSize: TypeAlias = "int | Literal['auto'] | None"
"""Rows at once: a number, None for all, or "auto" for as many as a byte budget allows."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (rows done, rows in all) after each chunk."""

_UNMEASURED = 32
"""Rows at once for "auto" while a graph is traced, and for fake and meta tensors: no memory can be measured then."""

_LARGEST = 32 * 2**20
"""The largest tensor, in bytes, that "auto" lets a chunk make on a CPU.

glibc returns larger blocks to the kernel when they are freed, up to this limit (`DEFAULT_MMAP_THRESHOLD_MAX`), and maps
new pages for the next chunk. The page faults of these mappings cost more time than a larger chunk saves.
"""


def run_in_chunks(
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
            quarter of the free memory (32 while compiling or tracing).
        progress: called with (rows done, R) after each chunk.

    Returns:
        (R, B).

    Raises:
        CamfnError: for no rows, or another `chunk_size`.

    Example:
        >>> run_in_chunks(lambda row: row.sum()[None], torch.ones(5, 3), chunk_size=2, progress=print)[:, 0]
        2 5
        4 5
        5 5
        tensor([3., 3., 3., 3., 3.])
    """
    return _chunked(torch.vmap(function), rows, chunk_size, progress)


def score_variants(
    what: str,
    scores: Callable[[Tensor], Tensor],
    change: Callable[[Tensor], Tensor],
    rows: Tensor,
    *,
    run_many: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor] | None = None,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Score each variant `change(row)` of a batch; several variants run as one larger batch where the scores agree.

    A function `scores` may have a method `score_many`: it takes n batches, (n, B, ...), as one and returns (n, B); and
    a method `rows_at_once`: it takes B and returns how many rows "auto" is to run at once, or None.
    `score_many` avoids `vmap` over the network, which is slower. It is used if it gives two very different batches the
    scores that they have one by one. Otherwise, and where data cannot be read (while compiling, under `vmap`), the
    rows run by `run_in_chunks`.

    Args:
        what: the name of `scores` in an error.
        scores: a batch (B, ...) to (B,).
        change: one row to a batch (B, ...); must run under `torch.vmap`.
        rows: (R, ...).
        run_many: takes `scores.score_many` and n rows, and returns their scores (n, B); None is
            `score_many(vmap(change)(rows))`.
        chunk_size: rows at once, as in `run_in_chunks`.
        progress: called with (rows done, R) after each chunk.

    Returns:
        (R, B).

    Raises:
        CamfnError: if `scores` does not return one score a sample; for no rows, or another `chunk_size`.

    Example:
        >>> images = torch.ones(2, 3)
        >>> score_variants("sum", lambda x: x.sum(1), lambda row: images * row, torch.tensor([1.0, 2.0]))
        tensor([[3., 3.],
                [6., 6.]])
    """
    score_many = getattr(scores, "score_many", None)

    def checked(changed: Tensor) -> Tensor:
        """Score one batch, and refuse anything but one score a sample."""
        return one_score(what, scores(changed), changed.shape[0])

    if score_many is None or not _agrees(score_many, checked, change(rows[0])):
        with refusing_chance(what, scores):
            return run_in_chunks(lambda row: checked(change(row)), rows, chunk_size=chunk_size, progress=progress)
    rows_at_once = getattr(scores, "rows_at_once", None)
    if rows_at_once is not None and chunk_size == "auto":
        chunk_size = rows_at_once(change(rows[0]).shape[0]) or "auto"
    if run_many is not None:
        return _chunked(partial(run_many, score_many), rows, chunk_size, progress)
    change_each = torch.vmap(change)
    return _chunked(lambda part: score_many(change_each(part)), rows, chunk_size, progress)


@contextmanager
def refusing_chance(what: str, scores: Any) -> Iterator[None]:
    """Turn the refusal of `vmap` to draw random numbers into one that says which module draws and what to call.

    `scores` may have a method `drawing`, which names the module.
    """
    try:
        yield
    except RuntimeError as error:
        if "randomness" not in str(error):
            raise
        drawing = getattr(scores, "drawing", str)()
        place = f" in {drawing}" if drawing else ""
        raise CamfnError(
            f"{what} draws random numbers{place}, so that changed inputs cannot be compared. Call model.eval() first"
        ) from error


def score_as_one_batch(run: Callable[[Tensor], Any], score: Callable[[Any], Tensor], batches: Tensor) -> Tensor:
    """Run n batches as one larger batch, and score the outputs of each batch by itself.

    Args:
        run: a batch (n * B, ...) to outputs; those whose first dimension is n * B are split into n batches, the others
            are given to every call of `score`.
        score: the outputs of one batch to (B,); must run under `torch.vmap`.
        batches: (n, B, ...).

    Returns:
        (n, B).

    Example:
        >>> score_as_one_batch(lambda x: 2 * x, lambda outputs: outputs.sum(1), torch.ones(3, 2, 4))
        tensor([[8., 8.],
                [8., 8.],
                [8., 8.]])
    """
    shape, total = batches.shape[:2], batches.shape[0] * batches.shape[1]
    leaves, spec = pytree.tree_flatten(run(batches.flatten(0, 1)))
    per_sample = [isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == total for leaf in leaves]
    split = [leaf.unflatten(0, shape) if splits else leaf for leaf, splits in zip(leaves, per_sample)]
    score_each = torch.vmap(
        lambda *outputs: score(pytree.tree_unflatten(outputs, spec)),
        in_dims=tuple(0 if splits else None for splits in per_sample),
    )
    return torch.as_tensor(score_each(*split))


def row_of(x: Tensor, index: Tensor, dim: int = 0) -> Tensor:
    """Return `x[index]` along a dimension for one index, a tensor (); the brackets would read it, and so wait for it.

    Example:
        >>> row_of(torch.tensor([[1, 2], [3, 4]]), torch.tensor(1))
        tensor([3, 4])
    """
    return x.index_select(dim, index.reshape(1)).squeeze(dim)


def one_score(what: str, scores: Any, batch: int) -> Tensor:
    """Refuse anything but one score a sample."""
    if isinstance(scores, Tensor) and tuple(scores.shape) == (batch,):
        return scores
    got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
    raise CamfnError(
        f"{what} must return one score a sample, shape ({batch},); it returned {got}. "
        "For example lambda a: network_after(a)[:, 281]"
    )


def no_nan(what: str, scores: Tensor, *given: Tensor) -> Tensor:
    """Refuse NaN scores (B, ...) of samples whose tensors in `given`, each (B, ...), are finite.

    A sample whose given numbers contain a NaN keeps the NaN in its scores. Nothing is checked where the data cannot be
    read.
    """
    lost = scores[:, None].flatten(1).isnan().any(1)
    for x in given:
        lost = lost & x.flatten(1).isfinite().all(1)
    if is_concrete(lost) and bool(lost.any()):
        finite = ", whose activations and inputs are finite" if given else ""
        raise CamfnError(
            f"{what} returned NaN for sample {int(lost.int().argmax())}{finite}. Look at what the network returns for "
            "perturbed inputs: a logarithm of 0, a division by a norm of 0, half precision?"
        )
    return scores


def readable(*tensors: Tensor) -> bool:
    """Whether Python may read the data: there is some, and it is not inside a transform of `torch.func`."""
    if torch.compiler.is_compiling():
        return False
    return not any(torch._C._functorch.is_functorch_wrapped_tensor(x) or not holds_data(x) for x in tensors)


def constant(*tensors: Tensor) -> bool:
    """Whether Python may read the data and no derivative is taken in it: duplicates may be computed once and reused."""
    if not readable(*tensors):
        return False
    tracked = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return not tracked and not any(_has_tangent(x) for x in tensors)


def _has_tangent(x: Tensor) -> bool:
    """Whether forward-mode differentiation follows the tensor."""
    return torch.autograd.forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]


def _chunked(run: Callable[[Tensor], Tensor], rows: Tensor, chunk_size: ChunkSize, progress: Progress | None) -> Tensor:
    """Concatenate `run(part)` over parts of the rows; halve the parts where an accelerator runs out of memory."""
    progress_bar("perturbed runs", progress)
    total = rows.shape[0]
    if not total:
        raise CamfnError("expected at least one row to run, got none")
    size = _size(chunk_size, rows)
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


def _size(chunk_size: ChunkSize, rows: Tensor) -> int | None:
    """Return the rows at once, or None if they must be measured."""
    total = rows.shape[0]
    if chunk_size is None:
        return total
    if isinstance(chunk_size, str) and chunk_size == "auto":
        return None if holds_data(rows) else _UNMEASURED
    check_chunk_size("perturbed runs", chunk_size)
    return min(chunk_size, total)


def _measured(run: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, int]:
    """Run the first row; return its result, and how many rows to run at once."""
    with _Allocated() as allocated:
        first = run(rows[:1])
    fits = _free(rows.device) // 4 // max(1, allocated.peak)
    if rows.device.type == "cpu":
        fits = min(fits, _LARGEST // max(1, allocated.largest))
    return first, max(1, min(rows.shape[0], fits))


class _Allocated(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that are alive among the tensors that operations make, on any device.

    A chunk of n rows needs about n times the peak of one row, so that the peak of the first row tells how many rows fit
    the memory. PyTorch reports the peak of a CUDA device but not of a CPU; this mode sees every operation below
    autograd and `vmap`, takes the storages of its results that are new, and uncounts a storage when it is freed. The
    scratch space inside an operation is not seen.

    Attributes:
        sizes: bytes of each storage that is alive, by its address.
        live: bytes that are alive now.
        peak: the largest `live` so far.
        largest: bytes of the largest single storage.
    """

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
        """Count a new storage until it is freed."""
        size = self.sizes[storage._cdata] = storage.nbytes()
        self.live += size
        self.peak, self.largest = max(self.peak, self.live), max(self.largest, size)
        # the finalizer need not run when the interpreter exits
        weakref.finalize(storage, self._free, storage._cdata).atexit = False

    def _free(self, key: int) -> None:
        """Uncount a storage."""
        self.live -= self.sizes.pop(key)


def _is_strided(leaf: Any) -> bool:
    """Whether a value is a dense tensor, which has a storage."""
    return isinstance(leaf, Tensor) and leaf.layout is torch.strided


def _storage(leaf: Tensor) -> Any:
    """Return the memory of a tensor, which its views share."""
    return leaf.untyped_storage()


def _free(device: torch.device) -> int:
    """Return the free bytes of a device, or 2 GiB if the device does not report them."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    if device.type == "cpu" and "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", ()):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 2 * 2**30


def _agrees(score_many: Callable[[Tensor], Tensor], scores: Callable[[Tensor], Tensor], batch: Tensor) -> bool:
    """Whether `score_many` gives two batches the scores that they have one by one."""
    if not readable(batch):
        return False
    # the second batch is far from the first, so that a network that mixes samples (a mean over the batch) disagrees
    other = batch.flip(1) / 2 + _ripple(batch)
    with torch.no_grad():
        alone = torch.stack([scores(batch), scores(other)])
        try:
            together = score_many(torch.stack([batch, other]))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, IndexError):
            # the network has a fixed batch size; any other error was raised above, on one batch
            return False
    if together.shape != alone.shape or not alone.is_floating_point() or not readable(alone, together):
        return False
    return same_numbers(alone, together)


def _ripple(batch: Tensor) -> Tensor:
    """Return numbers that differ from place to place, up to a quarter of the largest in the batch, or of 1."""
    if not batch.numel():
        return batch
    scale = batch.nan_to_num(0.0, 0.0, 0.0).abs().amax()
    angles = torch.arange(batch.numel(), device=batch.device, dtype=torch.float32).reshape(batch.shape)
    return angles.sin().abs().to(batch.dtype) * torch.where(scale == 0, 1.0, scale).to(batch.dtype) / 4
