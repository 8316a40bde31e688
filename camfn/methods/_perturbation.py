"""Methods that change the activations or the input and look at the score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import vjp

from .._maps import resize, safe_divide, spatial_mean, spatial_sum, weighted_sum, widen
from ._ablated import Ablated
from ._affine import affine_at
from ._rows import ChunkSize, Progress, constant, map_scores, one_score, readable
from ._score import fits_inputs, largest, minmax, no_nan, strongest, take


def ablation_cam(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    tail: Callable[[Tensor], Tensor],
    slope: Literal["score", "l1"] | None = None,
    channels: Sequence[int] | Tensor | None = None,
    baseline: float | Tensor = 0.0,
    closed_form: bool | None = None,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Ablation-CAM: channels weighted by how far the score drops without them.

    `L(p) = sum_k w_k A_k(p)` with the drop `w_k = y - y^(k)`, where `y^(k)` is the score with `A_k := 0`. The paper's
    outer ReLU is not applied. C + 1 runs of the tail, less those of channels that are 0 everywhere. Over a head that
    is affine in the activations the drop is `sum_p g A`: two runs of the tail and one backward.

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
        channels: indices of those to ablate, (n,); the others weigh 0. None is all.
        baseline: what a channel is set to, a number or a tensor that broadcasts to the activations: (B, C, 1, 1) holds
            one number a channel.
        closed_form: whether to take `sum_p g (A - baseline)` for the drop. None does where the operations that the tail
            runs show that it is affine, and where the drops then add up to the drop of all channels; where the tail
            cannot be watched (while compiling, under `vmap`) it does not.
        chunk_size: channels ablated at once, so that `chunk_size * B` samples go through the tail; None is all C at
            once, "auto" what fits a quarter of the free memory.
        progress: told (channels done, channels in all) after each chunk.

    Returns:
        The raw signed map, (B, *S).

    Raises:
        ValueError: if the tail does not return one score a sample, or NaN for finite activations; for no channels or
            one out of range, a baseline that does not broadcast, an unknown slope or chunk size.

    Example:
        >>> activations = torch.tensor([[[1.0, 3.0], [1.0, 1.0]]])
        >>> ablation_cam(activations, tail=lambda a: 2 * a[:, 0].sum(1) - a[:, 1].sum(1))  # drops 8, -2
        tensor([[ 6., 22.]])
    """
    if slope not in (None, "score", "l1"):
        raise ValueError(f"ablation_cam: slope: expected None, 'score' or 'l1', got {slope!r}")
    index = _indices(channels, activations)
    base = _broadcastable("ablation_cam: baseline", baseline, activations, "activations")
    watched = closed_form is None and readable(activations, base)
    score, affine = affine_at(tail, activations) if watched else (tail(activations), bool(closed_form))
    no_nan("ablation_cam: tail", one_score("ablation_cam: tail", score, activations.shape[0]), activations)
    drops = _affine_drops(tail, activations, base) if affine else None
    if drops is not None and watched and not _adds_up(drops, score, tail(base.expand_as(activations))):
        drops = None
    if drops is None:
        drops = _drops(tail, activations, base, index, score, chunk_size, progress)
    elif channels is not None:
        drops = torch.zeros_like(drops).index_copy(1, index, drops[:, index])
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
    """The drops `y - y^(k)` for the channels in `index`, 0 for the others: (B, C)."""
    batch, count = activations.shape[:2]
    if constant(activations, base):
        changed = (activations != base).transpose(0, 1).flatten(1).any(1)
        index = index[changed[index]]
    (y,) = widen(score)
    none = torch.zeros(batch, count, dtype=y.dtype, device=y.device)
    if not index.shape[0]:
        return none

    filled = base.expand_as(activations)

    def ablated(channel: Tensor) -> Tensor:
        # three times faster than a `where` over all channels
        return activations.index_copy(1, channel[None], filled.index_select(1, channel[None]))

    def together(fold: Callable[[Tensor], Tensor], part: Tensor) -> Tensor:
        # as the fold would have them, so that it need not copy them
        return Ablated(activations, filled, part, convolves=getattr(tail, "convolves", False)).through(fold)

    without = map_scores(
        "ablation_cam: tail", tail, ablated, index, together=together, chunk_size=chunk_size, progress=progress
    )
    without = no_nan("ablation_cam: tail", without.movedim(0, 1), activations)
    return none.index_copy(1, index, y[:, None] - widen(without)[0])


def _affine_drops(tail: Callable[[Tensor], Tensor], activations: Tensor, base: Tensor) -> Tensor:
    """sum_p g (A - baseline), (B, C)."""
    a, g, b = widen(activations, _gradient(tail, activations), base)
    return spatial_sum(g * (a - b))


def _gradient(tail: Callable[[Tensor], Tensor], activations: Tensor) -> Tensor:
    score, pull = vjp(tail, activations)  # type: ignore[misc]
    (grads,) = pull(torch.ones_like(score))
    return torch.as_tensor(grads)


def _adds_up(drops: Tensor, score: Tensor, without_any: Tensor) -> bool:
    """Whether sum_k w_k = y - y(all channels ablated), to rounding, as in an affine tail that does not mix samples."""
    drop = widen(score)[0] - widen(without_any)[0]
    slack = torch.finfo(score.dtype).eps ** 0.5
    scale = drops.abs().sum(1) + widen(score)[0].abs()
    return bool(((drops.sum(1) - drop).abs() <= slack * scale).logical_or(~drop.isfinite()).all())


def score_cam(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    tail: Callable[[Tensor], Tensor] | None = None,
    form: Literal["softmax", "score"] = "softmax",
    baseline: float | Tensor | None = None,
    top_k: float | None = None,
    by: Literal["activation", "gradient"] = "activation",
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Score-CAM: channels weighted by the score of the input seen through them.

    `L(p) = sum_k w_k A_k(p)` at the layer's resolution, with the scores `y_k = forward(inputs * H_k)` of the masks
    `H_k = minmax(upsample(A_k))`; the mask of a constant channel is 0. The paper's outer ReLU is not applied. One
    forward for each different mask of a sample, at most C.

    The paper has two forms. "softmax" is its Algorithm 1: `w = softmax_k(y_k)` with the logit as the score; the score
    of the baseline cancels. "score" is the authors' code and the paper's text: `w_k = y_k`, without a softmax over
    channels or a baseline, and 0 for a constant channel; take `targets.class_probability` as the target. Masks are
    rescaled after upsampling, with pixel centers at half integers, as the paper and its code do; pytorch-grad-cam
    aligns corners, torch-cam rescales first. The authors' code adds up upsampled channels, here the map stays at the
    layer's resolution.

    With `top_k` only some channels are tried, the softmax is over those, and the others weigh 0. By the mean of the
    gradient it is gScoreCAM (Chen et al., ACCV 2022).

    Source: arXiv 1910.01279 v2, eq. 6 to 10 and Algorithm 1.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: (B, C, *S), for `by="gradient"` alone.
        outputs: not used.
        forward: the whole network and the target, inputs to scores (B,); must run under `torch.vmap`.
        inputs: (B, channels, *T), what the network was run on, with as many spatial dimensions as the activations.
        tail: activations to scores (B,), for `by="gradient"` where `grads` are not given.
        form: "softmax" or "score".
        baseline: `X_b` of eq. 6, a number or a tensor that broadcasts to the inputs. The masked input is then
            `x H_k + X_b (1 - H_k)`, and in the form "score" the score of `X_b` is taken off. None masks with zeros and
            takes nothing off.
        top_k: how many channels to try, an int, or a float in (0, 1] for a share of them; None is all.
        by: which channels come first: "activation", those with the largest `sum_p A_k^2`, or "gradient", with the
            largest `mean_p g_k`.
        chunk_size: channels tried at once, so that `chunk_size * B` masked inputs exist at a time; None is all at
            once, "auto" what fits a quarter of the free memory.
        progress: told (masks done, masks in all) after each chunk.

    Returns:
        The raw map, (B, *S).

    Raises:
        ValueError: if `forward` does not return one score a sample, or NaN for finite inputs; if the inputs have other
            spatial dimensions than the activations, the baseline does not broadcast, gradients are asked for and
            neither given nor to be had; for an unknown form, order, number of channels or chunk size.

    Example:
        >>> activations = torch.tensor([[[0.0, 1.0], [5.0, 5.0]]])  # masks (0, 1) and 0
        >>> image = torch.tensor([[[2.0, 3.0]]])
        >>> score_cam(activations, forward=lambda x: x.sum((1, 2)), inputs=image, form="score")
        tensor([[0., 3.]])
    """
    if form not in ("softmax", "score"):
        raise ValueError(f"score_cam: form: expected 'softmax' or 'score', got {form!r}")
    fits_inputs("score_cam", activations, inputs)
    base = None if baseline is None else _broadcastable("score_cam: baseline", baseline, inputs, "inputs")
    (a,) = widen(activations)
    # min-max does not see a shift or a scale; taken off before the resizing, a constant channel is exactly 0, not noise
    units = minmax(a)
    chosen = None if top_k is None else _strongest(activations, grads, tail, top_k, by)
    tried = units if chosen is None else take(units, chosen)
    # where samples see one another, as in training, another pairing of masks is another batch
    apart = constant(activations, inputs) and not getattr(forward, "couples", False)
    different, place = _distinct(tried) if apart else (tried, None)

    def masked(units: Tensor) -> Tensor:
        mask = minmax(resize(units[:, None], inputs.shape[2:])).to(inputs.dtype)
        return inputs * mask if base is None else base + (inputs - base) * mask

    rows = different.transpose(0, 1)
    scores = map_scores("score_cam: forward", forward, masked, rows, chunk_size=chunk_size, progress=progress)
    (weights,) = widen(no_nan("score_cam: forward", scores.transpose(0, 1), activations, inputs))
    weights = weights if place is None else weights.gather(1, place)
    if form == "softmax":
        weights = weights.softmax(1)
    else:
        removed = 0.0 if base is None else widen(forward(base.expand_as(inputs)))[0][:, None]
        space = tuple(range(2, a.ndim))
        weights = torch.where(tried.amax(space) > 0, weights - removed, 0.0)
    if chosen is not None:
        weights = torch.zeros(a.shape[:2], dtype=weights.dtype, device=a.device).scatter(1, chosen, weights)
    return weighted_sum(a, weights.to(a.dtype)).to(activations.dtype)


def _distinct(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Drop repeated maps of each sample.

    Returns:
        (B, m, *S), a sample with fewer than m different maps having one of them again; and where each of the maps that
        were given is among them, (B, C).
    """
    flat = maps.detach().flatten(2).nan_to_num(-1.0)
    count = flat.shape[1]
    every = torch.arange(count, device=maps.device)
    firsts, places = [], []
    for sample in flat:
        found, place = sample.unique(dim=0, return_inverse=True)
        firsts.append(every.new_full((len(found),), count).scatter_reduce(0, place, every, "amin"))
        places.append(place)
    most = max(map(len, firsts))
    index = torch.stack([torch.cat([first, first[:1].expand(most - len(first))]) for first in firsts])
    return take(maps, index), torch.stack(places)


def _strongest(
    activations: Tensor, grads: Tensor | None, tail: Callable[[Tensor], Tensor] | None, top_k: float, by: str
) -> Tensor:
    """Indices of the channels to try, (B, n)."""
    if by == "activation":
        return strongest("score_cam", activations, top_k)
    if by == "gradient":
        if grads is None and tail is not None:
            grads = _gradient(tail, activations)
        if grads is None:
            raise ValueError(
                "score_cam: by='gradient' needs grads, as in score_cam(*captured, by='gradient', ...), or a tail"
            )
        return largest("score_cam", spatial_mean(widen(grads)[0]), top_k)
    raise ValueError(f"score_cam: by: expected 'activation' or 'gradient', got {by!r}")


def _indices(channels: Sequence[int] | Tensor | None, activations: Tensor) -> Tensor:
    """Channels as a tensor (n,) of non-negative indices."""
    count = activations.shape[1]
    if channels is None:
        return torch.arange(count, device=activations.device)
    index = torch.as_tensor(channels, device=activations.device)
    expected = f"ablation_cam: channels: expected indices (n,), at least one, of the {count} channels"
    if index.ndim != 1 or not index.shape[0]:
        raise ValueError(f"{expected}; got shape {tuple(index.shape)}")
    if index.is_floating_point() or index.dtype is torch.bool:
        raise ValueError(f"{expected}; got {index.dtype}")
    if readable(index) and not bool(((index >= -count) & (index < count)).all()):
        raise ValueError(f"{expected}; got {int(index.max() if index.max() >= count else index.min())}")
    return index.long().remainder(count)


def _broadcastable(what: str, value: float | Tensor, like: Tensor, name: str) -> Tensor:
    """A number or tensor as a tensor that broadcasts to `like`."""
    base = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    fits = base.ndim <= like.ndim and all(
        n in (1, m) for n, m in zip(reversed(base.shape), reversed(like.shape), strict=False)
    )
    if fits:
        return base
    raise ValueError(
        f"{what}: expected a number, or a tensor that broadcasts to the {name}, {tuple(like.shape)}; got shape "
        f"{tuple(base.shape)}. One number a channel has shape {(like.shape[1], *(1,) * (like.ndim - 2))}"
    )
