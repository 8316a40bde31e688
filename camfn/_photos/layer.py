"""The layer to explain at: named, suggested, or all attentions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from .. import CaptureError, Layout, attention, layers, layout, methods
from .._shared.errors import UsageError
from ..catalogue import info_of
from ..transforms._fuse import matching

ALL = "*"
"""Stands for every attention of a network."""


class Layer(NamedTuple):
    """A layer to explain at.

    Attributes:
        name: dotted; for methods on attention also `ALL`.
        channels: C.
        layout: what makes its output a map; None where it is one already.
        reason: why it was taken.
    """

    name: str
    channels: int
    layout: Layout | None
    reason: str


def choose_layer(
    model: nn.Module, inputs: Tensor, name: str | None, method: Callable[..., Tensor] = methods.grad_cam
) -> Layer:
    """Take the layer that was named, or the first that is suggested, with its layout; or attention, named or all.

    Raises:
        UsageError: the named layer never runs, or gives no map of the image.
        CaptureError: no layer gives a map.
    """
    if info_of(method).kind == "attention":
        records = attention.observe_attention(model, name)(inputs[:1]).records
        many = f"{len(records)} attentions, from {records[0].name} to {records[-1].name}"
        return Layer(name or ALL, 0, None, many if len(records) > 1 else f"the attention in {records[0].name}")
    if name is None:
        best = layers.suggest(model, inputs)[0]
        return Layer(best.name, best.channels, best.layout, best.reason)
    instead = "name another (see: camfn layers MODEL), or take --layer auto"
    try:
        reading = layout.find(model, name, inputs[:1])
    except CaptureError as error:
        raise UsageError(f"{error}; {instead}") from error
    if max(reading.spatial) == 1:
        raise UsageError(f"layer {name!r} gives one position only, after the pooling: {instead}")
    return Layer(name, reading.channels, reading.layout, f"as asked for ({reading.reason})")


def choose_layers(model: nn.Module, inputs: Tensor, names: tuple[str, ...]) -> Layer:
    """Take several layers; the last stands for all.

    Raises:
        UsageError: one gives no map.
    """
    taken = [choose_layer(model, inputs, name) for name in matching(model, names)]
    return taken[-1]._replace(name=", ".join(item.name for item in taken), reason="as asked for, their maps fused")
