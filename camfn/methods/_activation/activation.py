"""Methods that need the activations alone, and weights that no gradient determines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._shared.checks import number, same_device, shapes_agree, tensor
from ..._shared.devices import brought
from ..._shared.errors import CamfnError
from ..._shared.maps import over_space, spatial_mean, weighted_sum
from ..._shared.noise import draw_uniform, one_source
from .._checks import checked


def cam(activations: Tensor, grads: Tensor | None = None, outputs: Any = None, *, weights: Tensor) -> Tensor:
    """CAM: the class's row of the linear head applied at every position.

    `L(p) = sum_k w_k A_k(p)`, for a network that ends in global average pooling and one linear layer, captured before
    the pooling. Its mean over positions is the logit less the bias, exactly. The paper has no ReLU, and none is
    applied. torch-cam has the method as well (its documentation adds a ReLU, its code does not), pytorch-grad-cam not.

    Source: arXiv 1512.04150, the section on class activation mapping.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: not used.
        outputs: not used.
        weights: (C,), the row of the head for one class, as in `model.fc.weight[281]`; or (B, C), a row a sample.

    Returns:
        The raw signed map, (B, *S).

    Raises:
        CamfnError: for weights of another shape.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
        >>> cam(activations, weights=torch.tensor([3.0, -1.0]))
        tensor([[ 3., -2.]])
    """
    a = checked("cam", activations)
    batch, channels = activations.shape[:2]
    tensor("cam: weights", weights, "for example weights=model.fc.weight[281]")
    same_device("cam: weights", weights, activations, "activations")
    if not weights.is_floating_point() or tuple(weights.shape) not in ((channels,), (batch, channels)):
        raise CamfnError(
            f"cam: expected weights of shape ({channels},), one class's row of the linear head, or "
            f"({batch}, {channels}), a row a sample; got {tuple(weights.shape)} of {weights.dtype}. "
            "For example weights=model.fc.weight[281]"
        )
    return weighted_sum(a, weights.to(a).expand(batch, channels)).to(activations.dtype)


def fem(activations: Tensor, grads: Tensor | None = None, outputs: Any = None, *, k: float = 2.0) -> Tensor:
    """FEM: channel means counted where a channel is strongly active.

    `L(p) = sum_k mu_k [A_k(p) >= mu_k + K sigma_k]`, with the mean and the (population) standard deviation of each
    channel over positions. There is no ReLU. Class-agnostic. pytorch-grad-cam differs: it multiplies the activations
    by the fraction of positions above the threshold; here the binary maps are weighted by the means, as in the paper.

    Source: Feature Explanation Method, IPTA 2020 (hal-02963298).

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: not used.
        outputs: not used.
        k: the number K of standard deviations above the mean; 2 in the paper.

    Returns:
        The raw map, (B, *S); not negative where the channel means are not.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[0.0, 0.0, 0.0, 4.0]]])  # mean 1, deviation sqrt(3)
        >>> fem(activations, k=1.0)
        tensor([[0., 0., 0., 1.]])
    """
    a = checked("fem", activations)
    number("fem: k", k)
    space = tuple(range(2, a.ndim))
    # rounding may move a mean beyond the extremes; the mean of a constant channel must be the constant
    mean = spatial_mean(a).clamp(a.amin(space), a.amax(space))
    deviation = a - over_space(mean, a)
    sigma = spatial_mean(deviation.square()).sqrt()
    active = deviation >= k * over_space(sigma, a)
    return weighted_sum(active.to(a.dtype), mean).to(activations.dtype)


def random_cam(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    generator: torch.Generator | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Random-CAM: channels weighted by noise, the control that a method must beat.

    `L(p) = sum_k w_k A_k(p)` with `w_k` uniform in (-1, 1). No outer ReLU is applied. pytorch-grad-cam draws from
    numpy's global state; here the noise comes from a generator, or is given. Under `vmap` and `torch.compile` give the
    weights.

    Source: the baseline of pytorch-grad-cam; no paper.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: not used.
        outputs: not used.
        generator: draws the weights on its own device, in float32 whatever the activations are.
        weights: (B, C), the weights themselves, in place of a generator.

    Returns:
        The raw signed map, (B, *S).

    Raises:
        CamfnError: if neither or both of `generator` and `weights` are given, or for weights of another shape.

    Example:
        >>> import torch
        >>> activations = torch.ones(1, 3, 2)
        >>> first = random_cam(activations, generator=torch.Generator().manual_seed(0))
        >>> torch.equal(first, random_cam(activations, generator=torch.Generator().manual_seed(0)))
        True
    """
    a = checked("random_cam", activations)
    shape = tuple(activations.shape[:2])
    source = one_source("random_cam", generator, weights, name="weights", arguments="activations")
    weights = source if isinstance(source, Tensor) else 2 * draw_uniform(shape, source) - 1
    shapes_agree("random_cam: weights (B, C)", weights.shape, shape)
    return weighted_sum(a, brought(weights, a)).to(activations.dtype)
