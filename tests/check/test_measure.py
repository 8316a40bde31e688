"""The numbers of a check on maps whose answers are plain."""

from __future__ import annotations

import pytest
import torch

from camfn._check.measure import alike, as_map, flooded, mean_color, moves, peak_place, scores_of_parts


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_place_of_a_single_spot(dims: int) -> None:
    cam = torch.zeros(2, *(8,) * dims)
    cam[(0, *(4,) * dims)] = 1.0
    cam[(1, *(0,) * dims)] = 1.0
    border, together, marked = peak_place(cam)
    assert border.tolist() == [3.5 / 8, 0.5 / 8]
    assert together.tolist() == [1.0, 1.0]
    torch.testing.assert_close(marked, torch.full((2,), 8.0**-dims))


def test_two_spots_are_two_places() -> None:
    cam = torch.zeros(1, 6, 9)
    cam[0, 1, 1:3], cam[0, 4, 7], cam[0, 2, 3] = 2.0, 1.5, 0.5
    border, together, marked = peak_place(cam)
    assert border.item() == pytest.approx(1.5 / 9)
    assert together.item() == pytest.approx(4 / 5.5)
    assert marked.item() == pytest.approx(3 / 54)


def test_a_map_without_a_positive_value_has_no_place() -> None:
    assert all(one.isnan().all() for one in peak_place(-torch.ones(2, 4, 4)))
    assert all(one.isnan().all() for one in peak_place(torch.zeros(1, 4, 4)))


def test_an_axis_of_one_position_has_no_border() -> None:
    border, _, _ = peak_place(torch.tensor([[[0.0, 1.0, 3.0, 1.0, 0.0, 0.0]]]))
    assert border.item() == pytest.approx(2.5 / 6)


def test_a_flood_goes_around_corners_and_not_over_gaps() -> None:
    within = torch.tensor([[1, 1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0]]).bool()[None]
    seed = torch.zeros_like(within)
    seed[0, 0, 0] = True
    assert flooded(seed, within)[0].int().tolist() == [[1, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_moves_go_a_quarter_of_a_side_along_one_axis() -> None:
    found = moves(40, (16, 8), torch.Generator().manual_seed(0))
    for number, move in enumerate(found):
        side = (16, 8)[number % 2]
        assert side / 4 <= move[number % 2] <= 3 * side / 4
    assert len(set(found)) > 20


def test_the_marked_part_is_kept_and_removed() -> None:
    images = torch.arange(16.0).reshape(1, 1, 4, 4)
    cam = images[:, 0]
    steps: list[int] = []
    kept, removed = scores_of_parts(lambda x: x.amax((1, 2, 3)), images, cam, 0.25, [(2, 0)], lambda: steps.append(1))
    # of 0 to 15 the four largest stand in the last row; the mean is 7.5
    assert kept.tolist() == [[15.0, 7.5]]
    assert removed.tolist() == [[11.0, 15.0]]
    assert len(steps) == 4


def test_what_is_not_finite_is_like_nothing() -> None:
    maps = torch.rand(2, 3, 3)
    broken = maps.clone()
    broken[1, 0, 0] = torch.nan
    torch.testing.assert_close(alike(maps, [maps, broken]), torch.tensor([[1.0, 1.0], [1.0, 0.0]]))


def test_a_picture_of_gradients_is_read_as_magnitudes() -> None:
    pictures = torch.randn(2, 3, 4, 4)
    assert torch.equal(as_map(pictures, pictures), pictures.abs().sum(1))
    assert as_map(pictures[:, 0], pictures).shape == (2, 4, 4)
    assert mean_color(pictures).shape == (2, 3, 1, 1)
