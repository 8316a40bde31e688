"""Attention is captured as it is: against a transformer whose attention is exposed, and against the libraries' own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from camfn import CaptureError
from camfn.attention import AttentionRecord, capture_attention, observe_attention
from camfn.attention._watch import probabilities
from tests.nets.small import images, unchanged
from tests.nets.transformer import KINDS, SelfAttention, own_gradients, reference, transformer

FIELDS = ("probabilities", "q", "k", "v", "output", "grads", "output_grads")


def batch(count: int = 2) -> Tensor:
    return images(count, 3, 12, 16, dtype=torch.float64)


def nothing_left() -> bool:
    return not torch._C._len_torch_function_stack()


@pytest.mark.parametrize("kind", KINDS)
def test_records_equal_the_exposed_attention(kind: str) -> None:
    net, x = transformer(kind), batch()
    layers, outputs = reference(x, lambda y: y[:, 3])
    with unchanged(net):
        attended = capture_attention(net)(x, 3)
    assert [record.name for record in attended.records] == [f"blocks.{i}.attn" for i in range(3)]
    for record, layer in zip(attended.records, layers, strict=True):
        for field in FIELDS:
            assert_close(getattr(record, field), getattr(layer, field).detach(), msg=field)
    assert_close(attended.outputs, outputs.detach())
    assert_close(attended.outputs, net(x).detach())
    assert nothing_left()


@pytest.mark.parametrize("kind", KINDS)
def test_observe_equals_capture_and_needs_no_gradient(kind: str) -> None:
    net, x = transformer(kind), batch()
    with unchanged(net):
        seen, captured = observe_attention(net)(x), capture_attention(net)(x)
    for one, other in zip(seen.records, captured.records, strict=True):
        assert one.grads is None
        assert one.output_grads is None
        assert not one.probabilities.requires_grad
        for field in FIELDS[:5]:
            assert_close(getattr(one, field), getattr(other, field))


def test_output_is_probabilities_times_values() -> None:
    for record in observe_attention(transformer("fused"))(batch()).records:
        assert_close(record.probabilities @ record.v, record.output)
        assert_close(record.probabilities.sum(-1), torch.ones_like(record.probabilities[..., 0]))


@pytest.mark.parametrize("kind", ["fused", "matmul"])
def test_frozen_parameters_and_outer_modes_are_no_obstacle(kind: str) -> None:
    net, x = transformer(kind), batch()
    expected = capture_attention(net)(x, 1).records
    net.requires_grad_(False)
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode(), unchanged(net):
            found = capture_attention(net)(x.clone(), 1).records
        for one, other in zip(found, expected, strict=True):
            assert one.grads is not None
            assert not one.grads.is_inference()
            assert_close(one.grads, other.grads)


@pytest.mark.parametrize("scores", ["model", "layers"])
def test_vmap_over_targets_equals_the_loop_and_runs_the_forward_once(scores: Any) -> None:
    net, x = transformer("fused"), batch()
    calls: list[int] = []
    net.norm.register_forward_hook(lambda *args: calls.append(1))
    run = capture_attention(net, scores=scores)

    def grads(target: Any) -> Tensor:
        return torch.stack([record.grads for record in run(x, target).records if record.grads is not None])

    loop = torch.stack([grads(target) for target in (0, 4)])
    calls.clear()
    assert_close(torch.vmap(grads)(torch.tensor([0, 4])), loop)
    assert len(calls) == {"model": 1, "layers": 1 + 1 + 3}[scores]


def test_targets_a_sample() -> None:
    net, x = transformer("fused"), batch()
    both = capture_attention(net)(x, [1, 2]).records[0].grads
    alone = [capture_attention(net)(x[i : i + 1], i + 1).records[0].grads for i in range(2)]
    assert both is not None
    assert_close(both, torch.cat([grad for grad in alone if grad is not None]))


def test_threads_do_not_meet() -> None:
    nets = [transformer("fused", depth=depth) for depth in (1, 2, 3)] * 3
    x = batch()
    alone = [capture_attention(net)(x, 2).records for net in nets]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda net: capture_attention(net)(x, 2).records, nets))
    for one, other in zip(together, alone, strict=True):
        assert [record.name for record in one] == [record.name for record in other]
        for mine, theirs in zip(one, other, strict=True):
            assert_close(mine.grads, theirs.grads)


def test_nothing_is_left_after_an_exception() -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no more")

    net = transformer("fused")
    net.norm = Failing()  # type: ignore[assignment]
    for run in (observe_attention(net), capture_attention(net)):
        with unchanged(net), pytest.raises(RuntimeError, match="no more"):
            run(batch())
        assert nothing_left()

    def broken(outputs: Tensor) -> Tensor:
        raise KeyError("target")

    net = transformer("fused")
    with unchanged(net), pytest.raises(KeyError, match="target"):
        capture_attention(net)(batch(), broken)
    assert nothing_left()


def test_training_mode_drops_what_the_model_drops() -> None:
    net, x = transformer("matmul", drop=0.5).train(), batch()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        expected = net(x)
        torch.manual_seed(1)
        with unchanged(net):
            attended = capture_attention(net)(x, 0)
    assert_close(attended.outputs, expected.detach())
    for record in attended.records:  # before dropout
        assert_close(record.probabilities.sum(-1), torch.ones_like(record.probabilities[..., 0]))


def test_training_mode_of_fused_attention() -> None:
    net, x = transformer("fused", drop=1.0).train(), batch()
    for record in capture_attention(net)(x, 0).records:
        assert not record.output.any()
        assert record.probabilities.any()


def test_maps_can_be_part_of_a_loss() -> None:
    net, x = transformer("fused"), batch()
    (record,) = capture_attention(net, "blocks.1", differentiable=True)(x, 1).records
    assert record.grads is not None
    (by_input,) = torch.autograd.grad(record.grads.square().sum(), net.patches.weight)
    assert by_input.any()
    assert not capture_attention(net)(x, 1).records[0].probabilities.requires_grad


# --------------------------------------------------------------------------------------------------- choosing layers


@pytest.mark.parametrize("kind", ["fused", "matmul"])
def test_layers_by_name_by_what_holds_them_and_as_modules(kind: str) -> None:
    net, x = transformer(kind), batch()
    everything = capture_attention(net)(x, 1).records
    for layers in ("blocks.1", ["blocks.1.attn"], net.blocks[1].attn, [net.blocks[1]]):
        (record,) = capture_attention(net, layers)(x, 1).records  # type: ignore[arg-type]
        assert record.name == "blocks.1.attn"
        assert_close(record.grads, everything[1].grads)
    two = capture_attention(net, ["blocks.2", "blocks.0"])(x, 1).records
    assert [record.name for record in two] == ["blocks.0.attn", "blocks.2.attn"]
    (own,) = capture_attention(net, "blocks.1", scores="layers")(x, 1).records
    assert_close(own.grads, capture_attention(net, scores="layers")(x, 1).records[1].grads)


def test_layers_that_attend_to_nothing_are_refused() -> None:
    net, x = transformer("fused"), batch()
    with pytest.raises(CaptureError, match=r"no attention ran in layer 'norm'.*in: 'blocks\.\*\.attn'$"):
        capture_attention(net, ["blocks.0", "norm"])(x)
    with pytest.raises(CaptureError, match=r"no layer 'block\.0'.*'blocks\.0'"):
        capture_attention(net, "block.0")
    with pytest.raises(CaptureError, match="empty list"):
        observe_attention(net, [])
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module"):
        observe_attention(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'model' or 'layers'"):
        capture_attention(net, scores="own")  # type: ignore[arg-type]


def test_a_convolutional_network_is_told_what_to_take() -> None:
    net = torchvision.models.resnet18().eval()
    with unchanged(net), pytest.raises(CaptureError, match=r"no attention ran in this ResNet.*grad_cam"):
        observe_attention(net)(images(1, 3, 64, 64))


# ----------------------------------------------------------------------------------------------- each layer's own score


@pytest.mark.parametrize("kind", ["fused", "matmul", "folded"])
@pytest.mark.parametrize("pool", ["token", "mean"])
def test_own_scores_equal_those_of_truncated_networks(kind: str, pool: str) -> None:
    net, x = transformer(kind, pool=pool), batch()
    with unchanged(net):
        attended = capture_attention(net, scores="layers")(x, 3)
    for record, grads in zip(attended.records, own_gradients(x, 3, pool=pool), strict=True):
        assert_close(record.grads, grads)
    assert_close(attended.outputs, net(x).detach())


def test_a_readout_saves_the_second_forward() -> None:
    calls: list[int] = []

    class Counted(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(1)
            return super().forward(x)

    net, x = transformer("fused"), batch()
    net.patches.__class__ = Counted
    found = capture_attention(net, scores="layers")(x, 3).records
    assert len(calls) == 2
    said = capture_attention(net, scores="layers", readout=lambda tokens: net.head(net.norm(tokens[:, 0])))(
        x, 3
    ).records
    assert len(calls) == 3
    for one, other in zip(found, said, strict=True):
        assert_close(one.grads, other.grads)


def test_own_scores_of_blocks_with_other_tokens_are_refused() -> None:
    model = seeded(lambda: timm.create_model("convit_tiny", depth=2, local_up_to_layer=1, num_classes=7))
    x = images(1, 3, 224, 224)
    with pytest.raises(CaptureError, match=r"the 197 tokens of 'blocks\.1', but 'blocks\.0' gives 196"):
        capture_attention(model, scores="layers")(x)
    (record,) = capture_attention(model, "blocks.1", scores="layers")(x).records
    assert record.grads is not None
    assert record.grads.any()


def test_own_scores_explain_the_class_of_the_whole_network() -> None:
    net, x = transformer("fused"), batch()
    top = capture_attention(net, scores="layers")(x).records
    said = capture_attention(net, scores="layers")(x, net(x).argmax(1)).records
    for one, other in zip(top, said, strict=True):
        assert_close(one.grads, other.grads)


# ----------------------------------------------------------------------------------------------------- fused arithmetic


@pytest.mark.parametrize("mask", [None, "causal", "bool", "float", "nowhere"])
@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_option_of_fused_attention(
    mask: str | None, scale: float | None, groups: int, dtype: torch.dtype
) -> None:
    q = images(2, 4, 5, 8, seed=1).to(dtype)
    k, v = (images(2, 4 // groups, 7, 8, seed=seed).to(dtype) for seed in (2, 3))
    seen = images(2, 1, 5, 7, seed=4) > -0.5
    if mask == "nowhere":
        seen[0, 0, 2] = False
    options: dict[str, Any] = {
        "attn_mask": {"bool": seen, "nowhere": seen, "float": images(5, 7, seed=5).to(dtype)}.get(mask or ""),
        "is_causal": mask == "causal",
        "scale": scale,
        "enable_gqa": groups > 1,
    }

    class Net(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return functional.scaled_dot_product_attention(q, k, v, **options)

    (record,), outputs = observe_attention(Net())((q, k, v))
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    assert_close(outputs, Net()(q, k, v), atol=tolerance, rtol=tolerance)
    assert record.probabilities.shape == (2, 4, 5, 7)
    assert record.probabilities.dtype == dtype
    assert record.name == ""


def test_a_row_that_looks_nowhere_has_no_gradient_and_no_nan() -> None:
    q, k = images(1, 1, 2, 4, seed=1).requires_grad_(), images(1, 1, 3, 4, seed=2)
    found = probabilities(q, k, torch.tensor([[True, False, True], [False, False, False]]))
    assert found[0, 0, 1].tolist() == [0, 0, 0]
    (grad,) = torch.autograd.grad(found[..., 0].sum(), q)
    assert grad.isfinite().all()
    assert not grad[0, 0, 1].any()


# ---------------------------------------------------------------------------------------------- nn.MultiheadAttention


MULTI_HEAD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "batch first": ({"batch_first": True}, {}),
    "batch second": ({}, {}),
    "no weights": ({"batch_first": True}, {"need_weights": False}),
    "weights of heads": ({"batch_first": True}, {"average_attn_weights": False}),
    "bias and zero": ({"batch_first": True, "add_bias_kv": True, "add_zero_attn": True}, {}),
    "mask": ({"batch_first": True}, {"attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(1)}),
    "padding": ({"batch_first": True}, {"key_padding_mask": torch.tensor([[False] * 4 + [True]] * 2)}),
}


@pytest.mark.parametrize("name", MULTI_HEAD)
@pytest.mark.parametrize("gradient", [False, True])
def test_multi_head_attention_on_every_path(name: str, gradient: bool) -> None:
    built, called = MULTI_HEAD[name]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(8, 2, **built)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
            return self.attn(x, x, x, **called)  # type: ignore[no-any-return]

    net = Net().eval()
    x = images(2, 5, 8) if built.get("batch_first") else images(5, 2, 8)
    with torch.set_grad_enabled(gradient), unchanged(net):
        (record,), (outputs, weights) = observe_attention(net)(x)
        plain, plain_weights = net(x)
        _, of_heads = net.attn(x, x, x, **called | {"need_weights": True, "average_attn_weights": False})
    assert record.name == "attn"
    assert_close(outputs, plain.detach(), rtol=1e-4, atol=1e-5)
    assert_close(record.probabilities, of_heads.detach(), rtol=1e-4, atol=1e-5)
    assert (weights is None) == (plain_weights is None)
    if weights is not None:
        assert_close(weights, plain_weights.detach(), rtol=1e-4, atol=1e-5)


def test_multi_head_attention_without_a_batch_and_across() -> None:
    net = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True).eval()
    q, k, v = images(1, 3, 8), images(1, 5, 6), images(1, 5, 4)
    (record,), (outputs, weights) = observe_attention(net)((q, k, v))
    assert record.probabilities.shape == (1, 2, 3, 5)
    _, (outputs_alone, weights_alone) = observe_attention(net)((q[0], k[0], v[0]))
    assert_close(outputs_alone, outputs[0])
    assert_close(weights_alone, weights[0])
    assert_close(weights_alone, net(q[0], k[0], v[0])[1].detach())


def test_the_fast_path_of_a_whole_encoder() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net, x = nn.TransformerEncoder(layer, 2).eval(), images(2, 5, 8)
    with torch.no_grad(), unchanged(net):
        records, outputs = observe_attention(net)(x)
        assert_close(outputs, net(x), rtol=1e-4, atol=1e-5)
    assert [record.name for record in records] == ["layers.0.self_attn", "layers.1.self_attn"]


def test_layers_not_asked_for_stay_fused_and_blocks_stay_right() -> None:
    net = torchvision.models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=4).eval()
    nn.init.normal_(net.heads.head.weight)
    x = images(2, 3, 32, 32)
    everything = capture_attention(net, scores="layers")(x, 1).records
    (one,) = capture_attention(net, "encoder.layers.encoder_layer_1", scores="layers")(x, 1).records
    assert_close(one.grads, everything[1].grads)


# ------------------------------------------------------------------------------------------------------------ families


def seeded(build: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


TIMM: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"img_size": 64},
    "deit_tiny_distilled_patch16_224": {"img_size": 64},
    "vit_small_patch14_reg4_dinov2": {"img_size": 56, "embed_dim": 48, "num_heads": 3},
    "vit_small_patch16_dinov3": {"img_size": 64, "embed_dim": 48, "num_heads": 3},
    "eva02_tiny_patch14_224": {"img_size": 56, "embed_dim": 48, "num_heads": 3},
    "beit_base_patch16_224": {"img_size": 64, "embed_dim": 48, "num_heads": 3},
    "vit_base_patch16_siglip_224": {"img_size": 64, "embed_dim": 48, "num_heads": 3},
    "vit_relpos_small_patch16_224": {"img_size": 64, "embed_dim": 48, "num_heads": 3},
}


@pytest.mark.parametrize("name", TIMM)
def test_timm_fused_and_not(name: str) -> None:
    model = seeded(lambda: timm.create_model(name, depth=2, num_classes=7, **TIMM[name]))
    size = TIMM[name]["img_size"]
    x = images(2, 3, size, size)
    found = []
    for fused in (True, False):
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = fused
        with torch.no_grad():
            plain = model(x)
        with unchanged(model):
            attended = capture_attention(model)(x, 2)
        assert_close(attended.outputs, plain, rtol=1e-4, atol=1e-5)
        found.append(attended.records)
    assert len(found[0]) == (3 if "siglip" in name else 2)
    for one, other in zip(*found, strict=True):
        assert one.name == other.name
        for field in ("probabilities", "grads", "v", "output", "output_grads"):
            assert_close(getattr(one, field), getattr(other, field), rtol=1e-3, atol=1e-5)


HUGGING_FACE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ViT": ("ViT", "ForImageClassification", {}),
    "DeiT": ("DeiT", "ForImageClassificationWithTeacher", {}),
    "DINOv2": ("Dinov2", "ForImageClassification", {}),
    "DINOv2 with registers": ("Dinov2WithRegisters", "ForImageClassification", {}),
    "DINOv3": ("DINOv3ViT", "Model", {}),
    "BEiT": ("Beit", "ForImageClassification", {"use_relative_position_bias": True}),
    "CLIP": ("CLIPVision", "ModelWithProjection", {"projection_dim": 7}),
}


def hugging_face(name: str, implementation: str) -> Any:
    family, suffix, options = HUGGING_FACE[name]
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    size = {"image_size": 64, "patch_size": 16, "num_labels": 7}
    config = getattr(transformers, f"{family}Config")(
        **shape | size | options, attn_implementation=implementation, initializer_range=0.2
    )
    return seeded(lambda: getattr(transformers, f"{family}{suffix}")(config))


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_hugging_face_probabilities_are_its_own(name: str) -> None:
    x = {"pixel_values": images(2, 3, 64, 64)}
    eager = hugging_face(name, "eager")
    with torch.no_grad():
        own = eager(**x, output_attentions=True).attentions
    for model in (eager, hugging_face(name, "sdpa")):
        with torch.no_grad():
            plain = model(**x)
        with unchanged(model):
            attended = capture_attention(model)(x, lambda outputs: outputs[0].flatten(1)[:, 1])
        assert type(attended.outputs) is type(plain)
        assert_close(attended.outputs[0], plain[0], rtol=1e-4, atol=1e-5)
        for record, expected in zip(attended.records, own, strict=True):
            assert_close(record.probabilities, expected, rtol=1e-4, atol=1e-5)
            assert record.grads is not None
            assert record.grads.isfinite().all()
        assert any(record.grads.any() for record in attended.records if record.grads is not None)


def test_torchvision_probabilities_are_its_own() -> None:
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4).eval()
    x, kept = images(2, 3, 32, 32), []

    def look(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        kept.append(module.forward(*args, **kwargs | {"need_weights": True, "average_attn_weights": False})[1])

    hooks = [m.register_forward_hook(look, with_kwargs=True) for m in model.modules() if hasattr(m, "in_proj_weight")]
    with torch.no_grad():
        plain = model(x)
    for hook in hooks:
        hook.remove()
    with torch.no_grad(), unchanged(model):
        records, outputs = capture_attention(model)(x, 1)
    assert_close(outputs, plain, rtol=1e-4, atol=1e-5)
    for record, expected in zip(records, kept, strict=True):
        assert_close(record.probabilities, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", [lambda: timm.create_model("swin_tiny_patch4_window7_224", embed_dim=12)])
def test_windows_are_captured_as_windows(build: Callable[[], Any]) -> None:
    model = seeded(build)
    records, _ = observe_attention(model)(images(2, 3, 224, 224))
    assert records[0].probabilities.shape == (2 * 64, 3, 49, 49)
    with pytest.raises(CaptureError, match="in no block that returns its 49 tokens"):
        capture_attention(model, scores="layers")(images(1, 3, 224, 224))


def test_a_record_is_a_tuple_of_named_parts() -> None:
    (record, *_), _ = capture_attention(transformer("fused"))(batch())
    assert isinstance(record, AttentionRecord)
    assert record._fields == ("name", "probabilities", "grads", "q", "k", "v", "output", "output_grads")
    assert isinstance(transformer("fused").blocks[0].attn, SelfAttention)
