"""How a layer lays out space: found from the shape of its output, the image's, and what the model itself says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .._shared.errors import CaptureError
from .._shared.inputs import floating_leaves
from .._shared.vocabulary import AnyLayout, Layout, Reading
from .facts import axis, facts, is_norm, width_of
from .pairs import channels_last
from .tokens import token_readings
from .windows import cut_of, may_be_padded, window_readings


def image_among(inputs: Any) -> Tensor | None:
    """Return the first floating-point tensor with space among the inputs, (B, C, *spatial)."""
    leaves = floating_leaves(dict(inputs) if isinstance(inputs, Mapping) else inputs)
    return next((leaf for leaf in leaves if leaf.ndim > 2), None)


def layout_for(layout: AnyLayout, model: nn.Module, name: str, raw: Tensor, inputs: Any) -> Layout | None:
    """Return the layout that was given, or find it.

    Raises:
        CaptureError: as `the_reading`.
    """
    return the_reading(model, name, raw, inputs).layout if layout == "auto" else layout


def the_reading(model: nn.Module, name: str, raw: Tensor, inputs: Any) -> Reading:
    """Find the one reading that the facts allow.

    Raises:
        CaptureError: none, or several; lists them, each with the call that asks for it.
    """
    image = image_among(inputs)
    module = model.get_submodule(name)
    shape = tuple(raw.shape)
    if image is None:
        if len(shape) in (3, 4, 5) and axis(module, shape) == 1:
            return _first(shape)
        raise CaptureError(
            f"the layout of layer {name!r} {shape} cannot be found without an image (B, C, *spatial) among the inputs: "
            "pass layout=None if it is (B, C, *spatial), or a layout of camfn.layout"
        )
    found = possible_readings(model, name, shape, inputs)
    if len(found) == 1:
        return found[0]
    if not found:
        raise CaptureError(_no_map(name, shape, image))
    listed = "; or ".join(f"{reading.reason}: {reading.call}" for reading in found)
    raise CaptureError(f"layer {name!r} gives {shape}, which can be read in {len(found)} ways: {listed}")


def _no_map(name: str, shape: tuple[int, ...], image: Tensor) -> str:
    size = " x ".join(map(str, image.shape[2:]))
    text = f"layer {name!r} gives shape {shape}, in which no map of a {size} image is found; "
    if len(shape) < 3:
        return text + "a class activation map needs a grid. Take an earlier layer, before the pooling"
    if len(shape) == 3 and shape[0] != image.shape[0] == shape[1]:
        return text + (
            "it seems to be (tokens, batch, channels): pass layout=camfn.layout.tokens(grid, prefix=..., "
            "batch_first=False), or take the block around it"
        )
    if shape[0] != image.shape[0]:
        return text + (
            f"its first dimension is not the batch, {image.shape[0]}: windows of the map, perhaps. Take the block "
            "around it, or pass layout=camfn.layout.windows(grid, window)"
        )
    return text + (
        "pass layout=None if it is (B, C, *spatial), layout=camfn.layout.channels_last() or "
        "layout=camfn.layout.tokens(grid, prefix=...), or take another layer"
    )


def possible_readings(model: nn.Module, name: str, shape: Sequence[int], inputs: Any) -> list[Reading]:
    """All the readings of a layer's output that the model, the image and the shapes allow."""
    image = image_among(inputs)
    if image is None or len(shape) < 3:
        return []
    size, shape = tuple(image.shape[2:]), tuple(shape)
    module, cut = model.get_submodule(name), cut_of(model, name)
    samples = int(image.shape[0])
    found: list[Reading] = []
    if cut and len(size) == 2 and (cut.always or shape[0] != samples):
        found = window_readings(cut, facts(model, name, image.shape[1:]), module, shape, samples)
        if cut.always:
            return found
    if cut is None and shape[0] == samples and may_be_padded(model, name, shape, image.shape[1:]):
        return []
    if shape[0] == samples and len(shape) == len(size) + 2:
        return _maps(model, name, module, shape, image)
    if len(shape) == 3 and len(size) > 1:
        found += token_readings(model, name, shape, image, inputs)
    return found


def _first(shape: tuple[int, ...]) -> Reading:
    return Reading("channels first", shape[2:], shape[1], 0, None, "channels first", "layout=None")


def _last(shape: tuple[int, ...]) -> Reading:
    return Reading(
        "channels last",
        shape[1:-1],
        shape[-1],
        0,
        channels_last(),
        "channels last",
        "layout=camfn.layout.channels_last()",
    )


def _maps(model: nn.Module, name: str, module: nn.Module, shape: tuple[int, ...], image: Tensor) -> list[Reading]:
    """Readings of as many dimensions as the image has."""
    size = tuple(image.shape[2:])
    first, last = same_stride(size, shape[2:]), same_stride(size, shape[1:-1])
    told = axis(module, shape)
    if told is not None:
        return [_first(shape)] if told == 1 else [_last(shape)] if last else []
    if first and shape[-1] == shape[-2] > 1 and _relates_places(model, name, module, shape, image):
        return []
    if first and not last:
        return [_first(shape)]
    if last and not first:
        return [_last(shape)]
    width = width_of(module)
    if (shape[1] == width) != (shape[-1] == width):
        return [_first(shape)] if shape[1] == width else [_last(shape)] if last else []
    if not any(is_norm(part) for part in model.modules()):
        # nothing in it works on channels that come last
        return [_first(shape)]
    return [_first(shape), _last(shape)] if first else []


def _relates_places(model: nn.Module, name: str, module: nn.Module, shape: tuple[int, ...], image: Tensor) -> bool:
    """Whether it is an attention matrix of a transformer, (B, heads, N, N), and no map."""
    if next(module.parameters(), None) is not None:
        return False
    known = facts(model, name, image.shape[1:])
    if known.stem is None or not any(is_norm(part) for part in model.modules()):
        return False
    places = math.prod(known.stem.grid)
    return shape[-1] in (places, places + known.prefix, places + known.prefix + known.suffix)


def same_stride(image: Sequence[int], grid: Sequence[int]) -> bool:
    """Whether a grid is no larger than the image, and has about the same stride along each dimension."""
    strides = [size / max(cells, 1) for size, cells in zip(image, grid)]
    # unpadded convolutions and odd sizes cost a few cells, whatever the size; a grid read the wrong way, far more
    slack = min(0.34, 3 / max(min(grid), 1))
    return min(strides) >= 1 and max(strides) <= (1 + slack) * min(strides)
