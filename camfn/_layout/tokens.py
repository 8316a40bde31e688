"""Readings of tokens: batch, channels or tokens first, behind tokens with no place, row by row or unrolled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from .._shared.vocabulary import Reading
from .facts import Facts, axis, facts, is_norm, unrelated_lengths, width_of
from .pairs import tokens, unrolled

_MOST_UNNAMED = 8
"""Tokens with no place that are counted by subtraction alone, where the model names none."""


class _Order(NamedTuple):
    """Which axes of a layer's output are the tokens and the channels, and how a call says so."""

    tokens: int
    channels: int
    words: str = ""
    option: str = ""


_PLAIN = _Order(1, 2)
_CHANNELS_FIRST = _Order(2, 1, " behind the channels", "channels_first=True")
_TOKENS_FIRST = _Order(0, 2, " before the batch", "batch_first=False")


def token_readings(model: nn.Module, name: str, shape: Sequence[int], image: Tensor, inputs: Any) -> list[Reading]:
    """All the readings of a layer's output of three dimensions as tokens that the facts allow."""
    known = facts(model, name, image.shape[1:])
    size = tuple(image.shape[2:])
    found: list[Reading] = []
    if shape[0] == image.shape[0]:
        if "embed" not in name and _unrolls(model):
            return [_unrolled_reading(grid, strides, shape) for grid, strides in _schedules(model, shape[1])]
        found = _samples_first(model, name, shape, size, known, unrelated_lengths(model, inputs))
    if shape[1] == image.shape[0] and shape[0] not in unrelated_lengths(model, inputs):
        found += _tokens_before_batch(model, shape, size, known, certain=shape[0] != image.shape[0])
    return found


def _samples_first(
    model: nn.Module, name: str, shape: Sequence[int], size: tuple[int, ...], known: Facts, other: dict[int, str]
) -> list[Reading]:
    module = model.get_submodule(name)
    count, width = shape[1:]
    if _convolves_tokens(module, shape):
        found = _readings(shape, size, known, _CHANNELS_FIRST)
        return [*found, _no_reading(other[width], count)] if found and width in other else found
    found = _readings(shape, size, known, _PLAIN)
    if found and count in other:
        return [*found, _no_reading(other[count], width)]
    if _keeps_channels_last(module, width):
        return found
    swapped: list[Reading] = []
    if count in _widths(model) and width not in other:
        # on grids other than the stem's, only where something in the network works on tokens behind the channels
        convolves = any(isinstance(part, nn.Conv1d) for part in model.modules())
        swapped = _readings(shape, size, known, _CHANNELS_FIRST) if convolves else _stems(shape, known, _CHANNELS_FIRST)
    if swapped and _mixes_into(model, name, width):
        swapped.append(_no_reading(f"{width} features that are mixed from the tokens, with no place", count))
    elif found and not swapped and known.stem and count == known.stem.width:
        text = f"channels and places the other way round, ({count} channels, {width} places or features)"
        swapped = [_no_reading(text, count)]
    return found + swapped


def _convolves_tokens(module: nn.Module, shape: Sequence[int]) -> bool:
    """Whether a layer is, or ends in, an operation on channels that come before the tokens."""
    told = axis(module, shape)
    if told is None and any(isinstance(part, nn.Conv1d) for part in module.modules()):
        return shape[1] == width_of(module) != shape[2]
    return told == 1


def _tokens_before_batch(
    model: nn.Module, shape: Sequence[int], size: tuple[int, ...], known: Facts, certain: bool
) -> list[Reading]:
    """Readings as (tokens, B, C), where the first axis cannot be the batch, or the attention works on such."""
    attends_so = any(isinstance(part, nn.MultiheadAttention) and not part.batch_first for part in model.modules())
    if attends_so:
        return _readings(shape, size, known, _TOKENS_FIRST)
    return _stems(shape, known, _TOKENS_FIRST) if certain else []


def _widths(model: nn.Module) -> set[int | None]:
    """Numbers of channels that the model normalizes over, or that a stem gives."""
    return {width_of(part) for part in model.modules() if is_norm(part) or isinstance(part, (nn.Conv1d, nn.Conv2d))}


def _keeps_channels_last(module: nn.Module, width: int) -> bool:
    """Whether a layer has a norm over the last axis, which the places are then not on."""
    return any(width_of(part) == width for part in module.modules() if is_norm(part))


def _mixes_into(model: nn.Module, name: str, count: int) -> bool:
    """Whether another linear layer beside this one takes as many places as it gives: a hidden layer is then as wide."""
    parent, own = model.get_submodule(name.rpartition(".")[0]), set(model.get_submodule(name).modules())
    return any(
        isinstance(part, nn.Linear) and part not in own and part.in_features == part.out_features == count
        for part in parent.modules()
    )


def _no_reading(text: str, channels: int) -> Reading:
    return Reading("none", (), channels, 0, None, text, "a layout of your own, Layout(to_map, from_map)")


def _tails(known: Facts) -> list[tuple[int, int]]:
    """Numbers of tokens with no place, before and after the others, that a layer may have."""
    return list(dict.fromkeys([(known.prefix, known.suffix), (known.prefix, 0), (0, 0)]))


def _stems(shape: Sequence[int], known: Facts, order: _Order) -> list[Reading]:
    """The reading whose grid is the stem's own, if the tokens make it up."""
    if known.stem:
        for prefix, suffix in _tails(known):
            if math.prod(known.stem.grid) + prefix + suffix == shape[order.tokens]:
                return [_reading(known.stem.grid, shape[order.channels], prefix, suffix, known, order)]
    return []


def _readings(shape: Sequence[int], size: tuple[int, ...], known: Facts, order: _Order) -> list[Reading]:
    """Every grid and number of tokens with no place that make up the count; those of the stem's own grid settle it."""
    settled = _stems(shape, known, order)
    if settled:
        return settled
    count, channels, stem = shape[order.tokens], shape[order.channels], known.stem
    if count <= known.prefix + known.suffix:
        return []  # those tokens alone
    base = stem.stride if stem else (1,) * len(size)
    found = {
        (grid, prefix, suffix): _reading(grid, channels, prefix, suffix, known, order)
        for prefix, suffix in _tails(known)
        for grid in _grids(count - prefix - suffix, size, base)
    }
    rest = count - math.prod(stem.grid) if stem and stem.patches else 0
    if stem and not known.prefix and 0 < rest <= _MOST_UNNAMED:
        unnamed = known._replace(source=f"{count} tokens less the grid of {stem.name}")
        found[stem.grid, rest, 0] = _reading(stem.grid, channels, rest, 0, unnamed, order)
    return list(found.values())


def _reading(grid: tuple[int, ...], channels: int, prefix: int, suffix: int, known: Facts, order: _Order) -> Reading:
    words = f"tokens{order.words}, {prefix} before a grid of {grid}"
    facts_in_words = [known.source] if prefix else []
    if suffix:
        words += f", {suffix} after it"
    if known.stem and known.stem.grid == grid:
        facts_in_words.append(f"the grid of {known.stem.name}")
    else:
        facts_in_words.append("the grid that has one stride along each dimension")
    options = [f"prefix={prefix}", *[f"suffix={suffix}"] * bool(suffix), *[order.option] * bool(order.option)]
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


def _grids(count: int, size: tuple[int, ...], base: Sequence[int]) -> list[tuple[int, ...]]:
    """Grids of `count` cells: the base stride, doubled any number of times, the same along each dimension."""
    found: dict[tuple[int, ...], None] = {}
    for power in range(8):
        for whole in (math.floor, math.ceil):
            grid = tuple(whole(length / (2**power * step)) for length, step in zip(size, base))
            if math.prod(grid) == count:
                found[grid] = None
    return list(found)


def _unrolls(model: nn.Module) -> bool:
    """Whether the tokens of a neighborhood follow each other, not those of a row: Hiera."""
    return any("unroll" in type(part).__name__.lower() or hasattr(part, "unroll_schedule") for part in model.modules())


def _schedules(model: nn.Module, count: int) -> Iterator[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]]:
    """Grids of so many tokens, each with the strides that it is unrolled by, as the model lists them for its blocks."""
    found: dict[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]], None] = {}
    for part in model.modules():
        schedule = getattr(part, "schedule", None)
        if isinstance(schedule, dict):
            for strides, size in schedule.values():
                if math.prod(size) == count:
                    found[tuple(size), tuple(map(tuple, strides))] = None
    yield from found


def _unrolled_reading(grid: tuple[int, ...], strides: tuple[tuple[int, ...], ...], shape: Sequence[int]) -> Reading:
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
