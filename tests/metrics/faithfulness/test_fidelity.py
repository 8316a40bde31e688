"""F-Fidelity: by a loop over draws, and where the truth is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from camfn import CamfnError, metrics
from tests.metrics.known import SPACE, bent, close, drawn, draws, every_dims, exact, given, linear
from tests.oracles import metrics as oracle

SHARES = (0.1, 0.5, 1.0)


@every_dims
@pytest.mark.parametrize("least", [False, True])
def test_it_is_that_of_a_loop(dims: int, least: bool) -> None:
    x, heatmap = given(dims)
    base = 0.2 * drawn(5, *x.shape)
    uniform = torch.rand(4, *SPACE[dims], generator=draws(), dtype=torch.float64)
    for alpha, beta in ((0.5, 0.1), (1.0, 0.4)):
        found = metrics.f_fidelity(
            bent, x, heatmap, shares=SHARES, least=least, alpha=alpha, beta=beta, uniform=uniform, baseline=base
        )
        for b in range(2):
            expected = [
                oracle.f_fidelity(bent, x[b], heatmap[b], s, list(uniform), base[b], alpha, beta, least=least)
                for s in SHARES
            ]
            close(found.scores[b], expected)
        close(found.shares, SHARES)


@every_dims
def test_of_a_linear_score_the_exact_attribution_has_the_largest_drops(dims: int) -> None:
    x, heatmap = given(dims)
    options: dict[str, Any] = {"shares": (0.2, 0.5), "alpha": 1.0, "beta": 1.0, "samples": 2}
    best, other, worst = (
        metrics.f_fidelity(linear(dims), x, maps, generator=draws(), **options).scores
        for maps in (exact(dims), heatmap, -exact(dims))
    )
    assert bool(((best > other) & (other > worst)).all())
    # with probability 1 it is deletion
    curve = metrics.deletion(linear(dims), x, exact(dims), step=0.1).scores
    at = [round(s * (len(curve[0]) - 1)) for s in (0.2, 0.5)]
    close(best, curve[:, :1] - curve[:, at], 0.6)


def test_no_more_than_beta_of_the_pixels_go() -> None:
    x, heatmap = torch.ones(1, 1, 50, 50), torch.rand(1, 50, 50, generator=draws())
    lost = metrics.f_fidelity(lambda x: x.flatten(1).mean(1), x, heatmap, samples=40, generator=draws())
    shares = lost.shares
    close(lost.scores[0], torch.minimum(0.5 * shares, torch.tensor(0.1)), 0.01)
    rest = metrics.f_fidelity(lambda x: x.flatten(1).mean(1), x, heatmap, samples=40, generator=draws(), least=True)
    close(rest.scores[0], torch.minimum(0.5 * (1 - shares), torch.tensor(0.1)), 0.01)


X, HEAT = given(2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"shares": (0.0, 0.5)}, r"shares: expected a number in \(0, 1\]"),
        ({"shares": ()}, "a list of shares"),
        ({"alpha": 0}, "alpha"),
        ({"beta": 1.5}, "beta"),
        ({"samples": 0}, "samples"),
        ({"generator": None}, "one of generator and uniform"),
        ({"generator": None, "uniform": torch.rand(3, 5, 7, dtype=torch.float64)}, "uniform: expected shape"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(CamfnError, match=text):
        metrics.f_fidelity(bent, X, HEAT, **{"generator": draws(), **options})


def test_seeds_repeat_and_nan_is_refused() -> None:
    one, again = (metrics.f_fidelity(bent, X, HEAT, samples=3, generator=draws(4)).scores for _ in range(2))
    assert torch.equal(one, again)
    for bad in (math.nan, math.inf):
        with pytest.raises(CamfnError, match="NaN or infinity"):
            metrics.f_fidelity(bent, X, HEAT * bad, samples=3, generator=draws())
