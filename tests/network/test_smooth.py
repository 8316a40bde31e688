"""Smooth Grad-CAM++: an oracle of loops, and the laws that tie it to Grad-CAM++."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, capture, explainer, network
from camfn.methods import grad_cam_plusplus
from tests.nets.small import Net, images, seeded
from tests.network.cases import Plain
from tests.oracles.network import smooth_grad_cam_plusplus as oracle

X = images(2, 3, 7, 6, dtype=torch.float64)
NOISE = images(3, 2, 3, 7, 6, dtype=torch.float64, seed=3)


def noisy(std: float) -> list[Tensor]:
    span = X.amax((1, 2, 3), keepdim=True) - X.amin((1, 2, 3), keepdim=True)
    return [X + std * span * one for one in NOISE]


@pytest.mark.parametrize("std", [0.0, 0.1, 0.5])
def test_equals_the_oracle(std: float) -> None:
    net = seeded(Plain, dtype=torch.float64)
    at = capture(net, "first")
    grads = torch.stack([at(x, 1).grads for x in noisy(std)])
    found = network.smooth_grad_cam_plusplus(net, "first", std=std, noise=NOISE)(X, 1)
    torch.testing.assert_close(found, oracle(at(X, 1).activations, grads))


def test_without_noise_it_is_grad_cam_plusplus() -> None:
    net = seeded(Plain, dtype=torch.float64)
    found = network.smooth_grad_cam_plusplus(net, "first", std=0.0, noise=NOISE)(X, 1)
    torch.testing.assert_close(found, explainer(grad_cam_plusplus, net, "first")(X, 1))


def test_over_an_affine_tail_noise_changes_nothing() -> None:
    pool = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    net = pool.double().eval()
    found = network.smooth_grad_cam_plusplus(net, "1", std=0.5, noise=NOISE)(X, 2)
    torch.testing.assert_close(found, explainer(grad_cam_plusplus, net, "1")(X, 2))


def test_gradients_too_small_for_their_cubes_are_no_zeros() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    noise = images(2, 2, 3, 8, 8, seed=5)
    explain = network.smooth_grad_cam_plusplus(net, "blocks.0", std=0.1, noise=noise)
    tiny = explain(x, lambda outputs: 1e-25 * outputs[:, 1])
    # alpha is 1/2 where the gradient is small beside 1 / S
    small = explain(x, lambda outputs: 1e-8 * outputs[:, 1])
    assert tiny.any()
    torch.testing.assert_close(1e17 * tiny, small, rtol=1e-3, atol=1e-3 * float(small.abs().max()))


def test_the_top_class_is_that_of_the_clean_image() -> None:
    net = seeded(Net, dtype=torch.float64)
    explain = network.smooth_grad_cam_plusplus(net, "blocks.0", std=3.0, noise=NOISE)
    torch.testing.assert_close(explain(X), explain(X, net(X).argmax(1)))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_noise_that_is_not_finite_is_refused(bad: float) -> None:
    for method in (network.smooth_grad, network.smooth_full_grad):
        with pytest.raises(CamfnError, match=f"{method.__name__}: noise: expected finite numbers"):
            method(seeded(Net), noise=torch.full((2, 1, 3, 12, 16), bad))
