"""Which engine runs many rows: one larger batch, `torch.vmap`, or a loop; a trial on two rows decides."""

# tested in tests/shared/test_engines.py

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .checks import holds_data
from .chunks import ChunkSize, Progress, chunked, measured
from .errors import CamfnError
from .levels import writes_graph
from .maps import same_numbers
from .watching import Watching


def readable(*tensors: Tensor) -> bool:
    """Whether Python may read the data: there is some, and it is not inside a transform of `torch.func`."""
    if torch.compiler.is_compiling():
        return False
    return not any(torch._C._functorch.is_functorch_wrapped_tensor(x) or not holds_data(x) for x in tensors)


def run_each(
    function: Callable[[Tensor], Tensor], rows: Tensor, chunk_size: ChunkSize, progress: Progress | None
) -> Tensor:
    """Run a function of one row on all rows: under `vmap` if that gives what the function gives one row.

    Otherwise, as where the function reads data, in a loop. The trial runs two rows under `vmap` and the second of them
    alone, and keeps what it computes: it costs one row if `vmap` is right. Where no data can be read, `vmap` runs all
    rows.
    """
    each = torch.vmap(function)
    loop = lambda part: torch.stack([function(row) for row in part])  # noqa: E731
    if writes_graph():
        return chunked(loop, rows, chunk_size, progress, "one by one")
    if not readable(rows):
        return chunked(each, rows, chunk_size, progress, "vmapped")
    if len(rows) == 1:
        return chunked(loop, rows, chunk_size, progress, "one by one")
    two = rows[:2]
    together, size = _tried(each, two, chunk_size)
    # an error here is one of the function, and not of `vmap`
    last = function(two[-1])
    if together is not None and _same(last, together[-1]):
        return chunked(each, rows, size, progress, "vmapped", together)
    alone = torch.stack([*(function(row) for row in two[:-1]), last])
    if not _same(alone[0], function(rows[0])):
        raise CamfnError(
            "the scores of one input differ from run to run: the network draws random numbers, so that changed inputs "
            "cannot be compared. Call model.eval() first"
        )
    return chunked(loop, rows, chunk_size, progress, "one by one", alone)


def _tried(each: Callable[[Tensor], Tensor], two: Tensor, chunk_size: ChunkSize) -> tuple[Tensor | None, ChunkSize]:
    """Run two rows under `vmap`, None where it fails; and return how many to run at once, which "auto" measures.

    The refusal of `vmap` to draw random numbers is raised.
    """
    try:
        if chunk_size != 1:
            try:
                return measured(each, two) if chunk_size == "auto" else (each(two), chunk_size)
            except torch.OutOfMemoryError:
                pass  # one row may fit
        return torch.cat([each(row[None]) for row in two]), 1
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # any error counts, for Python code fails in its own ways on a tensor that cannot be read
        if "randomness" in str(error):
            raise
        return None, 1


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two results agree; True where they cannot be read."""
    if not readable(one, other):
        return True
    return same_numbers(one, other) if one.is_floating_point() else torch.equal(one, other)


def folds(score_many: Callable[[Tensor], Tensor], scores: Callable[[Tensor], Tensor], batch: Tensor) -> bool:
    """Whether `score_many` gives batches the scores that they have one by one, whatever the other batches hold.

    A third batch of NaN shows that a batch depends on another, be it ever so little. What Python reads of a batch it
    would read of all at once.
    """
    if writes_graph():
        return True
    if not readable(batch):
        return False
    # the second batch is far from the first, so that a network that mixes samples (a mean over the batch) disagrees;
    # every other channel is zero, so that one that counts zeros does
    other = batch.flip(1) / 2 + _ripple(batch)
    other[:, ::2] = 0
    with torch.no_grad():
        with Watching(batch) as watching:
            first = scores(batch)
        # what a network keeps must not be NaN; numbers may be drawn and not used
        if watching.reads or watching.writes or (watching.draws and not torch.equal(first, scores(batch))):
            return False
        alone = torch.stack([first, scores(other)])
        try:
            together = score_many(torch.stack([batch, other, torch.full_like(batch, torch.nan)]))
        except Exception:
            # the network has a fixed batch size, fails on several or finds no memory for them; its own errors were
            # raised above, on one batch
            return False
    if together.shape != (3, *first.shape) or not first.is_floating_point() or not readable(alone, together):
        return False
    return same_numbers(alone, together[:2])


def _ripple(batch: Tensor) -> Tensor:
    """Return numbers that differ from place to place, up to a quarter of the largest in the batch, or of 1."""
    if not batch.numel():
        return batch
    scale = batch.nan_to_num(0.0, 0.0, 0.0).abs().amax()
    angles = torch.arange(batch.numel(), device=batch.device, dtype=torch.float32).reshape(batch.shape)
    return angles.sin().abs().to(batch.dtype) * torch.where(scale == 0, 1.0, scale).to(batch.dtype) / 4
