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

    def one(image: Tensor, mask: Tensor) -> Tensor:
        return torch.from_numpy(_solved(image[None].numpy(), mask[None].numpy(), tolerance))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        found = list(pool.map(one, images, gone))
    return torch.cat(found) if found else images


# ------------------------------------------------------------------------------------------------- the linear system
#
# For missing pixels i: d_i x_i - sum_j w_ij x_j = 0; w_ij is 1 for direct neighbors and 1/2 for diagonal ones, d_i the
# sum of those inside the image. Passes over memory are all that this costs. So images lie in frames of zeros, one after
# another: a neighbor is a fixed number of places away, and a pass runs over one contiguous piece of memory, which is
# kept for it. What a pass leaves in the frames is finite, and the next mask takes it away. Written in what arrays of
# NumPy and tensors share.

_Array: TypeAlias = Any
"""An array or a tensor; (N,) where all framed images of a grid are meant, samples and channels one behind the other."""


class _Grid(NamedTuple):
    """One grid of the V-cycle: an even number of rows and columns, in a frame of one pixel.

    Attributes:
        shape: (B, C, rows, columns), the frame included; N is their product.
        missing: (N,), 1 where a pixel is to be found.
        degree: (N,), there the sum of the weights of the neighbors inside the image.
        inverse: (N,), there one over that.
        found: (N,), where the cycle leaves its result.
        right: (N,), the right-hand side, on coarse grids.
        half: two of (B, C, rows / 2 + 1, columns), between this grid and the next.
        spare: two of (N,).
    """

    shape: tuple[int, int, int, int]
    missing: _Array
    degree: _Array
    inverse: _Array
    found: _Array
    right: _Array
    half: tuple[_Array, _Array]
    spare: tuple[_Array, _Array]


def _solved(images: _Array, gone: _Array, tolerance: float) -> _Array:
    """Images (B, C, H, W) with what is gone (B, 1, H, W) filled in, by preconditioned conjugate gradients."""
    known = 1 - gone
    known = known + (_sum(known) == 0)  # of an image that is all gone, everything counts, and nothing is to be found
    mean = _sum(images * known) / _sum(known)
    grids = _grids(0 * images + 1 - known)
    shape, spare = grids[0].shape, grids[0].spare[1]
    found = _framed(mean + known * (1 - gone) * (images - mean), shape)
    residual = -1 * _laplacian(found, grids[0])
    goal = tolerance**2 * _dot(residual, residual, shape)
    direction, before = 0 * residual, 0 * goal
    for _ in range(_MOST):
        size = _dot(residual, residual, shape)
        if bool((size <= goal).all()):
            return found.reshape(shape)[_inside(images)]
        better = _v_cycle(residual, grids)
        now = _dot(residual, better, shape)
        _scaled(direction, _ratio(now, before), direction, shape)
        direction += better
        before = now
        image = _laplacian(direction, grids[0])
        step = _ratio(now, _dot(direction, image, shape))
        residual -= _scaled(image, step, spare, shape)
        found += _scaled(direction, step, spare, shape)
    left = float(_ratio(size, goal).max()) ** 0.5 * tolerance
    raise RuntimeError(f"impute: relative residual {left:.2g} after {_MOST} iterations; pass a larger tolerance")


def _namespace(x: _Array) -> Any:
    if isinstance(x, Tensor):
        return torch
    import numpy as np

    return np


def _zeros(like: _Array, *shape: int) -> _Array:
    return like.new_zeros(shape) if isinstance(like, Tensor) else _namespace(like).zeros(shape, like.dtype)


def _sum(x: _Array) -> _Array:
    return x.sum((2, 3), keepdims=True)


def _dot(x: _Array, y: _Array, shape: tuple[int, int, int, int]) -> _Array:
    """(B, C, 1)."""
    x, y = (z.reshape(*shape[:2], shape[2] * shape[3]) for z in (x, y))
    return _namespace(x).einsum("bck,bck->bc", x, y)[..., None]


def _scaled(x: _Array, by: _Array, out: _Array, shape: tuple[int, int, int, int]) -> _Array:
    """Each channel of each sample by its own number (B, C, 1)."""
    x, into = (z.reshape(*shape[:2], shape[2] * shape[3]) for z in (x, out))
    _namespace(x).multiply(x, by, out=into)
    return out


def _ratio(x: _Array, y: _Array) -> _Array:
    """The quotient of what is 0 wherever the divisor is."""
    return x / (y + (y == 0))


def _inside(image: _Array) -> tuple[slice, ...]:
    """Where in a frame an image (B, C, H, W) lies."""
    height, width = image.shape[2:]
    return (slice(None), slice(None), slice(1, 1 + height), slice(1, 1 + width))


def _framed(image: _Array, shape: tuple[int, ...]) -> _Array:
    """(B, C, H, W) to (N,)."""
    out = _zeros(image, *shape)
    out[_inside(image)] = image
    return out.reshape(-1)


def _laplacian(x: _Array, grid: _Grid) -> _Array:
    """Apply the system's matrix to what is 0 (or known) outside the missing pixels; in `grid.spare[0]`."""
    out, spare = grid.spare
    _neighbors(x, grid)
    out *= grid.missing
    _namespace(x).subtract(_namespace(x).multiply(x, grid.degree, out=spare), out, out=out)
    return out


def _neighbors(x: _Array, grid: _Grid) -> _Array:
    """Weighted sum of the 8 neighbors; in `grid.spare[0]`."""
    (out, spare), row = grid.spare, grid.shape[3]
    _namespace(x).add(x[2:], x[:-2], out=out[1:-1])  # the two beside
    _namespace(x).multiply(out, 0.5, out=spare)
    spare += x  # what the rows above and below take of this one
    out[row:] += spare[:-row]
    out[:-row] += spare[row:]
    return out


def _grids(missing: _Array) -> list[_Grid]:
    """Grids of half the size each; a coarse pixel is missing where all of its fine ones are."""
    grids = []
    while True:
        samples, channels, height, width = missing.shape
        shape = (samples, channels, height + height % 2 + 2, width + width % 2 + 2)
        here, image = _framed(missing, shape), _framed(0 * missing + 1, shape)
        found, right, out, spare = (0 * here for _ in range(4))
        first, second = (_zeros(missing, samples, channels, shape[2] // 2 + 1, shape[3]) for _ in range(2))
        grid = _Grid(shape, here, here, here, found, right, (first, second), (out, spare))
        degree = here * _neighbors(image, grid)
        grids.append(grid._replace(degree=degree, inverse=_ratio(here, degree)))
        if max(height, width) <= 4:
            return grids
        missing = (here + 1 - image).reshape(shape)[:, :, 1:-1, 1:-1]
        for dim in (2, 3):
            missing = missing[_span(dim, 0, None, 2)] * missing[_span(dim, 1, None, 2)]


def _v_cycle(residual: _Array, grids: Sequence[_Grid]) -> _Array:
    """Approximate solution: a Jacobi step, the coarse correction, a Jacobi step; in `grids[0].found`.

    The highest frequencies shrink by 3 in a Jacobi step of these weights, undamped. Going up is the transpose of going
    down and the steps are symmetric, so the cycle is a symmetric positive definite operator, as its use here demands.
    """
    grid, coarser = grids[0], grids[1:]
    found, out = grid.found, grid.spare[0]
    times = _namespace(residual).multiply
    times(residual, grid.inverse, out=found)
    if coarser:
        left = _neighbors(found, grid)  # what the Jacobi step from zero leaves: residual - A found
        left *= grid.missing
        _v_cycle(_down(left, grid, coarser[0]), coarser)
        fine = _up(grid, coarser[0])
        fine *= grid.missing
        found += fine
    for _ in range(1 if coarser else 4):
        _neighbors(found, grid)
        out += residual
        times(out, grid.inverse, out=found)
    return found


def _span(dim: int, start: int, stop: int | None, step: int = 1) -> tuple[slice, ...]:
    return (slice(None),) * dim + (slice(start, stop, step),)


def _down(x: _Array, grid: _Grid, coarse: _Grid) -> _Array:
    """To half the size: the transpose of `_up`; in `coarse.right`.

    Weights 1 3 3 1 around each pair of rows, then the same along columns, where three sums of what is side by side in
    memory are cheaper, although they compute every other place in vain.
    """
    add, x, (half, spare) = _namespace(x).add, x.reshape(grid.shape), grid.half
    before, even, odd, after = (x[:, :, start : start + grid.shape[2] - 3 : 2] for start in range(4))
    inner = half[:, :, 1:-1]
    add(even, odd, out=inner)
    inner *= 3
    inner += before
    inner += after
    one, two = half.reshape(-1), spare.reshape(-1)
    add(one[1:], one[:-1], out=two[:-1])
    add(two[1:], two[:-1], out=one[1:])
    add(one[1:], one[:-1], out=two[:-1])
    every_other = spare[:, :, 1:-1, 1:-1:2]
    _namespace(x).multiply(every_other, 1 / 256, out=coarse.right.reshape(coarse.shape)[_inside(every_other)])
    return coarse.right


def _up(grid: _Grid, coarse: _Grid) -> _Array:
    """What the coarse grid found, linearly between half-pixel centers, 0 outside, times 16; in `grid.spare[0]`."""
    (half, thrice), out, spare = grid.half, grid.spare[0], coarse.spare[0]
    times = _namespace(out).multiply
    times(coarse.found, 3, out=spare)
    rows, columns = half.shape[2] - 1, half.shape[3] // 2 + 1
    small, large = (x.reshape(coarse.shape)[:, :, 1:rows, :columns] for x in (coarse.found, spare))
    _widened(small, large, 3, half[:, :, 1:-1])
    times(half, 3, out=thrice)
    _widened(half, thrice, 2, out.reshape(grid.shape))
    return out


def _widened(x: _Array, thrice: _Array, dim: int, out: _Array) -> None:
    """Both places of each pair, inside the frame: 3 parts of their own and 1 of the nearest."""
    add, own, stop = _namespace(x).add, thrice[_span(dim, 1, -1)], out.shape[dim] - 1
    add(own, x[_span(dim, 0, -2)], out=out[_span(dim, 1, stop, 2)])
    add(own, x[_span(dim, 2, None)], out=out[_span(dim, 2, stop, 2)])
