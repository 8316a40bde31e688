"""Noise on the image, from a generator or given."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .._shared.checks import describe, shapes_agree
from .._shared.errors import CamfnError
from .._shared.vocabulary import Inputs
from ._level import image_of

Draws = Callable[[Tensor], Iterator[Tensor]]
"""An image to noises of unit deviation, each of its shape."""


def draws(name: str, samples: int, sigma: float, generator: torch.Generator | None, noise: Tensor | None) -> Draws:
    """Check where noise comes from, and return what draws it."""
    if sigma < 0 or samples < 1:
        raise CamfnError(f"{name}: expected at least one sample and sigma >= 0, got samples={samples}, sigma={sigma}")
    if generator is not None and noise is None:
        return lambda image: _drawn(image, samples, generator)
    if noise is None or generator is not None:
        raise CamfnError(
            f"{name}: expected one of generator and noise, got {'neither' if noise is None else 'both'}. "
            f"For example {name}(model, generator=torch.Generator().manual_seed(0))"
        )
    if not isinstance(noise, Tensor) or not noise.ndim or not noise.shape[0]:
        raise CamfnError(f"{name}: expected noise of shape (n, *image.shape), got {describe(noise)}")
    return lambda image: _given(name, image, noise)


def noisy(inputs: Inputs, drawn: Draws, sigma: float) -> Iterator[Inputs]:
    """Yield the inputs with noise on the image, `x + sigma (max x - min x) noise`, one draw at a time."""
    image, rebuild = image_of(inputs)
    dims = tuple(range(1, image.ndim))
    spread = sigma * (image.amax(dims, keepdim=True) - image.amin(dims, keepdim=True))
    for noise in drawn(image):
        yield rebuild(image + spread * noise.to(image))


def _drawn(image: Tensor, samples: int, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(samples):
        yield torch.randn(image.shape, generator=generator, device=generator.device, dtype=torch.float32)


def _given(name: str, image: Tensor, noise: Tensor) -> Iterator[Tensor]:
    shapes_agree(f"{name}: each noise", noise.shape[1:], image.shape)
    yield from noise
