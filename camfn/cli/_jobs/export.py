"""The run behind `camfn export FILE`: one file with the prediction and the map, and what it costs."""

# tested in tests/cli/jobs/test_export.py

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ... import export
from ..._photos.classes import no_class
from ..._photos.explain import plain
from ..._photos.layer import Layer, choose_layer
from ..._photos.methods import pick_method
from ..._photos.read import read_photo
from ..._photos.words import pick_target
from ..._shared.errors import CamfnError, UsageError
from ..._shared.files import check_place
from ...catalogue import info_of
from ...export._check import TOLERANCE, relative
from ...export._facts import differences_of
from ...export._file import session_of
from ...export._onnx import written
from ...export._plan import Batch, heatmap_of, plan
from ...export._program import program_and_facts
from ...export._settle import check_method as check
from ...export._target import logits_among
from ...zoo import Loaded
from .._options.options import pick_layer

PART = "camfn.facts"
"""Name of the part of an exported program that holds what it says of itself."""


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
    check_place(file, "the file")


def check_method(method: Callable[..., Any]) -> None:
    """Refuse a method that no file can hold, before any model is loaded."""
    check(method)
    if info_of(method).kind == "network":
        raise UsageError(
            f"{info_of(method).name} is of the whole network: a file holds methods of a layer or attention"
        )


def noise_of(loaded: Loaded) -> Tensor:
    """Return two images of noise, prepared as photos are, or as many as the model takes."""
    draws = np.random.default_rng(0)
    count = loaded.batch or 2
    photos = [Image.fromarray(draws.integers(0, 256, (512, 512, 3), dtype=np.uint8)) for _ in range(count)]
    return torch.stack([loaded.preprocess(photo) for photo in photos])


def about_of(loaded: Loaded) -> dict[str, Any]:
    """Return what a file says of a loaded model, as `camfn.export.onnx` takes it."""
    return {"model": loaded.name, "classes": loaded.classes, "preprocessing": loaded.recipe}


def batch_of(loaded: Loaded) -> Batch:
    """Return whether a file takes any number of images: not where the loaded model does not."""
    return "fixed" if loaded.batch else "dynamic"


def explained_at(
    loaded: Loaded, images: Tensor, method: Callable[..., Any], asked: str | None
) -> tuple[Layer, Callable[..., Any]]:
    """Return the layer that words ask for, or the suggested one, and the explainer of a method there."""
    target = None if info_of(method).explains_class else no_class
    layer = choose_layer(loaded.model, images, asked, method, target)
    return layer, plain(method, loaded.model, layer)


def target_of(words: str | None, loaded: Loaded) -> Any:
    """Return what a file explains: its input, or what the words say, fixed."""
    if words in (None, "input"):
        return "input"
    choice = pick_target(str(words), loaded)
    if choice.chosen is None and choice.reference is None:
        raise UsageError(
            f"--target {words}: of a file, expected input (the class is an input, -1 the top class) or a class"
        )
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
    progress("choosing the layer")
    _, explain = explained_at(loaded, images, method, pick_layer(loaded.model, layer))
    about, batch = about_of(loaded), batch_of(loaded)
    options: dict[str, Any] = {"heatmap": heatmap, "target": target, "batch": batch, "progress": progress}
    if file.name.endswith(".aot.pt2"):
        return told(file, export.aot(explain, images, file, **options, **about))
    if file.suffix == ".pt2":
        made, facts = program_and_facts(plan(explain, images, target, heatmap, batch), progress, **about)
        extra = {PART: json.dumps(facts)}
        written(file, lambda path: torch.export.save(made, str(path), extra_files=extra))
        return told(file, facts)
    return [*told(file, export.onnx(explain, images, file, **options, **about)), _cost(file, loaded.model, images)]


def told(file: Path, facts: dict[str, Any]) -> list[str]:
    """Say what a file holds, and how it agrees with its model."""
    off = differences_of(facts["verified"])
    batch = "any number of images" if facts["batch"] == "dynamic" else f"{facts['batch']} images at once"
    return [
        f"{file}: {file.stat().st_size / 1e6:.2f} MB, {facts['method']} at {facts['layer']}, {batch}",
        f"checked against {facts['verified']['against']}: largest relative differences: {off}",
    ]


def _cost(file: Path, model: nn.Module, images: Tensor) -> str:
    """Say the operators and the time of a file beside those of the model alone, in one run."""
    import onnx

    with TemporaryDirectory() as folder:
        alone = Path(folder) / "alone.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made: Any = torch.onnx.export(
                model, (images[:1],), dynamo=True, verbose=False, external_data=False, input_names=["images"]
            )
        made.save(str(alone))
        with_map = export.load(file)
        count = 1 if with_map.facts["batch"] == "dynamic" else int(with_map.facts["batch"])
        times = _best(lambda: _run_alone(alone, images, count), lambda: lambda: with_map(images[:count]))
        counts = [len(onnx.load(str(path)).graph.node) for path in (alone, file)]
        size = alone.stat().st_size / 1e6
    return (
        f"beside the model alone: {counts[1]} operators for {counts[0]}, {size:.2f} MB alone, "
        f"{times[1] / times[0]:.2f} times the time ({times[0] * 1e3:.1f} ms, {times[1] * 1e3:.1f} ms)"
    )


def _run_alone(file: Path, images: Tensor, count: int) -> Callable[[], Any]:
    """Return a run of the model alone, once for each image, since its batch is one."""
    session = session_of(str(file))
    given = images[:1].numpy()
    return lambda: [session.run(None, {"images": given}) for _ in range(count)]


def _best(*makes: Callable[[], Callable[[], Any]], repeats: int = 7) -> list[float]:
    """Return the best time of each run, the runs in turn."""
    runs = [make() for make in makes]
    best = [float("inf")] * len(runs)
    for turn in range(repeats + 1):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            if turn:
                best[i] = min(best[i], time.perf_counter() - start)
    return best


def _beside(explained: Tensor, found: dict[str, Tensor], facts: dict[str, Any]) -> dict[str, Tensor]:
    """Return what a file should give: the map as explained, and the heatmap, where it has one, of its own map.

    A heatmap stretches a map that is almost constant, and its rounding with it.
    """
    size = facts.get("heatmap")
    return {"cam": explained} | ({} if size is None else {"heatmap": heatmap_of(found["cam"], tuple(size))})


def compare_with(file: export.Deployed, photos: list[Path], loaded: Loaded) -> tuple[list[str], bool]:
    """Run a file and its model on photos; return lines with the largest differences, and whether they agree.

    Raises:
        UsageError: the file came from a method or target that a command cannot make again.
    """
    facts = file.facts
    method = pick_method(str(facts["method"]), 0)
    fixed = facts["target"] != "input"
    if (not isinstance(facts["layer"], str) and info_of(method).kind == "layer") or (
        fixed and not str(facts["target"]).isdecimal()
    ):
        raise UsageError(
            f"{file.path} is of {facts['explain']}, {facts['target']}: compare it in Python, camfn.export.load"
        )
    images = torch.stack([loaded.preprocess(read_photo(photo)) for photo in photos])
    step = 8 if facts["batch"] == "dynamic" else int(facts["batch"])
    if facts["batch"] != "dynamic" and len(images) % step:
        raise UsageError(f"{file.path} takes {step} images at once: give {step} photos, or a multiple")
    layer = choose_layer(loaded.model, images[:1], facts["layer"], method)
    explain = plain(method, loaded.model, layer)
    worst: dict[str, float] = {}
    for start in range(0, len(images), step):
        part = images[start : start + step]
        found, target = file(part), int(facts["target"]) if fixed else None
        expected = _beside(explain(part, target), found, facts)
        with torch.no_grad(), suppress(CamfnError):  # of a model without logits, the map alone
            logits = expected[str(facts["outputs"][0])] = logits_among(loaded.model(part))
            if not fixed and logits.ndim == 2 and logits.shape[1] > 1:
                second = logits.topk(2).indices[:, 1]
                given = file(part, second)
                asked = _beside(explain(part, second), given, facts)
                found |= {f"{name} of the second class": value for name, value in given.items()}
                expected |= {f"{name} of the second class": value for name, value in asked.items()}
        for name, value in expected.items():
            worst[name] = max(worst.get(name, 0.0), relative(found[name], value))
    agree = max(worst.values()) <= TOLERANCE
    words = "agree" if agree else f"differ by more than {TOLERANCE:.0e}"
    lines = [f"{name}: largest difference {value:.1e} of the largest value" for name, value in worst.items()]
    return [*lines, f"{file.path} and {loaded.name} {words} on {len(images)} photo{'s' * (len(images) > 1)}"], agree
