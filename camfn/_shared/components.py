"""First principal components of the pixels of a map, and the rules for their sign."""

# tested in tests/methods/activation/test_eigen.py

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from einops import einsum
from torch import Tensor

from .checks import one_of
from .levels import writes_graph
from .maps import largest, safe_divide, safe_sqrt

Sign: TypeAlias = Literal["sum", "absmax", "corr_mean"]
"""How to choose between a singular vector and its negative."""


def leading_pair(gram: Tensor, *, definite: bool = False) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue and its unit eigenvector (of either sign) of symmetric matrices.

    First derivatives are exact, and finite when other eigenvalues are zero or repeated, where those of
    `torch.linalg.eigh` are NaN. Second derivatives are not exact. A graph that is written holds squarings in place of
    `eigh`, and no derivative.

    Args:
        gram: (B, M, M), symmetric.
        definite: whether no eigenvalue is negative.

    Returns:
        Eigenvalues (B,) and eigenvectors (B, M); not finite where the matrix is not.

    Example:
        >>> value, vector = leading_pair(torch.tensor([[[2.0, 0.0], [0.0, 1.0]]]))
        >>> value, vector.abs()
        (tensor([2.]), tensor([[1., 0.]]))
    """
    if writes_graph():
        return _squared_pair(gram, definite)
    # eigh raises on a non-finite entry; it is 0 in `fixed`, and `gram - fixed` below brings it back for its own sample
    fixed = gram.detach().nan_to_num(0.0, 0.0, 0.0)
    values, vectors = torch.linalg.eigh(fixed)
    top = vectors[..., -1]
    # d v = (lambda I - G)^+ dG v: with dG = G - detach(G) = 0, adding it to v keeps the value and gives the derivative
    pull = einsum(gram - fixed, top, "b i j, b j -> b i")
    along = einsum(vectors, pull, "b i m, b i -> b m")
    step = safe_divide(along, values[..., -1:] - values)
    vector = top + einsum(vectors, step, "b i m, b m -> b i")
    value = values[..., -1] + einsum(top, pull, "b i, b i -> b")
    return value, vector


def _squared_pair(gram: Tensor, definite: bool) -> tuple[Tensor, Tensor]:
    """Return the leading pair by products alone; what squares take for the largest may be a negative eigenvalue."""
    vector = leading_column(gram)
    if not definite:
        largest_size = (gram @ vector[..., None]).square().sum((-2, -1)).sqrt()
        ones = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        vector = leading_column(gram + largest_size[..., None, None] * ones, times=20)
    value = (vector * (gram @ vector[..., None])[..., 0]).sum(-1)
    return value, vector


def leading_column(gram: Tensor, times: int = 16) -> Tensor:
    """Return the unit eigenvector (B, M) of the eigenvalue of the largest size of symmetric matrices, (B, M, M).

    Squares the matrix `times` times, each divided by its trace: the result is `v v^T`, whose column of the largest
    diagonal entry points along v. One more product with the matrix polishes it.

    Example:
        >>> leading_column(torch.tensor([[[2.0, 0.0], [0.0, 1.0]]]))
        tensor([[1., 0.]])
    """
    ones = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    gram = safe_divide(gram, largest(gram, (-2, -1)))
    power = gram
    for _ in range(times):
        power = power @ power
        power = power / (power * ones).sum((-2, -1), keepdim=True).clamp_min(1e-30)
    diagonal = (power * ones).sum(-1)
    chosen = torch.arange(gram.shape[-1], device=gram.device) == diagonal.argmax(-1, keepdim=True)
    vector = (power * chosen[:, None].to(gram.dtype)).sum(-1)
    vector = (gram @ vector[..., None])[..., 0]
    return safe_divide(vector, vector.square().sum(-1, keepdim=True).sqrt())


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
    # the squares in a Gram matrix underflow for tiny gradients (saturated scores): divide by the largest entry first
    scale = largest(rows, (-2, -1))
    unit = safe_divide(rows, scale)
    if unit.shape[-2] <= unit.shape[-1]:
        value, left = leading_pair(einsum(unit, unit, "b i c, b j c -> b i j"), definite=True)
        component = safe_sqrt(value)[..., None] * left
    else:
        _, right = leading_pair(einsum(unit, unit, "b n i, b n j -> b i j"), definite=True)
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
        CamfnError: for another `sign`.

    Example:
        >>> orient(torch.tensor([[-3.0, 1.0]]), torch.ones(1, 2, 1), "absmax")
        tensor([[ 3., -1.]])
    """
    one_of("sign", sign, ("sum", "absmax", "corr_mean"))
    # only the sign matters here: divided by its largest entry, the component makes no product below underflow
    fixed = safe_divide(component, largest(component, -1)).detach()
    total = fixed.sum(-1, keepdim=True)
    if sign == "sum":
        evidence = total
    elif sign == "absmax":
        evidence = fixed.gather(-1, fixed.abs().argmax(-1, keepdim=True))
    else:
        energy = rows.detach().relu().sum(-1)
        deviation = energy - energy.mean(-1, keepdim=True)
        covariance = (deviation * (fixed - fixed.mean(-1, keepdim=True))).sum(-1, keepdim=True)
        evidence = torch.where(covariance == 0, total, covariance)
    return torch.where(evidence < 0, -component, component)
