"""Find how a layer lays out space, from the shape of its output, the shape of the image, and facts of the model."""

# tested in tests/layout/test_find.py

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from .._shared.errors import ArgumentTypeError, CaptureError
from .._shared.inputs import Images, floating_leaves, images_of, named_inputs
from .._shared.vocabulary import LayoutPair, Reading
from .facts import LayerContext, channel_axis, is_norm, read_by_tower, reads_a_picture, width_of
from .pairs import channels_last
from .tokens import token_readings
from .windows import may_be_padded, window_cut, window_readings


def images_among(inputs: Any, which: Images | None = None) -> list[Tensor]:
    """Return the floating-point tensors (B, C, *spatial) of the inputs, each shape once; or the one that is named."""
    if which is not None:
        leaves = [images_of(inputs, which, "reads the layout from the image")[0]]
    else:
        leaves = floating_leaves(dict(inputs) if isinstance(inputs, Mapping) else inputs)
    images: list[Tensor] = []
    for leaf in leaves:
        if leaf.ndim > 2 and not any(_same_shape(leaf, image) for image in images):
            images.append(leaf)
    return images


def image_among(inputs: Any, which: Images | None = None) -> Tensor | None:
    """Return the image that is named, or else the first among the inputs; None where there is none."""
    return next(iter(images_among(inputs, which)), None)


def images_read(model: nn.Module, name: str, ndim: int, inputs: Any, which: Images | None = None) -> list[Tensor]:
    """Return the images that a layer with an output of so many dimensions may have been computed from.

    One that is named comes alone, or before those that the layer's own part of the model reads.
    """
    named, images = images_among(inputs, which), images_among(inputs)
    if len(images) < 2:
        return named
    images = [image for image in images if image.ndim == ndim] or images if ndim > 3 else images
    read = read_by_tower(model, name, images)
    if which is None:
        return read
    return named if not named or any(_same_shape(named[0], image) for image in read) else [*named, *read]


def _same_shape(one: Tensor, other: Tensor) -> bool:
    return len(one.shape) == len(other.shape) and all(a == b for a, b in zip(one.shape, other.shape))


def check_layout(layout: Any) -> None:
    """Refuse anything but "auto", None, or a pair of functions to_map and from_map."""
    if layout is None or (isinstance(layout, str) and layout == "auto") or _is_pair(layout):
        return
    raise ArgumentTypeError(
        f"layout: expected 'auto', None for a layer that returns (B, C, *spatial), or a layout of camfn.layout such as "
        f"layout.tokens((14, 14)); got {layout!r:.60}"
    )


def _is_pair(layout: Any) -> bool:
    """Whether a value, and no class of values, has the two functions of a layout."""
    return not isinstance(layout, type) and all(callable(getattr(layout, key, None)) for key in ("to_map", "from_map"))


def as_map(layout: LayoutPair | None, raw: Tensor) -> Tensor:
    """Apply a layout to a layer's output or gradient; without a layout the tensor is (B, C, *spatial) already."""
    return raw if layout is None else layout.to_map(raw)


class Found(NamedTuple):
    """The readings that facts allow for a layer's output, and the images that they were read from.

    Attributes:
        readings: in the order of their likelihood.
        images: the images that the layer may have been computed from; empty where the inputs hold none.
    """

    readings: list[Reading]
    images: list[Tensor]


def found_by_facts(model: nn.Module, name: str, raw: Tensor, inputs: Any, which: Images | None = None) -> Found:
    """List the readings that the facts allow for a layer whose output is `raw`: none, one or several.

    Raises:
        CaptureError: there is no image among the inputs, or the readings differ between several images.
    """
    shape = tuple(raw.shape)
    images = images_read(model, name, len(shape), inputs, which)
    if not images:
        if len(shape) in (3, 4, 5) and channel_axis(model.get_submodule(name), shape) == 1:
            return Found([_channels_first(shape)], [])
        raise CaptureError(
            f"the layout of layer {name!r} {shape} cannot be found without an image (B, C, *spatial) among the inputs: "
            "pass layout=None if it is (B, C, *spatial), layout=camfn.layout.channels_last() if it is (B, *spatial, "
            "C), or another layout of camfn.layout"
        )
    readings, *others = [readings_of(model, name, shape, inputs, image) for image in images]
    if any([*map(_what, other)] != [*map(_what, readings)] for other in others):
        raise CaptureError(several_images_text(f"the layout of layer {name!r} {shape}", inputs, images, which))
    return Found(readings, images)


def the_only(readings: Sequence[Reading], name: str, shape: tuple[int, ...], images: Sequence[Tensor]) -> Reading:
    """Return the one reading of a layer's output; refuse none, or list several with the call that asks for each."""
    if len(readings) == 1:
        return readings[0]
    if not readings:
        raise CaptureError(_no_map_text(name, shape, images[0]))
    raise CaptureError(f"layer {name!r} gives {shape}, which can be read in {len(readings)} ways: {listed(readings)}")


def listed(readings: Sequence[Reading]) -> str:
    """List readings, each with the call that asks for it."""
    return "; or ".join(f"{reading.reason}: {reading.call}" for reading in readings)


def rests_on_a_count(model: nn.Module, name: str, shape: Sequence[int], reading: Reading) -> bool:
    """Whether nothing but numbers that agree supports a reading.

    It is so for tokens, since queries, frames or instances may be as many as the patches are; and for a map whose
    channels the layer does not state, in a network that may hold other tensors of four dimensions, such as attention
    matrices.
    """
    if reading.name == "tokens" or (reading.name == "channels last" and len(shape) == 3):
        return True
    if reading.name not in ("channels first", "channels last"):
        return False
    module = model.get_submodule(name)
    if channel_axis(module, shape) is not None or width_of(module) == reading.channels:
        return False
    return _has_norms(model)


def is_skewed(reading: Reading, images: Sequence[Tensor]) -> bool:
    """Whether a map of pictures has strides so far apart that the network may have folded the picture before.

    Audio networks lay a long spectrogram out in a square, whose places are no longer the spectrogram's in order.
    """
    if reading.name not in ("channels first", "channels last") or len(reading.spatial) != 2:
        return False
    return all(_strides_apart(image.shape[2:], reading.spatial) for image in images if image.ndim == 4)


def _strides_apart(image: Sequence[int], grid: Sequence[int]) -> bool:
    """Whether one stride is over four times the other, however the last cells were rounded."""
    least = [size / (cells + 1) for size, cells in zip(image, grid)]
    return max(least) > 4 * min(size / max(cells, 1) for size, cells in zip(image, grid))


def several_images_text(what: str, inputs: Any, images: Sequence[Tensor], which: Images | None) -> str:
    """Say that something differs with the image it is read from, and list the images with the calls that name them."""
    read = images if which is None else images[1:]
    calls = (
        f"{call} of shape {tuple(image.shape)}"
        for call, image in named_inputs(inputs).items()
        if any(_same_shape(image, one) for one in read)
    )
    if which is None:
        return f"{what} depends on which of the inputs is the image: say which, {'; '.join(calls)}"
    name = getattr(which, "__name__", repr(which))
    return f"{what} is another for images={name} than for what its part of the model reads, {'; '.join(calls)}"


def _what(reading: Reading) -> tuple[Any, ...]:
    """Return what a reading says, without its reason."""
    return reading.name, reading.spatial, reading.channels, reading.prefix, reading.layout


def _no_map_text(name: str, shape: tuple[int, ...], image: Tensor) -> str:
    """Say why a layer's output is no map of the image, and what to pass or which layer to take instead."""
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
        return text + f"its first dimension is not the batch, {image.shape[0]}: {_folded_text(shape, image)}"
    return text + (
        "pass layout=None if it is (B, C, *spatial), layout=camfn.layout.channels_last() or "
        "layout=camfn.layout.tokens(grid, prefix=...), or take another layer"
    )


def _folded_text(shape: tuple[int, ...], image: Tensor) -> str:
    """Say what may be folded into the first dimension of a layer's output, and what to pass."""
    batch = image.shape[0]
    if shape[0] % batch:
        return (
            "tokens packed in one sequence, perhaps. Pass layout=camfn.layout.packed(grid_thw, merge), or take the "
            "block around it"
        )
    count = shape[0] // batch
    if image.ndim == 5:
        return (
            f"{count} frames, views or instances of a sample, perhaps: pass layout=camfn.layout.frames({count}), with "
            "each=camfn.layout.tokens(grid, prefix=...) where each is a sequence; or take the block around it"
        )
    return (
        f"{count} windows of the map, tiles of the image or frames, perhaps. Take the block around it; or pass "
        f"layout=camfn.layout.windows(grid, window), layout=camfn.layout.tiles(rows, cols) or "
        f"layout=camfn.layout.frames({count})"
    )


def possible_readings(
    model: nn.Module, name: str, shape: Sequence[int], inputs: Any, which: Images | None = None
) -> list[Reading]:
    """List the readings of a layer's output of this shape that the model and the images allow, each once."""
    found: list[Reading] = []
    for image in images_read(model, name, len(shape), inputs, which):
        new = readings_of(model, name, tuple(shape), inputs, image)
        found += [one for one in new if not any(_what(one) == _what(other) for other in found)]
    return found


def readings_of(model: nn.Module, name: str, shape: tuple[int, ...], inputs: Any, image: Tensor) -> list[Reading]:
    """List the readings of a layer's output of this shape that the model and this image allow."""
    if len(shape) < 3:
        return []
    layer = LayerContext(model, name, image.shape)
    if len(image.shape) == 3 and reads_a_picture(layer):
        return []
    cut = window_cut(layer)
    dimensions, samples = image.ndim - 2, image.shape[0]
    readings: list[Reading] = []
    if cut and dimensions == 2 and (cut.always or shape[0] != samples):
        readings = window_readings(cut, layer, shape)
        if cut.always:
            return readings
    if cut is None and shape[0] == samples and may_be_padded(layer, shape):
        return []
    if shape[0] == samples and len(shape) == dimensions + 2:
        return _map_readings(layer, shape)
    if len(shape) == 3 and dimensions > 1:
        readings += token_readings(layer, shape, inputs)
    return readings


def _channels_first(shape: tuple[int, ...]) -> Reading:
    return Reading("channels first", shape[2:], shape[1], 0, None, "channels first", "layout=None")


def _channels_last(shape: tuple[int, ...]) -> Reading:
    return Reading(
        "channels last",
        shape[1:-1],
        shape[-1],
        0,
        channels_last(),
        "channels last",
        "layout=camfn.layout.channels_last()",
    )


def _map_readings(layer: LayerContext, shape: tuple[int, ...]) -> list[Reading]:
    """List the readings of an output that has as many dimensions as the image: channels first, channels last."""
    size = layer.image[2:]
    first_fits, width = same_stride(size, shape[2:]), width_of(layer.module)
    axis = channel_axis(layer.module, shape)
    if axis == 1:
        return [_channels_first(shape)]
    if axis == -1:
        return [_channels_last(shape)] if same_stride(size, shape[1:-1]) else []
    if first_fits and shape[1] == width and (shape[-1] != width or not _has_norms(layer.model)):
        # before any comparison of the channels with the image: the compiler would hold later sizes to its result
        return [_channels_first(shape)]
    last_fits = same_stride(size, shape[1:-1])
    if first_fits and shape[-1] == shape[-2] > 1 and _is_attention_matrix(layer, shape):
        return []
    if first_fits and not last_fits:
        return [_channels_first(shape)]
    if last_fits and not first_fits:
        return [_channels_last(shape)]
    if shape[1] == width != shape[-1]:
        return [_channels_first(shape)]
    if shape[-1] == width != shape[1]:
        return [_channels_last(shape)] if last_fits else []
    if not _has_norms(layer.model):
        # a network without a layer norm has no module that works on channels in the last dimension
        return [_channels_first(shape)]
    return [_channels_first(shape), _channels_last(shape)] if first_fits else []


def _has_norms(model: nn.Module) -> bool:
    """Whether a model normalizes channels in the last dimension anywhere."""
    return any(is_norm(part) for part in model.modules())


def _is_attention_matrix(layer: LayerContext, shape: tuple[int, ...]) -> bool:
    """Whether an output (B, heads, N, N) of a transformer is an attention matrix, and no map."""
    if next(layer.module.parameters(), None) is not None:
        return False
    stem = layer.facts.stem
    if stem is None or not _has_norms(layer.model):
        return False
    places, prefix, suffix = math.prod(stem.grid), layer.facts.prefix, layer.facts.suffix
    return shape[-1] in (places, places + prefix, places + prefix + suffix)


def same_stride(image: Sequence[int], grid: Sequence[int]) -> bool:
    """Whether a grid is no larger than the image, and has about the same stride along each dimension."""
    strides = [size / max(cells, 1) for size, cells in zip(image, grid)]
    # unpadded convolutions and odd sizes cost a few cells, whatever the size; a grid read with the channels as a
    # dimension is off by far more
    slack = min(0.34, 3 / max(min(grid), 1))
    return min(strides) >= 1 and max(strides) <= (1 + slack) * min(strides)
