"""Completeness by value and soundness: by a loop, and where the truth is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from camfn import CamfnError, metrics
from tests.metrics.known import bent, close, drawn, every_dims, given, linear, weights
from tests.oracles import metrics as oracle

STEPS = (0.1, 0.35, 0.7, 1.0)


@every_dims
def test_they_are_those_of_a_loop(dims: int) -> None:
    x, heatmap = given(dims)
    base = 0.2 * drawn(5, *x.shape)
    for maps in (heatmap.abs(), heatmap.relu(), heatmap.relu().round()):
        for b in range(2):
            options: dict[str, Any] = {"baseline": base[b : b + 1]}
            one, h = x[b : b + 1], maps[b : b + 1]
            found = metrics.completeness(bent, one, h, values=STEPS, **options)
            close(found.scores[0], [oracle.completeness(bent, x[b], maps[b], v, base[b]) for v in STEPS])
            for threshold in (0.0, 0.05, 0.3):
                sound = metrics.soundness(bent, one, h, shares=STEPS, threshold=threshold, **options)
                close(sound.scores[0], oracle.soundness(bent, x[b], maps[b], STEPS, threshold, base[b]))


@every_dims
def test_of_a_linear_score_positive_evidence_is_sound_and_complete(dims: int) -> None:
    x, _ = given(dims)
    for_it = x.abs() * weights(dims).sign()
    marked = (for_it * weights(dims)).sum(1)
    score = linear(dims)
    options: dict[str, Any] = {"shares": STEPS, "threshold": 0.0, "baseline": 0.0}
    close(metrics.soundness(score, for_it, marked, **options).scores, 1.0)
    against = metrics.soundness(lambda x: -score(x), for_it, marked, **options)
    close(against.scores, 0.0)
    whole = metrics.completeness(score, for_it, marked, values=(1.0,), baseline=0.0)
    close(whole.scores[:, 0], score(for_it))
    # a map that leaves half of the evidence dim is less complete, which deletion by area would not see
    dim = torch.where(marked > marked.flatten(1).median(1).values.reshape(-1, *(1,) * dims), marked, 0.01 * marked)
    close(metrics.deletion(score, for_it, dim).scores, metrics.deletion(score, for_it, marked).scores)
    less = metrics.completeness(score, for_it, dim, values=(0.9,), baseline=0.0).scores
    assert bool((less < metrics.completeness(score, for_it, marked, values=(0.99,), baseline=0.0).scores).all())


def test_constant_maps_and_zeros_are_defined() -> None:
    x, heatmap = given(2)
    zeros, ones = torch.zeros_like(heatmap), torch.ones_like(heatmap)
    close(metrics.completeness(bent, x, zeros, baseline=0.0).scores, 0.0)
    close(metrics.soundness(bent, x, zeros, baseline=0.0).scores, 0.0)
    full = (bent(x) - bent(0 * x))[:, None]
    close(metrics.completeness(bent, x, ones, baseline=0.0).scores, full.expand(2, 9))
    assert metrics.soundness(bent, x, ones, baseline=0.0).scores.shape == (2, 13)


@pytest.mark.parametrize("dims", [1, 2])
def test_pixels_are_filled_in_from_their_neighbors(dims: int) -> None:
    x, heatmap = given(dims)
    marked = heatmap.abs()
    found = metrics.completeness(bent, x, marked, values=(0.5,))
    top = marked.flatten(1).amax(1).reshape(-1, *(1,) * dims)
    close(found.scores[:, 0], bent(x) - bent(metrics.impute(x, marked > 0.5 * top)), 1e-5)
    sound = metrics.soundness(bent, x, marked, shares=(0.5, 1.0), threshold=0.0)
    scores = [bent(metrics.impute(x, ~metrics.most_relevant(marked, s))) for s in (0.0, 0.5)]
    raised = scores[1] > scores[0]
    close(sound.scores[:, 0], raised.double())


def test_what_does_not_fit_is_refused() -> None:
    x, heatmap = given(2)
    volume, flat = given(3)
    for metric in (metrics.completeness, metrics.soundness):
        with pytest.raises(CamfnError, match="without negative values"):
            metric(bent, x, heatmap, baseline=0.0)
        with pytest.raises(CamfnError, match=r"expected series .* got volumes"):
            metric(bent, volume, flat.abs())
        for bad in (math.nan, math.inf):
            with pytest.raises(CamfnError, match="NaN or infinity"):
                metric(bent, x, heatmap * bad, baseline=0.0)
    for wrong in ((), 0.5, (0.5, 0.2), (0.5, 1.2)):
        with pytest.raises(CamfnError, match=r"completeness"):
            metrics.completeness(bent, x, heatmap.abs(), values=wrong, baseline=0.0)  # type: ignore[arg-type]
    with pytest.raises(CamfnError, match=r"in \(0, 1\], got 0"):
        metrics.soundness(bent, x, heatmap.abs(), shares=(0.0, 0.5), baseline=0.0)
