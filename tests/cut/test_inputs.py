"""What models are wrapped in, called with and return; layers that run several times; parts without derivatives."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vjp, vmap

from camfn import (
    CaptureError,
    capture,
    capture_each,
    capture_levels,
    explainer,
    methods,
    network,
    observe,
    resume,
)
from camfn._shared.errors import DerivativeError
from camfn.layers import suggest
from camfn.methods import ablation_cam, eigen_cam, grad_cam, hires_cam
from tests.nets.small import Net, images, reference, seeded, unchanged

X = images(2, 3, 8, 8)


def same(got: Any, want: Any) -> None:
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)


# ------------------------------------------------------------------------------------------------------ several runs


class Recurrent(nn.Module):
    """One convolution in a loop, with an activation that writes in place, shared by all rounds and by the stem."""

    def __init__(self, rounds: int = 3) -> None:
        super().__init__()
        self.rounds = rounds
        self.stem, self.step, self.act = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x) + 0.5)
        for _ in range(self.rounds):
            x = x + self.act(self.step(x) + 0.1)
        y: Tensor = self.head(x.square().mean((2, 3)))
        return y


class Unrolled(nn.Module):
    """The same with a module for each run, that share their parameters."""

    def __init__(self, net: Recurrent) -> None:
        super().__init__()
        self.stem, self.head, self.act = net.stem, net.head, nn.ReLU()
        self.steps = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(net.rounds)])
        for step in self.steps:
            step.load_state_dict(net.step.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x) + 0.5)
        for step in self.steps:
            x = x + self.act(step(x) + 0.1)
        y: Tensor = self.head(x.square().mean((2, 3)))
        return y


@pytest.mark.parametrize("call", [0, 1, 2, -1, -3])
def test_one_of_several_runs(call: int) -> None:
    net = seeded(Recurrent)
    assert isinstance(net, Recurrent)
    apart = Unrolled(net)
    name = f"steps.{call % 3}"
    want = capture(apart, name)(X, 1)
    with unchanged(net):
        same(capture(net, "step", call=call)(X, 1), want)
        assert torch.equal(observe(net, "step", call=call)(X)[0], want.activations)
        tail, expected = resume(net, "step", call=call)(X), resume(apart, name)(X)
        changed = want.activations * torch.tensor([0.5, 2.0]).reshape(2, 1, 1, 1)
        torch.testing.assert_close(tail(want.activations), want.outputs)
        torch.testing.assert_close(tail(changed), expected(changed))
        rows = torch.stack([changed, want.activations, -changed])
        torch.testing.assert_close(vmap(tail)(rows), torch.stack([expected(row) for row in rows]))
        for method in (grad_cam, ablation_cam):
            cam = explainer(method, net, "step", call=call)(X, 1)
            torch.testing.assert_close(cam, explainer(method, apart, name)(X, 1))


def test_all_runs_along_the_channels() -> None:
    net = seeded(Recurrent)
    runs = [capture(net, "step", call=i)(X, 1) for i in range(3)]
    joined = capture(net, "step", call="all")(X, 1)
    for side in range(2):
        torch.testing.assert_close(joined[side], torch.cat([run[side] for run in runs], 1))
    for method in (grad_cam, hires_cam):
        torch.testing.assert_close(method(*joined), sum(method(*run) for run in runs))
    tail = resume(net, "step", call="all")(X)
    torch.testing.assert_close(tail(joined.activations), joined.outputs)
    # the last run decides alone what follows it, but for what passes by
    other = torch.cat([joined.activations[:, :8], -joined.activations[:, 8:]], 1)
    torch.testing.assert_close(tail(other), resume(net, "step", call=2)(X)(-joined.activations[:, 8:]))


def test_an_activation_that_all_share() -> None:
    """In place, and before the cut too: the earlier runs' writes are a part of what is replayed."""
    net = seeded(Recurrent)
    for call in range(4):
        activations, _, outputs = capture(net, "act", call=call)(X, 1)
        torch.testing.assert_close(resume(net, "act", call=call)(X)(activations), outputs)


def test_runs_are_refused() -> None:
    net = seeded(Recurrent)
    with pytest.raises(CaptureError, match=r"'step' ran 3 times.*call=0 to call=2, or call='all'"):
        capture(net, "step")(X, 1)
    for call in (3, -4):
        with pytest.raises(CaptureError, match=f"call={call} is out of range: layer 'step' ran 3 times"):
            capture(net, "step", call=call)(X, 1)
        with pytest.raises(CaptureError, match=f"call={call} is out of range"):
            resume(net, "step", call=call)(X)
    with pytest.raises(TypeError, match="call: expected an index of a run of the layer, 'all' or None, got 'last'"):
        capture(net, "step", call="last")(X, 1)  # type: ignore[arg-type]


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(x).mean((2, 3)) + self.head(x[..., ::2, ::2]).mean((2, 3))
        return y


def test_a_head_on_every_level_of_a_pyramid() -> None:
    net = seeded(Pyramid)
    assert capture(net, "head", call=1)(X, 1).grads.shape == (2, 4, 4, 4)
    for run in (capture(net, "head", call="all"), resume(net, "head", call="all")):
        with pytest.raises(CaptureError, match=r"\(2, 4, 8, 8\), \(2, 4, 4, 4\), which cannot be joined"):
            run(X)


# ----------------------------------------------------------------------------------------------------------- wrappers


def test_adapters() -> None:
    """LoRA as peft puts it around a model: two shells, and other layers in the place of some."""
    peft = pytest.importorskip("peft", reason="needs adapters: pip install 'camfn[dev]'")
    net = seeded(Net).requires_grad_(False)
    config = peft.LoraConfig(r=2, target_modules=["head", "stem.0"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = peft.get_peft_model(net, config).eval()
    prefix = "base_model.model."
    want = reference(model, prefix + "blocks.1", lambda m: m(X), lambda y: y[:, 1])
    with unchanged(model):
        same(capture(model, prefix + "blocks.1")(X, 1), [part.detach() for part in want])
        assert suggest(model, X)[0].name == prefix + "blocks.1"
        inside = capture(model, prefix + "stem.0.lora_A.default")(X, 1)
        assert inside.activations.shape[1] == 2
        assert inside.grads.any()
        tail = resume(model, prefix + "blocks.1")(X)
        torch.testing.assert_close(tail(want[0]), want[2].detach())
        cam = explainer(ablation_cam, model, prefix + "blocks.1")(X, 1)
    merged = model.merge_and_unload()
    torch.testing.assert_close(cam, explainer(ablation_cam, merged, "blocks.1")(X, 1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(capture(merged, "blocks.1")(X, 1).grads, want[1], rtol=1e-4, atol=1e-7)


def compiled(net: nn.Module) -> Any:
    return torch.compile(net, backend="eager")


WRAPPED: list[Any] = [
    pytest.param(lambda net: nn.DataParallel(net), "module.", id="DataParallel"),
    pytest.param(lambda net: compiled(net), "_orig_mod.", id="compiled"),
    pytest.param(lambda net: nn.DataParallel(compiled(net)), "module._orig_mod.", id="both"),
]


@pytest.mark.parametrize(("wrap", "prefix"), WRAPPED)
@pytest.mark.parametrize("method", [grad_cam, ablation_cam], ids=lambda m: m.__name__)
def test_wrappers_around_a_model(wrap: Callable[[nn.Module], nn.Module], prefix: str, method: Any) -> None:
    net = seeded(Net)
    model = wrap(net)
    want = explainer(method, net, "blocks.1")(X, 1)
    for layer in ("blocks.1", prefix + "blocks.1", net.get_submodule("blocks.1")):
        torch.testing.assert_close(explainer(method, model, layer)(X, 1), want)
    assert suggest(model, X)[0].name == suggest(net, X)[0].name
    assert torch.equal(capture(model, model, layout=None)(X, 1).activations, net(X))


@pytest.mark.parametrize("layer", ["blocks.1", "blocks.1._orig_mod.bn", "stem"])
def test_one_block_that_is_compiled(layer: str) -> None:
    net, plain = seeded(Net), seeded(Net)
    blocks: Any = net.get_submodule("blocks")
    blocks[1] = compiled(blocks[1])
    want = capture(plain, layer.replace("._orig_mod", ""))(X, 1)
    same(capture(net, layer)(X, 1), want)
    torch.testing.assert_close(resume(net, layer)(X)(want.activations), want.outputs)


def test_a_forward_of_the_instance() -> None:
    """As timm, accelerate and user code set it: a bound method in the place of the class's."""
    net = seeded(Net)
    net.forward = MethodType(lambda self, x: type(self).forward(self, x * 2), net)
    with unchanged(net):
        same(capture(net, "blocks.1")(X, 1), capture(seeded(Net), "blocks.1")(X * 2, 1))


def test_hooks_of_the_user_on_the_way() -> None:
    net = seeded(Net)
    net.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    net.get_submodule("head").register_forward_hook(lambda module, args, output: output * 3)
    plain = capture(seeded(Net), "blocks.1")(X * 2, 1)
    with unchanged(net):
        got = capture(net, "blocks.1")(X, 1)
        torch.testing.assert_close(got.activations, plain.activations)
        torch.testing.assert_close(got.grads, 3 * plain.grads)
        torch.testing.assert_close(resume(net, "blocks.1")(X)(got.activations), 3 * plain.outputs)


# ------------------------------------------------------------------------------------------------- inputs and outputs


class Two(nn.Module):
    """An image and a number a sample; the outputs are put in a container."""

    def __init__(self, container: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.net, self.container = Net(), container

    def forward(self, pixel_values: Tensor, shift: Tensor | None = None) -> Any:
        logits = self.net(pixel_values)
        return self.container(logits if shift is None else logits + shift[:, None], pixel_values.mean((1, 2, 3)))


def dictionary(logits: Tensor, other: Tensor) -> Any:
    return {"other": other, "logits": logits}


def model_output(logits: Tensor, other: Tensor) -> Any:
    from transformers.modeling_outputs import ImageClassifierOutput

    return ImageClassifierOutput(logits=logits, hidden_states=(other,))


SHIFT = torch.tensor([1.0, 2.0])
KINDS: list[Any] = [
    pytest.param((X, SHIFT), id="tuple"),
    pytest.param([X], id="list of one"),
    pytest.param({"pixel_values": X}, id="keyword"),
    pytest.param({"shift": SHIFT, "pixel_values": X}, id="keywords in another order"),
    pytest.param(OrderedDict(pixel_values=X), id="OrderedDict"),
]


@pytest.mark.parametrize("inputs", KINDS)
@pytest.mark.parametrize("container", [dictionary, model_output], ids=lambda f: f.__name__)
@pytest.mark.parametrize("target", [None, 1, [2, 3]], ids=str)
def test_logits_are_found_by_their_name(inputs: Any, container: Any, target: Any) -> None:
    model = seeded(lambda: Two(container))
    captured = capture(model, "net.blocks.1", layout="auto")(inputs, target)
    wanted = captured.outputs["logits"].argmax(1) if target is None else target
    torch.testing.assert_close(captured.grads, capture(model, "net.blocks.1")(inputs, wanted).grads)
    assert explainer(ablation_cam, model, "net.blocks.1")(inputs, target).shape == (2, 4, 4)


def test_a_tuple_of_outputs_takes_a_function() -> None:
    model = seeded(lambda: Two(lambda logits, other: (logits, other)))
    run = capture(model, "net.blocks.1")
    for target in (None, 1):
        with pytest.raises(
            ValueError, match=r"needs logits of shape \(B, K\); the model returned a tuple of 2.*lambda"
        ):
            run(X, target)
    want = capture(model.net, "blocks.1")(X, 1)  # type: ignore[arg-type]
    torch.testing.assert_close(run(X, lambda outputs: outputs[0][:, 1]).grads, want.grads)


class Layered(nn.Module):
    """A layer that returns what a transformer's layers return."""

    class Layer(nn.Module):
        def __init__(self, what: str) -> None:
            super().__init__()
            self.what, self.norm = what, nn.LayerNorm(4)

        def forward(self, x: Tensor) -> Any:
            x = self.norm(x)
            weights = (x @ x.mT).softmax(-1)[:, None]
            found: dict[str, Any] = {
                "none": (x, None),
                "weights": (x, weights),
                "pooled": (x, x.mean(1)),
                "two": (x, x * 2),
                "output": {"last_hidden_state": x, "hidden_states": (x * 2, x * 3)},
            }
            return found[self.what]

    def __init__(self, what: str) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Conv2d(3, 4, 2, 2), self.Layer(what), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(self.embed(x).flatten(2).mT)
        y: Tensor = self.head((out["last_hidden_state"] if isinstance(out, dict) else out[0]).square().mean(1))
        return y


@pytest.mark.parametrize("what", ["none", "weights", "pooled", "output"])
def test_the_map_among_what_a_layer_returns(what: str) -> None:
    model, select = seeded(lambda: Layered(what)), "last_hidden_state" if what == "output" else 0
    want = capture(model, "layer", select=select, layout="auto")(X, 1)
    assert want.activations.shape == (2, 4, 4, 4)
    assert want.grads.any()
    same(capture(model, "layer", layout="auto")(X, 1), want)
    torch.testing.assert_close(resume(model, "layer", layout="auto")(X)(want.activations), want.outputs)


def test_two_that_could_be_the_map() -> None:
    with pytest.raises(CaptureError, match=r"returns a tuple of 2 \(Tensor, Tensor\): say which tensor.*select=0"):
        capture(seeded(lambda: Layered("two")), "layer")(X, 1)


# ----------------------------------------------------------------------------------------------- parts that cannot be


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (X.double(), r"dtype torch.float32, an input .* has dtype torch.float64, .*inputs.to\(torch.float32\)"),
        (X.bfloat16(), r"has dtype torch.bfloat16, .*inputs.to\(torch.float32\)"),
        (X.to("meta"), r"have device cpu, an input .* has device meta, .*inputs.to\('cpu'\)"),
    ],
)
def test_inputs_of_another_dtype_or_device_than_the_parameters(other: Tensor, told: str) -> None:
    net = seeded(Net)
    for run in (
        lambda: capture(net, "blocks.1")(other, 1),
        lambda: explainer(grad_cam, net, "blocks.1")(other, 1),
        lambda: resume(net, "blocks.1")(other),
        lambda: network.input_gradient(net)(other, 1),
    ):
        with pytest.raises(CaptureError, match=told):
            run()
    if not other.is_meta:
        with pytest.raises(CaptureError, match=told):
            suggest(net, other)
    with pytest.raises(RuntimeError, match="expected input"):
        capture(net, "blocks.1")(X[:, :2], 1)


def test_parameters_without_data() -> None:
    net = Net()
    net.head = net.head.to("meta")
    with pytest.raises(CaptureError, match=r"'head.weight' is on the meta device.*offloaded.*to_empty"):
        capture(net, "blocks.1")(X, 1)
    with pytest.raises(CaptureError, match="on the meta device"):
        explainer(grad_cam, net, "blocks.1")(X, 1)
    with pytest.raises(CaptureError, match="on the meta device"):
        suggest(net, X)
    with pytest.raises(CaptureError, match="on the meta device"):
        resume(net, "blocks.1")((X,))
    with pytest.raises(CaptureError, match="on the meta device"):
        network.input_gradient(net)(X, 1)


class Residual(nn.Module):
    """A stem, a convolution, a perceptron beside its input, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Linear(8, 8), nn.Conv2d(3, 4, 3, padding=1)
        self.perceptron, self.head = nn.Linear(4, 4), nn.Conv1d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x)).mean((2, 3))
        y: Tensor = self.head((x + self.perceptron(x).relu())[..., None])[..., 0]
        return y


def quantized(net: nn.Module, *names: str) -> nn.Module:
    """Linear layers of whole numbers, as torch makes them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in favor of a package of its own
        made: nn.Module = torch.ao.quantization.quantize_dynamic(net, set(names))  # type: ignore[no-untyped-call]
    return made


def test_a_quantized_tail() -> None:
    net = quantized(seeded(Net), "head")
    needs_none: list[Any] = [ablation_cam, methods.recipro_cam, methods.score_cam, methods.kpca_cam, eigen_cam]
    needs_some: list[Any] = [
        grad_cam,
        hires_cam,
        methods.lift_cam,
        methods.shapley_cam,
        methods.fd_cam,
        methods.opti_cam,
    ]
    with unchanged(net):
        runs: list[Any] = [capture(net, "blocks.1"), *(explainer(method, net, "blocks.1") for method in needs_some)]
        for run in runs:
            with pytest.raises(CaptureError, match=r"'head' is a quantized module.*without gradients \(ablation_cam"):
                run(X, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, once, outside of torch.func
            with pytest.raises(CaptureError, match="'head' is a quantized module"):
                capture_each(net, "blocks.1")(X, [1])
        for method in needs_none:
            cam, float_cam = (explainer(method, one, "blocks.1")(X, 1) for one in (net, seeded(Net)))
            assert torch.corrcoef(torch.stack([cam.flatten(), float_cam.flatten()]))[0, 1] > 0.95


def test_a_quantized_part_of_the_tail() -> None:
    """The rest has a derivative, but not the one that was asked for: to torch the quantized part is constant."""
    net = quantized(seeded(Residual), "perceptron")
    with pytest.raises(CaptureError, match="'perceptron' is a quantized module"):
        capture(net, "conv")(X, 1)
    with pytest.raises(CaptureError, match="'perceptron' is a quantized module"):
        vjp(resume(net, "conv")(X), observe(net, "conv")(X)[0])
    assert explainer(ablation_cam, net, "conv")(X, 1).shape == (2, 8, 8)


def test_a_quantized_part_ahead_of_the_layer() -> None:
    net = quantized(seeded(Residual), "stem")
    want = reference(net, "conv", lambda model: model(X), lambda y: y[:, 1])
    same(capture(net, "conv")(X, 1), [part.detach() for part in want])


@pytest.mark.parametrize("of", [capture_each, lambda net, layer: capture_levels(net, [layer])])
def test_what_is_kept_for_the_backwards_does_not_depend_on_whether_the_parameters_learn(of: Any) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 5),
    ).eval()
    images = torch.randn(2, 3, 8, 8)
    kept = []
    for learns in (True, False):
        net.requires_grad_(learns)
        shapes: list[tuple[int, ...]] = []

        def keep(x: Tensor, shapes: list[tuple[int, ...]] = shapes) -> Tensor:
            shapes.append(tuple(x.shape))
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            of(net, "2")(images, [1, None])
        kept.append(shapes)
        assert all(p.requires_grad is learns and p.grad is None for p in net.parameters())
    assert kept[0] == kept[1]
    assert (2, 3, 8, 8) not in kept[0]


@pytest.mark.parametrize("at", ["2", "layer before a BatchNorm", "several targets"])
def test_a_network_made_in_inference_mode_says_how_to_copy_it(at: str) -> None:
    with torch.inference_mode():
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
        ).eval()  # fmt: skip
    runs: dict[str, Callable[[nn.Module], Any]] = {
        "2": lambda net: explainer(grad_cam, net, "2")(torch.ones(1, 3, 8, 8), 1),
        "layer before a BatchNorm": lambda net: explainer(methods.grad_cam_plusplus, net, "0")(torch.ones(1, 3, 8, 8)),
        "several targets": lambda net: capture_each(net, "2")(torch.ones(1, 3, 8, 8), [1, 2]),
    }
    with pytest.raises(DerivativeError, match=r"copy\.deepcopy\(model\)"):
        runs[at](net)
    runs[at](deepcopy(net))
