"""Naive float64 versions of the methods that measure how sensitive the score is to cells of a grid.

Imports nothing from camfn.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .methods import divide

Scores = Callable[[Tensor], Tensor]


def shown(image: Tensor, cells: Tensor, baseline: float) -> Tensor:
    """The image (C, *T) through a mask of cells, each position in the cell that its middle lies in."""
    out = torch.zeros_like(image)
    for place in itertools.product(*map(range, image.shape[1:])):
        cell = tuple(math.floor((p + 0.5) * n / side) for p, n, side in zip(place, cells.shape, image.shape[1:]))
        m = float(cells[cell])
        for channel in range(len(image)):
            out[(channel, *place)] = m * image[(channel, *place)] + (1 - m) * baseline
    return out


def scores_of(forward: Scores, image: Tensor, masks: Sequence[Tensor], baseline: float) -> list[float]:
    return [float(forward(shown(image, mask, baseline)[None])[0]) for mask in masks]


def sobol(inputs: Tensor, grads: Tensor, *, forward: Scores, points: Tensor, baseline: float = 0.0, **_: Any) -> Tensor:
    maps = []
    for image in inputs.detach().double():
        cells, first, second = points.shape[2:], points[:, 0].double(), points[:, 1].double()
        y = scores_of(forward, image, list(first), baseline)
        variance = statistics.variance(y)
        found = torch.zeros(cells, dtype=torch.float64)
        for cell in itertools.product(*map(range, cells)):
            squares = []
            for a, b, score in zip(first, second, y):
                changed = a.clone()
                changed[cell] = b[cell]
                squares.append((score - scores_of(forward, image, [changed], baseline)[0]) ** 2)
            found[cell] = divide(math.fsum(squares), 2 * len(y) * variance)
        maps.append(found)
    return torch.stack(maps)


def hsic(
    inputs: Tensor,
    grads: Tensor,
    *,
    forward: Scores,
    masks: Tensor,
    baseline: float = 0.0,
    width: str = "distance",
    **_: Any,
) -> Tensor:
    n = len(masks)
    center = torch.eye(n, dtype=torch.float64) - 1 / n
    maps = []
    for image in inputs.detach().double():
        y = scores_of(forward, image, list(masks.double()), baseline)
        wide = statistics.median(abs(a - b) for a, b in itertools.combinations(y, 2))
        if width == "score":
            wide = statistics.median(y)
        alike = [[math.exp(-((a - b) ** 2) / (2 * wide**2)) if wide else float(a == b) for b in y] for a in y]
        kernel = center @ torch.tensor(alike, dtype=torch.float64) @ center
        found = torch.zeros(masks.shape[1:], dtype=torch.float64)
        for cell in itertools.product(*map(range, masks.shape[1:])):
            m = [float(mask[cell]) for mask in masks.double()]
            own = torch.tensor([[1 + 0.5 - (a - b) ** 2 for b in m] for a in m], dtype=torch.float64)
            found[cell] = torch.trace(own @ kernel) / (n - 1) ** 2
        maps.append(found)
    return torch.stack(maps)


def region_search(
    inputs: Tensor,
    grads: Tensor,
    *,
    forward: Scores,
    regions: Tensor,
    steps: int | None = None,
    baseline: float = 0.0,
    **_: Any,
) -> Tensor:
    """Masks (n, *T), each of all images; none of them empty."""
    maps = []
    for image in inputs.detach().double():
        masks = [mask.double() for mask in regions]

        def gain(chosen: Sequence[int], image: Tensor = image, masks: Sequence[Tensor] = masks) -> float:
            mask = torch.stack([masks[i] for i in chosen]).amax(0)
            alone, hidden = image * mask + baseline * (1 - mask), image * (1 - mask) + baseline * mask
            return float(forward(alone[None])[0]) - float(forward(hidden[None])[0])

        order: list[int] = []
        gains: list[float] = []
        while len(order) < (len(masks) if steps is None else steps):
            tried = [(gain([*order, i]), -i) for i in range(len(masks)) if i not in order]
            order.append(-max(tried)[1])
            gains.append(max(tried)[0])
        found = torch.zeros(image.shape[1:], dtype=torch.float64)
        for place in itertools.product(*map(range, image.shape[1:])):
            first = [step for step, i in enumerate(order) if masks[i][place] > 0]
            if first:
                found[place] = math.fsum(abs(b - a) for a, b in itertools.pairwise(gains[first[0] :]))
        maps.append(found)
    return torch.stack(maps)
