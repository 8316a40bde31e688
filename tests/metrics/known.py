"""Images, maps and scores of one to three dimensions on which the oracles of tests/oracles/metrics.py run."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

SPACE: dict[int, tuple[int, ...]] = {1: (14,), 2: (5, 6), 3: (3, 4, 5)}
CELLS: dict[int, tuple[int, ...]] = {1: (4,), 2: (2, 3), 3: (2, 1, 2)}

every_dims = pytest.mark.parametrize("dims", [1, 2, 3])


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(shape, generator=draws(seed), dtype=torch.float64)


def given(dims: int) -> tuple[Tensor, Tensor]:
    """Images (2, 2, *S), and signed maps (2, *S) without equal values."""
    return drawn(1, 2, 2, *SPACE[dims]), drawn(2, 2, *SPACE[dims])


def weights(dims: int, channels: int = 2) -> Tensor:
    return drawn(3, channels, *SPACE[dims])


def linear(dims: int) -> Any:
    """A score of which the gradient times the input is the exact attribution."""
    w = weights(dims)
    return lambda x: (x.double() * w).flatten(1).sum(1)


def exact(dims: int) -> Tensor:
    """What each pixel of `given` gives to `linear`, (2, *S)."""
    return (given(dims)[0] * weights(dims)).sum(1)


def bent(x: Tensor) -> Tensor:
    """A score that is not linear, and in which places differ."""
    line = torch.linspace(-1, 1, math.prod(x.shape[1:]), dtype=x.dtype).reshape(x.shape[1:])
    return (x * line).flatten(1).sum(1).tanh() + (x[:, :1] * x).flatten(1).mean(1)


def close(found: Tensor, expected: Any, tolerance: float = 1e-9) -> None:
    expected = torch.as_tensor(expected, dtype=found.dtype)
    torch.testing.assert_close(found, expected.expand_as(found), rtol=tolerance, atol=tolerance)
