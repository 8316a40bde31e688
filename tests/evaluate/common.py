"""What the tests of `camfn.evaluate` share: a small network, photos of a bright square, and short runs."""

from __future__ import annotations

import os
import random
import signal
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
    return {(row.photo, row.case): row._replace(seconds=None, cam=None, tries=1) for row in store.rows}


def check_same(far: Store, local: Store) -> None:
    """Hold the rows and maps that workers made, and those in their folder, to the rows of this process."""
    assert not any(row.kind for row in far.rows)
    assert numbers_of(Store(far.folder)) == numbers_of(local)
    assert [row.key for row in far.rows] == [row.key for row in local.rows]
    for row in far.rows:
        cam, other = far.cam(row), local.cam(row)
        assert cam is not None
        assert other is not None
        assert torch.equal(cam, other)


class Dying:
    """A loader of `load_net` whose worker is killed at random calls of the model, so many times in all.

    A file for each kill, made for one kill alone, counts them over all processes.
    """

    def __init__(self, folder: Path, kills: int, seed: int, parent: int | None = None) -> None:
        self.folder, self.number, self.seed = folder, kills, seed
        self.parent = os.getpid() if parent is None else parent
        # several kills are spread over the rows, since a row that is killed three times is an accident
        self.between = (2, 12) if kills < 3 else (8, 80)
        folder.mkdir(exist_ok=True)

    def kills(self) -> int:
        """How many workers were killed."""
        return len(list(self.folder.iterdir()))

    def __call__(self, spec: str) -> Loaded:
        held = load_net(spec)
        if os.getpid() == self.parent:
            return held
        at = random.Random(f"{self.seed} {self.kills()}").randint(*self.between)
        calls = [0]

        def count(module: nn.Module, inputs: Any) -> None:
            calls[0] += 1
            if calls[0] == at and self.kills() < self.number:
                try:
                    (self.folder / str(self.kills())).touch(exist_ok=False)
                except FileExistsError:  # another worker was faster
                    return
                os.kill(os.getpid(), signal.SIGKILL)

        held.model.register_forward_pre_hook(count)
        return held


def many_photos(folder: Path, number: int) -> list[Photo]:
    """Photos with a box each, of the classes a to d in turn."""
    boxes = ((0.125, 0.25, 0.5, 0.625),)
    photos = []
    for i in range(number):
        draw_photo(folder / f"{i:03}.png", i % 8)
        photos.append(Photo(f"{i:03}.png", folder / f"{i:03}.png", "abcd"[i % 4], boxes))
    return photos
