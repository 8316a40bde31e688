"""Methods that project the N pixel vectors of C channels on their first principal component, for a batch at once.

A component is defined up to its sign: every method names the rule that chooses the sign (see `orient`).
First derivatives are exact, also where other singular values are zero or repeated; second derivatives are not.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from einops import einsum
from torch import Tensor

from ..._shared.checks import number, one_of, whole
from ..._shared.components import Sign, first_component, leading_pair, orient
from ..._shared.errors import CamfnError
from ..._shared.maps import pixels, safe_divide, safe_sqrt
from .._checks import checked

Kernel: TypeAlias = Literal["sigmoid", "rbf", "linear", "cosine", "poly"]
"""Measures of how alike two pixel vectors are."""


def eigen_cam(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    centered: bool = False,
    sign: Sign | None = None,
) -> Tensor:
    """Eigen-CAM: the pixel vectors projected on their first principal direction.

    `L = O v_1 = sigma_1 u_1` with `O` (N, C) the pixel vectors and `O = U S V^T`. Class-agnostic. For activations that
    are not negative the uncentered map can be chosen non-negative everywhere (Perron-Frobenius), which "sum" does. The
    paper does not center and speaks of no sign. pytorch-grad-cam centers (`centered=True` here), keeps the sign the
    solver happens to give and clips the negative half, so that maps come out inverted. No outer ReLU is applied here.

    Source: arXiv 2008.00299, the section on Eigen-CAM; the sign rule is camfn's.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: not used.
        outputs: not used.
        centered: subtract each channel's mean first; the map then sums to zero.
        sign: "sum", "absmax" or "corr_mean"; None is "sum" for the uncentered map and "corr_mean" for the centered one.

    Returns:
        The raw map, (B, *S), of norm sigma_1.

    Raises:
        CamfnError: for `centered=True` with `sign="sum"`, or an unknown sign rule.

    Example:
        >>> import torch
        >>> eigen_cam(torch.tensor([[[3.0, 0.0], [4.0, 0.0]]])).round(decimals=4)
        tensor([[5., 0.]])
    """
    a = checked("eigen_cam", activations)
    return _component(a, centered, ("corr_mean" if centered else "sum") if sign is None else sign).to(activations.dtype)


def eigen_grad_cam(
    activations: Tensor,
    grads: Tensor,
    outputs: Any = None,
    *,
    centered: bool = False,
    sign: Sign = "corr_mean",
) -> Tensor:
    """Eigen-Grad-CAM: Eigen-CAM of gradient times activation, which makes it class-specific.

    `L = O v_1` with `O = g A`. The sign rule looks at `sum_k ReLU(g_k A_k)`, the positive evidence. The peer centers,
    leaves the sign to chance and clips. No outer ReLU is applied here.

    Source: pytorch-grad-cam, which introduced it; no paper. The sign rule is camfn's.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: (B, C, *S), derivative of each sample's score.
        outputs: not used.
        centered: subtract each channel's mean of `g A` first.
        sign: "corr_mean", "absmax" or "sum".

    Returns:
        The raw map, (B, *S), of norm sigma_1.

    Raises:
        CamfnError: for `centered=True` with `sign="sum"`, or an unknown sign rule.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[3.0, 1.0], [4.0, 1.0]]])
        >>> grads = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
        >>> eigen_grad_cam(activations, grads).round(decimals=4)
        tensor([[5., 0.]])
    """
    a, g = checked("eigen_grad_cam", activations, grads)
    return _component(g * a, centered, sign).to(activations.dtype)


def seg_eigen_cam(activations: Tensor, grads: Tensor, outputs: Any = None, *, sign: Sign = "absmax") -> Tensor:
    """Seg-Eigen-CAM: Eigen-CAM of the activations weighted by the magnitude of their gradients.

    `L = O v_1` with `O = |g| A`, not centered, and the entry of the largest magnitude made positive. The same for a
    score and for its negative. The peer centers first. No outer ReLU is applied here.

    Source: Seg-Eigen-CAM, Applied Sciences 2025, 15(13), 7562.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: (B, C, *S), derivative of each sample's score.
        outputs: not used.
        sign: "absmax" as in the paper, "sum" or "corr_mean".

    Returns:
        The raw map, (B, *S), of norm sigma_1.

    Raises:
        CamfnError: for an unknown sign rule.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[3.0, 1.0], [4.0, 1.0]]])
        >>> grads = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
        >>> seg_eigen_cam(activations, grads).round(decimals=4)
        tensor([[5., 0.]])
    """
    a, g = checked("seg_eigen_cam", activations, grads)
    return _component(g.abs() * a, False, sign).to(activations.dtype)


def kpca_cam(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    kernel: Kernel = "sigmoid",
    gamma: float | None = None,
    coef0: float = 1.0,
    degree: int = 3,
    sign: Sign = "corr_mean",
) -> Tensor:
    """KPCA-CAM: the first kernel principal component of the pixel vectors.

    `L = sqrt(lambda_1) a_1`, the leading pair of `J K J`, with `K_ij = kernel(x_i, x_j)` between pixel vectors, and
    `J = I - 11^T / N`. Class-agnostic; the map sums to zero, so no outer ReLU is applied. The sigmoid kernel is
    indefinite: `lambda_1` is taken as 0, and the map with it, when no eigenvalue is positive. The peer subtracts the
    channel means from the pixel vectors ahead of the kernel as well, which changes every kernel but "rbf" and
    "linear"; here only the kernel matrix is centered. Costs an eigendecomposition of an N x N matrix: meant for layers
    of some hundred positions.

    Source: arXiv 2410.00267; the other parameters default to those of scikit-learn's KernelPCA. Its gamma, 1 / C,
    which the peer takes, leaves a map of zeros where activations are large: `tanh` is then 1 everywhere.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: not used.
        outputs: not used.
        kernel: "sigmoid" `tanh(gamma <x, y> + coef0)`, "rbf" `exp(-gamma |x - y|^2)`, "poly"
            `(gamma <x, y> + coef0)^degree`, "linear" `<x, y>` or "cosine" (0 for a zero vector).
        gamma: scale of the kernel; None is one over the mean squared length of the pixel vectors, so that no scale of
            the activations saturates the kernel.
        coef0: offset of the sigmoid and polynomial kernels.
        degree: of the polynomial kernel.
        sign: "corr_mean" or "absmax".

    Returns:
        The raw map, (B, *S), of squared norm lambda_1 and mean zero.

    Raises:
        CamfnError: for an unknown kernel or sign rule, or `sign="sum"`.

    Example:
        >>> import torch
        >>> kpca_cam(torch.tensor([[[1.0, 3.0, 2.0]]]), kernel="linear").round(decimals=4)
        tensor([[-1.,  1.,  0.]])
    """
    a = checked("kpca_cam", activations)
    one_of("kpca_cam: kernel", kernel, ("sigmoid", "rbf", "linear", "cosine", "poly"))
    number("kpca_cam: coef0", coef0)
    whole("kpca_cam: degree", degree)
    if gamma is not None:
        number("kpca_cam: gamma", gamma, "(0, inf)")
    _not_sum(sign)
    rows = pixels(a)
    gram = _kernel_matrix(rows, kernel, _natural(rows) if gamma is None else gamma, coef0, degree)
    gram = gram - gram.mean(-1, keepdim=True)
    gram = gram - gram.mean(-2, keepdim=True)
    value, vector = leading_pair(gram)
    component = orient(safe_sqrt(value)[..., None] * vector, rows, sign)
    return component.reshape(a.shape[0], *a.shape[2:]).to(activations.dtype)


def _component(features: Tensor, centered: bool, sign: Sign) -> Tensor:
    """Return the first component of (B, C, *S) features as a map (B, *S) whose sign follows the rule."""
    if centered:
        _not_sum(sign)
    rows = pixels(features)
    component = first_component(rows - rows.mean(-2, keepdim=True) if centered else rows)
    return orient(component, rows, sign).reshape(features.shape[0], *features.shape[2:])


def _not_sum(sign: Sign) -> None:
    """Refuse the sign rule "sum" for a centered map, whose sum is 0."""
    one_of("sign", sign, ("absmax", "corr_mean", "sum"))
    if sign == "sum":
        raise CamfnError(
            "sign='sum' cannot orient a centered map: it sums to zero, so its sign would be rounding noise. "
            "Use sign='corr_mean' or sign='absmax'"
        )


def _natural(rows: Tensor) -> Tensor:
    """Return one over the mean squared length of the rows (B, N, C), as (B, 1, 1): no kernel then saturates."""
    length = rows.square().sum(-1, keepdim=True).mean(-2, keepdim=True)
    return safe_divide(torch.ones_like(length), length)


def _kernel_matrix(rows: Tensor, kernel: Kernel, gamma: float | Tensor, coef0: float, degree: int) -> Tensor:
    """Return the kernel of all pairs of rows, (B, N, C) to (B, N, N), not centered."""
    if kernel == "cosine":
        rows = safe_divide(rows, safe_sqrt(rows.square().sum(-1, keepdim=True)))
    inner = einsum(rows, rows, "b i c, b j c -> b i j")
    if kernel in ("linear", "cosine"):
        return inner
    if kernel == "sigmoid":
        return torch.tanh(gamma * inner + coef0)
    if kernel == "poly":
        return (gamma * inner + coef0) ** degree
    squares = inner.diagonal(dim1=-2, dim2=-1)
    return torch.exp(-gamma * (squares[..., :, None] + squares[..., None, :] - 2 * inner))
