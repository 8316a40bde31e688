"""Checks of options and shapes that several methods share."""

# tested in tests/methods/test_perturbing.py

from __future__ import annotations

import torch
from torch import Tensor

from .._shared.errors import CamfnError


def at_least_one(method: str, **options: int | None) -> None:
    """Refuse a count below one."""
    for name, value in options.items():
        if value is not None and value < 1:
            raise CamfnError(f"{method}: {name}: expected at least 1, got {value}")


def has_channels(method: str, activations: Tensor) -> None:
    """Refuse activations without a channel."""
    if activations.shape[1] == 0:
        raise CamfnError(
            f"{method}: expected activations (B, C, *S) with at least one channel, got {tuple(activations.shape)}"
        )


def fits_inputs(method: str, activations: Tensor, inputs: Tensor) -> None:
    """Refuse inputs that are not images of the activations' batch and number of dimensions."""
    has_channels(method, activations)
    if inputs.ndim != activations.ndim or inputs.shape[0] != activations.shape[0]:
        raise CamfnError(
            f"{method}: expected inputs (B, channels, *T) with the batch and the number of spatial dimensions of the "
            f"activations, {tuple(activations.shape)}; got {tuple(inputs.shape)}"
        )


def broadcastable(what: str, value: float | Tensor, like: Tensor, name: str) -> Tensor:
    """Return a number or tensor as a tensor that broadcasts to `like`; refuse any other shape."""
    base = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    fits = base.ndim <= like.ndim and all(
        n in (1, m) for n, m in zip(reversed(base.shape), reversed(like.shape), strict=False)
    )
    if fits:
        return base
    raise CamfnError(
        f"{what}: expected a number, or a tensor that broadcasts to the {name}, {tuple(like.shape)}; got shape "
        f"{tuple(base.shape)}. One number a channel has shape {(like.shape[1], *(1,) * (like.ndim - 2))}"
    )
