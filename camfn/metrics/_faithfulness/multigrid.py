"""The linear system of missing pixels, and a multigrid V-cycle for it, as lists of operations on fixed memory.

For missing pixels i: `d_i x_i - sum_j w_ij x_j = 0`; w_ij is 1 for direct neighbors and 1/2 for diagonal ones, d_i the
sum of those inside the image. The time goes into passes over memory. Images therefore lie in frames of zeros: a
neighbor is a fixed number of places away, and a pass runs over one contiguous piece of memory. A pass writes finite
values into the frames, and the next multiplication by the mask clears them.

A cycle repeats the same 250 or so operations, most of them on grids so small that slicing their operands would take as
long as the arithmetic. `cycle` therefore lists the operations once, as `Step`s of NumPy or torch, and `run` repeats
them.

Why not a sparse LU, in ten lines, as the authors and pytorch-grad-cam do? Because of time: combined ROAD at four shares
of four 224 x 224 images takes 0.76 s with this file, forwards included, and 7.85 s in pytorch-grad-cam, 10.3 times as
long (14.7 times on maps with half of their pixels zero; docs/benchmarks.md, Metrics). Listing the operations once and
improving the coarse grids made its 32 systems 1.5 times as fast. A LU also runs on the CPU alone. The tests hold the
result to a dense solve and to the peer.
"""

# tested in tests/metrics/faithfulness/test_road.py

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

Array: TypeAlias = Any
"""An array or a tensor: images (B, C, H, W), or n framed pixels of each, (B, C, n)."""

Step: TypeAlias = tuple[Callable[..., Any], Array, Any, Array]
"""`f(x, y, out=out)`."""

_TIED = 0.8
"""Factor on the weights between missing and known pixels on a coarse grid; 0.75 to 0.85 do as well."""


class Grid(NamedTuple):
    """One grid of the V-cycle: an even number of rows and columns, in a frame of one pixel.

    Attributes:
        shape: (B, C, rows, columns), the frame included; n is rows times columns.
        missing: (B, 1, n), 1 where a pixel is missing.
        degree: (B, 1, n), for missing pixels the sum of the weights of their neighbors, known ones included.
        inverse: (B, 1, n), for missing pixels one over the degree.
        solution: (B, C, n), the result of the cycle.
        right: (B, C, n), the right-hand side.
        half: two buffers (B, C, rows / 2 + 1, columns) for the steps between this grid and the next.
        spare: two buffers (B, C, n).
    """

    shape: tuple[int, int, int, int]
    missing: Array
    degree: Array
    inverse: Array
    solution: Array
    right: Array
    half: tuple[Array, Array]
    spare: tuple[Array, Array]


def run(steps: Sequence[Step]) -> None:
    """Carry out a list of operations."""
    for function, x, y, out in steps:
        function(x, y, out=out)


def namespace(x: Array) -> Any:
    """Return `torch` for a tensor, NumPy for an array."""
    if isinstance(x, Tensor):
        return torch
    import numpy as np

    return np


def ratio(x: Array, y: Array) -> Array:
    """Divide `x` by `y`; `x` must be 0 wherever `y` is, and so is the result."""
    return x / (y + (y == 0))


def inside(image: Array) -> tuple[slice, ...]:
    """Index of an image (B, C, H, W) in its frame."""
    height, width = image.shape[2:]
    return (slice(None), slice(None), slice(1, 1 + height), slice(1, 1 + width))


def framed(image: Array, shape: Sequence[int]) -> Array:
    """Put images into frames of zeros: (B, C, H, W) to (B, C, n)."""
    out = _zeros(image, *image.shape[:2], *shape[2:])
    out[inside(image)] = image
    return _flat(out)


def laplacian(x: Array, grid: Grid) -> list[Step]:
    """Multiply `x` by the system's matrix, into `grid.spare[0]`; known pixels of `x` hold 0 or their values."""
    (out, spare), name = grid.spare, namespace(x)
    return [
        *_neighbors(x, grid),
        (name.multiply, out, grid.missing, out),
        (name.multiply, x, grid.degree, spare),
        (name.subtract, spare, out, out),
    ]


def cycle(grids: Sequence[Grid]) -> list[Step]:
    """Solve for `grids[0].right` roughly, into `grids[0].solution`: a Jacobi step, a coarse correction, a Jacobi step.

    With these weights, an undamped Jacobi step shrinks the highest frequencies by 3. `_up` is the transpose of `_down`
    and the Jacobi steps are symmetric, so the cycle is a symmetric positive definite operator, as conjugate gradients
    demand of a preconditioner.
    """
    grid, coarser = grids[0], grids[1:]
    solution, right, out = grid.solution, grid.right, grid.spare[0]
    add, times = namespace(out).add, namespace(out).multiply
    steps: list[Step] = [(times, right, grid.inverse, solution)]
    if coarser:
        steps += [
            *_neighbors(solution, grid),  # the residual of a Jacobi step from zero: right - A solution
            (times, out, grid.missing, out),
            *_down(out, grid, coarser[0]),
            *cycle(coarser),
            *_up(grid, coarser[0]),
            (times, out, grid.missing, out),
            (add, solution, out, solution),
        ]
    smooth = [*_neighbors(solution, grid), (add, out, right, out), (times, out, grid.inverse, solution)]
    return steps + smooth * (1 if coarser else 4)


def grids_of(missing: Array, channels: int) -> list[Grid]:
    """Make grids of half the size each for a mask (B, 1, H, W); a coarse pixel is missing if at least half of it is.

    A coarse matrix is the same graph on the missing coarse pixels. The weight between a coarse pixel and known ones,
    whose correction is 0, is the sum of these weights over its fine pixels (the row sum of the Galerkin product) times
    `_TIED`.
    """
    grids = [_grid(missing, channels)]
    one = _one_channel(grids[0])
    around = framed(0 * missing + 1, one.shape)
    run(_neighbors(around, one))
    tied = one.spare[0] + 0
    run(_neighbors(one.missing, one))
    tied -= one.spare[0]
    while True:
        one = _one_channel(grids[-1])
        run(_neighbors(one.missing, one))
        tied *= one.missing
        degree = one.missing * one.spare[0] + tied
        grids[-1] = grids[-1]._replace(degree=degree, inverse=ratio(one.missing, degree))
        if max(missing.shape[2:]) <= 4:
            return grids
        missing = _halved(missing)
        grids.append(_grid(missing, channels))
        coarse = _one_channel(grids[-1])
        run(_down(tied, one, coarse))
        tied = 16 * _TIED * coarse.right


def _grid(missing: Array, channels: int) -> Grid:
    """Make a grid whose matrix, `degree` and `inverse`, is not set yet."""
    samples, _, height, width = missing.shape
    shape = (samples, channels, height + height % 2 + 2, width + width % 2 + 2)
    here = framed(missing, shape)
    solution, right, *spare = (_zeros(missing, *shape[:2], shape[2] * shape[3]) for _ in range(4))
    first, second = (_zeros(missing, *shape[:2], shape[2] // 2 + 1, shape[3]) for _ in range(2))
    return Grid(shape, here, here, here, solution, right, (first, second), (spare[0], spare[1]))


def _one_channel(grid: Grid) -> Grid:
    """Return the grid on the memory of its first channel."""
    half, spare = ((first[:, :1], second[:, :1]) for first, second in (grid.half, grid.spare))
    shape = (grid.shape[0], 1, *grid.shape[2:])
    return grid._replace(shape=shape, solution=grid.solution[:, :1], right=grid.right[:, :1], half=half, spare=spare)


def _halved(missing: Array) -> Array:
    """Halve a mask: 1 where at least half of the up to four pixels inside the image are missing."""
    missed, known = missing, 1 - missing
    for dim in (2, 3):
        missed, known = _pairs(missed, dim), _pairs(known, dim)
    return 0 * missed + (missed >= known)


def _pairs(x: Array, dim: int) -> Array:
    """Add pairs of neighbors along `dim`; the last of an odd number has no partner."""
    out, odd = x[_span(dim, 0, None, 2)] + 0, x[_span(dim, 1, None, 2)]
    out[_span(dim, 0, odd.shape[dim])] += odd
    return out


def _zeros(like: Array, *shape: int) -> Array:
    """Zeros of the type and on the device of `like`."""
    return like.new_zeros(shape) if isinstance(like, Tensor) else namespace(like).zeros(shape, like.dtype)


def _flat(x: Array) -> Array:
    """Join rows and columns: (B, C, rows, columns) to (B, C, n)."""
    return x.reshape(*x.shape[:2], x.shape[2] * x.shape[3])


def _span(dim: int, start: int, stop: int | None, step: int = 1) -> tuple[slice, ...]:
    """Index of `start:stop:step` along `dim`."""
    return (slice(None),) * dim + (slice(start, stop, step),)


def _neighbors(x: Array, grid: Grid) -> list[Step]:
    """Add up the 8 neighbors with their weights, into `grid.spare[0]`."""
    (out, spare), row = grid.spare, grid.shape[3]
    add, times = namespace(x).add, namespace(x).multiply
    above, below = out[..., row:], out[..., :-row]
    return [
        (add, x[..., 2:], x[..., :-2], out[..., 1:-1]),  # left and right neighbors
        (times, out, 0.5, spare),
        (add, spare, x, spare),  # the contribution of each row to the rows above and below
        (add, above, spare[..., :-row], above),
        (add, below, spare[..., row:], below),
    ]


def _down(x: Array, grid: Grid, coarse: Grid) -> list[Step]:
    """Restrict `x` to half the size, into `coarse.right`: the transpose of `_up`.

    Each pair of rows gets the weights 1 3 3 1 around it, then each pair of columns. For columns, three sums of
    neighbors in memory are cheapest, although every other result is unused.
    """
    add, times = namespace(x).add, namespace(x).multiply
    x, (half, spare) = x.reshape(grid.shape), grid.half
    before, even, odd, after = (x[:, :, start : start + grid.shape[2] - 3 : 2] for start in range(4))
    inner, one, two = half[:, :, 1:-1], _flat(half), _flat(spare)
    every_other = spare[:, :, 1:-1, 1:-1:2]
    return [
        *_mirrored(x, 2),
        (add, even, odd, inner),
        (times, inner, 3, inner),
        (add, inner, before, inner),
        (add, inner, after, inner),
        *_mirrored(half, 3),
        (add, one[..., 1:], one[..., :-1], two[..., :-1]),
        (add, two[..., 1:], two[..., :-1], one[..., 1:]),
        (add, one[..., 1:], one[..., :-1], two[..., :-1]),
        (times, every_other, 1 / 256, coarse.right.reshape(coarse.shape)[inside(every_other)]),
    ]


def _up(grid: Grid, coarse: Grid) -> list[Step]:
    """Interpolate 16 times the coarse solution between half-pixel centers, into `grid.spare[0]`.

    Beyond the border of the image the solution continues with its border values, since no pixel outside is known.
    """
    (half, thrice), out, spare = grid.half, grid.spare[0], coarse.spare[0]
    times, rows, columns = namespace(out).multiply, half.shape[2] - 1, half.shape[3] // 2 + 1
    small, large = (x.reshape(coarse.shape)[:, :, 1:rows, :columns] for x in (coarse.solution, spare))
    return [
        (times, coarse.solution, 3, spare),
        *_mirrored(small, 3),
        *_widened(small, large, 3, half[:, :, 1:-1]),
        *_mirrored(half, 2),
        (times, half, 3, thrice),
        *_widened(half, thrice, 2, out.reshape(grid.shape)),
    ]


def _mirrored(x: Array, dim: int) -> list[Step]:
    """Copy the border pixels into the frame beside them."""
    first, last = (x[_span(dim, 0, 1)], x[_span(dim, 1, 2)]), (x[_span(dim, -1, None)], x[_span(dim, -2, -1)])
    return [(namespace(x).multiply, beside, 1, out) for out, beside in (first, last)]


def _widened(x: Array, thrice: Array, dim: int, out: Array) -> list[Step]:
    """Double the size along `dim`: each result is three times its own coarse pixel plus the nearest other one."""
    add, own, stop = namespace(x).add, thrice[_span(dim, 1, -1)], out.shape[dim] - 1
    return [
        (add, own, x[_span(dim, 0, -2)], out[_span(dim, 1, stop, 2)]),
        (add, own, x[_span(dim, 2, None)], out[_span(dim, 2, stop, 2)]),
    ]
