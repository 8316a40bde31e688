"""A map made without a graph is refused where `torch.func` takes a derivative in reverse mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, capture, explainer, network
from camfn._shared.checks import refuse_lost_graph
from camfn.methods import grad_cam
from tests.nets.small import Net, images, seeded


def plain(net: nn.Module) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        refuse_lost_graph("grad_cam", net, {"x": x})
        y: Tensor = net(x)
        return y.sum()

    return run


def test_reverse_mode_is_refused_and_forward_mode_is_not() -> None:
    net, x = nn.Linear(3, 2), torch.rand(4, 3)
    run = plain(net)
    assert torch.isfinite(run(x))
    for transform in (torch.func.grad, torch.func.jacrev, lambda f: lambda x: torch.func.vjp(f, x)[1](torch.ones(()))):
        with pytest.raises(CamfnError, match="differentiable=True"):
            transform(run)(x)
    assert torch.func.jacfwd(run)(x).any()
    torch.vmap(run)(x)
    torch.func.grad(lambda x: x.sum() * run(x.detach()))(x)

    def of_parameters(parameters: dict[str, Tensor]) -> Tensor:
        y: Tensor = torch.func.functional_call(
            Whole(run, net), {f"net.{key}": p for key, p in parameters.items()}, (x,)
        )
        return y

    with pytest.raises(CamfnError, match="differentiable=True"):
        torch.func.grad(of_parameters)(dict(net.named_parameters()))
    with pytest.raises(CamfnError, match="differentiable=True"):
        torch.vmap(torch.func.grad(run))(x)


class Whole(nn.Module):
    """A module that holds an explainer and its network."""

    def __init__(self, run: Callable[[Tensor], Tensor], net: nn.Module) -> None:
        super().__init__()
        self.run, self.net = run, net

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: network.input_gradient(seeded(Net), differentiable=True),
        lambda: network.full_grad(seeded(Net), differentiable=True),
        lambda: network.integrated_gradients(seeded(Net), steps=2, differentiable=True),
        lambda: capture(seeded(Net), "blocks.0", differentiable=True),
        lambda: explainer(grad_cam, seeded(Net), "blocks.0", differentiable=True),
    ],
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_graph_where_autograd_is_off(make: Any, mode: Any) -> None:
    """Also if `differentiable` is asked for: `no_grad` around a call means no graph, and is on again after it."""
    run, x = make(), images(2, 3, 8, 8).requires_grad_()
    with mode():
        found = run(x, 1)
        assert not torch.is_grad_enabled()
    assert not (found if isinstance(found, Tensor) else found.grads).requires_grad
    again = run(x, 1)
    assert (again if isinstance(again, Tensor) else again.grads).requires_grad
