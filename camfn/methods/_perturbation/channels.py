"""Channels of activations as masks, and the choice of some channels."""

# tested in tests/methods/perturbation/test_score_cam.py and tests/methods/perturbation/test_score_cams.py

from __future__ import annotations

import math

from torch import Tensor

from ..._shared.errors import CamfnError
from ..._shared.maps import min_max, over_space, resize, spatial_sum, widen


def minus_minimum(activations: Tensor) -> Tensor:
    """Subtract the minimum of each channel: a constant channel is exactly 0, and `unit_range` gives the same masks."""
    return activations - activations.amin(tuple(range(2, activations.ndim)), keepdim=True)


def unit_range(maps: Tensor) -> Tensor:
    """Rescale each map of (B, C, *S) to [0, 1]; a constant map becomes 0."""
    return min_max(maps, tuple(range(2, maps.ndim)))


def mask(maps: Tensor, inputs: Tensor) -> Tensor:
    """Return the masks of Score-CAM: maps (B, C, *S) resized to the size of the inputs, then rescaled to [0, 1]."""
    return unit_range(resize(maps, inputs.shape[2:]))


def quantile_of(values: Tensor, q: float) -> Tensor:
    """Return the quantile along the last dimension, linear between order statistics.

    `torch.quantile` does the same for at most 2^24 numbers; this has no such limit.
    """
    ordered = values.sort(-1).values
    place = q * (values.shape[-1] - 1)
    low = int(place)
    lower, upper = ordered[..., low], ordered[..., min(low + 1, values.shape[-1] - 1)]
    return lower + (place - low) * (upper - lower)


def take(maps: Tensor, index: Tensor) -> Tensor:
    """Select channels (B, n) of each sample of (B, C, *S): (B, n, *S)."""
    return maps.gather(1, over_space(index, maps).expand(*index.shape, *maps.shape[2:]))


def strongest(method: str, activations: Tensor, top_k: float) -> Tensor:
    """Return the indices (B, n) of the channels with the largest `sum_p A_k^2`; n is `top_k`, or a share of C."""
    return largest(method, spatial_sum(widen(activations).square()), top_k)


def largest(method: str, values: Tensor, top_k: float) -> Tensor:
    """Return the indices (B, n) of the largest of (B, C) values; n is `top_k`, or a share of C."""
    channels = values.shape[1]
    if isinstance(top_k, int) and not isinstance(top_k, bool) and top_k >= 1:
        count = min(top_k, channels)
    elif isinstance(top_k, float) and 0 < top_k <= 1:
        count = math.ceil(top_k * channels)
    else:
        raise CamfnError(f"{method}: top_k: expected a number of channels from 1, or a share in (0, 1], got {top_k!r}")
    return values.detach().topk(count, dim=1).indices
