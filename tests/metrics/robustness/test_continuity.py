"""Continuity: by a loop over shifts, and where the truth is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import CamfnError, metrics
from tests.metrics.known import close, drawn, every_dims, given
from tests.oracles import metrics as oracle


def explain(x: Tensor) -> Tensor:
    return x.square().sum(1)


@every_dims
def test_it_is_that_of_a_loop(dims: int) -> None:
    x, _ = given(dims)
    base = 0.2 * drawn(5, *x.shape)
    shifts = (-2, -1, 1, 4)
    found = metrics.continuity(explain, x, shifts=shifts, baseline=base)
    for b in range(2):
        ratios = []
        for shift in shifts:
            moved = oracle.shifted(x[b], shift, base[b])
            far = float((explain(moved[None]) - explain(x[b : b + 1])).abs().sum())
            ratios.append(far / oracle.norm(moved - x[b]))
        close(found[b], max(ratios))
    if dims > 1:
        turned = metrics.continuity(explain, x.mT, shifts=shifts, dim=-2, baseline=base.mT)
        close(turned, found)
        close(metrics.continuity(explain, x, shifts=shifts, dim=x.ndim - 1, baseline=base), found)


@every_dims
def test_what_does_not_move_is_zero(dims: int) -> None:
    x, heatmap = given(dims)
    close(metrics.continuity(lambda x: heatmap, x, shifts=(1, -1)), 0.0)
    close(metrics.continuity(explain, torch.full_like(x, 0.3), shifts=(1, -1), baseline=0.3), 0.0)


X, _ = given(2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"shifts": ()}, "a list of whole numbers"),
        ({"shifts": (0, 1)}, "other than 0"),
        ({"shifts": (6,)}, "below the 6 pixels"),
        ({"shifts": (-6,)}, "continuity: shifts"),
        ({"shifts": (1.5,)}, "whole number"),
        ({"dim": 1}, "spatial dimension, -2 to -1, got 1"),
        ({"dim": -3}, "spatial dimension"),
        ({"dim": 4}, "spatial dimension"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(CamfnError, match=text):
        metrics.continuity(explain, X, **{"shifts": (1,), **options})


def test_nan_is_refused() -> None:
    for bad in (math.nan, math.inf):
        with pytest.raises(CamfnError, match="NaN or infinity"):
            metrics.continuity(lambda x, bad=bad: explain(x) * bad, X, shifts=(1,))  # type: ignore[misc]
