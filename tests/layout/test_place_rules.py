"""The rules that tell places from queries, registers, groups, frames and bins, above all where there are few."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from camfn import CaptureError
from camfn._cut.parts import overwrite, own_part, quarters, spread
from camfn._cut.place_rules import all_of_few, at_once, one_by_one
from camfn.layers import suggest
from camfn.layout import find, tokens
from tests.nets.few import Bins, Few, Frames
from tests.nets.small import images


def drawn(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Build a network from one of several seeds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


@pytest.mark.parametrize(("grid", "size"), [((2, 2), (16, 16)), ((2, 3), (16, 24)), ((3, 3), (24, 24))])
def test_few_patches_are_places(grid: tuple[int, int], size: tuple[int, int]) -> None:
    for seed in range(5):
        model = drawn(lambda: Few("patches", grid[0] * grid[1]), seed)
        assert find(model, "norm", images(2, 3, *size)).layout == tokens(grid, prefix=0)
        assert suggest(model, images(2, 3, *size), 1)[0].spatial == grid


@pytest.mark.parametrize("peaked", [1.0, 30.0])
@pytest.mark.parametrize("kind", ["queries", "registers", "groups"])
@pytest.mark.parametrize(("count", "size"), [(4, (16, 16)), (4, (32, 48)), (6, (16, 24)), (9, (24, 24)), (9, (48, 48))])
def test_few_tokens_that_are_no_places(kind: str, count: int, size: tuple[int, int], peaked: float) -> None:
    for seed in range(5):
        model = drawn(lambda: Few(kind, count, peaked), seed)
        with pytest.raises(CaptureError, match="pass"):
            find(model, "norm", images(2, 3, *size))


@pytest.mark.parametrize("count", [4, 8, 9])
def test_a_token_for_each_frame_is_no_place_of_a_frame(count: int) -> None:
    """Four frames could be a grid of (1, 2, 2)."""
    assert find(drawn(Frames), "norm", images(2, count, 3, 24, 24)).spatial == (count, 1, 1)


@pytest.mark.parametrize("count", [4, 9])
def test_bins_of_a_spectrogram_are_no_grid(count: int) -> None:
    with pytest.raises(CaptureError, match="no map of a"):
        find(drawn(lambda: Bins(count)), "norm", images(2, 1, count, 4 * count))


def energy(own: float, beside: float) -> torch.Tensor:
    """Changes of four places by four quarters, in one channel: the own place, and the next one."""
    change = own * torch.eye(4) + beside * torch.eye(4).roll(1, 1)
    return change[:, None, None].expand(4, 4, 1, 4).clone()


def test_all_of_few() -> None:
    assert all_of_few(energy(1.0, 0.5)).right
    assert not all_of_few(energy(1.0, 0.9)).right  # not clearly more than the next
    assert not all_of_few(energy(0.0, 1.0)).right
    blind = energy(1.0, 0.1)
    blind[2, 3] = 0  # one quarter changes nothing
    assert all_of_few(blind).seeing == 3
    assert not all_of_few(blind).right
    nothing = all_of_few(energy(0.0, 0.0))
    assert not nothing.depends
    assert not nothing.right


def test_several_places_at_once() -> None:
    cells, grid = spread((6, 6), 4), (6, 6)
    change = torch.zeros(2, *grid)
    for i, j in cells:
        change[:, i, j] = 1
    assert at_once(change.flatten(1), cells, grid, 0).right
    shifted = change.flatten(1).roll(1, 1)
    assert at_once(shifted, cells, grid, 0).seeing == 0
    assert at_once(shifted, cells, grid, 3).seeing == 0  # of 36 places, four and those beside them are nearly all
    change[:, 0, 5] = 1
    assert at_once(change.flatten(1), cells, grid, 0).seeing == 0


def test_one_place_at_a_time() -> None:
    cells, grid = spread((8, 8), 6), (8, 8)
    change = torch.stack([torch.eye(64)[i * 8 + j][None] for i, j in cells])
    assert one_by_one(change, cells, grid, 0)[:3] == (6, 6, True)
    assert one_by_one(change.roll(1, 2), cells, grid, 0).seeing == 0
    assert one_by_one(change.roll(1, 2), cells, grid, 3).seeing == 6


@pytest.mark.parametrize("size", [(1, 3, 9), (1, 3, 8, 12), (1, 2, 4, 6, 8)])
def test_the_parts_of_all_cells_are_the_image(size: tuple[int, ...]) -> None:
    grid = (3,) if len(size) == 3 else (2, 3) if len(size) == 4 else (2, 3, 2)
    image, pieces = torch.zeros(size), torch.zeros(size)
    for cell in spread(grid, 12):
        part = own_part(range(2, len(size)), cell, grid, size)
        overwrite(image, part)
        assert len(quarters(part)) == (2 if len(grid) == 1 else 4)
        for piece in quarters(part):
            overwrite(pieces, piece)
    assert bool(image.all())
    assert bool(pieces.all())
    assert quarters(((2, 4, 5),)) == [((2, 4, 5),)]
