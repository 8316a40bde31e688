"""T1: grids of photos. GridPG, DiPart, DiFull and its twin: a map's share in the cell of the class (2205.10435)."""

# tested in tests/evaluate/suite/test_grids.py

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from ... import capture, observe
from ..._photos.layer import Layer
from ..._shared.errors import UsageError
from ..._shared.vocabulary import ScoreFn, without_grads
from ...image import upsample
from .sources import Cell

LEAST = 1e-7
"""A map whose positive mass is at most this is blank, and has no share; the authors' code counts it as 0."""


def stitched(parts: Tensor) -> Tensor:
    """Lay n * n parts (n * n, C, h, w) out as one, (1, C, n h, n w), in reading order.

    Example:
        >>> stitched(torch.arange(4.0).view(4, 1, 1, 1))
        tensor([[[[0., 1.],
                  [2., 3.]]]])
    """
    side = _side(len(parts))
    rows = [torch.cat(list(parts[start : start + side]), -1) for start in range(0, len(parts), side)]
    return torch.cat(rows, -2)[None]


def cell_of(size: tuple[int, int], side: int, cell: int) -> tuple[slice, slice]:
    """Return the rows and columns of a cell."""
    row, column = divmod(cell, side)
    height, width = size[0] // side, size[1] // side
    return slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width)


def cell_masks(size: tuple[int, int], side: int) -> Tensor:
    """Return the pixels of each cell, (side * side, H, W), bool."""
    masks = torch.zeros(side**2, *size, dtype=torch.bool)
    for cell in range(side**2):
        masks[(cell, *cell_of(size, side, cell))] = True
    return masks


def shares(maps: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """Return the share of positive mass in each cell, (B, side * side), after the map was resized with its sign.

    Resized first and clipped then, as the authors do; 0 everywhere for a map without positive mass.

    Args:
        maps: (B, h, w), raw.
        size: of the grid in pixels.
        side: cells along each side.
    """
    return _shares(upsample(maps, size), side)


def native_shares(maps: Tensor, side: int) -> Tensor | None:
    """Return `shares` at the map's own resolution, where no value leaks over a border; None if no border lies there."""
    height, width = maps.shape[1:]
    return None if height % side or width % side else _shares(maps, side)


def _shares(maps: Tensor, side: int) -> Tensor:
    """Sum the positive part over each cell, over the sum over all."""
    positive = maps.double().clamp(min=0)
    size = (maps.shape[1], maps.shape[2])
    sums = torch.stack([positive[(slice(None), *cell_of(size, side, cell))].sum((1, 2)) for cell in range(side**2)], 1)
    total = sums.sum(1, keepdim=True)
    return torch.where(total > LEAST, sums / total.clamp(min=LEAST), 0.0)


def deal(cells: Sequence[tuple[str, int]], number: int, side: int, generator: torch.Generator) -> list[list[str]]:
    """Deal grids from shuffled decks: classes of a grid differ, and a photo comes again only when all others came.

    Args:
        cells: name and class of each picture that the network sees rightly.
        number: of grids. Where there are pictures for all, none is used twice.
        side: cells along each side.
        generator: shuffles the decks.

    Raises:
        UsageError: fewer classes than a grid has cells.
    """
    taken = side**2
    classes = {label for _, label in cells}
    if len(classes) < taken:
        raise UsageError(
            f"a grid of {side} x {side} takes {taken} photos of different classes that the network sees rightly; there "
            f"are {len(cells)} such photos of {len(classes)} classes. Give more photos, or leave the track out"
        )
    grids: list[list[str]] = []
    deck: list[int] = []
    while len(grids) < number:
        if len({cells[i][1] for i in deck}) < taken:
            deck += torch.randperm(len(cells), generator=generator).tolist()
        grid = _taken(deck, [label for _, label in cells], taken)
        for i in grid:
            deck.remove(i)
        grids.append([cells[i][0] for i in grid])
    return grids


def _taken(deck: list[int], labels: list[int], count: int) -> list[int]:
    """Take pictures of different classes, first of those that have most left: so no class is left over at the end."""
    left = Counter(labels[i] for i in deck)
    first: dict[int, int] = {}
    for i in deck:
        first.setdefault(labels[i], i)
    classes = sorted(first, key=lambda label: (-left[label], deck.index(first[label])))[:count]
    return sorted((first[label] for label in classes), key=deck.index)


def picture_of(cells: Sequence[Cell], scale: float = 1) -> Tensor:
    """Make the picture of a grid, (1, C, H, W): of cells at full size, or smaller, so that the grid has their size."""
    parts = torch.stack([cell.image for cell in cells])
    if scale != 1:
        height, width = parts.shape[2:]
        side = _side(len(cells))
        size = (height // side, width // side)
        parts = nn.functional.interpolate(parts, size, mode="bilinear", align_corners=False, antialias=True)
    return stitched(parts)


class UndividedError(UsageError):
    """The features of a grid cannot be cut into its cells."""


class Cropped(nn.Module):
    """A layer of which head k sees cell k alone: sample b of a batch keeps cell b of the layer's output.

    Args:
        layer: the layer.
        cells: the cell of each sample.
        side: cells along each side.
    """

    def __init__(self, layer: nn.Module, cells: Sequence[int], side: int) -> None:
        super().__init__()
        self.layer, self.cells, self.side = layer, list(cells), side

    def forward(self, *given: Any, **options: Any) -> Tensor:
        """Run the layer, and cut its cell out for each sample."""
        out: Tensor = self.layer(*given, **options)
        if out.ndim != 4 or len(out) != len(self.cells) or out.shape[2] % self.side or out.shape[3] % self.side:
            raise UndividedError(
                f"DiPart: expected a layer with ({len(self.cells)}, C, h, w) whose sides {self.side} divides, got "
                f"{tuple(out.shape)}"
            )
        size = (out.shape[2], out.shape[3])
        return torch.stack([out[(k, slice(None), *cell_of(size, self.side, k))] for k in self.cells])


def parted(model: nn.Module, last: str, cells: Sequence[int], side: int) -> nn.Module:
    """Return a copy of a network whose head k pools cell k of the layer `last`, for a batch with a grid a cell.

    The layer itself is `last.layer` in the copy.
    """
    twin = copy.deepcopy(model)
    twin.set_submodule(last, Cropped(twin.get_submodule(last), cells, side))
    return twin


class DiFull(nn.Module):
    """A network of n * n heads, of which head k sees cell k of the picture alone: outputs (B, n * n, K).

    Args:
        model: a classifier.
        side: cells along each side.
    """

    def __init__(self, model: nn.Module, side: int) -> None:
        super().__init__()
        self.model, self.side = model, side

    def forward(self, images: Tensor) -> Tensor:
        """Run the network on each cell."""
        size = (images.shape[2], images.shape[3])
        cells = [images[(slice(None), slice(None), *cell_of(size, self.side, k))] for k in range(self.side**2)]
        return torch.stack([self.model(cell) for cell in cells], 1)


def stitched_captures(
    model: nn.Module, layer: Layer, cells: Tensor, explained: ScoreFn, gradient: bool
) -> tuple[Tensor, list[Tensor | None], Any]:
    """Capture a layer for cells that pass the network alone, and stitch what it showed, for each head.

    Args:
        model: the network.
        layer: where.
        cells: (n * n, C, h, w).
        explained: outputs to the score of each cell's own head.
        gradient: whether the method takes gradients.

    Returns:
        Activations of the grid, (1, C, n h, n w); for each head its gradient of that shape, which is 0 outside of its
        cell; and the outputs of the cells.
    """
    if gradient:
        captured = capture(model, layer.name, layout=layer.layout)(cells, explained)
    else:
        with torch.no_grad():
            activations, outputs = observe(model, layer.name, layout=layer.layout)(cells)
        captured = without_grads(activations, outputs)
    grads: list[Tensor | None] = []
    for head in range(len(cells)):
        if not gradient:
            grads.append(None)
            continue
        own = torch.zeros_like(captured.grads)
        own[head] = captured.grads[head]
        grads.append(stitched(own.detach()))
    return stitched(captured.activations.detach()), grads, captured.outputs


def _side(count: int) -> int:
    """Return the cells along each side."""
    side = isqrt(count)
    if side**2 != count:
        raise UsageError(f"expected a square number of cells, got {count}")
    return side
