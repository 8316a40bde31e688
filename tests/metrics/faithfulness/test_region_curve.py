"""Curves over regions, and IROF: by a loop, and where the truth is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from camfn import CamfnError, metrics
from camfn.metrics._common.order import ranks
from tests.metrics.known import CELLS, SPACE, bent, close, drawn, draws, every_dims, exact, given, linear
from tests.nets.small import images
from tests.oracles import metrics as oracle


def cells_of(dims: int) -> Tensor:
    return metrics.grid_cells(SPACE[dims], CELLS[dims] if dims != 2 else (2, 2))


@every_dims
def test_the_curve_is_that_of_a_loop(dims: int) -> None:
    x, heatmap = given(dims)
    cells, base = cells_of(dims), 0.2 * drawn(5, *x.shape)
    own = torch.stack([cells, cells.flip(0)], 1)
    overlapping = metrics.random_cells(cells, 2, 5, generator=draws())
    for masks in (cells, own, overlapping):
        for reduce in ("sum", "mean"):
            curve = metrics.region_curve(bent, x, heatmap, masks, baseline=base, reduce=reduce)
            for b in range(2):
                mine = masks if masks.ndim == dims + 1 else masks[:, b]
                regions = [oracle.region_of(mask) for mask in mine]
                told = [oracle.total(heatmap[b], r) / (len(r) if reduce == "mean" else 1) for r in regions]
                order = sorted(range(len(regions)), key=lambda k: -told[k])
                close(curve.scores[b], oracle.removal(bent, x[b], order, regions, base[b]))
            close(curve.shares, [k / len(masks) for k in range(len(masks) + 1)])


@every_dims
def test_irof_is_that_of_a_loop(dims: int) -> None:
    x, heatmap = given(dims)
    base = x.flatten(2).mean(2).reshape(2, 2, *(1,) * dims).expand_as(x)
    labels = (heatmap[0] * 2).round().long()
    for masks in (cells_of(dims), metrics.label_masks(labels), torch.stack([cells_of(dims)] * 2, 1)):
        for maps in (heatmap, heatmap.round(), torch.ones_like(heatmap)):
            found = metrics.irof(bent, x, maps, masks)
            for b in range(2):
                mine = masks if masks.ndim == dims + 1 else masks[:, b]
                regions = [oracle.region_of(mask) for mask in mine]
                close(found[b], oracle.irof(bent, x[b], maps[b], regions, base[b]))


@every_dims
def test_samples_with_different_numbers_of_superpixels_have_what_each_has_alone(dims: int) -> None:
    x, heatmap = given(dims)
    parts = [metrics.label_masks((heatmap[b] * (2 - b)).round().long()) for b in range(2)]
    assert len(parts[0]) != len(parts[1])
    padded = torch.nn.utils.rnn.pad_sequence(parts)
    for maps in (heatmap, -1 - heatmap.abs(), torch.ones_like(heatmap)):
        together = metrics.irof(bent, x, maps, padded)
        for b, masks in enumerate(parts):
            close(together[b], metrics.irof(bent, x[b : b + 1], maps[b : b + 1], masks)[0])
    with pytest.raises(CamfnError, match="a region of each sample"):
        metrics.irof(bent, x, heatmap, torch.stack([parts[0], parts[0] & False], 1))


@every_dims
def test_of_a_linear_score_no_order_has_more_area_than_the_exact_one(dims: int) -> None:
    x, heatmap = given(dims)
    score, cells = linear(dims), metrics.grid_cells(SPACE[dims], 2)
    whole, best, worst, other = (
        score(x),
        *(metrics.irof(score, x, maps, cells, baseline=0.0) for maps in (exact(dims), -exact(dims), heatmap)),
    )
    high, low = torch.where(whole > 0, best, worst), torch.where(whole > 0, worst, best)
    assert bool(((other <= high + 1e-9) & (other >= low - 1e-9)).all())


def test_irof_of_a_score_of_zero_is_zero() -> None:
    x, heatmap = given(2)
    close(metrics.irof(lambda x: 0 * x.flatten(1).sum(1), x, heatmap, cells_of(2)), 0.0)


def test_a_constant_map_takes_the_cells_in_their_order() -> None:
    x, heatmap = given(2)
    uneven = metrics.grid_cells(SPACE[2], (1, 4))
    curve = metrics.region_curve(bent, x, torch.full_like(heatmap, 0.3), uneven)
    regions = [oracle.region_of(mask) for mask in uneven]
    close(curve.scores[0], oracle.removal(bent, x[0], range(4), regions, torch.zeros_like(x[0])))


X, MASKS = images(2, 3, 4, 6), metrics.grid_cells((4, 6), 2)


@pytest.mark.parametrize("metric", [metrics.region_curve, metrics.irof])
def test_what_does_not_fit_is_refused(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(CamfnError, match="one for each of the 2 images"):
        metric(bent, X, X[:1, 0], MASKS)
    with pytest.raises(CamfnError, match=r"at least one pixel in (each region|a region of each sample)"):
        metric(bent, X, X[:, 0], MASKS & False)
    with pytest.raises(CamfnError, match="NaN or infinity"):
        metric(bent, X, X[:, 0] * math.nan, MASKS)


def mirrored(size: int) -> Tensor:
    """Make a map whose four quarters mirror each other: cells and pixels come in fours and eights of one value."""
    line = ((torch.arange(size) + 0.5) / size - 0.5).abs()
    return torch.exp(-(line[:, None].square() + line.square()) / 0.125)[None]


def rounded_otherwise(maps: Tensor) -> list[Tensor]:
    """Return maps as other machines would round them: each value off by its last bit or not."""
    return [(maps.double() * (1 + drawn(seed, *maps.shape).sign() * 6e-8)).float() for seed in range(3)]


def test_rounding_does_not_order_equal_cells_pixels_and_groups() -> None:
    heatmap, cells = mirrored(32), metrics.grid_cells((32, 32), 4)
    x, weights = drawn(3, 1, 2, 32, 32), drawn(4, 2, 32, 32)
    score = lambda z: (z * weights).sum((1, 2, 3)).sin()  # noqa: E731
    lost = metrics.drops(score, x, cells)
    ceiling = metrics.trace_ceiling(score, x, cells, generator=draws())
    truth = torch.zeros(1, 32, 32, dtype=torch.bool)
    truth[0, 15, 15] = True

    def all_of(maps: Tensor) -> Tensor:
        return torch.stack([
            metrics.trace(score, x, maps, cells, ceiling),
            metrics.region_curve(score, x, maps, cells).auc,
            metrics.irof(score, x, maps, cells),
            metrics.single_deletion(maps, lost, cells),
            metrics.saco(score, x, maps),
            metrics.deletion(score, x, maps, step=16).auc,
            metrics.insertion(score, x, maps, step=16).auc,
            metrics.pointing_game(maps, truth),
            metrics.most_relevant(maps, 0.13).flatten(1).float() @ torch.arange(1024.0),
        ])  # fmt: skip

    known = all_of(heatmap)
    assert float(known[7]) == 0.25  # one of four equal pixels
    for maps in rounded_otherwise(heatmap):
        assert not torch.equal(maps, heatmap)
        torch.testing.assert_close(all_of(maps), known, rtol=1e-5, atol=1e-5)


def test_values_that_follow_each_other_densely_keep_their_order() -> None:
    for values in (1 + torch.arange(4096) * 2.0**-22, torch.tensor([1e9, 3.0, 1.0, 2.0]), -1 - torch.arange(999) / 999):
        shuffled = values[torch.randperm(len(values), generator=draws())][None]
        assert torch.equal(ranks(shuffled), shuffled.argsort(1, descending=True).argsort(1))


@every_dims
def test_a_map_that_is_constant_up_to_rounding_says_nothing(dims: int) -> None:
    x, _ = given(dims)
    cells = cells_of(dims)
    lost = metrics.drops(bent, x, cells)
    for maps in rounded_otherwise(torch.full((2, *SPACE[dims]), 0.3)):
        found = torch.stack([
            metrics.single_deletion(maps, lost.float(), cells),
            metrics.faithfulness_correlation(maps, lost.float(), cells),
            metrics.saco(lambda z: bent(z.to(x.dtype)).float(), x.float(), maps, groups=3),
        ])  # fmt: skip
        assert found.count_nonzero() == 0
