"""Networks of packages that only the sweep installs, and members of timm and torchvision beside their classifiers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.nets.made import Made, everywhere, first_class, plain
from tests.nets.small import images


def last_map(outputs: Any) -> Tensor:
    """The mean square of the last feature map, or of the pooled features."""
    found: Tensor = outputs[-1] if isinstance(outputs, (list, tuple)) else outputs
    return found.flatten(1).square().mean(1)


# ----------------------------------------------------------------------------------------------------------------- timm


def _timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        model: nn.Module = timm.create_model(name, **options)
        return model

    return make


class WithFeatures(nn.Module):
    """A classifier that returns its features beside the logits."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        body: Any = self.body
        features = body.forward_features(x)
        return body.forward_head(features), features


def _with_features(name: str) -> Callable[[], nn.Module]:
    return lambda: WithFeatures(_timm(name, num_classes=5)())


def _without_fc() -> nn.Module:
    import torchvision

    model: Any = torchvision.models.resnet18()
    model.fc = nn.Identity()
    return model  # type: ignore[no-any-return]


_POOLED = [
    ("resnet18", 64, "layer4"),
    ("convnext_atto", 64, "stages"),
    ("efficientnet_b0", 64, "bn2"),
    ("mobilenetv3_small_050", 64, "blocks"),
    ("regnetx_002", 64, "s4"),
    ("densenet121", 64, "features"),
    ("dla34", 64, "level5"),
    ("vgg11", 64, ""),
    ("swin_tiny_patch4_window7_224", 64, "norm"),
    ("vit_base_patch16_siglip_224", 64, "norm"),
    ("vit_tiny_patch16_224", 64, "blocks.2.norm1"),
    ("hgnetv2_b0", 64, "stages"),
    ("repvit_m0_9", 64, "stages"),
]
_LEVELS = [
    ("resnet18", "layer4"),
    ("convnext_atto", "stages_3"),
    ("efficientnet_b0", ""),
    ("mobilenetv3_small_050", ""),
    ("regnetx_002", "s4"),
    ("hrnet_w18_small", ""),
    ("vgg11", ""),
    ("mobilevit_xxs", ""),
    ("pvt_v2_b0", "stages_3"),
    ("cspdarknet53", ""),
    ("resnetv2_18", ""),
]
_SIZED = {"swin_tiny_patch4_window7_224", "vit_base_patch16_siglip_224", "vit_tiny_patch16_224"}


def _timm_members() -> list[Made]:
    found = []
    for name, size, layer in _POOLED:
        options: dict[str, Any] = {"num_classes": 0}
        options |= {"img_size": size} if name in _SIZED else {}
        options |= {"depth": 3} if name.startswith("vit") else {}
        found.append(Made("timm", f"{name}, pooled", _timm(name, **options), plain(3, size, size), last_map, layer))
    for name, layer in _LEVELS:
        make = _timm(name, features_only=True)
        found.append(Made("timm", f"{name}, levels", make, plain(3, 64, 64), last_map, layer))
    for name, layer in (("resnet18", "body.layer4"), ("convnext_atto", "body.stages")):
        found.append(Made("timm", f"{name}, logits and features", _with_features(name), layer=layer))
    more: list[tuple[str, int, dict[str, Any]]] = [
        ("vit_small_patch16_dinov3", 64, {"img_size": 64, "depth": 3}),
        ("vit_base_patch16_clip_224", 64, {"img_size": 64, "depth": 3}),
        ("vit_base_patch16_gap_224", 64, {"img_size": 64, "depth": 3}),
        ("flexivit_small", 96, {"img_size": 96, "depth": 3}),
        ("vit_so150m_patch16_reg4_map_256", 64, {"img_size": 64, "depth": 3}),
        ("crossvit_15_dagger_240", 240, {}),
        ("coat_lite_tiny", 224, {}),
        ("vit_relpos_small_patch16_224", 64, {"img_size": 64, "depth": 3}),
        ("deit3_small_patch16_224", 64, {"img_size": 64, "depth": 3}),
        ("resmlp_12_224", 224, {}),
        ("gmixer_12_224", 224, {}),
        ("gmlp_ti16_224", 224, {}),
        ("coatnet_0_rw_224", 224, {}),
        ("convformer_s18", 64, {}),
        ("efficientnetv2_rw_t", 64, {}),
        ("mobilenetv4_conv_small", 64, {}),
        ("mixnet_s", 64, {}),
        ("mnasnet_small", 64, {}),
        ("gernet_s", 64, {}),
        ("repvgg_a0", 64, {}),
        ("resnet26d", 64, {}),
        ("seresnet18", 64, {}) if False else ("seresnet50", 64, {}),
        ("ecaresnet26t", 64, {}),
        ("eca_nfnet_l0", 64, {}),
        ("botnet26t_256", 256, {}),
        ("lambda_resnet26t", 256, {}),
        ("lambda_resnet26rpt_256", 256, {}),
        ("cspresnet50", 64, {}),
        ("darknet53", 64, {}),
        ("vovnet39a", 96, {}) if False else ("ese_vovnet19b_dw", 64, {}),
        ("gcresnet33ts", 64, {}),
        ("convnextv2_atto", 64, {}),
        ("pit_ti_distilled_224", 224, {}),
        ("levit_conv_128s", 224, {}),
        ("mvitv2_small", 224, {}),
        ("xcit_tiny_12_p8_224", 64, {}),
        ("cait_xxs36_224", 64, {"img_size": 64, "depth": 3}),
        ("hieradet_small", 64, {}),
        ("sam2_hiera_tiny", 64, {"img_size": 64}) if False else ("hiera_small_224", 224, {}),
        ("nest_tiny_jx", 224, {}),
        ("focalnet_tiny_lrf", 64, {}),
        ("efficientvit_l1", 64, {}),
        ("edgenext_small", 64, {}),
        ("poolformerv2_s12", 64, {}),
        ("twins_pcpvt_small", 224, {}),
        ("swin_s3_tiny_224", 224, {}),
        ("tf_efficientnet_lite0", 64, {}),
        ("fbnetc_100", 64, {}),
        ("spnasnet_100", 64, {}),
        ("semnasnet_075", 64, {}),
        ("skresnext50_32x4d", 64, {}),
        ("resnetblur50", 64, {}),
        ("resnext26ts", 64, {}),
        ("wide_resnet50_2", 64, {}),
        ("beitv2_base_patch16_224", 64, {"img_size": 64, "depth": 3}),
    ]
    found += [Made("timm", name, _timm(name, **options), plain(3, size, size)) for name, size, options in more]
    return found


# ---------------------------------------------------------------------------------------------------------- torchvision


def _video(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from torchvision.models import video

        model: nn.Module = getattr(video, name)(num_classes=5)
        return model

    return make


def _quantizable(name: str) -> Callable[[], nn.Module]:
    """The network of torchvision.models.quantization in floating point."""

    def make() -> nn.Module:
        from torchvision.models import quantization

        model: nn.Module = getattr(quantization, name)(quantize=False)
        return model

    return make


def _tv_backbone() -> nn.Module:
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    return resnet_fpn_backbone(backbone_name="resnet18", weights=None)  # type: ignore[no-any-return]


def _torchvision_members() -> list[Made]:
    video = [("r3d_18", 32), ("mc3_18", 32), ("r2plus1d_18", 32), ("s3d", 224), ("mvit_v1_b", 224), ("swin3d_t", 64)]
    found = [
        Made("torchvision", f"video.{name}", _video(name), plain(3, 16 if size != 32 else 8, size, size))
        for name, size in video
        if name != "mvit_v1_b"
    ]
    found.append(Made("torchvision", "resnet18, no fc", _without_fc, plain(3, 64, 64), last_map, "layer4"))
    found.append(
        Made(
            "torchvision",
            "resnet18, pyramid",
            _tv_backbone,
            plain(3, 128, 128),
            lambda out: out["0"].flatten(1).square().mean(1),
            "fpn.layer_blocks.0",
        )
    )
    quantizable = ("resnet18", "mobilenet_v2", "mobilenet_v3_large", "shufflenet_v2_x0_5")
    found += [Made("torchvision", f"quantization.{name}", _quantizable(name)) for name in quantizable]
    return found


# --------------------------------------------------------------------------------------------------------- ultralytics


def _yolo(config: str, task: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from ultralytics.nn import tasks

        classes = {
            "seg": "SegmentationModel",
            "pose": "PoseModel",
            "obb": "OBBModel",
            "cls": "ClassificationModel",
            "rtdetr": "RTDETRDetectionModel",
            "world": "WorldModel",
        }
        model: nn.Module = getattr(tasks, classes.get(task, "DetectionModel"))(config, verbose=False)
        return model

    return make


def boxes(outputs: Any) -> Tensor:
    """The sum of the scores of class 1 over all anchors (B, 4 + K, N), or of the boxes that are left (B, n, 6)."""
    while isinstance(outputs, (list, tuple)):
        outputs = outputs[0]
    found: Tensor = outputs
    return found[..., 4].sum(1) if found.shape[-1] == 6 or found.shape[1] == 300 else found[:, 5].sum(1)


def _ultralytics_members() -> list[Made]:
    detectors = {
        "yolov3-tiny.yaml": "model.19",
        "yolov5n.yaml": "model.23",
        "yolov6n.yaml": "",
        "yolov8n.yaml": "model.21",
        "yolov8n-p2.yaml": "model.27",
        "yolov8n-p6.yaml": "",
        "yolov9t.yaml": "",
        "yolov10n.yaml": "model.22",
        "yolo11n.yaml": "model.22",
        "yolo12n.yaml": "model.20",
        "yolo26n.yaml": "model.22",
        "yolov8n-ghost.yaml": "",
    }
    found = [
        Made(
            "ultralytics",
            name,
            _yolo(name, ""),
            plain(3, 128, 128),
            boxes,
            layer,
            "yolov10" not in name and "26" not in name,
        )
        for name, layer in detectors.items()
    ]
    for name, task, layer in (
        ("yolov8n-seg.yaml", "seg", "model.21"),
        ("yolo11n-seg.yaml", "seg", "model.22"),
        ("yolov8n-pose.yaml", "pose", "model.21"),
        ("yolo11n-pose.yaml", "pose", "model.22"),
        ("yolov8n-obb.yaml", "obb", "model.21"),
        ("yolo11n-obb.yaml", "obb", "model.22"),
        ("yolov8n-cls.yaml", "cls", "model.9.conv"),
        ("yolo11n-cls.yaml", "cls", "model.10.conv"),
        ("yolo26n-seg.yaml", "seg", "model.22"),
        ("rtdetr-resnet50.yaml", "rtdetr", ""),
    ):
        score: Callable[[Any], Tensor] = boxes
        if task == "cls":
            score = lambda out: (out[0] if isinstance(out, tuple) else out)[:, 1]  # noqa: E731
        if task == "rtdetr":
            score = lambda out: out[0][..., 4].sum(1)  # noqa: E731
        vmaps = task != "rtdetr" and "26" not in name
        found.append(Made("ultralytics", name, _yolo(name, task), plain(3, 128, 128), score, layer, vmaps))
    return found


# --------------------------------------------------------------------------------------- segmentation_models_pytorch


def _smp(decoder: str, encoder: str, classes: int, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import segmentation_models_pytorch as smp

        model: nn.Module = getattr(smp, decoder)(encoder, encoder_weights=None, classes=classes, **options)
        return model

    return make


def _smp_members() -> list[Made]:
    found = []
    for decoder, classes, layer in (
        ("Unet", 5, "decoder"),
        ("Unet", 1, "decoder"),
        ("UnetPlusPlus", 5, "decoder"),
        ("MAnet", 5, "decoder"),
        ("Linknet", 5, "decoder"),
        ("FPN", 5, "decoder"),
        ("PSPNet", 5, "decoder"),
        ("DeepLabV3", 5, "decoder"),
        ("DeepLabV3Plus", 5, "decoder"),
        ("DeepLabV3Plus", 1, "decoder"),
        ("PAN", 5, "decoder"),
        ("UPerNet", 5, "decoder"),
        ("Segformer", 5, "decoder"),
    ):
        found.append(
            Made(
                "segmentation_models_pytorch",
                f"{decoder}, resnet18, {classes} classes",
                _smp(decoder, "resnet18", classes),
                plain(3, 128, 128) if decoder == "PAN" else plain(3, 64, 64),
                first_class if classes > 1 else everywhere,
                layer,
            )
        )
    encoders = (
        "mobilenet_v2",
        "timm-efficientnet-b0",
        "mit_b0",
        "densenet121",
        "vgg11",
        "tu-convnext_atto",
        "resnext50_32x4d",
    )
    found += [
        Made("segmentation_models_pytorch", f"Unet, {encoder}", _smp("Unet", encoder, 3), layer="decoder")
        for encoder in encoders
    ]
    found.append(
        Made(
            "segmentation_models_pytorch",
            "Unet, softmax",
            _smp("Unet", "resnet18", 3, activation="softmax2d"),
            layer="decoder",
        )
    )
    found.append(
        Made("segmentation_models_pytorch", "DPT", _smp("DPT", "tu-vit_tiny_patch16_224", 3), plain(3, 224, 224))
    )
    return found


# ------------------------------------------------------------------------------------------------------------ open_clip


def _open_clip(name: str, vision: dict[str, Any], text: dict[str, Any], **more: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import open_clip

        text_config = {"context_length": 8, "vocab_size": 99, "width": 32, "heads": 2, "layers": 2} | text
        cls = open_clip.CoCa if "multimodal_cfg" in more else open_clip.CLIP
        if more.pop("custom", False):
            cls = open_clip.CustomTextCLIP
        model: nn.Module = cls(embed_dim=16, vision_cfg={"image_size": 64} | vision, text_cfg=text_config, **more)
        return model

    return make


def _open_clip_members() -> list[Made]:
    vit = {"layers": 3, "width": 32, "head_width": 16, "patch_size": 16}
    variants: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], str]] = [
        ("ViT", vit, {}, {}, "visual.transformer.resblocks.2.ln_1"),
        ("ViT, average", vit | {"pool_type": "avg"}, {}, {}, ""),
        (
            "ViT, attentional pool",
            vit | {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2},
            {},
            {},
            "",
        ),
        ("ViT, layer scale", vit | {"ls_init_value": 0.1}, {}, {}, "visual.transformer.resblocks.2.ln_1"),
        ("ResNet", {"layers": [1, 1, 1, 1], "width": 16}, {}, {}, "visual.layer4"),
        ("timm ResNet", {"timm_model_name": "resnet18", "timm_pool": "", "timm_proj": "linear"}, {}, {}, ""),
        ("timm ConvNext", {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear"}, {}, {}, ""),
        ("custom text", vit, {}, {"custom": True}, "visual.transformer.resblocks.2.ln_1"),
        (
            "CoCa",
            vit | {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 16, "output_tokens": True},
            {"embed_cls": True, "output_tokens": True, "width": 16},
            {"multimodal_cfg": {"context_length": 8, "vocab_size": 99, "width": 16, "heads": 2, "layers": 2}},
            "",
        ),
    ]

    def inputs(batch: int) -> dict[str, Tensor]:
        return {"image": images(batch, 3, 64, 64), "text": torch.arange(1, 9).repeat(batch, 1)}

    def likeness(outputs: Any) -> Tensor:
        image, text = (
            outputs[:2] if isinstance(outputs, tuple) else (outputs["image_features"], outputs["text_features"])
        )
        found: Tensor = (image * text).sum(1)
        return found

    return [
        Made("open_clip", name, _open_clip(name, vision, text, **more), inputs, likeness, layer)
        for name, vision, text, more, layer in variants
    ]


# ---------------------------------------------------------------------------------------------------------------- monai


def _monai(name: str, *args: Any, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import monai.networks.nets as nets

        made = getattr(nets, name)(*args, **options)
        model: nn.Module = made
        return model

    return make


def _monai_members() -> list[Made]:
    volume, wide = plain(1, 32, 32, 32), plain(1, 64, 64, 64)
    unet = {"in_channels": 1, "out_channels": 3, "channels": (4, 8, 16), "strides": (2, 2)}
    listed: list[tuple[str, Callable[[], nn.Module], Callable[[int], Any], Callable[[Any], Tensor], str]] = [
        ("UNet, 3-D", _monai("UNet", spatial_dims=3, **unet), volume, first_class, ""),
        ("UNet, residual", _monai("UNet", spatial_dims=3, num_res_units=2, **unet), volume, first_class, ""),
        (
            "BasicUNet",
            _monai("BasicUNet", spatial_dims=3, in_channels=1, out_channels=3, features=(4, 4, 8, 8, 8, 4)),
            volume,
            first_class,
            "upcat_1",
        ),
        (
            "BasicUNet, 2-D",
            _monai("BasicUNet", spatial_dims=2, in_channels=3, out_channels=3, features=(4, 4, 8, 8, 8, 4)),
            plain(3, 64, 64),
            first_class,
            "upcat_1",
        ),
        (
            "SegResNet",
            _monai("SegResNet", spatial_dims=3, in_channels=1, out_channels=3, init_filters=8),
            volume,
            first_class,
            "",
        ),
        ("AttentionUnet", _monai("AttentionUnet", 2, 3, 3, (4, 8, 16), (2, 2)), plain(3, 64, 64), first_class, ""),
        (
            "DynUNet",
            _monai("DynUNet", 3, 1, 3, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 16]),
            volume,
            first_class,
            "",
        ),
        ("VNet", _monai("VNet", 3, 1, 3), volume, first_class, ""),
        (
            "UNETR",
            _monai("UNETR", 1, 3, (32, 32, 32), feature_size=4, hidden_size=24, mlp_dim=32, num_heads=2),
            volume,
            first_class,
            "decoder2",
        ),
        (
            "SwinUNETR, 3-D",
            _monai("SwinUNETR", 1, 3, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)),
            wide,
            first_class,
            "decoder1",
        ),
        (
            "SwinUNETR, 2-D",
            _monai("SwinUNETR", 3, 3, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), spatial_dims=2),
            plain(3, 64, 64),
            first_class,
            "decoder1",
        ),
        ("FlexibleUNet", _monai("FlexibleUNet", 3, 3, "efficientnet-b0"), plain(3, 64, 64), first_class, ""),
        ("DenseNet121, 3-D", _monai("DenseNet121", 3, 1, 3), wide, first_class, ""),
        (
            "resnet10, 3-D",
            _monai("resnet10", spatial_dims=3, n_input_channels=1, num_classes=3),
            wide,
            first_class,
            "layer4",
        ),
        (
            "SEResNet50, 2-D",
            _monai("SEResNet50", spatial_dims=2, in_channels=3, num_classes=3),
            plain(3, 64, 64),
            first_class,
            "",
        ),
        (
            "EfficientNetBN",
            _monai("EfficientNetBN", "efficientnet-b0", pretrained=False, num_classes=3),
            plain(3, 64, 64),
            first_class,
            "",
        ),
        (
            "ViT, 3-D",
            _monai(
                "ViT",
                1,
                (32, 32, 32),
                (8, 8, 8),
                hidden_size=24,
                mlp_dim=32,
                num_layers=3,
                num_heads=2,
                classification=True,
                num_classes=3,
            ),
            volume,
            first_class,
            "",
        ),
        (
            "MILModel",
            _monai("MILModel", 3, pretrained=False, mil_mode="att", backbone="resnet18"),
            lambda batch: images(batch, 4, 3, 64, 64),
            first_class,
            "",
        ),
        (
            "TorchVisionFCModel",
            _monai("TorchVisionFCModel", "resnet18", num_classes=3, use_conv=True, pool=None),
            plain(3, 224, 224),
            first_class,
            "",
        ),
    ]
    return [Made("monai", name, make, inputs, score, layer) for name, make, inputs, score, layer in listed]


# --------------------------------------------------------------------------------------------------------- pytorchvideo


def _hub(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import importlib

        module, _, function = name.rpartition(".")
        model: nn.Module = getattr(importlib.import_module(f"pytorchvideo.models.{module}"), function)(**options)
        return model

    return make


def _pytorchvideo_members() -> list[Made]:
    clip = plain(3, 8, 64, 64)
    return [
        Made(
            "pytorchvideo",
            "Slow",
            _hub(
                "resnet.create_resnet",
                model_num_class=5,
                model_depth=50,
                stem_dim_out=8,
                dropout_rate=0,
                head_pool_kernel_size=(8, 2, 2),
            ),
            clip,
        ),
        Made(
            "pytorchvideo",
            "R(2+1)D",
            _hub("r2plus1d.create_r2plus1d", model_num_class=5, head_pool_kernel_size=(1, 2, 2)),
            clip,
        ),
        Made(
            "pytorchvideo",
            "CSN",
            _hub("csn.create_csn", model_num_class=5, model_depth=50, stem_dim_out=8, head_pool_kernel_size=(1, 2, 2)),
            clip,
        ),
        Made(
            "pytorchvideo",
            "X3D",
            _hub("x3d.create_x3d", input_clip_length=8, input_crop_size=64, model_num_class=5),
            clip,
            # its Swish is an autograd.Function without a rule for vmap
            vmaps=False,
        ),
        Made(
            "pytorchvideo",
            "SlowFast",
            _hub("slowfast.create_slowfast", model_num_class=5, head_pool_kernel_sizes=((2, 2, 2), (8, 2, 2))),
            lambda batch: ([images(batch, 3, 2, 64, 64), images(batch, 3, 8, 64, 64)],),
        ),
        Made(
            "pytorchvideo",
            "MViT",
            _hub(
                "vision_transformers.create_multiscale_vision_transformers",
                spatial_size=64,
                temporal_size=8,
                depth=3,
                head_num_classes=5,
                patch_embed_dim=32,
                num_heads=1,
            ),
            clip,
        ),
    ]


FOREIGN: list[Made] = [
    *_timm_members(),
    *_torchvision_members(),
    *_ultralytics_members(),
    *_smp_members(),
    *_open_clip_members(),
    *_monai_members(),
    *_pytorchvideo_members(),
]
