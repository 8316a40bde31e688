"""Transformations over every kind of explain: of a layer, of a whole network, of attention, and a function of yours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import explainer, methods, network
from camfn.attention import attention_explainer, gradient_rollout
from camfn.transforms import augment, flip, smooth
from tests.nets.small import Net, images, seeded, unchanged
from tests.nets.transformer import transformer

Explain = Callable[..., Tensor]


def of_a_layer(net: nn.Module) -> Explain:
    return explainer(methods.layer_cam, net, "blocks.0")


def of_yours(net: nn.Module) -> Explain:
    def explain(inputs: Tensor, target: Any = None) -> Tensor:
        return inputs.square().sum(1) * explainer(methods.grad_cam, net, "stem.0")(inputs, target)

    return explain


def of_attention(net: nn.Module) -> Explain:
    return attention_explainer(gradient_rollout, net, grid=(3, 4))


EXPLAINS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Explain]]] = {
    "layer": (Net, of_a_layer),
    "yours": (Net, of_yours),
    "attention": (transformer, of_attention),
    **{
        name: (Net, getattr(network, name))
        for name in ("full_grad", "simple_full_grad", "input_gradient", "guided_backprop", "deconvnet")
    },
}
every_explain = pytest.mark.parametrize("name", EXPLAINS)


def made(name: str) -> tuple[nn.Module, Explain, Tensor]:
    build, explain = EXPLAINS[name]
    net = seeded(build, dtype=torch.float64)
    return net, explain(net), images(2, 3, 12, 16, dtype=torch.float64)


@every_explain
def test_augment_is_the_mean_over_flips(name: str) -> None:
    net, explain, x = made(name)
    with unchanged(net):
        found = augment(explain, "flips")(x, [1, 2])
    torch.testing.assert_close(found, (explain(x, [1, 2]) + explain(x.flip(-1), [1, 2]).flip(-1)) / 2)


@every_explain
def test_smooth_is_the_mean_over_noises(name: str) -> None:
    net, explain, x = made(name)
    noise = images(3, *x.shape, dtype=torch.float64, seed=2)
    with unchanged(net):
        found = smooth(explain, 3, std=0.2, relative=False, noise=noise)(x, [1, 2])
    torch.testing.assert_close(found, torch.stack([explain(x + 0.2 * one, [1, 2]) for one in noise]).mean(0))


@every_explain
def test_they_compose(name: str) -> None:
    _, explain, x = made(name)
    noise = images(2, *x.shape, dtype=torch.float64, seed=2)
    inside = augment(smooth(explain, 2, noise=noise, relative=False), [flip(-1)])(x, 1)
    outside = smooth(augment(explain, [flip(-1)]), 2, noise=noise.flip(-1), relative=False)(x, 1)
    torch.testing.assert_close(inside, outside)
