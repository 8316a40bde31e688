"""Pages of tiny networks, and their data read back."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from camfn import tiny
from camfn.explore import Explored, ShownLayer, ShownMethod, ShownPhoto, ShownTarget


def scenes(count: int, seed: int = 0) -> Tensor:
    return tiny.scenes(count, generator=torch.Generator().manual_seed(seed)).images


def volumes() -> nn.Module:
    """A network of volumes, (B, 1, D, H, W) to three classes."""
    torch.manual_seed(0)
    parts = [nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool3d(2), nn.Conv3d(4, 6, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 3)).eval()


def by_hand(*cams: Tensor | str, targets: tuple[ShownTarget, ...] = (ShownTarget("a", "a"),)) -> Explored:
    """Maps of one layer, one method each, the same for each target."""
    methods = tuple(ShownMethod(f"m{place}") for place in range(len(cams)))
    rows = tuple((cam,) for cam in cams)
    photo = ShownPhoto("p.png", torch.rand(3, 8, 8), targets, (rows,) * len(targets))
    return Explored((photo,), methods, (ShownLayer("body"),))


def read(file: Path) -> dict[str, Any]:
    """Return the data of a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', file.read_text("utf-8"), re.S)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def unpacked(data: dict[str, Any], place: int) -> Tensor:
    """Return a map of the data."""
    one = data["maps"][place]
    halves = np.frombuffer(base64.b64decode(one["b64"]), "<f2").astype(np.float64)
    return torch.from_numpy(halves * one["scale"]).reshape(one["shape"])
