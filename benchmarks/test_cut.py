"""Grad-CAM beside a bare forward, a cut by hand and the peers: rounds in turn, so that all meet the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from camfn import explainer
from camfn.image import normalize, upsample
from camfn.methods import grad_cam

from .checks import check, cut
from .models import BATCHES, CUTS, DEVICES, Subject, load, question
from .peers import PACKAGES, synchronized

ROUNDS = {1: 15, 8: 5}
"""By batch; the fastest counts."""


@contextmanager
def by_hand(subject: Subject, classes: list[int]) -> Iterator[Callable[[Tensor], Any]]:
    """The least that Grad-CAM can cost: the network once, and the backward of what follows the layer."""
    kept: list[Tensor] = []

    def hook(module: Any, args: Any, output: Tensor) -> Tensor:
        torch.set_grad_enabled(True)
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()

    def explain(images: Tensor) -> Tensor:
        kept.clear()
        with torch.no_grad():
            scores = subject.model(images)[range(len(classes)), classes].sum()
            (grads,) = torch.autograd.grad(scores, kept)
        to_map = subject.layout.to_map if subject.layout else lambda raw: raw
        activations, grads = to_map(kept[0].detach()), to_map(grads)
        return torch.einsum("bcij,bc->bij", activations, grads.mean((2, 3)))

    handle = subject.model.get_submodule(subject.layer).register_forward_hook(hook)
    try:
        yield explain
    finally:
        handle.remove()


@contextmanager
def as_torchcam_does(subject: Subject, classes: list[int]) -> Iterator[Callable[[Tensor], Tensor]]:
    """Explain with camfn, up to where torchcam ends: a normalized map of the layer's size."""
    explain = explainer(grad_cam, subject.model, subject.layer, layout=subject.layout)
    yield lambda images: normalize(explain(images, classes))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("device", DEVICES)
def test_cut(benchmark: BenchmarkFixture, device: str, name: str, batch: int) -> None:
    subject = load(name, device)
    images, classes = question(subject, batch)
    reference = cut(subject, images, classes)
    makers: dict[str, Any] = {
        "forward": lambda: PACKAGES["forward"]("grad_cam", subject, classes),
        "hand": lambda: by_hand(subject, classes),
        "camfn": lambda: as_torchcam_does(subject, classes),
        "torchcam": lambda: PACKAGES["torchcam"]("grad_cam", subject, classes),
    }
    best = dict.fromkeys(makers, float("inf"))

    def once(package: str) -> Any:
        # hooks of one package are no work of the others
        with ExitStack() as stack:
            run = synchronized(stack.enter_context(makers[package]()), subject.device)
            start = time.perf_counter()
            found = run(images)
            best[package] = min(best[package], time.perf_counter() - start)
        return found

    with PACKAGES["camfn"]("grad_cam", subject, classes) as heatmap:
        check("camfn", "grad_cam", heatmap(images), reference)
    torch.testing.assert_close(upsample(once("camfn"), images.shape[-2:]), heatmap(images))
    if subject.layout is None:
        check("torchcam", "grad_cam", once("torchcam"), reference)
    best.update(dict.fromkeys(makers, float("inf")))
    for _ in range(ROUNDS[batch]):
        for package in makers:
            once(package)
    benchmark.pedantic(lambda: None, rounds=1)  # type: ignore[no-untyped-call]
    benchmark.extra_info.update(
        kind="cut",
        device=device,
        model=name,
        layer=subject.layer,
        batch=batch,
        **{f"{k}_s": v for k, v in best.items()},
    )
