"""A hundred classes of one image: camfn runs the network once, pytorch-grad-cam once for each class."""

from __future__ import annotations

import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.func import vmap

from camfn import capture
from camfn.image import normalize, upsample
from camfn.methods import grad_cam

from .checks import Cut, check, cut
from .memory import peak_of
from .models import DEVICES, Subject, load, question
from .peers import synchronized

COUNT, ALL = 100, 1000
ROUNDS = {"camfn": 5, "grad-cam": 1, "torchcam": 5}
"""The slowest runs its hundred networks once."""


@contextmanager
def _camfn(subject: Subject, classes: list[int]) -> Iterator[Callable[[Tensor], Tensor]]:
    run = capture(subject.model, subject.layer, layout=subject.layout)
    wanted = torch.tensor(classes, device=subject.device)

    def explain(images: Tensor) -> Tensor:
        maps = vmap(lambda index: grad_cam(*run(images, index)))(wanted)
        return upsample(normalize(maps[:, 0]), images.shape[-2:])

    yield explain


@contextmanager
def _grad_cam(subject: Subject, classes: list[int]) -> Iterator[Callable[[Tensor], Tensor]]:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    peer = GradCAM(subject.model, [subject.model.get_submodule(subject.layer)])
    each = [[ClassifierOutputTarget(index)] for index in classes]
    try:
        yield lambda images: torch.cat([torch.from_numpy(peer(input_tensor=images, targets=one)) for one in each])
    finally:
        peer.activations_and_grads.release()
        subject.model.zero_grad()


@contextmanager
def _torchcam(subject: Subject, classes: list[int]) -> Iterator[Callable[[Tensor], Tensor]]:
    from torchcam.methods import GradCAM

    with GradCAM(subject.model, subject.layer) as peer:

        def explain(images: Tensor) -> Tensor:
            scores = subject.model(images)
            return torch.cat([peer([index], scores, retain_graph=True)[0] for index in classes])

        yield explain


PACKAGES = {"camfn": _camfn, "grad-cam": _grad_cam, "torchcam": _torchcam}


def references(subject: Subject, images: Tensor, classes: list[int]) -> Cut:
    """Run the network once for each class."""
    return Cut(*map(torch.cat, zip(*[cut(subject, images, [index]) for index in classes])))


@pytest.mark.parametrize(
    ("package", "count"), [*((name, COUNT) for name in PACKAGES), ("camfn", ALL), ("torchcam", ALL)]
)
@pytest.mark.parametrize("device", DEVICES)
def test_many_targets(benchmark: BenchmarkFixture, device: str, package: str, count: int) -> None:
    subject = load("resnet50", device)
    images, _ = question(subject, 1)
    classes = list(range(0, ALL, ALL // count))
    expected = references(subject, images, classes[:: count // COUNT])
    with PACKAGES[package](subject, classes[:2]) as explain:
        few = Cut(*[each[:2] for each in references(subject, images, classes[:2])])
        check(package, "grad_cam", explain(images), few)
    with PACKAGES[package](subject, classes) as explain:
        run = synchronized(explain, subject.device)
        found = benchmark.pedantic(run, [images], rounds=ROUNDS[package])  # type: ignore[no-untyped-call]
    check(package, "grad_cam", found[:: count // COUNT], expected)
    with torch.no_grad():
        forward = min(timeit.repeat(lambda: subject.model(images), number=1, repeat=7))
    benchmark.extra_info.update(kind="many", device=device, package=package, count=count, forward=forward)
    if count == ALL:
        benchmark.extra_info["peak"] = peak_of(_explain_all, device, package, images, classes)


def _explain_all(device: str, package: str, images: Tensor, classes: list[int]) -> Callable[[], Tensor]:
    context = PACKAGES[package](load("resnet50", device), classes)
    explain = context.__enter__()
    # the context stays open as long as the function that is returned
    return lambda context=context: explain(images)  # type: ignore[misc]
