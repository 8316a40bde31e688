"""Methods that are arithmetic on the activations A and the gradients g = d score / d A.

In the equations k is a channel, p a position, N the number of positions, and the score is a logit unless the text says
otherwise. Where a paper wraps its map in an outer ReLU, the method keeps the sign; `camfn.image.normalize` clips it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..._shared.maps import channel_sum, over_space, safe_divide, spatial_mean, spatial_sum, weighted_sum
from .._checks import checked


def grad_cam(activations: Tensor, grads: Tensor, outputs: Any = None) -> Tensor:
    """Grad-CAM: channels weighted by the mean of their gradient.

    `L(p) = sum_k w_k A_k(p)` with `w_k = mean_p g_k(p)`. The paper's outer ReLU is not applied. The peers compute the
    same map and add the ReLU and a min-max; the paper's counterfactual map is the map of the negative score.

    Source: arXiv 1610.02391, the section on Grad-CAM.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: (B, C, *S), derivative of each sample's score.
        outputs: not used.

    Returns:
        The raw signed map, (B, *S).

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])  # B=1, C=2, S=(2,)
        >>> grads = torch.tensor([[[1.0, 3.0], [-1.0, -1.0]]])
        >>> grad_cam(activations, grads)
        tensor([[ 2., -2.]])
    """
    a, g = checked("grad_cam", activations, grads)
    return weighted_sum(a, spatial_mean(g)).to(activations.dtype)


def hires_cam(activations: Tensor, grads: Tensor, outputs: Any = None) -> Tensor:
    """HiResCAM: gradient times activation, summed over channels.

    `L(p) = sum_k g_k(p) A_k(p)`. The paper and the authors' code have no outer ReLU, and none is applied here: over an
    affine head the map sums to the score less its bias, which holds for the signed map only. The peers force one.

    Source: arXiv 2011.08891, the section on HiResCAM.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: (B, C, *S), derivative of each sample's score.
        outputs: not used.

    Returns:
        The raw signed map, (B, *S).

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
        >>> grads = torch.tensor([[[1.0, 3.0], [-1.0, -1.0]]])
        >>> hires_cam(activations, grads)
        tensor([[ 1., -2.]])
    """
    a, g = checked("hires_cam", activations, grads)
    return channel_sum(g * a).to(activations.dtype)


def elementwise_grad_cam(activations: Tensor, grads: Tensor, outputs: Any = None) -> Tensor:
    """Element-wise Grad-CAM: the positive part of gradient times activation, summed over channels.

    `L(p) = sum_k ReLU(g_k(p) A_k(p))`. The ReLU is inside the sum and part of the formula, so the map is never
    negative. For activations that are not negative it is LayerCAM exactly.

    Source: Pillai and Pirsiavash, Explainable Models with Consistent Interpretations, AAAI 2021.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: (B, C, *S), derivative of each sample's score.
        outputs: not used.

    Returns:
        The raw map, (B, *S), not negative.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[1.0, 0.0], [0.0, -2.0]]])
        >>> grads = torch.tensor([[[1.0, 3.0], [-1.0, -1.0]]])
        >>> elementwise_grad_cam(activations, grads)
        tensor([[1., 2.]])
    """
    a, g = checked("elementwise_grad_cam", activations, grads)
    return channel_sum((g * a).relu()).to(activations.dtype)


def grad_cam_plusplus(activations: Tensor, grads: Tensor, outputs: Any = None, *, normalized: bool = False) -> Tensor:
    """Grad-CAM++: channels weighted by their positive gradients, each place with its own coefficient.

    `L(p) = sum_k w_k A_k(p)` with `w_k = sum_p alpha_k(p) ReLU(g_k(p))` and `alpha_k(p) = g^2 / (2 g^2 + S_k g^3)`,
    `S_k = sum_p A_k(p)` over all positions; 0 where `g = 0` or the denominator is. The paper's outer ReLU is not
    applied.

    The paper explains `Y = exp(score)`; the common factor `exp(score) > 0` of a sample's map is dropped, as both peers
    do. The authors' code also divides alpha by its sum over positions: `normalized=True`. Both peers add an absolute
    eps next to `g^2`, which dominates for the small gradients of pooled heads and makes the map depend on the scale
    of a channel; torch-cam moreover sums `g^3 A` in place of `g^3 S_k` and loses the division. camfn does neither.

    Source: arXiv 1710.11063, eq. 19; the authors' code for the normalized form.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: (B, C, *S), derivative of each sample's score (the logit, not its exponential).
        outputs: not used.
        normalized: divide alpha by its sum over positions, as the authors' code does. The paper's equations do not.

    Returns:
        The raw map, (B, *S).

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[1.0, 1.0]]])
        >>> grads = torch.tensor([[[1.0, -3.0]]])
        >>> grad_cam_plusplus(activations, grads)  # alpha = 1/4, -1/4
        tensor([[0.2500, 0.2500]])
    """
    a, g = checked("grad_cam_plusplus", activations, grads)
    # alpha = g^2 / (2 g^2 + S g^3) = 1 / (2 + S g) where g != 0: the powers of a small gradient would underflow
    denominator = 2 + over_space(spatial_sum(a), g) * g
    weights = spatial_sum(safe_divide(g.relu(), denominator))
    if normalized:
        weights = safe_divide(weights, spatial_sum(safe_divide((g != 0).to(g.dtype), denominator)))
    return weighted_sum(a, weights).to(activations.dtype)


def xgrad_cam(activations: Tensor, grads: Tensor, outputs: Any = None) -> Tensor:
    """XGrad-CAM: channels weighted by their gradient, averaged with the activations as weights.

    `L(p) = sum_k w_k A_k(p)` with `w_k = sum_p g_k A_k / sum_p A_k`, and 0 for a channel whose activations sum to 0.
    The paper's outer ReLU is not applied. The map always sums to `sum(g A)`, as HiResCAM does.

    The authors' code and both peers add an eps to the signed sum; here the division is exact. After layers with signed
    outputs (LayerNorm, GELU) that sum can be close to 0 and the formula itself is then unstable: take HiResCAM there.

    Source: arXiv 2008.02312, the section on XGrad-CAM.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: (B, C, *S), derivative of each sample's score.
        outputs: not used.

    Returns:
        The raw signed map, (B, *S).

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[1.0, 3.0]]])
        >>> grads = torch.tensor([[[2.0, -2.0]]])
        >>> xgrad_cam(activations, grads)  # w = (2 - 6) / 4
        tensor([[-1., -3.]])
    """
    a, g = checked("xgrad_cam", activations, grads)
    weights = safe_divide(spatial_sum(g * a), spatial_sum(a))
    return weighted_sum(a, weights).to(activations.dtype)


def layer_cam(activations: Tensor, grads: Tensor, outputs: Any = None) -> Tensor:
    """LayerCAM: activations weighted place by place by their positive gradients.

    `L(p) = sum_k ReLU(g_k(p)) A_k(p)`. The inner ReLU is part of the formula; the paper's outer ReLU is not applied;
    it changes nothing where activations are not negative. The authors' code leaves it out as well. Fusing several
    layers (tanh, then the maximum) is a step of its own, not part of a layer's map.

    Source: Jiang et al., LayerCAM, IEEE Transactions on Image Processing 2021.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: (B, C, *S), derivative of each sample's score.
        outputs: not used.

    Returns:
        The raw map, (B, *S); not negative where the activations are not.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[1.0, 3.0], [1.0, 1.0]]])
        >>> grads = torch.tensor([[[2.0, -2.0], [0.5, 0.5]]])
        >>> layer_cam(activations, grads)
        tensor([[2.5000, 0.5000]])
    """
    a, g = checked("layer_cam", activations, grads)
    return channel_sum(g.relu() * a).to(activations.dtype)


def odam(activations: Tensor, grads: Tensor, outputs: Any = None) -> Tensor:
    """ODAM: the positive part of gradient times activation, summed over channels, for one number of one box.

    `L(p) = ReLU(sum_k g_k(p) A_k(p))`: HiResCAM with the outer ReLU, which is part of the formula here, under a target
    of a detector (`targets.box_score`): a box's gradient lies at a few places, and its mean, Grad-CAM's weight, forgets
    which. All boxes of an image cost one forward, by `vmap` over boxes or `capture_each`.

    Levels of a feature pyramid are layers of their own: `transforms.fuse(odam, model, levels, how="max",
    scaling="none")` takes the largest value at each place. The authors' code takes the level that the box comes from;
    the others' maps are zero unless the levels meet in the layers between. pytorch-grad-cam's recipe for Faster R-CNN
    takes absolute values, in which what speaks against a box looks like what speaks for it.

    Source: arXiv 2304.06354 and the authors' code.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: (B, C, *S), derivative of each sample's score.
        outputs: not used.

    Returns:
        The raw map, (B, *S), not negative.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
        >>> grads = torch.tensor([[[1.0, 3.0], [-1.0, -1.0]]])
        >>> odam(activations, grads)
        tensor([[1., 0.]])
    """
    a, g = checked("odam", activations, grads)
    return channel_sum(g * a).relu().to(activations.dtype)


def bag_cam(activations: Tensor, grads: Tensor, outputs: Any = None) -> Tensor:
    """BagCAMs: the regional classifiers of every channel, each place weighing the products of all places.

    `L(p) = sum_k ReLU( mean_q(1 + t_k(q)) t_k(p) )` with `t = g A`. The ReLU is inside the sum and part of the formula.

    Expects the gradient of the *logarithm* of the class score: take `targets.class_log_probability`, or the logarithm
    of a positive logit as the authors' code does (`class_score(c).log()`). The two give different maps.
    A plain logit gives a map of this form too, but not the paper's. No peer has it.

    Source: arXiv 2207.07818; the formula as in the authors' code.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: (B, C, *S), derivative of the logarithm of each sample's class score.
        outputs: not used.

    Returns:
        The raw map, (B, *S), not negative.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[1.0, 2.0]]])
        >>> grads = torch.tensor([[[1.0, 0.5]]])
        >>> bag_cam(activations, grads)  # t = 1, 1
        tensor([[2., 2.]])
    """
    a, g = checked("bag_cam", activations, grads)
    t = g * a
    return channel_sum((over_space(spatial_mean(1 + t), t) * t).relu()).to(activations.dtype)
