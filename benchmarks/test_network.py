"""FullGrad beside pytorch-grad-cam, and methods of a whole network in bare forwards: checked, then timed.

python -m pytest benchmarks/test_network.py --benchmark-enable --benchmark-only
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from camfn.image import normalize
from camfn.network import full_grad, full_gradients

from .models import load, question
from .peers import forward

BATCH = 4
GOAL = 20
"""Times faster than pytorch-grad-cam."""


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@contextmanager
def peer(model: nn.Module, classes: list[int]) -> Iterator[Callable[[Tensor], Any]]:
    """pytorch-grad-cam as its documentation calls it."""
    from pytorch_grad_cam import FullGrad
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with FullGrad(model, []) as cam:
        targets = [ClassifierOutputTarget(index) for index in classes]
        yield lambda images: cam(input_tensor=images.clone(), targets=targets)
    model.zero_grad()


def by_channels(terms: list[Tensor], size: tuple[int, int]) -> Tensor:
    """What the peer makes of the terms: every channel stretched by itself, resized, and added up."""
    total = torch.zeros(terms[0].shape[0], *size)
    for term in terms:
        sizes = term.abs()
        low, high = sizes.amin((2, 3), keepdim=True), sizes.amax((2, 3), keepdim=True)
        stretched = (sizes - low) / (high - low + 1e-7)
        total += nn.functional.interpolate(stretched, size, mode="bilinear").sum(1)
    return total


def test_full_grad_against_grad_cam(benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture[str]) -> None:
    subject = load("resnet50")
    images, classes = question(subject, BATCH)
    explain = full_grad(subject.model)
    full = full_gradients(subject.model)(images, classes)
    torch.testing.assert_close(full.total, full.score, rtol=1e-5, atol=1e-5)
    terms = [full.input_grad * images, *(term for term in full.biases.values() if term.ndim == 4)]
    expected = torch.zeros(BATCH, *images.shape[2:])
    for term in terms:
        sizes = term.abs()
        low, high = sizes.amin((1, 2, 3), keepdim=True), sizes.amax((1, 2, 3), keepdim=True)
        up = nn.functional.interpolate((sizes - low) / (high - low), images.shape[2:], mode="bilinear")
        expected += up.sum(1)
    torch.testing.assert_close(explain(images, classes), expected, rtol=1e-4, atol=1e-3)
    benchmark.pedantic(explain, [images, classes], rounds=5, warmup_rounds=1)  # type: ignore[no-untyped-call]
    ours = benchmark.stats.stats.min  # type: ignore[union-attr]
    with forward("", subject, classes) as bare:
        bare(images)
        one = min(seconds(lambda: bare(images)) for _ in range(5))
    with peer(subject.model, classes) as run:
        start = time.perf_counter()
        found = torch.as_tensor(run(images))
        theirs = time.perf_counter() - start
    # the peer's own map, by its own formula from the same terms, so that both are known to have explained the same
    same = normalize(by_channels(terms, (224, 224)))
    correlation = float(torch.corrcoef(torch.stack([found.flatten().float(), same.flatten()]))[0, 1])
    ratio = theirs / ours
    with capsys.disabled():
        print(
            f"\nfull_grad, ResNet-50, batch {BATCH}: {ours:.2f} s, {ours / one:.1f} forwards; grad-cam {theirs:.1f} s "
            f"(correlation with its formula {correlation:.4f}); times faster: {ratio:.1f} "
            f"(goal: at least {GOAL}, {'reached' if ratio >= GOAL else 'MISSED'})"
        )
    assert correlation > 0.99
    benchmark.extra_info.update(
        kind="network", device="cpu", work="full_grad", ours=ours, theirs=theirs, forwards=ours / one
    )
