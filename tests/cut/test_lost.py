"""A gradient that cannot exist is an error that says where the graph ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from camfn import CaptureError, capture, capture_each, capture_many, explainer, observe
from camfn.methods import ablation_cam, grad_cam
from tests.nets.small import images, seeded, unchanged


class Two(nn.Module):
    """A stem, a body and a head; `between` runs after the stem, `around` runs the stem."""

    def __init__(
        self,
        between: Callable[[Tensor], Tensor] = lambda x: x,
        around: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor] = lambda run, x: run(x),
        beyond: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor] = lambda run, x: run(x),
    ) -> None:
        super().__init__()
        self.stem, self.body, self.side = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(3, 2, 3)
        self.head = nn.Linear(4, 5)
        self.between, self.around, self.beyond = between, around, beyond

    def forward(self, x: Tensor) -> Tensor:
        self.side(x)
        hidden = self.between(self.around(lambda x: torch.relu(self.stem(x)), x))
        y: Tensor = self.beyond(lambda hidden: self.head(self.body(hidden).tanh().mean((2, 3))), hidden)
        return y


X = images(2, 3, 8, 8)


def without_gradient(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        return run(x)


def in_inference_mode(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.inference_mode():
        return run(x)


CUTS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "detach": (
        lambda: Two(between=lambda x: x.detach()),
        "the model cuts the graph after module 'stem'|right after it",
    ),
    "numpy": (lambda: Two(between=lambda x: torch.as_tensor(x.detach().numpy())), "the model cuts the graph"),
    "no_grad after the layer": (lambda: Two(beyond=without_gradient), "module 'body' runs under no_grad"),
    "no_grad round the layer": (lambda: Two(around=without_gradient), "the model cuts the graph right after it"),
    "reentrant checkpoint round the layer": (
        lambda: Two(around=lambda run, x: checkpoint(run, x, use_reentrant=True)),
        "the model cuts the graph right after it",
    ),
}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("name", CUTS)
def test_the_model_cuts_the_graph(name: str) -> None:
    make, text = CUTS[name]
    net = seeded(make)
    with unchanged(net):
        for run in (capture(net, "stem"), explainer(grad_cam, net, "stem")):
            with pytest.raises(CaptureError, match=f"no gradient at layer 'stem': {text}.*unused='zeros'"):
                run(X, 1)
        assert not capture(net, "stem", unused="zeros")(X, 1).grads.any()
        assert explainer(ablation_cam, net, "stem")(X, 1).any()


def test_inference_mode_after_the_layer() -> None:
    net = seeded(lambda: Two(beyond=in_inference_mode))
    with pytest.raises(CaptureError, match=r"no gradient at layer 'stem': module 'body' runs under inference_mode"):
        capture(net, "stem")(X, 1)


@pytest.mark.parametrize(
    "target", [lambda y: y.detach()[:, 0], lambda y: y.argmax(1).float(), lambda y: torch.tensor(y.tolist())[:, 0]]
)
def test_the_target_cuts_the_graph(target: Any) -> None:
    with pytest.raises(CaptureError, match="the target cuts the graph"):
        capture(seeded(Two), "stem")(X, target)
    with pytest.raises(CaptureError, match="the target cuts the graph"):
        capture_each(seeded(Two), "stem")(X, [1, target])


def test_a_layer_that_the_score_does_not_use() -> None:
    net = seeded(Two)
    for run in (capture(net, "side"), capture_many(net, ["stem", "side"])):
        with pytest.raises(CaptureError, match="'side': the score does not use this layer"):
            run(X, 1)
    both = capture_many(net, ["stem", "side"], unused="zeros")(X, 1)
    assert both["stem"].grads.any()
    assert not both["side"].grads.any()


def test_a_gradient_that_is_zero_stays_a_map() -> None:
    net = seeded(Two)
    assert not capture(net, "stem")(X, lambda y: 0 * y[:, 1]).grads.any()
    nn.init.zeros_(net.get_parameter("head.weight"))
    assert not explainer(grad_cam, net, "stem")(X, 1).any()


def test_under_vmap_the_error_names_what_may_be() -> None:
    net = seeded(lambda: Two(between=lambda x: x.detach()))
    with pytest.raises(CaptureError, match="no_grad, inference_mode, detach or the target"):
        torch.vmap(lambda t: capture(net, "stem")(X, t).grads)(torch.arange(3))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_checkpoint_after_the_layer(use_reentrant: bool) -> None:
    plain = seeded(Two)
    net = seeded(lambda: Two(beyond=lambda run, x: checkpoint(run, x, use_reentrant=use_reentrant)))
    net.load_state_dict(plain.state_dict())
    if use_reentrant:
        with pytest.raises(CaptureError, match="use_reentrant=False"):
            capture(net, "stem")(X, 1)
    else:
        torch.testing.assert_close(capture(net, "stem")(X, 1).grads, capture(plain, "stem")(X, 1).grads)


def test_a_checkpoint_round_the_layer() -> None:
    plain = seeded(Two)
    net = seeded(lambda: Two(around=lambda run, x: checkpoint(run, x, use_reentrant=False)))
    net.load_state_dict(plain.state_dict())
    for layer in ("stem", "body"):
        torch.testing.assert_close(capture(net, layer)(X, 1), capture(plain, layer)(X, 1))


def test_a_module_that_switches_the_gradient_on_again() -> None:
    """A layer in `no_grad` whose network goes on with the gradient on: what follows has a graph, the layer has none."""

    def again(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with torch.enable_grad():
            return run(x)

    net = seeded(lambda: Two(around=without_gradient, beyond=again))
    with pytest.raises(CaptureError, match="no gradient at layer 'stem'"):
        capture(net, "stem")(X, 1)
    assert capture(net, "body")(X, 1).grads.any()
    with pytest.raises(CaptureError, match="no gradient at layer 'stem'"):
        capture_many(net, ["stem", "body"])(X, 1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_mode_outside_does_not_matter_and_stays(mode: Any) -> None:
    net = seeded(Two)
    want = capture(net, "stem")(X, 1)
    with mode():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        torch.testing.assert_close(capture(net, "stem")(X, 1), want)
        torch.testing.assert_close(observe(net, "stem")(X)[0], want.activations)
        with pytest.raises(CaptureError):
            capture(net, "stem")(X, lambda y: y.detach()[:, 0])
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
