"""Models compiled in place, checkpointed, averaged, adapted, sharded: each gives what the plain model gives."""

# Tests above five seconds: two processes that join a gloo group

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel

from camfn import CaptureError, capture, capture_each, explainer, functional, layers, network, observe, resume
from camfn.methods import ablation_cam, grad_cam, score_cam
from tests.nets.small import Net, images, seeded, unchanged

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")
transformers = pytest.importorskip("transformers")

X = images(2, 3, 8, 8)


def agrees(model: nn.Module, plain: nn.Module, layer: str, x: Any = X, **options: Any) -> None:
    """Every door to a cut gives for the model what it gives for the plain one."""
    same = torch.testing.assert_close
    got, want = capture(model, layer, **options)(x, 1), capture(plain, layer, **options)(x, 1)
    same(got.activations, want.activations)
    same(got.grads, want.grads)
    assert want.grads.any()
    same(observe(model, layer, **options)(x)[0], want.activations)
    same(capture_each(model, layer, **options)(x, [1, 2]).grads[0], want.grads)
    for method in (grad_cam, ablation_cam, score_cam):
        same(explainer(method, model, layer, **options)(x, 1), explainer(method, plain, layer, **options)(x, 1))
    same(network.input_gradient(model)(x, 1), network.input_gradient(plain)(x, 1))


# ----------------------------------------------------------------------------------------------------------- compiled


def whole(net: nn.Module) -> nn.Module:
    net.compile(backend="eager")
    return net


def part(net: nn.Module) -> nn.Module:
    net.get_submodule("blocks.1").compile(backend="eager")
    return net


def around_the_layer(net: nn.Module) -> nn.Module:
    net.get_submodule("blocks").compile(backend="eager")
    return net


def swapped(net: nn.Module) -> nn.Module:
    blocks: Any = net.get_submodule("blocks")
    blocks[1] = torch.compile(blocks[1], backend="eager")
    return net


def all_parts(net: nn.Module) -> nn.Module:
    for module in net.modules():
        module.compile(backend="eager")
    return net


@pytest.mark.parametrize("change", [whole, part, around_the_layer, swapped, all_parts], ids=lambda f: f.__name__)
@pytest.mark.parametrize("layer", ["stem", "blocks.0", "blocks.1"])
def test_compiled_in_place(change: Callable[[nn.Module], nn.Module], layer: str) -> None:
    torch._dynamo.reset()
    plain = seeded(Net)
    model = change(copy.deepcopy(plain))
    with torch.no_grad():
        model(X)  # compiled already
    agrees(model, plain, layer)


def test_a_name_within_a_compiled_part() -> None:
    plain = seeded(Net)
    model = swapped(copy.deepcopy(plain))
    for name in ("blocks.1._orig_mod.conv", "blocks.1.conv", "_orig_mod.blocks.1.conv"):
        torch.testing.assert_close(capture(model, name)(X, 1).grads, capture(plain, "blocks.1.conv")(X, 1).grads)
    assert layers.suggest(model, X)[0].name.replace("._orig_mod", "") == layers.suggest(plain, X)[0].name


# -------------------------------------------------------------------------------------------------------- checkpoints


def test_timms_switch() -> None:
    plain = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3).eval()
    model = copy.deepcopy(plain)
    model.set_grad_checkpointing()
    x = images(1, 3, 32, 32)
    with unchanged(model):
        for layer in ("blocks.0", "blocks.1.norm1", "blocks.2"):
            torch.testing.assert_close(capture(model, layer)(x, 1).grads, capture(plain, layer)(x, 1).grads)
        torch.testing.assert_close(network.input_gradient(model)(x, 1), network.input_gradient(plain)(x, 1))
    assert model.grad_checkpointing


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_transformers_switch_in_training() -> None:
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=4,
    )  # fmt: skip
    plain = transformers.ViTForImageClassification(config).train()
    model = copy.deepcopy(plain)
    model.gradient_checkpointing_enable()
    x = {"pixel_values": images(1, 3, 32, 32)}
    for layer in ("vit.layernorm", "vit.embeddings"):
        got, want = (capture(net, layer, layout=None)(x, lambda out: out.logits[:, 1]).grads for net in (model, plain))
        torch.testing.assert_close(got, want)


def test_torchvisions_densenet() -> None:
    plain = torchvision.models.DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=5).eval()
    model = copy.deepcopy(plain)
    for module in model.modules():
        if hasattr(module, "memory_efficient"):
            module.memory_efficient = True
    x = images(1, 3, 32, 32)
    for layer in ("features.denseblock1.denselayer2", "features.norm5", "features.denseblock2"):
        torch.testing.assert_close(capture(model, layer)(x, 1).grads, capture(plain, layer)(x, 1).grads)


def test_tensors_saved_elsewhere() -> None:
    net = seeded(Net)
    want, gradient = capture(net, "blocks.0")(X, 1), network.input_gradient(net)(X, 1)
    with save_on_cpu():
        torch.testing.assert_close(capture(net, "blocks.0")(X, 1).grads, want.grads)
        torch.testing.assert_close(network.input_gradient(net)(X, 1), gradient)


# ---------------------------------------------------------------------------------- averaged, adapted, reparametrized


def test_an_averaged_model() -> None:
    net, other = seeded(Net), seeded(Net)
    for parameter in other.parameters():
        parameter.data += 0.1
    average = AveragedModel(net)
    average.update_parameters(net)
    average.update_parameters(other)
    average.eval()
    plain = copy.deepcopy(net)
    plain.load_state_dict(average.module.state_dict())
    got = capture(average, "module.blocks.0")(X, 1)
    torch.testing.assert_close(got.grads, capture(plain, "blocks.0")(X, 1).grads)


class LowRank(nn.Module):
    """A linear or 1x1 layer with a low-rank addition, as LoRA wraps it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x) + self.up(self.down(x))
        return y


def test_a_low_rank_adapter() -> None:
    plain = seeded(Net)
    model: Any = copy.deepcopy(plain)
    model.head = LowRank(model.head)
    head = plain.get_submodule("head")
    with torch.no_grad():
        head.weight += model.head.up.weight @ model.head.down.weight
    agrees(model, plain, "blocks.0")


@pytest.mark.parametrize("change", [parametrizations.weight_norm, parametrizations.spectral_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_a_reparametrized_layer(change: Any) -> None:
    model = seeded(Net)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            change(module)
    model.eval()
    plain = seeded(Net)
    with torch.no_grad():
        for name, module in plain.named_modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(model.get_submodule(name).weight)  # type: ignore[arg-type]
    with unchanged(model):
        agrees(model, plain, "blocks.0")
        torch.testing.assert_close(
            capture(model, "blocks.0.conv")(X, 1).grads, capture(plain, "blocks.0.conv")(X, 1).grads
        )


# ------------------------------------------------------------------------------------------------------------- hooks


def test_a_hook_that_keeps_the_layers_output() -> None:
    """As transformers collects hidden states: the tensor that is kept is the one that the network goes on with."""

    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept: list[Tensor] = []
            self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
            self.stem.register_forward_hook(lambda module, args, output: self.kept.append(output))

        def forward(self, x: Tensor) -> Tensor:
            self.kept.clear()
            self.stem(x)
            y: Tensor = self.head(self.kept[0].tanh().mean((2, 3)))
            return y

    net = seeded(Keeping)
    captured = capture(net, "stem")(X, 1)
    weight = net.get_parameter("head.weight")[1].detach().view(1, -1, 1, 1)
    torch.testing.assert_close(captured.grads, weight * (1 - captured.activations.tanh() ** 2) / 36)
    assert explainer(ablation_cam, net, "stem")(X, 1).any()
    tail = resume(net, "stem")(X)
    assert not torch.allclose(tail(captured.activations * 2), captured.outputs)


def test_hidden_states_of_transformers() -> None:
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    model = transformers.ViTModel(config).eval()
    x = {"pixel_values": images(1, 3, 32, 32), "output_hidden_states": True}
    target = lambda out: out.hidden_states[1].sum((1, 2)) + out.last_hidden_state[:, 0].sum(1)  # noqa: E731
    first = [
        capture(model, f"layers.{i}" if hasattr(model, "layers") else f"encoder.layer.{i}")(x, target) for i in (0, 0)
    ]
    assert first[0].grads.any()
    torch.testing.assert_close(first[0].grads, first[1].grads)


# ------------------------------------------------------------------------------------------------------------ sharded

SHARDED = """
import copy, os, sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, distribute_tensor

from camfn import capture, explainer, observe, resume
from camfn.methods import grad_cam, ablation_cam
from tests.nets.small import Net, images, seeded

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
plain, x = seeded(Net), images(2, 3, 8, 8)
model = copy.deepcopy(plain)
for block in model.blocks:
    fully_shard(block, mesh=mesh)
fully_shard(model, mesh=mesh)
for layer in ("stem", "blocks.0", "blocks.1"):
    got, want = capture(model, layer)(x, 1), capture(plain, layer)(x, 1)
    torch.testing.assert_close(got.activations, want.activations)
    torch.testing.assert_close(got.grads, want.grads)
    torch.testing.assert_close(explainer(grad_cam, model, layer)(x, 1), explainer(grad_cam, plain, layer)(x, 1))
print("sharded", dist.get_rank())
dist.destroy_process_group()
"""


def test_fully_sharded_parameters(tmp_path: Path) -> None:
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    root = Path(__file__).parents[2]
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29531",
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    common["PYTHONPATH"] = str(root)
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script)], env={**common, "RANK": str(rank)}, cwd=root,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said[0][-3000:]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
@pytest.mark.parametrize(("how", "part"), [("script", "stem"), ("trace", "stem"), ("trace", "blocks.1")])
def test_a_part_in_torchscript(how: str, part: str) -> None:
    plain = seeded(Net)
    model = copy.deepcopy(plain)
    inner: Any = model.get_submodule(part)
    see: list[Tensor] = []
    inner.register_forward_pre_hook(lambda module, args: see.append(args[0].detach()))
    model(X)
    inner._forward_pre_hooks.clear()
    made: Any = torch.jit.script(inner) if how == "script" else torch.jit.trace(inner, see[0])  # type: ignore[no-untyped-call]
    model.set_submodule(part, made)
    agrees(model, plain, "blocks.0")
    torch.testing.assert_close(resume(model, "blocks.0")(X)(observe(model, "blocks.0")(X)[0]), plain(X))
    with pytest.raises(CaptureError, match=f"layer '{part}' is TorchScript"):
        capture(model, part)
    params, pure = functional(explainer(grad_cam, model, "blocks.0"))
    changed = {name: value + 0.1 for name, value in params.items()}
    with pytest.raises(CaptureError, match="belongs to a TorchScript part"):
        pure(changed, X, 1)
    with torch.no_grad():
        own = {name: value for name, value in changed.items() if not name.startswith(part)}
        plain.load_state_dict(own, strict=False)
    torch.testing.assert_close(pure(own, X, 1), explainer(grad_cam, plain, "blocks.0")(X, 1))


# --------------------------------------------------------------------------------------------------------- exported


def exported() -> tuple[nn.Module, Any, Tensor]:
    net, x = seeded(Net), images(2, 3, 8, 8)
    return net, torch.export.export(net, (x,)), x


@pytest.mark.parametrize("layer", ["stem", "blocks.0", "blocks.1.conv"])
def test_an_exported_program_is_cut_by_unflatten(layer: str) -> None:
    net, program, x = exported()
    whole = torch.export.unflatten(program)
    found, expected = capture(whole, layer)(x, 1), capture(net, layer)(x, 1)
    assert all(map(torch.equal, found, expected))
    tail = resume(whole, layer)(x)
    assert torch.equal(tail(found.activations), net(x))
    for method in (grad_cam, ablation_cam, score_cam):
        torch.testing.assert_close(explainer(method, whole, layer)(x, 1), explainer(method, net, layer)(x, 1))


def test_an_exported_program_itself_is_refused_with_the_call_that_works() -> None:
    _, program, x = exported()
    doors: list[Callable[[], Any]] = [
        lambda: capture(program, "stem"),
        lambda: observe(program, "stem"),
        lambda: resume(program, "stem"),
        lambda: capture_each(program, "stem"),
        lambda: explainer(grad_cam, program, "stem"),
        lambda: layers.suggest(program, x),
        lambda: network.full_grad(program),
    ]
    for door in doors:
        with pytest.raises(TypeError, match=r"ExportedProgram.*torch\.export\.unflatten\(program\)"):
            door()
