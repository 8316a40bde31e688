"""Guided backpropagation and its company: hand-written backward passes, every way to call a ReLU, and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from camfn import explainer
from camfn.methods import grad_cam
from camfn.network import (
    deconvnet,
    guided_backprop,
    guided_grad_cam,
    input_gradient,
    integrated_gradients,
    smooth_grad,
    unguided,
)
from tests.nets.small import Net, images, seeded, unchanged
from tests.oracles import network as oracles_network

RULES = {"guided": guided_backprop, "deconv": deconvnet, "gradient": input_gradient}
Matrix = list[list[float]]


class Layered(nn.Module):
    """Linear layers with an activation between."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = functional.relu, sizes: tuple[int, ...] = (5, 7, 6, 4)):
        super().__init__()
        self.activation = activation
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in list(self.linear)[:-1]:
            x = self.activation(layer(x))
        return cast(Tensor, self.linear[-1](x))


def layers_of(net: nn.Module) -> list[tuple[Matrix, list[float]]]:
    return [(m.weight.tolist(), m.bias.tolist()) for m in net.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("rule", RULES)
def test_a_network_of_linear_layers_against_a_backward_by_hand(rule: str) -> None:
    net, x = seeded(Layered).double(), images(6, 5, dtype=torch.float64)
    classes = torch.tensor([0, 1, 2, 3, 0, 1])
    expected = [oracles_network.backward(layers_of(net), row, k, rule) for row, k in zip(x.tolist(), classes.tolist())]
    torch.testing.assert_close(
        RULES[rule](net)(x, classes), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("rule", RULES)
def test_a_convolutional_network_against_its_matrices(rule: str) -> None:
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv1d(2, 3, 3), nn.ReLU(inplace=True), nn.Conv1d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3)
        )
    ).double()
    x = images(2, 2, 7, dtype=torch.float64)

    def matrix(module: nn.Module, shape: tuple[int, ...]) -> tuple[Matrix, list[float]]:
        size = math.prod(shape)
        bias = module(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
        columns = module(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).flatten(1) - bias
        return columns.mT.tolist(), bias.tolist()

    layers = [matrix(net.get_submodule(name), shape) for name, shape in (("0", (2, 7)), ("2", (3, 5)), ("5", (6,)))]
    expected = [oracles_network.backward(layers, row, 2, rule) for row in x.flatten(1).tolist()]
    torch.testing.assert_close(
        RULES[rule](net)(x, 2).flatten(1), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )


class Swapped(torch.autograd.Function):
    """The rule once more, for modules."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, rule: str) -> Tensor:
        ctx.save_for_backward(z)
        ctx.rule = rule
        return z.relu()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (z,) = ctx.saved_tensors
        return torch.where((z > 0) | (ctx.rule == "deconv"), grad.relu(), 0), None


class SwappedReLU(nn.Module):
    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, z: Tensor) -> Tensor:
        return cast(Tensor, Swapped.apply(z, self.rule))


def replaced(model: nn.Module, rule: str) -> nn.Module:
    """A copy in which every ReLU module is another one."""
    copy = deepcopy(model)
    for module in list(copy.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, SwappedReLU(rule))
    return copy


@pytest.mark.parametrize("rule", ["guided", "deconv"])
@pytest.mark.parametrize("name", ["vgg11_bn", "resnet18"])
def test_real_architectures_against_a_copy_with_other_modules(name: str, rule: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torchvision.models.get_model(name).eval()
    x, classes = images(2, 3, 64, 64), torch.tensor([3, 700])
    with unchanged(model):
        found = RULES[rule](model)(x, classes)
    leaf = x.clone().requires_grad_()
    replaced(model, rule)(leaf).gather(1, classes[:, None]).sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(found, leaf.grad, rtol=1e-3, atol=1e-5 * float(leaf.grad.abs().max()))
    assert not torch.allclose(found, input_gradient(model)(x, classes))


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU(inplace)": nn.ReLU(inplace=True),
    "nn.ReLU6": nn.ReLU6(),
    "nn.ReLU6(inplace)": nn.ReLU6(inplace=True),
    "nn.Threshold": nn.Threshold(0.0, 0.0),
    "nn.Hardtanh": nn.Hardtanh(0.0, 6.0),
    "F.relu(inplace)": lambda z: functional.relu(z, inplace=True),
    "F.relu(True)": lambda z: functional.relu(z, True),
    "F.relu(input=)": lambda z: functional.relu(input=z),
    "F.relu6": functional.relu6,
    "F.relu6(True)": lambda z: functional.relu6(z, True),
    "F.hardtanh_": lambda z: functional.hardtanh_(z, 0.0, 6.0),
    "F.threshold(True)": lambda z: functional.threshold(z, 0, 0, True),
    "torch.relu": torch.relu,
    "torch.relu_": lambda z: torch.relu_(z),
    "Tensor.relu": lambda z: z.relu(),
    "Tensor.relu_": lambda z: z.relu_(),
    "clamp(0)": lambda z: z.clamp(0),
    "clamp(min)": lambda z: torch.clamp(z, min=0.0),
    "clamp(min, max)": lambda z: z.clamp(min=0, max=6),
    "clamp_": lambda z: z.clamp_(min=0),
    "clamp_min": lambda z: z.clamp_min(0),
    "clip": lambda z: torch.clip(z, 0, 6),
}


@pytest.mark.parametrize("rule", ["guided", "deconv"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_call_a_relu(way: str, rule: str) -> None:
    x = images(4, 5)
    expected = RULES[rule](seeded(Layered))(x, 2)
    net = seeded(lambda: Layered(WAYS[way]))
    with unchanged(net):
        torch.testing.assert_close(RULES[rule](net)(x, 2), expected)
        assert unguided(net)(x) == {}
    assert not torch.allclose(expected, input_gradient(net)(x, 2))


@pytest.mark.parametrize(
    "activation",
    [lambda z: z.clamp(min=0.1), lambda z: z.clamp(-1, 1), functional.hardtanh, lambda z: functional.threshold(z, 0, 1),
     lambda z: z.clamp(max=0), lambda z: z.clamp(torch.zeros(()))],
)  # fmt: skip
def test_what_clips_elsewhere_is_no_relu(activation: Callable[[Tensor], Tensor]) -> None:
    net, x = seeded(lambda: Layered(activation)), images(4, 5)
    torch.testing.assert_close(guided_backprop(net)(x, 2), input_gradient(net)(x, 2))


def test_nothing_passes_where_a_relu6_clips() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU6(), nn.Linear(2, 1, bias=False))
    net[0].weight.data, net[2].weight.data = torch.eye(2), torch.ones(1, 2)
    assert guided_backprop(net)(torch.tensor([[9.0, 1.0]]), 0).tolist() == [[0.0, 1.0]]
    assert deconvnet(net)(torch.tensor([[9.0, 1.0]]), 0).tolist() == [[1.0, 1.0]]


def test_an_overwritten_tensor_is_seen_overwritten() -> None:
    class Preactivation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            z = self.first(x)
            y = functional.relu(z, inplace=True)
            return cast(Tensor, self.last(y + z))

    class Twice(Preactivation):
        def forward(self, x: Tensor) -> Tensor:
            return cast(Tensor, self.last(2 * self.first(x).relu()))

    x = images(4, 5)
    torch.testing.assert_close(guided_backprop(seeded(Preactivation))(x, 2), guided_backprop(seeded(Twice))(x, 2))


def test_one_relu_before_positive_weights_is_the_gradient() -> None:
    net = seeded(lambda: Layered(sizes=(5, 7, 4)))
    linear: Any = net.get_submodule("linear.1")
    linear.weight.data.abs_()
    x = images(8, 5)
    torch.testing.assert_close(guided_backprop(net)(x, 1), input_gradient(net)(x, 1))


@pytest.mark.parametrize("method", [guided_backprop, deconvnet, input_gradient])
def test_a_linear_network_is_its_gradient(method: Callable[..., Any]) -> None:
    net, x = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 5))), images(2, 3, 2, 2)
    weight: Any = net.get_submodule("1").weight
    torch.testing.assert_close(method(net)(x, 4).flatten(1), weight[4].detach().expand(2, 12))


def test_without_max_pooling_deconvnet_does_not_see_the_image() -> None:
    net = seeded(Net)
    first, second = (deconvnet(net)(images(1, 3, 8, 8, seed=seed), 2) for seed in (1, 2))
    assert torch.equal(first, second)
    pooled = seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))
    )
    first, second = (deconvnet(pooled)(images(1, 3, 8, 8, seed=seed), 2) for seed in (1, 2))
    assert not torch.allclose(first, second)


def test_a_transformer_layer_that_would_run_fused() -> None:
    net = seeded(
        lambda: nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(), nn.Linear(40, 3))
    )
    x = images(2, 5, 8)
    found = guided_backprop(net)(x, 1)
    copy = deepcopy(net)
    layer: Any = copy.get_submodule("0")
    layer.activation = SwappedReLU("guided")
    leaf = x.clone().requires_grad_()
    copy(leaf)[:, 1].sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(found, leaf.grad, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found, input_gradient(net)(x, 1))


# ------------------------------------------------------------------------------------------------- other activations


def test_activations_that_are_not_guided_are_named() -> None:
    net = seeded(
        lambda: nn.Sequential(
            nn.Linear(5, 5), nn.GELU(), nn.Sequential(nn.SiLU(inplace=True), nn.Hardswish()), nn.ReLU(), nn.Linear(5, 3)
        )
    )
    x = images(2, 5)
    with unchanged(net):
        assert unguided(net)(x) == {"1": "gelu", "2.0": "silu", "2.1": "hardswish"}
    assert guided_backprop(net)(x, 1).any()
    assert unguided(seeded(lambda: Layered(lambda z: z.sigmoid() * torch.tanh(z))))(x) == {"": "sigmoid, tanh"}


@pytest.mark.parametrize("method", [guided_backprop, deconvnet])
def test_a_network_without_a_relu_is_refused(method: Callable[..., Any]) -> None:
    net = seeded(lambda: Layered(functional.gelu))
    with (
        unchanged(net),
        pytest.raises(ValueError, match=rf"{method.__name__}: no ReLU ran .* gelu did.*input_gradient"),
    ):
        method(net)(images(2, 5), 1)


def test_a_target_with_a_relu_is_not_guided() -> None:
    net, x = seeded(Layered), images(4, 5)
    torch.testing.assert_close(
        guided_backprop(net)(x, lambda y: (-y[:, 1]).relu().neg()),
        guided_backprop(net)(x, 1) * (net(x)[:, 1] < 0)[:, None],
    )


# ------------------------------------------------------------------------------------------------- products and means


def test_guided_grad_cam_is_the_product() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    classes = torch.tensor([1, 3])
    cam = explainer(grad_cam, net, "blocks.1")(x, classes)
    up = torch.stack([oracles_network.upsampled(one.relu().double(), (8, 8), False) for one in cam])
    expected = guided_backprop(net)(x, classes) * up[:, None].float()
    torch.testing.assert_close(guided_grad_cam(net, "blocks.1")(x, classes), expected)
    torch.testing.assert_close(guided_grad_cam(net, net.get_submodule("blocks.1"))(x, classes), expected)


def test_the_input_gradient_is_autograds() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8).requires_grad_()
    (expected,) = torch.autograd.grad(net(x)[:, 2].sum(), x)
    torch.testing.assert_close(input_gradient(net)(x, 2), expected)


def test_smooth_grad_is_a_mean_of_gradients() -> None:
    net, x, noise = seeded(Net).double(), images(2, 3, 8, 8).double(), images(3, 2, 3, 8, 8, seed=4).double()
    spread = torch.stack([0.1 * (image.max() - image.min()) for image in x])[:, None, None, None]
    expected = torch.stack([input_gradient(net)(x + spread * each, 1) for each in noise]).mean(0)
    torch.testing.assert_close(smooth_grad(net, std=0.1, noise=noise)(x, 1), expected)
    drawn = smooth_grad(net, samples=4, std=0.0, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn(x), input_gradient(net)(x))


def test_noise_is_reproducible_and_leaves_the_global_state_alone() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    before = torch.get_rng_state()
    runs = [smooth_grad(net, samples=2, generator=torch.Generator().manual_seed(s))(x, 1) for s in (1, 1, 2)]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])


# ------------------------------------------------------------------------------------------------- integrated gradients


class Power(nn.Module):
    def __init__(self, exponent: int) -> None:
        super().__init__()
        self.exponent = exponent

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True) ** self.exponent


@pytest.mark.parametrize("exponent", [1, 2, 5, 6])
def test_polynomials_are_integrated_exactly(exponent: int) -> None:
    x, start = images(4, 3, dtype=torch.float64), images(3, dtype=torch.float64, seed=8)
    found = integrated_gradients(Power(exponent), baseline=start, steps=3)(x, 0)
    rise = x.sum(1) ** exponent - start.sum() ** exponent
    expected = (x - start) * (rise / (x - start).sum(1))[:, None]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_the_papers_sum_takes_the_right_ends() -> None:
    found = integrated_gradients(Power(2), steps=4, rule="riemann")(torch.tensor([[1.0, 2.0]]), 0)
    torch.testing.assert_close(found, torch.tensor([[6.0, 12.0]]) * (1 + 2 + 3 + 4) / 4 / 4)


def test_shares_sum_to_the_rise_of_the_score() -> None:
    net = seeded(lambda: Layered(torch.tanh)).double()
    x, classes = images(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    rise = (net(x) - net(torch.full_like(x, 0.3))).gather(1, classes[:, None])[:, 0].detach()
    shares = integrated_gradients(net, baseline=0.3)(x, classes)
    torch.testing.assert_close(shares.sum(1), rise, rtol=1e-10, atol=1e-10)
    rough = [
        (integrated_gradients(net, baseline=0.3, steps=steps, rule="riemann")(x, classes).sum(1) - rise).abs().max()
        for steps in (50, 100)
    ]
    assert 1.8 < rough[0] / rough[1] < 2.2


def test_shares_of_a_relu_network_sum_nearly_to_the_rise() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    rise = (net(x) - net(torch.zeros_like(x)))[:, 2].detach()
    shares = integrated_gradients(net, steps=64)(x, 2).flatten(1).sum(1)
    torch.testing.assert_close(shares, rise, rtol=1e-2, atol=1e-3)


def test_the_top_class_is_that_of_the_image() -> None:
    net, x = seeded(Layered), 5 * images(8, 5)
    top = net(x).argmax(1)
    assert (net(0 * x).argmax(1) != top).any()
    torch.testing.assert_close(integrated_gradients(net)(x), integrated_gradients(net)(x, top))


def test_refusals_name_what_works() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    with pytest.raises(ValueError, match="steps: expected a whole number from 1, got 0"):
        integrated_gradients(net, steps=0)
    with pytest.raises(ValueError, match="'gauss' or 'riemann', got 'simpson'"):
        integrated_gradients(net, rule="simpson")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="broadcasts against the image"):
        integrated_gradients(net, baseline=torch.zeros(7))(x, 1)
    with pytest.raises(ValueError, match=r"smooth_grad: expected one of generator and noise.*smooth_grad\(model"):
        smooth_grad(net)
    with pytest.raises(ValueError, match="no layer 'nowhere'"):
        guided_grad_cam(net, "nowhere")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_relus_in_torchscript_are_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), torch.jit.script(nn.ReLU()), nn.Flatten(), nn.LazyLinear(5))
    net(torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="guided_backprop: '1' is a TorchScript module"):
        guided_backprop(net)
