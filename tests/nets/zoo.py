"""Families of networks: a small member of each, with random weights, and inputs for it."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tests.nets.small import images

PLAIN = (64, 96)
VIT = {"img_size": PLAIN}


class Member(NamedTuple):
    """A network of a family.

    Attributes:
        package: torchvision, timm or transformers.
        name: as the package has it; for transformers, the configuration's name without "Config".
        size: of the image.
        options: for the constructor.
        task: "classify", "segment" or "detect".
        label: the class that is explained.
    """

    package: str
    name: str
    size: tuple[int, int] = PLAIN
    options: dict[str, Any] = {}  # noqa: RUF012
    task: str = "classify"
    label: int = 1

    def __str__(self) -> str:
        return f"{self.package}:{self.name}"


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
    _hf("MobileViTV2", {"image_size": 64, "width_multiplier": 0.5, "initializer_range": 0.2}, (64, 64)),
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
    if member.package == "timm":
        import timm

        return timm.create_model(member.name, **member.options), ""
    if member.package == "torchvision":
        import torchvision

        if "partition_size" in member.options:
            return torchvision.models.MaxVit(**member.options), ""
        return torchvision.models.get_model(member.name, **member.options), ""
    import transformers

    options = member.options if member.name in ("Siglip", "CLIP") else member.options | {"num_labels": 7}
    config = getattr(transformers, f"{member.name}Config")(**options)
    return getattr(transformers, f"{member.name}ForImageClassification")(config), "pixel_values"


def _timm(size: int | tuple[int, int], *names: str, **options: Any) -> list[Member]:
    pair = (size, size) if isinstance(size, int) else size
    return [Member("timm", name, pair, options) for name in names]


TIMM = [
    *_timm(96, "test_vit", "test_vit_relpos", img_size=96),
    *_timm(64, "beit_base_patch16_224", "deit_tiny_patch16_224", "samvit_base_patch16_224", img_size=64, depth=3),
    *_timm(64, "cait_xxs24_224", img_size=64, depth=4),
    *_timm(64, "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "vit_tiny_r_s16_p8_224", img_size=64),
    *_timm(64, "swinv2_cr_tiny_224", img_size=64, window_size=2),
    *_timm(56, "eva02_tiny_patch14_224", "vit_small_patch14_reg4_dinov2", img_size=56, depth=4),
    *_timm(64, "vit_base_patch16_siglip_224", img_size=64, depth=3),
    *_timm(64, "mixer_s16_224", img_size=64),
    *_timm(128, "test_coatnet", img_size=128),
    *_timm(64, "maxvit_tiny_tf_224", img_size=64),
    *_timm(64, "naflexvit_base_patch16_gap", depth=3),
    *_timm(
        224, "coat_tiny", "convit_tiny", "efficientformer_l1", "efficientformerv2_s0", "efficientvit_m0",
        "gcvit_xxtiny", "hiera_tiny_224", "levit_128", "mvitv2_tiny", "nest_tiny", "pit_xs_224", "sequencer2d_s",
        "swiftformer_xs",
        "tnt_s_legacy_patch16_224", "twins_svt_small", "visformer_tiny", "vitamin_small_224",
        "volo_d1_224",
    ),
    *_timm(240, "crossvit_tiny_240"),
    *_timm(256, "halonet_h1"),
    *_timm(128, "tiny_vit_5m_224", "csatv2", "efficientvim_m1", "iformer_t", "lowformer_b0"),
    *_timm(96, "inception_resnet_v2", "inception_v3", "inception_v4", "nasnetalarge", "pnasnet5large"),
    *_timm(
        64, "test_byobnet", "caformer_s18", "poolformer_s12", "convmixer_768_32", "test_convnext", "cpubone_nano",
        "cs3darknet_focus_s", "cspnext_tiny", "davit_tiny", "densenet121", "dla34", "test_nfnet", "dpn48b", "vovnet39a",
        "test_resnet", "edgenext_xx_small", "tinynet_d", "efficientvit_b0", "fasternet_s", "fastvit_t8",
        "mobileone_s0",
        "mobilenetv3_small_050", "focalnet_tiny_srf", "ghostnet_050", "hardcorenas_b", "hgnetv2_b0", "hrnet_w18_small",
        "inception_next_atto", "lcnetv2_small", "legacy_seresnet18", "legacy_xception", "test_mambaout",
        "mobilevit_xxs",
        "nextvit_small", "pvt_v2_b0", "rdnet_tiny", "regnetx_002", "repghostnet_050", "repvit_m0_9", "res2next50",
        "resnest14d", "resnetv2_18", "rexnet_100", "selecsls42", "shvit_s1", "skresnet18", "starnet_s050", "tresnet_m",
        "vgg11", "xception41p", "xcit_nano_12_p16_224",
    ),
]  # fmt: skip
"""One small member of each family of timm, at the smallest image that it works with."""


def torchvision_members() -> list[Member]:
    """Every classifier, segmenter and detector of torchvision."""
    from torchvision import models

    # what 64 does not divide into patches, a fixed number of windows, and what pools away smaller images
    sizes = {"vit_h_14": 56, "maxvit": 224, "inception_v3": 96}
    found = []
    for name in models.list_models(module=models):
        size = next((size for start, size in sizes.items() if name.startswith(start)), 64)
        options: dict[str, Any] = {"image_size": size} if name.startswith("vit_") else {}
        if name in ("googlenet", "inception_v3"):
            options = {"init_weights": False, "aux_logits": False}
        # the last ReLU of SqueezeNet 1.0 gives 0 for class 1, with these weights
        label = 2 if name == "squeezenet1_0" else 1
        found.append(Member("torchvision", name, (size, size), options, label=label))
    bare = {"weights_backbone": None}
    found += [
        Member("torchvision", name, (64, 64), bare, "segment")
        for name in models.list_models(module=models.segmentation)
    ]
    for name in models.list_models(module=models.detection):
        small: dict[str, Any] = {} if name.startswith("ssd") else {"min_size": 128, "max_size": 128}
        # random weights are sure of nothing: a few boxes, whatever their score
        few = {"score_thresh": 0.0, "detections_per_img": 5, "topk_candidates": 20}
        if "rcnn" in name:
            few = {"box_score_thresh": 0.0, "box_detections_per_img": 5, "rpn_post_nms_top_n_test": 20}
        found.append(Member("torchvision", name, (128, 128), bare | small | few, "detect"))
    return found


SWEEP = [*torchvision_members(), *TIMM, *HUGGING_FACE]
"""All that `make test-all` and docs/coverage.md are about."""
