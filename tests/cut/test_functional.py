"""Parameters as an argument: ensembles, maps in a loss, compiled."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from camfn import CamfnError, capture, capture_many, explainer, functional, network, observe, resume
from camfn.methods import ablation_cam, grad_cam, score_cam
from camfn.transforms import augment, fuse
from tests.nets.small import Net, images, seeded, unchanged

X = images(2, 3, 8, 8)
EXPLAIN: dict[str, Any] = {
    "explainer": lambda net: explainer(grad_cam, net, "blocks.0"),
    "tail": lambda net: explainer(ablation_cam, net, "blocks.0"),
    "forward": lambda net: explainer(score_cam, net, "blocks.0"),
    "capture": lambda net: capture(net, "blocks.0"),
    "capture_many": lambda net: capture_many(net, ["stem", "blocks.0"]),
    "fuse": lambda net: fuse(grad_cam, net, ["stem", "blocks.0"]),
    "augment": lambda net: augment(explainer(grad_cam, net, "blocks.0")),
    "input_gradient": lambda net: network.input_gradient(net),
    "full_grad": lambda net: network.full_grad(net),
}


def nets(count: int = 3) -> list[nn.Module]:
    made: list[nn.Module] = []
    for seed in range(count):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.append(Net().double().eval())
    return made


def same(got: Any, want: Any) -> None:
    if isinstance(want, dict):
        for key in want:
            same(got[key], want[key])
    else:
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", EXPLAIN)
def test_other_parameters_are_another_model(name: str) -> None:
    one, other, _ = nets()
    x = X.double()
    params, pure = functional(EXPLAIN[name](one))
    with unchanged(one):
        same(pure(params, x, 1), EXPLAIN[name](one)(x, 1))
        theirs = {**dict(other.named_parameters()), **dict(other.named_buffers())}
        same(pure(theirs, x, 1), EXPLAIN[name](other)(x, 1))
    some = {"head.weight": other.get_parameter("head.weight")}
    mixed = copy.deepcopy(one)
    mixed.load_state_dict({**one.state_dict(), **some})
    same(pure(some, x, 1), EXPLAIN[name](mixed)(x, 1))


@pytest.mark.parametrize("name", ["explainer", "capture", "fuse", "augment", "tail"])
def test_vmap_over_an_ensemble(name: str) -> None:
    models, x = nets(), X.double()
    params, buffers = stack_module_state(models)
    _, pure = functional(EXPLAIN[name](models[0]))
    got = torch.vmap(pure, in_dims=(0, None, None))({**params, **buffers}, x, 1)
    for i, model in enumerate(models):
        want = EXPLAIN[name](model)(x, 1)
        same(got[i] if isinstance(got, Tensor) else type(got)(*(part[i] for part in got)), want)


def test_derivative_in_the_parameters() -> None:
    net, x = nets()[0], X.double()
    params, pure = functional(explainer(grad_cam, net, "blocks.0", differentiable=True))

    def loss(params: dict[str, Tensor]) -> Tensor:
        return torch.as_tensor(pure(params, x, 1).square().sum())

    grads = torch.func.grad(loss)(params)
    for name in ("stem.weight", "blocks.0.conv.weight", "head.weight"):
        if name not in params:
            continue
        step = torch.randn_like(params[name])
        moved = [loss({**params, name: params[name] + sign * 1e-6 * step}) for sign in (1, -1)]
        want = (moved[0] - moved[1]) / 2e-6
        torch.testing.assert_close((grads[name] * step).sum(), want, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", ["explainer", "capture_many", "fuse"])
def test_compiled(name: str) -> None:
    torch._dynamo.reset()
    one, other, _ = nets()
    x = X.double()
    _, pure = functional(EXPLAIN[name](one))
    theirs = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    compiled = torch.compile(lambda params, x: pure(params, x, 1), backend="eager", fullgraph=True)
    with unchanged(one):
        same(compiled(theirs, x), EXPLAIN[name](other)(x, 1))


def test_a_tail() -> None:
    one, other, _ = nets()
    x = X.double()
    params, pure = functional(resume(one, "blocks.0")(x))
    activations, outputs = observe(one, "blocks.0")(x)
    torch.testing.assert_close(pure(params, activations), outputs)
    theirs = {"head.weight": other.get_parameter("head.weight").detach()}
    want = functional_call(one, theirs, (x,))
    torch.testing.assert_close(pure(theirs, activations), want.detach(), check_dtype=True)
    grad = torch.func.grad(lambda p: pure(p, activations)[:, 1].sum())(theirs)["head.weight"]
    assert grad.any()


def test_tied_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Linear(3, 5)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.b(self.a(x).tanh()).mean((2, 3)))
            return y

    net = seeded(Tied)
    params, pure = functional(capture(net, "a"))
    changed = {**params, "a.weight": torch.ones_like(params["a.weight"])}
    torch.testing.assert_close(pure(changed, X, 1).outputs, functional_call(net, changed, (X,)).detach())


def test_refusals() -> None:
    net = nets(1)[0]
    with pytest.raises(CamfnError, match=r"expected what explains a model, as camfn.explainer"):
        functional(net)
    _, pure = functional(capture(net, "stem"))
    with pytest.raises(CamfnError, match=r"no parameter or buffer 'head.wei'.*head.weight"):
        pure({"head.wei": torch.zeros(1)}, X, 1)
    with pytest.raises(CamfnError, match="dict of tensors by name"):
        pure(X, X, 1)  # type: ignore[arg-type]
    with pytest.raises(CamfnError, match=r"head.weight: expected shape \(5, 6\), got \(5, 7\)"):
        pure({"head.weight": torch.zeros(5, 7)}, X, 1)
    with pytest.raises(CamfnError, match=r"head.weight: expected a tensor, got 3"):
        pure({"head.weight": 3}, X, 1)  # type: ignore[dict-item]
