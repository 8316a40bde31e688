"""Photos a second of `camfn explain` beside the same work written by hand with grad-cam.

    python -m benchmarks.photos --photos 200 --threads 2

Both read the photos, preprocess them, explain each photo's top class with Grad-CAM at the last layer before pooling,
and write an overlay (PNG) and the raw map (NPY). By hand there are two ways: a photo at a time, as in grad-cam's own
examples, and batches of eight. Seconds are those of the clock, after the imports; `cpu` are seconds of the processor,
which a busy machine lengthens less.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from typer.testing import CliRunner

from camfn.cli._app import app
from camfn.zoo import load

BATCH = 8


def main() -> None:
    """Write the photos, measure both in turn, and print photos a second and their ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--layer", default="layer4")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        photos = draw_photos(Path(folder), given.photos)
        warm = photos[:BATCH]
        runs: dict[str, Callable[[Sequence[Path], Path], None]] = {
            "camfn explain": lambda some, out: explain(some, out, given.model, given.layer),
            "by hand, one at a time": lambda some, out: by_hand(some, out, given.model, given.layer, 1),
            f"by hand, batches of {BATCH}": lambda some, out: by_hand(some, out, given.model, given.layer, BATCH),
        }
        rates: dict[str, tuple[float, float]] = {}
        for name, run in runs.items():
            run(warm, Path(folder) / f"warm {name}")
            clock, cpu = time.perf_counter(), time.process_time()
            run(photos, Path(folder) / name)
            rates[name] = len(photos) / (time.perf_counter() - clock), len(photos) / (time.process_time() - cpu)
    print(f"{given.model}, {given.photos} photos, {given.threads} threads, load {os.getloadavg()[0]:.1f}")
    ours = rates["camfn explain"]
    for name, (rate, cpu) in rates.items():
        print(f"{name}: {rate:.2f} photos/s ({ours[0] / rate:.2f}), {cpu:.2f} a cpu second ({ours[1] / cpu:.2f})")


def draw_photos(folder: Path, count: int) -> list[Path]:
    """Write photos of 500 x 375 with some noise."""
    from skimage import data

    base = np.asarray(Image.fromarray(data.chelsea()).resize((500, 375))).astype(int)
    draws = np.random.default_rng(0)
    files = [folder / f"{i:04}.jpg" for i in range(count)]
    for file in files:
        pixels = (base + draws.integers(-9, 10, (375, 500, 1))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(file, quality=90)
    return files


def explain(photos: Sequence[Path], out: Path, model: str, layer: str) -> None:
    """Run the command."""
    words = ["explain", *map(str, photos), "--model", model, "--weights", "none", "--layer", layer]
    result = CliRunner().invoke(app, [*words, "--device", "cpu", "--batch-size", str(BATCH), "--out", str(out)])
    if result.exit_code:
        raise RuntimeError(result.output)


def by_hand(photos: Sequence[Path], out: Path, model: str, layer: str, batch: int) -> None:
    """Do the same with grad-cam."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.image import show_cam_on_image

    loaded: Any = load(model, weights="none")
    out.mkdir()
    with GradCAM(model=loaded.model, target_layers=[loaded.model.get_submodule(layer)]) as cam:
        for start in range(0, len(photos), batch):
            files = photos[start : start + batch]
            pictures = [Image.open(file).convert("RGB") for file in files]
            maps = cam(input_tensor=torch.stack([loaded.preprocess(picture) for picture in pictures]), targets=None)
            for file, picture, found in zip(files, pictures, maps, strict=True):
                view = loaded.view(picture)
                pixels = np.asarray(view, dtype=np.float32) / 255
                large = np.asarray(Image.fromarray(found).resize(view.size, Image.Resampling.BILINEAR))
                Image.fromarray(show_cam_on_image(pixels, large, use_rgb=True)).save(out / f"{file.stem}.png")
                np.save(out / f"{file.stem}.npy", found)


if __name__ == "__main__":
    main()
