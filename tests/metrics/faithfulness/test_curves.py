"""Insertion, deletion and pixel flipping: closed forms of additive scores, and laws that hold for any."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from camfn import metrics
from tests.nets.small import Net, images, seeded

seeds = st.integers(0, 10_000)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bent(x: Tensor) -> Tensor:
    """A score that is not additive."""
    return torch.tanh(x.flatten(1).cumsum(1)).square().sum(1)


@given(seeds, st.integers(1, 4), st.integers(1, 5))
@settings(deadline=None)
def test_curves_of_an_additive_score_have_a_closed_form(seed: int, height: int, width: int) -> None:
    x, base, heatmap = drawn(seed, 2, 3, height, width), drawn(seed + 1, 3, 1, 1), drawn(seed + 2, 2, height, width)
    weights = drawn(seed + 3, 3, height, width)
    n = height * width

    def score(y: Tensor) -> Tensor:
        return (y * weights).sum((1, 2, 3))

    gain = ((x - base) * weights).sum(1).flatten(1)
    rank = heatmap.flatten(1).argsort(dim=1, descending=True).argsort(dim=1) + 1
    bottom = score(base.expand_as(x))
    removed = metrics.deletion(score, x, heatmap, baseline=base, step=1)
    inserted = metrics.insertion(score, x, heatmap, baseline=base, step=1)
    torch.testing.assert_close(removed.auc, bottom + ((rank - 0.5) * gain).sum(1) / n)
    torch.testing.assert_close(inserted.auc, bottom + ((n - rank + 0.5) * gain).sum(1) / n)
    torch.testing.assert_close(removed.auc + inserted.auc, score(x) + bottom)


@given(seeds, st.sampled_from([1, 2, 5, 0.1, 0.3, 1.0]))
@settings(deadline=None)
def test_deletion_is_insertion_in_reverse(seed: int, step: float) -> None:
    x, heatmap = drawn(seed, 2, 1, 3, 4), drawn(seed + 1, 2, 3, 4)
    removed = metrics.deletion(bent, x, heatmap, step=1)
    back = metrics.insertion(bent, x, -heatmap, baseline=0.0, step=1)
    torch.testing.assert_close(removed.scores, back.scores.flip(1))
    torch.testing.assert_close(removed.auc, back.auc)
    stepped = metrics.deletion(bent, x, heatmap, step=step)
    places = (stepped.shares * 12).round().long()
    assert places[0] == 0
    assert places[-1] == 12
    torch.testing.assert_close(stepped.scores, removed.scores[:, places])


def test_the_best_order_of_an_additive_score_is_by_contribution() -> None:
    x, weights = drawn(0, 1, 1, 3, 3), drawn(1, 3, 3)

    def score(y: Tensor) -> Tensor:
        return (y * weights).sum((1, 2, 3))

    best = metrics.insertion(score, x, (x * weights)[:, 0], baseline=0.0, step=1).auc
    others = [metrics.insertion(score, x, drawn(seed, 1, 3, 3), baseline=0.0, step=1).auc for seed in range(2, 30)]
    assert bool((best >= torch.stack(others)).all())


@pytest.mark.parametrize(
    ("step", "points"),
    [(4, [0, 4, 8, 10]), (10, [0, 10]), (0.5, [0, 5, 10]), (0.3, [0, 3, 6, 9, 10]), (1.0, [0, 10]), (0.04, range(11))],
)
def test_steps_are_pixels_or_shares(step: float, points: Any) -> None:
    x = torch.arange(10.0).reshape(1, 1, 1, 10)
    curve = metrics.removal_curve(lambda y: (y == -1).float().sum((1, 2, 3)), x, x[:, 0], baseline=-1.0, step=step)
    assert curve.scores.tolist() == [list(points)]
    torch.testing.assert_close(curve.shares, torch.tensor(list(points)) / 10)


def test_area_by_hand() -> None:
    curve = metrics.Curve(torch.tensor([0.0, 0.5, 0.75]), torch.tensor([[4.0, 2.0, 1.0]]))
    assert curve.auc.tolist() == [0.5 * 3 + 0.25 * 1.5]
    torch.testing.assert_close(curve.average, torch.tensor([7 / 3]))
    torch.testing.assert_close(curve.aopc, torch.tensor([4 - 7 / 3]))


def test_folded_steps_are_the_same_as_one_by_one_and_a_batch_is_its_samples() -> None:
    net, x, heatmap = seeded(Net), images(3, 3, 16, 16), images(3, 4, 4)
    score = metrics.scores_of(net, x)
    told: list[tuple[int, int]] = []
    folded = metrics.deletion(score, x, heatmap, step=16, chunk_size=5, progress=lambda *done: told.append(done))
    alone = metrics.deletion(lambda y: score(y), x, heatmap, step=16)
    torch.testing.assert_close(folded.scores, alone.scores)
    assert told[-1] == (17, 17)
    for i in range(3):
        one = metrics.insertion(metrics.scores_of(net, x[i : i + 1]), x[i : i + 1], heatmap[i : i + 1], step=0.25)
        many = metrics.insertion(score, x, heatmap, step=0.25)
        torch.testing.assert_close(one.scores[0], many.scores[i])


def test_squares_are_removed_by_their_sum_and_cut_at_the_border() -> None:
    x, heatmap = torch.ones(1, 1, 3, 5), torch.zeros(1, 3, 5)
    heatmap[0, 2, 4], heatmap[0, 0, 2] = 3.0, 2.0
    left: list[Tensor] = []

    def score(y: Tensor) -> Tensor:
        left.append(y[0, 0].clone())
        return y.sum((1, 2, 3))

    curve = metrics.pixel_flipping(score, x, heatmap, side=2, step=1)
    assert curve.scores.tolist() == [[15, 14, 10, 6, 4, 2, 0]]
    assert left[1][2, 4] == 0
    assert left[2][:2, 2:4].sum() == 0
    by_pixel = metrics.pixel_flipping(bent, drawn(0, 1, 1, 3, 4), drawn(1, 1, 3, 4), side=1, step=1)
    assert torch.equal(by_pixel.scores, metrics.deletion(bent, drawn(0, 1, 1, 3, 4), drawn(1, 1, 3, 4), step=1).scores)


@pytest.mark.parametrize("space", [(6,), (3, 4), (2, 3, 2)])
def test_any_number_of_dimensions(space: tuple[int, ...]) -> None:
    x, heatmap = drawn(0, 2, 2, *space), drawn(1, 2, *space)
    curve = metrics.deletion(bent, x, heatmap, step=0.25)
    torch.testing.assert_close(curve.scores[:, 0], bent(x))
    torch.testing.assert_close(curve.scores[:, -1], bent(torch.zeros_like(x)))


def test_constant_and_zero_maps_go_in_reading_order() -> None:
    x = drawn(0, 1, 1, 2, 3)
    order = -torch.arange(6.0, dtype=torch.float64).reshape(1, 2, 3)
    for value in (0.0, 7.0):
        found = metrics.deletion(bent, x, torch.full((1, 2, 3), value, dtype=torch.float64), step=1)
        assert torch.equal(found.scores, metrics.deletion(bent, x, order, step=1).scores)


def test_blur_keeps_the_mean_of_a_constant_and_the_batch_apart() -> None:
    x = torch.cat([torch.ones(1, 3, 12, 12), images(1, 3, 12, 12)])
    blurred = metrics.blur(x)
    torch.testing.assert_close(blurred[0], x[0])
    torch.testing.assert_close(blurred[1:], metrics.blur(x[1:]))
    assert blurred[1].std() < x[1].std()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": 0}, "step"),
        ({"step": 13}, "1 to 12"),
        ({"step": 1.5}, "step"),
        ({"side": 0}, "side"),
        ({"heatmap": torch.full((1, 3, 4), math.nan)}, "samples: 0"),
        ({"heatmap": torch.zeros(2, 3, 4)}, "as many samples"),
        ({"score": lambda y: y.sum((1, 2, 3)) * math.nan}, "NaN for sample 0"),
        ({"score": lambda y: y.sum((1, 2))}, "one score a sample"),
        ({"baseline": metrics.blur}, "a side for a kernel"),
    ],
)
def test_what_is_refused(change: dict[str, Any], said: str) -> None:
    call = {"score": bent, "images": torch.ones(1, 1, 3, 4), "heatmap": torch.ones(1, 3, 4), **change}
    with pytest.raises(ValueError, match=said):
        metrics.removal_curve(**call)


def test_a_model_that_returns_nan_for_what_is_masked_is_named() -> None:
    class Norm(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            unit: Tensor = flat / torch.linalg.vector_norm(flat, dim=1, keepdim=True)
            return unit

    x = images(2, 3, 4, 4)
    with pytest.raises(ValueError, match="norm of 0"):
        metrics.deletion(metrics.scores_of(Norm().eval(), x), x, torch.ones(2, 4, 4), step=8)


# ----------------------------------------------------------------------------------- networks that folding must respect


class Fixed(nn.Module):
    """Convolution and BatchNorm, then something that joins samples or counts on their number."""

    def __init__(self, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.after = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.norm(self.conv(x)).tanh())


METRICS: dict[str, Callable[..., Any]] = {
    "deletion": lambda *given: metrics.deletion(*given, step=0.2).scores,
    "insertion": lambda *given: metrics.insertion(*given, baseline=0.0, step=0.2).scores,
    "pixel_flipping": lambda *given: metrics.pixel_flipping(*given, side=3, step=0.2).scores,
    "road": lambda *given: metrics.road(*given, std=0.0).scores,
    "road_combined": lambda *given: metrics.road_combined(*given, std=0.0),
    "infidelity": lambda *given: metrics.infidelity(*given, noise=images(6, 3, 9, 7)),
}
each_metric = pytest.mark.parametrize("name", METRICS)


@each_metric
@pytest.mark.parametrize(
    "after",
    [
        lambda y: y.mean((2, 3)).reshape(2, 4),
        lambda y: (y - y.mean(0)).mean((2, 3)),
        lambda y: y.flatten(2).softmax(0).sum(2),
        lambda y: y.contiguous().view(2, -1)[:, :5],
    ],
    ids=["reshape", "mean of the batch", "softmax over the batch", "view"],
)
def test_a_network_that_takes_one_batch_alone(name: str, after: Callable[[Tensor], Tensor]) -> None:
    net, x, heatmap = seeded(lambda: Fixed(after)), images(2, 3, 9, 7), images(2, 9, 7, seed=3)
    score = metrics.scores_of(net, x, 1)
    torch.testing.assert_close(METRICS[name](score, x, heatmap), METRICS[name](lambda y: score(y), x, heatmap))


@each_metric
@pytest.mark.parametrize("inside", ["nothing", "images", "network"])
def test_inference_mode(name: str, inside: str) -> None:
    x, heatmap, net = images(2, 3, 9, 7), images(2, 9, 7, seed=3), seeded(Net)
    expected = METRICS[name](metrics.scores_of(net, x, 1), x, heatmap)
    with torch.inference_mode():
        if inside == "images":
            x, heatmap = x.clone(), heatmap.clone()
        if inside == "network":
            net = seeded(Net)
        found = METRICS[name](metrics.scores_of(net, x, 1), x, heatmap)
    torch.testing.assert_close(found, expected)
