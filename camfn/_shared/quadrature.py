"""Nodes and weights of the Gauss-Legendre rule."""

# tested in tests/methods/gradient/test_second_order.py

from __future__ import annotations

import math


def gauss_legendre(count: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of the Gauss-Legendre rule on [0, 1].

    Example:
        >>> gauss_legendre(1)
        ([0.5], [1.0])
    """
    nodes, weights = [], []
    for i in range(count):
        x, slope = math.cos(math.pi * (i + 0.75) / (count + 0.5)), 0.0
        # Newton's method converges quadratically from here: six steps reach the precision of a float
        for _ in range(6):
            value, slope = _legendre(count, x)
            x -= value / slope
        nodes.append((1 - x) / 2)
        weights.append(1 / ((1 - x * x) * slope * slope))
    return nodes, weights


def _legendre(degree: int, x: float) -> tuple[float, float]:
    """Legendre polynomial and its slope, by Bonnet's recursion."""
    before, value = 0.0, 1.0
    for n in range(1, degree + 1):
        before, value = value, ((2 * n - 1) * x * value - (n - 1) * before) / n
    return value, degree * (x * value - before) / (x * x - 1)
