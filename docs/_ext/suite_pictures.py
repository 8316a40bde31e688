"""Draw the pictures of docs/suite.md of a run on lite0: `python docs/_ext/suite_pictures.py FOLDER`.

The twin: one photo in two corners, and the maps of four methods for the first corner. The strips: mean maps of GridPG,
whose cell of the class is turned to the upper left, in bins of their share there, as AggAtt does (2205.10435).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camfn import image
from camfn.evaluate import Store, builtin_photos
from camfn.evaluate._suite.grids import stitched
from camfn.evaluate._suite.strips import NAMES, bins_of
from camfn.zoo import load

STATIC = Path(__file__).parent.parent / "_static"
METHODS = ("grad_cam", "hires_cam", "layer_cam", "eigen_cam")


def photo_of(name: str) -> Tensor:
    """Return what lite0 sees of a photo, (3, 224, 224) in [0, 1]."""
    photo = next(photo for photo in builtin_photos(skipped=True) if photo.name == name)
    seen = load("lite0").view(photo.read()).resize((224, 224), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(seen).copy()).permute(2, 0, 1).float() / 255


def twin(store: Store) -> Tensor:
    """Draw the grid with a twin, and the map of each method on it."""
    names = store.header["protocols"]["grid"]["record"]["grids"]["cells"][0]
    grid = stitched(torch.stack([photo_of(name) for name in [*names[:-1], names[0]]]))
    drawn = [grid[0]]
    for method in METHODS:
        row = next(row for row in store.rows if row.photo == "twin/000" and row.method == method)
        cam = store.cam(row)
        assert cam is not None
        drawn.append(image.overlay(grid, image.normalize(image.upsample(cam, grid.shape[2:])))[0])
    return image.montage(drawn, ["photo and twin", *METHODS], columns=5, cell=(224, 224))


def strips(store: Store) -> Tensor:
    """Draw the mean maps of each method, best bins first."""
    drawn, captions = [], []
    for method in METHODS:
        rows = [row for row in store.rows if row.method == method]
        for name, each in zip(NAMES, bins_of(store, rows, size=112), strict=True):
            drawn.append(image.colorize(image.normalize(each.mean[None]))[0])
            captions.append(f"{method} {name}")
    return image.montage(drawn, captions, columns=len(NAMES), cell=(112, 112), caption_size=9)


if __name__ == "__main__":
    folder = Store(sys.argv[1])
    image.save(twin(folder), STATIC / "suite-twin.webp")
    image.save(strips(folder), STATIC / "suite-strips.webp")
