"""What a capture adds to a forward and the backward of the tail, against a ResNet-50 cut by hand at `layer4`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from camfn import capture

from .checks import cut
from .models import BATCHES, DEVICES, load, question
from .peers import synchronized

PAIRS = 31


def by_hand(model: Any, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run up to the cut without a graph, and the rest with one."""
    with torch.no_grad():
        x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
        activations = model.layer4(model.layer3(model.layer2(model.layer1(x))))
    activations.requires_grad_()
    outputs = model.fc(model.avgpool(activations).flatten(1))
    (grads,) = torch.autograd.grad(outputs.gather(1, classes[:, None]).sum(), activations)
    return activations, grads, outputs


def added(
    first: Callable[[], Any], second: Callable[[], Any], pairs: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """How much longer the first takes in each pair, in seconds, run in turn so that both see the same machine."""

    def timed(run: Callable[[], Any]) -> float:
        start = clock()
        run()
        return clock() - start

    return [timed(first) - timed(second) for _ in range(pairs)]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("device", DEVICES)
def test_overhead(benchmark: BenchmarkFixture, device: str, batch: int) -> None:
    subject = load("resnet50", device)
    images, indices = question(subject, batch)
    classes = torch.tensor(indices, device=subject.device)
    run = capture(subject.model, subject.layer)
    hand = synchronized(lambda images: by_hand(subject.model, images, classes), subject.device)
    ours = synchronized(lambda images: run(images, classes), subject.device)
    for library in (hand, ours):
        torch.testing.assert_close(
            tuple(library(images)[:2]), tuple(cut(subject, images, indices)), rtol=1e-3, atol=1e-4
        )
    low, median, high = statistics.quantiles(added(lambda: ours(images), lambda: hand(images), PAIRS))
    benchmark(ours, images)
    benchmark.extra_info.update(
        kind="overhead", device=device, batch=batch, added=median, low=low, high=high, pairs=PAIRS
    )
