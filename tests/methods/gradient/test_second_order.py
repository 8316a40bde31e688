"""Laws of ShapleyCAM and LIFT-CAM: brute-force Shapley values, DeepLIFT, affine tails."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from camfn import methods, targets
from camfn._shared.maps import spatial_mean, spatial_sum
from tests.methods.laws import (
    HIDDEN,
    LAST,
    close,
    flat_head,
    normal,
    pooled_head,
    relu_network,
    smooth,
    total,
    weights_in,
)


def shapley_values(score: Callable[[Tensor], Tensor], players: Tensor) -> Tensor:
    """Brute force: `players` (n, ...) are added to zero in every order; (n,)."""
    count = len(players)
    subsets = list(itertools.product([0.0, 1.0], repeat=count))
    switches = torch.tensor(subsets, dtype=players.dtype)
    values = score(torch.einsum("sn,n...->s...", switches, players))
    worth = dict(zip(subsets, values.tolist(), strict=True))
    found = []
    for i in range(count):
        value = 0.0
        for subset in subsets:
            if subset[i]:
                continue
            size = int(sum(subset))
            share = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            joined = tuple(1.0 if j == i else s for j, s in enumerate(subset))
            value += share * (worth[joined] - worth[subset])
        found.append(value)
    return torch.tensor(found, dtype=players.dtype)


FORM, SLOPE = normal(24, 24, seed=21), normal(24, seed=22)


def quadratic(a: Tensor) -> Tensor:
    """A score of degree two in whatever follows the batch, not symmetric, with a constant."""
    flat = a.flatten(1)
    n = flat.shape[1]
    return torch.einsum("bi,ij,bj->b", flat, FORM[:n, :n], flat) + flat @ SLOPE[:n] + 0.7


def test_shapley_cam_is_the_brute_force_shapley_value_of_a_quadratic_tail() -> None:
    a = normal(2, 2, 2, 2)
    values = torch.stack([shapley_values(lambda x: quadratic(x), torch.diag(s.flatten())) for s in a])
    map_ = methods.shapley_cam(a, tail=quadratic, elementwise=True)
    close(map_, values.reshape(a.shape).sum(1))
    close(total(map_), quadratic(a) - quadratic(torch.zeros_like(a)))


def test_shapley_cam_over_a_tail_linear_in_pieces_is_grad_cam() -> None:
    a, g, _, tail = relu_network()
    close(methods.shapley_cam(a, tail=tail), methods.grad_cam(a, g))
    close(methods.shapley_cam(a, tail=tail, elementwise=True), methods.hires_cam(a, g))


def test_shapley_cam_of_the_rest_target_over_an_affine_tail_in_closed_form() -> None:
    a, classes = normal(3, 6, 2, 2), torch.tensor([1, 4, 0])
    jacobian, bias = normal(5, 24, seed=1), normal(5, seed=2)
    target = targets.rest(classes)
    logits = a.flatten(1) @ jacobian.mT + bias
    p = logits.softmax(1)
    spread = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    gradient = (2 * functional.one_hot(classes, 5) - p) @ jacobian
    curved = -torch.einsum("bij,bj->bi", spread, a.flatten(1) @ jacobian.mT) @ jacobian
    alpha = (gradient - curved / 2).reshape(a.shape)
    found = methods.shapley_cam(a, tail=lambda x: target(x.flatten(1) @ jacobian.mT + bias))
    close(found, methods.cam(a, weights=spatial_mean(alpha)))


def test_shapley_cam_through_fused_attention_says_which_kernel_to_take() -> None:
    a = normal(2, 8, 3, 4)

    def fused(a: Tensor) -> Tensor:
        x = a.flatten(2).mT[:, None].contiguous()
        return functional.scaled_dot_product_attention(x, x, x).square().sum((1, 2, 3))

    def plain(a: Tensor) -> Tensor:
        x = a.flatten(2).mT
        return ((x @ x.mT / 8**0.5).softmax(-1) @ x).square().sum((1, 2))

    with pytest.raises(NotImplementedError, match=r"sdpa_kernel\(.*MATH\)"):
        methods.shapley_cam(a, tail=fused)
    with sdpa_kernel(SDPBackend.MATH):
        found = methods.shapley_cam(a, tail=fused)
    close(found, methods.shapley_cam(a, tail=plain))


@pytest.mark.parametrize("points", [1, 2, 5])
@pytest.mark.parametrize("head", [pooled_head, flat_head])
def test_lift_cam_over_an_affine_tail_is_gradient_times_activations(head: Callable[[], Any], points: int) -> None:
    a, g, _, tail = head()
    map_ = methods.lift_cam(a, tail=tail, steps=points)
    close(map_, methods.cam(a, weights=spatial_sum(g * a)))
    close(map_, methods.ablation_cam(a, tail=tail))


@pytest.mark.parametrize("points", [1, 2])
def test_lift_cam_weights_are_the_brute_force_shapley_values_of_a_quadratic_tail(points: int) -> None:
    a = normal(2, 4, 3, 2)
    apart = torch.eye(4, dtype=torch.float64)[..., None, None]
    values = torch.stack([shapley_values(quadratic, apart * sample) for sample in a])
    close(methods.lift_cam(a, tail=quadratic, steps=points), methods.cam(a, weights=values))


def test_lift_cam_weights_sum_to_the_score_less_that_of_zero() -> None:
    a = normal(3, 6, 4, 5)
    weights = weights_in(methods.lift_cam(a, tail=smooth, steps=24), a)
    close(weights.sum(1), smooth(a) - smooth(torch.zeros_like(a)), 1e-8)


def test_lift_cam_over_one_hidden_layer_is_the_rescale_rule_of_deeplift() -> None:
    a = normal(3, 6, 4, 5)
    zero = torch.full((3, 4), 0.3, dtype=torch.float64)
    hidden = a.flatten(1) @ HIDDEN + zero
    multipliers = (hidden.tanh() - zero.tanh()) / (hidden - zero)
    contributions = ((multipliers * LAST) @ HIDDEN.mT).reshape(a.shape) * a
    map_ = methods.lift_cam(a, tail=smooth, steps=24)
    close(map_, methods.cam(a, weights=spatial_sum(contributions)), 1e-8)
