"""The lines that methods share: reductions over (B, C, *spatial), exact division, resizing, first components."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor
from torch.nn import functional

Sign: TypeAlias = Literal["sum", "absmax", "corr_mean"]
"""How to choose between a singular vector and its negative."""

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def widen(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return bfloat16 and float16 tensors as float32, others as they are; a method casts its map back with `.to`."""
    return tuple(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for x in tensors)


def spatial_sum(x: Tensor) -> Tensor:
    """(B, C, *S) -> (B, C)."""
    return reduce(x, "b c ... -> b c", "sum")


def spatial_mean(x: Tensor) -> Tensor:
    """(B, C, *S) -> (B, C)."""
    return reduce(x, "b c ... -> b c", "mean")


def channel_sum(x: Tensor) -> Tensor:
    """(B, C, *S) -> (B, *S)."""
    return reduce(x, "b c ... -> b ...", "sum")


def weighted_sum(activations: Tensor, weights: Tensor) -> Tensor:
    """(B, C, *S), (B, C) -> (B, *S)."""
    return einsum(activations, weights, "b c ..., b c -> b ...")


def over_space(weights: Tensor, like: Tensor) -> Tensor:
    """(B, C) -> (B, C, 1, ..., 1), to broadcast over the spatial dimensions of `like`."""
    return weights.reshape(*weights.shape, *(1,) * (like.ndim - weights.ndim))


def pixels(x: Tensor) -> Tensor:
    """(B, C, *S) -> (B, N, C), one row for each of the N positions."""
    return rearrange(x, "b c ... -> b (...) c")


def safe_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return `numerator / denominator`, and exactly 0 where the denominator is 0, with derivatives of 0 there."""
    # x / inf is 0 and so are both its derivatives; masking the quotient instead would leave NaN in the backward
    return numerator / torch.where(denominator == 0, torch.inf, denominator)


def safe_sqrt(x: Tensor) -> Tensor:
    """Return the square root, and exactly 0 where `x <= 0`, with finite derivatives there."""
    clamped = x <= 0
    return torch.where(clamped, 0.0, torch.where(clamped, 1.0, x).sqrt())


def largest(x: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """Return the largest magnitude over `dims`, which are kept with size 1; a constant for derivatives."""
    found: Tensor = torch.linalg.vector_norm(x.detach(), torch.inf, dims, keepdim=True)
    return found


def resize(maps: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """Resize maps linearly, with pixel centers at half integers (`align_corners=False`), not antialiased.

    Args:
        maps: (B, C, *S) with one to three spatial dimensions.
        size: the new spatial shape, as long as S; (height, width) for images.
        align_corners: lay the centers of the corner pixels on each other instead.

    Returns:
        (B, C, *size), of the dtype of `maps`; half precision is interpolated in float32.

    Raises:
        ValueError: if `size` and `maps` do not have the same number of spatial dimensions, one to three.

    Example:
        >>> resize(torch.tensor([[[0.0, 4.0]]]), (4,))
        tensor([[[0., 1., 3., 4.]]])
    """
    if maps.ndim - 2 != len(size) or len(size) not in _LINEAR:
        raise ValueError(
            f"resize: expected maps (B, C, *S) with 1 to 3 spatial dimensions and a size for each, got maps of shape "
            f"{tuple(maps.shape)} and size {tuple(size)}; for example resize(maps, (224, 224)) for (B, C, H, W)"
        )
    (wide,) = widen(maps)
    resized: Tensor = functional.interpolate(
        wide, size=tuple(size), mode=_LINEAR[len(size)], align_corners=align_corners
    )
    return resized.to(maps.dtype)


def leading_pair(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue and its unit eigenvector (of either sign) of symmetric matrices.

    First derivatives are exact, and finite when other eigenvalues are zero or repeated, where those of
    `torch.linalg.eigh` are NaN. Second derivatives are not exact.

    Args:
        gram: (B, M, M), symmetric.

    Returns:
        Eigenvalues (B,) and eigenvectors (B, M); not finite where the matrix is not.

    Example:
        >>> value, vector = leading_pair(torch.tensor([[[2.0, 0.0], [0.0, 1.0]]]))
        >>> value, vector.abs()
        (tensor([2.]), tensor([[1., 0.]]))
    """
    # eigh raises on a non-finite entry; zeroed here, it comes back below with gram - fixed, for its own sample only
    fixed = gram.detach().nan_to_num(0.0, 0.0, 0.0)
    values, vectors = torch.linalg.eigh(fixed)
    top = vectors[..., -1]
    # d v = (lambda I - G)^+ dG v: adding it to v with dG = G - detach(G) = 0 leaves the value and gives the derivative
    pull = einsum(gram - fixed, top, "b i j, b j -> b i")
    along = einsum(vectors, pull, "b i m, b i -> b m")
    step = safe_divide(along, values[..., -1:] - values)
    vector = top + einsum(vectors, step, "b i m, b m -> b i")
    value = values[..., -1] + einsum(top, pull, "b i, b i -> b")
    return value, vector


def first_component(rows: Tensor) -> Tensor:
    """Project rows on their first right singular vector: sigma_1 u_1 = O v_1, of either sign.

    Works on the smaller of the two Gram matrices, O O^T or O^T O, for the whole batch at once.

    Args:
        rows: (B, N, C), one row for each position.

    Returns:
        (B, N). A sample with a non-finite entry gives NaN and leaves the others alone.

    Example:
        >>> first_component(torch.tensor([[[3.0, 0.0], [4.0, 0.0]]])).abs()
        tensor([[3., 4.]])
    """
    # the squares in a Gram matrix underflow where gradients are tiny (saturated scores): take the scale out first
    scale = largest(rows, (-2, -1))
    unit = safe_divide(rows, scale)
    if unit.shape[-2] <= unit.shape[-1]:
        value, left = leading_pair(einsum(unit, unit, "b i c, b j c -> b i j"))
        component = safe_sqrt(value)[..., None] * left
    else:
        _, right = leading_pair(einsum(unit, unit, "b n i, b n j -> b i j"))
        component = einsum(unit, right, "b n c, b c -> b n")
    return component * scale[..., 0]


def orient(component: Tensor, rows: Tensor, sign: Sign) -> Tensor:
    """Choose between a component and its negative by a rule that does not depend on the eigensolver.

    Args:
        component: (B, N), of either sign.
        rows: (B, N, C), what it is a component of.
        sign: "sum" makes the sum non-negative; "absmax" makes the entry of the largest magnitude positive;
            "corr_mean" makes the covariance with `sum_k ReLU(rows_k)` non-negative, and falls back on "sum"
            where there is none (a single position).

    Returns:
        (B, N).

    Raises:
        ValueError: for another `sign`.

    Example:
        >>> orient(torch.tensor([[-3.0, 1.0]]), torch.ones(1, 2, 1), "absmax")
        tensor([[ 3., -1.]])
    """
    # only a sign is wanted: without its scale the component makes no product below underflow
    fixed = safe_divide(component, largest(component, -1)).detach()
    total = fixed.sum(-1, keepdim=True)
    if sign == "sum":
        evidence = total
    elif sign == "absmax":
        evidence = fixed.gather(-1, fixed.abs().argmax(-1, keepdim=True))
    elif sign == "corr_mean":
        energy = rows.detach().relu().sum(-1)
        deviation = energy - energy.mean(-1, keepdim=True)
        covariance = (deviation * (fixed - fixed.mean(-1, keepdim=True))).sum(-1, keepdim=True)
        evidence = torch.where(covariance == 0, total, covariance)
    else:
        raise ValueError(f"sign: expected 'sum', 'absmax' or 'corr_mean', got {sign!r}")
    return torch.where(evidence < 0, -component, component)


def gauss_legendre(count: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of the Gauss-Legendre rule on [0, 1].

    Example:
        >>> gauss_legendre(1)
        ([0.5], [1.0])
    """
    nodes, weights = [], []
    for i in range(count):
        x, slope = math.cos(math.pi * (i + 0.75) / (count + 0.5)), 0.0
        # Newton's method from there is quadratic from the first step; six double the digits past those of a float
        for _ in range(6):
            value, slope = _legendre(count, x)
            x -= value / slope
        nodes.append((1 - x) / 2)
        weights.append(1 / ((1 - x * x) * slope * slope))
    return nodes, weights


def _legendre(degree: int, x: float) -> tuple[float, float]:
    """Legendre polynomial and its slope, by Bonnet's recursion."""
    before, value = 0.0, 1.0
    for n in range(1, degree + 1):
        before, value = value, ((2 * n - 1) * x * value - (n - 1) * before) / n
    return value, degree * (x * value - before) / (x * x - 1)


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree to half of their digits, measured by the largest of one, and are finite together."""
    scale, off = (x.nan_to_num(0.0, 0.0, 0.0).abs().max() for x in (one, one - other))
    return torch.equal(one.isfinite(), other.isfinite()) and bool(off <= torch.finfo(one.dtype).eps ** 0.5 * scale)
