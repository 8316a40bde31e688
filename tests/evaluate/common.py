"""What the tests of `camfn.evaluate` share: a small network, photos of a bright square, and short runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from camfn.evaluate import Case, Photo, Protocol, Store, cases, run
from camfn.zoo import Loaded

SIDE = 64
QUICK = ("energy_in_box", "average_drop", "deletion", "max_box_acc", "complexity")


class Net(nn.Module):
    """Two convolutions, global pooling and one linear layer."""

    def __init__(self, blind: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 5, stride=4, padding=2), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(6, 5, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(5, 4)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
        if blind:
            self.fc.weight.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.last(self.features(x)).mean((2, 3)))
        return scores


def load_net(spec: str = "net") -> Loaded:
    def preprocess(photo: Image.Image) -> Tensor:
        small = photo.resize((SIDE, SIDE))
        return torch.from_numpy(np.array(small)).permute(2, 0, 1) / 127.5 - 1

    return Loaded(Net(blind=spec == "blind").eval(), preprocess, lambda photo: photo, list("abcd"), spec)


def draw_photo(path: Path, seed: int) -> None:
    """A bright square on noise."""
    noise = np.random.default_rng(seed).integers(0, 120, (80, 80, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    ImageDraw.Draw(picture).rectangle((10 + 5 * seed, 20, 40 + 5 * seed, 50), fill=(250, 200, 40))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def make_cases(*names: str, model: str = "net", layers: tuple[str, ...] = ("last",)) -> list[Case]:
    return cases([model], names or ("grad_cam", "layer_cam"), layers)


def run_quickly(photos: list[Photo], out: Path, *names: str, **options: Any) -> Store:
    options.setdefault("protocol", Protocol(metrics=QUICK, step=0.25))
    options.setdefault("loader", load_net)
    return run(photos, make_cases(*names), out, **options)


def numbers_of(store: Store) -> dict[tuple[str, str], Any]:
    """Rows without what a clock says."""
    return {(row.photo, row.case): row._replace(seconds=None, cam=None) for row in store.rows}
