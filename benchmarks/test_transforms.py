"""aug_smooth and the mean of two layers, beside pytorch-grad-cam: checked against a loop, then timed.

python -m pytest benchmarks/test_transforms.py --benchmark-enable --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from camfn import capture_many, explainer
from camfn.image import peer_postprocess
from camfn.methods import grad_cam
from camfn.transforms import augment

from .checks import TOLERANCE
from .models import DEVICES, SIZE, Subject, load, question
from .peers import synchronized

LAYERS = {"aug_smooth": ["layer4"], "two layers": ["layer3", "layer4"]}
"""Of ResNet-50. Both packages end in what the peer returns: clipped, stretched, resized and averaged."""

Explain = Callable[[Tensor], Tensor]


@contextmanager
def _camfn(work: str, subject: Subject, classes: list[int]) -> Iterator[Explain]:
    if work == "aug_smooth":
        one = explainer(grad_cam, subject.model, *LAYERS[work])
        several = augment(lambda x, target: peer_postprocess(one(x, target), SIZE))
        yield lambda images: several(images, classes)
        return
    run = capture_many(subject.model, LAYERS[work])
    yield lambda images: peer_postprocess([grad_cam(*found) for found in run(images, classes).values()], SIZE)


@contextmanager
def _grad_cam(work: str, subject: Subject, classes: list[int]) -> Iterator[Explain]:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    peer = GradCAM(subject.model, [subject.model.get_submodule(name) for name in LAYERS[work]])
    targets = [ClassifierOutputTarget(index) for index in classes]
    try:
        yield lambda images: torch.from_numpy(peer(images, targets, aug_smooth=work == "aug_smooth"))
    finally:
        peer.activations_and_grads.release()
        subject.model.zero_grad()


PACKAGES: dict[str, Any] = {"camfn": _camfn, "grad-cam": _grad_cam}


def reference(work: str, subject: Subject, images: Tensor, classes: list[int]) -> Tensor:
    """One layer and one changed image at a time."""
    each = [explainer(grad_cam, subject.model, name) for name in LAYERS[work]]
    if work == "two layers":
        return peer_postprocess([one(images, classes) for one in each], SIZE)
    found = []
    for factor in (0.9, 1.0, 1.1):
        found.append(peer_postprocess(each[0](images * factor, classes), SIZE))
        found.append(peer_postprocess(each[0](images.flip(-1) * factor, classes), SIZE).flip(-1))
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("work", LAYERS)
@pytest.mark.parametrize("device", DEVICES)
def test_transforms(benchmark: BenchmarkFixture, device: str, work: str, package: str) -> None:
    subject = load("resnet50", device)
    images, classes = question(subject, 2)
    expected = reference(work, subject, images, classes).cpu()
    with PACKAGES[package](work, subject, classes) as explain:
        found = explain(images).cpu()
        assert (found - expected).abs().max() <= TOLERANCE
        benchmark.pedantic(synchronized(explain, subject.device), [images], rounds=3)  # type: ignore[no-untyped-call]
    benchmark.extra_info.update(kind="transform", device=device, work=work, package=package)
