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
from .maps import agreement, same_numbers
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


def steady(scores: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor | None:
    """Return the scores of a batch; None if the network reads its numbers, keeps them, or draws some that it uses.

    What Python reads of a batch it would read of all at once, and what a network keeps must not be NaN.
    """
    if not readable(batch):
        return None
    with torch.no_grad():
        with Watching(batch) as watching:
            found = scores(batch)
        if watching.reads or watching.writes or (watching.draws and not torch.equal(found, scores(batch))):
            return None
    return found if found.is_floating_point() and readable(found) else None


def folds(
    score_many: Callable[[Tensor], Tensor],
    scores: Callable[[Tensor], Tensor],
    batch: Tensor,
    known: Tensor,
    chunk_size: ChunkSize,
) -> bool:
    """Whether `score_many` gives batches the scores that they have one by one, whatever the other batches hold.

    Two batches are far from the first, so that a network that mixes samples (a mean over the batch) disagrees. In one
    of them every other channel is zero, in the other the channels between these, so that a network that counts zeros
    disagrees. A batch of NaN shows that a batch depends on another, be it ever so little. All run at once, or
    `chunk_size` at a time, two at least.

    Args:
        score_many: n batches (n, B, ...) to (n, B).
        scores: one batch (B, ...) to (B,).
        batch: the first.
        known: its scores.
        chunk_size: batches at once.
    """
    others = [batch.flip(1) / 2 + _ripple(batch) for _ in range(2)]
    for start, other in enumerate(others):
        other[:, start::2].zero_()
    with torch.no_grad():
        alone = [known, *map(scores, others)]
        batches = [batch, *others, torch.full_like(batch, torch.nan)]
        size = max(2, chunk_size) if isinstance(chunk_size, int) else len(batches)
        for chosen in _beside_the_last(len(batches), size):
            try:
                together = score_many(torch.stack([batches[i] for i in chosen]))
            except Exception:
                # the network has a fixed batch size, fails on several or finds no memory for them; its own errors were
                # raised on one batch
                return False
            if together.shape != (len(chosen), *known.shape) or not readable(together):
                return False
            finite = [(place, i) for place, i in enumerate(chosen) if i < len(alone)]
            expected = torch.stack([alone[i] for _, i in finite])
            if not same_numbers(expected, torch.stack([together[place] for place, _ in finite])):
                return False
    return True


def _beside_the_last(count: int, size: int) -> list[list[int]]:
    """Choose at most `size` of so many batches for each run, such that each is with the first, and with the last."""
    first, *middle, last = range(count)
    if size >= count:
        return [[first, *middle, last]]
    return [[first, i] for i in middle] + [[i, last] for i in (first, *middle)]


class Guarded:
    """Scores n batches as one, with one more beside them whose scores are known, and notes whether these stay.

    A network that counts something over the batch may pass every trial, until a row holds what it counts.

    Args:
        score_many: n batches (n, B, ...) to (n, B).
        batch: the batch beside the others.
        known: its scores alone.
        guards: whether to; where a chunk is so small, nothing is beside the others.
    """

    FEWEST = 3
    """Beside fewer batches the one more would cost too much."""

    def __init__(
        self, score_many: Callable[[Tensor], Tensor], batch: Tensor, known: Tensor, guards: bool = True
    ) -> None:
        self.score_many, self.batch, self.known = score_many, batch.detach(), known.detach()
        self.guards = guards
        self.found: dict[int, list[Tensor]] = {}

    def __call__(self, batches: Tensor) -> Tensor:
        """Score the batches."""
        if len(batches) < self.FEWEST or not self.guards:
            return self.score_many(batches)
        found = self.score_many(_beside(batches, self.batch[None].to(batches.dtype)))
        self.found.setdefault(len(batches), []).append(found[-1].detach())
        return found[:-1]

    @property
    def held(self) -> bool:
        """Whether the known scores stayed: to `kept_digits`, and among as many batches to the last digits."""
        if not self.found:
            return True
        kept = []
        for scores in map(torch.stack, self.found.values()):
            kept.append(agreement(self.known.expand_as(scores), scores))
            kept.append(agreement(scores[:1].expand_as(scores), scores, digits=1.0))
        return bool(torch.stack(kept).all())


def _beside(batches: Tensor, more: Tensor) -> Tensor:
    """Join batches in the order of the first ones' memory, by which a quantized network may round."""
    strides = batches.stride()
    order = sorted(range(batches.ndim), key=lambda axis: -strides[axis])
    joined = torch.cat([batches.permute(order), more.permute(order)], order.index(0))
    return joined.permute([order.index(axis) for axis in range(batches.ndim)])


def _ripple(batch: Tensor) -> Tensor:
    """Return numbers that differ from place to place, up to a quarter of the largest in the batch, or of 1."""
    if not batch.numel():
        return batch
    scale = batch.nan_to_num(0.0, 0.0, 0.0).abs().amax()
    angles = torch.arange(batch.numel(), device=batch.device, dtype=torch.float32).reshape(batch.shape)
    return angles.sin().abs().to(batch.dtype) * torch.where(scale == 0, 1.0, scale).to(batch.dtype) / 4
