"""Naive float64 versions of the methods that perturb, one sample, one row and one position at a time.

Imports nothing from camfn.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.oracles.methods import as_maps, combine, divide, dot, linear_weights, mask_of, mean, relu, resized, samples

Scores = Callable[[Tensor], Tensor]


def score_of(function: Scores, sample: Tensor) -> float:
    return float(function(sample[None])[0])


def places(shape: Sequence[int]) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, shape)))


# --------------------------------------------------------------------------------------------------- at the layer


def recipro_cam(activations: Tensor, grads: Tensor, *, tail: Scores, kernel: str = "gaussian", **_: Any) -> Tensor:
    line = {0: 0.5, 1: 0.25} if kernel == "gaussian" else {0: 1.0}
    maps = []
    for sample in activations.double():
        scores = []
        for p in places(sample.shape[1:]):
            kept = torch.zeros_like(sample.flatten(1))
            for i, q in enumerate(places(sample.shape[1:])):
                weight = math.prod(line.get(abs(x - y), 0.0) for x, y in zip(p, q, strict=True))
                kept[:, i] = weight * sample.flatten(1)[:, i]
            scores.append(score_of(tail, kept.reshape(sample.shape)))
        maps.append(scores)
    return as_maps(maps, activations)


def shapley_cam(activations: Tensor, grads: Tensor, *, tail: Scores, elementwise: bool = False) -> Tensor:
    maps = []
    for sample, channels in zip(activations.detach().double(), samples(activations), strict=True):
        given = sample.clone().requires_grad_()
        slope = torch.autograd.grad(tail(given[None])[0], given, create_graph=True)[0].flatten()
        hessian = torch.stack([torch.autograd.grad(s, given, retain_graph=True)[0].flatten() for s in slope])
        alpha = slope.detach() - hessian @ sample.flatten() / 2
        rows: list[list[float]] = alpha.reshape(len(channels), -1).tolist()
        if elementwise:
            maps.append([dot([row[p] for row in rows], [c[p] for c in channels]) for p in range(len(channels[0]))])
        else:
            maps.append(combine(channels, [mean(row) for row in rows]))
    return as_maps(maps, activations)


def lift_cam(activations: Tensor, grads: Tensor, *, tail: Scores, steps: int = 8, **_: Any) -> Tensor:
    roots, vectors = torch.linalg.eigh(three_terms(steps))
    maps = []
    for sample, channels in zip(activations.detach().double(), samples(activations), strict=True):
        total = torch.zeros_like(sample)
        for i in range(steps):
            given = (sample * (float(roots[i]) + 1) / 2).requires_grad_()
            total += float(vectors[0, i]) ** 2 * torch.autograd.grad(tail(given[None])[0], given)[0]
        rows: list[list[float]] = total.flatten(1).tolist()
        maps.append(combine(channels, [dot(row, channel) for row, channel in zip(rows, channels, strict=True)]))
    return as_maps(maps, activations)


def three_terms(count: int) -> Tensor:
    """The matrix whose eigenvalues are the roots of a Legendre polynomial (Golub and Welsch)."""
    off = torch.tensor([n / math.sqrt(4 * n * n - 1) for n in range(1, count)], dtype=torch.float64)
    return torch.diag(off, 1) + torch.diag(off, -1)


def stretched(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [divide(v - low, high - low) for v in values]


def quantile_of(values: Sequence[float], q: float) -> float:
    ordered, place = sorted(values), q * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def fd_cam(activations: Tensor, grads: Tensor, *, tail: Scores, quantile: float = 0.95, **_: Any) -> Tensor:
    maps = []
    for sample, channels, gs in zip(activations.double(), samples(activations), samples(grads), strict=True):
        scores = []
        for channel in channels:
            cosines = [
                divide(dot(channel, other), math.sqrt(dot(channel, channel) * dot(other, other))) for other in channels
            ]
            group = torch.tensor([c >= quantile_of(cosines, quantile) - 1e-12 for c in cosines])
            on, off = sample.clone(), sample.clone()
            on[~group], off[group] = 0, 0
            scores.append(score_of(tail, on) + score_of(tail, sample) - score_of(tail, off))
        pairs = zip(stretched(scores), stretched([mean(g) for g in gs]), strict=True)
        maps.append(combine(channels, [math.exp(s) * alpha - 0.5 for s, alpha in pairs]))
    return as_maps(maps, activations)


# --------------------------------------------------------------------------------------------------- on the input


def weights_of(form: str, scores: Sequence[float], channels: Sequence[Sequence[float]]) -> list[float]:
    if form == "softmax":
        exponentials = [math.exp(score - max(scores)) for score in scores]
        return [e / math.fsum(exponentials) for e in exponentials]
    return [0.0 if max(row) == min(row) else s for row, s in zip(channels, scores, strict=True)]


def ss_cam(
    activations: Tensor,
    grads: Tensor,
    *,
    forward: Scores,
    inputs: Tensor,
    noise: Tensor,
    form: str = "softmax",
    **_: Any,
) -> Tensor:
    maps = []
    for sample, image, channels in zip(activations.double(), inputs.double(), samples(activations), strict=True):
        scores = []
        for channel in sample:
            mask = mask_of(channel, image.shape[1:])
            scores.append(mean([score_of(forward, image * (mask + field)) for field in noise.double()]))
        maps.append(combine(channels, weights_of(form, scores, channels)))
    return as_maps(maps, activations)


def is_cam(
    activations: Tensor,
    grads: Tensor,
    *,
    forward: Scores,
    inputs: Tensor,
    steps: int = 10,
    form: str = "softmax",
    **_: Any,
) -> Tensor:
    maps = []
    for sample, image, channels in zip(activations.double(), inputs.double(), samples(activations), strict=True):
        scores = []
        for channel in sample:
            masked = image * mask_of(channel, image.shape[1:])
            scores.append(mean([score_of(forward, masked * (i / steps)) for i in range(1, steps + 1)]))
        maps.append(combine(channels, weights_of(form, scores, channels)))
    return as_maps(maps, activations)


def complete_linkage(rows: Sequence[Sequence[float]], threshold: float) -> list[set[int]]:
    """Join the two nearest clusters, by their farthest members, as long as these are nearer than the threshold."""

    def distance(i: int, j: int) -> float:
        norms = math.sqrt(dot(rows[i], rows[i]) * dot(rows[j], rows[j]))
        return max(1 - divide(dot(rows[i], rows[j]), norms), 0.0)

    clusters = [{i} for i in range(len(rows))]
    while len(clusters) > 1:
        pairs = [
            (max(distance(i, j) for i in one for j in other), one, other)
            for one, other in itertools.combinations(clusters, 2)
        ]
        least, one, other = min(pairs, key=lambda pair: pair[0])
        if not least < threshold:
            break
        clusters = [one | other, *(c for c in clusters if c is not one and c is not other)]
    return clusters


def vit_cx(
    activations: Tensor,
    grads: Tensor,
    *,
    forward: Scores,
    inputs: Tensor,
    noise: Tensor,
    threshold: float = 0.1,
    **_: Any,
) -> Tensor:
    maps = []
    for sample, image in zip(activations.double(), inputs.double(), strict=True):
        size = image.shape[1:]
        rows: list[list[float]] = [mask_of(channel, size).flatten().tolist() for channel in sample]
        sums = [
            [math.fsum(rows[i][p] for i in c) for p in range(len(rows[0]))] for c in complete_linkage(rows, threshold)
        ]
        masks = [stretched(row) for row in sums if max(row) > min(row)]
        scores = []
        for row in masks:
            m = torch.tensor(row, dtype=torch.float64).reshape(size)
            around = noise.double() * (1 - m)
            scores.append(score_of(forward, image * m + around) - score_of(forward, image + around))
        whole = score_of(forward, image)
        weights = [divide(s + whole, len(masks)) for s in scores]
        values = [
            divide(dot(weights, [m[p] for m in masks]), math.fsum(m[p] for m in masks)) for p in range(len(rows[0]))
        ]
        maps.append(torch.tensor(values, dtype=torch.float64).reshape(size))
    return torch.stack(maps)


def blurred_line(values: Tensor) -> Tensor:
    """One line of pixels, blurred and reflected at its ends."""
    size = len(values)
    reach = min(25, size - 1)
    window = {d: math.exp(-0.5 * (d / 50) ** 2) for d in range(-reach, reach + 1)}
    out = torch.zeros_like(values)
    for i in range(size):
        for d, weight in window.items():
            j = abs(i + d)
            j = 2 * (size - 1) - j if j > size - 1 else j
            out[i] += weight / math.fsum(window.values()) * values[j]
    return out


def blurred_image(image: Tensor) -> Tensor:
    out = image.clone()
    for axis in range(1, image.ndim):
        moved = out.movedim(axis, -1)
        lines = torch.stack([blurred_line(line) for line in moved.reshape(-1, moved.shape[-1])])
        out = lines.reshape(moved.shape).movedim(-1, axis)
    return out


def group_cam(
    activations: Tensor,
    grads: Tensor,
    *,
    forward: Scores,
    inputs: Tensor,
    groups: int = 32,
    quantile: float = 0.7,
    baseline: Tensor | None = None,
    **_: Any,
) -> Tensor:
    maps = []
    for b, (channels, gs) in enumerate(zip(samples(activations), samples(grads), strict=True)):
        image = inputs[b].double()
        base = blurred_image(image) if baseline is None else baseline[b].double()
        length = math.ceil(len(channels) / groups)
        total = [0.0] * len(channels[0])
        for start in range(0, len(channels), length):
            chosen = range(start, min(start + length, len(channels)))
            summed = combine([channels[k] for k in chosen], [mean(gs[k]) for k in chosen])
            kept = [relu(v) for v in summed]
            kept = [v if v > quantile_of(kept, quantile) else 0.0 for v in kept]
            if max(kept) == min(kept):
                continue
            up = resized(torch.tensor(kept, dtype=torch.float64).reshape(activations.shape[2:]), image.shape[1:])
            low, high = float(up.min()), float(up.max())
            mask = (up - low) / (high - low)
            gain = score_of(forward, image * mask + base * (1 - mask)) - score_of(forward, base)
            # its own minimum and range on the image: upsampled, this is the sum of the masks on the image
            total = [t + gain * (v - low) / (high - low) for t, v in zip(total, kept, strict=True)]
        maps.append(total)
    return as_maps(maps, activations)


def poly_cam(
    activations: Tensor,
    grads: Tensor,
    *,
    forward: Scores,
    inputs: Tensor,
    deeper: Tensor | None = None,
    switch: str = "plus_minus",
    **_: Any,
) -> Tensor:
    maps = []
    for b, (sample, channels) in enumerate(zip(activations.double(), samples(activations), strict=True)):
        image = inputs[b].double()
        weights = []
        for channel, values in zip(sample, channels, strict=True):
            mask = resized(torch.tensor(stretched(values), dtype=torch.float64).reshape(channel.shape), image.shape[1:])
            weight = score_of(forward, image * mask) if "plus" in switch else 0.0
            if "minus" in switch:
                weight = relu(weight + score_of(forward, image) - score_of(forward, image * (1 - mask)))
            weights.append(weight)
        map_ = combine(channels, weights)
        if deeper is not None:
            own = torch.tensor([relu(v) for v in map_], dtype=torch.float64).reshape(sample.shape[1:])
            around = resized(resized(own, deeper.shape[1:]), own.shape)
            prior = resized(deeper[b].double().relu(), own.shape)
            terms = zip(own.flatten().tolist(), around.flatten().tolist(), prior.flatten().tolist(), strict=True)
            map_ = [divide(v, n) * p for v, n, p in terms]
        maps.append(map_)
    return as_maps(maps, activations)


def resizing(old: Sequence[int], new: Sequence[int]) -> Tensor:
    """The matrix (new places, old places) of linear resizing."""
    matrix = torch.zeros(math.prod(new), math.prod(old), dtype=torch.float64)
    index = {p: i for i, p in enumerate(places(old))}
    for i, place in enumerate(places(new)):
        axes = [linear_weights(o, n, p).items() for o, n, p in zip(old, new, place, strict=True)]
        for corner in itertools.product(*axes):
            matrix[i, index[tuple(k for k, _ in corner)]] += math.prod(weight for _, weight in corner)
    return matrix


def opti_cam(
    activations: Tensor,
    grads: Tensor,
    *,
    forward: Scores,
    inputs: Tensor,
    steps: int = 100,
    learning_rate: float = 0.1,
    patience: int | None = 10,
) -> Tensor:
    maps = []
    for sample, image, channels in zip(
        activations.detach().double(), inputs.double(), samples(activations), strict=True
    ):
        up = resizing(sample.shape[1:], image.shape[1:])
        flat = sample.flatten(1)
        changing = flat - flat.amin(1, keepdim=True)
        count = len(channels)
        u, first, second = [0.0] * count, [0.0] * count, [0.0] * count
        best, best_score, waited = list(u), -math.inf, 0
        for step in range(1, steps + 1):
            given = torch.tensor(u, dtype=torch.float64, requires_grad=True)
            line = up @ (given.softmax(0) @ changing)
            reach = line.max() - line.min()
            mask = (line - line.min()) / reach if float(reach.detach()) > 0 else 0 * line
            score = forward((image * mask.reshape(image.shape[1:]))[None])[0]
            if float(score.detach()) > best_score:
                best, best_score, waited = list(u), float(score.detach()), 0
            else:
                waited += 1
            if patience is not None and waited >= patience:
                break
            slopes: list[float] = torch.autograd.grad(score, given)[0].tolist()
            first = [0.9 * m + 0.1 * s for m, s in zip(first, slopes, strict=True)]
            second = [0.999 * v + 0.001 * s * s for v, s in zip(second, slopes, strict=True)]
            u = [
                x + learning_rate * divide(m / (1 - 0.9**step), math.sqrt(v / (1 - 0.999**step)))
                for x, m, v in zip(u, first, second, strict=True)
            ]
        maps.append(combine(channels, torch.tensor(best, dtype=torch.float64).softmax(0).tolist()))
    return as_maps(maps, activations)


def rise(
    inputs: Tensor,
    grads: Tensor,
    *,
    forward: Scores,
    masks: Tensor,
    probability: float = 0.5,
    centered: bool = False,
    **_: Any,
) -> Tensor:
    maps = []
    for image in inputs.double():
        total = torch.zeros(image.shape[1:], dtype=torch.float64)
        scores = [score_of(forward, image * mask) for mask in masks.double()]
        off = mean(scores) if centered else 0.0
        for score, mask in zip(scores, masks.double(), strict=True):
            total += (score - off) * mask
        maps.append((total / (len(masks) * probability)).flatten().tolist())
    return as_maps(maps, inputs)


def d_rise(inputs: Tensor, grads: Tensor, *, forward: Scores, masks: Tensor, **_: Any) -> Tensor:
    maps = []
    for image in inputs.double():
        total = torch.zeros(image.shape[1:], dtype=torch.float64)
        for mask in masks.double():
            total += score_of(forward, image * mask) * mask
        maps.append(total.flatten().tolist())
    return as_maps(maps, inputs)


def occlusion(
    inputs: Tensor,
    grads: Tensor,
    *,
    forward: Scores,
    patch: Sequence[int] | int,
    stride: Sequence[int] | int,
    baseline: float = 0.0,
    **_: Any,
) -> Tensor:
    """One place of the patch after the other; the last one along each dimension ends with the input."""
    size = tuple(inputs.shape[2:])
    sides = [patch] * len(size) if isinstance(patch, int) else list(patch)
    steps = [stride] * len(size) if isinstance(stride, int) else list(stride)
    starts = []
    for length, side, step in zip(size, sides, steps, strict=True):
        line = [0]
        while line[-1] + side < length:
            line.append(min(line[-1] + step, length - side))
        starts.append(line)
    maps = []
    for image in inputs.double():
        whole, lost = score_of(forward, image), {place: [] for place in places(size)}  # type: ignore[var-annotated]
        for corner in itertools.product(*starts):
            inside = [p for p in places(size) if all(c <= q < c + s for c, q, s in zip(corner, p, sides, strict=True))]
            hidden = image.clone()
            for place in inside:
                hidden[(slice(None), *place)] = baseline
            drop = whole - score_of(forward, hidden)
            for place in inside:
                lost[place].append(drop)
        maps.append([mean(lost[place]) for place in places(size)])
    return as_maps(maps, inputs)


def sobel_edges(inputs: Tensor, grads: Tensor, **_: Any) -> Tensor:
    """Each place by its neighbors, those outside repeated from the border."""
    size = tuple(inputs.shape[2:])
    maps = []
    for image in inputs.double():
        gray = image.mean(0)
        values = []
        for place in places(size):
            total = 0.0
            for along in range(len(size)):
                slope = 0.0
                for step in itertools.product((-1, 0, 1), repeat=len(size)):
                    near = tuple(min(max(p + d, 0), n - 1) for p, d, n in zip(place, step, size, strict=True))
                    weights = [d / 2 if k == along else (2 - abs(d)) / 4 for k, d in enumerate(step)]
                    slope += math.prod(weights) * float(gray[near])
                total += slope**2
            values.append(math.sqrt(total))
        maps.append(values)
    return as_maps(maps, inputs)
