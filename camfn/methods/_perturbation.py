"""Methods that change the activations or the input and look at the score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from .._maps import resize, safe_divide, spatial_sum, weighted_sum, widen


def ablation_cam(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    tail: Callable[[Tensor], Tensor],
    slope: Literal["score", "l1"] | None = None,
    chunk_size: int | None = 32,
) -> Tensor:
    """Ablation-CAM: channels weighted by how far the score drops without them.

    `L(p) = sum_k w_k A_k(p)` with the drop `w_k = y - y^(k)`, where `y^(k)` is the score with `A_k := 0`. The paper's
    outer ReLU is not applied. C + 1 runs of the tail. Over a head that is affine in the activations the drop is
    `sum_p g A`.

    The paper's slope divides the drop by a norm of `A_k` ("l1" here), and in practice by `y`. A division by the signed
    score inverts the map when `y < 0`, as pytorch-grad-cam's does: "score" divides by `|y|`. A positive factor per
    sample does not change a rescaled map, so the default is the drop itself. The peer does not set channels to 0 but
    to large negative values that depend on the place in the batch; not here.

    Source: Desai and Ramaswamy, Ablation-CAM, WACV 2020.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: not used.
        outputs: not used.
        tail: the network after the layer and the target, activations (B, C, *S) to scores (B,); must run under
            `torch.vmap`.
        slope: None for the drop, "score" for the drop over `|y|`, "l1" for the drop over `sum_p |A_k|`; 0 where the
            divisor is 0.
        chunk_size: channels ablated at once, so that `chunk_size * B` samples go through the tail; None is all C at
            once.

    Returns:
        The raw signed map, (B, *S).

    Raises:
        ValueError: if the tail does not return one score a sample, or for an unknown slope.

    Example:
        >>> activations = torch.tensor([[[1.0, 3.0], [1.0, 1.0]]])
        >>> ablation_cam(activations, tail=lambda a: 2 * a[:, 0].sum(1) - a[:, 1].sum(1))  # drops 8, -2
        tensor([[ 6., 22.]])
    """
    if slope not in (None, "score", "l1"):
        raise ValueError(f"ablation_cam: slope: expected None, 'score' or 'l1', got {slope!r}")
    batch, channels = activations.shape[:2]
    index = torch.arange(channels, device=activations.device)

    def ablated(channel: Tensor) -> Tensor:
        kept = (index != channel).reshape(channels, *(1,) * (activations.ndim - 2))
        return tail(torch.where(kept, activations, 0.0))

    score = _scores("ablation_cam: tail", tail(activations), batch)
    a, y, without = widen(activations, score, torch.vmap(ablated, out_dims=1, chunk_size=chunk_size)(index))
    weights = y[:, None] - without
    if slope == "score":
        weights = safe_divide(weights, y.abs()[:, None])
    elif slope == "l1":
        weights = safe_divide(weights, spatial_sum(a.abs()))
    return weighted_sum(a, weights.to(a.dtype)).to(activations.dtype)


def score_cam(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    form: Literal["softmax", "score"] = "softmax",
    chunk_size: int | None = 32,
) -> Tensor:
    """Score-CAM: channels weighted by the score of the input seen through them.

    `L(p) = sum_k w_k A_k(p)` at the layer's resolution, with the scores `y_k = forward(inputs * H_k)` of the masks
    `H_k = minmax(upsample(A_k))`; the mask of a constant channel is 0. The paper's outer ReLU is not applied. C
    forwards.

    The paper has two forms. "softmax" is its Algorithm 1: `w = softmax_k(y_k)` with the logit as the score; the score
    of the baseline cancels. "score" is the authors' code and the paper's text: `w_k = y_k`, without a softmax over
    channels or a baseline, and 0 for a constant channel; take `targets.class_probability` as the target. Masks are
    rescaled after upsampling, with pixel centers at half integers, as the paper and its code do; pytorch-grad-cam
    aligns corners, torch-cam rescales first. The authors' code adds up upsampled channels, here the map stays at the
    layer's resolution.

    Source: arXiv 1910.01279 v2, eq. 6 to 10 and Algorithm 1.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: not used.
        outputs: not used.
        forward: the whole network and the target, inputs to scores (B,); must run under `torch.vmap`.
        inputs: (B, channels, *T), what the network was run on, with as many spatial dimensions as the activations.
        form: "softmax" or "score".
        chunk_size: channels tried at once, so that `chunk_size * B` masked inputs exist at a time; None is all C at
            once.

    Returns:
        The raw map, (B, *S).

    Raises:
        ValueError: if `forward` does not return one score a sample, the inputs have other spatial dimensions than the
            activations, or for an unknown form.

    Example:
        >>> activations = torch.tensor([[[0.0, 1.0], [5.0, 5.0]]])  # masks (0, 1) and 0
        >>> image = torch.tensor([[[2.0, 3.0]]])
        >>> score_cam(activations, forward=lambda x: x.sum((1, 2)), inputs=image, form="score")
        tensor([[0., 3.]])
    """
    if form not in ("softmax", "score"):
        raise ValueError(f"score_cam: form: expected 'softmax' or 'score', got {form!r}")
    if inputs.ndim != activations.ndim or inputs.shape[0] != activations.shape[0]:
        raise ValueError(
            f"score_cam: expected inputs (B, channels, *T) with the batch and the number of spatial dimensions of the "
            f"activations, {tuple(activations.shape)}; got {tuple(inputs.shape)}"
        )
    (a,) = widen(activations)
    space = tuple(range(2, a.ndim))
    # min-max does not see a shift; taken off before the resizing it leaves a constant channel exactly 0, not noise
    raised = a - a.amin(space, keepdim=True)

    def masked(channel: Tensor) -> Tensor:
        mask = _minmax(resize(channel[:, None], inputs.shape[2:]))
        return _scores("score_cam: forward", forward(inputs * mask.to(inputs.dtype)), inputs.shape[0])

    (scores,) = widen(torch.vmap(masked, in_dims=1, out_dims=1, chunk_size=chunk_size)(raised))
    weights = scores.softmax(1) if form == "softmax" else torch.where(raised.amax(space) > 0, scores, 0.0)
    return weighted_sum(a, weights.to(a.dtype)).to(activations.dtype)


def _minmax(maps: Tensor) -> Tensor:
    """Rescale each map of (B, 1, *S) to [0, 1]; a constant one to 0."""
    space = tuple(range(2, maps.ndim))
    low = maps.amin(space, keepdim=True)
    return safe_divide(maps - low, maps.amax(space, keepdim=True) - low)


def _scores(what: str, scores: Any, batch: int) -> Tensor:
    """Refuse anything but one score a sample."""
    if isinstance(scores, Tensor) and tuple(scores.shape) == (batch,):
        return scores
    got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
    raise ValueError(
        f"{what} must return one score a sample, shape ({batch},); it returned {got}. "
        "For example lambda a: network_after(a)[:, 281]"
    )
