"""Networks of the libraries, with random weights, at their last and a middle layer: each with an open batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from camfn import explainer, export, methods
from camfn.targets import mask_score, similarity

from .nets import photos

pytestmark = pytest.mark.sweep


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    layers: tuple[str, str]
    method: Any = methods.grad_cam
    target: Any = "input"
    size: int = 64


def tv(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        torchvision = pytest.importorskip("torchvision")
        net: nn.Module = torchvision.models.get_model(name, weights=None, **{"num_classes": 10} | options)
        return net

    return make


def timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        net: nn.Module = pytest.importorskip("timm").create_model(name, num_classes=10, **options)
        return net

    return make


def hf(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        transformers = pytest.importorskip("transformers")
        net: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**options))
        return net

    return make


def vit() -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    net: nn.Module = torchvision.models.VisionTransformer(64, 8, 4, 2, 64, 128, num_classes=10)
    return net


BLOCKS: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 8,
}
STAGES: dict[str, Any] = {
    "hidden_sizes": [16, 32, 64, 64],
    "num_attention_heads": [1, 2, 4, 4],
    "depths": [1, 1, 1, 1],
    "decoder_hidden_size": 64,
    "num_labels": 7,
}
TEXT = torch.randn(32, generator=torch.Generator().manual_seed(2))
HIRES = methods.hires_cam
NETWORKS = {
    "tv resnet50": Case(tv("resnet50"), ("layer4", "layer2")),
    "tv mobilenet_v3": Case(tv("mobilenet_v3_large"), ("features", "features.12")),
    "tv efficientnet_b0": Case(tv("efficientnet_b0"), ("features", "features.5")),
    "tv convnext_tiny": Case(tv("convnext_tiny"), ("features", "features.5")),
    "tv vit": Case(vit, ("encoder.layers.encoder_layer_3.ln_1", "encoder.layers.encoder_layer_2.ln_1"), HIRES),
    "tv swin_t": Case(tv("swin_t"), ("norm", "features.3")),
    "tv regnet": Case(tv("regnet_y_400mf"), ("trunk_output", "trunk_output.block3")),
    "tv vgg11": Case(tv("vgg11"), ("features.18", "features.11")),
    "tv vgg11_bn": Case(tv("vgg11_bn"), ("features", "features.18"), size=96),
    "tv densenet121": Case(tv("densenet121"), ("features", "features.denseblock3")),
    "timm resnet": Case(timm("resnet26"), ("layer4", "layer3")),
    "timm vit": Case(timm("vit_tiny_patch16_224", img_size=64, depth=4), ("blocks.3.norm1", "blocks.2.norm1"), HIRES),
    "timm deit": Case(
        timm("deit_tiny_distilled_patch16_224", img_size=64, depth=4), ("blocks.3.norm1", "blocks.2.norm1"), HIRES
    ),
    "timm convnextv2": Case(timm("convnextv2_atto"), ("stages.3", "stages.2")),
    "timm eva02": Case(
        timm("eva02_tiny_patch14_224", img_size=56, depth=4), ("blocks.3.norm1", "blocks.2.norm1"), HIRES, size=56
    ),
    "timm mobilenetv4": Case(timm("mobilenetv4_conv_small"), ("blocks.4", "blocks.2")),
    "hf vit": Case(
        hf("ViTForImageClassification", "ViTConfig", **BLOCKS, intermediate_size=128, num_labels=10),
        ("vit.layers.3.layernorm_before", "vit.layers.2.layernorm_before"),
        HIRES,
    ),
    "hf dinov2 with registers": Case(
        hf(
            "Dinov2WithRegistersForImageClassification",
            "Dinov2WithRegistersConfig",
            **BLOCKS,
            mlp_ratio=2,
            num_labels=10,
        ),
        ("dinov2_with_registers.encoder.layer.3.norm1", "dinov2_with_registers.encoder.layer.2.norm1"),
        HIRES,
    ),
    "hf segformer": Case(
        hf("SegformerForImageClassification", "SegformerConfig", **STAGES),
        ("segformer.stages.3.blocks.0", "segformer.stages.2.blocks.0"),
    ),
    "hf segformer, segmentation": Case(
        hf("SegformerForSemanticSegmentation", "SegformerConfig", **STAGES),
        ("segformer.stages.3.blocks.0", "segformer.stages.2.blocks.0"),
        target=mask_score(3),
    ),
    "hf clip": Case(
        hf("CLIPVisionModelWithProjection", "CLIPVisionConfig", **BLOCKS, intermediate_size=128, projection_dim=32),
        ("vision_model.encoder.layers.3.layer_norm1", "vision_model.encoder.layers.2.layer_norm1"),
        HIRES,
        similarity(TEXT),
    ),
    "tv lraspp": Case(
        tv("lraspp_mobilenet_v3_large", weights_backbone=None), ("backbone.16", "backbone.4"), target=mask_score(3)
    ),
    "tv deeplabv3": Case(
        tv("deeplabv3_mobilenet_v3_large", weights_backbone=None), ("backbone.16", "backbone.4"), target=mask_score(3)
    ),
}


def drawn(case: Case) -> nn.Module:
    """Build a network whose weights and statistics are not those of its start, some of which are zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = case.make().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim < 2:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
            elif not parameter.any():
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                assert module.running_var is not None
                module.running_mean.copy_(0.1 * torch.randn(module.running_mean.shape, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return net


@pytest.mark.parametrize("place", [0, 1], ids=["last", "middle"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_of_a_network(name: str, place: int, tmp_path: Path) -> None:
    case = NETWORKS[name]
    explain = explainer(case.method, drawn(case), case.layers[place])
    found = export.onnx(explain, photos(2, case.size), tmp_path / "net.onnx", target=case.target)
    differences = found["verified"]["differences"]
    print(f"{name} {case.layers[place]}: {found['batch']}, {differences}, {found['verified']['against']}")
    assert found["batch"] == "dynamic"
    assert found["verified"]["against"] == "float64" or max(differences.values()) < 1e-4
