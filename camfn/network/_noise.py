"""Noise on the image: drawn from a generator, or given by the caller."""

# tested in tests/network/test_full.py and test_guided.py

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, field
from functools import partial

import torch
from torch import Tensor

from .._shared.checks import describe, number, seen_false, shapes_agree, whole
from .._shared.devices import brought
from .._shared.errors import CamfnError
from .._shared.noise import draw_normal, one_source
from .._shared.value import frozen
from .._shared.vocabulary import Inputs
from ._level import OnNetwork

NoiseOf = Callable[[Tensor], Iterator[Tensor]]
"""Takes an image, and yields noise tensors of unit deviation and of the shape of the image."""


@frozen
class OnNoisyImages(OnNetwork):
    """A method of a whole network that averages over noise on the image."""

    _: KW_ONLY
    samples: int = 50
    std: float = 0.15
    generator: torch.Generator | None = None
    noise: Tensor | None = None
    _noise_of: NoiseOf = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "_noise_of", self._source(type(self).__name__))

    def _source(self, name: str) -> NoiseOf:
        """Check the options of the noise, and return the function that yields the noise of an image."""
        whole(f"{name}: samples", self.samples)
        number(f"{name}: std", self.std, "[0, inf)")
        source = one_source(name, self.generator, self.noise, arguments="model")
        if isinstance(source, torch.Generator):
            return partial(_drawn, source, self.samples)
        if not isinstance(source, Tensor) or not source.ndim or not source.shape[0]:
            raise CamfnError(f"{name}: expected noise of shape (n, *image.shape), got {describe(source)}")
        if seen_false(source.isfinite()):
            raise CamfnError(f"{name}: noise: expected finite numbers, got NaN or infinity")
        return partial(_given, name, source)

    def noisy(self, image: Tensor, rebuild: Callable[[Tensor], Inputs]) -> Iterator[Inputs]:
        """Yield the inputs with noise on the image, `x + std (max x - min x) noise`, one noise at a time."""
        if image.ndim < 2 or any(size == 0 for size in image.shape[1:]):
            raise CamfnError(f"expected images (B, C, *S), none of them empty, got {tuple(image.shape)}")
        dims = tuple(range(1, image.ndim))
        spread = self.std * (image.amax(dims, keepdim=True) - image.amin(dims, keepdim=True))
        for noise in self._noise_of(image):
            yield rebuild(image + spread * brought(noise, image))


def _drawn(generator: torch.Generator, samples: int, image: Tensor) -> Iterator[Tensor]:
    """Draw noise tensors of the shape of the image, one at a time."""
    return (draw_normal(image.shape, generator) for _ in range(samples))


def _given(name: str, noise: Tensor, image: Tensor) -> Iterator[Tensor]:
    """Yield the given noise tensors, which must have the shape of the image, or of one image for all of a batch."""
    own = image.shape if noise.shape[1:2] != (1,) else (1, *image.shape[1:])
    shapes_agree(f"{name}: each noise", noise.shape[1:], own)
    yield from noise
