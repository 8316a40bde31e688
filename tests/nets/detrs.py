"""Small detectors of transformers with random weights: DETR and its descendants, each with inputs and its processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.nets.small import images

SIDE = 64
LABELS = 5


class Member(NamedTuple):
    """A detector.

    Attributes:
        model: in evaluation mode.
        inputs: keywords of one call, for two images.
        processor: has `post_process_object_detection`, or None.
    """

    model: Any
    inputs: dict[str, Tensor]
    processor: Any


def _resnet(prefix: str = "") -> Any:
    import transformers

    kind = transformers.RTDetrResNetConfig if prefix else transformers.ResNetConfig
    stages = {"out_features": ["stage2", "stage3", "stage4"]} if prefix else {"out_features": ["stage4"]}
    return kind(embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], layer_type="basic", **stages)


_ATTENTION = {
    "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
}  # fmt: skip


def _config(name: str) -> Any:
    import transformers as hf

    common: dict[str, Any] = {"num_labels": LABELS, "num_queries": 12}
    own: dict[str, Any] = {"use_timm_backbone": False, "backbone_config": _resnet(), "d_model": 32, **_ATTENTION}
    if name == "Yolos":
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
        return hf.YolosConfig(num_labels=LABELS, image_size=[SIDE] * 2, patch_size=16, num_detection_tokens=9, **sizes)
    if name in ("RTDetr", "RTDetrV2", "DFine"):
        more: dict[str, Any] = {"encoder_in_channels": [16, 16, 32], "encoder_hidden_dim": 32, "d_model": 32}
        more |= {"decoder_in_channels": [32, 32, 32], "backbone_config": _resnet("rt"), "feat_strides": [8, 16, 32]}
        return getattr(hf, f"{name}Config")(**common, **{**more, **_ATTENTION})
    if name == "DeformableDetrTwoStage":
        own |= {"two_stage": True, "two_stage_num_proposals": 4, "with_box_refine": True}
        return hf.DeformableDetrConfig(num_feature_levels=2, **common, **own)
    if name == "DeformableDetr":
        return hf.DeformableDetrConfig(num_feature_levels=2, **common, **own)
    if name == "DabDetr":
        own["hidden_size"] = own.pop("d_model")
    return getattr(hf, f"{name}Config")(**common, **own)


def _grounding_dino() -> tuple[Any, dict[str, Tensor]]:
    import transformers as hf

    swin: dict[str, Any] = {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 2}
    backbone = hf.SwinConfig(image_size=SIDE, out_features=["stage2", "stage3", "stage4"], **swin)
    text = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 16, "vocab_size": 2000, "max_position_embeddings": 64}
    config = hf.GroundingDinoConfig(
        backbone_config=backbone, text_config=text, num_feature_levels=3, encoder_n_points=2, decoder_n_points=2,
        max_text_len=16, d_model=32, num_queries=12, **_ATTENTION,
    )  # fmt: skip
    words = torch.tensor([[101, 5, 6, 1012, 7, 1012, 102]]).repeat(2, 1)  # "a b . c ."
    inputs = {"input_ids": words, "attention_mask": torch.ones_like(words), "token_type_ids": torch.zeros_like(words)}
    return hf.GroundingDinoForObjectDetection(config), inputs


def _owl() -> tuple[Any, dict[str, Tensor]]:
    import transformers as hf

    common = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = hf.OwlViTConfig(
        text_config={**common, "vocab_size": 99, "max_position_embeddings": 16},
        vision_config={**common, "image_size": SIDE, "patch_size": 16},
        projection_dim=32,
    )
    words = torch.tensor([[1, 5, 8, 2], [1, 6, 7, 2]]).repeat(2, 1)
    inputs = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    return hf.OwlViTForObjectDetection(config), inputs


def detr(name: str) -> Member:
    """Build a detector by the name of its family."""
    import transformers as hf

    inputs: dict[str, Tensor] = {"pixel_values": images(2, 3, SIDE, SIDE)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name in ("GroundingDino", "OwlViT"):
            model, more = _grounding_dino() if name == "GroundingDino" else _owl()
            inputs |= more
        else:
            family = name.removesuffix("TwoStage")
            model = getattr(hf, f"{family}ForObjectDetection")(_config(name))
        processors: dict[str, Callable[[], Any]] = {
            "TableTransformer": hf.DetrImageProcessor, "DabDetr": hf.ConditionalDetrImageProcessor,
            "DeformableDetrTwoStage": hf.DeformableDetrImageProcessor, "RTDetrV2": hf.RTDetrImageProcessor,
            "DFine": hf.RTDetrImageProcessor,
        }  # fmt: skip
        made = processors.get(name) or getattr(hf, f"{name}ImageProcessor")
        model.eval().requires_grad_(False)
        if name == "OwlViT":  # so that scores differ, and are not all 1
            model.class_head.logit_scale.weight.zero_()
        for parameter in model.parameters():
            if parameter.ndim > 1 and name != "OwlViT":
                parameter.mul_(2.5)
    return Member(model, inputs, made())


FAMILIES = (
    "Detr", "Yolos", "TableTransformer", "ConditionalDetr", "DabDetr", "DeformableDetr", "DeformableDetrTwoStage",
    "RTDetr", "RTDetrV2", "DFine", "GroundingDino", "OwlViT",
)  # fmt: skip
