"""Max-sensitivity: a closed form for linear maps, zeros, scales, seeds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from camfn import explainer, metrics
from camfn.methods import grad_cam
from camfn.targets import class_score
from tests.nets.small import Net, images, seeded

seeds = st.integers(0, 10_000)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seeds)
@settings(deadline=None)
def test_a_linear_map_moves_by_at_most_its_norm(seed: int) -> None:
    matrix, x, radius = drawn(seed, 5, 6), drawn(seed + 1, 2, 6), 0.25

    def explain(y: Tensor) -> Tensor:
        return y @ matrix.T

    corners = torch.tensor([[1.0 if i >> k & 1 else -1.0 for k in range(6)] for i in range(64)], dtype=torch.float64)
    exact = radius * (corners @ matrix.T).norm(dim=1).amax()
    options: dict[str, Any] = {"radius": radius, "samples": 20, "relative": False}
    found = metrics.max_sensitivity(explain, x, generator=torch.Generator().manual_seed(seed), **options)
    assert bool((found <= exact).all())
    at_corners = metrics.max_sensitivity(explain, x, noise=radius * corners, relative=False)
    torch.testing.assert_close(at_corners, exact.expand(2))
    relative = metrics.max_sensitivity(explain, x, noise=radius * corners)
    torch.testing.assert_close(relative, exact / explain(x).norm(dim=1))


def test_of_an_explainer_plainly_and_by_vmap() -> None:
    net, x = seeded(Net), images(2, 3, 12, 12)
    explain = explainer(grad_cam, net, "blocks.0")

    def run(chunk: Any) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        return metrics.max_sensitivity(
            lambda y: explain(y, class_score([1, 2])), x, samples=4, generator=generator, chunk_size=chunk
        )

    assert bool((run(1) > 0).all())
    torch.testing.assert_close(run(3), run(1))


def test_a_constant_explanation_is_not_sensitive_and_zeros_are_defined() -> None:
    x, noise = torch.zeros(2, 1, 2, 2), torch.ones(1, 1, 2, 2)
    assert metrics.max_sensitivity(lambda y: torch.ones(2, 3), x, noise=noise).tolist() == [0, 0]
    assert metrics.max_sensitivity(lambda y: torch.zeros(2, 3), x, noise=noise).tolist() == [0, 0]
    assert metrics.max_sensitivity(lambda y: y.sum(1), x, noise=noise).tolist() == [math.inf] * 2


X = torch.ones(1, 1, 2, 2)
G = torch.Generator()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: metrics.max_sensitivity(lambda y: y, X), "neither"),
        (lambda: metrics.max_sensitivity(lambda y: y, X, generator=G, noise=X), "both"),
        (lambda: metrics.max_sensitivity(lambda y: y, X, noise=torch.ones(1, 3)), "shape"),
        (lambda: metrics.max_sensitivity(lambda y: y, X, generator=G, samples=0), "samples"),
        (lambda: metrics.max_sensitivity(lambda y: y.log(), -X, noise=X), "the map of the images"),
        (lambda: metrics.max_sensitivity(lambda y: y.log(), X, noise=-2 * X), "noisy"),
    ],
)
def test_what_is_refused(call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.parametrize("scale", [1e-35, 1e-25, 1e25, 1e35])
@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_the_scale_of_the_map_changes_nothing(scale: float, reduce: Any) -> None:
    x, noise = images(2, 3, 6, 6), 0.3 * torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))

    def of(scale: float) -> Tensor:
        explain = lambda x: scale * (1 + x.sum(1).sin())  # noqa: E731
        return metrics.max_sensitivity(explain, x, noise=noise, reduce=reduce)

    assert bool((of(1.0) > 0.01).all())
    torch.testing.assert_close(of(scale), of(1.0))


def test_the_norm_of_a_half_precision_map_stays_in_range() -> None:
    x, noise = torch.ones(1, 1, 64, 64, dtype=torch.float16), 0.5 * torch.ones(1, 1, 64, 64)
    found = metrics.max_sensitivity(lambda x: 4000 * x.sum(1), x, noise=noise)
    torch.testing.assert_close(found, torch.tensor([0.5], dtype=torch.float16))
