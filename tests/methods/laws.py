"""Tails and networks whose answers are known in closed form, which the laws of several methods share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from camfn._shared.maps import spatial_mean
from tests.methods.cases import CASES
from tests.methods.test_methods import PLANE
from tests.nets.small import images


class Cut(NamedTuple):
    """A network cut at a layer: activations, the gradient of its score, the score, and the tail."""

    activations: Tensor
    grads: Tensor
    scores: Tensor
    tail: Callable[[Tensor], Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cut(tail: Callable[[Tensor], Tensor], activations: Tensor) -> Cut:
    scores, pullback = torch.func.vjp(tail, activations)  # type: ignore[misc]
    (grads,) = pullback(torch.ones_like(scores))
    return Cut(activations, grads, scores, tail)


WEIGHTS, BIAS = normal(6, seed=1), 0.3
"""One class's row of a linear head over six pooled channels."""


def pooled_head(activations: Tensor | None = None) -> Cut:
    """Global average pooling and a linear layer, over activations that are not negative."""
    given = normal(3, 6, 4, 5).relu() if activations is None else activations
    return cut(lambda a: spatial_mean(a) @ WEIGHTS + BIAS, given)


def flat_head(activations: Tensor | None = None) -> Cut:
    """Flatten and a linear layer: affine, with a gradient that differs from place to place."""
    given = normal(3, 6, 4, 5).relu() if activations is None else activations
    matrix = normal(6 * 4 * 5, seed=2)
    return cut(lambda a: a.flatten(1) @ matrix - 0.7, given)


def relu_tail(a: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """Convolution, ReLU, convolution, ReLU, max pooling, linear; the biases given, the weights fixed."""
    hidden = functional.conv2d(a, normal(5, 6, 3, 3, seed=3), first, padding=1).relu()
    hidden = functional.conv2d(hidden, normal(4, 5, 3, 3, seed=4), second).relu()
    return functional.max_pool2d(hidden, 2).flatten(1) @ normal(4, seed=5) + third


def biases() -> tuple[Tensor, Tensor, Tensor]:
    return normal(5, seed=6), normal(4, seed=7), normal(1, seed=8)


def relu_network(activations: Tensor | None = None) -> Cut:
    given = normal(3, 6, 4, 5) + 0.2 if activations is None else activations
    return cut(lambda a: relu_tail(a, *biases()), given)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def total(map_: Tensor) -> Tensor:
    return map_.flatten(1).sum(1)


def image(size: tuple[int, ...] = (9, 11)) -> Tensor:
    return normal(3, 2, *size, seed=11)


READOUT = normal(2 * 9 * 11, seed=12)


def linear(x: Tensor) -> Tensor:
    return x.flatten(1) @ READOUT + 0.4


NEW = {
    "recipro_cam",
    "lift_cam",
    "shapley_cam",
    "fd_cam",
    "group_cam",
    "ss_cam",
    "is_cam",
    "poly_cam",
    "opti_cam",
    "vit_cx",
    "rise",
    "d_rise",
    "sobol",
    "hsic",
    "region_search",
}


cases = pytest.mark.parametrize("case", [case for case in CASES if case.name in NEW], ids=str)


def weights_in(map_: Tensor, activations: Tensor) -> Tensor:
    """Channel weights (B, C) of a map that is a weighted sum of fewer channels than positions."""
    found: Tensor = torch.linalg.lstsq(activations.flatten(2).mT, map_.flatten(1)[..., None]).solution
    return found.squeeze(-1)


HIDDEN, LAST = normal(120, 4, seed=31) / 5, normal(4, seed=32)


SEEN = normal(198, 3, seed=41)


def smooth(a: Tensor) -> Tensor:
    return torch.tanh(a.flatten(1) @ HIDDEN + 0.3) @ LAST


def stretched(maps: Tensor) -> Tensor:
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low)


def curved(x: Tensor) -> Tensor:
    return torch.tanh(x.flatten(1) @ SEEN) @ LAST[:3]


def given(name: str) -> dict[str, Any]:
    case = next(case for case in CASES if case.name == name)
    return {**case.context(PLANE, 1), **({"inputs": normal(*PLANE)} if case.black_box else {})}


A = images(2, 4, 3, 5, dtype=torch.float64) + 0.3


W = images(4 * 15, dtype=torch.float64, seed=2)


K = images(6, 4, 3, 3, dtype=torch.float64, seed=3)


CHUNKS: list[Any] = [None, 1, 3, 100, "auto"]


def nearly(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def pooled(a: Tensor) -> Tensor:
    """Global pooling and a linear layer, as modules run them."""
    return functional.linear(functional.adaptive_avg_pool2d(a, 1).flatten(1), W[:20].reshape(5, 4), W[:5])[:, 2]


def flat(a: Tensor) -> Tensor:
    return functional.linear(a.flatten(1), W.expand(3, -1), W[:3])[:, 1]


MATRIX = W[:20].reshape(4, 5)


CURVED: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda a: functional.conv2d(a, K).relu().sum((1, 2, 3)),
    # no unit of it ever switches between the activations and an ablation: samples of the function would not tell
    "relu that never switches": lambda a: (a.sum((1, 2, 3)) + 1e6).relu(),
    "in-place relu": lambda a: functional.conv2d(a, K).relu_().sum((1, 2, 3)),
    "softmax": lambda a: (a.mean((2, 3)) @ MATRIX).softmax(1)[:, 1],
    "log softmax": lambda a: (a.mean((2, 3)) @ MATRIX).log_softmax(1)[:, 1],
    "square": lambda a: a.square().sum((1, 2, 3)),
    "product": lambda a: (a * a.mean((2, 3), keepdim=True)).sum((1, 2, 3)),
    "gram": lambda a: (a.flatten(2) @ a.flatten(2).mT).sum((1, 2)),
    "quotient": lambda a: a.sum((1, 2, 3)) / a.abs().sum((1, 2, 3)),
    "reciprocal": lambda a: 1 / a.sum((1, 2, 3)),
    "max pool": lambda a: functional.adaptive_max_pool2d(a, 1).sum((1, 2, 3)),
    "largest": lambda a: a.amax((1, 2, 3)),
    "clamp": lambda a: a.clamp(-5, 5).sum((1, 2, 3)),
    "layer norm": lambda a: functional.layer_norm(a, (5,)).select(3, 0).sum((1, 2)),
    "batch norm in training": lambda a: functional.batch_norm(a, None, None, training=True).select(3, 0).sum((1, 2)),
    "rounding": lambda a: a.sum((1, 2, 3)).round(),
    "integers": lambda a: a.long().sum((1, 2, 3)).double(),
    "floor division": lambda a: a.sum((1, 2, 3)).div(2, rounding_mode="floor"),
    "switch": lambda a: torch.where(a > 0, a, 2 * a).sum((1, 2, 3)),
    "mask": lambda a: a.masked_fill(a < 0, 1.0).sum((1, 2, 3)),
    "by its values": lambda a: a.sum((1, 2, 3)) * (2 if bool(a.detach().mean() > 0) else 3),
    "picked by values": lambda a: a.flatten(1).gather(1, a.flatten(1).argmax(1, keepdim=True))[:, 0],
    "attention": lambda a: functional.scaled_dot_product_attention(a, a, a).sum((1, 2, 3)),
}


def runs_of(tail: Callable[[Tensor], Tensor]) -> tuple[Callable[[Tensor], Tensor], list[int]]:
    """A tail that counts its calls; a call under `vmap` counts once."""
    calls: list[int] = []

    def counted(a: Tensor) -> Tensor:
        calls.append(1)
        return tail(a)

    return counted, calls
