"""Methods that switch channels on and off: in groups at the layer, or as masks and their complements on the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from einops import einsum
from torch import Tensor

from ..._shared.checks import function, number, one_of, tensor
from ..._shared.devices import tensor_on
from ..._shared.errors import CamfnError
from ..._shared.maps import min_max, over_space, resize, safe_divide, safe_sqrt, spatial_mean, weighted_sum, widen
from ..._shared.rows import ChunkSize, Progress, no_nan, row_of, score_variants
from .._checks import TAIL, checked, fits_inputs, lays_over_images
from .channels import minus_minimum, quantile_of, strongest, take, unit_range

Switch: TypeAlias = Literal["plus", "minus", "plus_minus"]
"""Whether the network sees the input through a mask, through the complement of the mask, or through each."""


def fd_cam(
    activations: Tensor,
    grads: Tensor,
    outputs: Any = None,
    *,
    tail: Callable[[Tensor], Tensor],
    quantile: float = 0.95,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """FD-CAM: channels weighted by the gradient, and by the scores with their group of similar channels on and off.

    `L(p) = sum_k w_k A_k(p)` with `w = exp(minmax(s)) minmax(alpha) - 1/2`, both rescaled over channels (0 where all
    are the same), `alpha_k = mean_p g_k` and `s_k = y(group alone) + y - y(all but the group)`. The group of channel k
    is those whose cosine to it, as vectors over positions, reaches the given quantile of its cosines. One backward and
    2 C runs of the tail. The outer ReLU is not applied.

    The authors' code takes cosines strictly above the quantile, which leaves a group empty where several tie; here ties
    are in, up to the rounding of a cosine. That code takes one image, and does not treat 0 / 0. No peer has the method.

    Source: arXiv 2206.08792 (ICPR 2022) and the authors' code, whose threshold is an argument without a default; 0.95
    is what their earlier variant uses.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: (B, C, *S), derivative of each sample's score.
        outputs: not used.
        tail: the network after the layer and the target, activations (B, C, *S) to scores (B,); must run under
            `torch.vmap`.
        quantile: the channels of a group have a cosine of at least this quantile of the C cosines.
        chunk_size: runs of the tail at once; None is all 2 C, "auto" as many as memory allows.
        progress: called with runs done and 2 C.

    Returns:
        The raw signed map, (B, *S).

    Raises:
        CamfnError: if the tail does not return one score a sample, or NaN, or for a quantile outside [0, 1].

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> grads = torch.tensor([[[2.0, 2.0], [1.0, 1.0]]])
        >>> fd_cam(activations, grads, tail=lambda a: 2 * a[:, 0].sum(1) + a[:, 1].sum(1))  # weights e - 1/2, -1/2
        tensor([[ 2.2183, -0.5000]])
    """
    a, g = checked("fd_cam", activations, grads)
    number("fd_cam: quantile", quantile, "[0, 1]")
    function("fd_cam: tail", tail, TAIL)
    groups = _alike(a.detach(), quantile)

    def only(members: Tensor) -> Tensor:
        """Return the activations with all channels but the members set to 0."""
        return torch.where(over_space(members, activations), activations, 0.0)

    rows = torch.cat([groups, ~groups], 1).movedim(1, 0)
    scores = widen(score_variants("fd_cam: tail", tail, only, rows, chunk_size=chunk_size, progress=progress).mT)
    no_nan("fd_cam: tail", scores, activations)
    on, off = scores.to(a.dtype).chunk(2, 1)
    # the score y is the same for all channels, so that the rescaling over channels removes it
    weights = _over_channels(on - off).exp() * _over_channels(spatial_mean(g)) - 0.5
    return weighted_sum(a, weights).to(activations.dtype)


@lays_over_images
def poly_cam(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    deeper: Tensor | None = None,
    switch: Switch = "plus_minus",
    top_k: float | None = None,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Poly-CAM: one layer's map, sharpened from layer to layer.

    `L(p) = sum_k w_k A_k(p)` at the deepest layer. At an earlier one, given the map D of the layer after it,
    `L = norm(ReLU(sum_k w_k A_k)) * upsample(ReLU(D))`, with `norm(M) = M / up(down(M))` through the size of D, which
    removes from the map what D already shows. Run it from layer to layer, the deepest first:

        cam = None
        for name in reversed(layers):
            cam = explainer(partial(poly_cam, deeper=cam), model, name)(images, target)

    A mask `H_k` is the upsample of `minmax(A_k)`. The weights are `f(x H_k)` ("plus", PCAM+), `ReLU(f(x) - f(x (1 -
    H_k)))` ("minus", PCAM-), or `ReLU(f(x H_k) + f(x) - f(x (1 - H_k)))` ("plus_minus"). The authors take
    probabilities, `targets.class_probability`. C forwards at each layer, and another C + 1 but for "plus".

    The authors' code clips the masks at the 0.1 and 99.9 percentiles, and divides by the upper one instead of the
    range; here a mask is an exact min-max, and 0 for a constant channel. No peer has the method.

    Source: arXiv 2204.13359 and the authors' code; the equations were not checked in print.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: not used.
        outputs: not used.
        forward: the whole network and the target, inputs to scores (B,); must run under `torch.vmap`.
        inputs: (B, channels, *T), what the network was run on, with as many spatial dimensions as the activations.
        deeper: (B, *R), the map of the next deeper layer; None for the deepest layer.
        switch: "plus", "minus" or "plus_minus".
        top_k: how many channels to try, those with the largest `sum_p A_k^2`: an int, or a float in (0, 1] for a share
            of them; the others weigh 0. None is all.
        chunk_size: masked batches run at once; None is all, "auto" as many as memory allows.
        progress: called with masked batches done and their number.

    Returns:
        The raw map, (B, *S).

    Raises:
        CamfnError: for inputs or a deeper map of another shape, an unknown switch, or scores that are not one number a
            sample, or NaN.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[0.0, 1.0], [2.0, 0.0]]])  # masks (0, 1) and (1, 0)
        >>> image = torch.tensor([[[2.0, 3.0]]])
        >>> poly_cam(activations, forward=lambda x: x.sum((1, 2)), inputs=image, switch="plus")
        tensor([[4., 3.]])
    """
    one_of("poly_cam: switch", switch, ("plus", "minus", "plus_minus"))
    fits_inputs("poly_cam", activations, inputs, forward)
    if deeper is not None:
        tensor("poly_cam: deeper", deeper, "the map of a deeper layer, or None for the deepest")
    if deeper is not None and (deeper.ndim != activations.ndim - 1 or deeper.shape[0] != activations.shape[0]):
        raise CamfnError(
            f"poly_cam: expected deeper, the map of a deeper layer, as (B, *R) with the batch and the number of "
            f"spatial dimensions of the activations, {tuple(activations.shape)}; got {tuple(deeper.shape)}"
        )
    a = widen(activations)
    a = a if top_k is None else take(a, strongest("poly_cam", a, top_k))
    channels = a.shape[1]
    masks = unit_range(minus_minimum(a))

    def masked(row: Tensor) -> Tensor:
        """Show the input through mask k for row k, through its complement for row C + k, and unmasked for row 2 C."""
        shown = resize(row_of(masks, row % channels, 1)[:, None], inputs.shape[2:])
        shown = torch.where(row < channels, shown, torch.where(row < 2 * channels, 1 - shown, 1.0))
        return inputs * shown.to(inputs.dtype)

    rows = torch.arange(channels if switch == "minus" else 0, channels if switch == "plus" else 2 * channels + 1)
    per_row = score_variants(
        "poly_cam: forward", forward, masked, tensor_on(rows, a.device), chunk_size=chunk_size, progress=progress
    )
    scores = widen(per_row.mT)
    no_nan("poly_cam: forward", scores, activations, inputs)
    weights = scores[:, :channels]
    if switch != "plus":
        on = weights if switch == "plus_minus" else 0.0
        weights = (on + scores[:, -1:] - scores[:, -channels - 1 : -1]).relu()
    map_ = weighted_sum(a, weights.to(a.dtype))
    if deeper is not None:
        map_, prior = map_.relu()[:, None], widen(deeper).relu()[:, None]
        around = resize(resize(map_, prior.shape[2:]), map_.shape[2:])
        map_ = (safe_divide(map_, around) * resize(prior, map_.shape[2:]).to(a.dtype)).squeeze(1)
    return map_.to(activations.dtype)


def _alike(activations: Tensor, quantile: float) -> Tensor:
    """Return which channels are in the group of each channel, (B, C, C).

    Channel j is in the group of channel i if their cosine reaches the given quantile of the cosines of channel i.
    """
    # the squares of tiny or huge channels would underflow or overflow: divide by the largest entry first
    flat = activations.flatten(2)
    flat = safe_divide(flat, flat.abs().amax(-1, keepdim=True))
    unit = safe_divide(flat, safe_sqrt(flat.square().sum(-1, keepdim=True)))
    cosines = einsum(unit, unit, "b i n, b j n -> b i j")
    # equal cosines may differ by rounding: at most by this much in a sum of N products
    slack = flat.shape[-1] * torch.finfo(flat.dtype).eps
    return cosines >= quantile_of(cosines, quantile)[..., None] - slack


def _over_channels(weights: Tensor) -> Tensor:
    """Rescale weights (B, C) to [0, 1] over channels; equal weights become 0."""
    return min_max(weights, 1)
