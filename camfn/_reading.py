"""How a layer lays out space: found from the shape of its output, the image's, and what the model itself says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from ._check import CaptureError
from ._facts import Facts, axis, facts, is_norm, others, width_of, window_of
from ._graft import floating_leaves
from ._layouts import channels_last, tokens, windows
from ._types import AnyLayout, Layout

_MOST_UNNAMED = 8
"""Tokens with no place that are counted by subtraction alone, where the model names none."""


class Reading(NamedTuple):
    """How a layer's output may be read as a map.

    Attributes:
        name: "channels first", "channels last", "tokens" or "windows".
        spatial: the map's spatial shape.
        channels: C.
        prefix: number of tokens with no place that come first.
        layout: what makes the output a map; None where it is one already.
        reason: the reading in words, and the facts it rests on.
        call: the layout as it is written in a call.
    """

    name: str
    spatial: tuple[int, ...]
    channels: int
    prefix: int
    layout: Layout | None
    reason: str
    call: str


def image_of(inputs: Any) -> Tensor | None:
    """Return the first floating-point tensor with space among the inputs, (B, C, *spatial)."""
    leaves = floating_leaves(dict(inputs) if isinstance(inputs, Mapping) else inputs)
    return next((leaf for leaf in leaves if leaf.ndim > 2), None)


def settle(layout: AnyLayout, model: nn.Module, name: str, raw: Tensor, inputs: Any) -> Layout | None:
    """Return the layout that was given, or find it.

    Raises:
        CaptureError: as `decide`.
    """
    return decide(model, name, raw, inputs).layout if layout == "auto" else layout


def decide(model: nn.Module, name: str, raw: Tensor, inputs: Any) -> Reading:
    """Find the one reading that the facts allow.

    Raises:
        CaptureError: none, or several; lists them, each with the call that asks for it.
    """
    image = image_of(inputs)
    module = model.get_submodule(name)
    shape = tuple(raw.shape)
    if image is None:
        if len(shape) in (3, 4, 5) and axis(module, shape) == 1:
            return _first(shape)
        raise CaptureError(
            f"the layout of layer {name!r} {shape} cannot be found without an image (B, C, *spatial) among the inputs: "
            "pass layout=None if it is (B, C, *spatial), or a layout of camfn.layout"
        )
    found = readings(model, name, shape, inputs)
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
        return text + "it seems to be (tokens, batch, channels). Take the block around it, or pass a layout of your own"
    if shape[0] != image.shape[0]:
        return text + (
            f"its first dimension is not the batch, {image.shape[0]}: windows of the map, perhaps. Take the block "
            "around it, or pass layout=camfn.layout.windows(grid, window)"
        )
    return text + (
        "pass layout=None if it is (B, C, *spatial), layout=camfn.layout.channels_last() or "
        "layout=camfn.layout.tokens(grid, prefix=...), or take another layer"
    )


def readings(model: nn.Module, name: str, shape: Sequence[int], inputs: Any) -> list[Reading]:
    """All the readings of a layer's output that the model, the image and the shapes allow."""
    image = image_of(inputs)
    if image is None or len(shape) < 3:
        return []
    size, shape = tuple(image.shape[2:]), tuple(shape)
    if shape[0] != image.shape[0]:
        return _windows(model, name, shape, image) if len(size) == 2 and shape[0] % image.shape[0] == 0 else []
    module = model.get_submodule(name)
    if len(shape) == len(size) + 2:
        return _maps(model, name, module, shape, image)
    if len(shape) == 3 and len(size) > 1:
        return _tokens(model, name, module, shape, image, inputs)
    return []


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


def _tokens(
    model: nn.Module, name: str, module: nn.Module, shape: tuple[int, ...], image: Tensor, inputs: Any
) -> list[Reading]:
    count, channels = shape[1:]
    if any("unroll" in type(part).__name__.lower() for part in model.modules()):
        return []  # Hiera: the tokens of a neighborhood follow each other, not those of a row
    known = facts(model, name, image.shape[1:])
    found = _token_readings(count, channels, tuple(image.shape[2:]), known)
    other = others(model, inputs).get(count)
    if found and other:
        found = [*found, _no_reading(f"{other}, which have no place: take a layer that sees the image", channels)]
    elif found and known.stem and count == known.stem.width and not _keeps_channels_last(module, channels, count):
        text = f"channels and places the other way round, ({count} channels, {channels} places or features)"
        found = [*found, _no_reading(text, count)]
    return found


def _keeps_channels_last(module: nn.Module, channels: int, width: int) -> bool:
    """Whether a layer of the embedding's width, or with a norm over the channels, cannot be a transposed one."""
    norms = [width_of(part) for part in module.modules() if is_norm(part)]
    return channels in norms and (channels != width or bool(norms))


def _no_reading(text: str, channels: int) -> Reading:
    return Reading("none", (), channels, 0, None, text, "a layout of your own, Layout(to_map, from_map)")


def _token_readings(count: int, channels: int, size: tuple[int, ...], known: Facts) -> list[Reading]:
    """Every grid and number of tokens with no place that make up the count; those of the stem's own grid settle it."""
    tails = [(known.prefix, known.suffix), (known.prefix, 0), (0, 0)]
    options = list(dict.fromkeys(tails))
    stem = known.stem
    if stem:
        for prefix, suffix in options:
            if math.prod(stem.grid) + prefix + suffix == count:
                return [_token_reading(stem.grid, channels, prefix, suffix, known)]
    base = stem.stride if stem else (1,) * len(size)
    found = {
        (grid, prefix, suffix): _token_reading(grid, channels, prefix, suffix, known)
        for prefix, suffix in options
        for grid in _grids(count - prefix - suffix, size, base)
    }
    rest = count - math.prod(stem.grid) if stem and stem.patches else 0
    if stem and not known.prefix and 0 < rest <= _MOST_UNNAMED:
        unnamed = known._replace(source=f"{count} tokens less the grid of {stem.name}")
        found[stem.grid, rest, 0] = _token_reading(stem.grid, channels, rest, 0, unnamed)
    return list(found.values())


def _token_reading(grid: tuple[int, ...], channels: int, prefix: int, suffix: int, known: Facts) -> Reading:
    words = f"tokens, {prefix} before a grid of {grid}"
    facts_in_words = [known.source] if prefix else []
    if suffix:
        words += f", {suffix} after it"
    if known.stem and known.stem.grid == grid:
        facts_in_words.append(f"the grid of {known.stem.name}")
    else:
        facts_in_words.append("the grid that has one stride along each dimension")
    ends = f", prefix={prefix}" + (f", suffix={suffix}" if suffix else "")
    return Reading(
        "tokens",
        grid,
        channels,
        prefix,
        tokens(grid, prefix=prefix, suffix=suffix),
        f"{words} ({'; '.join(facts_in_words)})",
        f"layout=camfn.layout.tokens({grid}{ends})",
    )


def _grids(count: int, size: tuple[int, ...], base: Sequence[int]) -> list[tuple[int, ...]]:
    """Grids of `count` cells, with a whole multiple of the base stride that is the same along each dimension."""
    if count < 1:
        return []
    about = (math.prod(size) / count) ** (1 / len(size)) / max(base)
    found: dict[tuple[int, ...], None] = {}
    for factor in range(max(int(about / 1.5), 1), math.ceil(about * 1.5) + 1):
        for whole in (math.floor, math.ceil):
            grid = tuple(whole(length / (factor * step)) for length, step in zip(size, base))
            if math.prod(grid) == count:
                found[grid] = None
    return list(found)


def _windows(model: nn.Module, name: str, shape: tuple[int, ...], image: Tensor) -> list[Reading]:
    """Readings of windows whose size and shift the block around the layer tells."""
    window = window_of(model, name)
    known = facts(model, name, image.shape[1:])
    if window is None or known.stem is None or len(shape) not in (3, 4):
        return []
    count = shape[0] // image.shape[0]
    found: dict[tuple[int, ...], Reading] = {}
    for power in range(8):
        grid = tuple(math.ceil(length / 2**power) for length in known.stem.grid)
        size, shift = window.size, window.shift
        if min(grid) <= max(size):
            size, shift = (min(min(grid), size[0]), min(min(grid), size[1])), (0, 0)
        down, across = (math.ceil(length / step) for length, step in zip(grid, size))
        if down * across == count and shape[1:-1] in (size, (math.prod(size),)):
            pair = grid[0], grid[1]
            words = f"{count} windows of {size}, shifted by {shift}, of a grid of {pair} (window_size of {window.name})"
            call = f"layout=camfn.layout.windows({pair}, {size}, shift={shift})"
            found[grid] = Reading("windows", grid, shape[-1], 0, windows(pair, size, shift=shift), words, call)
    return list(found.values())


def same_stride(image: Sequence[int], grid: Sequence[int]) -> bool:
    """Whether a grid is no larger than the image, and has about the same stride along each dimension."""
    strides = [size / max(cells, 1) for size, cells in zip(image, grid)]
    # unpadded convolutions and odd sizes cost a few cells, whatever the size; a grid read the wrong way, far more
    slack = min(0.34, 3 / max(min(grid), 1))
    return min(strides) >= 1 and max(strides) <= (1 + slack) * min(strides)


def token_grid(count: int, size: Sequence[int], prefix: int | None) -> tuple[int, ...] | None:
    """Grid of one whole stride that the tokens make behind `prefix` others, or behind the fewest that fit, if any."""
    for before in range(_MOST_UNNAMED + 1) if prefix is None else (prefix,):
        if count > before:
            stride = round((math.prod(size) / (count - before)) ** (1 / len(size)))
            grid = tuple(length // max(stride, 1) for length in size)
            if math.prod(grid) == count - before:
                return grid
    return None
