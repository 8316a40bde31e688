"""Laws of occlusion: linear networks, patches that overlap, and what does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import CamfnError, methods
from tests.methods.laws import close, image, linear, normal, total
from tests.oracles import perturbation as oracle


@pytest.mark.parametrize("size", [(13,), (9, 11), (5, 8, 6)], ids=str)
@pytest.mark.parametrize(("patch", "stride"), [(3, 2), (4, 4), (1, 1), (5, 1)])
def test_it_is_that_of_a_loop(size: tuple[int, ...], patch: int, stride: int) -> None:
    x = normal(2, 2, *size)

    def forward(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return (flat * torch.linspace(-1, 1, flat.shape[1], dtype=x.dtype)).sum(1).tanh() + flat.square().mean(1)

    options: dict[str, Any] = {"forward": forward, "patch": patch, "stride": stride, "baseline": 0.2}
    close(methods.occlusion(x, inputs=x, **options), oracle.occlusion(x, x, **options))
    sides = [patch, *(2,) * (len(size) - 1)]
    options |= {"patch": sides, "stride": [stride, *(1,) * (len(size) - 1)]}
    close(methods.occlusion(x, inputs=x, **options), oracle.occlusion(x, x, **options))


def test_of_a_linear_network_single_pixels_are_the_gradient_times_the_input() -> None:
    x = image()
    w = torch.func.grad(lambda y: linear(y).sum())(x)
    close(methods.occlusion(x, forward=linear, inputs=x, patch=1, stride=1), (x * w).sum(1))
    base = normal(x.shape[1], 1, 1, seed=4)
    close(methods.occlusion(x, forward=total, inputs=x, patch=1, stride=1, baseline=base), (x - base).sum(1))


def test_the_patch_as_it_comes_is_a_seventh_and_moves_by_half() -> None:
    x = torch.rand(1, 1, 28, 14)
    told: list[tuple[int, int]] = []
    found = methods.occlusion(x, forward=total, inputs=x, progress=lambda *done: told.append(done))
    assert told[-1] == (13 * 13 + 1, 13 * 13 + 1)
    close(found, methods.occlusion(x, forward=total, inputs=x, patch=(4, 2), stride=(2, 1)))
    whole = methods.occlusion(x, forward=total, inputs=x, patch=(28, 14), stride=(1, 1))
    close(whole, total(x).reshape(1, 1, 1).expand(1, 28, 14))


X = image()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"patch": 40}, "patch: expected at most"),
        ({"patch": 0}, "patch: expected a whole number"),
        ({"patch": (2, 2, 2)}, "one for each of 2 dimensions"),
        ({"patch": 2, "stride": 3}, "stride: expected at most 2"),
        ({"patch": 2.5}, "patch"),
        ({"baseline": torch.ones(7)}, "broadcasts to the inputs"),
        ({"forward": 3}, "forward: expected a function"),
        ({"forward": lambda x: x}, "one score a sample"),
        ({"forward": lambda x: x.flatten(1).sum(1) * float("nan")}, "returned NaN"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(CamfnError, match=text):
        methods.occlusion(X, **{"forward": total, "inputs": X, **options})
