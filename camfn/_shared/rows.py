"""Run one function on many rows (perturbed variants of a batch), a chunk of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .checks import is_concrete
from .chunks import ChunkSize as ChunkSize
from .chunks import Progress as Progress
from .chunks import check_rows, chunked
from .engines import Guarded, folds, run_each, steady
from .engines import readable as readable
from .errors import CamfnError
from .levels import laid_out, writes_graph


def run_in_chunks(
    function: Callable[[Tensor], Tensor],
    rows: Tensor,
    *,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Run a function over the first dimension of `rows`, a chunk at a time: under `vmap`, or row by row.

    `vmap` runs the rows if a trial shows that it gives a row what that row has alone. Otherwise a loop runs them,
    which any function allows. Where an accelerator runs out of memory, the chunk is halved, with one warning a call.

    Args:
        function: one row to a tensor, here (B,) scores.
        rows: (R, ...), for instance channel indices.
        chunk_size: rows at once: a number, None for all, or "auto", which measures the first row and stays under a
            quarter of the free memory (32 while compiling or tracing).
        progress: called with (rows done, R) after each chunk, and with `engine="vmapped"` or `"one by one"` if it has
            that keyword.

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
    check_rows(rows, chunk_size, progress)
    return run_each(function, rows, chunk_size, progress)


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
    a method `rows_at_once`: it takes B and returns how many rows "auto" is to run at once, or None; and a method
    `tried_once`: it takes the first changed batch, the chunk size and the function that tries on a batch whether
    batches may run as one, and returns what this function returns, or returned before, of a batch of that shape.
    `score_many` avoids `vmap` over the network, which is slower. It is used if it gives very different batches the
    scores that they have one by one, and if the scores of one more batch among those of each run stay what they are.
    Otherwise the rows run by `run_in_chunks`: under `vmap`, or one by one. Where data
    cannot be read (while compiling, under `vmap`), `vmap` runs them.

    Args:
        what: the name of `scores` in an error.
        scores: a batch (B, ...) to (B,).
        change: one row to a batch (B, ...); must run under `torch.vmap`.
        rows: (R, ...).
        run_many: takes `scores.score_many` and n rows, and returns their scores (n, B); None is
            `score_many(vmap(change)(rows))`.
        chunk_size: rows at once, as in `run_in_chunks`.
        progress: called with (rows done, R) after each chunk, and with `engine`, one of "folded", "vmapped" and
            "one by one", if it has that keyword.

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

    check_rows(rows, chunk_size, progress)
    run = run_many or (lambda score_many, part: score_many(torch.vmap(change)(part)))
    if score_many is not None and writes_graph():
        return chunked(partial(run, score_many), rows, chunk_size, progress, "folded")
    first = change(rows[0])
    tried, known, together = first, None, False
    if score_many is not None:
        trial = partial(_tried, score_many, checked, chunk_size)
        once = getattr(scores, "tried_once", None)
        tried, known, together = trial(first) if once is None else once(first, chunk_size, trial)
    if score_many is not None and known is not None and chunk_size == 1:
        return chunked(partial(run, score_many), rows, 1, progress, "one by one")
    if score_many is not None and known is not None and together:
        rows_at_once = getattr(scores, "rows_at_once", None)
        if rows_at_once is not None and chunk_size == "auto":
            chunk_size = rows_at_once(first.shape[0]) or "auto"
        fits = not isinstance(chunk_size, int) or chunk_size > Guarded.FEWEST
        guarded = Guarded(score_many, tried, known, fits)
        size = chunk_size - 1 if isinstance(chunk_size, int) and fits else chunk_size
        found = chunked(partial(run, guarded), rows, size, progress, "folded")
        if guarded.held:
            return found
    with refusing_chance(what, scores):
        return run_each(lambda row: checked(laid_out(change(row))), rows, chunk_size, progress)


class Trial(NamedTuple):
    """What a trial showed: a batch, its scores, and whether batches may run as one.

    The scores are None where the network reads the batch, keeps it or draws.
    """

    batch: Tensor
    known: Tensor | None
    together: bool


def _tried(
    score_many: Callable[[Tensor], Tensor], scores: Callable[[Tensor], Tensor], chunk_size: ChunkSize, batch: Tensor
) -> Trial:
    """Score a batch, and try whether `score_many` scores several as `scores` does each; not where one runs at once."""
    known = steady(scores, batch)
    together = known is not None and chunk_size != 1 and folds(score_many, scores, batch, known, chunk_size)
    return Trial(batch, known, together)


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
            are given to every call of `score`. A list of n * B dicts, one an image, is split into n lists.
        score: the outputs of one batch to (B,); must run under `torch.vmap`, but for lists.
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
    outputs = run(batches.flatten(0, 1))
    if total and isinstance(outputs, list) and len(outputs) == total and all(isinstance(x, dict) for x in outputs):
        return torch.stack([score(outputs[i : i + shape[1]]) for i in range(0, total, shape[1])])
    leaves, spec = pytree.tree_flatten(outputs)
    per_sample = [isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == total for leaf in leaves]
    split = [leaf.unflatten(0, shape) if splits else leaf for leaf, splits in zip(leaves, per_sample)]
    if writes_graph() and not getattr(score, "takes_rows", False):
        # vmap would make a number of the batch, which a graph keeps open
        each = ([x[i] if splits else x for x, splits in zip(split, per_sample)] for i in range(shape[0]))
        return torch.stack([score(pytree.tree_unflatten(part, spec)) for part in each])
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


def finite(what: str, scores: Tensor, *given: Tensor) -> Tensor:
    """Refuse NaN as `no_nan` does, and infinite scores (B, ...), which have no difference and no variance."""
    bad = ~scores[:, None].flatten(1).isfinite().all(1)
    for x in given:
        bad = bad & x.flatten(1).isfinite().all(1)
    # a GPU is waited for once, and again only for the error
    if is_concrete(bad) and bool(bad.any()):
        no_nan(what, scores, *given)
        sample = int(bad.int().argmax())
        raise CamfnError(
            f"{what} returned an infinite score for sample {sample}; expected finite numbers, whose differences are "
            "compared. A logarithm of 0, or half precision? For example targets.class_probability(281)"
        )
    return scores


def constant(*tensors: Tensor) -> bool:
    """Whether Python may read the data and no derivative is taken in it: duplicates may be computed once and reused."""
    if not readable(*tensors):
        return False
    tracked = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return not tracked and not any(_has_tangent(x) for x in tensors)


def _has_tangent(x: Tensor) -> bool:
    """Whether forward-mode differentiation follows the tensor."""
    return torch.autograd.forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]
