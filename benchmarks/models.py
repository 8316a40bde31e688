"""The networks that are timed: random weights, the same in every run and in every process."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from camfn import LayoutPair
from camfn._layout.pairs import channels_last, tokens

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
BATCHES = (1, 8)
SIZE = (224, 224)
SEED = 20


class Subject(NamedTuple):
    """A network, and where it is cut.

    Attributes:
        model: in eval mode, on its device.
        layer: dotted name of the layer to explain.
        layout: what makes the layer's output a map; None where it is one already.
    """

    model: nn.Module
    layer: str
    layout: LayoutPair | None

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.model.parameters()).device


def _tiny() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 1000),
    )


def _torchvision(name: str) -> nn.Module:
    import torchvision

    model: nn.Module = getattr(torchvision.models, name)()
    return model


def _vit() -> nn.Module:
    model: Any = _torchvision("vit_b_16")
    # torchvision starts this head at zero, where no score depends on anything
    nn.init.normal_(model.heads.head.weight, std=0.02)
    return model  # type: ignore[no-any-return]


def _deit() -> nn.Module:
    import timm

    model: nn.Module = timm.create_model("deit_small_patch16_224")
    return model


_SUBJECTS: dict[str, tuple[Callable[[], nn.Module], str, LayoutPair | None]] = {
    "resnet50": (lambda: _torchvision("resnet50"), "layer4", None),
    "vit_b_16": (_vit, "encoder.layers.encoder_layer_11.ln_1", tokens((14, 14))),
    "efficientnet_b0": (lambda: _torchvision("efficientnet_b0"), "features", None),
    "swin_t": (lambda: _torchvision("swin_t"), "features.7.1", channels_last()),
    "convnext_tiny": (lambda: _torchvision("convnext_tiny"), "features.7.2", None),
    "deit_small": (_deit, "blocks.11.norm1", tokens((14, 14))),
    "resnet50.layer3": (lambda: _torchvision("resnet50"), "layer3", None),
    "resnet50.layer2": (lambda: _torchvision("resnet50"), "layer2", None),
    "tiny": (_tiny, "3", None),
}
MODELS = ("resnet50", "vit_b_16", "efficientnet_b0")
"""Where every method is timed."""
CUTS = tuple(name for name in _SUBJECTS if name != "tiny")
"""Where Grad-CAM is timed beside a cut by hand."""


@lru_cache(maxsize=1)
def load(name: str, device: str = "cpu") -> Subject:
    """Build a network; "tiny" is for the tests of the benchmarks themselves."""
    build, layer, layout = _SUBJECTS[name]
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = build().eval()
        _calibrate(model)
    return Subject(model.to(device), layer, layout)


def question(subject: Subject, batch: int) -> tuple[Tensor, list[int]]:
    """Make images, and the class to explain of each."""
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randn(batch, 3, *SIZE, generator=generator)
    return images.to(subject.device), [(37 * i + 5) % 1000 for i in range(batch)]


def _calibrate(model: nn.Module) -> None:
    """Give BatchNorm the statistics of noise: else activations of random weights vanish or explode with depth."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.no_grad():
        model(torch.randn(4, 3, *SIZE))
    for norm in norms:
        norm.eval().momentum = 0.1
