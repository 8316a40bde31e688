"""`make gpu`: the tests marked `gpu`, then one table of times and memory on this machine's GPU, written to docs/gpu.md.

Needs torch, torchvision, numpy and einops, and uses what else it finds: pytest, kornia, weights on the disk. Each row
is written as it ends, and what does not fit the budget is named. Without a GPU it says so and ends with 2.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import math
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from camfn import explainer, methods, metrics, targets

from .gpu_peers import AT_ONCE, LAYER, Timed, works

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "gpu.md"

BUDGET = 460.0
"""Seconds in all: below eight minutes."""

TESTS = 150.0
"""Seconds for the tests."""

COMPILING = 100.0
"""Seconds that a compiler may take."""

FILES = ("tests/test_gpu.py", "tests/image/test_image.py")
"""The files with tests marked `gpu`: collecting the whole suite would import packages that may be missing."""


@dataclass(frozen=True)
class Size:
    """How much work the rows do; `tiny` shows that they run at all."""

    side: int
    batch: int
    few: int
    classes: int
    masks: int
    channels: float | None
    rounds: int


FULL = Size(side=224, batch=32, few=4, classes=1000, masks=4000, channels=None, rounds=5)
TINY = Size(side=96, batch=2, few=1, classes=4, masks=6, channels=4, rounds=1)


@dataclass(frozen=True)
class Row:
    """A line of the table: what is done for how many images, and after which plain forward it is counted."""

    name: str
    images: int
    run: Callable[[], Any]
    forward: Callable[[], Any]
    needs: float = 0.0
    """Seconds that must be left to begin it."""


@dataclass(frozen=True)
class Result:
    """What was measured of a row, or why it was not."""

    name: str
    images: int = 0
    seconds: float = 0.0
    forward: float = 0.0
    memory: float = 0.0
    failed: str = ""

    def line(self) -> str:
        """Return the line of the table."""
        if self.failed:
            return f"| {self.name} | {self.failed} | | | |"
        each = self.seconds / self.images
        forwards, memory = each / (self.forward / self.images), f"{self.memory:.0f}" if self.memory else "-"
        return f"| {self.name} | {self.images} | {1 / each:.4g} | {forwards:.2f} | {memory} |"


def rows(device: torch.device, size: Size, network: nn.Module) -> Iterator[Row]:
    """Yield the rows; what a row needs is made when it is reached."""
    images = _images(device, size)
    few, one = images[: size.few], images[:1]
    half = deepcopy(network).to(torch.bfloat16)

    def alone(model: nn.Module, x: Tensor) -> Callable[[], Any]:
        return partial(_no_grad, model, x)

    def row(name: str, model: nn.Module, x: Tensor, run: Callable[[], Any]) -> Row:
        return Row(name, len(x), run, alone(model, x))

    cam, cam_half = (explainer(methods.grad_cam, model, LAYER) for model in (network, half))
    images_half = images.bfloat16()
    yield row("forward", network, images, alone(network, images))
    yield row("forward, bfloat16", half, images_half, alone(half, images_half))
    yield row("Grad-CAM", network, images, lambda: cam(images, 1))
    yield row("Grad-CAM, bfloat16", half, images_half, lambda: cam_half(images_half, 1))
    classes = torch.arange(size.classes, device=device)
    chunk = min(100, size.classes)
    yield row(
        f"Grad-CAM, {size.classes} classes of one image",
        network,
        one,
        lambda: torch.vmap(lambda k: cam(one, k), chunk_size=chunk)(classes),
    )
    yield row("Ablation-CAM", network, few, partial(explainer(methods.ablation_cam, network, LAYER), few, 1))
    ablation = partial(methods.ablation_cam, closed_form=False)
    yield row("Ablation-CAM, channel by channel", network, few, partial(explainer(ablation, network, LAYER), few, 1))
    score = partial(methods.score_cam, top_k=size.channels)
    yield row("Score-CAM", network, few, partial(explainer(score, network, LAYER), few, 1))
    yield row("Score-CAM, bfloat16", half, few.bfloat16(), partial(explainer(score, half, LAYER), few.bfloat16(), 1))
    rise = partial(methods.rise, samples=size.masks, generator=torch.Generator().manual_seed(0))
    yield row(f"RISE, {size.masks} masks", network, one, partial(explainer(rise, network, LAYER), one, 1))
    scores = metrics.scores_of(network, few, targets.class_probability(1))
    heat = cam(few, 1)
    yield row("ROAD", network, few, lambda: metrics.road(scores, few, heat, generator=torch.Generator().manual_seed(0)))
    yield row("insertion, 100 steps", network, few, lambda: metrics.insertion(scores, few, heat, baseline=_blurred))


def compiled_rows(device: torch.device, size: Size, network: nn.Module) -> Iterator[Row]:
    """Yield the rows that are measured last: compiling may take a minute, and leaves torch's compiler in memory."""
    images = _images(device, size)
    cam = explainer(methods.grad_cam, network, LAYER)
    compiled = torch.compile(lambda x: cam(x, 1))
    yield Row(
        "Grad-CAM, compiled", len(images), lambda: compiled(images), partial(_no_grad, network, images), COMPILING
    )
    few = images[: size.few]
    many = _score_cam_compiled(network, few, partial(methods.score_cam, top_k=size.channels))
    yield Row("Score-CAM, compiled", len(few), many, partial(_no_grad, network, few), COMPILING)


def _images(device: torch.device, size: Size) -> Tensor:
    """Return a batch of noise."""
    return torch.randn(size.batch, 3, size.side, size.side, generator=torch.Generator().manual_seed(0)).to(device)


def _score_cam_compiled(network: nn.Module, images: Tensor, score: Callable[..., Tensor]) -> Callable[[], Any]:
    """Return Score-CAM on a network prepared for many forwards; it is compiled at the first call."""
    made: list[Any] = []

    def run() -> Any:
        if not made:
            prepare: Any = importlib.import_module("camfn").prepare
            example = images[:1].expand(max(AT_ONCE, len(images)), *images.shape[1:]).contiguous()
            made.append(explainer(score, prepare(network, example, compile=True), LAYER))
        return made[0](images, 1)

    return run


def _blurred(images: Tensor) -> Tensor:
    """Blur the images: by kornia, or by a mean where kornia is missing."""
    if importlib.util.find_spec("kornia") and min(images.shape[2:]) > 16:
        return metrics.blur(images)
    return nn.functional.avg_pool2d(images, 11, 1, 5, count_include_pad=False)


def _no_grad(model: nn.Module, x: Tensor) -> Any:
    with torch.no_grad():
        return model(x)


@dataclass(frozen=True)
class Beside:
    """What one package takes for a method, or why it was not measured."""

    method: str
    package: str
    images: int
    seconds: float = 0.0
    memory: float = 0.0
    problem: str = ""

    def line(self) -> str:
        """Return the line of the table."""
        if self.problem:
            return f"| {self.method} | {self.package} | {self.problem} | | |"
        memory = f"{self.memory:.0f}" if self.memory else "-"
        return f"| {self.method} | {self.package} | {self.images} | {self.images / self.seconds:.4g} | {memory} |"


def beside(device: torch.device, size: Size, network: nn.Module, left: Callable[[], float]) -> Iterator[Beside]:
    """Yield camfn and its peers, method by method: their rounds alternate, while time is left."""
    for _, group in itertools.groupby(works(network, _images(device, size), size.few), lambda work: work.method):
        packages = list(group)
        best: dict[str, float] = {}
        memory: dict[str, float] = {}
        problems = {work.package: work.problem for work in packages if work.run is None}
        for _ in range(size.rounds + 1):
            for work in packages:
                if work.package in problems:
                    continue
                if left() < 0:
                    problems |= {} if work.package in best else {work.package: "out of time"}
                    continue
                try:
                    seconds, memory[work.package] = _once(work, device)
                except Exception as error:
                    problems[work.package] = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
                    continue
                best[work.package] = min(best.get(work.package, math.inf), seconds)
        for work in packages:
            name, found = work.package, best.get(work.package, 0.0)
            problem = problems.get(name, "")
            yield Beside(work.method, name, work.images, found, memory.get(name, 0.0), problem)


def _once(work: Timed, device: torch.device) -> tuple[float, float]:
    """Run once: the seconds, and MiB beyond what lay on the device before."""
    assert work.run is not None
    on_gpu = device.type == "cuda"
    wait(device)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    start = time.perf_counter()
    found = work.run()
    wait(device)
    seconds = time.perf_counter() - start
    del found
    return seconds, (torch.cuda.max_memory_allocated(device) - before) / 2**20 if on_gpu else 0.0


def load(size: Size) -> tuple[nn.Module, str]:
    """Return ResNet-50, and a word about its weights: those on the disk, or random ones."""
    from torchvision.models import ResNet50_Weights, resnet18, resnet50

    if size is TINY:
        return resnet18(num_classes=10).eval(), "ResNet-18 with random weights"
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for weights in ResNet50_Weights:
        if (folder / Path(weights.url).name).is_file():
            return resnet50(weights=weights).eval(), f"ResNet-50, {weights}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return resnet50().eval(), "ResNet-50 with random weights, as none lie on the disk"


def measure(row: Row, device: torch.device, size: Size, left: float) -> Result:
    """Measure a row: the fastest of some runs after a first one, and the most memory that it held."""
    on_gpu = device.type == "cuda"

    def timed(run: Callable[[], Any]) -> float:
        wait(device)
        start = time.perf_counter()
        run()
        wait(device)
        return time.perf_counter() - start

    try:
        first = timed(row.run)
        timed(row.forward)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
        rounds = max(1, min(size.rounds, int(0.5 * left / max(first, 1e-6) / 2)))
        best = min(timed(row.run) for _ in range(rounds))
        memory = (torch.cuda.max_memory_allocated(device) - before) / 2**20 if on_gpu else 0.0
        forward = statistics.median(timed(row.forward) for _ in range(5))
    except Exception as error:
        return Result(row.name, failed=f"{type(error).__name__}: {str(error).splitlines()[0][:100]}")
    return Result(row.name, row.images, best, forward, memory)


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run_tests(seconds: float) -> str:
    """Run the tests marked `gpu`, by pytest or, without it, by hand; return one line about them."""
    if importlib.util.find_spec("pytest") is None:
        return _run_by_hand(seconds)
    call = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-o", "addopts=", "-o", "filterwarnings=", *FILES]
    try:
        done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"the tests did not end within {seconds:.0f} seconds"
    print(done.stdout[-4000:], flush=True)
    return (done.stdout.strip().splitlines() or [done.stderr[-200:]])[-1].strip("= ")


def _run_by_hand(seconds: float) -> str:
    """Run the checks of tests/test_gpu.py where pytest is missing."""
    start, passed = time.perf_counter(), 0
    failed: list[str] = []
    checks: dict[str, Callable[[], None]] = importlib.import_module("tests.gpu").checks()
    for name, check in checks.items():
        if time.perf_counter() - start > seconds:
            return f"{passed} passed, {len(failed)} failed; out of time at {name}"
        try:
            check()
            passed += 1
        except Exception as error:
            failed.append(name)
            print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)
    return f"{len(failed)} failed, {passed} passed (without pytest)"


def page(card: str, weights: str, tests: str, results: Sequence[Result], peers: Sequence[Beside] = ()) -> str:
    """Return the page."""
    lines = [
        "# On a GPU",
        "",
        "Written by `make gpu`, which runs the tests marked `gpu` and then measures each row.",
        "",
        f"- Card: {card}; torch {torch.__version__}",
        f"- Network: {weights}",
        f"- Tests: {tests}",
        "",
        "A forward is the network's own, under `no_grad`, of as many images in the same precision. Times are the least",
        "of several runs after a first one, which is not counted; memory is the most that was allocated beyond what",
        "lay there before.",
        "",
        "| work | images at once | images a second | in forwards | peak memory, MiB |",
        "|---|---|---|---|---|",
        *(result.line() for result in results),
    ]
    if peers:
        lines += [
            "",
            "## Beside the peers",
            "",
            "Up to heatmaps of the images' size, in one run, each package called as its documentation calls it; their",
            "rounds alternate. A peer's map was compared with camfn's before it was timed. torch upsamples those of",
            f"torchcam, as small as the layer. {AT_ONCE} masked images run at once where a peer takes a number.",
            "",
            "| method | package | images at once | images a second | peak memory, MiB |",
            "|---|---|---|---|---|",
            *(peer.line() for peer in peers),
        ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="tests and times of camfn on this machine's GPU")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write; docs/gpu.md")
    parser.add_argument("--no-tests", action="store_true", help="measure only")
    given = parser.parse_args(arguments)
    start = time.perf_counter()
    device, size = torch.device(given.device), TINY if given.tiny else FULL
    if device.type == "cuda" and not torch.cuda.is_available():
        print("make gpu: torch sees no CUDA device here; nothing was run", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else f"none: {device}"
    tests = "not run" if given.no_tests else run_tests(TESTS)
    network, weights = load(size)
    results: list[Result] = []
    peers: list[Beside] = []
    given.out.parent.mkdir(parents=True, exist_ok=True)

    def left() -> float:
        return BUDGET - (time.perf_counter() - start)

    def run(some: Iterator[Row]) -> None:
        for row in some:
            enough = left() > row.needs
            found = measure(row, device, size, left() / 3) if enough else Result(row.name, failed="out of time")
            results.append(found)
            note(found)

    def note(found: Result | Beside) -> None:
        print(found.line(), flush=True)
        given.out.write_text(page(card, weights, tests, results, peers), encoding="utf-8")

    network = network.to(device)
    run(rows(device, size, network))
    for peer in beside(device, size, network, left):
        peers.append(peer)
        note(peer)
    run(compiled_rows(device, size, network))
    return 1 if "failed" in tests and not tests.startswith("0 failed") else 0


if __name__ == "__main__":
    raise SystemExit(main())
