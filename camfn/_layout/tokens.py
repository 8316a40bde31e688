"""Candidate layouts for layers whose output is a sequence of tokens, (B, N, C), (B, C, N) or (N, B, C).

An unplaced token stands for no place in the image: a class token, a register, a detection token.
"""

# tested in tests/layout/test_find.py and test_windows.py

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn

from .._shared.vocabulary import Reading
from .facts import Facts, LayerContext, attribute, channel_axis, is_norm, unrelated_lengths, width_of
from .pairs import tokens, unrolled

_MOST_UNNAMED = 8
"""`_readings` takes at most so many tokens beyond the patches for unplaced tokens, where the model states no prefix."""


class _Order(NamedTuple):
    """The axes of the tokens and of the channels in a layer's output.

    Attributes:
        tokens: the axis of the tokens.
        channels: the axis of the channels.
        words: the order in words, for a reading's reason.
        option: the keyword of `camfn.layout.tokens` that asks for the order; empty for the default.
    """

    tokens: int
    channels: int
    words: str = ""
    option: str = ""


_TOKENS_THEN_CHANNELS = _Order(1, 2)
_CHANNELS_FIRST = _Order(2, 1, " behind the channels", "channels_first=True")
_TOKENS_FIRST = _Order(0, 2, " before the batch", "batch_first=False")


def token_readings(layer: LayerContext, shape: Sequence[int], inputs: Any) -> list[Reading]:
    """List the readings as tokens that the facts allow for a layer's output of three dimensions."""
    if len(layer.image) > 4 and layer.facts.stem is None:
        return []  # of a video, with its time before the channels or in frames, numbers alone say nothing
    unrelated = unrelated_lengths(layer.model, inputs)
    batch = layer.image[0]
    readings: list[Reading] = []
    if shape[0] == batch:
        if "embed" not in layer.name and _unrolls(layer.model):
            return [_unrolled_reading(grid, strides, shape) for grid, strides in _schedules(layer.model, shape[1])]
        readings = _batch_first_readings(layer, shape, unrelated)
    if shape[1] == batch and shape[0] not in unrelated:
        readings += _tokens_first_readings(layer, shape)
    return readings


def _batch_first_readings(layer: LayerContext, shape: Sequence[int], unrelated: dict[int, str]) -> list[Reading]:
    """List the readings as (B, tokens, C) and (B, C, tokens).

    Args:
        layer: the layer and its facts.
        shape: shape of the layer's output.
        unrelated: lengths of sequences that are not made of places in the image, each with its name.
    """
    second, third = shape[1:]
    if _works_on_channels_first(layer.module, shape):
        readings = _readings(layer, shape, _CHANNELS_FIRST)
        return [*readings, _no_reading(unrelated[third], second)] if readings and third in unrelated else readings
    readings = _readings(layer, shape, _TOKENS_THEN_CHANNELS)
    if readings and second in unrelated:
        return [*readings, _no_reading(unrelated[second], third)]
    if _normalizes_last_axis(layer.module, third):
        return readings
    return readings + _channels_first_readings(layer, shape, unrelated, bool(readings))


def _channels_first_readings(
    layer: LayerContext, shape: Sequence[int], unrelated: dict[int, str], tokens_fit: bool
) -> list[Reading]:
    """List the readings as (B, C, tokens), and add the reading "none" where the output may be no map.

    Args:
        layer: the layer and its facts.
        shape: shape of the layer's output.
        unrelated: lengths of sequences that are not made of places in the image, each with its name.
        tokens_fit: whether the output can be read as (B, tokens, C).
    """
    second, third = shape[1:]
    stem = layer.facts.stem
    readings: list[Reading] = []
    if second in _channel_counts(layer.model) and third not in unrelated:
        # without a convolution over tokens in the network, only the stem's own grid is likely
        has_conv1d = any(isinstance(part, nn.Conv1d) for part in layer.model.modules())
        readings = (_readings if has_conv1d else _stem_readings)(layer, shape, _CHANNELS_FIRST)
    if readings and _mixes_tokens(layer, third):
        return [*readings, _no_reading(f"{third} features that are mixed from the tokens, with no place", second)]
    if tokens_fit and not readings and stem and second == stem.width:
        text = f"channels and places the other way round, ({second} channels, {third} places or features)"
        return [_no_reading(text, second)]
    return readings


def _works_on_channels_first(module: nn.Module, shape: Sequence[int]) -> bool:
    """Whether a layer is, or ends in, an operation whose output has the channels before the tokens."""
    axis = channel_axis(module, shape)
    if axis is None and any(isinstance(part, nn.Conv1d) for part in module.modules()):
        return shape[1] == width_of(module) != shape[2]
    return axis == 1


def _tokens_first_readings(layer: LayerContext, shape: Sequence[int]) -> list[Reading]:
    """List the readings as (tokens, B, C), where the attention works on that order or the first axis is no batch."""
    attends_tokens_first = any(
        isinstance(part, nn.MultiheadAttention) and not part.batch_first for part in layer.model.modules()
    )
    if attends_tokens_first:
        return _readings(layer, shape, _TOKENS_FIRST)
    return _stem_readings(layer, shape, _TOKENS_FIRST) if shape[0] != layer.image[0] else []


def _channel_counts(model: nn.Module) -> set[int | None]:
    """Numbers of channels of the model's norms and convolutions."""
    return {width_of(part) for part in model.modules() if is_norm(part) or isinstance(part, (nn.Conv1d, nn.Conv2d))}


def _normalizes_last_axis(module: nn.Module, width: int) -> bool:
    """Whether a layer has a norm as wide as its last axis, so that this axis holds the channels."""
    return any(width_of(part) == width for part in module.modules() if is_norm(part))


def _mixes_tokens(layer: LayerContext, count: int) -> bool:
    """Whether a linear layer beside this one maps `count` features to `count`: they are then features, not tokens."""
    parent, own = layer.model.get_submodule(layer.name.rpartition(".")[0]), set(layer.module.modules())
    return any(
        isinstance(part, nn.Linear) and part not in own and part.in_features == part.out_features == count
        for part in parent.modules()
    )


def _no_reading(text: str, channels: int) -> Reading:
    """Return the reading "none", which states that a layer's output may be no map at all, beside its other readings."""
    return Reading("none", (), channels, 0, None, text, "a layout of your own, Layout(to_map, from_map)")


def _unplaced_counts(facts: Facts) -> list[tuple[int, int]]:
    """List the numbers of unplaced tokens, before and after the patches, that a layer may have."""
    return list(dict.fromkeys([(facts.prefix, facts.suffix), (facts.prefix, 0), (0, 0)]))


def _stem_readings(layer: LayerContext, shape: Sequence[int], order: _Order) -> list[Reading]:
    """Return the reading on the stem's own grid, if the number of tokens allows it; a list of one, or empty."""
    facts = layer.facts
    if facts.stem:
        for prefix, suffix in _unplaced_counts(facts):
            if math.prod(facts.stem.grid) + prefix + suffix == shape[order.tokens]:
                return [_reading(facts.stem.grid, shape[order.channels], prefix, suffix, facts, order)]
    return []


def _readings(layer: LayerContext, shape: Sequence[int], order: _Order) -> list[Reading]:
    """Return the reading on the stem's own grid; without one, list the readings on coarser grids."""
    on_the_stems_grid = _stem_readings(layer, shape, order)
    if on_the_stems_grid:
        return on_the_stems_grid
    facts, size = layer.facts, layer.image[2:]
    count, channels, stem = shape[order.tokens], shape[order.channels], facts.stem
    if count <= facts.prefix + facts.suffix:
        return []  # the output holds unplaced tokens alone
    stride = stem.stride if stem else (1,) * len(size)
    readings = {
        (grid, prefix, suffix): _reading(grid, channels, prefix, suffix, facts, order)
        for prefix, suffix in _unplaced_counts(facts)
        for grid in _grids(count - prefix - suffix, size, stride)
    }
    rest = count - math.prod(stem.grid) if stem and stem.patches else 0
    if stem and not facts.prefix and 0 < rest <= _MOST_UNNAMED:
        counted = facts._replace(source=f"{count} tokens less the grid of {stem.name}")
        readings[stem.grid, rest, 0] = _reading(stem.grid, channels, rest, 0, counted, order)
    return list(readings.values())


def _reading(grid: tuple[int, ...], channels: int, prefix: int, suffix: int, facts: Facts, order: _Order) -> Reading:
    """Write a reading down: its layout, its reason in words, and the call that asks for it."""
    words = f"tokens{order.words}, {prefix} before a grid of {grid}"
    facts_in_words = [facts.source] if prefix else []
    options = [f"prefix={prefix}"]
    if suffix:
        words += f", {suffix} after it"
        options.append(f"suffix={suffix}")
    if order.option:
        options.append(order.option)
    if facts.stem and facts.stem.grid == grid:
        facts_in_words.append(f"the grid of {facts.stem.name}")
    else:
        facts_in_words.append("the grid that has one stride along each dimension")
    return Reading(
        "tokens",
        grid,
        channels,
        prefix,
        tokens(
            grid,
            prefix=prefix,
            suffix=suffix,
            channels_first=order is _CHANNELS_FIRST,
            batch_first=order is not _TOKENS_FIRST,
        ),
        f"{words} ({'; '.join(facts_in_words)})",
        f"layout=camfn.layout.tokens({grid}, {', '.join(options)})",
    )


def _grids(count: int, size: tuple[int, ...], stride: Sequence[int]) -> list[tuple[int, ...]]:
    """List the grids of `count` cells whose stride is the given one times a power of two."""
    grids: dict[tuple[int, ...], None] = {}
    for power in range(8):
        for to_integer in (math.floor, math.ceil):
            grid = tuple(to_integer(length / (2**power * step)) for length, step in zip(size, stride))
            if math.prod(grid) == count:
                grids[grid] = None
    return list(grids)


def _unrolls(model: nn.Module) -> bool:
    """Whether the model orders its tokens by neighborhoods and not by rows, as Hiera does."""
    return any(
        "unroll" in type(part).__name__.lower() or attribute(part, "unroll_schedule") is not None
        for part in model.modules()
    )


def _schedules(model: nn.Module, count: int) -> Iterator[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]]:
    """Yield the grids of `count` tokens that Hiera's schedule lists, each with the strides of its order."""
    schedules: dict[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]], None] = {}
    for part in model.modules():
        schedule = getattr(part, "schedule", None)
        if isinstance(schedule, dict):
            for strides, size in schedule.values():
                if math.prod(size) == count:
                    schedules[tuple(size), tuple(map(tuple, strides))] = None
    yield from schedules


def _unrolled_reading(grid: tuple[int, ...], strides: tuple[tuple[int, ...], ...], shape: Sequence[int]) -> Reading:
    """Write the reading of a layer of Hiera down."""
    order = f"in the order of the strides {strides}" if strides else "row by row"
    return Reading(
        "tokens",
        grid,
        shape[-1],
        0,
        unrolled(grid, strides),
        f"tokens, 0 before a grid of {grid}, {order} (the model's schedule of unrolling)",
        f"layout=camfn.layout.unrolled({grid}, {strides})",
    )
