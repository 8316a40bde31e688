"""Nonnegative least squares, exactly: which weights are 0 is found by exchanges, and the others by a linear system."""

# tested in tests/factorize/test_concepts.py

from __future__ import annotations

import torch
from torch import Tensor

from .._shared.checks import is_concrete
from .._shared.maps import safe_divide

_ROWS = 2**14
"""Rows that are solved at once: each holds a system of its own."""

_RIDGE = 1e-13
"""Added to the unit diagonal, so that concepts that depend on one another share a weight."""

_PATIENCE = 3
"""Exchanges of all wrong weights that may fail to lower their number, before one is exchanged at a time."""


def least_squares(x: Tensor, w: Tensor, steps: int, tolerance: float) -> Tensor:
    """Minimize `|x - h w|` over `h >= 0`, in float64: x (b, N, C), w (b, r, C) to (b, N, r).

    Descent by one weight at a time would crawl where concepts resemble one another, and stop far from the solution.
    """
    norm = torch.linalg.vector_norm(w.double(), dim=-1, keepdim=True)
    unit = safe_divide(w.double(), norm)
    gram = unit @ unit.mT
    parts = []
    for part in torch.split(x, max(1, _ROWS // max(1, x.shape[0])), 1):
        product = part.double() @ unit.mT
        grams = gram[:, None].expand(-1, product.shape[1], -1, -1).flatten(0, 1)
        parts.append(_exchanged(product.flatten(0, 1), grams, steps, tolerance).reshape(product.shape))
    return safe_divide(torch.cat(parts, 1), norm.mT)


def _exchanged(product: Tensor, gram: Tensor, steps: int, tolerance: float) -> Tensor:
    """Block principal pivoting: (M, r) products of each row with unit concepts, and their Gram matrices, (M, r, r).

    A free weight below 0 is held at 0, and a held one that would lower the error is freed, until there is none. Where
    their number does not fall, the last wrong one alone changes sides, which ends in any case.
    """
    free = product > 0
    slack = tolerance * product.abs().amax(-1, keepdim=True)
    best = torch.full_like(product[:, :1], product.shape[-1] + 1)
    patience = torch.full_like(best, _PATIENCE)
    found = torch.zeros_like(product)
    for _ in range(steps):
        found = _solved(product, gram, free)
        slope = product - (gram @ found[..., None])[..., 0]
        wrong = torch.where(free, found < 0, slope > slack)
        count = wrong.sum(-1, keepdim=True)
        if is_concrete(count) and not bool(count.any()):
            break
        fewer = count < best
        best = torch.where(fewer, count, best)
        patience = torch.where(fewer, _PATIENCE, patience - 1)
        last = wrong & (wrong.flip(-1).cumsum(-1).flip(-1) == 1)
        free = free ^ torch.where(patience >= 0, wrong, last)
    return found.relu()


def _solved(product: Tensor, gram: Tensor, free: Tensor) -> Tensor:
    """Solve for the free weights; the others are 0."""
    one = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    system = torch.where(free[..., :, None] & free[..., None, :], gram, one) + _RIDGE * one
    found: Tensor = torch.linalg.solve_ex(system, torch.where(free, product, 0.0)).result
    return torch.where(free, found, 0.0)
