"""One image before a transformer: PyTorch's backward of `batch_norm` is wrong there on the CPU, and camfn's is not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camfn import capture, capture_each, network, resume
from camfn.methods import grad_cam


class Affine(nn.Module):
    """BatchNorm or InstanceNorm in arithmetic, with the weights of a norm."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        norm, shape = self.norm, (1, -1, *[1] * (x.ndim - 2))
        if isinstance(norm, nn.modules.instancenorm._InstanceNorm):
            axes = tuple(range(2, x.ndim))
            mean, var = x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)
        elif norm.training:
            axes = (0, *range(2, x.ndim))
            mean, var = x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)
        else:
            mean, var = norm.running_mean.view(shape), norm.running_var.view(shape)
        out = (x - mean) / (var + norm.eps).sqrt() * norm.weight.view(shape) + norm.bias.view(shape)
        return torch.as_tensor(out)


class Functional(nn.Module):
    """A module of the user's that calls `batch_norm` itself."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        return functional.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.1, norm.eps
        )


class Stem(nn.Module):
    """Convolution and norm, then tokens, a transformer's layer; then the tokens as an image again, and a norm of it."""

    def __init__(self, norm: Callable[[Any], nn.Module], kind: Any, dimensions: int = 2) -> None:
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        self.conv = convolution(3, 8, 3, padding=1)
        self.norm = norm(kind(8, affine=True))
        self.act = nn.ReLU(inplace=True)
        self.token_norm = nn.LayerNorm(8)
        self.mix = nn.Linear(8, 8)
        self.late = norm(kind(8, affine=True))
        self.head = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.norm(self.act(self.conv(x)))
        tokens = self.token_norm(maps.flatten(2).permute(0, 2, 1))
        tokens = tokens + self.mix(tokens).tanh()
        again = tokens.permute(0, 2, 1).unflatten(-1, maps.shape[2:])
        # the gradient of a flattened map is contiguous, whatever the map is
        y: Tensor = self.head(self.late(again).flatten(1))
        return y


BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
SIZES = ((9,), (5, 6), (3, 4, 5))


def images(dimensions: int, samples: int = 1) -> Tensor:
    return torch.randn(samples, 3, *SIZES[dimensions - 1], generator=torch.Generator().manual_seed(1)).double()


def pair(kind: Any, wrap: Callable[[Any], nn.Module], dimensions: int = 2, training: bool = False) -> tuple[Stem, Stem]:
    """A network with a framework's norm, and the same with the norm in arithmetic."""
    torch.manual_seed(0)
    net = Stem(wrap, kind, dimensions).double().eval()
    net(images(dimensions))
    for module in net.modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    oracle = Stem(Affine, kind, dimensions).double().eval()
    oracle(images(dimensions))
    oracle.load_state_dict(
        {k: v for k, v in net.state_dict().items() if "norm" not in k and "late" not in k}, strict=False
    )
    oracle.token_norm.load_state_dict(net.token_norm.state_dict())
    for name in ("norm", "late"):
        own: Any = net.get_submodule(name)
        getattr(oracle, name).norm = getattr(own, "norm", own)
    return net.train(training), oracle.train(training)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kinds", [BATCH, INSTANCE], ids=["batch", "instance"])
@pytest.mark.parametrize("layer", ["conv", "norm", "act", "mix", "late"])
def test_capture_is_right_for_one_image(kinds: Any, dimensions: int, training: bool, layer: str) -> None:
    net, oracle = pair(kinds[dimensions - 1], lambda norm: norm, dimensions, training)
    for samples in (1, 2):
        x = images(dimensions, samples)
        layout = None
        got, want = (capture(model, layer, layout=layout)(x, 1) for model in (net, oracle))
        torch.testing.assert_close(got.activations, want.activations)
        torch.testing.assert_close(got.grads, want.grads)


def wrappers() -> dict[str, Callable[[Any], nn.Module]]:
    return {"module": lambda norm: norm, "functional": Functional, "nested": nn.Sequential}


@pytest.mark.parametrize("wrap", wrappers())
def test_every_path_is_right(wrap: str) -> None:
    net, oracle = pair(nn.BatchNorm2d, wrappers()[wrap])
    if wrap == "nested":
        for name in ("norm", "late"):
            getattr(oracle, name).norm = net.get_submodule(name)[0]  # type: ignore[index]
    x = images(2)

    def maps(model: nn.Module) -> dict[str, Any]:
        run = capture(model, "conv", layout=None)
        tail = resume(model, "conv", layout=None)(x)
        activations = run(x, 0).activations
        differentiable = capture(model, "conv", layout=None, differentiable=True)
        return {
            "each": capture_each(model, "conv", layout=None)(x, [0, 2]).grads,
            "vmap": torch.vmap(lambda t: run(x, t).grads)(torch.arange(3)),
            "tail by torch.func": torch.func.grad(lambda a: tail(a)[0, 1])(activations),
            "tail by autograd": torch.autograd.grad(tail(at := activations.clone().requires_grad_())[0, 1], at)[0],
            "input_gradient": network.input_gradient(model)(x, 1),
            "of a map": torch.func.grad(lambda x: grad_cam(*differentiable(x, 1)).square().sum())(x),
            "of outputs": torch.autograd.grad(differentiable(at := x.clone().requires_grad_(), 1).grads.sum(), at)[0],
        }

    got, want = maps(net), maps(oracle)
    for name in want:
        torch.testing.assert_close(got[name], want[name], msg=name)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.InstanceNorm2d])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_code_is_right(backend: str, kind: Any, training: bool) -> None:
    torch._dynamo.reset()
    net, oracle = pair(kind, lambda norm: norm, training=training)
    run = capture(net, "conv", layout=None)
    compiled = torch.compile(lambda x: run(x, 1).grads, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(images(2)), capture(oracle, "conv", layout=None)(images(2), 1).grads)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize(
    ("kind", "training"), [(nn.BatchNorm2d, True), (nn.BatchNorm2d, False), (nn.InstanceNorm2d, False)]
)
def test_tails_in_reverse_over_forward_mode(kind: Any, training: bool, samples: int) -> None:
    net, oracle = pair(kind, lambda norm: norm, training=training)
    x = images(2, samples)
    at = capture(oracle, "conv", layout=None)(x, 1).activations

    def second(model: nn.Module) -> Any:
        tail = resume(model, "conv", layout=None)(x)
        return torch.func.grad(lambda a: torch.func.jvp(lambda b: tail(b).pow(3).sum(), (a,), (at.sin(),))[1])(at)

    torch.testing.assert_close(second(net), second(oracle))


def test_buffers_that_are_tied_in_training() -> None:
    net, oracle = pair(nn.BatchNorm2d, lambda norm: norm, training=True)
    net.late.running_mean = net.norm.running_mean
    before = net.state_dict()["norm.running_mean"].clone()
    got, want = (capture(model, "conv", layout=None)(images(2), 1).grads for model in (net, oracle))
    torch.testing.assert_close(got, want)
    assert torch.equal(net.state_dict()["norm.running_mean"], before)


def test_the_fault_is_there_without_camfn() -> None:
    """When this fails, PyTorch is mended, and `camfn/_cut/batch_norm.py` can go."""
    net, oracle = pair(nn.BatchNorm2d, lambda norm: norm)
    grads = [torch.autograd.grad(model(x := images(2).requires_grad_())[0, 1], x)[0] for model in (net, oracle)]
    assert (grads[0] - grads[1]).abs().max() > 0.1 * grads[1].abs().max()


def laid_out(x: Tensor, how: str) -> Tensor:
    """The same numbers in another order of memory."""
    if how == "channels last":
        return x.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)
    if how == "tokens":
        return x.flatten(2).permute(0, 2, 1).contiguous().permute(0, 2, 1).reshape(x.shape)
    if how == "sliced":
        return torch.stack([x, x], -1)[..., 0]
    if how == "turned":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    return x.contiguous()


LAYOUTS = ("contiguous", "channels last", "tokens", "sliced", "turned")


def layer_types() -> dict[str, nn.Module]:
    """Every kind of layer in the zoo that takes (B, 8, 6, 6)."""
    return {
        "Conv2d": nn.Conv2d(8, 8, 3, padding=1), "depthwise": nn.Conv2d(8, 8, 3, groups=8), "1x1": nn.Conv2d(8, 4, 1),
        "strided": nn.Conv2d(8, 8, 3, stride=2), "dilated": nn.Conv2d(8, 8, 3, dilation=2),
        "ConvTranspose2d": nn.ConvTranspose2d(8, 4, 2, stride=2), "BatchNorm2d": nn.BatchNorm2d(8).eval(),
        "BatchNorm2d training": nn.BatchNorm2d(8, track_running_stats=False),
        "InstanceNorm2d": nn.InstanceNorm2d(8, affine=True), "GroupNorm": nn.GroupNorm(2, 8),
        "LayerNorm of maps": nn.LayerNorm([8, 6, 6]), "LocalResponseNorm": nn.LocalResponseNorm(3),
        "MaxPool2d": nn.MaxPool2d(2), "AvgPool2d": nn.AvgPool2d(3, 2, 1), "AdaptiveAvgPool2d": nn.AdaptiveAvgPool2d(2),
        "AdaptiveMaxPool2d": nn.AdaptiveMaxPool2d(2), "LPPool2d": nn.LPPool2d(2, 2),
        "nearest": nn.Upsample(scale_factor=2), "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
        "bicubic": nn.Upsample(scale_factor=1.5, mode="bicubic"), "PixelShuffle": nn.PixelShuffle(2),
        "PixelUnshuffle": nn.PixelUnshuffle(2), "ChannelShuffle": nn.ChannelShuffle(2), "Unfold": nn.Unfold(3),
        "ReflectionPad2d": nn.ReflectionPad2d(1), "ReplicationPad2d": nn.ReplicationPad2d(1), "ReLU": nn.ReLU(),
        "GELU": nn.GELU(), "SiLU": nn.SiLU(), "Hardswish": nn.Hardswish(), "PReLU": nn.PReLU(8), "Mish": nn.Mish(),
        "Softmax2d": nn.Softmax2d(), "GLU": nn.GLU(1), "ELU": nn.ELU(), "LeakyReLU": nn.LeakyReLU(),
        "Sigmoid": nn.Sigmoid(), "Linear": nn.Linear(6, 5), "LayerNorm": nn.LayerNorm(6),
    }  # fmt: skip


@pytest.mark.sweep
@pytest.mark.parametrize("name", layer_types())
def test_the_derivative_of_no_other_layer_depends_on_strides(name: str) -> None:
    """Each layer, in each layout of its input and of the gradient, for one and two images, against contiguous ones."""
    torch.manual_seed(0)
    layer: Any = layer_types()[name]
    wrapped = nn.Sequential(nn.Identity(), layer)
    for dtype, samples in itertools.product((torch.float32, torch.float64), (1, 2)):
        layer.to(dtype)
        x = torch.randn(samples, 8, 6, 6, dtype=dtype)
        g = torch.randn_like(layer(x))
        rtol, atol = (1e-4, 1e-5) if dtype == torch.float32 else (1e-9, 1e-10)
        want = torch.func.vjp(layer, x)[1](g)[0] if name != "BatchNorm2d" else None
        for of_x, of_g in itertools.product(LAYOUTS, LAYOUTS if g.ndim == 4 else LAYOUTS[:1]):
            changed = laid_out(g, of_g)
            score = lambda out, changed=changed: (out * changed).flatten(1).sum(1)  # noqa: E731
            grads = capture(wrapped, "0", layout=None)(laid_out(x, of_x), score).grads
            if want is None:
                want = grads
            torch.testing.assert_close(grads, want, rtol=rtol, atol=atol, msg=f"{of_x}, {of_g}")
