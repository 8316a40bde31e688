"""Small detectors of torchvision with random weights that find boxes of several classes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = 4
"""With the background 0 where a detector has one."""

LAYER = "backbone.1"
"""The last layer of the backbone: (B, 32, 4, 4) for images of 32 pixels."""


class Backbone(nn.Sequential):
    """Two convolutions, 8 pixels to a place."""

    out_channels: int | list[int] = 32

    def __init__(self) -> None:
        super().__init__(
            nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(8, 32, 4, 4), nn.ReLU()),
        )


def _anchors() -> Any:
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    return AnchorGenerator(sizes=((10, 18),), aspect_ratios=((0.5, 1.0, 2.0),))


def _sizes() -> dict[str, Any]:
    return {"min_size": 32, "max_size": 32}


def _few() -> dict[str, Any]:
    return {"score_thresh": 0.1, "detections_per_img": 12, "topk_candidates": 40}


def retinanet() -> nn.Module:
    from torchvision.models.detection import RetinaNet

    found: nn.Module = RetinaNet(Backbone(), CLASSES, anchor_generator=_anchors(), **_few(), **_sizes())
    return found


def fcos() -> nn.Module:
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    one = AnchorGenerator(sizes=((16,),), aspect_ratios=((1.0,),))
    found: nn.Module = FCOS(Backbone(), CLASSES, anchor_generator=one, **_few(), **_sizes())
    return found


def ssd(head: Callable[..., nn.Module] | None = None) -> nn.Module:
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD

    boxes = DefaultBoxGenerator([[2]], scales=[0.3, 0.6])
    own = head and head([32], boxes.num_anchors_per_location(), CLASSES, nn.BatchNorm2d)
    backbone = Backbone()
    backbone.out_channels = [32]
    found: nn.Module = SSD(backbone, boxes, (32, 32), CLASSES, head=own, **_few())
    return found


def ssdlite() -> nn.Module:
    from torchvision.models.detection.ssdlite import SSDLiteHead

    return ssd(SSDLiteHead)


def faster_rcnn() -> nn.Module:
    from torchvision.models.detection import FasterRCNN

    few = {"rpn_post_nms_top_n_test": 12, "box_detections_per_img": 8, "box_score_thresh": 0.1}
    found: nn.Module = FasterRCNN(Backbone(), CLASSES, rpn_anchor_generator=_anchors(), **few, **_sizes())
    return found


def mask_rcnn() -> nn.Module:
    from torchvision.models.detection import MaskRCNN

    few = {"rpn_post_nms_top_n_test": 12, "box_detections_per_img": 4, "box_score_thresh": 0.1}
    found: nn.Module = MaskRCNN(Backbone(), CLASSES, rpn_anchor_generator=_anchors(), **few, **_sizes())
    return found


DETECTORS: dict[str, Callable[[], nn.Module]] = {
    make.__name__: make for make in (retinanet, fcos, ssd, ssdlite, faster_rcnn, mask_rcnn)
}


def detector(name: str, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """Make a detector in evaluation mode, with weights that tell places and classes apart."""
    generator = torch.Generator().manual_seed(seed)
    draw: Callable[..., Tensor] = partial(torch.randn, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = DETECTORS[name]()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.copy_(draw(module.weight.shape) * (2 / module.weight[0].numel()) ** 0.5)
                if module.bias is not None:
                    module.bias.copy_(draw(module.bias.shape) * 0.1)
    return net.eval().to(dtype).requires_grad_(False)
