"""Regions: the cells of a grid, sets of them, and sums over them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from camfn import CamfnError, image, metrics
from tests.metrics.known import CELLS, SPACE, close, draws, every_dims, given
from tests.oracles import metrics as oracle


@every_dims
def test_cells_are_those_of_the_oracle_and_cut_the_image(dims: int) -> None:
    for counts in (CELLS[dims], (1,) * dims, SPACE[dims], (3,) * dims):
        found = metrics.grid_cells(SPACE[dims], counts)
        assert [oracle.region_of(cell) for cell in found] == oracle.cells(SPACE[dims], counts)
        assert torch.equal(found.sum(0), torch.ones(SPACE[dims], dtype=torch.long))
    assert torch.equal(metrics.grid_cells(SPACE[dims], 2), metrics.grid_cells(SPACE[dims], [2] * dims))


@every_dims
def test_sums_are_those_of_a_loop_for_shared_and_own_regions(dims: int) -> None:
    _, heatmap = given(dims)
    cells = metrics.grid_cells(SPACE[dims], CELLS[dims])
    expected = [[oracle.total(one, oracle.region_of(cell)) for cell in cells] for one in heatmap]
    close(metrics.region_sums(heatmap, cells), expected)
    own = torch.stack([cells, cells.flip(0)], 1)
    close(metrics.region_sums(heatmap, own), [expected[0], expected[1][::-1]])
    small = heatmap[(slice(None), *(slice(2),) * dims)]
    at_size = image.upsample(small, SPACE[dims])
    close(metrics.region_sums(small, cells), metrics.region_sums(at_size, cells))


@every_dims
def test_sets_hold_so_many_different_cells(dims: int) -> None:
    cells = metrics.grid_cells(SPACE[dims], CELLS[dims])
    for count in range(1, len(cells) + 1):
        sets = metrics.random_cells(cells, count, 40, generator=draws())
        held = (sets[:, None] & cells).flatten(2)
        assert bool((held.any(2) == (held.sum(2) == cells.flatten(1).sum(1))).all())
        assert held.any(2).sum(1).tolist() == [count] * 40
        own = metrics.random_cells(torch.stack([cells, cells.flip(0)], 1), count, 40, generator=draws())
        assert torch.equal(own[:, 0], sets)
    one = metrics.random_cells(cells, 1, 400, generator=draws()).flatten(1).float().mean(0)
    assert float((one - 1 / len(cells)).abs().max()) < 0.1
    again = metrics.random_cells(cells, 2, 9, generator=draws(1))
    assert torch.equal(again, metrics.random_cells(cells, 2, 9, generator=draws(1)))
    assert not torch.equal(again, metrics.random_cells(cells, 2, 9, generator=draws(2)))


@every_dims
def test_sets_of_pixels_hold_so_many_different_ones(dims: int) -> None:
    size, total = SPACE[dims], math.prod(SPACE[dims])
    for count in (1, 3, total):
        sets = metrics.random_pixels(size, count, 7, generator=draws())
        assert sets.shape == (7, *size)
        assert sets.flatten(1).sum(1).tolist() == [count] * 7
    one = metrics.random_pixels(size, 1, 4000, generator=draws()).flatten(1).float().mean(0)
    assert float((one - 1 / total).abs().max()) < 0.03
    with pytest.raises(CamfnError, match=f"at most {total}"):
        metrics.random_pixels(size, total + 1, 7, generator=draws())


@every_dims
def test_labels_become_masks_in_their_order(dims: int) -> None:
    labels = (given(dims)[1][0] * 3).round().long()
    masks = metrics.label_masks(labels)
    for mask, label in zip(masks, sorted(set(labels.flatten().tolist())), strict=True):
        assert torch.equal(mask, labels == label)
    for wrong in (labels.float(), labels > 0, torch.tensor(3), labels[:0]):
        with pytest.raises(CamfnError, match="label_masks: labels"):
            metrics.label_masks(wrong)


MASKS = metrics.grid_cells((4, 6), 2)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: metrics.grid_cells((4, 6), 5), "at most 4 along a side of 4, got 5"),
        (lambda: metrics.grid_cells((4, 6), 0), "grid_cells: cells: expected a whole number from 1"),
        (lambda: metrics.grid_cells((4, 6), (2, 2, 2)), "grid_cells: cells"),
        (lambda: metrics.grid_cells(4, 2), "grid_cells: size"),  # type: ignore[arg-type]
        (lambda: metrics.random_cells(MASKS, 5, 3, generator=draws()), "at most 4, the number of cells, got 5"),
        (lambda: metrics.random_cells(MASKS.float(), 2, 3, generator=draws()), "mask of bool"),
        (lambda: metrics.random_cells(MASKS, 2, 3, generator=None), "expected a torch.Generator"),  # type: ignore[arg-type]
        (lambda: metrics.region_sums(torch.ones(1, 4, 6), MASKS[0]), "masks: expected"),
        (lambda: metrics.region_sums(torch.ones(3, 4, 6), MASKS[:, None]), "B = 3"),
        (lambda: metrics.region_sums(torch.full((1, 4, 6), math.nan), MASKS), "NaN or infinity in 1 of 1"),
        (lambda: metrics.region_sums(torch.ones(1, 4, 6), MASKS[:0]), "at least one mask"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, text: str) -> None:
    with pytest.raises(CamfnError, match=text):
        call()
