"""Draw the pictures of the method pages: `make method-strips`. The same photos for all.

Some minutes, no network.

The photos are in the public domain or CC0: `astronaut` (NASA), `camera` (Lav Varshney), `coffee` (Rachel Michetti) and
`chelsea` (Stefan van der Walt) of scikit-image. Methods on attention explain the tiny vision transformer, whose weights
are at hand, on scenes of digits; D-RISE explains the tiny detector.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import method_pages
import numpy as np
import torch
from PIL import Image
from skimage import data
from torch import Tensor

from camfn import catalogue, explainer, image, targets, tiny
from camfn.attention import attention_explainer
from camfn.zoo import load

FOLDER = Path(__file__).parents[1] / "_static" / "methods"
SIDE = 448
"""Twice the size that lite0 was trained at: a map of 14 x 14 at the last layer, 28 x 28 at the middle one."""
ASKED = (("astronaut", "space shuttle"), ("camera", "tripod"), ("coffee", "wooden spoon"), ("chelsea", "Egyptian cat"))
LAYERS = ("bn2", "blocks.4")


def view_of(name: str) -> Tensor:
    """Read one of the photos as (1, 3, SIDE, SIDE) in [0, 1], the middle square of it."""
    photo = Image.fromarray(getattr(data, name)()).convert("RGB")
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    square = photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)[None] / 255


def explain_of(info: catalogue.MethodInfo, model: torch.nn.Module, layer: str) -> Any:
    """A function of images and class, with fewer samples where the method takes many."""
    options = method_pages.picture(info.name)
    if info.draws:
        options["generator"] = torch.Generator().manual_seed(0)
    if info.kind == "network":
        return info.function(model, *([layer] if info.takes_layer else []), **options)
    return explainer(partial(info.function, **options), model, layer)


def picture_of(view: Tensor, cam: Tensor) -> Tensor:
    """Draw a map over its photo, or a picture of gradients by itself."""
    return image.relief(cam)[0] if cam.ndim == 4 else image.overlay(view, image.normalize(cam), alpha=0.6)[0]


def photos(info: catalogue.MethodInfo) -> list[list[Tensor]]:
    """A row of pictures for each layer."""
    loaded, rows = load("lite0"), []
    layers = LAYERS if method_pages.two_layers(info) else LAYERS[:1]
    for layer in layers:
        explain = explain_of(info, loaded.model, layer)
        row = []
        for name, asked in ASKED:
            view = view_of(name)
            row.append(picture_of(view, explain((view * 255 - 127) / 128, loaded.classes.index(asked))))
        rows.append(row)
    return rows


def scenes(info: catalogue.MethodInfo) -> list[list[Tensor]]:
    """A row of scenes of digits, each asked for its first digit."""
    world = tiny.scenes(4, generator=torch.Generator().manual_seed(8))
    if info.kind == "attention":
        cams = attention_explainer(info.function, tiny.load("vit"))(world.images, world.labels[:, 0])
    else:
        head = targets.BoxHead(
            boxes_of=lambda out: torch.cat([out[..., :2] - out[..., 2:4] / 2, out[..., :2] + out[..., 2:4] / 2], -1),
            scores_of=lambda out: out[..., 4:5].sigmoid() * out[..., 5:].softmax(-1),
        )
        options = {**method_pages.picture(info.name), "generator": torch.Generator().manual_seed(0)}
        method = partial(info.function, **options)
        asked = targets.detection_similarity(world.boxes[:, 0], world.labels[:, 0], head=head)
        cams = explainer(method, tiny.load("detector"), "body.3")(world.images, asked)
    large = torch.nn.functional.interpolate(world.images, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    return [[picture_of(x[None], cam[None]) for x, cam in zip(large, cams, strict=True)]]


def strip(rows: list[list[Tensor]], cell: int = 220, gap: int = 8) -> Image.Image:
    """Set the pictures in a grid, on nothing, so that it stands on light and dark ground alike."""
    size = (len(rows[0]) * (cell + gap) - gap, len(rows) * (cell + gap) - gap)
    canvas = Image.new("RGBA", size, (0, 0, 0, 0))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            tile = Image.fromarray((picture.permute(1, 2, 0).clamp(0, 1) * 255).byte().numpy())
            canvas.paste(tile.resize((cell, cell), Image.Resampling.LANCZOS), (x * (cell + gap), y * (cell + gap)))
    return canvas


def main() -> None:
    """Draw the methods that are named, or all."""
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for info in catalogue.METHODS:
        if sys.argv[1:] and info.name not in sys.argv[1:]:
            continue
        start = time.perf_counter()
        rows = scenes(info) if info.kind == "attention" or info.name == "d_rise" else photos(info)
        strip(rows).save(FOLDER / f"{info.name}.webp", quality=82, method=6)
        print(f"{info.name}: {time.perf_counter() - start:.0f} s", flush=True)
    if not sys.argv[1:]:
        strip([[view_of(name)[0] for name, _ in ASKED]]).save(FOLDER / "photos.webp", quality=86, method=6)


if __name__ == "__main__":
    main()
