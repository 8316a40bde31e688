"""What a map says by itself: closed forms, invariances, and the harmonic means made of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from camfn import metrics

sizes = st.integers(1, 30)
seeds = st.integers(0, 10_000)
unit = st.floats(0, 1)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(sizes)
@settings(deadline=None)
def test_gini_and_entropy_of_known_maps(n: int) -> None:
    one = torch.zeros(1, n, dtype=torch.float64)
    one[0, n // 2] = -3.0
    up = torch.arange(1.0, n + 1, dtype=torch.float64)[None]
    maps = torch.cat([torch.full((1, n), 2.0, dtype=torch.float64), torch.zeros_like(one), one, up])
    gini = torch.tensor([0.0, 0.0, 1 - 1 / n, (n - 1) / (3 * n)], dtype=torch.float64)
    torch.testing.assert_close(metrics.sparseness(maps), gini)
    share = up[0] / up.sum()
    entropy = torch.tensor([math.log(n), math.log(n), 0.0, -float((share * share.log()).sum())], dtype=torch.float64)
    torch.testing.assert_close(metrics.entropy(maps), entropy)


@given(seeds, sizes, st.floats(1e-3, 1e3))
@settings(deadline=None)
def test_scale_sign_and_order_do_not_matter(seed: int, n: int, scale: float) -> None:
    maps = drawn(seed, 2, n) - 0.5
    for metric in (metrics.sparseness, metrics.entropy):
        torch.testing.assert_close(metric(-scale * maps.flip(1)), metric(maps))
    gini = metrics.sparseness(maps)
    pairs = (maps.abs()[:, :, None] - maps.abs()[:, None]).abs().sum((1, 2)) / (2 * n * maps.abs().sum(1))
    torch.testing.assert_close(gini, pairs)


def test_maps_as_small_as_their_type_allows() -> None:
    maps = torch.tensor([[1.0, 2.0, 3.0]])
    for metric in (metrics.sparseness, metrics.entropy):
        torch.testing.assert_close(metric(1e-38 * maps), metric(maps))


def test_complexity_is_the_mean() -> None:
    maps = drawn(0, 3, 4, 5)
    torch.testing.assert_close(metrics.complexity(maps), maps.mean((1, 2)))
    assert metrics.complexity(torch.stack([torch.zeros(4, 4), torch.ones(4, 4)])).tolist() == [0, 1]


@given(seeds, st.floats(0.1, 10), st.floats(-5, 5))
@settings(deadline=None)
def test_coherency_is_correlation_and_does_not_see_an_affine_change(seed: int, scale: float, shift: float) -> None:
    first, second = drawn(seed, 2, 3, 4), drawn(seed + 1, 2, 3, 4)
    found = metrics.coherency(first, second)
    for i in range(2):
        rho = torch.corrcoef(torch.stack([first[i].flatten(), second[i].flatten()]))[0, 1]
        torch.testing.assert_close(found[i], (rho + 1) / 2)
    torch.testing.assert_close(metrics.coherency(scale * first + shift, second), found)
    torch.testing.assert_close(metrics.coherency(first, -second), 1 - found)
    torch.testing.assert_close(metrics.coherency(first, first), torch.ones(2, dtype=torch.float64))


def test_a_constant_map_has_no_coherency() -> None:
    maps = torch.stack([torch.full((3, 3), 0.1), torch.zeros(3, 3)])
    assert metrics.coherency(maps, torch.rand(2, 3, 3)).tolist() == [0, 0]
    assert metrics.coherency(torch.rand(2, 3, 3), maps).tolist() == [0, 0]


@given(st.tuples(unit, unit, unit), st.floats(-0.5, 0.5))
@example((0.0, 0.0, 0.0), -0.0)
@settings(deadline=None)
def test_harmonic_means(parts: tuple[float, float, float], road: float) -> None:
    coherency, complexity, drop = (torch.tensor([part], dtype=torch.float64) for part in parts)
    found = float(metrics.adcc(coherency, complexity, drop))
    terms = [parts[0], 1 - parts[1], 1 - parts[2]]
    if min(terms) > 0:
        assert math.isclose(found, 3 / sum(1 / term for term in terms), rel_tol=1e-9)
        assert min(terms) - 1e-9 <= found <= max(terms) + 1e-9
    else:
        assert found == 0
    term = min(1.0, max(0.0, 2 * road))
    arcc = metrics.arcc(coherency, complexity, torch.tensor([road], dtype=torch.float64))
    torch.testing.assert_close(arcc, metrics.adcc(coherency, complexity, torch.tensor([1 - term], dtype=torch.float64)))


def test_a_map_of_ones_and_fake_cam_get_nothing() -> None:
    one = torch.ones(1)
    assert metrics.adcc(one, metrics.complexity(torch.ones(1, 8, 8)), torch.zeros(1)).tolist() == [0]
    fake = torch.ones(1, 64, 64)
    fake[0, 0, 0] = 0
    assert metrics.adcc(one, metrics.complexity(fake), torch.zeros(1)) < 0.001


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: metrics.complexity(torch.full((1, 4), 2.0)), "normalize"),
        (lambda: metrics.complexity(torch.full((1, 4), math.nan)), "samples: 0"),
        (lambda: metrics.entropy(torch.full((1, 4), math.nan)), "samples: 0"),
        (lambda: metrics.sparseness(torch.full((1, 4), math.inf)), "samples: 0"),
        (lambda: metrics.coherency(torch.ones(1, 4), torch.ones(1, 5)), "again"),
        (lambda: metrics.adcc(torch.ones(1), torch.ones(1), torch.tensor([45.0])), "percent"),
        (lambda: metrics.arcc(torch.ones(1), torch.ones(1), torch.tensor([3.0])), "logits"),
    ],
)
def test_what_is_refused(call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()


def test_the_ways_to_sort_agree_and_the_gradient_passes() -> None:
    maps = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    plain = metrics.sparseness(maps)
    asked = maps.clone().requires_grad_()
    tracked = metrics.sparseness(asked)
    assert torch.equal(plain, tracked)
    (gradient,) = torch.autograd.grad(tracked.sum(), asked)
    by_func = torch.func.grad(lambda each: metrics.sparseness(each).sum())(maps)
    torch.testing.assert_close(by_func, gradient)
    assert gradient.abs().sum() > 0
    assert torch.equal(metrics.sparseness(maps.mT), metrics.sparseness(maps.mT.contiguous()))
    with torch.inference_mode():
        assert torch.equal(metrics.sparseness(maps), plain)
    for dtype in (torch.float16, torch.bfloat16):
        assert metrics.sparseness(maps.to(dtype)).dtype == dtype
