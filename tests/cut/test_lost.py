"""A gradient that cannot exist is an error that says where the graph ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from camfn import CaptureError, capture, capture_each, capture_levels, capture_many, explainer, observe, resume
from camfn.methods import ablation_cam, grad_cam
from camfn.transforms import fuse, fuse_maps
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


class Writing(Two):
    """Writes what follows the layer into a view that was made before it, or reads it from such a view."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.stem(x)
        kept = torch.zeros_like(hidden)
        view = hidden[:] if self.way == "written" else kept.flatten(2)
        y = self.body(hidden.clone())
        if self.way == "written":
            view += y.sin()
            found = hidden
        else:
            kept.copy_(y.sin())
            found = view.unflatten(-1, y.shape[2:])
        out: Tensor = self.head(found.tanh().mean((2, 3)))
        return out


@pytest.mark.parametrize("way", ["written", "read"])
def test_views_from_before_the_layer(way: str) -> None:
    net = seeded(lambda: Writing(way))
    want = capture_each(net, "body")(X, [1])
    for run in (capture(net, "body"), capture(net, "body", differentiable=True)):
        torch.testing.assert_close(run(X, 1).grads.detach(), want.grads[0])
    assert want.grads.any()


def test_a_mode_that_is_switched_on_for_good() -> None:
    """What restores the mode that it found is off before the layer: the gradient goes on there all the same."""

    def restored(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            return run(x)

    def for_good(x: Tensor) -> Tensor:
        x = x.sin()
        torch.set_grad_enabled(True)
        return x

    net, plain = seeded(lambda: Two(between=for_good, around=restored)), seeded(lambda: Two(between=torch.sin))
    before = torch.is_grad_enabled()
    for unused in ("error", "zeros"):
        got: Any = capture(net, "stem", unused=unused)
        torch.testing.assert_close(got(X, 1).grads, capture(plain, "stem")(X, 1).grads)
    assert torch.is_grad_enabled() == before


def test_a_layer_in_inference_mode() -> None:
    net = seeded(lambda: Two(between=torch.clone, around=in_inference_mode))
    for run in (capture(net, "stem"), capture(net, "stem", differentiable=True)):
        with pytest.raises(CaptureError, match="no gradient at layer 'stem'"):
            run(X, 1)
    assert capture(net, "body")(X, 1).grads.any()
    torch.testing.assert_close(resume(net, "body")(X)(observe(net, "body")(X)[0]), net(X))


class Mapped(Two):
    """Runs its body under `torch.vmap`."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.relu(self.side(torch.vmap(self.body)(self.stem(x)))).mean((2, 3)))
        return y

    def __init__(self) -> None:
        super().__init__()
        self.body, self.side = nn.Conv2d(4, 3, 1), nn.Conv2d(3, 4, 1)


def test_a_transform_of_the_models_own() -> None:
    net = seeded(Mapped)
    for run in (capture(net, "body"), observe(net, "body"), resume(net, "body"), explainer(ablation_cam, net, "body")):
        with pytest.raises(CaptureError, match=r"'body' runs inside torch\.vmap"):
            run(X)
    for layer in ("stem", "side"):
        found = capture(net, layer)(X, 1)
        tail = resume(net, layer)(X)
        torch.testing.assert_close(tail(found.activations), net(X))
        torch.testing.assert_close(
            torch.func.grad(lambda a, tail=tail: tail(a)[:, 1].sum())(found.activations), found.grads
        )


class Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x / 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] / 2


@pytest.mark.parametrize("way", ["function", "retain_grad", "full backward hook"])
def test_what_transforms_refuse_works_outside_of_them(way: str) -> None:
    def between(x: Tensor) -> Tensor:
        if way == "retain_grad" and x.requires_grad:
            x.retain_grad()
        y: Tensor = Halved.apply(x) if way == "function" else x / 2
        return y

    net, plain = seeded(lambda: Two(between=between)), seeded(lambda: Two(between=lambda x: x / 2))
    if way == "full backward hook":
        net.get_submodule("head").register_full_backward_hook(lambda module, inner, outer: None)
    want = capture(plain, "stem")(X, 1).grads
    for run in (capture(net, "stem"), capture(net, "stem", differentiable=True)):
        torch.testing.assert_close(run(X, 1).grads.detach(), want)
    with pytest.raises(CaptureError, match="call capture_each for several targets"):
        torch.vmap(lambda t: capture(net, "stem")(X, t).grads)(torch.arange(3))
    torch.testing.assert_close(capture_each(net, "stem")(X, [1]).grads[0], want)


class Levels(nn.Module):
    """Two levels, the second made of the first, each with its own score."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low = self.low(x)
        return low.sum((1, 2, 3)), self.high(low).sum((1, 2, 3))


def first(outputs: tuple[Tensor, Tensor]) -> Tensor:
    return outputs[0]


def test_a_level_that_the_score_does_not_use_names_the_call_that_works() -> None:
    net, x = seeded(Levels), images(2, 3, 9, 9)
    for run in (capture_many(net, ["low", "high"]), fuse(grad_cam, net, ["low", "high"], how="max")):
        with pytest.raises(CaptureError, match=r"layer 'high'.*does not use.*capture_levels\(model, layers\)"):
            run(x, first)
    captured = capture_levels(net, ["low", "high"])(x, [first])
    assert not captured["high"].grads.any()
    found = fuse_maps([grad_cam(c.activations, c.grads[0]) for c in captured.values()], how="max")
    torch.testing.assert_close(found, fuse(grad_cam, net, "low", how="max")(x, first))
    with pytest.raises(CaptureError) as alone:
        capture(net, "high")(x, first)
    assert "capture_levels" not in str(alone.value)
