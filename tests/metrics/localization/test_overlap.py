"""Where the heatmap lies: areas, counts and boxes by hand, and other libraries' numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from camfn import image, metrics

seeds = st.integers(0, 10_000)


@st.composite
def boxes(draw: Any) -> Tensor:
    x0, y0 = draw(st.integers(0, 7)), draw(st.integers(0, 5))
    return torch.tensor([[x0, y0, draw(st.integers(x0 + 1, 8)), draw(st.integers(y0 + 1, 6))]])


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(boxes())
@settings(deadline=None)
def test_a_mask_is_the_slice_of_its_box(box: Tensor) -> None:
    x0, y0, x1, y1 = box[0].tolist()
    expected = torch.zeros(1, 6, 8, dtype=torch.bool)
    expected[0, y0:y1, x0:x1] = True
    assert torch.equal(metrics.box_masks(box, (6, 8)), expected)
    fractions = box / torch.tensor([8.0, 6.0, 8.0, 6.0])
    torch.testing.assert_close(metrics.boxes_in_pixels(fractions, (6, 8)), box.float())
    assert torch.equal(metrics.box_masks(image.to_boxes(expected.float()), (6, 8)), expected)


@given(boxes(), seeds)
@settings(deadline=None)
def test_energy_inside_and_outside_is_all_and_a_constant_map_gives_the_area(box: Tensor, seed: int) -> None:
    heatmap = drawn(seed, 1, 6, 8)
    mask = metrics.box_masks(box, (6, 8))
    inside = metrics.energy_in_box(heatmap, box)
    torch.testing.assert_close(inside, heatmap[mask].sum()[None] / heatmap.sum())
    if not mask.all():
        torch.testing.assert_close(inside + metrics.energy_in_box(heatmap, ~mask), torch.ones(1, dtype=torch.float64))
    area = mask.double().mean((1, 2))
    constant = torch.full_like(heatmap, 0.3)
    torch.testing.assert_close(metrics.energy_in_box(constant, box), area)
    torch.testing.assert_close(metrics.pointing_game(constant, box), area)
    torch.testing.assert_close(metrics.pointing_game(torch.zeros_like(heatmap), box), area)
    torch.testing.assert_close(metrics.pxap(constant, mask), area)
    assert metrics.energy_in_box(torch.zeros_like(heatmap), box).tolist() == [0]


@given(boxes())
@settings(deadline=None)
def test_the_object_itself_as_a_map_is_found(box: Tensor) -> None:
    mask = metrics.box_masks(box, (6, 8))
    for metric in (metrics.energy_in_box, metrics.iou, metrics.pointing_game):
        assert metric(mask.double(), box).tolist() == [1]
    assert metrics.pxap(mask.double(), mask).tolist() == [1]
    ious = metrics.box_ious(mask.double(), box, thresholds=(0.0, 0.5, 0.99))
    assert ious.tolist() == [[1, 1, 1]]
    assert metrics.max_box_acc(ious, at=(0.3, 0.5, 0.7, 1.0)) == 1


def test_x_is_along_the_width() -> None:
    heatmap = torch.zeros(1, 4, 10)
    heatmap[0, 1, 7] = 1.0
    assert metrics.pointing_game(heatmap, torch.tensor([[6, 0, 9, 2]])).tolist() == [1]
    assert metrics.energy_in_box(heatmap, torch.tensor([[0, 0, 4, 4]])).tolist() == [0]


def test_pointing_has_a_tolerance_as_a_disk() -> None:
    heatmap = torch.zeros(1, 20, 20)
    heatmap[0, 10, 10] = 1.0
    box = torch.tensor([[14, 13, 16, 15]])  # nearest pixel (13, 14): 3 down, 4 right, 5 away
    assert metrics.pointing_game(heatmap, box, tolerance=5).tolist() == [1]
    assert metrics.pointing_game(heatmap, box, tolerance=4.9).tolist() == [0]
    assert metrics.pointing_game(heatmap, box).tolist() == [0]


def test_several_boxes_and_ragged_numbers_of_them() -> None:
    heatmap = torch.zeros(2, 5, 5)
    heatmap[0, 4, 4] = heatmap[1, 0, 0] = 1.0
    ragged = [torch.tensor([[0, 0, 1, 1], [4, 4, 5, 5]]), torch.tensor([[0, 0, 1, 1]])]
    assert metrics.pointing_game(heatmap, ragged).tolist() == [1, 1]
    assert metrics.box_ious(heatmap, ragged, thresholds=(0.5,)).tolist() == [[1], [1]]
    stacked = torch.stack([ragged[0], ragged[0]])
    assert torch.equal(metrics.box_masks(stacked, (5, 5))[0], metrics.box_masks(ragged, (5, 5))[0])


@given(seeds, boxes())
@settings(deadline=None, max_examples=30)
def test_iou_of_masks_and_of_boxes_by_counting_pixels(seed: int, box: Tensor) -> None:
    heatmap, mask = drawn(seed, 1, 6, 8), metrics.box_masks(box, (6, 8))
    found = heatmap > 0.6 * heatmap.amax()
    torch.testing.assert_close(
        metrics.iou(heatmap, box, threshold=0.6), ((found & mask).sum() / (found | mask).sum()).double()[None]
    )
    for parts, largest in (("largest", True), ("all", False)):
        each = []
        for one in image.to_boxes(heatmap, threshold=0.6, largest=largest)[0]:
            ours = metrics.box_masks(one[None], (6, 8))
            each.append(float((ours & mask).sum() / (ours | mask).sum()))
        best = metrics.box_ious(heatmap, box, thresholds=(0.6,), parts=parts)  # type: ignore[arg-type]
        torch.testing.assert_close(best, torch.tensor([[max(each)]], dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_max_box_acc_takes_one_threshold_for_all_and_a_mean_over_bounds() -> None:
    ious = torch.tensor([[0.9, 0.2, 0.35], [0.1, 0.8, 0.4]])
    assert metrics.max_box_acc(ious) == 0.5
    torch.testing.assert_close(metrics.max_box_acc(ious, at=(0.3, 0.5, 0.7)), torch.tensor((1 + 0.5 + 0.5) / 3))


@given(seeds)
@settings(deadline=None, max_examples=20)
def test_a_monotone_change_of_the_map_leaves_the_best_threshold_alone(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    heatmap = torch.randint(0, 6, (1, 6, 8), generator=generator).double() / 5
    box = torch.tensor([[1, 1, 6, 5]])
    levels = [k / 100 for k in range(100)]
    best = metrics.box_ious(heatmap, box, thresholds=levels).amax(1)
    torch.testing.assert_close(metrics.box_ious(heatmap**1.7, box, thresholds=levels).amax(1), best)
    flat = metrics.pxap(heatmap, metrics.box_masks(box, (6, 8)))
    torch.testing.assert_close(metrics.pxap(heatmap**1.7, metrics.box_masks(box, (6, 8))), flat)


@given(seeds, st.integers(2, 6))
@settings(deadline=None)
def test_pxap_is_average_precision_ties_and_all(seed: int, values: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    generator = torch.Generator().manual_seed(seed)
    heatmap = torch.randint(0, values, (3, 5, 7), generator=generator).double()
    masks = torch.rand(3, 5, 7, generator=generator) < 0.4
    masks[:, 0, 0] = True
    expected = [sklearn.average_precision_score(m.flatten(), h.flatten()) for m, h in zip(masks, heatmap)]
    torch.testing.assert_close(metrics.pxap(heatmap, masks), torch.tensor(expected, dtype=torch.float64))
    pooled = sklearn.average_precision_score(masks.flatten(), heatmap.flatten())
    torch.testing.assert_close(
        metrics.pxap(heatmap, masks, pooled=True), torch.tensor(float(pooled), dtype=torch.float64)
    )


def test_maps_of_zeros_find_nothing() -> None:
    zeros, box = torch.zeros(1, 6, 8), torch.tensor([[1, 1, 4, 4]])
    assert metrics.iou(zeros, box).tolist() == [0]
    assert metrics.box_ious(zeros, box).amax() == 0


BOX = torch.tensor([[0, 0, 2, 2]])
HEAT = torch.ones(1, 4, 4)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: metrics.pointing_game(HEAT, torch.tensor([[0.1, 0.1, 0.4, 0.4]])), "boxes_in_pixels"),
        (lambda: metrics.pointing_game(HEAT, torch.tensor([[0, 0, 200, 200]])), "upsample the heatmap"),
        (lambda: metrics.pointing_game(HEAT, torch.tensor([[3, 0, 2, 2]])), "x0 < x1"),
        (lambda: metrics.pointing_game(HEAT, [torch.zeros(0, 4)]), "sample 0"),
        (lambda: metrics.pointing_game(HEAT, [BOX, BOX]), "mask"),
        (lambda: metrics.pointing_game(torch.full((1, 4, 4), math.nan), BOX), "samples: 0"),
        (lambda: metrics.energy_in_box(-HEAT, BOX), "normalize"),
        (lambda: metrics.iou(HEAT, torch.zeros(1, 4, 4, dtype=torch.bool)), "sample 0"),
        (lambda: metrics.iou(HEAT, BOX, threshold=1.0), "threshold"),
        (lambda: metrics.box_ious(HEAT, [BOX, BOX]), "boxes"),
        (lambda: metrics.box_ious(HEAT, BOX, parts="some"), "parts"),  # type: ignore[arg-type]
        (lambda: metrics.max_box_acc(torch.ones(3)), "box_ious"),
        (lambda: metrics.pxap(HEAT, torch.ones(1, 4, 4)), "bool"),
        (lambda: metrics.boxes_in_pixels(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), (4, 4)), "\\[0, 1\\]"),
    ],
)
def test_what_is_refused(call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
