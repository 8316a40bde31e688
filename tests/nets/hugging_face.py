"""Networks of transformers beside its classifiers: features, segmenters, detectors, words and images, video, audio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.nets.made import Made, detected, everywhere, first_class, words
from tests.nets.small import images

WIDTH: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
VIT = WIDTH | {"num_hidden_layers": 4, "image_size": 64, "patch_size": 16}
STAGES: dict[str, Any] = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
RESNET = STAGES | {"embedding_size": 16}
SWIN = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 2, 4],
    "window_size": 2,
}
TEXT = WIDTH | {"vocab_size": 99, "max_position_embeddings": 64}
DECODER = TEXT | {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}


def net(cls: str, config: str = "", **options: Any) -> Callable[[], nn.Module]:
    """A class of transformers with a configuration; an option that is a pair (name, options) is a configuration."""

    def make() -> nn.Module:
        import transformers

        def configured(name: str, given: dict[str, Any]) -> Any:
            made = {
                key: configured(*value) if isinstance(value, tuple) and isinstance(value[-1], dict) else value
                for key, value in given.items()
            }
            return getattr(transformers, name)(**made)

        model: nn.Module = getattr(transformers, cls)(configured(config, options))
        return model

    return make


def pixels(size: int | tuple[int, int] = 64, **more: Any) -> Callable[[int], dict[str, Any]]:
    """Images by name; with `text`, words too."""
    height, width = (size, size) if isinstance(size, int) else size
    text, *_ = more.pop("text", 0), None

    def inputs(batch: int) -> dict[str, Any]:
        found: dict[str, Any] = {"pixel_values": images(batch, 3, height, width)}
        if text:
            found["input_ids"] = words(batch, text)
        return found | more

    return inputs


def prompted(token: int, count: int, size: int = 64, **more: Any) -> Callable[[int], dict[str, Any]]:
    """An image whose places stand in the text as `count` tokens of a number."""

    def inputs(batch: int) -> dict[str, Any]:
        row = torch.tensor([1, *[token] * count, 5, 6, 7])
        made = {key: value(batch) if callable(value) else value for key, value in more.items()}
        return {"input_ids": row.repeat(batch, 1), "pixel_values": images(batch, 3, size, size)} | made

    return inputs


def frames(count: int, size: int = 64) -> Callable[[int], dict[str, Tensor]]:
    return lambda batch: {"pixel_values": images(batch, count, 3, size, size)}


def last_word(outputs: Any) -> Tensor:
    """The logit of word 5 behind the text."""
    found: Tensor = outputs["logits"][:, -1, 5]
    return found


def pooled(outputs: Any) -> Tensor:
    """Likeness of the last features to an embedding of ones."""
    found: Tensor = outputs["last_hidden_state"]
    return (found.flatten(2).mean(2) if found.ndim == 4 else found.mean(1)).square().sum(1)


def first_map(outputs: Any) -> Tensor:
    found: Tensor = outputs["feature_maps"][-1]
    return found.flatten(1).square().mean(1)


def masks(outputs: Any) -> Tensor:
    found: Tensor = outputs["masks_queries_logits"]
    return found[:, 1].mean((1, 2))


def _made(name: str, make: Callable[[], nn.Module], *rest: Any, **options: Any) -> Made:
    return Made("transformers", name, make, *(rest or (pixels(),)), **options)


TINY_RESNET = ("ResNetConfig", RESNET | {"out_features": ["stage2", "stage3", "stage4"]})
SWIN_BACKBONE = ("SwinConfig", SWIN | {"out_features": ["stage1", "stage2", "stage3", "stage4"]})
DINO_BACKBONE = (
    "Dinov2Config",
    WIDTH
    | {
        "num_hidden_layers": 4,
        "image_size": 56,
        "patch_size": 14,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
        "reshape_hidden_states": False,
    },
)
CLIP_TEXT, CLIP_VISION = TEXT | {"eos_token_id": 90, "projection_dim": 16}, VIT | {"projection_dim": 16}

FEATURES = [
    _made("ResNetModel", net("ResNetModel", "ResNetConfig", **RESNET), pixels((64, 96)), pooled, "encoder"),
    _made(
        "ResNetBackbone",
        net("ResNetBackbone", "ResNetConfig", **RESNET),
        pixels((64, 96)),
        first_map,
        "encoder.stages.3",
    ),
    _made("ConvNextModel", net("ConvNextModel", "ConvNextConfig", **STAGES), pixels((64, 96)), pooled, "encoder"),
    _made(
        "ConvNext, hidden states",
        net("ConvNextForImageClassification", "ConvNextConfig", **STAGES, num_labels=5),
        pixels((64, 96), output_hidden_states=True),
        first_class,
        "convnext.encoder.stages.3",
    ),
    _made("SwinModel", net("SwinModel", "SwinConfig", **SWIN), pixels(), pooled, "layernorm"),
    _made(
        "SwinBackbone",
        net("SwinBackbone", "SwinConfig", **SWIN_BACKBONE[1]),
        pixels(),
        first_map,
        layer="hidden_states_norms.stage4",
    ),
    _made("ViTModel", net("ViTModel", "ViTConfig", **VIT), pixels(), pooled, "layernorm"),
    _made("Dinov2Model", net("Dinov2Model", "Dinov2Config", **VIT), pixels(), pooled, "layernorm"),
    _made(
        "DINOv3ViTModel",
        net("DINOv3ViTModel", "DINOv3ViTConfig", **VIT, num_register_tokens=4),
        pixels(),
        pooled,
        "norm",
    ),
    _made("DINOv3ConvNextModel", net("DINOv3ConvNextModel", "DINOv3ConvNextConfig", **STAGES), pixels(128), pooled),
    _made(
        "SiglipVisionModel",
        net("SiglipVisionModel", "SiglipVisionConfig", **VIT),
        pixels(),
        pooled,
        layer="post_layernorm",
    ),
    _made("CLIPVisionModel", net("CLIPVisionModel", "CLIPVisionConfig", **VIT), pixels(), pooled, layer="encoder"),
    _made(
        "ViTMAEModel",
        net("ViTMAEModel", "ViTMAEConfig", **VIT, mask_ratio=0.0),
        lambda batch: {"pixel_values": images(batch, 3, 64, 64), "noise": torch.arange(16.0).repeat(batch, 1)},
        pooled,
        layer="layernorm",
    ),
    _made(
        "Hiera",
        net(
            "HieraForImageClassification",
            "HieraConfig",
            image_size=[64, 64],
            embed_dim=16,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 4, 8],
            num_labels=5,
        ),
        pixels(),
        layer="hiera.encoder",
    ),
    _made(
        "Levit",
        net(
            "LevitForImageClassification",
            "LevitConfig",
            image_size=128,
            hidden_sizes=[16, 24, 32],
            num_attention_heads=[2, 2, 2],
            depths=[1, 1, 1],
            key_dim=[8, 8, 8],
            num_labels=5,
        ),
        pixels(128),
    ),
    _made(
        "MobileNetV1",
        net("MobileNetV1ForImageClassification", "MobileNetV1Config", depth_multiplier=0.25),
        pixels(),
        layer="mobilenet_v1.layer.25",
    ),
    _made(
        "TextNet",
        net("TextNetForImageClassification", "TextNetConfig", num_labels=5),
        pixels(),
        layer="textnet.encoder.stages.3",
    ),
    _made("HGNetV2", net("HGNetV2ForImageClassification", "HGNetV2Config", num_labels=5), pixels(), layer="encoder"),
    _made("Aimv2VisionModel", net("Aimv2VisionModel", "Aimv2VisionConfig", **VIT), pixels(), pooled, layer="rms_norm"),
    _made(
        "Perceiver",
        net(
            "PerceiverForImageClassificationConvProcessing",
            "PerceiverConfig",
            num_latents=8,
            d_latents=32,
            d_model=322,
            num_blocks=1,
            num_self_attends_per_block=2,
            num_self_attention_heads=4,
            num_cross_attention_heads=1,
            num_labels=5,
        ),
        lambda batch: {"inputs": images(batch, 3, 224, 224)},
    ),
    _made(
        "Swin2SR",
        net(
            "Swin2SRForImageSuperResolution",
            "Swin2SRConfig",
            image_size=32,
            embed_dim=24,
            depths=[2, 2],
            num_heads=[2, 2],
            window_size=4,
            upscale=2,
        ),
        pixels(32),
        lambda out: out["reconstruction"][:, 1].mean((1, 2)),
    ),
]

DENSE = [
    _made(
        "Segformer, segmenter",
        net(
            "SegformerForSemanticSegmentation",
            "SegformerConfig",
            **STAGES,
            decoder_hidden_size=24,
            num_attention_heads=[1, 2, 2, 2],
            num_labels=5,
        ),
        pixels((64, 96)),
        first_class,
        "decode_head.activation",
    ),
    _made(
        "UperNet, ConvNext",
        net(
            "UperNetForSemanticSegmentation",
            "UperNetConfig",
            hidden_size=20,
            auxiliary_channels=8,
            auxiliary_in_channels=32,
            num_labels=5,
            backbone_config=("ConvNextConfig", STAGES | {"out_features": ["stage1", "stage2", "stage3", "stage4"]}),
        ),
        pixels(96),
        first_class,
        "decode_head.fpn_bottleneck",
    ),
    _made(
        "UperNet, Swin",
        net(
            "UperNetForSemanticSegmentation",
            "UperNetConfig",
            hidden_size=24,
            num_labels=5,
            auxiliary_in_channels=64,
            auxiliary_channels=8,
            backbone_config=SWIN_BACKBONE,
        ),
        pixels(),
        first_class,
        "decode_head.fpn_bottleneck",
    ),
    _made(
        "MobileViT, segmenter",
        net(
            "MobileViTForSemanticSegmentation",
            "MobileViTConfig",
            image_size=128,
            initializer_range=0.2,
            num_labels=5,
            aspp_out_channels=24,
        ),
        pixels(128),
        layer="segmentation_head.aspp",
    ),
    _made(
        "MobileNetV2, segmenter",
        net("MobileNetV2ForSemanticSegmentation", "MobileNetV2Config", depth_multiplier=0.35, num_labels=5),
        pixels(96),
        layer="segmentation_head.conv_projection",
    ),
    _made(
        "Beit, segmenter",
        net(
            "BeitForSemanticSegmentation",
            "BeitConfig",
            **VIT,
            num_labels=5,
            out_indices=[1, 2, 3, 4],
            pool_scales=[1, 2, 3, 6],
        ),
        pixels(),
        layer="decode_head.fpn_bottleneck",
    ),
    _made(
        "DPT, segmenter",
        net(
            "DPTForSemanticSegmentation",
            "DPTConfig",
            **VIT,
            backbone_out_indices=[0, 1, 2, 3],
            num_labels=5,
            neck_hidden_sizes=[8, 16, 24, 32],
            fusion_hidden_size=16,
            is_hybrid=False,
        ),
        pixels(),
        layer="head.head.2",
    ),
    _made(
        "DPT, depth",
        net(
            "DPTForDepthEstimation",
            "DPTConfig",
            **VIT,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 16, 24, 32],
            fusion_hidden_size=16,
            is_hybrid=False,
        ),
        pixels(),
        everywhere,
        "head.head.3",
    ),
    _made(
        "DepthAnything",
        net(
            "DepthAnythingForDepthEstimation",
            "DepthAnythingConfig",
            backbone_config=DINO_BACKBONE,
            reassemble_hidden_size=32,
            patch_size=14,
            neck_hidden_sizes=[8, 16, 24, 32],
            fusion_hidden_size=16,
            head_hidden_size=8,
        ),
        pixels(56),
        everywhere,
        "head.activation1",
    ),
    _made(
        "GLPN",
        net("GLPNForDepthEstimation", "GLPNConfig", **STAGES, decoder_hidden_size=16, num_attention_heads=[1, 2, 2, 2]),
        pixels(),
        everywhere,
        layer="head.head.1",
    ),
    _made(
        "ZoeDepth",
        net(
            "ZoeDepthForDepthEstimation",
            "ZoeDepthConfig",
            backbone_config=(
                "BeitConfig",
                VIT | {"out_features": ["stage1", "stage2", "stage3", "stage4"], "reshape_hidden_states": False},
            ),
            backbone_hidden_size=32,
            neck_hidden_sizes=[8, 16, 24, 32],
            fusion_hidden_size=16,
            bottleneck_features=16,
            num_relative_features=8,
            bin_embedding_dim=16,
            num_attractors=[4, 2, 1, 1],
        ),
        pixels(),
        everywhere,
    ),
    _made(
        "CLIPSeg",
        net(
            "CLIPSegForImageSegmentation",
            "CLIPSegConfig",
            text_config=CLIP_TEXT,
            vision_config=VIT,
            extract_layers=[1, 2, 3],
            reduce_dim=16,
            projection_dim=32,
            decoder_num_attention_heads=4,
            decoder_intermediate_size=32,
        ),
        pixels(text=6),
        everywhere,
        layer="decoder.layers.2",
    ),
    _made(
        "MaskFormer",
        net(
            "MaskFormerForInstanceSegmentation",
            "MaskFormerConfig",
            backbone_config=SWIN_BACKBONE,
            fpn_feature_size=32,
            mask_feature_size=32,
            decoder_config=(
                "DetrConfig",
                {
                    "d_model": 32,
                    "decoder_layers": 2,
                    "decoder_attention_heads": 2,
                    "decoder_ffn_dim": 32,
                    "num_queries": 5,
                    "encoder_layers": 1,
                },
            ),
        ),
        pixels(),
        masks,
        layer="model.pixel_level_module.decoder",
    ),
    _made(
        "Mask2Former",
        net(
            "Mask2FormerForUniversalSegmentation",
            "Mask2FormerConfig",
            backbone_config=SWIN_BACKBONE,
            feature_size=32,
            mask_feature_size=32,
            hidden_dim=32,
            encoder_feedforward_dim=32,
            dim_feedforward=32,
            encoder_layers=1,
            decoder_layers=3,
            num_attention_heads=2,
            num_queries=5,
        ),
        pixels(),
        masks,
        vmaps=False,
        layer="model.pixel_level_module.decoder.mask_projection",
    ),
    _made(
        "EoMT",
        net(
            "EomtForUniversalSegmentation",
            "EomtConfig",
            **VIT,
            num_queries=5,
            num_blocks=1,
            num_upscale_blocks=1,
            num_register_tokens=4,
        ),
        pixels(),
        masks,
        vmaps=False,
        layer="layers.3",
    ),
    _made(
        "SAM",
        net(
            "SamModel",
            "SamConfig",
            vision_config=(
                "SamVisionConfig",
                WIDTH
                | {
                    "image_size": 64,
                    "patch_size": 16,
                    "output_channels": 16,
                    "num_pos_feats": 8,
                    "num_hidden_layers": 2,
                    "global_attn_indexes": [1],
                    "window_size": 2,
                    "mlp_dim": 64,
                },
            ),
            prompt_encoder_config=(
                "SamPromptEncoderConfig",
                {"hidden_size": 16, "image_size": 64, "mask_input_channels": 4},
            ),
            mask_decoder_config=(
                "SamMaskDecoderConfig",
                {
                    "hidden_size": 16,
                    "mlp_dim": 32,
                    "num_attention_heads": 2,
                    "num_hidden_layers": 1,
                    "iou_head_hidden_dim": 16,
                },
            ),
        ),
        lambda batch: {"pixel_values": images(batch, 3, 64, 64), "input_points": torch.full((batch, 1, 1, 2), 30.0)},
        lambda out: out["pred_masks"][:, 0, 0].mean((1, 2)),
    ),
    _made(
        "VitMatte",
        net(
            "VitMatteForImageMatting",
            "VitMatteConfig",
            hidden_size=32,
            backbone_config=(
                "VitDetConfig",
                {
                    "hidden_size": 32,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "image_size": 64,
                    "patch_size": 16,
                    "num_channels": 4,
                    "out_features": ["stage2"],
                },
            ),
            convstream_hidden_sizes=[8, 12, 16],
            fusion_hidden_sizes=[32, 24, 16, 8],
        ),
        lambda batch: {"pixel_values": images(batch, 4, 64, 64)},
        lambda out: out["alphas"].flatten(1).mean(1),
        layer="decoder.matting_head.matting_convs.2",
    ),
]

DETR = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "backbone_config": TINY_RESNET,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_queries": 6,
    "num_labels": 5,
}
RT = {
    "backbone_config": (
        "RTDetrResNetConfig",
        {
            "embedding_size": 16,
            "hidden_sizes": [16, 24, 32, 40],
            "depths": [1, 1, 1, 1],
            "layer_type": "basic",
            "out_features": ["stage2", "stage3", "stage4"],
        },
    ),
    "encoder_hidden_dim": 16,
    "encoder_in_channels": [24, 32, 40],
    "d_model": 16,
    "encoder_ffn_dim": 32,
    "num_queries": 6,
    "decoder_in_channels": [16, 16, 16],
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "encoder_attention_heads": 2,
    "num_labels": 5,
    "anchor_image_size": None,
}
DFINE = RT | {
    "backbone_config": (
        "HGNetV2Config",
        {
            "stem_channels": [3, 8, 8],
            "stage_in_channels": [8, 16, 24, 32],
            "stage_mid_channels": [8, 8, 8, 8],
            "stage_out_channels": [16, 24, 32, 40],
            "stage_num_blocks": [1, 1, 1, 1],
            "stage_numb_of_layers": [1, 1, 1, 1],
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [16, 24, 32, 40],
            "out_features": ["stage2", "stage3", "stage4"],
        },
    )
}

DETECTORS = [
    _made("DETR", net("DetrForObjectDetection", "DetrConfig", **DETR), pixels(128), detected, "model.encoder"),
    _made(
        "DETR, segmenter",
        net(
            "DetrForSegmentation",
            "DetrConfig",
            **(
                DETR
                | {
                    "backbone_config": (
                        "ResNetConfig",
                        RESNET | {"out_features": ["stage1", "stage2", "stage3", "stage4"]},
                    ),
                    "d_model": 32,
                    "encoder_attention_heads": 8,
                    "decoder_attention_heads": 8,
                }
            ),
        ),
        pixels(128),
        detected,
    ),
    _made(
        "ConditionalDETR",
        net("ConditionalDetrForObjectDetection", "ConditionalDetrConfig", **DETR),
        pixels(128),
        detected,
        layer="model.encoder",
    ),
    _made(
        "DAB-DETR",
        net("DabDetrForObjectDetection", "DabDetrConfig", **(DETR | {"hidden_size": 16})),
        pixels(128),
        detected,
        layer="model.encoder",
    ),
    _made(
        "TableTransformer",
        net("TableTransformerForObjectDetection", "TableTransformerConfig", **DETR),
        pixels(128),
        detected,
        layer="model.encoder",
    ),
    _made(
        "DeformableDETR",
        net("DeformableDetrForObjectDetection", "DeformableDetrConfig", **(DETR | {"d_model": 32})),
        pixels(128),
        detected,
        layer="model.input_proj.2",
    ),
    _made(
        "RT-DETR",
        net("RTDetrForObjectDetection", "RTDetrConfig", **RT),
        pixels(128),
        detected,
        layer="model.decoder_input_proj.2",
    ),
    _made(
        "RT-DETRv2",
        net("RTDetrV2ForObjectDetection", "RTDetrV2Config", **RT),
        pixels(128),
        detected,
        layer="model.decoder_input_proj.2",
    ),
    _made(
        "D-FINE",
        net("DFineForObjectDetection", "DFineConfig", **DFINE),
        pixels(128),
        detected,
        layer="model.encoder.pan_blocks.1",
    ),
    _made(
        "YOLOS",
        net(
            "YolosForObjectDetection",
            "YolosConfig",
            **(VIT | {"image_size": [64, 96]}),
            num_detection_tokens=5,
            num_labels=5,
        ),
        pixels((64, 96)),
        detected,
        layer="vit.encoder.layer.3.layernorm_before",
    ),
    _made(
        "OWL-ViT",
        net(
            "OwlViTForObjectDetection",
            "OwlViTConfig",
            text_config=TEXT | {"max_position_embeddings": 16},
            vision_config=VIT,
            projection_dim=32,
        ),
        lambda batch: {"pixel_values": images(batch, 3, 64, 64), "input_ids": words(2 * batch)},
        detected,
        layer="owlvit.vision_model.encoder",
    ),
    _made(
        "OWLv2",
        net(
            "Owlv2ForObjectDetection",
            "Owlv2Config",
            text_config=TEXT | {"max_position_embeddings": 16},
            vision_config=VIT,
            projection_dim=32,
        ),
        lambda batch: {"pixel_values": images(batch, 3, 64, 64), "input_ids": words(2 * batch)},
        detected,
        layer="owlv2.vision_model.encoder",
    ),
    _made(
        "GroundingDINO",
        net(
            "GroundingDinoForObjectDetection",
            "GroundingDinoConfig",
            backbone_config=("SwinConfig", SWIN | {"out_features": ["stage2", "stage3", "stage4"]}),
            text_config=("BertConfig", TEXT),
            d_model=32,
            encoder_layers=1,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            num_queries=6,
            use_timm_backbone=False,
            backbone=None,
        ),
        pixels(128, text=6),
        lambda out: out["logits"][..., 1].sigmoid().sum(1),
        vmaps=False,
    ),
]

LLAMA = ("LlamaConfig", DECODER)
BOTH = [
    _made(
        "CLIPModel",
        net("CLIPModel", "CLIPConfig", text_config=CLIP_TEXT, vision_config=CLIP_VISION, projection_dim=16),
        pixels(text=6),
        lambda out: out["logits_per_image"].diagonal(),
        "vision_model.encoder.layers.3.layer_norm1",
    ),
    _made(
        "SiglipModel",
        net("SiglipModel", "SiglipConfig", text_config=TEXT | {"projection_size": 32}, vision_config=VIT),
        pixels(text=6),
        lambda out: out["logits_per_image"].diagonal(),
        "vision_model.post_layernorm",
    ),
    _made(
        "Siglip2Model",
        net(
            "Siglip2Model",
            "Siglip2Config",
            text_config=TEXT | {"projection_size": 32},
            vision_config=VIT | {"num_patches": 16},
        ),
        lambda batch: {
            "pixel_values": images(batch, 16, 3 * 16 * 16),
            "pixel_attention_mask": torch.ones(batch, 16).long(),
            "spatial_shapes": torch.tensor([[4, 4]] * batch),
            "input_ids": words(batch),
        },
        lambda out: out["logits_per_image"].diagonal(),
    ),
    _made(
        "ChineseCLIP",
        net("ChineseCLIPModel", "ChineseCLIPConfig", text_config=TEXT, vision_config=CLIP_VISION, projection_dim=16),
        pixels(text=6),
        lambda out: out["logits_per_image"].diagonal(),
        "vision_model.encoder.layers.3.layer_norm1",
    ),
    _made(
        "AltCLIP",
        net(
            "AltCLIPModel",
            "AltCLIPConfig",
            text_config=TEXT | {"project_dim": 32, "pad_token_id": 1},
            vision_config=CLIP_VISION,
            projection_dim=16,
        ),
        pixels(text=6),
        lambda out: out["logits_per_image"].diagonal(),
        layer="vision_model.encoder.layers.3.layer_norm1",
    ),
    _made(
        "ALIGN",
        net(
            "AlignModel",
            "AlignConfig",
            text_config=TEXT,
            vision_config={
                "image_size": 64,
                "width_coefficient": 0.5,
                "depth_coefficient": 0.5,
                "hidden_dim": 640,
                "initializer_range": 0.2,
            },
            projection_dim=160,
        ),
        pixels(text=6),
        lambda out: out["logits_per_image"].diagonal(),
        layer="vision_model.encoder",
    ),
    _made(
        "GroupViT",
        net(
            "GroupViTModel",
            "GroupViTConfig",
            text_config=TEXT,
            vision_config=WIDTH
            | {
                "image_size": 64,
                "patch_size": 16,
                "depths": [1, 1],
                "num_group_tokens": [4, 0],
                "num_output_groups": [4, 1],
                "num_hidden_layers": 2,
            },
            projection_dim=16,
            projection_intermediate_dim=16,
        ),
        pixels(text=6),
        lambda out: out["logits_per_image"].diagonal(),
    ),
    _made(
        "FLAVA",
        net("FlavaModel", "FlavaConfig", image_config=VIT, text_config=TEXT, multimodal_config=WIDTH, hidden_size=32),
        pixels(text=6),
        lambda out: out["multimodal_output"]["last_hidden_state"][:, 0].square().sum(1),
        layer="image_model.encoder.layer.3",
    ),
    _made(
        "BLIP",
        net(
            "BlipForImageTextRetrieval", "BlipConfig", text_config=TEXT | {"encoder_hidden_size": 32}, vision_config=VIT
        ),
        pixels(text=6),
        lambda out: out["itm_score"][:, 1],
        layer="vision_model.encoder",
    ),
    _made(
        "BLIP-2",
        net(
            "Blip2ForConditionalGeneration",
            "Blip2Config",
            vision_config=VIT,
            qformer_config=TEXT | {"encoder_hidden_size": 32},
            text_config=("OPTConfig", TEXT | {"ffn_dim": 64, "word_embed_proj_dim": 32}),
            num_query_tokens=4,
            image_token_index=98,
        ),
        prompted(98, 4),
        last_word,
        layer="vision_model.encoder",
    ),
    _made(
        "LayoutLMv3",
        net(
            "LayoutLMv3ForSequenceClassification",
            "LayoutLMv3Config",
            **TEXT,
            input_size=64,
            patch_size=16,
            num_labels=5,
            coordinate_size=6,
            shape_size=4,
        ),
        lambda batch: {
            "pixel_values": images(batch, 3, 64, 64),
            "input_ids": words(batch),
            "bbox": torch.zeros(batch, 6, 4).long(),
        },
    ),
    _made(
        "BridgeTower",
        net(
            "BridgeTowerForImageAndTextRetrieval",
            "BridgeTowerConfig",
            hidden_size=32,
            num_attention_heads=4,
            intermediate_size=64,
            num_hidden_layers=2,
            text_config=("BridgeTowerTextConfig", TEXT),
            vision_config=(
                "BridgeTowerVisionConfig",
                {"hidden_size": 64, "num_hidden_layers": 3, "image_size": 64, "patch_size": 16},
            ),
        ),
        pixels(text=6),
    ),
    _made(
        "LLaVA",
        net(
            "LlavaForConditionalGeneration",
            "LlavaConfig",
            vision_config=("CLIPVisionConfig", VIT),
            text_config=LLAMA,
            image_token_index=98,
        ),
        prompted(98, 16),
        last_word,
        "model.vision_tower.encoder.layers.2",
    ),
    _made(
        "PaliGemma",
        net(
            "PaliGemmaForConditionalGeneration",
            "PaliGemmaConfig",
            vision_config=("SiglipVisionConfig", VIT | {"projection_dim": 32}),
            text_config=("GemmaConfig", DECODER),
            projection_dim=32,
            image_token_index=98,
        ),
        prompted(98, 16, token_type_ids=lambda b: torch.zeros(b, 20).long()),
        last_word,
        layer="model.vision_tower.post_layernorm",
    ),
    _made(
        "Gemma 3",
        net(
            "Gemma3ForConditionalGeneration",
            "Gemma3Config",
            vision_config=("SiglipVisionConfig", VIT | {"vision_use_head": False}),
            text_config=("Gemma3TextConfig", DECODER),
            mm_tokens_per_image=4,
            image_token_index=98,
            boi_token_index=96,
            eoi_token_index=97,
        ),
        prompted(98, 4, token_type_ids=lambda b: torch.tensor([[0, 1, 1, 1, 1, 0, 0, 0]] * b)),
        last_word,
        layer="model.vision_tower",
    ),
    _made(
        "Idefics3",
        net(
            "Idefics3ForConditionalGeneration",
            "Idefics3Config",
            vision_config=("Idefics3VisionConfig", VIT),
            text_config=("LlamaConfig", DECODER),
            image_token_id=98,
            scale_factor=2,
            pad_token_id=0,
        ),
        lambda batch: {
            "input_ids": torch.tensor([[1, 98, 98, 98, 98, 5, 6]] * batch),
            "pixel_values": images(batch, 1, 3, 64, 64),
            "pixel_attention_mask": torch.ones(batch, 1, 64, 64).bool(),
        },
        last_word,
    ),
    _made(
        "InternVL",
        net(
            "InternVLForConditionalGeneration",
            "InternVLConfig",
            vision_config=("InternVLVisionConfig", VIT | {"image_size": [64, 64], "patch_size": [16, 16]}),
            text_config=("Qwen2Config", DECODER),
            image_token_id=98,
            downsample_ratio=0.5,
        ),
        prompted(98, 4),
        last_word,
        layer="model.vision_tower.encoder",
    ),
    _made(
        "Qwen2-VL",
        net(
            "Qwen2VLForConditionalGeneration",
            "Qwen2VLConfig",
            vision_config={"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 32, "patch_size": 14},
            text_config=DECODER
            | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}},
            image_token_id=98,
            video_token_id=97,
            vision_start_token_id=96,
        ),
        lambda batch: {
            "input_ids": torch.tensor([[1, 96, 98, 98, 98, 98, 5]] * batch),
            "pixel_values": images(16 * batch, 3 * 2 * 14 * 14),
            "image_grid_thw": torch.tensor([[1, 4, 4]] * batch),
            "mm_token_type_ids": torch.tensor([[0, 0, 1, 1, 1, 1, 0]] * batch),
        },
        last_word,
        vmaps=False,
    ),
    _made(
        "GIT",
        net("GitForCausalLM", "GitConfig", **TEXT, vision_config=VIT),
        pixels(text=6),
        last_word,
        layer="git.image_encoder",
    ),
    _made(
        "Kosmos-2",
        net(
            "Kosmos2ForConditionalGeneration",
            "Kosmos2Config",
            vision_config=VIT,
            text_config={
                "embed_dim": 32,
                "layers": 2,
                "attention_heads": 4,
                "ffn_dim": 64,
                "vocab_size": 99,
                "max_position_embeddings": 64,
            },
            latent_query_num=4,
        ),
        prompted(98, 4, image_embeds_position_mask=lambda b: torch.tensor([[0, 1, 1, 1, 1, 0, 0, 0]] * b).bool()),
        last_word,
        layer="vision_model.model.encoder",
        vmaps=False,
    ),
    _made(
        "VisionEncoderDecoder",
        net(
            "VisionEncoderDecoderModel",
            "VisionEncoderDecoderConfig",
            encoder=VIT | {"model_type": "vit"},
            decoder=TEXT | {"model_type": "bert", "is_decoder": True, "add_cross_attention": True},
        ),
        lambda batch: {"pixel_values": images(batch, 3, 64, 64), "decoder_input_ids": words(batch)},
        last_word,
        layer="encoder.layernorm",
    ),
    _made(
        "Florence-2",
        net(
            "Florence2ForConditionalGeneration",
            "Florence2Config",
            vision_config=(
                "Florence2VisionConfig",
                {
                    "embed_dim": [16, 24, 32, 40],
                    "num_heads": [1, 2, 2, 4],
                    "num_groups": [1, 2, 2, 4],
                    "depths": [1, 1, 1, 1],
                    "window_size": 2,
                    "projection_dim": 32,
                },
            ),
            text_config=(
                "BartConfig",
                {
                    "d_model": 32,
                    "encoder_layers": 1,
                    "decoder_layers": 1,
                    "vocab_size": 99,
                    "encoder_attention_heads": 2,
                    "decoder_attention_heads": 2,
                    "encoder_ffn_dim": 32,
                    "decoder_ffn_dim": 32,
                    "max_position_embeddings": 64,
                },
            ),
            image_token_id=98,
        ),
        lambda batch: {
            "pixel_values": images(batch, 3, 64, 64),
            "input_ids": torch.tensor([[1, *[98] * 5, 7, 8]] * batch),
            "decoder_input_ids": words(batch, 3),
        },
        last_word,
        layer="model.vision_tower",
    ),
    _made(
        "Pix2Struct",
        net(
            "Pix2StructVisionModel",
            "Pix2StructVisionConfig",
            hidden_size=32,
            patch_embed_hidden_size=768,
            d_ff=64,
            d_kv=8,
            num_hidden_layers=2,
            num_attention_heads=4,
            seq_len=16,
        ),
        lambda batch: {"flattened_patches": torch.cat([torch.ones(batch, 16, 2), images(batch, 16, 768)], 2)},
        pooled,
    ),
]

TIME = [
    _made(
        "VideoMAE",
        net("VideoMAEForVideoClassification", "VideoMAEConfig", **VIT, num_frames=8, tubelet_size=2, num_labels=5),
        frames(8),
    ),
    _made(
        "ViViT",
        net("VivitForVideoClassification", "VivitConfig", **VIT, num_frames=8, tubelet_size=[2, 16, 16], num_labels=5),
        frames(8),
    ),
    _made(
        "TimeSformer",
        net("TimesformerForVideoClassification", "TimesformerConfig", **VIT, num_frames=4, num_labels=5),
        frames(4),
    ),
    _made(
        "V-JEPA 2",
        net(
            "VJEPA2ForVideoClassification",
            "VJEPA2Config",
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            crop_size=64,
            patch_size=16,
            frames_per_clip=4,
            mlp_ratio=2,
            num_pooler_layers=1,
            pred_hidden_size=48,
            pred_num_attention_heads=2,
            pred_num_hidden_layers=1,
            num_labels=5,
        ),
        lambda batch: {"pixel_values_videos": images(batch, 4, 3, 64, 64)},
    ),
    _made(
        "X-CLIP",
        net(
            "XCLIPModel",
            "XCLIPConfig",
            text_config=CLIP_TEXT,
            vision_config=VIT
            | {
                "num_frames": 4,
                "mit_hidden_size": 32,
                "mit_intermediate_size": 32,
                "mit_num_hidden_layers": 1,
                "mit_num_attention_heads": 2,
            },
            projection_dim=32,
            prompt_num_attention_heads=2,
        ),
        lambda batch: {"pixel_values": images(batch, 4, 3, 64, 64), "input_ids": words(batch)},
        lambda out: out["logits_per_video"].diagonal(),
    ),
    _made(
        "AST",
        net(
            "ASTForAudioClassification",
            "ASTConfig",
            **WIDTH,
            patch_size=16,
            max_length=64,
            num_mel_bins=32,
            frequency_stride=10,
            time_stride=10,
            num_labels=5,
        ),
        lambda batch: {"input_values": images(batch, 64, 32)},
    ),
    _made(
        "wav2vec 2.0",
        net(
            "Wav2Vec2ForSequenceClassification",
            "Wav2Vec2Config",
            **WIDTH,
            conv_dim=[16, 16],
            conv_stride=[5, 2],
            conv_kernel=[10, 3],
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            num_labels=5,
        ),
        lambda batch: {"input_values": images(batch, 400)},
    ),
    _made(
        "CLAP audio",
        net(
            "ClapAudioModel",
            "ClapAudioConfig",
            spec_size=64,
            num_mel_bins=16,
            patch_embeds_hidden_size=16,
            hidden_size=32,
            depths=[1, 1],
            num_attention_heads=[2, 2],
            window_size=2,
            patch_size=4,
            patch_stride=[4, 4],
            projection_dim=16,
        ),
        lambda batch: {"input_features": images(batch, 1, 256, 16)},
        pooled,
    ),
]

OTHERS: list[Made] = [*FEATURES, *DENSE, *DETECTORS, *BOTH, *TIME]
