"""Naive float64 versions of the methods of a whole network: loops over positions, backward passes written by hand.

Imports nothing from camfn.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def at(values: Tensor, place: Sequence[float]) -> float:
    """Linear interpolation of (*S,) at a place, one dimension at a time; beyond the border, the border."""
    if values.ndim == 0:
        return float(values)
    low = min(max(math.floor(place[0]), 0), values.shape[0] - 1)
    high = min(low + 1, values.shape[0] - 1)
    share = min(max(place[0] - low, 0.0), 1.0)
    return (1 - share) * at(values[low], place[1:]) + share * at(values[high], place[1:])


def upsampled(values: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """(*S,) to (*size,)."""
    out = torch.zeros(*size, dtype=torch.float64)
    for index in itertools.product(*map(range, size)):
        if align_corners:
            place = [i * (old - 1) / max(new - 1, 1) for i, old, new in zip(index, values.shape, size)]
        else:
            place = [(i + 0.5) * old / new - 0.5 for i, old, new in zip(index, values.shape, size)]
        out[index] = at(values, place)
    return out


def psi(term: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """(C, *S) to (*size,): each channel stretched by the layer's own range, upsampled, and only then added."""
    sizes = term.double().abs()
    low, high = float(sizes.min()), float(sizes.max())
    total = torch.zeros(*size, dtype=torch.float64)
    for channel in sizes:
        stretched = (channel - low) / (high - low) if high > low else torch.zeros_like(channel)
        total += upsampled(stretched, size, align_corners)
    return total


def full_grad(terms: Sequence[Tensor], size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Terms (B, C, *S) to the map (B, *size)."""
    batch = range(len(terms[0]))
    return torch.stack([sum((psi(term[i], size, align_corners) for term in terms), torch.zeros(1)) for i in batch])


# ------------------------------------------------------------------------------------- backward passes of ReLU networks


def backward(
    layers: Sequence[tuple[list[list[float]], list[float]]], x: list[float], target: int, rule: str
) -> list[float]:
    """Derivative of one output of linear layers with ReLUs between, one unit at a time, under a rule for the ReLUs."""
    before: list[list[float]] = []
    signal = x
    for depth, (weight, bias) in enumerate(layers):
        signal = [math.fsum(w * v for w, v in zip(row, signal)) + b for row, b in zip(weight, bias)]
        if depth < len(layers) - 1:
            before.append(signal)
            signal = [max(v, 0.0) for v in signal]
    grad = [1.0 if unit == target else 0.0 for unit in range(len(signal))]
    for depth in reversed(range(len(layers))):
        weight = layers[depth][0]
        grad = [math.fsum(weight[out][i] * grad[out] for out in range(len(grad))) for i in range(len(weight[0]))]
        if depth:
            grad = [through(rule, z, g) for z, g in zip(before[depth - 1], grad)]
    return grad


def through(rule: str, z: float, g: float) -> float:
    """What a ReLU hands back of the gradient g where its input was z."""
    if rule == "deconv":
        return g if g > 0 else 0.0
    if rule == "guided":
        return g if g > 0 and z > 0 else 0.0
    return g if z > 0 else 0.0


# ------------------------------------------------------------------------------------------------- averaged gradients


def smooth_grad_cam_plusplus(activations: Tensor, grads: Tensor) -> Tensor:
    """Activations (B, C, *S) of the images, gradients (n, B, C, *S) of their noisy copies, to the map (B, *S)."""
    n, maps = len(grads), torch.zeros(activations[:, 0].shape, dtype=torch.float64)
    for b, sample in enumerate(activations):
        for k, channel in enumerate(sample):
            whole, weight = math.fsum(channel.flatten().tolist()), 0.0
            for position in itertools.product(*map(range, channel.shape)):
                g = [float(grads[(i, b, k, *position)]) for i in range(n)]
                one, two, three = (math.fsum(v**power for v in g) / n for power in (1, 2, 3))
                below = 2 * two + whole * three
                weight += (two / below if below else 0.0) * max(one, 0.0)
            maps[b] += weight * channel
    return maps


# ------------------------------------------------------------------------------------------------------------- paths


def idgi(
    x: Tensor, start: Tensor, score: Callable[[Tensor], float], gradient: Callable[[Tensor], Tensor], steps: int
) -> Tensor:
    """One image (C, *S): the change of each step, by the squares of the gradient at its beginning."""
    total = torch.zeros_like(x)
    for k in range(steps):
        here, there = (start + (x - start) * i / steps for i in (k, k + 1))
        squares = [v * v for v in gradient(here).flatten().tolist()]
        share = torch.tensor(squares, dtype=torch.float64).reshape(x.shape) / math.fsum(squares)
        total += (score(there) - score(here)) * share
    return total


def guided_ig(
    x: Tensor,
    start: Tensor,
    gradient: Callable[[Tensor], Tensor],
    steps: int,
    fraction: float = 0.25,
    max_dist: float = 0.02,
) -> Tensor:
    """One image (C, *S): values in turn, those with the smallest gradient first, until each step's distance is gone."""
    end, first = x.flatten().tolist(), start.flatten().tolist()
    count, whole = len(end), math.fsum(abs(b - a) for a, b in zip(first, end))
    at, total = list(first), [0.0] * count
    for k in range(1, steps + 1):
        g = gradient(torch.tensor(at, dtype=torch.float64).reshape(x.shape)).flatten().tolist()
        low, high = max(k / steps - max_dist, 0.0), min(k / steps + max_dist, 1.0)
        most = [a + (b - a) * high if high < 1 else b for a, b in zip(first, end)]
        least = [a + (b - a) * low for a, b in zip(first, end)]
        before = list(at)
        at = [lo if abs(v - a) < abs(lo - a) else v for v, lo, a in zip(at, least, first)]
        while True:
            over = math.fsum(abs(b - v) for v, b in zip(at, end)) - whole * (1 - k / steps)
            if over <= 1e-12 * whole:
                break
            free = [abs(g[i]) if at[i] != most[i] else math.inf for i in range(count)]
            limit = sorted(free)[math.floor(fraction * (count - 1))]
            chosen = [i for i in range(count) if free[i] <= limit and at[i] != most[i]]
            reach = math.fsum(abs(most[i] - at[i]) for i in chosen)
            for i in chosen:
                at[i] = most[i] if over > reach else at[i] + (most[i] - at[i]) * over / reach
            if over <= reach:
                break
        total = [t + (b - a) * s for t, a, b, s in zip(total, before, at, g)]
    return torch.tensor(total, dtype=torch.float64).reshape(x.shape)


def expected_gradients(
    gradient: Callable[[Tensor], Tensor], image: Tensor, photos: Tensor, draws: Sequence[tuple[float, float]]
) -> Tensor:
    """Of one image (C, *S), by the gradient of its score; each draw chooses a photo and a point on the way."""
    total = torch.zeros_like(image)
    for first, a in draws:
        photo = photos[math.floor(first * len(photos))]
        for place in itertools.product(*map(range, image.shape)):
            at_point = photo + a * (image - photo)
            total[place] += (image[place] - photo[place]) * gradient(at_point)[place] / len(draws)
    return total
