"""One table: the methods of a whole network, with the options they are held to the contract with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from camfn import network

Options = dict[str, Any]
KINDS = {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}
AT_A_LAYER = ("guided_grad_cam", "smooth_grad_cam_plusplus")
SIZES = {1: (11,), 2: (7, 6), 3: (4, 5, 6)}


class Plain(nn.Module):
    """Two convolutions with biases, a BatchNorm, a linear head, for inputs of one to three dimensions."""

    def __init__(self, dims: int = 2) -> None:
        super().__init__()
        conv, norm = KINDS[dims]
        self.first = conv(3, 4, 3, stride=2, padding=1)
        self.norm = norm(4)
        self.act = nn.ReLU(inplace=True)
        self.second = conv(4, 5, 2)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.first(x)))
        out: Tensor = self.head(self.second(x).relu().flatten(2).mean(2))
        return out


def nothing(x: Tensor) -> Options:
    return {}


def noise(x: Tensor) -> Options:
    shape = (3, *x.shape)
    return {"noise": torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)}


def draws(x: Tensor) -> Options:
    return {"uniform": torch.rand(4, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)}


def layer_of(name: str, model: nn.Module) -> Options:
    """A convolutional layer of the networks of the contract, for a method that is taken at one."""
    if name not in AT_A_LAYER:
        return {}
    return {"layer": "first" if isinstance(model, Plain) else "blocks.0"}


class Case(NamedTuple):
    """A method with its options; `tensors` makes those that depend on the images."""

    name: str
    options: Mapping[str, Any] = MappingProxyType({})
    tensors: Callable[[Tensor], Options] = nothing

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])

    def build(self, model: nn.Module, x: Tensor) -> Callable[..., Tensor]:
        """The method's `explain`, for images such as these."""
        method: Callable[..., Callable[..., Tensor]] = getattr(network, self.name)
        return method(model, **self.options, **self.tensors(x), **layer_of(self.name, model))


CASES = (
    Case("full_grad"),
    Case("full_grad", {"align_corners": True}),
    Case("simple_full_grad"),
    Case("smooth_full_grad", {"std": 0.2}, noise),
    Case("smooth_grad_cam_plusplus", {"std": 0.2}, noise),
    Case("input_gradient"),
    Case("smooth_grad", {"std": 0.2}, noise),
    Case("integrated_gradients", {"steps": 3}),
    Case("integrated_gradients", {"steps": 3, "rule": "riemann", "baseline": 0.2}),
    Case("idgi", {"steps": 3}),
    Case("guided_ig", {"steps": 4, "baseline": 0.1, "max_dist": 0.05}),
    Case("expected_gradients", {"references": 0.2}, draws),
    Case("guided_backprop"),
    Case("deconvnet"),
    Case("guided_grad_cam"),
)
