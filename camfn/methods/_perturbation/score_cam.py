"""Score-CAM: channels weighted by the score of the input that each channel masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ..._shared.checks import one_of
from ..._shared.errors import CamfnError
from ..._shared.maps import resize, spatial_mean, weighted_sum, widen
from ..._shared.rows import ChunkSize, Progress, constant, no_nan, score_variants
from .._checks import broadcastable, checked, fits_inputs, lays_over_images
from .affine import gradient_of
from .channels import largest, strongest, take, unit_range


@lays_over_images
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
    """Score-CAM: channels weighted by the score of the input that each channel masks.

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
        progress: called with (masks done, masks in all) after each chunk.

    Returns:
        The raw map, (B, *S).

    Raises:
        CamfnError: if `forward` does not return one score a sample, or NaN for finite inputs; if the inputs have other
            spatial dimensions than the activations, the baseline does not broadcast, or `by="gradient"` has neither
            `grads` nor a `tail`; for an unknown form, order, number of channels or chunk size.

    Example:
        >>> activations = torch.tensor([[[0.0, 1.0], [5.0, 5.0]]])  # masks (0, 1) and 0
        >>> image = torch.tensor([[[2.0, 3.0]]])
        >>> score_cam(activations, forward=lambda x: x.sum((1, 2)), inputs=image, form="score")
        tensor([[0., 3.]])
    """
    one_of("score_cam: form", form, ("softmax", "score"))
    one_of("score_cam: by", by, ("activation", "gradient"))
    fits_inputs("score_cam", activations, inputs, forward)
    base = None if baseline is None else broadcastable("score_cam: baseline", baseline, inputs, "inputs")
    a = widen(activations)
    # Min-max is the same for any shift and scale of a map. Removed before the resizing, they leave a constant
    # channel with a mask of exactly 0, and no rounding noise.
    units = unit_range(a)
    chosen = None if top_k is None else _strongest(activations, grads, tail, top_k, by)
    tried = units if chosen is None else take(units, chosen)
    # In training the score of a sample depends on the other samples of its batch, so that equal masks of one sample may
    # not share one run.
    independent = constant(activations, inputs) and not getattr(forward, "samples_interact", False)
    different, place = _distinct(tried) if independent and len(tried) else (tried, None)

    def masked(units: Tensor) -> Tensor:
        """Mask the input with one channel of each sample."""
        mask = unit_range(resize(units[:, None], inputs.shape[2:])).to(inputs.dtype)
        return inputs * mask if base is None else base + (inputs - base) * mask

    rows = different.transpose(0, 1)
    scores = score_variants("score_cam: forward", forward, masked, rows, chunk_size=chunk_size, progress=progress)
    weights = widen(no_nan("score_cam: forward", scores.transpose(0, 1), activations, inputs))
    weights = weights if place is None else weights.gather(1, place)
    if form == "softmax":
        weights = weights.softmax(1)
    else:
        removed = 0.0 if base is None else widen(forward(base.expand_as(inputs)))[:, None]
        space = tuple(range(2, a.ndim))
        weights = torch.where(tried.amax(space) > 0, weights - removed, 0.0)
    if chosen is not None:
        weights = torch.zeros(a.shape[:2], dtype=weights.dtype, device=a.device).scatter(1, chosen, weights)
    return weighted_sum(a, weights.to(a.dtype)).to(activations.dtype)


def _distinct(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Drop repeated maps of each sample.

    Returns:
        The different maps, (B, m, *S); a sample with fewer than m repeats one of its own. And for each of the C given
        maps its place among the m, (B, C).
    """
    flat = maps.detach().flatten(2).nan_to_num(-1.0)
    batch, count = flat.shape[:2]
    # the sample's number comes first, so that the different maps of a sample follow each other
    number = torch.arange(batch, device=maps.device).to(flat).expand(1, count, -1).permute(2, 1, 0)
    rows = torch.cat([number, flat], 2).flatten(0, 1)
    different, place = rows.unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
    place = place.reshape(batch, count)
    place = place - place.amin(1, keepdim=True)
    most = len(different) if batch == 1 else 1 + int(place.max())
    every = torch.arange(count, device=maps.device).expand(batch, -1)
    first = every.new_full((batch, most), count).scatter_reduce(1, place, every, "amin")
    return take(maps, torch.where(first < count, first, first[:, :1])), place


def _strongest(
    activations: Tensor, grads: Tensor | None, tail: Callable[[Tensor], Tensor] | None, top_k: float, by: str
) -> Tensor:
    """Return the indices of the channels to try, (B, n)."""
    if by == "activation":
        return strongest("score_cam", activations, top_k)
    if grads is None and tail is not None:
        grads = gradient_of(tail, activations)
    if grads is None:
        raise CamfnError(
            "score_cam: by='gradient' needs grads, as in score_cam(*captured, by='gradient', ...), or a tail"
        )
    return largest("score_cam", spatial_mean(checked("score_cam", activations, grads)[1]), top_k)
