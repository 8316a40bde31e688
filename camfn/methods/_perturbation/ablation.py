"""Ablation-CAM: channels weighted by how far the score drops without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..._shared.checks import function, one_of
from ..._shared.devices import tensor_on
from ..._shared.errors import ArgumentTypeError, CamfnError
from ..._shared.maps import over_space, safe_divide, spatial_sum, weighted_sum, widen
from ..._shared.rows import ChunkSize, Progress, constant, no_nan, one_score, readable, score_variants
from .._checks import TAIL, broadcastable, checked
from .ablated import Ablated
from .affine import affine_at, gradient_of
from .channels import strongest


def ablation_cam(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    tail: Callable[[Tensor], Tensor],
    slope: Literal["score", "l1"] | None = None,
    channels: Sequence[int] | Tensor | None = None,
    top_k: float | None = None,
    baseline: float | Tensor = 0.0,
    closed_form: bool | None = None,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Ablation-CAM: channels weighted by how far the score drops without them.

    `L(p) = sum_k w_k A_k(p)` with the drop `w_k = y - y^(k)`, where `y^(k)` is the score with `A_k := 0`. The paper's
    outer ReLU is not applied. C + 1 runs of the tail; a channel that is 0 everywhere needs none. Over a
    head that is affine in the activations the drop is `sum_p g A`: two runs of the tail and one backward.

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
        slope: None for the drop, "score" for the drop over `|y|`, "l1" for the drop over `sum_p |A_k|`, or
            `sum_p |A_k - baseline|`; 0 where the divisor is 0.
        channels: indices of those to ablate, (n,), the same for all samples; the others weigh 0. None is all.
        top_k: how many channels to ablate, each sample's with the largest `sum_p A_k^2`: an int, or a float in (0, 1]
            for a share of them; the others weigh 0. None is all.
        baseline: what a channel is set to, a number or a tensor that broadcasts to the activations: (B, C, 1, 1) holds
            one number a channel.
        closed_form: True takes `sum_p g (A - baseline)` for the drop, False runs the tail. None takes it if the
            operations of the tail show that it is affine, and the drops then add up to the drop of all channels;
            where the tail cannot be watched (while compiling, under `vmap`), None runs the tail.
        chunk_size: channels ablated at once, so that `chunk_size * B` samples go through the tail; None is all C at
            once, "auto" what fits a quarter of the free memory.
        progress: called with (channels done, channels in all) after each chunk.

    Returns:
        The raw signed map, (B, *S).

    Raises:
        CamfnError: if the tail does not return one score a sample, or NaN for finite activations; for no channels,
            one out of range, or both `channels` and `top_k`; for a baseline that does not broadcast, an unknown slope
            or chunk size.

    Example:
        >>> activations = torch.tensor([[[1.0, 3.0], [1.0, 1.0]]])
        >>> ablation_cam(activations, tail=lambda a: 2 * a[:, 0].sum(1) - a[:, 1].sum(1))  # drops 8, -2
        tensor([[ 6., 22.]])
    """
    checked("ablation_cam", activations)
    one_of("ablation_cam: slope", slope, (None, "score", "l1"))
    one_of("ablation_cam: closed_form", closed_form, (None, True, False))
    function("ablation_cam: tail", tail, TAIL)
    index = _indices(channels, top_k, activations)
    base = broadcastable("ablation_cam: baseline", baseline, activations, "activations")
    if closed_form is None and readable(activations, base):
        score, drops = drops_if_affine(tail, activations, base)
    else:
        score, drops = tail(activations), _affine_drops(tail, activations, base) if closed_form else None
    no_nan("ablation_cam: tail", one_score("ablation_cam: tail", score, activations.shape[0]), activations)
    if drops is None:
        drops = _drops(tail, activations, base, index, score, chunk_size, progress)
    elif channels is not None or top_k is not None:
        chosen = index.mT.expand(drops.shape[0], -1)
        drops = torch.zeros_like(drops).scatter(1, chosen, drops.gather(1, chosen))
    a, b, y, weights = widen(activations, base, score, drops)
    if slope == "score":
        weights = safe_divide(weights, y.abs()[:, None])
    elif slope == "l1":
        weights = safe_divide(weights, spatial_sum((a - b).abs()))
    return weighted_sum(a, weights.to(a.dtype)).to(activations.dtype)


def _drops(
    tail: Callable[[Tensor], Tensor],
    activations: Tensor,
    base: Tensor,
    index: Tensor,
    score: Tensor,
    chunk_size: ChunkSize,
    progress: Progress | None,
) -> Tensor:
    """Return the drops `y - y^(k)` for the channels in `index`, (n, 1) or (n, B), and 0 for the others: (B, C)."""
    batch = activations.shape[0]
    if constant(activations, base):
        changed = (activations != base).flatten(2).any(2).mT.gather(0, index.expand(-1, batch))
        index = index[changed.any(1)]
    y = widen(score)
    zeros = torch.zeros(activations.shape[:2], dtype=y.dtype, device=y.device)
    if not index.shape[0]:
        return zeros

    filled = base.expand_as(activations)

    def ablated(channel: Tensor) -> Tensor:
        """Return the activations with one channel of the baseline, the same for all samples or each sample's own."""
        if index.shape[1] == 1:
            # three times faster than a `where` over all channels
            return activations.index_copy(1, channel, filled.index_select(1, channel))
        place = over_space(channel[:, None], activations).expand(-1, 1, *activations.shape[2:])
        return activations.scatter(1, place, filled.gather(1, place))

    def run_many(score_many: Callable[[Tensor], Tensor], part: Tensor) -> Tensor:
        """Score the activations with each channel of the part ablated, as one batch."""
        if not readable(activations):
            # a graph has no use for a copy that is written to, channel by channel
            own = torch.arange(activations.shape[1], device=activations.device) == part[..., None]
            own = own.reshape(*own.shape, *(1,) * (activations.ndim - 2))
            return score_many(torch.where(own, filled, activations))
        # in the memory format that `score_many` wants, so that it makes no copy
        images = getattr(tail, "has_convolutions_left", False)
        return Ablated(activations, filled, part, has_convolutions_left=images).through(score_many)

    without = score_variants(
        "ablation_cam: tail", tail, ablated, index, run_many=run_many, chunk_size=chunk_size, progress=progress
    )
    without = no_nan("ablation_cam: tail", without.movedim(0, 1), activations)
    return zeros.scatter(1, index.mT.expand(batch, -1), y[:, None] - widen(without))


def drops_if_affine(
    tail: Callable[[Tensor], Tensor], activations: Tensor, base: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return the scores of a tail, and its drops (B, C) in closed form if the tail shows that it is affine."""
    score, affine = affine_at(tail, activations)
    if not affine or getattr(score, "shape", None) != activations.shape[:1]:
        return score, None
    drops = _affine_drops(tail, activations, base)
    return score, drops if _adds_up(drops, score, tail(base.expand_as(activations))) else None


def _affine_drops(tail: Callable[[Tensor], Tensor], activations: Tensor, base: Tensor) -> Tensor:
    """Return the drops `sum_p g (A - baseline)` of an affine tail, (B, C)."""
    a, g, b = widen(activations, gradient_of(tail, activations), base)
    return spatial_sum(g * (a - b))


def _adds_up(drops: Tensor, score: Tensor, without_any: Tensor) -> bool:
    """Whether the drops add up to `y - y(all channels ablated)`, but for rounding.

    They do if the tail is affine and does not mix samples, so that a wrong sum shows a detach or a mean over the batch.
    """
    drop = widen(score) - widen(without_any)
    slack = torch.finfo(score.dtype).eps ** 0.5
    scale = drops.abs().sum(1) + widen(score).abs()
    return bool(((drops.sum(1) - drop).abs() <= slack * scale).logical_or(~drop.isfinite()).all())


def _indices(channels: Sequence[int] | Tensor | None, top_k: float | None, activations: Tensor) -> Tensor:
    """Return the channels as non-negative indices: (n, 1) for all samples, or (n, B) where each has its own."""
    count = activations.shape[1]
    if channels is not None and top_k is not None:
        raise CamfnError("ablation_cam: expected channels, or top_k, which chooses them; got both")
    if top_k is not None:
        return strongest("ablation_cam", activations, top_k).mT
    if channels is None:
        return torch.arange(count, device=activations.device)[:, None]
    expected = f"ablation_cam: channels: expected indices (n,), at least one, of the {count} channels"
    plain = isinstance(channels, (list, tuple, range)) and all(type(channel) is int for channel in channels)
    if not isinstance(channels, Tensor) and not plain:
        raise ArgumentTypeError(f"{expected}; got {channels!r:.60}")
    index = tensor_on(channels, activations.device)
    if index.ndim != 1 or not index.shape[0]:
        raise CamfnError(f"{expected}; got shape {tuple(index.shape)}")
    if index.is_floating_point() or index.dtype is torch.bool:
        raise CamfnError(f"{expected}; got {index.dtype}")
    if readable(index) and not bool(((index >= -count) & (index < count)).all()):
        raise CamfnError(f"{expected}; got {int(index.max() if index.max() >= count else index.min())}")
    return index.long().remainder(count)[:, None]
