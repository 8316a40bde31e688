"""Total Sobol indices: the two sets of points they are estimated with, and Jansen's estimator."""

# tested in tests/methods/black_box/test_sensitivity.py

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.utils._python_dispatch import _disable_current_modes

from .checks import tensor, whole, within
from .errors import CamfnError
from .maps import largest, safe_divide, widen

_MOST = torch.quasirandom.SobolEngine.MAXDIM // 2
"""The dimensions of one set of points, of the sequence's."""


_ROUNDED = 2
"""Scores whose deviation is below so many units in the last place of the largest are equal but for rounding."""


def points_of(what: str, points: Tensor | None, count: int, cells: Sequence[int]) -> Tensor:
    """Return both sets of points, (n, 2, *cells): those given, if they are such points, or of the Sobol sequence.

    Example:
        >>> points_of("f", None, 2, (1, 3)).shape
        torch.Size([2, 2, 1, 3])
    """
    cells, total = tuple(cells), math.prod(cells)
    if points is None:
        whole(f"{what}: designs", count, 2)
        if not 1 <= total <= _MOST:
            raise CamfnError(
                f"{what}: expected at most {_MOST} numbers a mask, those of the Sobol sequence, got {total}; hand over "
                "`points`"
            )
        return sobol_points(count, total).reshape(count, 2, *cells)
    tensor(f"{what}: points", points)
    if tuple(points.shape[1:]) != (2, *cells) or len(points) < 2 or not points.is_floating_point():
        raise CamfnError(
            f"{what}: points: expected floats of shape (n, 2, {', '.join(map(str, cells))}), n at least 2; got "
            f"{points.dtype} of {tuple(points.shape)}"
        )
    if not within(points, 0, 1):
        raise CamfnError(f"{what}: points: expected numbers in [0, 1], for example torch.rand({len(points)}, 2, ...)")
    return points


def sobol_points(count: int, dimensions: int) -> Tensor:
    """Return two sets of points of the unscrambled Sobol sequence in [0, 1), (count, 2, dimensions), without its 0.

    Example:
        >>> sobol_points(2, 1)
        tensor([[[0.5000],
                 [0.5000]],
        <BLANKLINE>
                [[0.7500],
                 [0.2500]]])
    """
    # the engine writes to tensors of its own, which fake tensors, a trace and torch.func do not survive
    with _disable_current_modes(), temporarily_clear_interpreter_stack():
        engine = torch.quasirandom.SobolEngine(2 * dimensions)  # type: ignore[no-untyped-call]
        drawn = engine.fast_forward(1).draw(count, dtype=torch.float32).tolist()  # type: ignore[no-untyped-call]
    return torch.tensor(drawn).reshape(count, 2, dimensions)


def with_one_from_second(points: Tensor, row: Tensor) -> Tensor:
    """Return one of the points that Jansen's estimator wants scored, (d,), by its number; numbers may be batched.

    The first n are the first set. Then come, for each of the d dimensions, the first set with that dimension from the
    second: n (d + 1) in all.

    Args:
        points: (n, 2, d).
        row: (), a number below n (d + 1).
    """
    count, _, dimensions = points.shape
    one = points.index_select(0, (row % count).reshape(1))[0]
    changed = torch.arange(dimensions, device=points.device) == row // count - 1
    return torch.where(changed, one[1], one[0])


def total_indices(scores: Tensor, count: int) -> Tensor:
    """Jansen's estimate of the total Sobol indices: `ST_i = sum_j (f(A_j) - f(C_ij))^2 / (2 n Var f(A))`.

    `C_ij` is `A_j` with dimension i from the second set; the variance is the unbiased one of the n scores of the first.
    Where it is no more than the scores' type rounds away, all indices are 0: shares of rounding say nothing.

    Args:
        scores: (n (d + 1), B), in the order of `with_one_from_second` and in the type that they were computed in.
        count: n, two or more.

    Returns:
        (d, B), in float32 at least.

    Example:
        >>> total_indices(torch.tensor([[0.0], [2.0], [2.0], [2.0]]), 2)  # f of 2 points, then one dimension changed
        tensor([[0.5000]])
    """
    wide = widen(scores)
    first = wide[:count]
    changed = torch.stack(torch.split(wide[count:], count))
    # torch warns of the variance of no numbers
    spread = first.var(0) if first.numel() else first[0]
    rounding = _ROUNDED * torch.finfo(scores.dtype).eps * largest(first, 0)[0]
    spread = torch.where(spread > rounding.square(), spread, 0.0)
    return safe_divide((first - changed).square().mean(1), 2 * spread)
