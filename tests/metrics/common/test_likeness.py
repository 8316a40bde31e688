"""Likeness of two maps: ranks with ties, constants, structural similarity."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camfn import image, metrics
from tests.nets.small import images


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 10_000), st.integers(2, 5))
@settings(deadline=None)
def test_rank_correlation_with_ties_is_scipys(seed: int, values: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs SciPy")
    first, second = torch.randint(-values, values, (2, 2, 4, 5), generator=generator(seed)).double().unbind()
    for absolute in (False, True):
        rows = [(a.abs(), b.abs()) if absolute else (a, b) for a, b in zip(first.flatten(1), second.flatten(1))]
        if any(len(row.unique()) == 1 for pair in rows for row in pair):
            return
        expected = [float(stats.spearmanr(a, b).statistic) for a, b in rows]
        found = metrics.spearman(first, second, absolute=absolute)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_ranks_do_not_see_a_monotone_change_and_constants_are_defined() -> None:
    maps = images(2, 6, 6)
    torch.testing.assert_close(metrics.spearman(maps, maps.exp()), torch.ones(2))
    torch.testing.assert_close(metrics.spearman(maps, -maps), -torch.ones(2))
    constant = torch.stack([torch.zeros(6, 6), torch.full((6, 6), 2.0)])
    assert metrics.spearman(maps, constant).tolist() == [0, 0]
    assert metrics.spearman(constant, constant.flip(0)).tolist() == [1, 1]


def test_structural_similarity() -> None:
    maps = image.normalize(images(2, 20, 20))
    torch.testing.assert_close(metrics.ssim(maps, maps), torch.ones(2))
    other = metrics.ssim(maps, maps.flip(1))
    assert other.max() < 0.9
    torch.testing.assert_close(metrics.ssim(maps.flip(1), maps), other)
    torch.testing.assert_close(metrics.ssim(maps[1:], maps.flip(1)[1:]), other[1:])
    skimage = pytest.importorskip("skimage.metrics", reason="needs scikit-image")
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0, "full": True}
    _, full = skimage.structural_similarity(maps[0].numpy(), maps[0].flip(0).numpy(), **options)
    torch.testing.assert_close(other[0], torch.tensor(full).float().mean(), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: metrics.spearman(torch.ones(1, 3), torch.ones(1, 4)), "second"),
        (lambda: metrics.spearman(torch.full((1, 3), math.nan), torch.ones(1, 3)), "samples: 0"),
        (lambda: metrics.ssim(torch.full((1, 12, 12), 3.0), torch.ones(1, 12, 12)), "normalize"),
        (lambda: metrics.ssim(torch.ones(1, 4, 4), torch.ones(1, 4, 4)), "at most 7"),
    ],
)
def test_what_is_refused(call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
