"""Perturbations of images, the same for all samples of a batch."""

# tested in tests/metrics/faithfulness/test_infidelity.py and tests/metrics/robustness/test_sensitivity.py

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..._shared.checks import whole
from ..._shared.devices import brought
from ..._shared.errors import CamfnError
from ..._shared.noise import one_source


def perturbations_for(
    what: str,
    images: Tensor,
    samples: int,
    generator: torch.Generator | None,
    noise: Tensor | None,
    draw: Callable[..., Tensor],
) -> Tensor:
    """Check or draw the perturbations (n, C, *T), which are the same for all samples of a batch."""
    source = one_source(what, generator, noise, arguments="...")
    shape = tuple(images.shape[1:])
    if isinstance(source, Tensor):
        if not source.ndim or not len(source) or tuple(source.shape[1:]) != shape:
            raise CamfnError(f"{what}: expected noise of shape (n, *{shape}), got {tuple(source.shape)}")
        return brought(source, images)
    whole(f"{what}: samples", samples)
    drawn = draw((samples, *shape), {"generator": source, "device": source.device, "dtype": torch.float32})
    return brought(drawn, images)
