"""Seg-XRes-CAM: gradients pooled over windows, between HiResCAM and Grad-CAM."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from ..._shared.checks import one_of
from ..._shared.maps import channel_sum
from .._checks import at_least_one, checked


def seg_xres_cam(
    activations: Tensor,
    grads: Tensor,
    outputs: Any = None,
    *,
    pool: int = 2,
    how: Literal["mean", "max"] = "mean",
) -> Tensor:
    """Seg-XRes-CAM: gradient times activation, the gradient pooled over windows.

    `L(p) = sum_k pooled(g_k)(p) A_k(p)`, where each position has the mean (or the maximum) of the gradient over its
    window of `pool` positions along each dimension. Windows lie side by side from the first corner; the last ones may
    be smaller. A window of one position is HiResCAM; one window over the whole map, with the mean, is Grad-CAM. The
    paper's target is the sum of a class's logits over a part of the image, `targets.mask_score`; its ReLU is not
    applied.

    The authors' code fills the last windows with zeros, and stretches the pooled gradients to the layer's size, which
    is the same where `pool` divides it.

    Source: the authors' code of Seg-XRes-CAM (CVPR 2023 workshops), for-submission-2023/Seg-XRes-CAM-23.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: (B, C, *S), derivative of each sample's score.
        outputs: not used.
        pool: positions of a window along each dimension.
        how: "mean" or "max".

    Returns:
        The raw signed map, (B, *S).

    Raises:
        CamfnError: `pool` below 1, or another `how`.

    Example:
        >>> import torch
        >>> activations, grads = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[4.0, 2.0, 1.0]]])
        >>> seg_xres_cam(activations, grads)  # gradients 3, 3, 1
        tensor([[3., 6., 3.]])
    """
    at_least_one("seg_xres_cam", pool=pool)
    one_of("seg_xres_cam: how", how, ("mean", "max"))
    a, g = checked("seg_xres_cam", activations, grads)
    for dim in range(2, g.ndim):
        g = _pooled(g.movedim(dim, -1), pool, how).movedim(-1, dim)
    return channel_sum(g * a).to(activations.dtype)


def _pooled(x: Tensor, pool: int, how: str) -> Tensor:
    """Give each position of the last dimension the mean or maximum of its window."""
    side = x.shape[-1]
    # one window more where `pool` divides the side: a graph of open sizes need not ask whether it does
    cells = side // pool + 1
    filled = functional.pad(x, (0, cells * pool - side), value=0.0 if how == "mean" else -torch.inf)
    parts = filled.reshape(*x.shape[:-1], cells, pool)
    sizes = (side - pool * torch.arange(cells, device=x.device)).clamp(1, pool)
    values = parts.sum(-1) / sizes if how == "mean" else parts.amax(-1)
    return values[..., None].expand_as(parts).flatten(-2)[..., :side]
