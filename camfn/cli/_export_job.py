"""The run behind `camfn export FILE`: one file with the prediction and the map, and what it costs."""

# tested in tests/cli/test_export_job.py

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .. import export
from .._photos.classes import no_class
from .._photos.explain import compose
from .._photos.layer import choose_layer
from .._photos.words import pick_target
from .._shared.errors import UsageError
from ..catalogue import info_of
from ..zoo import Loaded
from ._options import pick_layer

SUFFIXES = (".onnx", ".pt2", ".aot.pt2")
"""Endings of the files: ONNX, a program of torch.export, a package of AOTInductor."""


def check_file(file: Path, force: bool) -> None:
    """Refuse a file that cannot be written, before any model is loaded.

    Raises:
        UsageError: another ending, a missing folder, a file that exists.
    """
    if file.suffix not in (".onnx", ".pt2"):
        raise UsageError(f"{file}: expected a name in .onnx, .pt2 (torch.export) or .aot.pt2 (AOTInductor)")
    if not file.parent.is_dir():
        raise UsageError(f"{file}: there is no folder {file.parent}")
    if file.exists() and not force:
        raise UsageError(f"{file} exists already: give --force to replace it, or another name")


def check_method(method: Callable[..., Any]) -> None:
    """Refuse a method that no file can hold, before any model is loaded."""
    from ..export._settle import check_method as check

    check(method)
    if info_of(method).kind == "network":
        raise UsageError(f"{info_of(method).name} is of the whole network: a file holds methods of a layer or attention")


def noise_of(loaded: Loaded) -> Tensor:
    """Return two images of noise, prepared as photos are, or as many as the model takes."""
    draws = np.random.default_rng(0)
    count = loaded.batch or 2
    photos = [Image.fromarray(draws.integers(0, 256, (512, 512, 3), dtype=np.uint8)) for _ in range(count)]
    return torch.stack([loaded.preprocess(photo) for photo in photos])


def target_of(words: str | None, loaded: Loaded) -> Any:
    """Return what a file explains: its input, or what the words say, fixed."""
    if words in (None, "input"):
        return "input"
    choice = pick_target(str(words), loaded)
    if choice.chosen is None and choice.reference is None:
        raise UsageError(f"--target {words}: of a file, expected input (the class is an input, -1 the top class) or a class")
    with torch.no_grad():
        return choice.pick(loaded.model(noise_of(loaded)[:1]))[0].score if choice.form != "score" else choice.chosen


def write_file(
    file: Path,
    loaded: Loaded,
    method: Callable[..., Any],
    layer: str,
    *,
    heatmap: tuple[int, int] | None,
    target: Any,
    progress: Callable[[str], None],
) -> list[str]:
    """Export a model by a method at a layer; return lines that say what was written and what it costs."""
    images = noise_of(loaded)
    loaded.model.requires_grad_(False)
    chosen = choose_layer(
        loaded.model, images, pick_layer(loaded.model, layer), method, None if info_of(method).explains_class else no_class
    )
    progress("choosing the layer")
    from .._photos.explain import NO_CHANGES

    explain, _ = compose(method, loaded.model, chosen, NO_CHANGES, None, None, plain=True)
    batch: Any = "fixed" if loaded.batch else "dynamic"
    options: dict[str, Any] = {"heatmap": heatmap, "target": target, "batch": batch, "progress": progress}
    about: dict[str, Any] = {"model": loaded.name, "classes": loaded.classes, "preprocessing": loaded.recipe}
    if file.name.endswith(".aot.pt2"):
        found = export.aot(explain, images, file, **options, **about)
    elif file.suffix == ".pt2":
        torch.export.save(export.program(explain, images, **options), str(file))
        return [f"{file}: {_size(file)}, a program of torch.export: layer {chosen.name}, checked against eager"]
    else:
        found = export.onnx(explain, images, file, **options, **about)
    return [*_told(file, found), *([_cost(file, loaded.model, images)] if file.suffix == ".onnx" else [])]
