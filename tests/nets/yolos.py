"""Ultralytics' networks with random weights, lively enough to find things; nothing is fetched or installed."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tests.nets.small import images


def ultralytics() -> Any:
    """Import the package with its settings in a folder of ours, offline."""
    os.environ.setdefault("YOLO_CONFIG_DIR", str(Path(tempfile.gettempdir()) / "camfn-tests-ultralytics"))
    os.environ["YOLO_OFFLINE"], os.environ["YOLO_AUTOINSTALL"] = "true", "false"
    import ultralytics as package

    package.utils.LOGGER.setLevel("ERROR")
    return package


@cache
def photos() -> list[Any]:
    """Photos of skimage, RGB."""
    from skimage import data

    return [np.ascontiguousarray(photo) for photo in (data.chelsea(), data.astronaut(), data.coffee(), data.rocket())]


def batch(side: int = 160) -> Tensor:
    """The photos, squashed to one size."""
    rows = [torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255 for photo in photos()]
    return torch.cat([functional.interpolate(x, (side, side), mode="bilinear", antialias=True) for x in rows])


def logits(outputs: Any, head: Any) -> Tensor:
    """The class logits of every candidate, (B, K, N), as `predict(visualize=True)` reads them."""
    raw = outputs[1] if isinstance(outputs, tuple) else outputs
    if isinstance(raw, dict):
        found: Tensor = raw.get("one2one" if head.end2end else "one2many", raw)["scores"]
    else:
        found = raw[1][-1].transpose(1, 2) if isinstance(raw, tuple) else raw.reshape(*raw.shape[:2], -1)
    return found


def yolo(config: str, found: int = 40) -> Any:
    """Build YOLO(config), with BatchNorm's statistics of the photos and `found` candidates above the threshold."""
    package = ultralytics()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kinds = {"rtdetr": package.RTDETR, "yoloe": package.YOLOE, "world": package.YOLOWorld}
        holder = next((kind for key, kind in kinds.items() if key in config), package.YOLO)(config)
        net: Any = holder.model
        norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        if type(net).__name__.startswith("YOLOE"):  # the texts' embeddings, which set_classes would give
            net.pe = functional.normalize(torch.randn(1, net.model[-1].nc, 512), dim=-1)
        net.train()
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        with torch.no_grad():
            net(batch())
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        net.eval()
    head = net.model[-1]
    plain = not type(head).__name__.startswith(("World", "YOLOE", "RTDETR", "Classify"))
    words = [one for one in getattr(head, "cv4", None) or () if hasattr(one, "logit_scale")]
    with torch.no_grad():
        if type(head).__name__ == "RTDETRDecoder":
            for layer in head.dec_score_head:
                layer.weight.mul_(8)
        for boxes, scores in (("cv2", "cv3"), ("one2one_cv2", "one2one_cv3")) if plain else ():
            if getattr(head, scores, None) is None:
                continue
            for level in getattr(head, scores):
                level[-1].weight.mul_(6)
                level[-1].bias.fill_(-6.0)
            for level in getattr(head, boxes):
                level[-1].weight.mul_(3)
        if words:
            for one in words:
                one.logit_scale.add_(3.0)
            best = logits(net(batch()[:1]), head)[0].amax(0).sort(descending=True).values
            for one in words:
                one.bias.sub_(best[found] + 1.1)
        elif plain:
            head.end2end = False
            best = logits(net(batch()[:1]), head)[0].amax(0).sort(descending=True).values
            for scores in ("cv3", "one2one_cv3"):
                for level in getattr(head, scores, None) or ():
                    level[-1].bias.sub_(best[found] + 1.1)
    return holder


def noise(side: int = 64) -> Tensor:
    """Two images of noise."""
    return images(2, 3, side, side).sigmoid()
