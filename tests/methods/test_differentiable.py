"""`differentiable=True` of every method: its derivatives are those of finite differences.

In the inputs, and in parameters before the layer, of the layer and after it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from camfn import explainer, methods
from tests.nets.small import images, seeded

EXACT = torch.float64
X = images(2, 2, 9, 8, dtype=EXACT)
MASKS = images(4, 9, 8, dtype=EXACT).sigmoid()
OPTIONS: dict[str, dict[str, Any]] = {
    "cam": {"weights": images(5, dtype=EXACT)},
    "tam": {"weights": images(5, dtype=EXACT)},
    "random_cam": {"weights": images(2, 5, dtype=EXACT)},
    "ss_cam": {"noise": images(2, 9, 8, dtype=EXACT)},
    "vit_cx": {"noise": images(2, 9, 8, dtype=EXACT)},
    "is_cam": {"steps": 2},
    "rise": {"masks": MASKS},
    "d_rise": {"masks": MASKS},
    "hsic": {"masks": images(8, 3, 3, dtype=EXACT).sigmoid(), "grid": 3},
    "sobol": {"designs": 4, "grid": 3},
    "opti_cam": {"steps": 4},
    # at a quantile where no value of this instance switches
    "group_cam": {"groups": 2, "quantile": 0.45},
    "lift_cam": {"steps": 3},
}
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, OPTIONS.get(name, {})) for name in methods.__all__),
    ("score_cam", {"form": "score", "baseline": 0.3}),
    ("score_cam", {"top_k": 2, "by": "gradient", "chunk_size": 1}),
    ("ablation_cam", {"slope": "score", "chunk_size": 2}),
    ("ablation_cam", {"closed_form": True, "slope": "l1"}),
    ("recipro_cam", {"kernel": "point"}),
    ("shapley_cam", {"elementwise": True}),
    ("poly_cam", {"switch": "minus", "top_k": 2}),
]
every_case = pytest.mark.parametrize(
    ("name", "options"), CASES, ids=[f"{name}-{'-'.join(options)}" for name, options in CASES]
)


class Smooth(nn.Module):
    """A network without corners."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.norm = nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.layer, self.after, self.head = nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(5, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.norm(self.before(x)).tanh()).sin()
        return cast(Tensor, self.head((self.after(x) + 1).tanh().mean((2, 3))))


class Skipping(Smooth):
    """The same with a branch round the layer, and sums and activations in place."""

    def forward(self, x: Tensor) -> Tensor:
        kept = self.norm(self.before(x)).tanh_()
        x = self.layer(kept)
        x += kept.repeat(1, 2, 1, 1)[:, :5]
        x.sin_()
        return cast(Tensor, self.head((self.after(x) + kept[:, :, 1:-1, 1:-1]).tanh_().mean((2, 3))))


PARTS = ("before", "norm", "layer", "after", "head")


def explained(name: str, options: dict[str, Any], net: nn.Module, *, differentiable: bool) -> Callable[..., Tensor]:
    return explainer(partial(getattr(methods, name), **options), net, "layer", differentiable=differentiable)


@every_case
@pytest.mark.parametrize("build", [Smooth, Skipping])
def test_derivatives_are_those_of_finite_differences(
    build: Callable[[], nn.Module], name: str, options: dict[str, Any]
) -> None:
    net = seeded(build, dtype=EXACT)
    plain = explained(name, options, net, differentiable=False)
    x = X.clone().requires_grad_()
    map_ = explained(name, options, net, differentiable=True)(x, 1)
    weights = images(*map_.shape, dtype=EXACT, seed=5)
    values: list[Tensor] = [x, *(cast(Tensor, net.get_submodule(part).weight) for part in PARTS)]
    found = torch.autograd.grad((map_ * weights).sum(), values, materialize_grads=True)
    for part, value, derivative in zip(("inputs", *PARTS), values, found, strict=True):
        direction = images(*value.shape, dtype=EXACT, seed=6)
        along = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                value += step * direction
                along.append(float((plain(x, 1) * weights).sum()))
                value -= step * direction
        expected = (along[0] - along[1]) / 2e-5
        assert float((derivative * direction).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-8), part


@every_case
def test_a_transform_gives_the_same_derivative(name: str, options: dict[str, Any]) -> None:
    net = seeded(Smooth, dtype=EXACT)
    explain = explained(name, options, net, differentiable=True)
    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(explain(x, 1).square().sum(), x, materialize_grads=True)
    torch.testing.assert_close(torch.func.grad(lambda x: explain(x, 1).square().sum())(X), expected)
