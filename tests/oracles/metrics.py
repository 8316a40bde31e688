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


def faithfulness_estimate(score: Score, image: Tensor, heatmap: Tensor, groups: int, base: Tensor) -> float:
    if len(set(heatmap.flatten().tolist())) == 1:
        return 0.0
    cut = parts(by_relevance(heatmap), groups)
    return pearson([total(heatmap, group) for group in cut], drops(score, image, cut, base))


def monotonicity(score: Score, image: Tensor, heatmap: Tensor, base: Tensor, tolerance: float) -> float:
    """Pixel by pixel, from the baseline to the image, the least relevant first."""
    now, scores = base.clone(), [value(score, base)]
    for place in sorted(places(heatmap.shape), key=lambda place: float(heatmap[place])):
        now = without(now, [place], image)
        scores.append(value(score, now))
    span = max(scores) - min(scores)
    return float(all(after - before >= -tolerance * span for before, after in itertools.pairwise(scores)))


def monotonicity_correlation(
    score: Score, image: Tensor, heatmap: Tensor, groups: int, draws: Sequence[Tensor]
) -> float:
    magnitudes = heatmap.abs()
    if len(set(magnitudes.flatten().tolist())) == 1:
        return 0.0
    cut, full = parts(by_relevance(magnitudes), groups), value(score, image)
    moved = [
        math.fsum((value(score, without(image, group, draw)) - full) ** 2 for draw in draws) / len(draws)
        for group in cut
    ]
    return spearman([total(magnitudes, group) for group in cut], moved)


def irof(score: Score, image: Tensor, heatmap: Tensor, regions: Sequence[Sequence[Place]], base: Tensor) -> float:
    means = [total(heatmap, region) / len(region) for region in regions]
    if len(set(heatmap.flatten().tolist())) == 1:
        means = [0.0] * len(regions)
    order = sorted(range(len(regions)), key=lambda k: -means[k])
    left = removal(score, image, order, regions, base)
    return 1 - area(left) / left[0] if left[0] else 0.0


def rank_accuracy(heatmap: Tensor, mask: Tensor, k: int) -> float:
    """The mean over all orders of equal pixels of the share of the first k in the mask."""
    last = sorted(heatmap.flatten().tolist(), reverse=True)[k - 1]
    above = [place for place in places(heatmap.shape) if float(heatmap[place]) > last]
    tied = [place for place in places(heatmap.shape) if float(heatmap[place]) == last]
    hits = sum(bool(mask[place]) for place in above)
    share = sum(bool(mask[place]) for place in tied) / len(tied)
    return (hits + (k - len(above)) * share) / k


def roc_auc(heatmap: Tensor, mask: Tensor) -> float:
    """All pairs of a pixel in the mask with one beside it."""
    inside = [float(heatmap[place]) for place in places(heatmap.shape) if mask[place]]
    outside = [float(heatmap[place]) for place in places(heatmap.shape) if not mask[place]]
    return sum((a > b) + (a == b) / 2 for a in inside for b in outside) / (len(inside) * len(outside))


def norm(x: Tensor) -> float:
    return math.sqrt(math.fsum(float(v) ** 2 for v in x.flatten()))


def relative(change: Tensor, of: Tensor, epsilon: float) -> float:
    """The norm of a change over what changed, entry by entry."""
    pairs = zip(change.flatten().tolist(), of.flatten().tolist(), strict=True)
    return math.sqrt(math.fsum((d / (v if v != 0 else epsilon)) ** 2 for d, v in pairs))


def relative_stability(
    maps: tuple[Tensor, Sequence[Tensor]],
    seen: tuple[Tensor, Sequence[Tensor]],
    epsilon: float,
    *,
    divide: bool,
    kept: Sequence[bool],
) -> float:
    """From the map and what was seen of the image, and of each noisy one that counts."""
    found = []
    for near, look, counts in zip(maps[1], seen[1], kept, strict=True):
        if counts:
            by = relative(look - seen[0], seen[0], epsilon) if divide else norm(look - seen[0])
            found.append(relative(near - maps[0], maps[0], epsilon) / max(by, epsilon))
    return max(found)


def shifted(image: Tensor, shift: int, base: Tensor) -> Tensor:
    """Move an image (C, *T) along its last dimension."""
    moved = base.clone()
    length = image.shape[-1]
    for i in range(length):
        if 0 <= i - shift < length:
            moved[..., i] = image[..., i - shift]
    return moved


def histogram_entropy(heatmap: Tensor, bins: int) -> float:
    values = heatmap.flatten().tolist()
    low, high = min(values), max(values)
    counts = [0] * bins
    for v in values:
        counts[0 if high == low else min(bins - 1, int((v - low) / (high - low) * bins))] += 1
    return -math.fsum(c / len(values) * math.log(c / len(values)) for c in counts if c)


def non_sensitivity(
    heatmap: Tensor, lost: Sequence[float], regions: Sequence[Sequence[Place]], threshold: float
) -> int:
    told = [total(heatmap.abs(), region) for region in regions]
    silent = {k for k, v in enumerate(told) if v <= threshold * max(told)}
    useless = {k for k, v in enumerate(lost) if abs(v) <= threshold * max(map(abs, lost))}
    return len(silent ^ useless)


def sufficiency(maps: Tensor, classes: Sequence[int], threshold: float) -> list[float]:
    rows = maps.flatten(1).tolist()
    n, pixels = len(rows), len(rows[0])
    means = [math.fsum(row[p] for row in rows) / n for p in range(pixels)]
    spread = [math.sqrt(math.fsum((row[p] - means[p]) ** 2 for row in rows) / (n - 1)) for p in range(pixels)]
    used = [p for p in range(pixels) if spread[p] > 0]

    def far(i: int, j: int) -> float:
        return math.sqrt(math.fsum(((rows[i][p] - rows[j][p]) / spread[p]) ** 2 for p in used))

    most = max(far(i, j) for i in range(n) for j in range(n))
    found = []
    for i in range(n):
        near = [j for j in range(n) if j != i and far(i, j) <= threshold * most]
        found.append(sum(classes[j] == classes[i] for j in near) / len(near) if near else 0.0)
    return found


def f_fidelity(
    score: Score,
    image: Tensor,
    heatmap: Tensor,
    share: float,
    uniform: Sequence[Tensor],
    base: Tensor,
    alpha: float,
    beta: float,
    *,
    least: bool,
) -> float:
    ordered = by_relevance(heatmap)
    count = round(share * len(ordered))
    chosen = ordered[count:] if least else ordered[:count]
    rate = min(alpha, beta * len(ordered) / max(len(chosen), 1))
    kept = [value(score, without(image, [p for p in chosen if float(draw[p]) < rate], base)) for draw in uniform]
    return value(score, image) - math.fsum(kept) / len(kept)


def completeness(score: Score, image: Tensor, heatmap: Tensor, v: float, base: Tensor) -> float:
    top = max(heatmap.flatten().tolist())
    gone = [place for place in places(heatmap.shape) if float(heatmap[place]) > (1 - v) * top]
    return value(score, image) - value(score, without(image, gone, base))


def soundness(
    score: Score, image: Tensor, heatmap: Tensor, shares: Sequence[float], threshold: float, base: Tensor
) -> list[float]:
    ordered = by_relevance(heatmap)
    shown: list[Place] = []
    before, mass, false, found = value(score, base), 0.0, 0.0, []
    for share in shares:
        new = ordered[len(shown) : round(share * len(ordered))]
        shown = shown + new
        now = value(score, without(base, shown, image))
        mass += total(heatmap, new)
        if now - before <= threshold:
            false += total(heatmap, new)
        before = now
        found.append((mass - false) / mass if mass else 0.0)
    return found


def rfxg(
    outputs: Callable[[Tensor], Sequence[float]],
    image: Tensor,
    heatmap: Tensor,
    shares: Sequence[float],
    base: Tensor,
    first: Sequence[int],
    second: Sequence[int] = (),
    *,
    sign: int = -1,
    mean: bool = False,
) -> float:
    """Mean loss of p(first) and, with a sign, of p(second), sums or means over classes, while the first pixels go."""
    order, whole, lost = by_relevance(heatmap), outputs(image), []
    for share in shares:
        left = outputs(without(image, order[: round(share * len(order))], base))
        terms = [math.fsum(whole[k] - left[k] for k in classes) for classes in (first, second)]
        terms = [term / (len(each) or 1) if mean else term for term, each in zip(terms, (first, second), strict=True)]
        lost.append(terms[0] + sign * terms[1])
    return area(lost)
