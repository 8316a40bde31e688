"""Missing pixels from their neighbors: a sparse linear system, solved by conjugate gradients with multigrid."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from .._check import shapes_agree
from .._maps import widen
from .._pixels import require_finite

_MOST = 200
"""Iterations before it is said that the system is not solved; 10 to 20 are usual."""


def impute(images: Tensor, missing: Tensor, *, tolerance: float = 1e-5) -> Tensor:
    """Fill in missing pixels: each becomes the weighted mean of its 8 neighbors, all of them solved for at once.

    Direct neighbors weigh 1/6 and diagonal ones 1/12; those outside the image are left out, and the others share their
    weight. This is a Dirichlet problem of a graph's Laplacian, symmetric and positive definite as soon as one pixel is
    known: solved by conjugate gradients, preconditioned by one multigrid V-cycle, in some 10 to 20 iterations whatever
    the size. The authors and pytorch-grad-cam solve the same system by a sparse LU, image by image.

    Source: arXiv 2202.00449, section 4 and the authors' code.

    Args:
        images: (B, C, H, W).
        missing: (B, H, W), bool; the values of missing pixels do not matter, unless all are.
        tolerance: norm of the residual over that of filling in the mean of the known pixels, for each channel.

    Returns:
        (B, C, H, W), known pixels untouched; no derivative. An image of which nothing is known becomes its mean,
        channel by channel.

    Raises:
        ValueError: other shapes or types; NaN or infinity in the images, naming the samples.
        RuntimeError: the tolerance was not reached.

    Example:
        >>> images = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> missing = torch.zeros(1, 4, 4, dtype=torch.bool)
        >>> missing[0, 1, 1:3] = True
        >>> impute(images, missing)[0, 0, 1].round(decimals=3)
        tensor([4., 5., 6., 7.])
    """
    if images.ndim != 4 or not images.is_floating_point() or missing.dtype != torch.bool:
        raise ValueError(
            f"impute: expected floating-point images (B, C, H, W) and missing (B, H, W) of bool, got "
            f"{tuple(images.shape)} of {images.dtype} and {tuple(missing.shape)} of {missing.dtype}"
        )
    shapes_agree("impute: missing", missing.shape, (images.shape[0], *images.shape[2:]))
    require_finite(images, "impute: images")
    (wide,) = widen(images.detach())
    gone = missing[:, None].to(wide)
    filled = _on_cpu(wide, gone, tolerance) if wide.device.type == "cpu" else _solved(wide, gone, tolerance)
    return torch.where(missing[:, None], filled.to(images.dtype), images)


def _on_cpu(images: Tensor, gone: Tensor, tolerance: float) -> Tensor:
    """Solve by NumPy, one image at a time in each thread.

    Torch would fork and join its threads for each of some 100 short operations an iteration, which on a machine that is
    busy takes ten times as long as the arithmetic.
    """

    def one(image: Any, mask: Any) -> Tensor:
        return torch.from_numpy(_solved(image[None], mask[None], tolerance))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        found = list(pool.map(one, images.numpy(), gone.numpy()))
    return torch.cat(found) if found else images


# ------------------------------------------------------------------------------------------------- the linear system
#
# For missing pixels i: d_i x_i - sum_j w_ij x_j = 0, with d_i the sum of the weights that lie inside the image. Written
# in what arrays of NumPy and tensors have in common, into memory kept for it: fresh memory costs more than arithmetic.

_Array: TypeAlias = Any
"""An array or a tensor, (B, C, H, W)."""


class _Grid(NamedTuple):
    """One grid of the V-cycle.

    Attributes:
        missing: (B, 1, H, W), 1 where a pixel is to be found.
        sixteenth: the same over 16, for what `_up` and `_down` leave to do.
        inverse: the same divided by `degree`.
        degree: (B, 1, H, W), sum of the weights of the neighbors inside the image.
        found: (B, C, H, W), where the cycle leaves its result.
        right: (B, C, H, W), the right-hand side, on coarse grids.
        half: (B, C, H, W / 2), between a grid and the next.
        spare: two of (B, C, H, W).
    """

    missing: _Array
    sixteenth: _Array
    inverse: _Array
    degree: _Array
    found: _Array
    right: _Array
    half: _Array
    spare: tuple[_Array, _Array]


def _solved(images: _Array, gone: _Array, tolerance: float) -> _Array:
    """Images (B, C, H, W) with what is gone (B, 1, H, W) filled in, by preconditioned conjugate gradients."""
    known = 1 - gone
    known = known + (_sum(known) == 0)  # of an image that is all gone, everything counts, and nothing is to be found
    mean = _sum(images * known) / _sum(known)
    found = mean + known * (1 - gone) * (images - mean)
    grids = _grids(1 - known, images)
    image, spare = grids[0].spare
    residual = -1 * _laplacian(found, grids[0])
    goal = tolerance**2 * _sum(residual * residual)
    direction, before = 0 * residual, 0 * goal
    times = _namespace(images).multiply
    for _ in range(_MOST):
        size = _sum(times(residual, residual, out=spare))
        if bool((size <= goal).all()):
            return found
        better = _v_cycle(residual, grids)
        now = _sum(times(residual, better, out=spare))
        direction *= _ratio(now, before)
        direction += better
        before = now
        _laplacian(direction, grids[0])
        step = _ratio(now, _sum(times(direction, image, out=spare)))
        found += times(direction, step, out=spare)
        residual -= times(image, step, out=spare)
    left = float(_ratio(size, goal).max()) ** 0.5 * tolerance
    raise RuntimeError(f"impute: relative residual {left:.2g} after {_MOST} iterations; pass a larger tolerance")


def _namespace(x: _Array) -> Any:
    if isinstance(x, Tensor):
        return torch
    import numpy as np

    return np


def _sum(x: _Array) -> _Array:
    return x.sum((2, 3), keepdims=True)


def _ratio(x: _Array, y: _Array) -> _Array:
    """The quotient of what is 0 wherever the divisor is."""
    return x / (y + (y == 0))


def _laplacian(x: _Array, grid: _Grid) -> _Array:
    """Apply the system's matrix to what is 0 (or known) outside the missing pixels; in `grid.spare[0]`."""
    out, spare = grid.spare
    _neighbors(x, out, spare)
    out -= _namespace(x).multiply(x, grid.degree, out=spare)
    out *= -grid.missing
    return out


def _neighbors(x: _Array, out: _Array, spare: _Array) -> _Array:
    """Weighted sum of the 8 neighbors inside the image: (1 2 1) along both dimensions, less the center, over 12."""
    space = _namespace(x)
    space.add(x, x, out=spare)
    spare[:, :, 1:] += x[:, :, :-1]
    spare[:, :, :-1] += x[:, :, 1:]
    space.add(spare, spare, out=out)
    out[..., 1:] += spare[..., :-1]
    out[..., :-1] += spare[..., 1:]
    out -= space.multiply(x, 4, out=spare)
    out *= 1 / 12
    return out


def _grids(missing: _Array, like: _Array) -> list[_Grid]:
    """Grids of half the size each; a coarse pixel is missing where all of its fine ones are."""
    grids = []
    while True:
        memory = [0 * missing + 0 * like[:, :, :1, :1] for _ in range(4)]
        degree = _neighbors(0 * missing + 1, 0 * missing, 0 * missing)
        half = 1 * memory[0][..., ::2]
        own = (missing, missing / 16, _ratio(missing, degree), degree)
        grids.append(_Grid(*own, memory[0], memory[1], half, (memory[2], memory[3])))
        if max(missing.shape[2:]) <= 4:
            return grids
        for dim in (2, 3):
            even, odd = _halves(missing, dim)
            missing = 1 * even
            missing[_span(dim, 0, odd.shape[dim])] *= odd


def _v_cycle(residual: _Array, grids: Sequence[_Grid]) -> _Array:
    """Approximate solution: a Jacobi step, the coarse correction, a Jacobi step; in `grids[0].found`.

    The highest frequencies shrink by 3 in a Jacobi step of these weights, undamped. Going up is the transpose of going
    down and the steps are symmetric, so the cycle is a symmetric positive definite operator, as its use here demands.
    """
    grid = grids[0]
    found, (out, spare) = grid.found, grid.spare
    times = _namespace(residual).multiply
    times(residual, grid.inverse, out=found)
    if len(grids) > 1:
        # what the Jacobi step from zero leaves: residual - A found
        left = _neighbors(found, out, spare)
        left *= grid.missing
        coarse = grids[1]
        _down(_down(left, 3, grid.half), 2, coarse.right)
        times(coarse.right, coarse.sixteenth, out=coarse.right)
        fine = _up(_up(_v_cycle(coarse.right, grids[1:]), 2, grid.half), 3, out)
        found += times(fine, grid.sixteenth, out=spare)
    for _ in range(1 if len(grids) > 1 else 4):
        _neighbors(found, out, spare)
        out += residual
        times(out, grid.inverse, out=found)
    return found


def _span(dim: int, start: int | None, stop: int | None, step: int | None = None) -> tuple[slice, ...]:
    return (slice(None),) * dim + (slice(start, stop, step),)


def _halves(x: _Array, dim: int) -> tuple[_Array, _Array]:
    """Every other slice, from the first and from the second: as many, or one less."""
    return x[_span(dim, 0, None, 2)], x[_span(dim, 1, None, 2)]


def _up(x: _Array, dim: int, out: _Array) -> _Array:
    """To twice the length (or one less), linearly between half-pixel centers, zero outside; times 4."""
    even, odd = _halves(out, dim)
    times = _namespace(x).multiply
    times(x, 3, out=even)
    even[_span(dim, 1, None)] += x[_span(dim, 0, -1)]
    times(x[_span(dim, 0, odd.shape[dim])], 3, out=odd)
    odd[_span(dim, 0, x.shape[dim] - 1)] += x[_span(dim, 1, None)]
    return out


def _down(x: _Array, dim: int, out: _Array) -> _Array:
    """To half the length: the transpose of `_up`."""
    even, odd = _halves(x, dim)
    out[:] = even
    out[_span(dim, 0, odd.shape[dim])] += odd
    out *= 3
    out[_span(dim, 1, None)] += odd[_span(dim, 0, out.shape[dim] - 1)]
    out[_span(dim, 0, -1)] += even[_span(dim, 1, None)]
    return out
