"""Methods that use the tail along a line: its curvature at the activations, or its gradient between 0 and them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from einops import einsum
from torch import Tensor

from ..._shared.checks import function
from ..._shared.devices import tensor_on
from ..._shared.errors import DerivativeError
from ..._shared.levels import laid_out
from ..._shared.maps import channel_sum, spatial_mean, spatial_sum, weighted_sum, widen
from ..._shared.pullback import pullback, slope_and_curvature
from ..._shared.quadrature import gauss_legendre
from ..._shared.rows import ChunkSize, Progress, no_nan, one_score, refusing_chance, run_in_chunks
from .._checks import TAIL, at_least_one, checked


def shapley_cam(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    tail: Callable[[Tensor], Tensor],
    elementwise: bool = False,
) -> Tensor:
    """ShapleyCAM: channels weighted by their second-order Shapley value.

    `L(p) = sum_k alpha_k A_k(p)` with `alpha_k = mean_p (g - H A / 2)_kp`, `g` the gradient and `H` the Hessian of the
    score at the activations. `elementwise=True` is the HiResCAM form `L(p) = sum_k (g - H A / 2)_kp A_k(p)`: over a
    tail of degree two its terms are the Shapley values of the activations against zero, and sum to `u(A) - u(0)`.
    Where the tail is linear in pieces and the score a logit, `H A = 0` and the map is that of Grad-CAM (or HiResCAM).
    The paper's target is `targets.rest`. Its outer ReLU is not applied.

    `g` and `H A` come from one forward-over-reverse pass through the tail, about two backwards; `grads` are not needed.
    Where an operation has no forward derivative, they come from two backwards. A fused attention kernel allows neither
    and needs the math kernel:
    `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`. pytorch-grad-cam has the method; its ReST target subtracts the
    mean cross-entropy of the batch.

    Source: arXiv 2501.06261.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: not used.
        outputs: not used.
        tail: the network after the layer and the target, activations (B, C, *S) to scores (B,); must be twice
            differentiable.
        elementwise: weight place by place instead of by the channel's mean.

    Returns:
        The raw signed map, (B, *S).

    Raises:
        CamfnError: if the tail does not return one score a sample, or NaN, or for a derivative that is NaN.
        DerivativeError: if the tail has an operation without a second derivative.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[1.0, 3.0], [2.0, 0.0]]])
        >>> shapley_cam(activations, tail=lambda a: a[:, 0].prod(1), elementwise=True)  # 3, shared evenly
        tensor([[1.5000, 1.5000]])
    """

    checked("shapley_cam", activations)
    function("shapley_cam: tail", tail, TAIL)

    def scored(a: Tensor) -> Tensor:
        return one_score("shapley_cam: tail", tail(a), a.shape[0])

    try:
        scores, gradient, curved = slope_and_curvature(scored, activations)
    except DerivativeError:
        raise
    except RuntimeError as error:
        if not _has_no_second(error):
            raise
        raise DerivativeError(
            "shapley_cam: the tail has an operation without a second derivative. If it is fused attention, run it as "
            "with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH): ...; if it pools boxes, as "
            "torchvision's two-stage detectors do, take lift_cam"
        ) from error
    no_nan("shapley_cam: tail", scores[:, None], activations)
    a, g, ha = widen(activations, gradient, curved)
    alpha = no_nan("shapley_cam: the derivative of tail", g - ha / 2, activations)
    map_ = channel_sum(alpha * a) if elementwise else weighted_sum(a, spatial_mean(alpha))
    return map_.to(activations.dtype)


def lift_cam(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    tail: Callable[[Tensor], Tensor],
    steps: int = 8,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """LIFT-CAM: channels weighted by their contributions to the score, measured from zero activations.

    `L(p) = sum_k w_k A_k(p)` with `w_k = sum_p A_k(p) integral_0^1 g_k(t A)(p) dt`, the Aumann-Shapley value of the
    channel on the straight line from 0 to A. A sum over `steps` Gauss-Legendre nodes gives the integral, each node a
    forward and a backward of the tail: exact for scores that are polynomials in t of degree `2 steps` or less. The
    weights sum to
    `u(A) - u(0)`. The paper's outer ReLU is not applied. No peer has the method.

    The authors run DeepLIFT (the rescale rule, zero reference) on the pooling and the classifier. That rule needs every
    nonlinearity of the tail one by one, which a function does not show. On the line, the two agree where the
    tail is affine (`w_k = sum_p g A`, the Shapley value, and the drop of Ablation-CAM), and where it has one layer of
    element-wise nonlinearities between affine ones (the rescale multiplier is the mean slope on the line); for deeper
    tails, softmaxed scores and max pooling they are two approximations of one Shapley value. For scores of
    degree two, too, the weights are the exact Shapley values.

    Source: arXiv 2102.05228 for the weights by DeepLIFT; the path integral in its place is camfn's.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: not used.
        outputs: not used.
        tail: the network after the layer and the target, activations (B, C, *S) to scores (B,); runs under
            `torch.vmap` where it can.
        steps: nodes of the integral; 1 is exact over an affine tail. Tails with many ReLUs want more.
        chunk_size: nodes evaluated at once; None is all, "auto" as many as memory allows.
        progress: called with the nodes done and `steps`.

    Returns:
        The raw signed map, (B, *S).

    Raises:
        CamfnError: if the tail does not return one score a sample, or NaN, for a derivative that is NaN, or `steps`
            below 1.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[1.0, 3.0], [2.0, 2.0]]])
        >>> lift_cam(activations, tail=lambda a: a[:, 0].sum(1) * a[:, 1].sum(1)).round()  # 16, shared evenly
        tensor([[24., 40.]])
    """
    at_least_one("lift_cam", steps=steps)
    function("lift_cam: tail", tail, TAIL)
    nodes, lengths = gauss_legendre(steps)
    a = checked("lift_cam", activations)

    def contribution(t: Tensor) -> Tensor:
        """Return `sum_p A_k g_k(t A)` for each channel, and the score beside it: (B, C + 1)."""
        scores, pull = pullback(tail, laid_out(activations * t))
        slope = pull(torch.ones_like(one_score("lift_cam: tail", scores, a.shape[0])))
        return torch.cat([spatial_sum(a * widen(slope)), scores[:, None].to(a.dtype)], 1)

    rows = tensor_on(nodes, activations.device, activations.dtype)
    with refusing_chance("lift_cam: tail", tail):
        terms = run_in_chunks(contribution, rows, chunk_size=chunk_size, progress=progress)
    no_nan("lift_cam: tail", terms[..., -1].mT, activations)
    weights = einsum(terms[..., :-1], tensor_on(lengths, a.device, a.dtype), "n b c, n -> b c")
    no_nan("lift_cam: the derivative of tail", weights, activations)
    return weighted_sum(a, weights).to(activations.dtype)


def _has_no_second(error: RuntimeError) -> bool:
    """Whether an operation was met that cannot be differentiated twice."""
    return isinstance(error, NotImplementedError) or any(
        text in str(error) for text in ("not implemented", "not supported", "not differentiable twice")
    )
