"""`evaluate.run` beside Quantus: 50 photos, 6 methods, the same six metrics.

Run `python -m benchmarks.evaluate_beside_quantus [PHOTOS] [ROUNDS]` for the row of docs/benchmarks.md.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from camfn import methods
from camfn.adapters import quantus_explain
from camfn.evaluate import Case, Photo, Protocol, Row, run
from camfn.zoo import Loaded

SIDE, LAYER, STEPS, NOISE, SAMPLES, BATCH = 96, "layer4", 16, 5, 20, 25
NAMES = ("grad_cam", "hires_cam", "xgrad_cam", "layer_cam", "grad_cam_plusplus", "eigen_cam")
METRICS = ("pointing_game", "deletion", "max_sensitivity", "infidelity", "entropy", "sparseness")
BOX = (0.25, 0.25, 0.75, 0.75)
Values = dict[str, dict[str, list[float]]]
"""Method, metric, and a number a photo."""


def preprocess(photo: Image.Image) -> Tensor:
    """Photo to (3, SIDE, SIDE), without a mean, so that black is what Quantus calls black."""
    return torch.from_numpy(np.array(photo.resize((SIDE, SIDE)))).permute(2, 0, 1) / 255


def load(spec: str) -> Loaded:
    """ResNet-18 with the weights of one seed."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return Loaded(resnet18().eval(), preprocess, lambda photo: photo, [str(i) for i in range(1000)], spec)


def photos_in(folder: Path, number: int) -> list[Photo]:
    """Photos of a bright square on noise."""
    photos = []
    for i in range(number):
        noise = np.random.default_rng(i).integers(0, 160, (160, 160, 3), dtype=np.uint8)
        picture = Image.fromarray(noise)
        ImageDraw.Draw(picture).rectangle((20 + i, 30, 80 + i, 110), fill=(250, 200, 4 * i))
        picture.save(folder / f"{i:03}.png")
        photos.append(Photo(f"{i:03}", folder / f"{i:03}.png", str(i), (BOX,)))
    return photos


def by_camfn(photos: Sequence[Photo], out: Path) -> Values:
    """Measure with `evaluate.run`, which also writes every row and map to the disk."""
    protocol = Protocol(
        metrics=METRICS,
        removed="black",
        step=1 / STEPS,
        sensitivity_samples=NOISE,
        infidelity_samples=SAMPLES,
        chunk_size=BATCH,
    )
    store = run(photos, [Case("resnet18", LAYER, name) for name in NAMES], out, protocol=protocol, loader=load)
    assert not any(row.kind for row in store.rows)
    return {name: _columns([row for row in store.rows if row.method == name]) for name in NAMES}


def _columns(rows: Sequence[Row]) -> dict[str, list[float]]:
    return {metric: [row.values[metric] for row in rows] for metric in METRICS}


def by_quantus(photos: Sequence[Photo], batch_size: int) -> Values:
    """Measure with Quantus, in batches, maps made by the same methods in batches."""
    import quantus

    if not hasattr(np, "trapz"):  # NumPy 2.4 took away the name that Quantus 0.6 calls
        setattr(np, "trapz", np.trapezoid)  # noqa: B010
    model = load("resnet18").model
    images = np.stack([preprocess(photo.read()).numpy() for photo in photos])
    classes = np.array([int(photo.label or 0) for photo in photos])
    inside = np.zeros((len(photos), 1, SIDE, SIDE), dtype=bool)
    inside[:, :, SIDE // 4 : 3 * SIDE // 4, SIDE // 4 : 3 * SIDE // 4] = True
    plain: dict[str, Any] = {"abs": False, "normalise": False, "disable_warnings": True}
    found: Values = {}
    for name in NAMES:
        explain = quantus_explain(getattr(methods, name), LAYER)
        maps = np.concatenate(
            [
                explain(model=model, inputs=images[i : i + batch_size], targets=classes[i : i + batch_size])
                for i in range(0, len(images), batch_size)
            ]
        )
        given: dict[str, Any] = {"model": model, "x_batch": images, "y_batch": classes, "a_batch": maps}
        given |= {"batch_size": batch_size, "device": "cpu", "channel_first": True}
        flipping = quantus.PixelFlipping(
            features_in_step=SIDE * SIDE // STEPS, perturb_baseline="black", return_auc_per_sample=True, **plain
        )
        # one patch as large as the photo, and noise of the deviation that camfn takes
        infidelity = quantus.Infidelity(
            perturb_func=_noisy, perturb_patch_sizes=[SIDE], n_perturb_samples=SAMPLES, **plain
        )
        sensitivity = quantus.MaxSensitivity(nr_samples=NOISE, lower_bound=0.02, **plain)
        found[name] = {
            "pointing_game": quantus.PointingGame(**plain)(**given, s_batch=inside),
            "deletion": flipping(**given, softmax=True),
            "max_sensitivity": sensitivity(**given, explain_func=explain),
            "infidelity": infidelity(**given, softmax=True),
            "entropy": quantus.Complexity(**plain)(**given),
            "sparseness": quantus.Sparseness(**plain)(**given),
        }
    return found


def _noisy(arr: Any, **_: Any) -> Any:
    """Add normal noise to all pixels."""
    return arr + np.random.default_rng(0).normal(0, 0.2, arr.shape).astype(arr.dtype)


def differences(first: Values, second: Values) -> dict[str, float]:
    """The greatest difference of the metrics that both define alike and draw nothing for, where a map is not blank."""
    found = {}
    seen = np.isfinite([float(value) for name in NAMES for value in second[name]["sparseness"]])
    for metric in ("pointing_game", "entropy", "sparseness"):
        one, other = (
            np.array([float(value) for name in NAMES for value in each[name][metric]]) for each in (first, second)
        )
        found[metric] = float(np.abs(one - other)[seen].max())
    return found


def main(number: int = 50, rounds: int = 3) -> None:
    """Time both in turn, by the clock and by the processor, which other work on the machine does not slow."""
    warnings.simplefilter("ignore")
    times: dict[str, list[tuple[float, float]]] = {"camfn": [], "quantus": []}
    with tempfile.TemporaryDirectory() as folder:
        photos = photos_in(Path(folder), number)
        by_quantus(photos[:2], 2), by_camfn(photos[:2], Path(folder) / "warm")
        for turn in range(rounds):
            started = perf_counter(), process_time()
            ours = by_camfn(photos, Path(folder) / f"out-{turn}")
            times["camfn"].append((perf_counter() - started[0], process_time() - started[1]))
            started = perf_counter(), process_time()
            theirs = by_quantus(photos, BATCH)
            times["quantus"].append((perf_counter() - started[0], process_time() - started[1]))
            print({name: [round(value, 1) for value in values[-1]] for name, values in times.items()}, flush=True)
    print("greatest differences:", {name: float(f"{value:.2g}") for name, value in differences(ours, theirs).items()})
    print(f"{number} photos x {len(NAMES)} methods x {len(METRICS)} metrics, {torch.get_num_threads()} threads:")
    for place, what in enumerate(("clock", "processor")):
        mine, quantus = (median(value[place] for value in times[name]) for name in ("camfn", "quantus"))
        print(f"{what}: camfn {mine:.1f} s, Quantus {quantus:.1f} s, {quantus / mine:.1f} times as long")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
