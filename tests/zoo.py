"""Families of networks: a small member of each, with random weights, and inputs for it."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tests.nets import images

PLAIN = (64, 96)
VIT = {"img_size": PLAIN}


class Member(NamedTuple):
    """A network of a family.

    Attributes:
        library: torchvision, timm or transformers.
        name: as the library has it; for transformers, the configuration's name without "Config".
        size: of the image.
        options: for the constructor.
    """

    library: str
    name: str
    size: tuple[int, int] = PLAIN
    options: dict[str, Any] = {}  # noqa: RUF012

    def __str__(self) -> str:
        return f"{self.library}:{self.name}"


SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "patch_size": 16}
OBLONG, SQUARE = SMALL | {"image_size": PLAIN}, SMALL | {"image_size": 64}
STAGES = {"hidden_sizes": [16, 32, 32, 32], "depths": [1, 1, 1, 1]}
HEADS = {"num_attention_heads": [1, 2, 2, 2]}
SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}


def _hf(name: str, options: dict[str, Any], size: tuple[int, int] = PLAIN) -> Member:
    return Member("transformers", name, size, options)


HUGGING_FACE = [
    _hf("ViT", OBLONG),
    _hf("DeiT", OBLONG),
    _hf("Beit", SQUARE, (64, 64)),
    _hf("Dinov2", SQUARE, (64, 64)),
    _hf("Dinov2WithRegisters", SQUARE, (64, 64)),
    _hf("Siglip", {"vision_config": SQUARE}, (64, 64)),
    _hf("CLIP", {"vision_config": SQUARE | {"projection_dim": 16}}, (64, 64)),
    _hf("Data2VecVision", SQUARE, (64, 64)),
    _hf("IJepa", SQUARE, (64, 64)),
    _hf("ViTMSN", SQUARE, (64, 64)),
    _hf("Swin", SWIN),
    _hf("Swinv2", SWIN),
    _hf("Pvt", STAGES | HEADS | {"image_size": 64}, (64, 64)),
    _hf("PvtV2", STAGES | HEADS | {"image_size": 64}, (64, 64)),
    _hf("Segformer", STAGES | HEADS),
    _hf("PoolFormer", STAGES),
    _hf("ConvNext", STAGES),
    _hf("ConvNextV2", STAGES),
    _hf("ResNet", STAGES | {"embedding_size": 16}),
    _hf("RegNet", {"embedding_size": 8, "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "groups_width": 8}),
    _hf("Bit", {"embedding_size": 16, "hidden_sizes": [32, 32, 64, 64], "depths": [1, 1, 1, 1], "num_groups": 8}),
    _hf("MobileNetV2", {"depth_multiplier": 0.35}),
    _hf("EfficientNet", {"image_size": 64, "width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640}),
    _hf(
        "MobileViT",
        {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64]},
        (64, 64),
    ),
    _hf("MobileViTV2", {"image_size": 64, "width_multiplier": 0.5}, (64, 64)),
    _hf("SwiftFormer", {"image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [16, 16, 32, 32]}, (64, 64)),
    _hf(
        "FocalNet",
        {"image_size": 64, "embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3]},
    ),
]
TORCHVISION_TRANSFORMERS = [
    Member("torchvision", "vit_b_16", (64, 64), {"image_size": 64}),
    Member("torchvision", "swin_t"),
    Member("torchvision", "swin_v2_t"),
    Member("torchvision", "maxvit_t", (64, 64), {"input_size": (64, 64), "stem_channels": 16, "partition_size": 2,
           "block_channels": [16, 32], "block_layers": [1, 1], "head_dim": 8, "stochastic_depth_prob": 0.0}),
    Member("torchvision", "convnext_tiny"),
]  # fmt: skip
TIMM_LAYOUTS = [
    Member("timm", "vit_tiny_patch16_224", PLAIN, VIT),
    Member("timm", "deit_tiny_distilled_patch16_224", PLAIN, VIT),
    Member("timm", "deit3_small_patch16_224", PLAIN, VIT | {"depth": 4}),
    Member("timm", "beit_base_patch16_224", PLAIN, VIT | {"depth": 3}),
    Member("timm", "eva02_tiny_patch14_224", (56, 84), {"img_size": (56, 84), "depth": 4}),
    Member("timm", "vit_small_patch14_reg4_dinov2", (56, 84), {"img_size": (56, 84), "depth": 4}),
    Member("timm", "vit_base_patch16_siglip_224", PLAIN, VIT | {"depth": 3}),
    Member("timm", "swin_tiny_patch4_window7_224", PLAIN, VIT),
    Member("timm", "swinv2_tiny_window8_256", PLAIN, VIT),
    Member("timm", "maxvit_tiny_tf_224", PLAIN, VIT),
    Member("timm", "convnext_atto"),
    Member("timm", "cait_xxs24_224", PLAIN, VIT | {"depth": 6}),
    Member("timm", "xcit_nano_12_p16_224"),
    Member("timm", "pvt_v2_b0"),
    Member("timm", "poolformer_s12"),
    Member("timm", "mambaout_femto"),
    Member("timm", "vit_tiny_r_s16_p8_224", PLAIN, VIT),
]
_QUICK = {
    "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "swin_tiny_patch4_window7_224", "mambaout_femto",
    "xcit_nano_12_p16_224", "vit_b_16", "ViT", "DeiT", "Dinov2WithRegisters", "Swin", "Segformer", "CLIP", "Siglip",
}  # fmt: skip


def members(kind: str) -> list[Any]:
    """Parameters for a test over families; those that take long are for `make test-all`."""
    assert kind == "layout"
    listed = [*TIMM_LAYOUTS, *TORCHVISION_TRANSFORMERS, *HUGGING_FACE]
    quick = {str(member) for member in listed if member.name in _QUICK}
    return [
        pytest.param(member, id=str(member), marks=[] if str(member) in quick else [pytest.mark.sweep])
        for member in listed
    ]


def build(member: Member, batch: int = 1) -> tuple[nn.Module, Any, str]:
    """The network, its inputs, and the name of the image among them ("" where it is the only one)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, key = _model(member)
        for module in model.modules():
            if isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.02)  # heads of zeros
    x = images(batch, 3, *member.size)
    # frozen, since torch's attention kernels for the CPU refuse a bias that asks for a gradient (BEiT, MaxViT)
    inputs: Tensor | dict[str, Tensor] = {key: x} if key else x
    return model.eval().requires_grad_(False), inputs, key


def _model(member: Member) -> tuple[nn.Module, str]:
    if member.library == "timm":
        import timm

        return timm.create_model(member.name, **member.options), ""
    if member.library == "torchvision":
        import torchvision

        build = torchvision.models.MaxVit if member.name == "maxvit_t" else None
        return build(**member.options) if build else torchvision.models.get_model(member.name, **member.options), ""
    import transformers

    options = member.options if member.name in ("Siglip", "CLIP") else member.options | {"num_labels": 7}
    config = getattr(transformers, f"{member.name}Config")(**options)
    return getattr(transformers, f"{member.name}ForImageClassification")(config), "pixel_values"
