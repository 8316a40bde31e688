"""Numbers that the tests of pictures share."""

from __future__ import annotations

import torch
from torch import Tensor

HALVES = [torch.float16, torch.bfloat16]

FLOATS = [*HALVES, torch.float32, torch.float64]

SHAPES = [(5,), (4, 7), (3, 2, 5)]


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
