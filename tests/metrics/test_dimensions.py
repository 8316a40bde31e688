"""Every metric of maps on series, images and volumes: a loop over positions, or another library's numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor, nn

from camfn import CamfnError, explainer, image, methods, metrics, targets

SPACE: dict[int, tuple[int, ...]] = {1: (14,), 2: (7, 9), 3: (5, 6, 7)}
CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOL: dict[int, Any] = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
BOX = {1: [[2, 6], [5, 14]], 2: [[1, 2, 4, 5], [3, 0, 9, 7]], 3: [[1, 2, 0, 4, 5, 3], [3, 0, 2, 7, 6, 5]]}
"""A box for each of two samples: x0 (y0 z0) x1 (y1 z1)."""

every_dims = pytest.mark.parametrize("dims", [1, 2, 3])


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=draws(seed), dtype=torch.float64)


def given(dims: int) -> tuple[Tensor, Tensor]:
    """Images (2, 2, *S), and maps (2, *S) without equal values."""
    return drawn(1, 2, 2, *SPACE[dims]), drawn(2, 2, *SPACE[dims])


def bent(x: Tensor) -> Tensor:
    """A score that is not linear, and in which places differ."""
    weights = torch.linspace(-1, 1, math.prod(x.shape[1:]), dtype=x.dtype).reshape(x.shape[1:])
    return (x * weights).flatten(1).sum(1).tanh()


def places(space: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """All positions, in reading order."""
    return product(*map(range, space))


def in_box(place: tuple[int, ...], box: list[int]) -> bool:
    dims = len(place)
    return all(box[i] <= p < box[dims + i] for i, p in enumerate(reversed(place)))


def masks(dims: int) -> Tensor:
    marked = [[in_box(place, box) for place in places(SPACE[dims])] for box in BOX[dims]]
    return torch.tensor(marked).reshape(2, *SPACE[dims])


def close(found: Tensor, expected: Any, tolerance: float = 1e-9) -> None:
    expected = torch.as_tensor(expected, dtype=found.dtype)
    torch.testing.assert_close(found, expected.expand_as(found), rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------------------------- the map alone


def complexity(dims: int) -> None:
    _, heatmap = given(dims)
    close(metrics.complexity(heatmap), [sum(one.flatten().tolist()) / one.numel() for one in heatmap])


def entropy(dims: int) -> None:
    _, heatmap = given(dims)
    expected = [stats.entropy(one.flatten().numpy()) for one in heatmap]
    close(metrics.entropy(heatmap - 2 * heatmap * (heatmap > 0.5)), expected)


def sparseness(dims: int) -> None:
    """By all pairs: the mean difference over twice the mean."""
    _, heatmap = given(dims)
    rows = heatmap.flatten(1)
    gini = (rows[:, :, None] - rows[:, None]).abs().mean((1, 2)) / (2 * rows.mean(1))
    close(metrics.sparseness(heatmap), gini)


def effective_complexity(dims: int) -> None:
    _, heatmap = given(dims)
    signed = heatmap - 2 * heatmap * (heatmap > 0.5)
    for threshold in (0.0, 0.3, 0.9):
        expected = [sum(abs(v) > threshold * float(one.max()) for v in one.flatten().tolist()) for one in heatmap]
        close(metrics.effective_complexity(5 * signed, threshold=threshold), expected)


def coherency(dims: int) -> None:
    x, heatmap = given(dims)
    pairs = zip(heatmap, x[:, 0])
    rho = [stats.pearsonr(one.flatten().numpy(), other.flatten().numpy()).statistic for one, other in pairs]
    close(metrics.coherency(heatmap, x[:, 0]), [(r + 1) / 2 for r in rho])


def spearman(dims: int) -> None:
    x, heatmap = given(dims)
    ties = (3 * x[:, 0]).round()
    rho = [stats.spearmanr(a.flatten().numpy(), b.flatten().numpy()).statistic for a, b in zip(heatmap, ties)]
    close(metrics.spearman(heatmap, ties), rho)


def ssim(dims: int) -> None:
    """By SciPy's Gaussian filter, whose "mirror" reflects at the border as this function does."""
    x, heatmap = given(dims)

    def mean(one: Tensor) -> Any:
        return ndimage.gaussian_filter(one.numpy(), 1.5, mode="mirror", radius=2)

    expected = []
    for a, b in zip(heatmap, x[:, 1]):
        variances = [mean(p * q) - mean(p) * mean(q) for p, q in ((a, a), (b, b), (a, b))]
        top = (2 * mean(a) * mean(b) + 1e-4) * (2 * variances[2] + 9e-4)
        bottom = (mean(a) ** 2 + mean(b) ** 2 + 1e-4) * (variances[0] + variances[1] + 9e-4)
        expected.append((top / bottom).mean())
    close(metrics.ssim(heatmap, x[:, 1], window=5), expected)


def most_relevant(dims: int) -> None:
    _, heatmap = given(dims)
    for one, marked in zip(heatmap, metrics.most_relevant(heatmap, 0.4)):
        order = sorted(places(SPACE[dims]), key=lambda place, one=one: -float(one[place]))  # type: ignore[misc]
        chosen = order[: round(0.4 * len(order))]
        assert {place for place in order if marked[place]} == set(chosen)


# ---------------------------------------------------------------------------------------------------- where the map is


def box_masks(dims: int) -> None:
    boxes = torch.tensor(BOX[dims])
    assert torch.equal(metrics.box_masks(boxes, SPACE[dims]), masks(dims))
    both = metrics.box_masks([boxes, boxes[:1]], SPACE[dims])
    assert torch.equal(both[0], masks(dims).any(0))
    assert torch.equal(both[1], masks(dims)[0])


def boxes_in_pixels(dims: int) -> None:
    sides = torch.tensor([*reversed(SPACE[dims])] * 2)
    close(metrics.boxes_in_pixels(torch.tensor(BOX[dims]) / sides, SPACE[dims]), torch.tensor(BOX[dims]), 1e-6)


def energy_in_box(dims: int) -> None:
    _, heatmap = given(dims)
    expected = []
    for one, box in zip(heatmap, BOX[dims]):
        total = sum(float(one[place]) for place in places(SPACE[dims]))
        expected.append(sum(float(one[p]) for p in places(SPACE[dims]) if in_box(p, box)) / total)
    for region in (torch.tensor(BOX[dims]), masks(dims)):
        close(metrics.energy_in_box(heatmap, region), expected)


def pointing_game(dims: int) -> None:
    _, heatmap = given(dims)
    for tolerance in (0.0, 1.0, 1.5, 2.2, 40.0):
        expected = []
        for one, box in zip(heatmap, BOX[dims]):
            top = max(places(SPACE[dims]), key=lambda place, one=one: float(one[place]))  # type: ignore[misc]
            far = min(math.dist(top, place) for place in places(SPACE[dims]) if in_box(place, box))
            expected.append(float(far <= tolerance))
        for region in (torch.tensor(BOX[dims]), masks(dims)):
            close(metrics.pointing_game(heatmap, region, tolerance=tolerance), expected)


def iou(dims: int) -> None:
    _, heatmap = given(dims)
    expected = []
    for one, box in zip(heatmap, BOX[dims]):
        found = {place for place in places(SPACE[dims]) if float(one[place]) > 0.6 * float(one.max())}
        true = {place for place in places(SPACE[dims]) if in_box(place, box)}
        expected.append(len(found & true) / len(found | true))
    close(metrics.iou(heatmap, torch.tensor(BOX[dims]), threshold=0.6), expected)


def box_ious(dims: int) -> None:
    """Of a map with two blocks, apart: the larger one's box, and the best of both."""
    heatmap, boxes = torch.zeros(2, *SPACE[dims], dtype=torch.float64), torch.tensor(BOX[dims])
    large, small = [0] * dims + [4] * dims, {1: [5, 7], 2: [5, 5, 8, 6], 3: [5, 5, 4, 7, 6, 5]}[dims]
    for place in places(SPACE[dims]):
        at: tuple[Any, ...] = (slice(None), *place)
        heatmap[at] = 1.0 if in_box(place, large) else 0.7 * in_box(place, small)

    def of(one: list[int], other: list[int]) -> float:
        a, b = ({place for place in places(SPACE[dims]) if in_box(place, box)} for box in (one, other))
        return len(a & b) / len(a | b)

    largest = metrics.box_ious(heatmap, boxes, thresholds=(0.5, 0.8))
    both = metrics.box_ious(heatmap, boxes, thresholds=(0.5, 0.8), parts="all")
    for sample, box in enumerate(BOX[dims]):
        close(largest[sample], of(large, box), 1e-6)
        close(both[sample], [max(of(large, box), of(small, box)), of(large, box)], 1e-6)
    close(metrics.max_box_acc(both), (both >= 0.5).double().mean(0).max())


def pxap(dims: int) -> None:
    """The mean precision at each position of the object, for there are no ties."""
    _, heatmap = given(dims)
    expected = []
    for one, mask in zip(heatmap.flatten(1), masks(dims).flatten(1)):
        marked = mask[one.argsort(descending=True)].tolist()
        precision = [sum(marked[: k + 1]) / (k + 1) for k, hit in enumerate(marked) if hit]
        expected.append(sum(precision) / len(precision))
    close(metrics.pxap(heatmap, masks(dims)), expected)
    assert metrics.pxap(heatmap, masks(dims), pooled=True).shape == ()


# ------------------------------------------------------------------------------------------------ changes of the image


def masked(dims: int) -> None:
    x, heatmap = given(dims)
    found = metrics.masked(x, heatmap, baseline=0.3)
    for place in places(SPACE[dims]):
        at: tuple[Any, ...] = (slice(None), slice(None), *place)
        h = heatmap[at[1:]][:, None]
        close(found[at], x[at] * h + 0.3 * (1 - h))
    small = torch.ones(2, *(2,) * dims, dtype=torch.float64)
    close(metrics.masked(x, small), x)


def removal_curve(dims: int) -> None:
    """And `deletion`, `insertion`, `pixel_flipping`: one after the other in a loop."""
    x, heatmap = given(dims)
    for insert, side in product((False, True), (1, 2)):
        base = metrics.blur(x, 3, 1.0)
        curve = metrics.removal_curve(
            bent, x, heatmap, baseline=lambda x: metrics.blur(x, 3, 1.0), step=1, insert=insert, side=side
        )
        for sample in range(2):
            blocks: dict[tuple[int, ...], float] = {}
            for place in places(SPACE[dims]):
                block = tuple(p // side for p in place)
                blocks[block] = blocks.get(block, 0.0) + float(heatmap[(sample, *place)])
            start, end = (base, x) if insert else (x, base)
            now, scores = start[sample].clone(), [float(bent(start[sample : sample + 1]))]
            for block in sorted(blocks, key=lambda block: -blocks[block]):
                part: tuple[Any, ...] = (slice(None), *(slice(side * b, side * (b + 1)) for b in block))
                now[part] = end[sample][part]
                scores.append(float(bent(now[None])))
            close(curve.scores[sample], scores)
            close(curve.shares, [k / len(blocks) for k in range(len(blocks) + 1)])
    deleted = metrics.deletion(bent, x, heatmap, step=3)
    close(deleted.scores, metrics.removal_curve(bent, x, heatmap, step=3).scores)
    inserted = metrics.insertion(bent, x, heatmap, step=1, baseline=0.0)
    close(inserted.scores, metrics.deletion(bent, x, -heatmap, step=1).scores.flip(1))
    flipped = metrics.pixel_flipping(bent, x, heatmap, side=2, step=1)
    close(flipped.scores, metrics.removal_curve(bent, x, heatmap, side=2, step=1).scores)
    close(flipped.aopc, flipped.scores[:, 0] - flipped.scores.mean(1))


def blur(dims: int) -> None:
    """By SciPy's filter, along the spatial dimensions alone."""
    x, _ = given(dims)
    expected = ndimage.gaussian_filter(
        x.numpy(), 1.3, mode="mirror", axes=tuple(range(2, 2 + dims)), radius=tuple([3] * dims)
    )
    close(metrics.blur(x, 7, 1.3), torch.as_tensor(expected))
    assert metrics.blur(x.bfloat16(), 3, 1.0).dtype == torch.bfloat16


def insertion(dims: int) -> None:
    """From its own baseline, the blur of 11 positions."""
    space = tuple(side + 6 for side in SPACE[dims])
    x, heatmap = drawn(1, 2, 2, *space), drawn(2, 2, *space)
    curve = metrics.insertion(bent, x, heatmap, step=0.2)
    close(curve.scores[:, 0], bent(metrics.blur(x)))
    close(curve.scores[:, -1], bent(x))


def impute(dims: int) -> None:
    """The system of the source, written out: each missing position is the mean of its neighbors, weighed."""
    x, heatmap = given(dims)
    missing = heatmap < 0.6
    filled = metrics.impute(x, missing, tolerance=1e-12)
    close(filled * ~missing[:, None], x * ~missing[:, None])
    for sample, channel in product(range(2), range(2)):
        image_ = filled[sample, channel]
        for place in places(SPACE[dims]):
            if not missing[(sample, *place)]:
                continue
            total = weight = 0.0
            for step in product((-1, 0, 1), repeat=dims):
                other = tuple(p + s for p, s in zip(place, step))
                if any(step) and all(0 <= p < side for p, side in zip(other, SPACE[dims])):
                    w = 1.0 if sum(map(abs, step)) == 1 else 0.5
                    total, weight = total + w * float(image_[other]), weight + w
            assert float(image_[place]) == pytest.approx(total / weight, abs=1e-6)


def road(dims: int) -> None:
    x, heatmap = given(dims)
    curve = metrics.road(bent, x, heatmap, shares=(0.0, 0.3, 0.7), std=0.0)
    for k, share in enumerate((0.0, 0.3, 0.7)):
        close(curve.scores[:, k], bent(metrics.impute(x, metrics.most_relevant(heatmap, share))))
    options: dict[str, Any] = {"shares": (0.3, 0.7), "noise": drawn(3, *x.shape[1:])}
    halves = [metrics.road(bent, x, heatmap, least=least, **options).average for least in (True, False)]
    close(metrics.road_combined(bent, x, heatmap, **options), (halves[0] - halves[1]) / 2)


def infidelity(dims: int) -> None:
    x, heatmap = given(dims)
    noise = drawn(4, 5, *x.shape[1:]) - 0.5
    for weights, attribution in ((heatmap[:, None].expand_as(x), heatmap), (x.cos(), x.cos())):
        found = metrics.infidelity(bent, x, attribution, noise=noise, optimal_scale=False)
        expected = torch.zeros(2, dtype=torch.float64)
        for one in noise:
            expected += ((one * weights).flatten(1).sum(1) - (bent(x) - bent(x - one))) ** 2 / 5
        close(found, expected)
        lost = metrics.noise_drops(bent, x, noise)
        close(lost, torch.stack([bent(x) - bent(x - one) for one in noise], 1))
        options: dict[str, Any] = {"noise": noise, "drops": lost, "optimal_scale": False}
        close(metrics.infidelity(None, x, attribution, **options), expected)  # type: ignore[arg-type]
    assert metrics.infidelity(bent, x, heatmap, samples=3, generator=draws(0)).shape == (2,)


def max_sensitivity(dims: int) -> None:
    x, _ = given(dims)
    noise = 0.1 * drawn(5, 4, *x.shape[1:])

    def explain(x: Tensor) -> Tensor:
        return x.square().sum(1)

    moved = [(explain(x + one) - explain(x)).flatten(1).norm(dim=1) for one in noise]
    expected = torch.stack(moved).amax(0) / explain(x).flatten(1).norm(dim=1)
    for chunk_size in (1, 2):
        close(metrics.max_sensitivity(explain, x, noise=noise, chunk_size=chunk_size), expected)
        average = torch.stack(moved).mean(0) / explain(x).flatten(1).norm(dim=1)
        close(metrics.max_sensitivity(explain, x, noise=noise, chunk_size=chunk_size, reduce="mean"), average)
    assert metrics.max_sensitivity(explain, x, samples=2, generator=draws(0)).shape == (2,)


# --------------------------------------------------------------------------------------------------------- the network


def network_of(dims: int) -> nn.Module:
    torch.manual_seed(0)
    conv, head = CONV[dims](2, 3, 3, padding=1), nn.Linear(3, 4)
    return nn.Sequential(conv, nn.ReLU(), POOL[dims](1), nn.Flatten(), head).double().eval()


def scores_of(dims: int) -> None:
    x, heatmap = given(dims)
    net = network_of(dims)
    top = net(x).argmax(1)
    score = metrics.scores_of(net, x)
    close(score(0.2 * x), net(0.2 * x).softmax(1)[torch.arange(2), top])
    curve = metrics.deletion(score, x, heatmap, step=2, chunk_size=3)
    for i in range(2):
        one = metrics.scores_of(net, x[i : i + 1], targets.class_probability(int(top[i])))
        alone = metrics.deletion(one, x[i : i + 1], heatmap[i : i + 1], step=2)
        close(curve.scores[i : i + 1], alone.scores)


def randomization(dims: int) -> None:
    x, _ = given(dims)

    def explain(net: nn.Module) -> Tensor:
        return explainer(methods.hires_cam, net, "0")(x, [1, 2])

    net = network_of(dims)
    for similarity in (None, lambda a, b: metrics.ssim(image.normalize(a), image.normalize(b), window=3)):
        cascade = metrics.randomization(explain, net, generator=draws(0), similarity=similarity)
        assert cascade.names == ("4", "0")
        for k, (name, copy) in enumerate(metrics.randomized(net, generator=draws(0))):
            assert name == cascade.names[k]
            close(cascade.similarity[:, k], (similarity or metrics.spearman)(explain(net), explain(copy)))


LOOPS: dict[str, Callable[[int], None]] = {
    one.__name__: one
    for one in (
        complexity, entropy, sparseness, effective_complexity, coherency, spearman, ssim, most_relevant, box_masks,
        boxes_in_pixels,
        energy_in_box, pointing_game, iou, box_ious, pxap, masked, removal_curve, blur, insertion, impute, road,
        infidelity, max_sensitivity, scores_of, randomization,
    )
}  # fmt: skip

WITH_ANOTHER = {
    "deletion": "removal_curve",
    "noise_drops": "infidelity",
    "pixel_flipping": "removal_curve",
    "road_combined": "road",
    "max_box_acc": "box_ious",
    "randomized": "randomization",
}
"""Tested with another metric."""

NUMBERS = {"average_drop", "average_increase", "average_gain", "confidence_change", "adcc", "arcc"}
"""Of one number a sample, without a map."""

OTHERS = {"Curve", "Cascade", "Ceiling", "resampled", "shared"}

KNOWN = {
    "drops": "drops",
    "single_deletion": "drops",
    "faithfulness_correlation": "drops",
    "saco": "groups",
    "mean_color": "groups",
    "faithfulness_estimate": "groups",
    "monotonicity": "monotone",
    "monotonicity_correlation": "monotone",
    "sensitivity_n": "sensitivity_n",
    "non_sensitivity": "axioms",
    "completeness_residual": "axioms",
    "input_invariance": "axioms",
    "region_curve": "region_curve",
    "irof": "region_curve",
    "trace": "trace",
    "trace_ceiling": "trace",
    "f_fidelity": "fidelity",
    "completeness": "soundness",
    "soundness": "soundness",
    "grid_cells": "regions",
    "random_cells": "regions",
    "random_pixels": "regions",
    "label_masks": "regions",
    "region_sums": "regions",
    "local_lipschitz": "stability",
    "relative_input_stability": "stability",
    "relative_output_stability": "stability",
    "relative_representation_stability": "stability",
    "continuity": "continuity",
    "rank_accuracy": "ranking",
    "roc_auc": "ranking",
    "efficient_randomization": "redrawn",
    "random_logit": "redrawn",
    "sufficiency": "pairs",
    "consistency": "pairs",
}
"""Tested in one to three dimensions against tests/oracles/metrics.py, in the test file of this name."""

REFUSED = {("impute", 3), ("road", 3)}
"""The source weighs the neighbors of a pixel, not of a voxel."""


@pytest.mark.parametrize(
    ("name", "dims"), [(name, dims) for name in LOOPS for dims in (1, 2, 3) if (name, dims) not in REFUSED]
)
def test_by_a_loop(name: str, dims: int) -> None:
    LOOPS[name](dims)


def test_every_metric_is_here() -> None:
    assert {*LOOPS, *WITH_ANOTHER, *NUMBERS, *OTHERS, *KNOWN} == set(metrics.__all__)
    assert set(WITH_ANOTHER.values()) <= set(LOOPS)
    for name, file in KNOWN.items():
        (twin,) = Path(__file__).parent.rglob(f"test_{file}.py")
        text = twin.read_text()
        assert "@every_dims" in text
        assert f"metrics.{name}" in text


def test_road_of_a_volume_is_refused_by_name() -> None:
    x, heatmap = given(3)
    for name, call in (
        ("road", lambda: metrics.road(bent, x, heatmap, std=0.0)),
        ("road", lambda: metrics.road_combined(bent, x, heatmap, generator=draws(0))),
        ("impute", lambda: metrics.impute(x, heatmap > 0.5)),
    ):
        with pytest.raises(CamfnError, match=rf"{name}: expected series .* got volumes .*baseline=blur"):
            call()


def test_a_series_without_known_values_and_gaps_at_its_ends() -> None:
    x = torch.tensor([[[1.0, 2.0, 6.0, 3.0]], [[5.0, 9.0, 9.0, 1.0]], [[1.0, 9.0, 9.0, 7.0]]])
    missing = torch.tensor([[True] * 4, [True, False, True, True], [False, True, True, False]])
    expected = [[[3.0] * 4], [[9.0] * 4], [[1.0, 3.0, 5.0, 7.0]]]
    torch.testing.assert_close(metrics.impute(x, missing), torch.tensor(expected))


@every_dims
@pytest.mark.parametrize("wrong", ["numbers", "outside", "order", "none"])
def test_boxes_that_do_not_fit_are_refused(dims: int, wrong: str) -> None:
    _, heatmap = given(dims)
    boxes = torch.tensor(BOX[dims])
    bad = {
        "numbers": torch.tensor(BOX[dims % 3 + 1]),
        "outside": boxes + torch.tensor([0] * dims + [50] * dims),
        "order": boxes.flip(1),
        "none": boxes[:, None][:, :0],
    }[wrong]
    for metric in (metrics.pointing_game, metrics.energy_in_box, metrics.iou, metrics.box_ious):
        with pytest.raises(CamfnError, match="boxes: expected"):
            metric(heatmap, bad)


def test_maps_of_four_dimensions_have_no_boxes() -> None:
    for metric in (metrics.pointing_game, metrics.energy_in_box, metrics.iou):
        with pytest.raises(CamfnError, match="heatmap"):
            metric(torch.ones(1, 2, 2, 2, 2), torch.ones(1, 2, 2, 2, 2, dtype=torch.bool))
    with pytest.raises(CamfnError, match="box_masks: size"):
        metrics.box_masks(torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]]), (2, 2, 2, 2))
