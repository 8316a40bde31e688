"""Methods that perturb, on detectors of transformers with random weights: each is a plain loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import capture, explainer, methods, resume
from tests.nets.small import images
from tests.oracles import methods as simple
from tests.oracles import perturbation as oracles

transformers = pytest.importorskip("transformers")

SMALL: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "num_queries": 5,
    "num_labels": 3,
}


def detr() -> Any:
    backbone = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"])
    config = transformers.DetrConfig(use_timm_backbone=False, backbone_config=backbone, **SMALL)
    return transformers.DetrForObjectDetection(config), "model.input_projection", 32, {}


def rf_detr() -> Any:
    if not hasattr(transformers, "RfDetrConfig"):
        pytest.skip("this transformers has no RF-DETR")
    backbone = transformers.RfDetrDinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        out_features=["stage2"],
        num_windows=1,
    )
    config = transformers.RfDetrConfig(
        backbone_config=backbone,
        d_model=16,
        decoder_layers=1,
        num_queries=5,
        num_labels=3,
        decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2,
        decoder_ffn_dim=16,
        group_detr=1,
    )
    net = transformers.RfDetrForObjectDetection(config)
    return net, "model.backbone.backbone.embeddings.patch_embeddings.projection", 32, {}


def eomt() -> Any:
    config = transformers.EomtConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        num_blocks=1,
        num_queries=5,
        num_upscale_blocks=1,
        num_labels=3,
        intermediate_size=16,
    )
    return transformers.EomtForUniversalSegmentation(config), "embeddings.patch_embeddings.projection", 32, {}


def grounding_dino() -> Any:
    backbone = transformers.SwinConfig(
        image_size=32,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=2,
        out_features=["stage2", "stage3", "stage4"],
    )
    text = {
        "model_type": "bert",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 200,
        "max_position_embeddings": 64,
    }
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        num_feature_levels=3,
        encoder_n_points=2,
        decoder_n_points=2,
        max_text_len=16,
        **{**SMALL, "decoder_layers": 2},
    )
    words = {
        "input_ids": torch.tensor([[101, 5, 6, 7, 102]]),
        "attention_mask": torch.ones(1, 5, dtype=torch.long),
        "token_type_ids": torch.zeros(1, 5, dtype=torch.long),
    }
    net = transformers.GroundingDinoForObjectDetection(config)
    # the name differs between versions
    layer = next(name for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    return net, layer, 64, words


def target(outputs: Any) -> Tensor:
    """A number that all queries take part in."""
    logits = outputs["class_queries_logits" if "class_queries_logits" in outputs else "logits"]
    best: Tensor = logits[..., :3].sigmoid().flatten(1).square().sum(1)
    return best


TAIL = {"ablation_cam": simple, "recipro_cam": oracles, "lift_cam": oracles}
FORWARD = {"score_cam": simple, "group_cam": oracles, "rise": oracles}
OPTIONS: dict[str, dict[str, Any]] = {"lift_cam": {"steps": 2}, "group_cam": {"groups": 3}}


@pytest.mark.parametrize("name", [*TAIL, *FORWARD])
@pytest.mark.parametrize("make", [detr, rf_detr, eomt, grounding_dino])
def test_each_method_is_its_loop(make: Callable[[], Any], name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made, layer, size, more = make()
    net: nn.Module = made.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (1.5 / parameter[0].numel()) ** 0.5)
    pixels = images(1, 3, size, size)
    x, options = {"pixel_values": pixels, **more}, OPTIONS.get(name, {})
    if name == "rise":
        options = {"masks": (images(4, size, size, seed=2) > 0).float()}
    found = explainer(partial(getattr(methods, name), **options), net, layer, images="pixel_values")(x, target)
    activations, grads, _ = capture(net, layer, images="pixel_values")(x, target)
    tail = resume(net, layer, images="pixel_values")(x)
    context: dict[str, Any] = {"tail": lambda a: target(tail(a.float()))}
    if name in FORWARD:
        context = {"forward": lambda i: target(net(**{**x, "pixel_values": i.float()})), "inputs": pixels}
    if name == "rise":
        activations = context.pop("inputs")
    expected = getattr({**TAIL, **FORWARD}[name], name)(activations, grads, **context, **options)
    scale = max(1.0, float(expected.abs().max()))
    assert float(expected.abs().max()) > 1e-5
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=1e-5 * scale)
