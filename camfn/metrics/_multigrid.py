"""The linear system of missing pixels, and one multigrid V-cycle for it, as lists of operations on memory that is kept.

For missing pixels i: `d_i x_i - sum_j w_ij x_j = 0`; w_ij is 1 for direct neighbors and 1/2 for diagonal ones, d_i the
sum of those inside the image. Passes over memory are all that this costs. So images lie in frames of zeros: a neighbor
is a fixed number of places away, and a pass runs over one contiguous piece of memory. What a pass leaves in the frames
is finite, and the next mask takes it away.

A cycle is the same some 250 operations each time, most of them on grids so small that to find their operands would take
as long as to do them. So they are written down once, `Step`s of NumPy or torch, and then only run.
"""

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
"""How much of what ties fine pixels to known ones holds on the coarse grid; from 0.75 to 0.85 is as good."""


class Grid(NamedTuple):
    """One grid of the V-cycle: an even number of rows and columns, in a frame of one pixel.

    Attributes:
        shape: (B, C, rows, columns), the frame included; n is rows times columns.
        missing: (B, 1, n), 1 where a pixel is to be found.
        degree: (B, 1, n), there the sum of the weights of the neighbors and of what ties it to known pixels.
        inverse: (B, 1, n), there one over that.
        found: (B, C, n), where the cycle leaves its result.
        right: (B, C, n), the right-hand side.
        half: two of (B, C, rows / 2 + 1, columns), between this grid and the next.
        spare: two of (B, C, n).
    """

    shape: tuple[int, int, int, int]
    missing: Array
    degree: Array
    inverse: Array
    found: Array
    right: Array
    half: tuple[Array, Array]
    spare: tuple[Array, Array]


def run(steps: Sequence[Step]) -> None:
    """Do what is written down."""
    for function, x, y, out in steps:
        function(x, y, out=out)


def namespace(x: Array) -> Any:
    """The module whose functions take it."""
    if isinstance(x, Tensor):
        return torch
    import numpy as np

    return np


def ratio(x: Array, y: Array) -> Array:
    """The quotient of what is 0 wherever the divisor is."""
    return x / (y + (y == 0))


def inside(image: Array) -> tuple[slice, ...]:
    """Where in a frame an image (B, C, H, W) lies."""
    height, width = image.shape[2:]
    return (slice(None), slice(None), slice(1, 1 + height), slice(1, 1 + width))


def framed(image: Array, shape: Sequence[int]) -> Array:
    """(B, C, H, W) to (B, C, n)."""
    out = _zeros(image, *image.shape[:2], *shape[2:])
    out[inside(image)] = image
    return _flat(out)


def laplacian(x: Array, grid: Grid) -> list[Step]:
    """Apply the system's matrix to what is 0 (or known) outside the missing pixels; in `grid.spare[0]`."""
    (out, spare), name = grid.spare, namespace(x)
    return [
        *_neighbors(x, grid),
        (name.multiply, out, grid.missing, out),
        (name.multiply, x, grid.degree, spare),
        (name.subtract, spare, out, out),
    ]


def cycle(grids: Sequence[Grid]) -> list[Step]:
    """Solve for `grids[0].right` roughly: a Jacobi step, the coarse correction, a Jacobi step; in `grids[0].found`.

    The highest frequencies shrink by 3 in a Jacobi step of these weights, undamped. Going up is the transpose of going
    down and the steps are symmetric, so the cycle is a symmetric positive definite operator, as conjugate gradients
    demand of a preconditioner.
    """
    grid, coarser = grids[0], grids[1:]
    found, right, out = grid.found, grid.right, grid.spare[0]
    add, times = namespace(out).add, namespace(out).multiply
    steps: list[Step] = [(times, right, grid.inverse, found)]
    if coarser:
        steps += [
            *_neighbors(found, grid),  # what the Jacobi step from zero leaves: right - A found
            (times, out, grid.missing, out),
            *_down(out, grid, coarser[0]),
            *cycle(coarser),
            *_up(grid, coarser[0]),
            (times, out, grid.missing, out),
            (add, found, out, found),
        ]
    smooth = [*_neighbors(found, grid), (add, out, right, out), (times, out, grid.inverse, found)]
    return steps + smooth * (1 if coarser else 4)


def grids_of(missing: Array, channels: int) -> list[Grid]:
    """Grids of half the size each, for what is missing (B, 1, H, W); coarse where at least half of a pixel is missing.

    A coarse matrix is the same graph on what is missing there, each pixel tied to known ones, which are 0, as strongly
    as the fine pixels that hang on it are (the row sums of the Galerkin product), times `_TIED`.
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
    """A grid without its matrix."""
    samples, _, height, width = missing.shape
    shape = (samples, channels, height + height % 2 + 2, width + width % 2 + 2)
    here = framed(missing, shape)
    found, right, *spare = (_zeros(missing, *shape[:2], shape[2] * shape[3]) for _ in range(4))
    first, second = (_zeros(missing, *shape[:2], shape[2] // 2 + 1, shape[3]) for _ in range(2))
    return Grid(shape, here, here, here, found, right, (first, second), (spare[0], spare[1]))


def _one_channel(grid: Grid) -> Grid:
    """The same memory, of the first channel alone."""
    half, spare = ((first[:, :1], second[:, :1]) for first, second in (grid.half, grid.spare))
    shape = (grid.shape[0], 1, *grid.shape[2:])
    return grid._replace(shape=shape, found=grid.found[:, :1], right=grid.right[:, :1], half=half, spare=spare)


def _halved(missing: Array) -> Array:
    """1 where at least half of up to four pixels are missing; those outside the image do not count."""
    missed, known = missing, 1 - missing
    for dim in (2, 3):
        missed, known = _pairs(missed, dim), _pairs(known, dim)
    return 0 * missed + (missed >= known)


def _pairs(x: Array, dim: int) -> Array:
    """Sums of two that are side by side; the last of an odd number stays alone."""
    out, odd = x[_span(dim, 0, None, 2)] + 0, x[_span(dim, 1, None, 2)]
    out[_span(dim, 0, odd.shape[dim])] += odd
    return out


def _zeros(like: Array, *shape: int) -> Array:
    return like.new_zeros(shape) if isinstance(like, Tensor) else namespace(like).zeros(shape, like.dtype)


def _flat(x: Array) -> Array:
    return x.reshape(*x.shape[:2], x.shape[2] * x.shape[3])


def _span(dim: int, start: int, stop: int | None, step: int = 1) -> tuple[slice, ...]:
    return (slice(None),) * dim + (slice(start, stop, step),)


def _neighbors(x: Array, grid: Grid) -> list[Step]:
    """Weighted sum of the 8 neighbors; in `grid.spare[0]`."""
    (out, spare), row = grid.spare, grid.shape[3]
    add, times = namespace(x).add, namespace(x).multiply
    above, below = out[..., row:], out[..., :-row]
    return [
        (add, x[..., 2:], x[..., :-2], out[..., 1:-1]),  # the two beside
        (times, out, 0.5, spare),
        (add, spare, x, spare),  # what the rows above and below take of this one
        (add, above, spare[..., :-row], above),
        (add, below, spare[..., row:], below),
    ]


def _down(x: Array, grid: Grid, coarse: Grid) -> list[Step]:
    """To half the size: the transpose of `_up`; in `coarse.right`.

    Weights 1 3 3 1 around each pair of rows, then the same along columns, where three sums of what is side by side in
    memory are cheaper, although they compute every other place in vain.
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
    """What the coarse grid found, linearly between half-pixel centers, times 16; in `grid.spare[0]`.

    Beyond the border of the image it goes on as it is there, since no pixel outside holds it.
    """
    (half, thrice), out, spare = grid.half, grid.spare[0], coarse.spare[0]
    times, rows, columns = namespace(out).multiply, half.shape[2] - 1, half.shape[3] // 2 + 1
    small, large = (x.reshape(coarse.shape)[:, :, 1:rows, :columns] for x in (coarse.found, spare))
    return [
        (times, coarse.found, 3, spare),
        *_mirrored(small, 3),
        *_widened(small, large, 3, half[:, :, 1:-1]),
        *_mirrored(half, 2),
        (times, half, 3, thrice),
        *_widened(half, thrice, 2, out.reshape(grid.shape)),
    ]


def _mirrored(x: Array, dim: int) -> list[Step]:
    """Put into the frame what lies beside it."""
    first, last = (x[_span(dim, 0, 1)], x[_span(dim, 1, 2)]), (x[_span(dim, -1, None)], x[_span(dim, -2, -1)])
    return [(namespace(x).multiply, beside, 1, out) for out, beside in (first, last)]


def _widened(x: Array, thrice: Array, dim: int, out: Array) -> list[Step]:
    """Both places of each pair, inside the frame: 3 parts of their own and 1 of the nearest."""
    add, own, stop = namespace(x).add, thrice[_span(dim, 1, -1)], out.shape[dim] - 1
    return [
        (add, own, x[_span(dim, 0, -2)], out[_span(dim, 1, stop, 2)]),
        (add, own, x[_span(dim, 2, None)], out[_span(dim, 2, stop, 2)]),
    ]
