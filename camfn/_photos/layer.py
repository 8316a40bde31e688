"""The layer to explain at: the layer that a user named, a suggested layer, or all attentions."""

# tested in tests/cli/test_cli.py

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from .. import CaptureError, LayoutPair, attention, layers, layout
from .._shared.errors import UsageError
from .._shared.vocabulary import Target
from ..catalogue import find, info_of
from ..transforms._fuse import matching

ALL = "*"
"""Name of a `Layer` that stands for every attention of a network."""

HEADS = ("head", "classifier")
"""Parts of the names of heads. The score of one box or pixel depends on a head's output at that place alone, so that
its map there is one point."""

_USUAL = find("grad_cam").function
"""The method that camfn chooses a layer for where the user names none."""


class Layer(NamedTuple):
    """A layer to explain at.

    Attributes:
        name: the dotted name of the module; for methods on attention also `ALL`.
        channels: C.
        layout: converts the layer's output to a map, (B, C, *S); None if the output is one already.
        reason: why this layer was chosen, as the command line prints it.
    """

    name: str
    channels: int
    layout: LayoutPair | None
    reason: str


def choose_outside_heads(model: nn.Module, inputs: Tensor, target: Target) -> Layer:
    """Choose the first suggested layer outside of the model's heads; the first of all where there is no other."""
    suggestions = layers.suggest(model, inputs, target)
    outside = [item for item in suggestions if not any(part in item.name for part in HEADS)]
    best = (outside or suggestions)[0]
    return Layer(best.name, best.channels, best.layout, best.reason)


def choose_layer(
    model: nn.Module,
    inputs: Tensor,
    name: str | None,
    method: Callable[..., Tensor] = _USUAL,
    target: Target = None,
) -> Layer:
    """Choose the named layer, or the first suggested layer; for a method on attention, the named one or all.

    Args:
        model: the network.
        inputs: (B, 3, H, W), of which the first is run.
        name: a dotted name, or None for the suggested layer.
        method: a method on a layer or on attention.
        target: what the suggested layer is to depend on; None for the top class.

    Raises:
        UsageError: the named layer never runs, or gives no map of the image.
        CaptureError: no layer gives a map.
    """
    if info_of(method).kind == "attention":
        records = attention.observe_attention(model, name)(inputs[:1]).records
        reason = f"the attention in {records[0].name}"
        if len(records) > 1:
            reason = f"{len(records)} attentions, from {records[0].name} to {records[-1].name}"
        return Layer(name or ALL, 0, None, reason)
    if name is None:
        best = layers.suggest(model, inputs[:1], target)[0]
        return _with_head(model, inputs, method, Layer(best.name, best.channels, best.layout, best.reason))
    advice = "name another (see: camfn layers MODEL), or take --layer auto"
    try:
        reading = layout.find(model, name, inputs[:1])
    except CaptureError as error:
        raise UsageError(f"{error}; {advice}") from error
    if max(reading.spatial) == 1:
        raise UsageError(f"layer {name!r} gives one position only, after the pooling: {advice}")
    chosen = Layer(name, reading.channels, reading.layout, f"as asked for ({reading.reason})")
    return _with_head(model, inputs, method, chosen)


def _with_head(model: nn.Module, inputs: Tensor, method: Callable[..., Tensor], layer: Layer) -> Layer:
    """Add to the reason which head a method takes; where there is none, the method says so when it runs."""
    if "head" not in info_of(method).needs:
        return layer
    try:
        name = layers.head(model, layer.name, inputs[:1]).name
    except CaptureError:
        return layer
    return layer._replace(reason=f"{layer.reason}; its head is {name!r}")


def choose_layers(model: nn.Module, inputs: Tensor, names: tuple[str, ...]) -> Layer:
    """Check several layers whose maps are to be fused, and return the last with the names of all.

    Raises:
        UsageError: a layer gives no map.
    """
    chosen = [choose_layer(model, inputs, name) for name in matching(model, names)]
    return chosen[-1]._replace(name=", ".join(layer.name for layer in chosen), reason="as asked for, their maps fused")
