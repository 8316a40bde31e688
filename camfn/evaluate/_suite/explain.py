"""One case explains what was asked: the maps, the layer and the cost; captures of a layer are shared by methods."""

# tested in tests/evaluate/suite/test_laws.py

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ... import Captured
from ..._cut.signature import read_signature
from ..._photos.explain import Changes, captured_or_map, check_map, compose
from ..._photos.layer import Layer
from ..._shared.errors import UsageError
from ...catalogue import METHODS, info_of
from .._inputs.cases import Case, center, method_of
from .._measures.core import layer_of
from .._measures.cost import flops_of
from .._measures.memo import Captures, Layers
from .asked import Asked
from .protocol import Suite

CONTROLS = ("truth", "both", "center", "random")
"""Rows that every table has: the pixels of the truth, those of the other object too, the middle, and noise."""

SIGNED = ("integrated_gradients", "expected_gradients", "input_x_gradient", "guided_grad_cam", "idgi")
"""Methods whose picture sums over channels with its sign; of all others the absolute value is taken first."""


class Explained(NamedTuple):
    """The maps of one case.

    Attributes:
        maps: (B, h, w), raw.
        layer: its name; empty for a method of a whole network.
        forwards: operations over those of one forward of one picture.
        seconds: time.
    """

    maps: Tensor
    layer: str = ""
    forwards: float | None = 0.0
    seconds: float = 0.0


class Explainer:
    """Explains the same questions by many cases.

    Args:
        model: the network.
        asked: the questions.
        suite: settings; its generator seeds methods that draw.
        name: of the picture, for the seeds.
        layers: layers of this model found before; new ones are added.
        one_forward: operations of one forward of one picture.
    """

    def __init__(
        self, model: nn.Module, asked: Asked, suite: Suite, name: str, layers: Layers, one_forward: int
    ) -> None:
        self.model, self.asked, self.suite, self.name = model, asked, suite, name
        self.layers, self.one_forward = layers, one_forward
        self.captures = Captures(model, asked.explained)

    def __call__(self, case: Case) -> Explained:
        """Explain the questions by one case."""
        if case.method in CONTROLS:
            return Explained(control(case.method, self.asked, self.suite, self.name))
        method = self.method(case)
        # the layer is chosen once for a model: that is no cost of the first method that asks
        layer = layer_of(case, method, self.model, self.asked.images[:1], self.layers, self.first)
        started = perf_counter()
        (maps, taken), count = flops_of(lambda: self._maps(method, layer))
        seconds = perf_counter() - started + taken[0]
        forwards = (count + taken[1]) / self.one_forward if self.one_forward else None
        return Explained(maps.detach().float().cpu(), layer.name if layer else "", forwards, seconds)

    def maps(self, case: Case) -> Tensor:
        """Explain the questions by one case of a method, without its cost."""
        method = self.method(case)
        layer = layer_of(case, method, self.model, self.asked.images[:1], self.layers, self.first)
        return self._maps(method, layer)[0].detach().float().cpu()

    def _maps(self, method: Callable[..., Tensor], layer: Layer | None) -> tuple[Tensor, tuple[float, int]]:
        """Return the maps, and what a capture cost that was there: one that is made now is measured from outside."""
        images = self.asked.images
        if layer is not None and is_arithmetic(method):
            needs, before = read_signature(method), len(self.captures.known)
            taken = self.captures(layer, images, needs.gradients, count=True)
            cost = (taken.seconds, taken.flops) if len(self.captures.known) == before else (0.0, 0)
            with torch.no_grad():
                # of one's own: a function may write to its arguments
                given = taken.captured if info_of(method) in METHODS else copied(taken.captured)
                maps = method(*given[: needs.positional])
            check_map(maps, len(images), images.ndim - 1)
            return maps, cost
        explain, captured = compose(method, self.model, layer, Changes(), self.suite.chunk_size, None)
        maps = one_channel(explain(images, self.asked.explained), method)
        dimensions = captured_or_map(captured, maps).activations.ndim - 1
        check_map(maps, len(images), dimensions if info_of(method).kind == "layer" else images.ndim - 1)
        return maps, (0.0, 0)

    def method(self, case: Case) -> Callable[..., Tensor]:
        """Return the function of a case, with a generator of this picture."""
        return method_of(case, self.suite.generator(self.name, case.name))

    def first(self, outputs: Any) -> Tensor:
        """Score the one noise image by which a layer is chosen, as the first question does."""
        repeated = torch.utils._pytree.tree_map(
            lambda part: part.expand(len(self.asked.images), *part.shape[1:]) if isinstance(part, Tensor) else part,
            outputs,
        )
        return self.asked.explained(repeated)[:1]


def is_arithmetic(method: Callable[..., Any]) -> bool:
    """Whether a method is arithmetic on activations and gradients alone, as DiFull at a layer needs it."""
    info = info_of(method)
    if info.kind != "layer":
        return False
    needs = read_signature(method)
    return info.needs <= {"gradients"} and not (needs.context or needs.over_images)


def one_channel(maps: Tensor, method: Callable[..., Any]) -> Tensor:
    """Sum a picture (B, C, h, w) over channels: with its sign where it says how much, otherwise its absolute value."""
    if info_of(method).gives == "picture" and maps.ndim == 4:
        return maps.sum(1) if info_of(method).name in SIGNED else maps.abs().sum(1)
    return maps


def control(name: str, asked: Asked, suite: Suite, picture: str) -> Tensor:
    """Return the map of a control, (B, h, w).

    Raises:
        UsageError: the truth of these pictures is not known.
    """
    count, (height, width) = len(asked.images), asked.images.shape[2:]
    if name == "center":
        return center(height, width).expand(count, -1, -1).clone()
    if name == "random":
        generator = suite.generator(picture, "random")
        # the same for every question: noise reads no question
        return torch.rand(1, 16, 16, generator=generator).expand(count, -1, -1).clone()
    if asked.own is None:
        raise UsageError("the truth of this picture is not known: it has no mask and no box")
    if name == "both" and asked.other is not None:
        return (asked.own | asked.other).float()
    return asked.own.float()


def copied(captured: Captured | tuple[Any, ...]) -> tuple[Any, ...]:
    """Copy tensors for a function of one's own."""
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in captured)
