"""Readings that shapes allow and no fact supports: taken only if their places see their own parts of the image."""

# tested in tests/layout/test_guesses.py

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn

from .._shared.vocabulary import LayoutPair, Reading
from .facts import CONVOLUTIONS, LayerContext, convolved_length
from .folded import frames
from .pairs import channels_last, tokens
from .scattered import spans

_MOST_STEMS = 4
_HALVINGS = 5
_FEWEST = 4
_FEWEST_AMID = 12
"""Of fewer places some may see their own parts by chance; the second number is for sequences with other tokens."""


_PLANES: dict[int, list[tuple[int, ...]]] = {3: [(1, 2), (2, 1)], 5: [(3, 4)]}
"""By the number of an image's dimensions, the axes of pictures in it: of a spectrogram, and of a video's frames."""


class Guess(NamedTuple):
    """A reading in question.

    Attributes:
        reading: the reading.
        axes: for each of its spatial dimensions, the axis of the image that it lies along.
    """

    reading: Reading
    axes: tuple[int, ...]


class _Grid(NamedTuple):
    """The grid that a convolution makes of the image, and the axes of the image that its dimensions lie along."""

    cells: tuple[int, ...]
    axes: tuple[int, ...]
    stem: str


def guesses(model: nn.Module, name: str, shape: Sequence[int], image: Sequence[int]) -> list[Guess]:
    """List the readings of a layer's output that shapes allow, for images of any convention.

    Images are (B, C, *spatial), videos (B, T, C, height, width) too, spectrograms (B, time, frequency) too. Tokens may
    have others before, behind or in the middle; those of a video may go through time first or last; frames may be
    folded into the batch.

    Args:
        model: holds the layer.
        name: of the layer.
        shape: of its output.
        image: shape of the images, with the batch.
    """
    layer = LayerContext(model, name, image)
    found: list[Guess] = []
    if shape[0] == image[0]:
        found += _maps(shape, image)
        if len(shape) == 3:
            found += [guess for grid in _grids(layer) for guess in _sequences(shape, grid, layer)]
    elif shape[0] % image[0] == 0 and len(image) == 5:
        found += _frames(layer, shape)
    distinct = {(guess.reading.layout, guess.axes): guess for guess in found}
    return [_naming_axes(guess, len(image)) for guess in distinct.values()]


def _naming_axes(guess: Guess, ndim: int) -> Guess:
    """Say in the reason along which axes of the image a map lies, where these are not its last in order."""
    if guess.axes == tuple(range(ndim - len(guess.axes), ndim)) or "along axes" in guess.reading.reason:
        return guess
    reason = f"{guess.reading.reason}, along axes {guess.axes} of it"
    return guess._replace(reading=guess.reading._replace(reason=reason))


def _space(image: Sequence[int]) -> list[tuple[int, ...]]:
    """List which axes of an image may be its space: behind the channels; or with time before them."""
    usual = tuple(range(2, len(image)))
    return [usual, (1, 3, 4)] if len(image) == 5 else [usual]


def _maps(shape: Sequence[int], image: Sequence[int]) -> Iterator[Guess]:
    """Yield the readings of an output as channels first or last, whatever its strides."""
    for axes in [*_space(image), *_PLANES.get(len(image), [])]:
        if len(shape) != len(axes) + 2 or len(shape) < 4:
            continue
        size = [image[axis] for axis in axes]
        for first in (True, False):
            grid = tuple(shape[2:] if first else shape[1:-1])
            if all(1 <= cells <= length for cells, length in zip(grid, size)):
                words = "channels first" if first else "channels last"
                yield Guess(
                    _reading(
                        words,
                        grid,
                        shape[1 if first else -1],
                        None if first else channels_last(),
                        words,
                        "layout=None" if first else "layout=camfn.layout.channels_last()",
                    ),
                    axes,
                )


def _grids(layer: LayerContext) -> list[_Grid]:
    """List the grids that the first convolutions of the innermost module around a layer may make of the image."""
    for _, part in layer.ancestors:
        grids: dict[_Grid, None] = {}
        stems = 0
        for below, module in part.named_modules():
            if isinstance(module, CONVOLUTIONS) and stems < _MOST_STEMS:
                made = list(_convolved(below, module, layer.image))
                stems += bool(made)
                grids |= dict.fromkeys(made)
        if grids:
            return list(grids)
    return []


def _convolved(name: str, module: Any, image: Sequence[int]) -> Iterator[_Grid]:
    """Yield the grids that a convolution may make of an image."""
    dimensions = len(module.kernel_size)

    def grid(*axes: int) -> tuple[int, ...]:
        return tuple(convolved_length(module, i, image[axis]) for i, axis in enumerate(axes))

    for axes in _space(image):
        channel = 2 if axes[:1] == (1,) else 1
        if module.in_channels == image[channel]:
            if dimensions == len(axes):
                yield _Grid(grid(*axes), axes, name)
            elif dimensions == 2 and len(axes) == 3:
                yield _Grid((image[axes[0]], *grid(*axes[1:])), axes, name)
    if len(image) == 3 and dimensions == 2 and module.in_channels == 1:
        yield _Grid(grid(1, 2), (1, 2), name)
        yield _Grid(grid(2, 1), (2, 1), name)


def _coarser(grid: _Grid) -> Iterator[_Grid]:
    """Yield a grid, and it halved along all dimensions or along all but the first."""
    yield grid
    first, *rest = grid.cells
    for power in range(1, _HALVINGS):
        for to_integer in (math.floor, math.ceil):
            smaller = [to_integer(cells / 2**power) for cells in rest]
            if min(smaller, default=0) > 0:
                yield grid._replace(cells=(first, *smaller))
                if to_integer(first / 2**power) > 0:
                    yield grid._replace(cells=(to_integer(first / 2**power), *smaller))


def _sequences(shape: Sequence[int], own: _Grid, layer: LayerContext) -> Iterator[Guess]:
    """Yield the readings of tokens (B, N, C) on the grid of a stem, or on coarser ones."""
    count, channels = shape[1:]
    most = 8 + layer.facts.prefix + layer.facts.suffix
    for grid in _coarser(own):
        places = math.prod(grid.cells)
        rest = count - places
        if not 0 <= rest <= most or places < (_FEWEST_AMID if rest else _FEWEST):
            continue
        for before in dict.fromkeys([rest, layer.facts.prefix, 0]):
            if before <= rest:
                yield _as_tokens(grid, channels, before, rest - before)
        if rest:
            half = places // 2
            positions = [range(half), range(half + rest, count)]
            yield _as_spans(grid, channels, positions, f"{rest} tokens in their middle")
        if len(grid.cells) == 3 and min(grid.cells) > 1:
            time = grid.cells[0]
            for before in dict.fromkeys([rest, 0]):
                each = [range(before + t, before + places, time) for t in range(time)]
                yield _as_spans(grid, channels, each, f"time last, {before} tokens before them")


def _as_tokens(grid: _Grid, channels: int, prefix: int, suffix: int) -> Guess:
    layout = tokens(grid.cells, prefix=prefix, suffix=suffix)
    behind = f", suffix={suffix}" if suffix else ""
    words = f"tokens, {prefix} before a grid of {grid.cells}" + (f", {suffix} after it" if suffix else "")
    call = f"layout=camfn.layout.tokens({grid.cells}, prefix={prefix}{behind})"
    return Guess(_reading("tokens", grid.cells, channels, layout, f"{words} (of {grid.stem})", call, prefix), grid.axes)


def _as_spans(grid: _Grid, channels: int, positions: list[range], what: str) -> Guess:
    layout = spans(positions, grid.cells)
    call = f"layout=camfn.layout.{layout!r}"
    words = f"tokens of a grid of {grid.cells}, {what} (of {grid.stem})"
    return Guess(_reading("tokens", grid.cells, channels, layout, words, call), grid.axes)


def _frames(layer: LayerContext, shape: Sequence[int]) -> Iterator[Guess]:
    """Yield the readings of an output whose batch holds the frames of videos, or instances."""
    image = layer.image
    count = shape[0] // image[0]
    for axes in _space(image):
        if image[axes[0]] % count:
            continue
        inner = (count, *(image[axis] for axis in range(1, 5) if axis != axes[0]))
        for guess in guesses(layer.model, layer.name, (count, *shape[1:]), inner):
            one = guess.reading
            layout = frames(count, each=one.layout)
            call = f"layout=camfn.layout.{layout!r}".replace("each=", "each=camfn.layout.")
            words = f"{count} frames folded into the batch, each {one.reason}"
            spatial = (count, *one.spatial)
            yield Guess(
                _reading("frames", spatial, one.channels, layout, words, call, one.prefix), (axes[0], *axes[1:])
            )


def _reading(
    name: str,
    grid: tuple[int, ...],
    channels: int,
    layout: LayoutPair | None,
    words: str,
    call: str,
    prefix: int = 0,
) -> Reading:
    seen = "; its places see their own parts of the image"
    return Reading(name, grid, channels, prefix, layout, words.removesuffix(seen) + seen, call)
