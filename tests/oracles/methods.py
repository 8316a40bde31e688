"""Naive float64 versions of the methods, written from their formulas, one sample and one position at a time.

Imports nothing from camfn. A sample's activations are a list of channels, each a list of the N values at its positions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Channels = list[list[float]]
Matrix = list[list[float]]


def relu(x: float) -> float:
    return x if x > 0 else 0.0


def divide(numerator: float, denominator: float) -> float:
    return 0.0 if denominator == 0 else numerator / denominator


def dot(x: Sequence[float], y: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def samples(x: Tensor) -> list[Channels]:
    """(B, C, *S) -> B lists of C lists of N floats."""
    flat: list[Channels] = x.detach().double().flatten(2).tolist()
    return flat


def as_maps(maps: list[list[float]], activations: Tensor) -> Tensor:
    """B lists of N floats -> (B, *S)."""
    return torch.tensor(maps, dtype=torch.float64).reshape(activations.shape[0], *activations.shape[2:])


def combine(channels: Channels, weights: Sequence[float]) -> list[float]:
    """sum_k w_k A_k(p), for every p."""
    return [
        math.fsum(w * channel[p] for w, channel in zip(weights, channels, strict=True)) for p in range(len(channels[0]))
    ]


def product(channels: Channels, grads: Channels) -> Channels:
    return [[g * a for g, a in zip(gs, row, strict=True)] for gs, row in zip(grads, channels, strict=True)]


def each_channel(
    weight: Callable[[list[float], list[float]], float],
) -> Callable[[Tensor, Tensor], Tensor]:
    """Make a method of a weight that depends on one channel's activations and gradients."""

    def method(activations: Tensor, grads: Tensor) -> Tensor:
        return as_maps(
            [
                combine(channels, [weight(a, g) for a, g in zip(channels, gs, strict=True)])
                for channels, gs in zip(samples(activations), samples(grads), strict=True)
            ],
            activations,
        )

    return method


def each_place(
    term: Callable[[float, float], float],
) -> Callable[[Tensor, Tensor], Tensor]:
    """Make a method of a term that depends on one activation and its gradient, summed over channels."""

    def method(activations: Tensor, grads: Tensor) -> Tensor:
        maps = []
        for channels, gs in zip(samples(activations), samples(grads), strict=True):
            positions = range(len(channels[0]))
            maps.append([math.fsum(term(channels[k][p], gs[k][p]) for k in range(len(channels))) for p in positions])
        return as_maps(maps, activations)

    return method


# ------------------------------------------------------------------------------------------------- activations only


def cam(activations: Tensor, grads: Tensor, *, weights: Tensor) -> Tensor:
    rows: list[list[float]] = weights.double().expand(activations.shape[:2]).tolist()
    return as_maps([combine(a, w) for a, w in zip(samples(activations), rows, strict=True)], activations)


def random_cam(activations: Tensor, grads: Tensor, *, weights: Tensor) -> Tensor:
    return cam(activations, grads, weights=weights)


def fem(activations: Tensor, grads: Tensor, *, k: float = 2.0) -> Tensor:
    maps = []
    for channels in samples(activations):
        means = [mean(channel) for channel in channels]
        sigmas = [math.sqrt(mean([(a - m) ** 2 for a in row])) for row, m in zip(channels, means, strict=True)]
        binary = [
            [1.0 if a >= m + k * s else 0.0 for a in row] for row, m, s in zip(channels, means, sigmas, strict=True)
        ]
        maps.append(combine(binary, means))
    return as_maps(maps, activations)


# -------------------------------------------------------------------------------------------------------- gradients


def alphas(a: list[float], g: list[float]) -> list[float]:
    """Eq. 19 of Grad-CAM++, in its own form, for one channel."""
    total = math.fsum(a)
    return [divide(x**2, 2 * x**2 + total * x**3) for x in g]


def _plusplus(a: list[float], g: list[float]) -> float:
    return math.fsum(alpha * relu(x) for alpha, x in zip(alphas(a, g), g, strict=True))


def _plusplus_normalized(a: list[float], g: list[float]) -> float:
    total = math.fsum(alphas(a, g))
    return math.fsum(divide(alpha, total) * relu(x) for alpha, x in zip(alphas(a, g), g, strict=True))


grad_cam = each_channel(lambda a, g: mean(g))
xgrad_cam = each_channel(lambda a, g: divide(dot(a, g), math.fsum(a)))
grad_cam_plusplus_paper = each_channel(_plusplus)
grad_cam_plusplus_normalized = each_channel(_plusplus_normalized)
hires_cam = each_place(lambda a, g: g * a)
elementwise_grad_cam = each_place(lambda a, g: relu(g * a))
layer_cam = each_place(lambda a, g: relu(g) * a)


def odam(activations: Tensor, grads: Tensor) -> Tensor:
    maps = []
    for channels, gs in zip(samples(activations), samples(grads), strict=True):
        products = product(channels, gs)
        maps.append([relu(math.fsum(row[p] for row in products)) for p in range(len(channels[0]))])
    return as_maps(maps, activations)


def grad_cam_plusplus(activations: Tensor, grads: Tensor, *, normalized: bool = False) -> Tensor:
    method = grad_cam_plusplus_normalized if normalized else grad_cam_plusplus_paper
    return method(activations, grads)


def bag_cam(activations: Tensor, grads: Tensor) -> Tensor:
    maps = []
    for channels, gs in zip(samples(activations), samples(grads), strict=True):
        products = product(channels, gs)
        regional = [mean([1 + t for t in row]) for row in products]
        positions = range(len(channels[0]))
        maps.append([math.fsum(relu(w * row[p]) for w, row in zip(regional, products, strict=True)) for p in positions])
    return as_maps(maps, activations)


# ------------------------------------------------------------------------------------------------- first components


def oriented(component: list[float], features: Channels, sign: str) -> list[float]:
    """Choose between a component and its negative."""
    if sign == "sum":
        evidence = math.fsum(component)
    elif sign == "absmax":
        evidence = max(component, key=abs)
    else:
        energy = [math.fsum(relu(row[p]) for row in features) for p in range(len(component))]
        deviations = [c - mean(component) for c in component]
        evidence = dot([e - mean(energy) for e in energy], deviations) or math.fsum(component)
    return [-c for c in component] if evidence < 0 else component


def svd_map(features: list[Channels], sign: str, centered: bool = False) -> list[list[float]]:
    """Project each sample's pixel vectors on the first right singular vector of a full SVD."""
    maps = []
    for channels in features:
        shifts = [mean(row) if centered else 0.0 for row in channels]
        moved = [[a - shift for a in row] for row, shift in zip(channels, shifts, strict=True)]
        _, _, vh = torch.linalg.svd(torch.tensor(moved, dtype=torch.float64).T, full_matrices=True)
        direction: list[float] = vh[0].tolist()
        maps.append(oriented(combine(moved, direction), channels, sign))
    return maps


def eigen_cam(activations: Tensor, grads: Tensor, *, centered: bool = False, sign: str | None = None) -> Tensor:
    sign = sign or ("corr_mean" if centered else "sum")
    return as_maps(svd_map(samples(activations), sign, centered), activations)


def eigen_grad_cam(activations: Tensor, grads: Tensor, *, centered: bool = False, sign: str = "corr_mean") -> Tensor:
    features = [product(a, g) for a, g in zip(samples(activations), samples(grads), strict=True)]
    return as_maps(svd_map(features, sign, centered), activations)


def seg_eigen_cam(activations: Tensor, grads: Tensor, *, sign: str = "absmax") -> Tensor:
    features = [product(a, g) for a, g in zip(samples(activations), samples(grads.abs()), strict=True)]
    return as_maps(svd_map(features, sign), activations)


def kernel_value(x: Sequence[float], y: Sequence[float], kernel: str, gamma: float, coef0: float, degree: int) -> float:
    if kernel == "sigmoid":
        return math.tanh(gamma * dot(x, y) + coef0)
    if kernel == "poly":
        return (gamma * dot(x, y) + coef0) ** degree
    if kernel == "rbf":
        return math.exp(-gamma * math.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True)))
    if kernel == "cosine":
        return divide(dot(x, y), math.sqrt(dot(x, x) * dot(y, y)))
    return dot(x, y)


def kpca_cam(
    activations: Tensor,
    grads: Tensor,
    *,
    kernel: str = "sigmoid",
    gamma: float | None = None,
    coef0: float = 1.0,
    degree: int = 3,
    sign: str = "corr_mean",
) -> Tensor:
    maps = []
    for channels in samples(activations):
        vectors = list(zip(*channels, strict=True))
        length = math.fsum(dot(x, x) for x in vectors) / len(vectors)
        scale = divide(1.0, length) if gamma is None else gamma
        gram = [[kernel_value(x, y, kernel, scale, coef0, degree) for y in vectors] for x in vectors]
        count = len(vectors)
        centering = torch.eye(count, dtype=torch.float64) - 1 / count
        values, eigenvectors = torch.linalg.eigh(centering @ torch.tensor(gram, dtype=torch.float64) @ centering)
        norm = math.sqrt(max(float(values[-1]), 0.0))
        maps.append(oriented([norm * v for v in eigenvectors[:, -1].tolist()], channels, sign))
    return as_maps(maps, activations)


# ----------------------------------------------------------------------------------------------------- perturbations


def ablation_cam(
    activations: Tensor,
    grads: Tensor,
    *,
    tail: Callable[[Tensor], Tensor],
    slope: str | None = None,
    baseline: float | Tensor = 0.0,
    closed_form: bool | None = None,
    top_k: int | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    maps = []
    bases = torch.as_tensor(baseline, dtype=torch.float64).expand(activations.shape)
    for sample, base, channels in zip(activations.double(), bases, samples(activations), strict=True):
        score = float(tail(sample[None])[0])
        weights = []
        energies = [dot(channel, channel) for channel in channels]
        chosen = sorted(range(len(channels)), key=lambda k: -energies[k])[:top_k]
        for k in range(len(channels)):
            ablated = sample.clone()
            if k in chosen:
                ablated[k] = base[k]
            drop = score - float(tail(ablated[None])[0])
            divisor = {"score": abs(score), "l1": float((sample - base)[k].abs().sum())}.get(slope or "", 1.0)
            weights.append(divide(drop, divisor))
        maps.append(combine(channels, weights))
    return as_maps(maps, activations)


def linear_weights(old: int, new: int, place: int) -> dict[int, float]:
    """Weights of the old pixels in a new one, their centers at half integers and the border repeated."""
    center = max((place + 0.5) * old / new - 0.5, 0.0)
    low = math.floor(center)
    weights: dict[int, float] = {}
    for index, weight in ((low, 1 - (center - low)), (low + 1, center - low)):
        weights[min(index, old - 1)] = weights.get(min(index, old - 1), 0.0) + weight
    return weights


def resized(channel: Tensor, size: Sequence[int]) -> Tensor:
    """Resize one map (*S) linearly, place by place."""
    new = torch.zeros(tuple(size), dtype=torch.float64)
    for place in itertools.product(*map(range, size)):
        axes = [linear_weights(old, n, p).items() for old, n, p in zip(channel.shape, size, place, strict=True)]
        new[place] = math.fsum(
            math.prod(weight for _, weight in corner) * float(channel[tuple(index for index, _ in corner)])
            for corner in itertools.product(*axes)
        )
    return new


def mask_of(channel: Tensor, size: Sequence[int]) -> Tensor:
    """Score-CAM's mask: min-max of the upsampled channel, 0 for a constant one."""
    if bool(channel.max() == channel.min()):
        return torch.zeros(tuple(size), dtype=torch.float64)
    up = resized(channel, size)
    return (up - up.min()) / (up.max() - up.min())


def score_cam(
    activations: Tensor,
    grads: Tensor,
    *,
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    form: str = "softmax",
    baseline: float | None = None,
    top_k: int | float | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    maps = []
    for sample, image, channels in zip(activations.double(), inputs.double(), samples(activations), strict=True):
        masks = [mask_of(channel, image.shape[1:]) for channel in sample]
        black = torch.full_like(image, baseline or 0.0)
        scores = [float(forward((image * mask + black * (1 - mask))[None])[0]) for mask in masks]
        count = len(scores) if top_k is None else top_k
        count = min(count, len(scores)) if isinstance(count, int) else math.ceil(count * len(scores))
        order = sorted(range(len(scores)), key=lambda k: -math.fsum(a * a for a in channels[k]))
        tried = order[:count]
        weights = [0.0] * len(scores)
        if form == "softmax":
            exponentials = {k: math.exp(scores[k] - max(scores)) for k in tried}
            for k in tried:
                weights[k] = exponentials[k] / math.fsum(exponentials.values())
        else:
            removed = 0.0 if baseline is None else float(forward(black[None])[0])
            for k in tried:
                weights[k] = 0.0 if max(channels[k]) == min(channels[k]) else scores[k] - removed
        maps.append(combine(channels, weights))
    return as_maps(maps, activations)


Oracle = Callable[..., Any]


def _grid(values: Sequence[float], shape: Sequence[int]) -> list[list[list[float]]]:
    """Values of a map as frames of rows; a line is a frame of one row."""
    height, width = (1, shape[-1]) if len(shape) == 1 else shape[-2:]
    frames = len(values) // (height * width)
    return [
        [[values[(t * height + y) * width + x] for x in range(width)] for y in range(height)] for t in range(frames)
    ]


def _reflected(at: int, side: int) -> int:
    if side == 1:
        return 0
    return -at if at < 0 else 2 * side - 2 - at if at >= side else at


def rank_gaussian(frame: list[list[float]]) -> list[list[float]]:
    """Sort the nine values around a place; a rank's distance from the middle has a Gaussian weight."""
    height, width = len(frame), len(frame[0])
    found = []
    for y in range(height):
        row = []
        for x in range(width):
            window = sorted(
                frame[_reflected(y + dy, height)][_reflected(x + dx, width)] for dy in (-1, 0, 1) for dx in (-1, 0, 1)
            )
            middle = mean(window)
            deviation = math.sqrt(mean([(value - middle) ** 2 for value in window]))
            if middle <= 0:
                row.append(0.0)
            elif deviation == 0:
                row.append(window[4])
            else:
                sigma = deviation / middle
                weights = [math.exp(-(rank**2) / (2 * sigma**2)) for rank in range(-4, 5)]
                row.append(dot(window, weights) / math.fsum(weights))
        found.append(row)
    return found


def tam(activations: Tensor, grads: Tensor, **options: Any) -> Tensor:
    maps = []
    shape, rows = activations.shape[2:], options["weights"].double()
    for b, channels in enumerate(samples(activations)):
        row = (rows if rows.ndim == 1 else rows[b]).tolist()
        own = [relu(dot(row, [channel[p] for channel in channels])) for p in range(len(channels[0]))]
        if "context" in options:
            earlier = samples(options["context"])[b]
            scores = options["likeness"][b].double().tolist()
            total = math.fsum(scores)
            mixed = [math.fsum(divide(s, total) * e[p] for s, e in zip(scores, earlier)) for p in range(len(own))]
            factor = divide(dot(own, mixed), dot(mixed, mixed))
            own = [relu(m - factor * i) for m, i in zip(own, mixed)]
        if options.get("filtered", True):
            own = [value for frame in _grid(own, shape) for line in rank_gaussian(frame) for value in line]
        maps.append(torch.tensor(own, dtype=torch.float64).reshape(shape))
    return torch.stack(maps)


def seg_xres_cam(activations: Tensor, grads: Tensor, *, pool: int = 2, how: str = "mean", **_: Any) -> Tensor:
    """The gradient of a position is the mean or maximum of those whose places have the same whole parts of p / pool."""
    positions = list(itertools.product(*map(range, activations.shape[2:])))
    windows = [tuple(i // pool for i in position) for position in positions]
    maps = []
    for channels, slopes in zip(samples(activations), samples(grads), strict=True):
        pooled = []
        for row in slopes:
            groups: dict[tuple[int, ...], list[float]] = {}
            for window, value in zip(windows, row, strict=True):
                groups.setdefault(window, []).append(value)
            pooled.append([mean(groups[w]) if how == "mean" else max(groups[w]) for w in windows])
        terms = product(channels, pooled)
        maps.append([math.fsum(row[p] for row in terms) for p in range(len(positions))])
    return as_maps(maps, activations)
