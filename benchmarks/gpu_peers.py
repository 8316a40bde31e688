"""camfn beside pytorch-grad-cam and torch-cam on one device, in one run, each map compared before it is timed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from camfn import explainer, methods
from camfn.image import normalize, upsample

AT_ONCE = 128
"""Masked images a forward, for peers that take a number: more than their defaults of 16 and 32."""

ALIKE = 0.99
"""Least correlation of two maps of one method: the peers' stretching and upsampling differ a little."""

LAYER = "layer4"


class Work(NamedTuple):
    """One method in the three packages, and for how many images at once."""

    method: Callable[..., Tensor]
    grad_cam: str
    torchcam: str | None
    few: bool


WORK = {
    "Grad-CAM": Work(methods.grad_cam, "GradCAM", "GradCAM", False),
    "LayerCAM": Work(methods.layer_cam, "LayerCAM", "LayerCAM", False),
    "Ablation-CAM": Work(partial(methods.ablation_cam, closed_form=False), "AblationCAM", None, True),
    "Score-CAM": Work(methods.score_cam, "ScoreCAM", "ScoreCAM", True),
}
PACKAGES = {"camfn": "camfn", "grad-cam": "pytorch_grad_cam", "torchcam": "torchcam"}
Explain = Callable[[Tensor], Any]


class Timed(NamedTuple):
    """A method of one package: the call to time, or why there is none."""

    method: str
    package: str
    images: int
    run: Callable[[], Any] | None
    problem: str = ""


def works(network: nn.Module, images: Tensor, few: int) -> Iterator[Timed]:
    """Yield camfn's call and the peers' for each method; a peer whose map differs from camfn's yields a problem."""
    with torch.no_grad():
        index = int(network(images[:1]).argmax())
    for name, work in WORK.items():
        batch = images[:few] if work.few else images
        own = _camfn(work, network, index)
        mine = own(batch)
        yield Timed(name, "camfn", len(batch), partial(own, batch))
        for package, make in (("grad-cam", _grad_cam), ("torchcam", _torchcam)):
            if importlib.util.find_spec(PACKAGES[package]) is None:
                yield Timed(name, package, len(batch), None, "is not installed here")
            elif package == "grad-cam" or work.torchcam:
                yield _checked(name, package, make(work, network, index), batch, mine)


def _checked(name: str, package: str, run: Explain, batch: Tensor, mine: Tensor) -> Timed:
    """Compare a peer's map with camfn's."""
    try:
        found = torch.as_tensor(run(batch)).to(mine)
    except Exception as error:
        return Timed(name, package, len(batch), None, f"{type(error).__name__}: {str(error).splitlines()[0][:80]}")
    if found.shape != mine.shape:
        found = upsample(normalize(found), (mine.shape[-2], mine.shape[-1]))
    pairs = [torch.stack(pair) for pair in zip(found.flatten(1), mine.flatten(1)) if pair[1].std() > 0]
    if not pairs:
        return Timed(name, package, len(batch), None, "not compared: camfn's maps are blank")
    r = min(float(torch.corrcoef(pair)[0, 1]) for pair in pairs)
    if not r > ALIKE:
        return Timed(name, package, len(batch), None, f"another map: a correlation of {r:.3f}")
    return Timed(name, package, len(batch), partial(run, batch))


def _camfn(work: Work, network: nn.Module, index: int) -> Callable[[Tensor], Tensor]:
    explain = explainer(work.method, network, LAYER)
    return lambda x: upsample(normalize(explain(x, index)), (x.shape[-2], x.shape[-1]))


def _grad_cam(work: Work, network: nn.Module, index: int) -> Explain:
    peers = importlib.import_module("pytorch_grad_cam")
    target = importlib.import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget

    def run(x: Tensor) -> Any:
        with getattr(peers, work.grad_cam)(network, [network.get_submodule(LAYER)]) as peer:
            peer.batch_size = AT_ONCE
            return peer(input_tensor=x, targets=[target(index)] * len(x))

    return run


def _torchcam(work: Work, network: nn.Module, index: int) -> Explain:
    peers = importlib.import_module("torchcam.methods")
    options = {"batch_size": AT_ONCE} if work.torchcam == "ScoreCAM" else {}

    def run(x: Tensor) -> Any:
        with getattr(peers, str(work.torchcam))(network, LAYER, **options) as peer:
            found = peer([index] * len(x), network(x))[0]
            return nn.functional.interpolate(found[:, None], x.shape[2:], mode="bilinear")[:, 0]

    return run
