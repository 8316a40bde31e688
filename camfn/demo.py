"""Explain one photo by five methods: `make demo`, or `python -m camfn.demo`. Needs no network.

The photo is `skimage.data.chelsea()`, the model EfficientNet-Lite0 with ImageNet weights; both come in packages.
"""

# tested in tests/cli/test_cli.py

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import capture, diagnose, image, layers, methods
from ._shared.errors import LoadError
from .zoo import Loaded, load

METHODS = {
    "Grad-CAM": methods.grad_cam,
    "HiResCAM": methods.hires_cam,
    "LayerCAM": methods.layer_cam,
    "Grad-CAM++": methods.grad_cam_plusplus,
    "Eigen-CAM": methods.eigen_cam,
}


def demo(path: Path) -> None:
    """Print the five best classes of the photo, and write a montage of the best one's maps.

    Args:
        path: where the montage goes; a file already there is replaced.

    Raises:
        LoadError: the packages of the `demo` extra are not installed.
    """
    try:
        from PIL import Image
        from skimage.data import chelsea
    except ModuleNotFoundError as error:
        raise LoadError(f"the demo needs {error.name}: pip install 'camfn[demo]'") from error

    photo = Image.fromarray(chelsea())
    loaded = load("lite0")
    inputs = loaded.preprocess(photo)[None]
    layer = layers.suggest(loaded.model, inputs)[0]
    captured = capture(loaded.model, layer.name, layout=layer.layout)(inputs)
    best = _print_best(loaded, captured.outputs[0])
    print(f"Layer {layer.name}: {layer.reason}.")

    view = torch.from_numpy(np.array(loaded.view(photo))).permute(2, 0, 1) / 255
    pictures, captions = [view], [f"Photo: {best}"]
    for name, method in METHODS.items():
        cam = method(*captured)
        if problem := diagnose(captured, cam)[0]:
            print(f"{name}: {problem}")
        pictures.append(image.overlay(view, image.normalize(cam))[0])
        captions.append(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(image.montage(pictures, captions, cell=(320, 320), padding=12), path)
    print(f"Wrote {path.resolve()}")


def _print_best(loaded: Loaded, logits: Tensor) -> str:
    """Print the five best classes, and return the best one with its probability."""
    from rich.console import Console
    from rich.table import Table

    table = Table("class", "index", "probability", title="The five best classes")
    names = loaded.classes or []
    best = logits.softmax(0).topk(5)
    for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        table.add_row(names[index], str(index), f"{probability:.3f}")
    Console().print(table)
    return f"{names[int(best.indices[0])]}, {best.values[0]:.0%}"


def main() -> None:
    """Run the demo; an argument names the picture to write."""
    try:
        demo(Path(sys.argv[1] if len(sys.argv) > 1 else "out/demo.png"))
    except LoadError as error:
        print(f"camfn: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
