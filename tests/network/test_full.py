"""FullGrad: completeness on real architectures, terms against autograd in biases of their own, maps against loops."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from camfn import CamfnError
from camfn.network import (
    FullGradients,
    full_grad,
    full_gradients,
    guided_backprop,
    simple_full_grad,
    smooth_full_grad,
)
from tests.nets.small import Net, Shared, images, seeded, unchanged
from tests.network.cases import SIZES, Plain
from tests.oracles import network as oracles_network


def terms_by_hand(net: Plain, x: Tensor, classes: Tensor, dims: int) -> dict[str, Tensor]:
    """Products of each bias and its derivative, from a forward in which every position has a bias of its own."""
    convolve: Any = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[dims]
    wide: Any = lambda b: b.detach().double().reshape(1, -1, *(1,) * dims)  # noqa: E731
    norm: Any = net.norm
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    x = x.double().requires_grad_()
    biases = {}

    def biased(name: str, y: Tensor, b: Tensor) -> Tensor:
        biases[name] = b.expand_as(y).clone().requires_grad_()
        return y + biases[name]

    y = biased("first", convolve(x, net.first.weight.double(), stride=2, padding=1), wide(net.first.bias))
    y = biased("norm", y * wide(scale), wide(norm.bias - norm.running_mean * scale)).relu()
    y = biased("second", convolve(y, net.second.weight.double()), wide(net.second.bias)).relu()
    y = y.flatten(2).mean(2) @ net.head.weight.double().mT
    y = biased("head", y, net.head.bias.detach().double()[None])
    leaves = {"input": x, **biases}
    grads = torch.autograd.grad(y.gather(1, classes[:, None]).sum(), list(leaves.values()))
    return {name: (leaf * grad).detach() for (name, leaf), grad in zip(leaves.items(), grads)}


# -------------------------------------------------------------------------------------------------------- completeness


def architecture(name: str) -> tuple[nn.Module, Tensor]:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, **options)
        x = torch.randn(2, 3, 96 if name == "inception_v3" else 64, 96 if name == "inception_v3" else 64)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for module in norms:
            nn.init.normal_(module.bias, std=0.3)
            module.train().momentum = 1.0
        with torch.no_grad():
            model.eval()
            for module in norms:
                module.train()
            model(torch.randn(4, *x.shape[1:]))
        for bias in (p for key, p in model.named_parameters() if key.endswith("bias")):
            nn.init.normal_(bias, std=0.3)
    return model.eval(), x


@pytest.mark.parametrize(
    "name", ["vgg11", "vgg11_bn", "resnet18", "resnet50", "densenet121", "googlenet", "inception_v3", "mobilenet_v2"]
)
def test_the_terms_sum_to_the_score(name: str) -> None:
    model, x = architecture(name)
    with unchanged(model):
        full = full_gradients(model)(x)
    torch.testing.assert_close(full.total, full.score, rtol=1e-5, atol=0)
    biases = torch.stack([term.flatten(1).sum(1).abs() for term in full.biases.values()]).sum(0)
    assert (biases > 0.1 * full.score.abs()).all(), "the biases hardly count, so little was tested"


def test_smooth_activations_and_normalizations_have_implicit_biases() -> None:
    model, x = architecture("convnext_tiny")
    assert (full_gradients(model)(x).completeness_gap.abs() > 1e-2).all()
    full = full_gradients(model, implicit=True)(x)
    torch.testing.assert_close(full.total, full.score, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "activation",
    [nn.SiLU(inplace=True), nn.GELU(), nn.Hardswish(inplace=True), nn.Tanh(), nn.ELU(), nn.Softplus(), nn.Sigmoid(),
     nn.Mish(), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LayerNorm(6),
     nn.Softmax(1), nn.Threshold(0.1, 1.0)],
    ids=lambda module: type(module).__name__,
)  # fmt: skip
def test_implicit_biases_are_exact(activation: nn.Module) -> None:
    net = seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(32, 3))
    )
    net, x = net.double(), images(2, 3, 8, 8, dtype=torch.float64)
    full = full_gradients(net, implicit=True)(x, 1)
    torch.testing.assert_close(full.total, full.score, rtol=1e-12, atol=1e-12)
    assert list(full.biases) == ["0", "1", "2", "4"]
    assert (full_gradients(net)(x, 1).completeness_gap.abs() > 1e-6).all()


def test_clipped_relus_always_count() -> None:
    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(inplace=True), nn.Flatten(), nn.Linear(144, 3)))
    x = 20 * images(2, 3, 8, 8)
    full = full_gradients(net)(x, 1)
    assert full.biases["1"].any()
    torch.testing.assert_close(full.total, full.score, rtol=1e-5, atol=1e-5)


class Fused(nn.BatchNorm2d):
    """A BatchNorm that activates what it returns, as timm has them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def test_a_batch_norm_of_another_forward_and_one_without_affine() -> None:
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), Fused(4), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(144, 3)
        )
    )
    full = full_gradients(net)(images(2, 3, 8, 8), 1)
    torch.testing.assert_close(full.total, full.score, rtol=1e-5, atol=1e-6)


def test_layers_that_run_twice_or_never() -> None:
    net = seeded(Shared).double()
    full = full_gradients(net)(images(2, 3, 8, 8, dtype=torch.float64), 1)
    assert list(full.biases) == ["stem", "twice", "twice#2", "pair.conv", "head"]
    torch.testing.assert_close(full.total, full.score, rtol=1e-12, atol=1e-12)


def test_a_bias_added_by_a_function_is_the_gap() -> None:
    class Functional(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.tensor([1.0, 2.0, 3.0, 4.0])

    gap = full_gradients(seeded(Functional))(images(2, 3, 7, 6), torch.tensor([0, 2])).completeness_gap
    torch.testing.assert_close(gap, torch.tensor([1.0, 3.0]), rtol=0, atol=1e-5)


def test_a_network_without_biases_is_its_input_term() -> None:
    net = seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3, bias=False))
    )
    x = images(2, 3, 8, 8)
    full = full_gradients(net)(x, 1)
    assert not full.biases
    torch.testing.assert_close((full.input_grad * x).flatten(1).sum(1), net(x)[:, 1].detach(), rtol=1e-4, atol=1e-5)
    expected = oracles_network.full_grad([full.input_grad * x], (8, 8)).float()
    torch.testing.assert_close(full_grad(net)(x, 1), expected, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- terms and maps


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_terms_and_maps_are_those_of_the_loops(dims: int) -> None:
    net, x, classes = seeded(partial(Plain, dims)), images(2, 3, *SIZES[dims]), torch.tensor([1, 3])
    expected = terms_by_hand(net, x, classes, dims)  # type: ignore[arg-type]
    with unchanged(net):
        full = full_gradients(net)(x, classes)
    assert list(full.biases) == ["first", "norm", "second", "head"]
    for name, term in {"input": full.input_grad * full.image, **full.biases}.items():
        torch.testing.assert_close(term.double(), expected[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(full.outputs, net(x).detach())
    torch.testing.assert_close(full.score, net(x).gather(1, classes[:, None])[:, 0].detach())
    maps = [term for name, term in expected.items() if name != "head"]
    for align_corners in (False, True):
        want = oracles_network.full_grad(maps, SIZES[dims], align_corners).float()
        got = full_grad(net, align_corners=align_corners)(x, classes)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_simple_full_grad_takes_gradients() -> None:
    net, x = seeded(Plain).double(), images(2, 3, 7, 6, dtype=torch.float64)
    full = full_gradients(net)(x, 1)
    first: Any = net.get_submodule("first")
    second: Any = net.get_submodule("second")
    norm: Any = net.norm
    bias = norm.bias - norm.running_mean * norm.weight / (norm.running_var + norm.eps).sqrt()
    biases = {"first": first.bias, "norm": bias, "second": second.bias}
    gradients = [full.biases[name] / bias[:, None, None] for name, bias in biases.items()] + [full.input_grad * x]
    expected = oracles_network.full_grad([term.detach() for term in gradients], (7, 6))
    torch.testing.assert_close(simple_full_grad(net)(x, 1), expected, rtol=1e-8, atol=1e-8)


def test_smooth_full_grad_averages_terms_with_their_sign() -> None:
    net, x = seeded(Plain).double(), images(2, 3, 7, 6, dtype=torch.float64)
    noise = images(3, 2, 3, 7, 6, dtype=torch.float64, seed=5)
    spread = torch.stack([0.2 * (image.max() - image.min()) for image in x])[:, None, None, None]
    runs = [full_gradients(net)(x + spread * each, 1) for each in noise]
    terms = [torch.stack([run.input_grad * run.image for run in runs]).mean(0)]
    terms += [torch.stack([run.biases[key] for run in runs]).mean(0) for key in ("first", "norm", "second")]
    expected = oracles_network.full_grad(terms, (7, 6))
    torch.testing.assert_close(smooth_full_grad(net, std=0.2, noise=noise)(x, 1), expected, rtol=1e-8, atol=1e-8)


def test_smooth_full_grad_without_noise_is_full_grad() -> None:
    net, x = seeded(Plain), images(2, 3, 7, 6)
    silent = smooth_full_grad(net, samples=3, std=0.0, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(silent(x), full_grad(net)(x))


def test_smooth_full_grad_explains_the_top_class_of_the_clean_image() -> None:
    net, x, noise = seeded(Plain), images(2, 3, 7, 6), 3 * images(4, 2, 3, 7, 6, seed=7)
    top = net(x).argmax(1)
    assert any((net(x + 6 * each).argmax(1) != top).any() for each in noise)
    explain = smooth_full_grad(net, std=1.0, noise=noise)
    torch.testing.assert_close(explain(x), explain(x, top))


def test_a_layer_of_one_value_adds_nothing() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(x).sum((2, 3))
            return out

    net, x = seeded(Flat), images(1, 1, 3, 3)
    sizes = (x * net.conv.weight).abs().detach()[0]  # type: ignore[union-attr,operator]
    expected = (sizes - sizes.min()) / (sizes.max() - sizes.min())
    torch.testing.assert_close(full_grad(net)(x, 0), expected)


# -------------------------------------------------------------------------------------------------------------- errors


def test_refusals_name_what_works() -> None:
    x = images(2, 3, 8, 8)
    net = seeded(Net)
    with unchanged(net), pytest.raises(ValueError, match="one of generator and noise, got neither"):
        smooth_full_grad(net)
    with pytest.raises(ValueError, match="got both"):
        smooth_full_grad(net, noise=x[None], generator=torch.Generator())
    with pytest.raises(ValueError, match="samples: expected a whole number from 1"):
        smooth_full_grad(net, samples=0, generator=torch.Generator())
    with pytest.raises(ValueError, match="std"):
        smooth_full_grad(net, std=-1, noise=x[None])
    with pytest.raises(ValueError, match="each noise"):
        smooth_full_grad(net, noise=x)(x)
    training = seeded(Net).train()
    with unchanged(training), pytest.raises(ValueError, match=r"model\.eval\(\)"):
        full_grad(training)(x)
    with pytest.raises(TypeError, match="no floating-point tensor"):
        full_grad(net)(torch.zeros(2, 3, 8, 8, dtype=torch.long))
    with pytest.raises(ValueError, match="one to three spatial dimensions"):
        full_grad(nn.Linear(4, 3))(torch.ones(2, 4), 0)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        full_grad(lambda x: x)  # type: ignore[arg-type]


def test_the_decomposition_of_vectors_needs_no_space() -> None:
    net = seeded(lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)))
    full: FullGradients = full_gradients(net)(images(2, 4), 0)
    torch.testing.assert_close(full.total, full.score, rtol=1e-5, atol=1e-6)


def test_nothing_of_the_graph_is_kept() -> None:
    full = full_gradients(seeded(Net))(images(2, 3, 8, 8).requires_grad_(), 0)
    assert not any(value.requires_grad for value in [full.outputs, full.score, full.input_grad, *full.biases.values()])


def test_biases_that_are_offloaded_are_refused() -> None:
    """They are on meta but while a module runs, and a map of them is nonsense."""
    accelerate = pytest.importorskip("accelerate")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    x, net = torch.rand(1, 3, 8, 8), net.eval()
    expected = guided_backprop(net)(x, 1)
    offloaded = accelerate.cpu_offload(net, execution_device="cpu")
    torch.testing.assert_close(guided_backprop(offloaded)(x, 1), expected)
    with pytest.raises(CamfnError, match="is offloaded and not at hand"):
        full_grad(offloaded)(x, 1)
