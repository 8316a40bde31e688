"""SaCo and faithfulness estimate: by a loop, where the truth is known, and what leaves them as they are."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from camfn import CamfnError, metrics
from tests.metrics.known import bent, close, drawn, every_dims, exact, given, linear
from tests.oracles import metrics as oracle


@every_dims
@pytest.mark.parametrize("groups", [2, 5, 9])
def test_it_is_that_of_a_loop(dims: int, groups: int) -> None:
    x, heatmap = given(dims)
    ties = heatmap.round()
    mean = x.flatten(2).mean(2).reshape(2, 2, *(1,) * dims).expand_as(x)
    close(metrics.mean_color(x).expand_as(x), mean)
    for maps in (heatmap, ties):
        for reduce in ("mean", "sum"):
            found = metrics.saco(bent, x, maps, groups=groups, reduce=reduce)
            close(found, [oracle.saco(bent, x[b], maps[b], groups, mean[b], sums=reduce == "sum") for b in range(2)])


@every_dims
def test_of_a_linear_score_the_exact_attribution_is_right(dims: int) -> None:
    x, _ = given(dims)
    options = {"groups": 2, "baseline": 0.0}
    close(metrics.saco(linear(dims), x, exact(dims), **options), 1.0)  # type: ignore[arg-type]
    close(metrics.saco(linear(dims), x, -exact(dims), **options), -1.0)  # type: ignore[arg-type]


@every_dims
@pytest.mark.parametrize("groups", [2, 5, 9])
def test_the_estimate_is_that_of_a_loop(dims: int, groups: int) -> None:
    x, heatmap = given(dims)
    base = 0.2 * drawn(5, *x.shape)
    for maps in (heatmap, heatmap.round(), torch.ones_like(heatmap)):
        found = metrics.faithfulness_estimate(bent, x, maps, groups=groups, baseline=base)
        expected = [oracle.faithfulness_estimate(bent, x[b], maps[b], groups, base[b]) for b in range(2)]
        close(found, expected)


@every_dims
@pytest.mark.parametrize("sign", [1, -1])
def test_of_a_linear_score_the_estimate_of_the_exact_attribution_is_right(dims: int, sign: int) -> None:
    x, _ = given(dims)
    close(metrics.faithfulness_estimate(linear(dims), x, sign * exact(dims), groups=7), float(sign))


def test_scale_and_shift_change_nothing_and_a_constant_map_is_zero() -> None:
    x, heatmap = given(2)
    found = metrics.saco(bent, x, heatmap, groups=7)
    assert bool((found.abs() > 0.01).all())
    close(metrics.saco(bent, x, 40 * heatmap, groups=7), found)
    close(metrics.saco(bent, x, heatmap + 3, groups=7), found)
    for constant in (0.0, 0.3, -2.0):
        for reduce in ("mean", "sum"):
            maps = torch.full_like(heatmap, constant)
            close(metrics.saco(bent, x, maps, groups=7, reduce=reduce), 0.0)
    close(metrics.saco(lambda x: 0 * x.flatten(1).sum(1), x, heatmap), 1.0)


def test_what_does_not_fit_is_refused() -> None:
    x, heatmap = given(2)
    for groups in (1, 31, 2.5):
        with pytest.raises(CamfnError, match="saco: groups"):
            metrics.saco(bent, x, heatmap, groups=groups)  # type: ignore[arg-type]
    for metric in (metrics.saco, metrics.faithfulness_estimate):
        with pytest.raises(CamfnError, match="NaN or infinity"):
            metric(bent, x, heatmap * math.nan, groups=5)
    with pytest.raises(CamfnError, match="as many samples"):
        metrics.saco(bent, x, drawn(0, 3, 5, 6))
    with pytest.raises(CamfnError, match="mean_color"):
        metrics.mean_color(torch.ones(2))


@pytest.mark.parametrize("metric", [metrics.saco, metrics.faithfulness_estimate])
def test_a_mask_of_truth_values_is_no_map(metric: Any) -> None:
    """As whole numbers are refused; subtraction of truth values ended in an error of torch."""
    images, mask = torch.rand(1, 1, 4, 4), torch.eye(4, dtype=torch.bool)[None]
    with pytest.raises(CamfnError, match=r"heatmap: expected a floating-point tensor, got torch\.bool; pass heatmap"):
        metric(lambda x: x.sum((1, 2, 3)), images, mask, groups=4)
