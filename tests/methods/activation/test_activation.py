"""Laws of CAM, FEM and random CAM."""

from __future__ import annotations

import pytest
import torch

from camfn import methods
from camfn._shared.maps import resize, spatial_mean
from tests.methods.laws import (
    BIAS,
    WEIGHTS,
    close,
    linear,
    normal,
    pooled_head,
    total,
)


def test_cam_averages_to_the_logit_less_the_bias() -> None:
    a, _, scores, _ = pooled_head(normal(3, 6, 4, 5))
    close(total(methods.cam(a, weights=WEIGHTS)) / 20, scores - BIAS)


def test_cam_is_linear_in_the_row_of_the_head() -> None:
    a, other = pooled_head().activations, normal(6, seed=9)
    difference = methods.cam(a, weights=WEIGHTS) - methods.cam(a, weights=other)
    close(methods.cam(a, weights=WEIGHTS - other), difference)


def test_fem_scales_and_has_its_limits() -> None:
    a = normal(3, 6, 4, 5).relu()
    close(methods.fem(4 * a), 4 * methods.fem(a))
    assert not methods.fem(a, k=1e6).any()
    close(methods.fem(a, k=-1e6), spatial_mean(a).sum(1)[:, None, None].expand(3, 4, 5))


def test_few_positions_pass_the_threshold_of_fem() -> None:
    a = normal(1, 1, 1000).abs()
    passed = (methods.fem(a) > 0).double().mean()
    assert 0 < passed <= 1 / (1 + 2.0**2)


def test_random_cam_is_reproducible_linear_and_leaves_the_global_state_alone() -> None:
    a, w = normal(3, 6, 4, 5), 2 * torch.rand(3, 6, generator=torch.Generator().manual_seed(1)).double() - 1
    before = torch.get_rng_state()
    first = methods.random_cam(a, generator=torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, methods.random_cam(a, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(first, methods.random_cam(a, generator=torch.Generator().manual_seed(2)))
    close(first, methods.random_cam(a, weights=w))
    # the noise is symmetric: a draw and its negative average to nothing
    close(methods.random_cam(a, weights=-w), -first)


def test_random_cam_draws_the_same_noise_for_every_dtype() -> None:
    a = normal(3, 6, 4, 5).float()
    single = methods.random_cam(a, generator=torch.Generator().manual_seed(1))
    double = methods.random_cam(a.double(), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


def test_errors_say_what_came_and_what_works() -> None:
    a, w = normal(2, 6, 4, 5), normal(2, 6)
    with pytest.raises(ValueError, match=r"\(6,\).*\(2, 6\).*got \(5,\).*model\.fc\.weight\[281\]"):
        methods.cam(a, weights=w[0, :5])
    with pytest.raises(ValueError, match=r"neither.*generator=torch\.Generator"):
        methods.random_cam(a)
    with pytest.raises(ValueError, match="both"):
        methods.random_cam(a, weights=w, generator=torch.Generator())
    with pytest.raises(ValueError, match=r"\(2, 6\).*got \(6,\)"):
        methods.random_cam(a, weights=w[0])
    with pytest.raises(ValueError, match=r"sums to zero.*corr_mean"):
        methods.eigen_cam(a, centered=True, sign="sum")
    with pytest.raises(ValueError, match=r"sums to zero.*corr_mean"):
        methods.kpca_cam(a, sign="sum")
    with pytest.raises(ValueError, match="'corr_mean', got 'up'"):
        methods.eigen_cam(a, sign="up")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'poly', got 'cubic'"):
        methods.kpca_cam(a, kernel="cubic")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"tail must return one score a sample, shape \(2,\); it returned shape \(2, 5\)"
    ):
        methods.ablation_cam(a, tail=lambda x: x.mean((1, 2)))
    with pytest.raises(ValueError, match=r"tail must return .* it returned dict"):
        methods.ablation_cam(a, tail=lambda x: {"logits": x})  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="'l1', got 'l2'"):
        methods.ablation_cam(a, tail=lambda x: x.sum((1, 2, 3)), slope="l2")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"forward must return one score a sample, shape \(2,\); it returned shape \(\)"
    ):
        methods.score_cam(a, forward=torch.sum, inputs=normal(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"got \(2, 3, 8\)"):
        methods.score_cam(a, forward=linear, inputs=normal(2, 3, 8))
    with pytest.raises(ValueError, match="'score', got 'raw'"):
        methods.score_cam(a, forward=linear, inputs=normal(2, 3, 8, 8), form="raw")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"resize\(maps, \(224, 224\)\)"):
        resize(a, (7,))
