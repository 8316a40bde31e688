"""Grids: how they are dealt, what a share is, and what DiFull refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from camfn import network
from camfn.evaluate._suite.cells import works_on_heads
from camfn.evaluate._suite.grids import Cropped, DiFull, cell_masks, deal, native_shares, picture_of, shares, stitched
from camfn.evaluate._suite.sources import Cell


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_grid_has_four_classes_and_no_photo_comes_twice_before_all_others_came() -> None:
    cells = [(f"{label}-{k}", label) for label in range(8) for k in range(6)]
    grids = deal(cells, 12, 2, seeded(0))
    label = dict(cells)
    assert all(len({label[name] for name in grid}) == 4 for grid in grids)
    assert len({name for grid in grids for name in grid}) == 48
    assert deal(cells, 12, 2, seeded(0)) == grids
    assert deal(cells, 12, 2, seeded(1)) != grids


def test_few_photos_come_again_and_too_few_classes_are_refused() -> None:
    cells = [(str(label), label) for label in range(5)]
    grids = deal(cells, 10, 2, seeded(0))
    assert [len(set(grid)) for grid in grids] == [4] * 10
    counts = [sum(name in grid for grid in grids) for name, _ in cells]
    assert counts == [8] * 5
    with pytest.raises(ValueError, match=r"4 photos of different classes.*5 such photos of 3 classes"):
        deal([(str(k), k % 3) for k in range(5)], 1, 2, seeded(0))
    with pytest.raises(ValueError, match="takes 9 photos"):
        deal(cells, 1, 3, seeded(0))


def test_a_share_is_of_positive_mass_after_resizing_with_the_sign() -> None:
    maps = torch.zeros(1, 4, 4)
    maps[0, 0, 0], maps[0, 3, 3] = 3.0, 1.0
    assert native_shares(maps, 2)[0].tolist() == [0.75, 0, 0, 0.25]  # type: ignore[index]
    maps[0, 0, 1] = -30.0
    assert native_shares(maps, 2)[0].tolist() == [0.75, 0, 0, 0.25]  # type: ignore[index]
    resized = nn.functional.interpolate(maps[:, None], (8, 8), mode="bilinear")[0, 0].double().clamp(min=0)
    parts = torch.stack([resized[mask].sum() for mask in cell_masks((8, 8), 2)])
    torch.testing.assert_close(shares(maps, (8, 8), 2)[0], parts / parts.sum())
    assert shares(torch.zeros(1, 4, 4), (8, 8), 2).tolist() == [[0.0] * 4]
    assert shares(-torch.ones(1, 4, 4), (8, 8), 2).tolist() == [[0.0] * 4]
    assert native_shares(torch.ones(1, 7, 4), 2) is None


def test_cells_are_stitched_in_reading_order() -> None:
    cells = [Cell(str(k), k, torch.full((3, 4, 6), float(k))) for k in range(9)]
    whole = picture_of(cells)
    assert whole.shape == (1, 3, 12, 18)
    for k, mask in enumerate(cell_masks((12, 18), 3)):
        assert (whole[0, 0][mask] == k).all()
    assert picture_of(cells[:4], 0.5).shape == (1, 3, 4, 6)
    with pytest.raises(ValueError, match="square number"):
        stitched(torch.zeros(3, 1, 2, 2))


def test_a_head_sees_its_cell_alone() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    x = torch.rand(1, 3, 16, 16, generator=seeded(0))
    changed = x.clone()
    changed[:, :, 8:, 8:] = 0
    heads = DiFull(net, 2)
    before, after = heads(x), heads(changed)
    assert before.shape == (1, 4, 5)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3], after[:, 3])
    with pytest.raises(ValueError, match=r"\(4, C, h, w\) whose sides 2 divides, got \(4, 2, 5, 4\)"):
        Cropped(nn.Identity(), range(4), 2)(torch.zeros(4, 2, 5, 4))


def test_methods_that_stretch_layers_are_not_given_heads() -> None:
    """A layer that saw one cell, stretched over the grid, would put three quarters of FullGrad outside of it."""
    assert works_on_heads(network.input_gradient)
    assert works_on_heads(network.integrated_gradients)
    assert not works_on_heads(network.full_grad)
    assert not works_on_heads(network.guided_grad_cam)
