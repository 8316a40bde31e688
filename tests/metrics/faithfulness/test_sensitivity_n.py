"""Sensitivity-n: by a loop over the same sets, and where the truth is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from camfn import CamfnError, metrics
from tests.metrics.known import CELLS, SPACE, bent, close, drawn, draws, every_dims, exact, given, linear
from tests.oracles import metrics as oracle


@every_dims
def test_it_is_that_of_a_loop(dims: int) -> None:
    x, heatmap = given(dims)
    base, cells = 0.2 * drawn(5, *x.shape), metrics.grid_cells(SPACE[dims], CELLS[dims])
    for masks in (None, cells):
        sizes = (1, 2, 3)
        found = metrics.sensitivity_n(
            bent, x, heatmap, sizes=sizes, masks=masks, samples=6, baseline=base, generator=draws()
        )
        generator = draws()
        for k, n in enumerate(sizes):
            sets = (
                metrics.random_pixels(SPACE[dims], n, 6, generator=generator)
                if masks is None
                else metrics.random_cells(masks, n, 6, generator=generator)
            )
            regions = [oracle.region_of(mask) for mask in sets]
            for b in range(2):
                lost = oracle.drops(bent, x[b], regions, base[b])
                close(found.scores[b, k], oracle.faithfulness_correlation(heatmap[b], lost, regions))
        total = math.prod(SPACE[dims]) if masks is None else len(masks)
        close(found.shares, [n / total for n in sizes])


@every_dims
@pytest.mark.parametrize("sign", [1, -1])
def test_of_a_linear_score_it_is_one_for_every_n(dims: int, sign: int) -> None:
    """Quantus 0.6 gives .516 here."""
    x, _ = given(dims)
    sizes = (1, 2, 7, math.prod(SPACE[dims]) - 1)
    found = metrics.sensitivity_n(linear(dims), x, sign * exact(dims), sizes=sizes, samples=20, generator=draws())
    close(found.scores, float(sign))


X, HEAT = given(2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sizes": (1, 30)}, "less than 30, the number of features, got 30"),
        ({"sizes": (0, 3)}, "whole number from 1"),
        ({"sizes": (3, 2)}, "ascending"),
        ({"sizes": 3}, "a list of whole numbers"),
        ({"sizes": ()}, "a list of whole numbers"),
        ({"sizes": (1,), "samples": 1}, "samples: expected a whole number from 2"),
        ({"sizes": (4,), "masks": metrics.grid_cells(SPACE[2], 2)}, "less than 4"),
        ({"sizes": (1,), "generator": None}, "expected a torch.Generator"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(CamfnError, match=text):
        metrics.sensitivity_n(bent, X, HEAT, **{"generator": draws(), **options})


def test_a_constant_map_is_zero_and_nan_is_refused() -> None:
    flat = metrics.sensitivity_n(bent, X, torch.full_like(HEAT, 0.3), sizes=(2,), generator=draws())
    close(flat.scores, 0.0)
    with pytest.raises(CamfnError, match="NaN or infinity"):
        metrics.sensitivity_n(bent, X, HEAT * math.nan, sizes=(2,), generator=draws())
