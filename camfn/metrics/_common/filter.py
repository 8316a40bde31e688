"""A Gaussian window along each dimension, in any number of dimensions."""

# tested in tests/metrics/faithfulness/test_curves.py and tests/metrics/common/test_likeness.py

from __future__ import annotations

import torch
from torch import Tensor


def gaussian(x: Tensor, width: int, std: float) -> Tensor:
    """Average over a Gaussian window along each spatial dimension; the border is mirrored.

    Args:
        x: (B, C, *S), each side longer than half of the window.
        width: of the window, odd.
        std: standard deviation in positions.

    Returns:
        Same shape.

    Example:
        >>> gaussian(torch.tensor([[[0.0, 0.0, 1.0, 0.0, 0.0]]]), 3, 1e-3)
        tensor([[[0., 0., 1., 0., 0.]]])
    """
    place = torch.arange(width, dtype=torch.float64) - width // 2
    bell = torch.exp(-((place / std) ** 2) / 2)
    weights: list[float] = (bell / bell.sum()).tolist()
    for dim in range(2, x.ndim):
        length, reach = x.shape[dim], width // 2
        before, after = (x.narrow(dim, start, reach).flip(dim) for start in (1, length - 1 - reach))
        wide = torch.cat([before, x, after], dim)
        x = sum((weight * wide.narrow(dim, k, length) for k, weight in enumerate(weights)), torch.zeros_like(x))
    return x
