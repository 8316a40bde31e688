"""Nonnegative factors of batches of matrices, by hierarchical alternating least squares.

The private functions hold a factor as (b, r, M): one row for each of the r terms.
"""

# tested in tests/factorize/test_concepts.py

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._shared.checks import is_concrete, number, same_device, whole
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.maps import largest, safe_divide, safe_sqrt, widen
from ._exact import least_squares

_SWEEPS = 2
"""Sweeps over a factor after each product with the data, which costs more than they do (1107.5194)."""


class Factors(NamedTuple):
    """Nonnegative factors: `values` is about `weights @ concepts`.

    Attributes:
        weights: (..., N, r), how much of each concept is in each row.
        concepts: (..., r, C), of unit norm; 0 where no row has any of it.
        error: (...), the norm of `values - weights @ concepts` over that of `values`; 0 where `values` are.
        steps: (...), the number of steps taken.
    """

    weights: Tensor
    concepts: Tensor
    error: Tensor
    steps: Tensor


@torch.no_grad()
def nmf(values: Tensor, rank: int, *, steps: int = 500, tolerance: float = 1e-5) -> Factors:
    """Nonnegative matrix factorization in the Frobenius norm, of a whole batch of matrices at once.

    Minimizes `|V - H W|` over `H, W >= 0`. Each step minimizes exactly over one column of H or row of W at a time
    (HALS), then moves a little further in the same direction (extrapolation). A step that raises the error is undone
    and repeated without extrapolation, so that the error never rises. The problem is not convex: each matrix is
    solved from two starts, its leading singular vectors and the rows that are the farthest from one another, and the
    better end is returned. Nothing is random.

    `H D, D^-1 W` is as good a pair for any positive diagonal D and any order of the terms. Here concepts have unit
    norm, and terms come in the order of their energy, the norm of their column of weights, the greatest first.

    Source: Cichocki and Phan 2009 (HALS); Ang and Gillis, 1805.06604 (extrapolation with restarts); Boutsidis and
    Gallopoulos 2008 (NNDSVD, from the smaller Gram matrix here); 1208.1237 (successive projection).

    Args:
        values: (..., N, C), finite and not negative.
        rank: number r of terms, at most the smaller of N and C.
        steps: at most so many, for each matrix.
        tolerance: a matrix is done when a step lowers its error by no more than this share of it.

    Returns:
        The factors, each in the dtype of `values`, computed in float32 at least; detached. Inside `vmap` all `steps`
        are run, with the same result.

    Raises:
        CamfnError: a negative or non-finite value (not checked inside `vmap`), a rank or a shape that cannot be.

    Example:
        >>> import torch
        >>> weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
        >>> factors = nmf(weights @ torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]), 2)
        >>> factors.weights.round(decimals=1), factors.concepts.round(decimals=1).abs()
        (tensor([[ 5.,  0.],
                [ 0.,  1.],
                [10.,  2.]]), tensor([[0.6000, 0.8000, 0.0000],
                [0.0000, 0.0000, 1.0000]]))
    """
    require_nonnegative(values, "values", "values.relu() is the positive part")
    whole("nmf: rank", rank)
    whole("nmf: steps", steps, 0)
    number("nmf: tolerance", tolerance, "[0, inf)")
    if not 1 <= rank <= min(values.shape[-2:]):
        n, c = values.shape[-2:]
        raise CamfnError(f"rank: expected 1 to {min(n, c)} for matrices of {n} x {c}, got {rank}")
    x, scale = _unit(values)
    starts = zip(_singular_start(x, rank), _separable_start(x, rank))
    h, w = (torch.stack(pair, 1).flatten(0, 1) for pair in starts)
    h, w, squares, taken = _descend(x, h, w, steps, tolerance)
    better = squares[::2] <= squares[1::2]
    h, w, taken = (_where(better, each[::2], each[1::2]) for each in (h, w, taken))
    weights, concepts = _gauge(h, w)
    rest = torch.linalg.vector_norm(torch.baddbmm(x, h.mT, w, alpha=-1), dim=(-2, -1))
    error = safe_divide(rest, torch.linalg.vector_norm(x, dim=(-2, -1)))
    lead = values.shape[:-2]
    return Factors(
        (weights * scale).mT.reshape(*lead, -1, rank).to(values.dtype),
        concepts.reshape(*lead, rank, -1).to(values.dtype),
        error.reshape(lead),
        taken.reshape(lead),
    )


@torch.no_grad()
def nnls(values: Tensor, concepts: Tensor, *, steps: int = 200, tolerance: float = 1e-10) -> Tensor:
    """Nonnegative least squares: the weights of given concepts.

    Minimizes `|V - H W|` over `H >= 0`, which is convex, and has one solution where the concepts are independent. It is
    exact, in float64, also where concepts resemble one another; where they depend on one another, it is one of the
    solutions.

    Source: Kim and Park 2008 (block principal pivoting).

    Args:
        values: (..., N, C), finite.
        concepts: (..., r, C), finite; leading dimensions broadcast with those of `values`.
        steps: at most so many exchanges between the weights that are 0 and the others; a few are enough.
        tolerance: a weight stays 0 if the slope of the error there is below 0 by no more than this share of the row's
            greatest product with a concept of unit norm.

    Returns:
        Weights (..., N, r), in the dtype of `values`; detached. Inside `vmap` all `steps` are run.

    Raises:
        CamfnError: a non-finite value, or another number of channels.

    Example:
        >>> import torch
        >>> nnls(torch.tensor([[1.0, -1.0], [2.0, 3.0]]), torch.eye(2))
        tensor([[1., 0.],
                [2., 3.]])
    """
    require_finite(values, "values")
    require_finite(concepts, "concepts")
    whole("nnls: steps", steps, 0)
    number("nnls: tolerance", tolerance, "[0, inf)")
    same_device("nnls: concepts", concepts, values, "values")
    if values.shape[-1] != concepts.shape[-1]:
        raise CamfnError(
            f"concepts: expected (..., r, {values.shape[-1]}), as many channels as the values have, "
            f"got {tuple(concepts.shape)}"
        )
    _refuse_other_batches(values, concepts)
    lead: torch.Size = torch.broadcast_shapes(values.shape[:-2], concepts.shape[:-2])  # type: ignore[no-untyped-call]
    x, scale = _unit(values.expand(*lead, *values.shape[-2:]))
    w = concepts.expand(*lead, *concepts.shape[-2:]).reshape(-1, *concepts.shape[-2:])
    h = least_squares(x, w, steps, tolerance) * scale
    return h.reshape(*lead, *values.shape[-2:-1], -1).to(values.dtype)


class _Descent(NamedTuple):
    """The state of the descent: pairs of factors; the pairs of one matrix (one for each start) are neighbors.

    Attributes:
        h: (b, r, N), the weights.
        w: (b, r, C), the concepts.
        ahead: w, extrapolated.
        error: (b,), the squared error of h and w.
        pace: (b,), how far a step extrapolates.
        failed: (b,), whether the last step was undone.
        active: (b,), whether the descent goes on.
        taken: (b,), the number of steps taken.
    """

    h: Tensor
    w: Tensor
    ahead: Tensor
    error: Tensor
    pace: Tensor
    failed: Tensor
    active: Tensor
    taken: Tensor


def _descend(x: Tensor, h: Tensor, w: Tensor, steps: int, tolerance: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lower the error of each pair until it falls no more; return the factors, the squared errors and the steps.

    `now` holds the matrices that still descend, and `whole` all of them. When half of the matrices in `now` or more are
    done, the rows of `now` are written to `whole` at their places, and `now`, the data and the places shrink to the
    matrices that go on. Halving keeps the copies rare. A matrix goes on while either of its pairs does, because one
    product with the data serves all its pairs (`_times`). Inside `vmap` nothing can be read, so that all steps run
    on all matrices; `_step` leaves the pairs that are done as they are.
    """
    times = h.shape[0] // x.shape[0]
    energy = x.square().sum((-2, -1), dtype=torch.float64).repeat_interleave(times)
    error = _squared_error(energy, _times(h, x), h @ h.mT, w)
    no = torch.zeros_like(error, dtype=torch.bool)
    now = whole = _Descent(h, w, w, error, torch.full_like(error, 0.5), no, ~no, torch.zeros_like(error).long())
    place = torch.arange(h.shape[0], device=x.device)
    for _ in range(steps):
        now = _step(x, energy, now, tolerance)
        if not is_concrete(now.active):
            continue
        live = now.active.reshape(-1, times).any(1)
        count = int(live.sum())
        if 2 * count <= len(live):
            whole = _Descent(*(all_.index_copy(0, place, part) for all_, part in zip(whole, now)))
            pairs = live.repeat_interleave(times)
            x, energy, place = x[live], energy[pairs], place[pairs]
            now = _Descent(*(part[pairs] for part in now))
        if not count:
            break
    if is_concrete(now.active):
        now = _Descent(*(all_.index_copy(0, place, part) for all_, part in zip(whole, now)))
    return now.h, now.w, now.error, now.taken


def _step(x: Tensor, energy: Tensor, now: _Descent, tolerance: float) -> _Descent:
    """Minimize over one factor, then over the other, extrapolate both, and keep them where the error fell."""
    h, w, ahead, error, pace, failed, active, taken = now
    beta = torch.where(failed, 0.0, pace)[:, None, None].to(x)
    new_h = _sweep(h, _times(ahead, x.mT), ahead @ ahead.mT)
    new_h = (new_h + beta * (new_h - h)).relu_()
    product, gram = _times(new_h, x), new_h @ new_h.mT
    new_w = _sweep(ahead, product, gram)
    new_error = _squared_error(energy, product, gram, new_w)
    good = active & (new_error < error)
    # a failed step ends the descent only if it had no extrapolation
    going = torch.where(good, error - new_error > 2 * tolerance * error, ~failed)
    return _Descent(
        _where(good, new_h, h),
        _where(good, new_w, w),
        _where(good, (new_w + beta * (new_w - w)).relu_(), w),
        torch.where(good, new_error, error),
        torch.where(good, (1.05 * pace).clamp(max=1), pace / 1.5),
        ~good,
        active & going,
        taken + active,
    )


def _times(factor: Tensor, x: Tensor) -> Tensor:
    """Multiply all factors of a matrix with it at once: a thin product costs as much as reading x from memory."""
    rank = factor.shape[1]
    return (factor.reshape(x.shape[0], -1, factor.shape[-1]) @ x).reshape(-1, rank, x.shape[-1])


def _squared_error(energy: Tensor, product: Tensor, gram: Tensor, w: Tensor) -> Tensor:
    """Return `|X - H W|^2 = |X|^2 - 2 <H^T X, W> + <H^T H, W W^T>`, without a matrix of the size of X."""
    along = (product * w).sum((-2, -1), dtype=torch.float64)
    own = (gram * (w @ w.mT)).sum((-2, -1), dtype=torch.float64)
    return energy - 2 * along + own


def _sweep(factor: Tensor, product: Tensor, gram: Tensor, times: int = _SWEEPS) -> Tensor:
    """Minimize the error over one row of a factor after the other: `F_k <- ReLU(F_k + (P_k - (G F)_k) / G_kk)`."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)[..., None]
    aim = safe_divide(product, diagonal)
    # where row k of the other factor is 0, so are its product and its Gram entries, and row k stays as it is
    mix = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device) - safe_divide(gram, diagonal)
    factor = factor.clone()
    for _ in range(times):
        for k in range(factor.shape[-2]):
            row = slice(k, k + 1)
            factor[:, row] = torch.baddbmm(aim[:, row], mix[:, row], factor).relu_()
    return factor


def _singular_start(x: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Start by NNDSVD: the positive or the negative parts of each leading pair of singular vectors, the larger ones."""
    wide = x.shape[-2] <= x.shape[-1]
    rows = x if wide else x.mT
    # eigh raises for the whole batch if one entry is not finite
    values, vectors = torch.linalg.eigh((rows @ rows.mT).nan_to_num(0.0, 0.0, 0.0))
    sigma = safe_sqrt(values[:, -rank:].flip(-1))[..., None]
    first = vectors[..., -rank:].flip(-1).mT
    second = safe_divide(first @ rows, sigma)
    # all entries of the first pair have one sign, but for rounding
    first, second = (torch.cat([v[:, :1].abs(), v[:, 1:]], 1) for v in (first, second))
    sides = [(first.relu(), second.relu()), ((-first).relu(), (-second).relu())]
    norms = [[torch.linalg.vector_norm(part, dim=-1, keepdim=True) for part in side] for side in sides]
    (n1, m1), (n2, m2) = norms
    upper = n1 * m1 >= n2 * m2
    u, v, n, m = (torch.where(upper, a, b) for a, b in zip((*sides[0], n1, m1), (*sides[1], n2, m2)))
    root = safe_sqrt(sigma * n * m)
    h, w = safe_divide(u, n) * root, safe_divide(v, m) * root
    return (h, w) if wide else (w, h)


def _separable_start(x: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Start by successive projection: pick the longest row, project it out of the others, repeat; fit the weights."""
    rest, picked = x, []
    for _ in range(rank):
        place = torch.linalg.vector_norm(rest, dim=-1).argmax(-1)[:, None, None].expand(-1, 1, x.shape[-1])
        picked.append(x.gather(1, place))
        far = rest.gather(1, place)
        far = safe_divide(far, torch.linalg.vector_norm(far, dim=-1, keepdim=True))
        rest = rest - (rest @ far.mT) @ far
    w = torch.cat(picked, 1)
    product = w @ x.mT
    return _sweep(torch.zeros_like(product), product, w @ w.mT), w


def _gauge(h: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Scale concepts to unit norm, and sort the terms by the norm of their weights, the largest first."""
    norm = torch.linalg.vector_norm(w, dim=-1, keepdim=True)
    h = h * norm
    energy = torch.linalg.vector_norm(h, dim=-1, keepdim=True)
    w = torch.where(energy > 0, safe_divide(w, norm), 0.0)
    order = torch.argsort(energy[..., 0], dim=-1, descending=True, stable=True)[..., None]
    return h.gather(1, order.expand_as(h)), w.gather(1, order.expand_as(w))


def _where(which: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Select whole matrices: `one` where `which` (b,) is true, else `other`."""
    return torch.where(which.reshape(-1, *(1,) * (one.ndim - 1)), one, other)


def _unit(values: Tensor) -> tuple[Tensor, Tensor]:
    """Flatten the leading dimensions, and divide by the largest entry, whose square may overflow; return both."""
    x = widen(values.reshape(-1, *values.shape[-2:]))
    scale = largest(x, (-2, -1))
    return safe_divide(x, scale), scale


def _refuse_other_batches(values: Tensor, concepts: Tensor) -> None:
    """Refuse batches of matrices that do not broadcast."""
    pairs = zip(reversed(values.shape[:-2]), reversed(concepts.shape[:-2]))
    if not all(1 in pair or pair[0] == pair[1] for pair in pairs):
        raise CamfnError(
            f"concepts: expected one matrix (r, C), or one for each of the values, {tuple(values.shape)}; got "
            f"{tuple(concepts.shape)}"
        )


def require_finite(values: Tensor, name: str) -> None:
    """Refuse anything but a batch of matrices of finite numbers."""
    if not isinstance(values, Tensor) or not values.is_floating_point():
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise ArgumentTypeError(f"{name}: expected a floating-point tensor, got {kind}")
    if values.ndim < 2 or not values.numel():
        raise CamfnError(f"{name}: expected matrices (..., rows, channels) with entries, got {tuple(values.shape)}")
    if is_concrete(values) and not bool(torch.isfinite(values).all()):
        raise CamfnError(f"{name}: expected finite numbers, got NaN or infinity")


def require_nonnegative(values: Tensor, name: str, advice: str) -> None:
    """Refuse anything but a batch of matrices of finite numbers that are not negative."""
    require_finite(values, name)
    if is_concrete(values) and bool((values < 0).any()):
        raise CamfnError(f"{name}: expected no negative numbers, got {values.min().item():.4g}; {advice}")
