"""The best order of cells: against every order, and where the truth is known."""

from __future__ import annotations

from statistics import mean
from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import CamfnError, metrics
from tests.metrics.known import CELLS, SPACE, bent, close, drawn, draws, every_dims, exact, given, linear
from tests.nets.small import Net, images, seeded
from tests.oracles import metrics as oracle


def cells_of(dims: int) -> Tensor:
    return metrics.grid_cells(SPACE[dims], CELLS[dims] if dims != 2 else (2, 2))


@every_dims
def test_exact_is_the_least_area_of_all_orders_and_the_mean_over_them(dims: int) -> None:
    x, heatmap = given(dims)
    cells, base = cells_of(dims), 0.2 * drawn(5, *x.shape)
    ceiling = metrics.trace_ceiling(bent, x, cells, how="exact", baseline=base)
    own = torch.stack([cells, cells.flip(0)], 1)
    theirs = metrics.trace_ceiling(bent, x, own, how="exact", baseline=base)
    close(theirs.best.scores, ceiling.best.scores)
    close(theirs.order[1], len(cells) - 1 - ceiling.order[1])
    share = metrics.trace(bent, x, heatmap, cells, ceiling, baseline=base)
    for b in range(2):
        regions = [oracle.region_of(cell) for cell in cells]
        areas = oracle.all_areas(bent, x[b], regions, base[b])
        best = min(areas, key=lambda order: areas[order])
        assert ceiling.order[b].tolist() == list(best)
        close(ceiling.best.auc[b], areas[best])
        close(ceiling.best.scores[b], oracle.removal(bent, x[b], best, regions, base[b]))
        close(ceiling.random[b], mean(areas.values()))
        told = [oracle.total(heatmap[b], region) for region in regions]
        mine = areas[tuple(sorted(range(len(cells)), key=lambda k: -told[k]))]
        close(share[b], (mean(areas.values()) - mine) / (mean(areas.values()) - areas[best]))


@every_dims
def test_greedy_is_that_of_a_loop_and_never_below_the_best(dims: int) -> None:
    x, _ = given(dims)
    cells, base = cells_of(dims), 0.2 * drawn(5, *x.shape)
    for masks in (cells, torch.stack([cells, cells.flip(0)], 1)):
        ceiling = metrics.trace_ceiling(bent, x, masks, generator=draws(), baseline=base, orders=200)
        exactly = metrics.trace_ceiling(bent, x, masks, how="exact", baseline=base)
        assert bool((ceiling.best.auc >= exactly.best.auc - 1e-12).all())
        close(ceiling.random, exactly.random, 0.05)
        for b in range(2):
            mine = masks if masks.ndim == dims + 1 else masks[:, b]
            regions = [oracle.region_of(mask) for mask in mine]
            order = oracle.greedy(bent, x[b], regions, base[b])
            assert ceiling.order[b].tolist() == order
            close(ceiling.best.scores[b], oracle.removal(bent, x[b], order, regions, base[b]))
    drawn_twice = [metrics.trace_ceiling(bent, x, cells, generator=draws(3), orders=2) for _ in range(2)]
    assert torch.equal(drawn_twice[0].random, drawn_twice[1].random)


@every_dims
def test_of_a_linear_score_the_exact_attribution_reaches_the_ceiling(dims: int) -> None:
    x, _ = given(dims)
    cells = cells_of(dims)
    for how in ("exact", "greedy"):
        ceiling = metrics.trace_ceiling(linear(dims), x, cells, how=how, generator=draws())
        close(metrics.trace(linear(dims), x, exact(dims), cells, ceiling), 1.0)
        if how == "exact":
            close(metrics.trace(linear(dims), x, -exact(dims), cells, ceiling), -1.0)


def test_where_no_order_matters_the_share_is_zero() -> None:
    x, heatmap = given(2)
    cells = cells_of(2)

    def flat(x: Tensor) -> Tensor:
        return 0 * x.flatten(1).sum(1) + 0.7

    for how in ("exact", "greedy"):
        ceiling = metrics.trace_ceiling(flat, x, cells, how=how, generator=draws())
        close(metrics.trace(flat, x, heatmap, cells, ceiling), 0.0)


def test_a_network_with_norms_and_one_cell() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    score = metrics.scores_of(net, x)
    cells = metrics.grid_cells((8, 8), 2)
    for chunk_size in (1, 3, "auto"):
        options: dict[str, Any] = {"chunk_size": chunk_size, "generator": draws()}
        greedy = metrics.trace_ceiling(score, x, cells, **options)
        whole = metrics.trace_ceiling(score, x, cells, how="exact", chunk_size=chunk_size)
        assert bool((greedy.best.auc >= whole.best.auc - 1e-6).all())
        close(greedy.best.scores[:, 0], score(x), 1e-5)
    for how in ("exact", "greedy"):
        one = metrics.trace_ceiling(score, x, cells.any(0)[None], how=how, generator=draws())
        assert one.order.tolist() == [[0], [0]]
        close(one.random, one.best.auc, 1e-6)


X, MASKS = images(2, 3, 4, 6), metrics.grid_cells((4, 6), 2)
CEILING = metrics.trace_ceiling(bent, X, MASKS, how="exact")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: metrics.trace_ceiling(bent, X, MASKS), "expected a torch.Generator"),
        (lambda: metrics.trace_ceiling(bent, X, metrics.grid_cells((4, 6), (4, 5)), how="exact"), "at most 16 cells"),
        (lambda: metrics.trace_ceiling(bent, X, MASKS, how="best"), "'greedy' or 'exact'"),  # type: ignore[arg-type]
        (lambda: metrics.trace(bent, X, X[:, 0], MASKS[:3], CEILING), "trace: ceiling"),
        (lambda: metrics.trace(bent, X, X[:, 0], MASKS, 0.5), "trace: ceiling"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_is_refused(call: Any, text: str) -> None:
    with pytest.raises(CamfnError, match=text):
        call()
