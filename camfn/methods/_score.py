"""What perturbing methods share: checks of options and scores, and the masks an input is seen through."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._maps import over_space, resize, safe_divide, spatial_sum, widen
from ._rows import readable


def no_nan(what: str, scores: Tensor, *given: Tensor) -> Tensor:
    """Refuse NaN scores (B, ...) of samples whose own numbers (B, ...) are finite, where the data can be read.

    A sample that came with a NaN keeps it, and leaves the others alone.
    """
    sound = torch.stack([x.flatten(1).isfinite().all(1) for x in given]).all(0)
    lost = sound & scores.reshape(len(scores), -1).isnan().any(1)
    if readable(lost) and bool(lost.any()):
        raise ValueError(
            f"{what} returned NaN for sample {int(lost.int().argmax())}, whose activations and inputs are finite. Look "
            "at what the network gives for perturbed ones: a logarithm of 0, a division by a norm of 0, half precision?"
        )
    return scores


def at_least_one(method: str, **options: int | None) -> None:
    """Refuse a count below one."""
    for name, value in options.items():
        if value is not None and value < 1:
            raise ValueError(f"{method}: {name}: expected at least 1, got {value}")


def has_channels(method: str, activations: Tensor) -> None:
    """Refuse activations without a channel."""
    if activations.shape[1] == 0:
        raise ValueError(
            f"{method}: expected activations (B, C, *S) with at least one channel, got {tuple(activations.shape)}"
        )


def fits_inputs(method: str, activations: Tensor, inputs: Tensor) -> None:
    """Refuse inputs that are not images of the activations' batch and number of dimensions."""
    has_channels(method, activations)
    if inputs.ndim != activations.ndim or inputs.shape[0] != activations.shape[0]:
        raise ValueError(
            f"{method}: expected inputs (B, channels, *T) with the batch and the number of spatial dimensions of the "
            f"activations, {tuple(activations.shape)}; got {tuple(inputs.shape)}"
        )


def raised(activations: Tensor) -> Tensor:
    """Channels less their minimum, which makes a constant one exactly 0; `minmax` does not see the shift."""
    return activations - activations.amin(tuple(range(2, activations.ndim)), keepdim=True)


def minmax(maps: Tensor) -> Tensor:
    """Rescale each map of (B, C, *S) to [0, 1]; a constant one to 0."""
    space = tuple(range(2, maps.ndim))
    low = maps.amin(space, keepdim=True)
    return safe_divide(maps - low, maps.amax(space, keepdim=True) - low)


def mask(maps: Tensor, inputs: Tensor) -> Tensor:
    """Upsample maps (B, C, *S) to the size of the inputs, then rescale each to [0, 1]: the masks of Score-CAM."""
    return minmax(resize(maps, inputs.shape[2:]))


def quantile_of(values: Tensor, q: float) -> Tensor:
    """Quantile along the last dimension, linear between order statistics; `torch.quantile` has a limit on the size."""
    ordered = values.sort(-1).values
    place = q * (values.shape[-1] - 1)
    low = int(place)
    lower, upper = ordered[..., low], ordered[..., min(low + 1, values.shape[-1] - 1)]
    return lower + (place - low) * (upper - lower)


def take(maps: Tensor, index: Tensor) -> Tensor:
    """(B, C, *S) and channels (B, n) to (B, n, *S)."""
    return maps.gather(1, over_space(index, maps).expand(*index.shape, *maps.shape[2:]))


def strongest(method: str, activations: Tensor, top_k: float) -> Tensor:
    """Indices (B, n) of the channels with the largest `sum_p A_k^2`; a number of them, or a share in (0, 1]."""
    return largest(method, spatial_sum(widen(activations)[0].square()), top_k)


def largest(method: str, values: Tensor, top_k: float) -> Tensor:
    """Indices (B, n) of the largest of (B, C); a number of them, or a share in (0, 1]."""
    channels = values.shape[1]
    if isinstance(top_k, int) and not isinstance(top_k, bool) and top_k >= 1:
        count = min(top_k, channels)
    elif isinstance(top_k, float) and 0 < top_k <= 1:
        count = math.ceil(top_k * channels)
    else:
        raise ValueError(f"{method}: top_k: expected a number of channels from 1, or a share in (0, 1], got {top_k!r}")
    return values.detach().topk(count, dim=1).indices
