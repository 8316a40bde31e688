"""Captures that take the parameters as constants: the network notices nothing, and its gradients are autograd's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, capture, capture_each, capture_levels, observe
from camfn._cut.constants import with_constants

INPUT = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """Two layers, and between them what a test has the forward do."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor] = lambda net, h: h) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(144, 5)
        self.b.weight.scale = 2.0  # type: ignore[attr-defined]
        self.known = {id(self.b.weight): 2.0}
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.b(self.between(self, self.a(x).relu())).relu().flatten(1))
        return out

    def named_parameters(self, prefix: str = "", recurse: bool = True) -> Any:  # type: ignore[override]
        return super().named_parameters(prefix, recurse)


def by_hooks(model: nn.Module, name: str, inputs: tuple[Any, ...], classes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The output of a layer, and autograd's gradients in it."""
    kept: list[Tensor] = []

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0].clone()

    handle = model.get_submodule(name).register_forward_hook(hook)
    try:
        scores = model(*inputs)
        grads = [torch.autograd.grad(scores[:, k].sum(), kept[0], retain_graph=True)[0] for k in classes]
    finally:
        handle.remove()
    return kept[0].detach(), torch.stack(grads)


def state_of(model: nn.Module) -> list[Any]:
    return [(id(p), p.requires_grad, p.grad, p.detach().clone().tolist()) for p in model.parameters()]


def checks_parameters(net: Any, h: Tensor) -> Tensor:
    assert isinstance(net.b.weight, nn.Parameter)
    return h


def asks_for_gradients(net: Any, h: Tensor) -> Tensor:
    return h.mul(2 if net.b.weight.requires_grad else 3)


def thaws(net: Any, h: Tensor) -> Tensor:
    net.requires_grad_(False)
    net.requires_grad_(True)
    net.b.weight.requires_grad = True
    return h


def hooks_itself(net: Any, h: Tensor) -> Tensor:
    h.register_hook(lambda grad: None)  # type: ignore[no-untyped-call]
    return h


def keeps_its_gradient(net: Any, h: Tensor) -> Tensor:
    h.retain_grad()
    return h


def differentiates_in_weights(net: Any, h: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(net.a.weight.pow(2).sum(), net.a.weight)
    return h.mul(grad.mean())


def differentiates(net: Any, h: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(h.pow(2).sum(), h, create_graph=True)
    return h + grad


def reads_an_attribute(net: Any, h: Tensor) -> Tensor:
    return h.mul(net.b.weight.scale)


def finds_by_id(net: Any, h: Tensor) -> Tensor:
    return h.mul(net.known[id(net.b.weight)])


FORWARDS = [
    checks_parameters,
    asks_for_gradients,
    thaws,
    hooks_itself,
    keeps_its_gradient,
    differentiates_in_weights,
    differentiates,
    reads_an_attribute,
    finds_by_id,
]


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("between", FORWARDS)
def test_a_forward_that_looks_at_its_parameters_sees_its_own(between: Callable[..., Tensor], name: str) -> None:
    torch.manual_seed(0)
    model = Network(between).eval()
    activations, grads = by_hooks(model, name, (INPUT,), (0, 3))
    before = state_of(model)
    once = capture_each(model, name)(INPUT, [0, 3])
    several = capture_levels(model, [name])(INPUT, [0, 3])[name]
    assert state_of(model) == before
    for found in (once, several):
        torch.testing.assert_close(found.activations, activations)
        torch.testing.assert_close(found.grads, grads, rtol=1e-6, atol=1e-7)


def test_autograd_takes_the_parameters_as_constants() -> None:
    model = Network().eval()
    net = with_constants(model)
    assert all(p.requires_grad for p in net.parameters()), "as the network's code reads it"
    assert not net(INPUT).requires_grad
    assert net.get_submodule("a").get_parameter("weight").data_ptr() == model.a.weight.data_ptr()


def test_an_error_of_the_network_is_its_own() -> None:
    def fails(net: Any, h: Tensor) -> Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        capture_each(Network(fails), "b")(INPUT, [0])


class Padded(nn.Module):
    """A padded batch through torch's own encoder, which packs it in a nested tensor where nothing is recorded."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.embed, self.encoder, self.head = nn.Linear(4, 8), nn.TransformerEncoder(layer, 2), nn.Linear(8, 5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.embed(x), src_key_padding_mask=mask).mean(1))
        return out


@pytest.mark.parametrize("name", ["embed", "encoder", "encoder.layers.0", "encoder.layers.1.linear1"])
@pytest.mark.parametrize("frozen", [False, True])
def test_an_encoder_takes_a_padded_batch(name: str, frozen: bool) -> None:
    torch.manual_seed(0)
    model = Padded().eval()
    x, mask = torch.randn(2, 6, 4), torch.arange(6).expand(2, 6) >= torch.tensor([[6], [4]])
    activations, grads = by_hooks(copy.deepcopy(model), name, (x, mask), (1,))
    model.requires_grad_(not frozen)
    once = capture_each(model, name, layout=None)((x, mask), [1])
    several = capture_levels(model, [name], layout=None)((x, mask), [1])[name]
    one = capture(model, name, layout=None)((x, mask), 1)
    seen, _ = observe(model, name, layout=None)((x, mask))
    for found in (once.activations, several.activations, one.activations, seen):
        torch.testing.assert_close(found, activations)
    for found in (once.grads[0], several.grads[0], one.grads):
        torch.testing.assert_close(found, grads[0])
    assert model.encoder.use_nested_tensor, "the user's own still does"


def test_transforms_are_refused() -> None:
    model = Network().eval()
    for run in (
        lambda x: capture_each(model, "b")(x[None], [0]).grads,
        lambda x: capture_levels(model, ["b"])(x[None], [0])["b"].grads,
    ):
        with pytest.raises(CamfnError, match=r"outside of torch.func's transforms.*Call capture"):
            torch.vmap(run)(INPUT)


@pytest.mark.parametrize("make", [capture, capture_each])
def test_a_model_made_in_inference_mode_is_refused(make: Any) -> None:
    with torch.inference_mode():
        model = Network().eval()
    with pytest.raises(CamfnError, match=r"made under torch\.inference_mode"):
        make(model, "a")(INPUT, 0 if make is capture else [0])
