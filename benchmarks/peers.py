"""camfn and its peers behind one signature, each in the way its own documentation calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from camfn import explainer, methods
from camfn.image import normalize, upsample

from .models import Subject

Explain: TypeAlias = Callable[[Tensor], Any]
"""Images to heatmaps, as the package gives them: a tensor or an array, (B, H, W)."""


class Method(NamedTuple):
    """One method in the three packages.

    Attributes:
        camfn: the function.
        grad_cam: class of pytorch-grad-cam.
        torchcam: class of torch-cam, or None.
    """

    camfn: Callable[..., Tensor]
    grad_cam: str
    torchcam: str | None = None


GRADIENT = {
    "grad_cam": Method(methods.grad_cam, "GradCAM", "GradCAM"),
    "hires_cam": Method(methods.hires_cam, "HiResCAM"),
    "elementwise_grad_cam": Method(methods.elementwise_grad_cam, "GradCAMElementWise"),
    "grad_cam_plusplus": Method(methods.grad_cam_plusplus, "GradCAMPlusPlus", "GradCAMpp"),
    "xgrad_cam": Method(methods.xgrad_cam, "XGradCAM", "XGradCAM"),
    "layer_cam": Method(methods.layer_cam, "LayerCAM", "LayerCAM"),
}
# the peer centers: the form that can be compared with it is the one that is timed, and costs a little more
EIGEN = {
    "eigen_cam": Method(partial(methods.eigen_cam, centered=True), "EigenCAM"),
    "eigen_grad_cam": Method(partial(methods.eigen_grad_cam, centered=True), "EigenGradCAM"),
}
METHODS = GRADIENT | EIGEN


@contextmanager
def forward(method: str, subject: Subject, classes: list[int]) -> Iterator[Explain]:
    """Run the bare network: the unit of cost."""

    def explain(images: Tensor) -> Any:
        with torch.no_grad():
            return subject.model(images)

    yield explain


@contextmanager
def camfn(method: str, subject: Subject, classes: list[int]) -> Iterator[Explain]:
    """Explain with camfn, up to a heatmap of the size of the images."""
    explain = explainer(METHODS[method].camfn, subject.model, subject.layer, layout=subject.layout)
    yield lambda images: upsample(normalize(explain(images, classes)), images.shape[-2:])


@contextmanager
def grad_cam(method: str, subject: Subject, classes: list[int]) -> Iterator[Explain]:
    """Explain with pytorch-grad-cam, which resizes to the size of the images itself."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    layer = subject.model.get_submodule(subject.layer)
    reshape = subject.layout.to_map if subject.layout else None
    peer = getattr(pytorch_grad_cam, METHODS[method].grad_cam)(subject.model, [layer], reshape_transform=reshape)
    targets = [ClassifierOutputTarget(index) for index in classes]
    try:
        yield lambda images: peer(input_tensor=images, targets=targets)
    finally:
        # its own `with` would hide an IndexError of ours; the gradients it leaves belong to its memory, not the next's
        peer.activations_and_grads.release()
        subject.model.zero_grad()


@contextmanager
def torchcam(method: str, subject: Subject, classes: list[int]) -> Iterator[Explain]:
    """Explain with torch-cam, which stays at the layer's resolution."""
    import torchcam.methods

    name = METHODS[method].torchcam
    if name is None:
        raise ValueError(f"torch-cam has no {method}")
    reshape = subject.layout.to_map if subject.layout else None
    with getattr(torchcam.methods, name)(subject.model, subject.layer, reshape_transform=reshape) as peer:
        yield lambda images: peer(classes, subject.model(images))[0]


PACKAGES: dict[str, Callable[[str, Subject, list[int]], AbstractContextManager[Explain]]] = {
    "forward": forward,
    "camfn": camfn,
    "grad-cam": grad_cam,
    "torchcam": torchcam,
}


class Case(NamedTuple):
    """What one benchmark runs."""

    device: str
    model: str
    batch: int
    method: str
    package: str

    def __str__(self) -> str:
        return "-".join(map(str, self))


def has(package: str, method: str) -> bool:
    """Whether a package has a method."""
    return package != "torchcam" or METHODS[method].torchcam is not None


def synchronized(explain: Explain, device: torch.device) -> Explain:
    """Wait for the device to finish, so that its work is timed and not only its launch."""
    if device.type != "cuda":
        return explain

    def waited(images: Tensor) -> Any:
        found = explain(images)
        torch.cuda.synchronize()
        return found

    return waited
