"""What perturbing methods share: checks of options and scores, and the masks an input is seen through."""

from __future__ import annotations

import torch
from torch import Tensor

from .._shared.errors import CamfnError
from .._shared.rows import readable


def no_nan(what: str, scores: Tensor, *given: Tensor) -> Tensor:
    """Refuse NaN scores (B, ...) of samples whose own numbers (B, ...) are finite, where the data can be read.

    A sample that came with a NaN keeps it, and leaves the others alone.
    """
    sound = torch.stack([x.flatten(1).isfinite().all(1) for x in given]).all(0)
    lost = sound & scores.reshape(len(scores), -1).isnan().any(1)
    if readable(lost) and bool(lost.any()):
        raise CamfnError(
            f"{what} returned NaN for sample {int(lost.int().argmax())}, whose activations and inputs are finite. Look "
            "at what the network gives for perturbed ones: a logarithm of 0, a division by a norm of 0, half precision?"
        )
    return scores


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
    """A number or tensor as a tensor that broadcasts to `like`."""
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
