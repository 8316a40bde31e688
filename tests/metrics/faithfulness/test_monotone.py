"""Monotonicity, as a bit and as a correlation: by a loop, and where the truth is known."""

from __future__ import annotations

import math

import pytest
import torch

from camfn import CamfnError, metrics
from tests.metrics.known import SPACE, bent, close, drawn, draws, every_dims, exact, given, linear, weights
from tests.oracles import metrics as oracle


@every_dims
def test_the_bit_is_that_of_a_loop(dims: int) -> None:
    x, heatmap = given(dims)
    base = 0.2 * drawn(5, *x.shape)
    for tolerance in (0.0, 0.2, 0.5, 0.9):
        found = metrics.monotonicity(bent, x, heatmap, baseline=base, step=1, tolerance=tolerance)
        close(found, [oracle.monotonicity(bent, x[b], heatmap[b], base[b], tolerance) for b in range(2)])


@every_dims
def test_of_a_linear_score_it_is_one_where_no_pixel_speaks_against_the_class(dims: int) -> None:
    """Random maps included, of which Quantus gives 1.0 whatever the score is."""
    x, heatmap = given(dims)
    score = linear(dims)
    for_it = x.abs() * weights(dims).sign()
    for maps in (exact(dims), heatmap):
        close(metrics.monotonicity(score, for_it, maps, step=1), 1.0)
        close(metrics.monotonicity(score, x, maps, step=1), 0.0)
    close(metrics.monotonicity(lambda x: 0 * x.flatten(1).sum(1), x, heatmap), 1.0)


@every_dims
@pytest.mark.parametrize("groups", [2, 5, 9])
def test_the_correlation_is_that_of_a_loop(dims: int, groups: int) -> None:
    x, heatmap = given(dims)
    values = drawn(6, 3, *x.shape[1:])
    for maps in (heatmap, heatmap.round(), torch.ones_like(heatmap)):
        found = metrics.monotonicity_correlation(bent, x, maps, groups=groups, values=values)
        expected = [oracle.monotonicity_correlation(bent, x[b], maps[b], groups, list(values)) for b in range(2)]
        close(found, expected)


@every_dims
def test_of_a_linear_score_the_magnitude_ranks_the_changes(dims: int) -> None:
    x, _ = given(dims)
    total = math.prod(SPACE[dims])
    zeros = torch.zeros(1, *x.shape[1:], dtype=torch.float64)
    for maps in (exact(dims), -exact(dims)):
        close(metrics.monotonicity_correlation(linear(dims), x, maps, groups=total, values=zeros), 1.0)
    found = metrics.monotonicity_correlation(linear(dims), x, 1 / exact(dims), groups=total, values=zeros)
    close(found, -1.0)


def test_drawn_values_lie_in_the_range_of_each_image() -> None:
    x, heatmap = given(2)
    x = torch.stack([x[0], 100 + x[1]])
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    seen = []

    def score(y: torch.Tensor) -> torch.Tensor:
        seen.append(((y >= low) & (y <= high)).all())
        return y.flatten(1).sum(1)

    options = {"groups": 3, "samples": 4}
    one, other, again = (
        metrics.monotonicity_correlation(bent, x, heatmap, generator=draws(s), **options)  # type: ignore[arg-type]
        for s in (1, 2, 1)
    )
    assert torch.equal(one, again)
    assert one.shape == other.shape == (2,)
    metrics.monotonicity_correlation(score, x, heatmap, generator=draws(), chunk_size=1, **options)  # type: ignore[arg-type]
    assert len(seen) >= 13


def test_what_does_not_fit_is_refused() -> None:
    x, heatmap = given(2)
    with pytest.raises(CamfnError, match="one of generator and values, got neither"):
        metrics.monotonicity_correlation(bent, x, heatmap, groups=3)
    with pytest.raises(CamfnError, match="values of shape"):
        metrics.monotonicity_correlation(bent, x, heatmap, groups=3, values=torch.ones(2, 5, 6))
    with pytest.raises(CamfnError, match="groups: expected at most 30"):
        metrics.monotonicity_correlation(bent, x, heatmap, groups=31, generator=draws())
    for bad in (math.nan, math.inf):
        with pytest.raises(CamfnError, match="NaN or infinity"):
            metrics.monotonicity(bent, x, heatmap * bad)
        with pytest.raises(CamfnError, match="NaN or infinity"):
            metrics.monotonicity_correlation(bent, x, heatmap * bad, groups=3, generator=draws())
