"""Infidelity: linear and quadratic closed forms, invariances, seeds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from camfn import CamfnError, metrics
from tests.nets.small import Net, images, seeded

seeds = st.integers(0, 10_000)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seeds)
@settings(deadline=None)
def test_the_gradient_of_a_linear_score_has_no_infidelity(seed: int) -> None:
    weights, x, noise = drawn(seed, 2, 3, 3), drawn(seed + 1, 2, 2, 3, 3), drawn(seed + 2, 7, 2, 3, 3)
    for scaled in (False, True):
        found = metrics.infidelity(
            lambda y: (y * weights).sum((1, 2, 3)), x, weights.expand_as(x), noise=noise, optimal_scale=scaled
        )
        torch.testing.assert_close(found, torch.zeros(2, dtype=torch.float64))


@given(seeds)
@settings(deadline=None)
def test_it_is_the_definition_and_scale_does_not_matter(seed: int) -> None:
    x, noise, attribution = drawn(seed, 2, 1, 2, 3), drawn(seed + 1, 5, 1, 2, 3), drawn(seed + 2, 2, 1, 2, 3)

    def score(y: Tensor) -> Tensor:
        return y.flatten(1).sin().sum(1)

    plain, best = [], []
    for b in range(2):
        drop = torch.stack([score(x[b : b + 1]) - score(x[b : b + 1] - one) for one in noise])[:, 0]
        inner = torch.stack([(one * attribution[b]).sum() for one in noise])
        plain.append((inner - drop).square().mean())
        beta = torch.linalg.lstsq(inner[:, None], drop[:, None]).solution
        best.append((inner * beta[0, 0] - drop).square().mean())
    found = metrics.infidelity(score, x, attribution, noise=noise, optimal_scale=False)
    torch.testing.assert_close(found, torch.stack(plain))
    scaled = metrics.infidelity(score, x, attribution, noise=noise)
    torch.testing.assert_close(scaled, torch.stack(best))
    torch.testing.assert_close(metrics.infidelity(score, x, -40 * attribution, noise=noise), scaled)


def test_infidelity_of_a_quadratic_score_has_a_closed_form() -> None:
    """With M the gradient at x, what is left is I'QI / 2, whose second moment is known."""
    n, std = 4, 0.3
    half = drawn(0, n, n)
    q = half + half.T
    x = drawn(1, 1, 1, 2, 2)

    def score(y: Tensor) -> Tensor:
        flat = y.flatten(1)
        return (flat @ q * flat).sum(1) / 2

    gradient = (x.flatten(1) @ q).reshape_as(x)
    found = metrics.infidelity(
        score, x, gradient, samples=60_000, std=std, generator=torch.Generator().manual_seed(0), optimal_scale=False
    )
    expected = std**4 / 4 * (q.trace() ** 2 + 2 * (q @ q).trace())
    torch.testing.assert_close(found, expected[None], rtol=0.05, atol=0)


def test_shared_drops_are_those_of_the_same_noise_or_refused() -> None:
    x, noise, maps = drawn(0, 2, 1, 3, 3), drawn(1, 6, 1, 3, 3), drawn(2, 2, 3, 3)

    def score(y: Tensor) -> Tensor:
        return y.flatten(1).sin().sum(1)

    lost = metrics.noise_drops(score, x, noise)
    options: dict[str, Any] = {"noise": noise}
    torch.testing.assert_close(
        metrics.infidelity(score, x, maps, drops=lost, **options), metrics.infidelity(score, x, maps, **options)
    )
    for wrong, text in (
        ({"drops": lost, "generator": torch.Generator()}, "expected them with the noise"),
        ({"drops": lost[:, 1:], **options}, r"drops: expected shape \(2, 6\)"),
        ({"drops": lost * math.nan, **options}, "drops: expected finite"),
    ):
        with pytest.raises(CamfnError, match=text):
            metrics.infidelity(score, x, maps, **wrong)


def test_a_map_counts_for_all_channels_and_is_resized() -> None:
    x, noise = drawn(0, 1, 3, 4, 4), drawn(1, 6, 3, 4, 4)
    small = drawn(2, 1, 2, 2)
    wide = torch.nn.functional.interpolate(small[None], (4, 4), mode="bilinear").expand(1, 3, 4, 4)

    def score(y: Tensor) -> Tensor:
        return y.flatten(1).tanh().sum(1)

    torch.testing.assert_close(
        metrics.infidelity(score, x, small, noise=noise), metrics.infidelity(score, x, wide, noise=noise)
    )


def test_a_map_of_zeros_predicts_nothing() -> None:
    x, noise = drawn(0, 1, 1, 3, 3), drawn(1, 9, 1, 3, 3)
    found = metrics.infidelity(lambda y: y.sum((1, 2, 3)), x, torch.zeros_like(x), noise=noise)
    torch.testing.assert_close(found, noise.sum((1, 2, 3)).square().mean()[None])


def test_a_network_is_scored_in_chunks_and_sample_by_sample() -> None:
    net, x, heatmap = seeded(Net), images(3, 3, 12, 12), images(3, 3, 3)

    def run(chosen: slice, **options: Any) -> Tensor:
        score = metrics.scores_of(net, x[chosen])
        generator = torch.Generator().manual_seed(0)
        return metrics.infidelity(score, x[chosen], heatmap[chosen], samples=9, generator=generator, **options)

    whole = run(slice(None))
    torch.testing.assert_close(run(slice(None), chunk_size=2), whole)
    torch.testing.assert_close(run(slice(1, 2))[0], whole[1])


X = torch.ones(1, 1, 2, 2)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: metrics.infidelity(lambda y: y.sum((1, 2, 3)), X, X, samples=3), "neither"),
        (lambda: metrics.infidelity(lambda y: y.sum((1, 2, 3)), X, X[:, :, :1], noise=X), "attribution"),
        (lambda: metrics.infidelity(lambda y: y.sum((1, 2, 3)), X, X * math.nan, noise=X), "attribution"),
        (lambda: metrics.infidelity(lambda y: y.log().sum((1, 2, 3)), X, X, noise=2 * X), "NaN for sample 0"),
    ],
)
def test_what_is_refused(call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
