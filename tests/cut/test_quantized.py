"""Networks quantized statically: methods without gradients run, and every other is refused by name."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CaptureError, capture, capture_each, explainer, layers, methods, observe, resume
from tests.nets.small import images, unchanged
from tests.oracles import methods as simple
from tests.oracles import perturbation as oracles

if not torch.backends.quantized.supported_engines or torch.backends.quantized.engine == "none":
    pytest.skip("no quantized kernels here", allow_module_level=True)


class Small(nn.Module):
    """Two blocks, a sum of branches, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU())
        self.plus = torch.ao.nn.quantized.FloatFunctional()
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.quant(x))
        x = self.plus.add(x, self.body(x))
        logits: Tensor = self.dequant(self.head(x.mean((2, 3))))
        return logits


def eager() -> nn.Module:
    """Quantize with stubs, as torchvision's `quantization.resnet18` is."""
    net = Small().eval()
    net.qconfig = torch.ao.quantization.get_default_qconfig(torch.backends.quantized.engine)  # type: ignore[no-untyped-call]
    prepared = torch.ao.quantization.prepare(net)  # type: ignore[no-untyped-call]
    prepared(images(4, 3, 12, 10))
    made: nn.Module = torch.ao.quantization.convert(prepared)  # type: ignore[no-untyped-call]
    return made


def traced() -> nn.Module:
    """Quantize the traced graph."""
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    plain = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    ).eval()
    prepared = prepare_fx(plain, get_default_qconfig_mapping(torch.backends.quantized.engine), (images(4, 3, 12, 10),))
    prepared(images(4, 3, 12, 10))
    made: nn.Module = convert_fx(prepared)
    return made.eval()


NETS = {"eager": (eager, "stem"), "traced": (traced, "1.0")}


@pytest.fixture(params=NETS)
def quantized(request: pytest.FixtureRequest) -> tuple[nn.Module, str]:
    make, layer = NETS[request.param]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(), layer


def score(outputs: Tensor) -> Tensor:
    return outputs[:, 2]


def test_activations_are_floats_and_the_tail_gives_the_outputs(quantized: tuple[nn.Module, str]) -> None:
    net, layer = quantized
    x = images(2, 3, 12, 10)
    with unchanged(net):
        activations, outputs = observe(net, layer)(x)
        tail = resume(net, layer)(x)
    assert activations.dtype is torch.float32
    assert outputs.shape == (2, 5)
    assert torch.equal(tail(activations), net(x))


def by_hook(net: nn.Module, layer: str, x: Tensor) -> Any:
    """The network after the layer, whose output a hook replaces by a quantized one."""

    def tail(activations: Tensor) -> Tensor:
        def replace(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            scale, zero = output.q_scale(), output.q_zero_point()
            # as the layer lays out its own: a mean is rounded otherwise in another order
            own = output.dequantize().copy_(activations)
            return torch.quantize_per_tensor(own, scale, zero, output.dtype)

        handle = net.get_submodule(layer).register_forward_hook(replace)
        with torch.no_grad():
            scores = score(net(x))
        handle.remove()
        return scores

    return tail


@pytest.mark.parametrize("name", ["ablation_cam", "recipro_cam", "score_cam", "rise"])
def test_methods_without_gradients_are_their_loops(quantized: tuple[nn.Module, str], name: str) -> None:
    net, layer = quantized
    x, masks = images(1, 3, 12, 10), (images(5, 12, 10, seed=2) > 0).float()
    # a location alone, for the rounding of a share of it depends on the precision
    every: dict[str, dict[str, Any]] = {"rise": {"masks": masks}, "recipro_cam": {"kernel": "point"}}
    options = every.get(name, {})
    engines: set[str] = set()

    def progress(done: int, total: int, *, engine: str) -> None:
        engines.add(engine)

    with unchanged(net):
        found = explainer(partial(getattr(methods, name), **options), net, layer, progress=progress)(x, 2)
    activations, _ = observe(net, layer)(x)
    context: dict[str, Any] = {"tail": by_hook(net, layer, x)}
    if name in ("score_cam", "rise"):
        context = {"forward": lambda x: score(net(x.float())), "inputs": x}
    if name == "rise":
        activations = context.pop("inputs")
    room = oracles if hasattr(oracles, name) else simple
    expected = getattr(room, name)(activations, activations, **context, **options)
    # where a sum is rounded otherwise in a larger batch, and so to another integer, the rows run one by one
    assert engines <= {"folded", "one by one"}
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=1e-5)


def test_eigen_cam(quantized: tuple[nn.Module, str]) -> None:
    net, layer = quantized
    x = images(2, 3, 12, 10)
    found = explainer(methods.eigen_cam, net, layer)(x, 2)
    torch.testing.assert_close(found, methods.eigen_cam(observe(net, layer)(x)[0]))


GRADIENTS = ["grad_cam", "layer_cam", "fd_cam", "group_cam", "lift_cam", "shapley_cam", "opti_cam"]


@pytest.mark.parametrize("name", GRADIENTS)
def test_methods_with_gradients_are_refused_by_name(quantized: tuple[nn.Module, str], name: str) -> None:
    net, layer = quantized
    with pytest.raises(CaptureError, match=r"quantized.*method without gradients \(ablation_cam, recipro_cam"):
        explainer(getattr(methods, name), net, layer)(images(2, 3, 12, 10), 2)


def test_captures_are_refused(quantized: tuple[nn.Module, str]) -> None:
    net, layer = quantized
    for run in (capture(net, layer), lambda x, target: capture_each(net, layer)(x, [target])):
        with pytest.raises(CaptureError, match=r"returns torch.quint8, a quantized tensor"):
            run(images(2, 3, 12, 10), 2)


def test_a_layer_is_suggested(quantized: tuple[nn.Module, str]) -> None:
    net, _ = quantized
    with unchanged(net):
        found = layers.suggest(net, images(1, 3, 12, 10))
    assert found[0].spatial == (6, 5)
    assert explainer(methods.recipro_cam, net, found[0].name)(images(1, 3, 12, 10), 1).shape == (1, 6, 5)
