"""Prepared networks beside the bare one, and beside camfn and pytorch-grad-cam without: checked, then timed in turn.

Of each work the minima of several turns are compared, so that all see the same machine. A part of the masks of
Score-CAM is timed, of both packages the same.

python -m pytest benchmarks/test_prepared.py --benchmark-enable --benchmark-only -s
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from camfn import explainer, methods, metrics, prepare
from camfn.image import upsample
from camfn.targets import class_probability

from .models import SIZE, Subject, load, question
from .test_perturbation import Tell, peer_weights

MASKS = 128


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str], benchmark: BenchmarkFixture) -> Tell:
    return Tell(capsys, benchmark)


def in_turn(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of each work, the least of the rounds; the works take turns."""
    least = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            least[name] = min(least[name], time.perf_counter() - start)
    return least


@lru_cache(maxsize=1)
def compiled(name: str) -> tuple[nn.Module, float]:
    """A network compiled, and the seconds that this took."""
    subject = load(name)
    start = time.perf_counter()
    network = prepare(subject.model, question(subject, 4)[0], compile=True)
    return network, time.perf_counter() - start


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0"])
def test_grad_cam_against_a_bare_forward(benchmark: BenchmarkFixture, tell: Tell, name: str) -> None:
    subject = load(name)
    images, classes = question(subject, 8)
    plain, fast = (
        explainer(methods.grad_cam, model, subject.layer) for model in (subject.model, prepare(subject.model, images))
    )
    expected = plain(images, classes)
    torch.testing.assert_close(fast(images, classes), expected, rtol=0, atol=2e-4 * float(expected.abs().max()))

    def bare() -> Tensor:
        with torch.no_grad():
            return torch.as_tensor(subject.model(images))

    works = {"forward": bare, "plain": lambda: plain(images, classes), "prepared": lambda: fast(images, classes)}
    seconds = in_turn(works, 7)
    benchmark.pedantic(works["prepared"], rounds=3)  # type: ignore[no-untyped-call]
    text = f"{name}, batch 8: Grad-CAM prepared {1e3 * seconds['prepared']:.0f} ms, unprepared"
    text += f" {1e3 * seconds['plain']:.0f} ms, a bare forward {1e3 * seconds['forward']:.0f} ms; forwards"
    tell(text, seconds["prepared"] / seconds["forward"], 0.85, at_least=False)
    benchmark.extra_info.update(kind="prepared", device="cpu", work=f"grad_cam {name}", **seconds)


def test_score_cam(benchmark: BenchmarkFixture, tell: Tell) -> None:
    subject = load("resnet50")
    images, classes = question(subject, 1)
    method = partial(methods.score_cam, top_k=MASKS)
    network, setup = compiled("resnet50")
    plain, fast = (explainer(method, model, subject.layer) for model in (subject.model, network))
    expected = plain(images, classes)
    torch.testing.assert_close(fast(images, classes), expected, rtol=0, atol=1e-3 * float(expected.abs().max()))
    with peer_weights("ScoreCAM", subject, MASKS) as peer:
        works = {
            "camfn": lambda: plain(images, classes),
            "compiled": lambda: fast(images, classes),
            "grad-cam": lambda: peer(images, classes),
        }
        seconds = in_turn(works, 4)
    benchmark.pedantic(works["compiled"], rounds=1)  # type: ignore[no-untyped-call]
    text = f"score layer4, {MASKS} masks: {seconds['camfn']:.2f} s, grad-cam {seconds['grad-cam']:.2f} s; times faster"
    tell(text, seconds["grad-cam"] / seconds["camfn"], 1.5)
    # the setup comes once for a network: it is told, and not counted
    text = f"the same compiled in {setup:.0f} s: {seconds['compiled']:.2f} s; times faster than grad-cam"
    tell(text, seconds["grad-cam"] / seconds["compiled"], 2)
    benchmark.extra_info.update(kind="prepared", device="cpu", work="score_cam", setup=setup, **seconds)


def many_forwards(subject: Subject, model: nn.Module) -> dict[str, Callable[[], Tensor]]:
    """ROAD, insertion and RISE of one model, as functions without an argument."""
    images, classes = question(subject, 4)
    heatmap = upsample(torch.rand(4, 7, 7, generator=torch.Generator().manual_seed(1)), SIZE)
    score = metrics.scores_of(model, images, class_probability(classes))
    masks = upsample(torch.rand(32, 7, 7, generator=torch.Generator().manual_seed(2)), SIZE)
    explain = explainer(partial(methods.rise, masks=masks), model, subject.layer)
    return {
        "ROAD, 9 shares": lambda: metrics.road(score, images, heatmap, std=0.0).scores,
        "insertion, 20 steps": lambda: metrics.insertion(score, images, heatmap, baseline=0.0, step=0.05).scores,
        "RISE, 32 masks": lambda: explain(images, classes),
    }


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0"])
@pytest.mark.parametrize("what", ["ROAD, 9 shares", "insertion, 20 steps", "RISE, 32 masks"])
def test_many_forwards(benchmark: BenchmarkFixture, tell: Tell, what: str, name: str) -> None:
    subject = load(name)
    network, setup = compiled(name)
    works = {
        key: many_forwards(subject, model)[what] for key, model in (("camfn", subject.model), ("compiled", network))
    }
    torch.testing.assert_close(works["compiled"](), works["camfn"](), rtol=1e-3, atol=1e-4)
    seconds = in_turn(works, 4)
    benchmark.pedantic(works["compiled"], rounds=1)  # type: ignore[no-untyped-call]
    ours, before = seconds["compiled"], seconds["camfn"]
    text = f"{what}, 4 images, {name}, compiled in {setup:.0f} s: {ours:.2f} s, before {before:.2f} s; times faster"
    tell(text, before / ours, 1.3)
    benchmark.extra_info.update(kind="prepared", device="cpu", work=f"{what} {name}", setup=setup, **seconds)
