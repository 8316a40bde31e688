"""What the score loses without a region: by a loop, and where the truth is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import CamfnError, metrics
from tests.metrics.known import CELLS, SPACE, bent, close, drawn, draws, every_dims, exact, given, linear
from tests.nets.small import Net, images, seeded
from tests.oracles import metrics as oracle


def cells_of(dims: int) -> Tensor:
    return metrics.grid_cells(SPACE[dims], CELLS[dims])


@every_dims
def test_they_are_those_of_a_loop(dims: int) -> None:
    x, heatmap = given(dims)
    cells, base = cells_of(dims), 0.2 * drawn(5, *x.shape)
    own = torch.stack([cells, cells.flip(0)], 1)
    for masks in (cells, own, metrics.random_cells(cells, 2, 5, generator=draws())):
        found = metrics.drops(bent, x, masks, baseline=base)
        for b in range(2):
            mine = masks if masks.ndim == dims + 1 else masks[:, b]
            regions = [oracle.region_of(mask) for mask in mine]
            lost = oracle.drops(bent, x[b], regions, base[b])
            close(found[b], lost)
            pearson = metrics.faithfulness_correlation(heatmap, found, masks)[b]
            close(pearson, oracle.faithfulness_correlation(heatmap[b], lost, regions))
            close(
                metrics.single_deletion(heatmap, found, masks)[b],
                oracle.single_deletion(heatmap[b], lost, regions),
            )


@every_dims
@pytest.mark.parametrize("sign", [1, -1])
def test_of_a_linear_score_the_exact_attribution_is_right(dims: int, sign: int) -> None:
    x, _ = given(dims)
    for masks in (cells_of(dims), metrics.random_cells(cells_of(dims), 2, 9, generator=draws())):
        lost = metrics.drops(linear(dims), x, masks)
        close(lost, metrics.region_sums(exact(dims), masks))
        for metric in (metrics.single_deletion, metrics.faithfulness_correlation):
            close(metric(sign * exact(dims), lost, masks), float(sign))
            close(metric(3 * sign * exact(dims), lost, masks), float(sign))


def test_a_constant_map_and_a_constant_score_are_zero_and_nan_is_refused() -> None:
    x, heatmap = given(2)
    uneven = metrics.grid_cells(SPACE[2], (2, 4))
    lost = metrics.drops(bent, x, uneven)
    for metric in (metrics.single_deletion, metrics.faithfulness_correlation):
        for constant in (torch.zeros_like(heatmap), torch.full_like(heatmap, 0.3)):
            close(metric(constant, lost, uneven), 0.0)
        close(metric(heatmap, torch.ones_like(lost), uneven), 0.0)
        for bad in (math.nan, math.inf):
            broken = heatmap.clone()
            broken[1, 0, 0] = bad
            with pytest.raises(CamfnError, match=r"NaN or infinity in 1 of 2 samples: 1"):
                metric(broken, lost, uneven)
        with pytest.raises(CamfnError, match="drops: expected finite"):
            metric(heatmap, lost * math.nan, uneven)
        with pytest.raises(CamfnError, match=r"drops: expected shape \(2, 8\)"):
            metric(heatmap, lost[:, 1:], uneven)


def test_an_empty_region_costs_nothing_also_of_a_folded_network() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    masks = torch.zeros(6, 8, 8, dtype=torch.bool)
    masks[0, :4] = True
    found = metrics.drops(metrics.scores_of(net, x), x, masks)
    assert bool((found[:, 1:].abs() < 1e-6).all())
    assert bool((found[:, 0].abs() > 1e-4).all())
    for chunk_size in (1, 3, None):
        close(metrics.drops(metrics.scores_of(net, x), x, masks, chunk_size=chunk_size), found, 1e-5)


def test_the_network_stays_and_no_global_random_number_is_drawn() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    metrics.drops(metrics.scores_of(net, x), x, metrics.grid_cells((8, 8), 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


X, MASKS = images(2, 3, 4, 6), metrics.grid_cells((4, 6), 2)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: metrics.drops(bent, X, metrics.grid_cells((2, 2), 2)), r"at the size of the images, \(4, 6\)"),
        (lambda: metrics.drops(bent, X, MASKS.long()), "mask of bool"),
        (lambda: metrics.drops(bent, X, MASKS[:, None].expand(4, 3, 4, 6)), "B = 2"),
        (lambda: metrics.drops(lambda x: x, X, MASKS), "one score a sample"),
        (lambda: metrics.drops(lambda x: x.flatten(1).sum(1) * math.nan, X, MASKS), "returned NaN"),
        (lambda: metrics.drops(bent, X, MASKS, baseline=torch.ones(5)), "broadcasts to the images"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, text: str) -> None:
    with pytest.raises(CamfnError, match=text):
        call()


def test_infinite_scores_have_no_differences() -> None:
    x, heatmap = given(2)
    for call in (
        lambda score: metrics.drops(score, x, cells_of(2)),
        lambda score: metrics.saco(score, x, heatmap, groups=3),
        lambda score: metrics.faithfulness_estimate(score, x, heatmap, groups=3),
        lambda score: metrics.monotonicity_correlation(score, x, heatmap, groups=3, samples=2, generator=draws()),
        lambda score: metrics.f_fidelity(score, x, heatmap, samples=2, generator=draws()),
    ):
        with pytest.raises(CamfnError, match="score returned an infinite score for sample 0"):
            call(lambda images: images.flatten(1).sum(1) / 0)


def test_an_empty_batch_has_empty_scores() -> None:
    x, heatmap = (whole[:0] for whole in given(2))
    for found in (
        metrics.monotonicity_correlation(bent, x, heatmap, groups=3, samples=2, generator=draws()),
        metrics.f_fidelity(bent, x, heatmap, samples=2, generator=draws()).scores,
        metrics.soundness(bent, x, heatmap, shares=(0.2, 0.5), baseline=0.0).scores,
    ):
        assert len(found) == 0
