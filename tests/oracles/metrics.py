"""Naive float64 versions of metrics: one sample, one region, one pair at a time.

Imports nothing from camfn.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from torch import Tensor

Score = Callable[[Tensor], Tensor]
Place = tuple[int, ...]


def places(size: Sequence[int]) -> list[Place]:
    return list(itertools.product(*map(range, size)))


def value(score: Score, image: Tensor) -> float:
    return float(score(image[None].double())[0])


def without(image: Tensor, region: Sequence[Place], base: Tensor) -> Tensor:
    """One image (C, *T) with the baseline (C, *T) in a region."""
    gone = image.clone()
    for place in region:
        for channel in range(len(image)):
            gone[(channel, *place)] = base[(channel, *place)]
    return gone


def region_of(mask: Tensor) -> list[Place]:
    return [place for place in places(mask.shape) if bool(mask[place])]


def cells(size: Sequence[int], counts: Sequence[int]) -> list[list[Place]]:
    """The pixels of each cell of a grid."""
    found: dict[Place, list[Place]] = {place: [] for place in places(counts)}
    for place in places(size):
        found[tuple(p * k // side for p, k, side in zip(place, counts, size, strict=True))].append(place)
    return [found[place] for place in places(counts)]


def total(heatmap: Tensor, region: Sequence[Place]) -> float:
    return math.fsum(float(heatmap[place]) for place in region)


def pearson(first: Sequence[float], second: Sequence[float]) -> float:
    """0 where one of them is constant."""
    if len(set(first)) == 1 or len(set(second)) == 1:
        return 0.0
    a, b = (math.fsum(values) / len(values) for values in (first, second))
    both = math.fsum((x - a) * (y - b) for x, y in zip(first, second, strict=True))
    norms = math.fsum((x - a) ** 2 for x in first) * math.fsum((y - b) ** 2 for y in second)
    return both / math.sqrt(norms)


def ranks(values: Sequence[float]) -> list[float]:
    """From 1; equal values have the mean of their places."""
    return [
        1 + sum(other < one for other in values) + (sum(other == one for other in values) - 1) / 2 for one in values
    ]


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    return pearson(ranks(first), ranks(second))


def drops(score: Score, image: Tensor, regions: Sequence[Sequence[Place]], base: Tensor) -> list[float]:
    return [value(score, image) - value(score, without(image, region, base)) for region in regions]


def single_deletion(heatmap: Tensor, lost: Sequence[float], regions: Sequence[Sequence[Place]]) -> float:
    return spearman([total(heatmap, region) for region in regions], lost)


def faithfulness_correlation(heatmap: Tensor, lost: Sequence[float], regions: Sequence[Sequence[Place]]) -> float:
    return pearson([total(heatmap, region) for region in regions], lost)


def by_relevance(heatmap: Tensor) -> list[Place]:
    """All pixels, the most relevant first; equal ones in reading order."""
    return sorted(places(heatmap.shape), key=lambda place: -float(heatmap[place]))


def parts(ordered: Sequence[Place], count: int) -> list[list[Place]]:
    """Cut a list into parts of one size, the first ones by one longer."""
    small, longer = divmod(len(ordered), count)
    found, start = [], 0
    for k in range(count):
        stop = start + small + (k < longer)
        found.append(list(ordered[start:stop]))
        start = stop
    return found


def saco(score: Score, image: Tensor, heatmap: Tensor, groups: int, base: Tensor, *, sums: bool = False) -> float:
    if len(set(heatmap.flatten().tolist())) == 1:
        return 0.0
    cut = parts(by_relevance(heatmap), groups)
    told = [total(heatmap, group) / (1 if sums else len(group)) for group in cut]
    lost = drops(score, image, cut, base)
    kept = weight = 0.0
    for i in range(groups):
        for j in range(i + 1, groups):
            gap = told[i] - told[j]
            kept += gap if lost[i] >= lost[j] else -gap
            weight += abs(gap)
    return kept / weight if weight else 0.0


def removal(
    score: Score, image: Tensor, order: Sequence[int], regions: Sequence[Sequence[Place]], base: Tensor
) -> list[float]:
    """The scores while regions go one after the other, both ends included."""
    scores, gone = [value(score, image)], image.clone()
    for k in order:
        gone = without(gone, regions[k], base)
        scores.append(value(score, gone))
    return scores


def area(scores: Sequence[float]) -> float:
    return math.fsum((a + b) / 2 for a, b in itertools.pairwise(scores)) / (len(scores) - 1)


def greedy(score: Score, image: Tensor, regions: Sequence[Sequence[Place]], base: Tensor) -> list[int]:
    order: list[int] = []
    while len(order) < len(regions):
        left = [k for k in range(len(regions)) if k not in order]
        order.append(min(left, key=lambda k: removal(score, image, [*order, k], regions, base)[-1]))
    return order


def all_areas(score: Score, image: Tensor, regions: Sequence[Sequence[Place]], base: Tensor) -> dict[Place, float]:
    """The area of every order."""
    count = len(regions)
    return {order: area(removal(score, image, order, regions, base)) for order in itertools.permutations(range(count))}
