"""Rank accuracy and the area under the ROC curve: by a loop over pairs, ties and ends of the range."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given as drawn_from
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from camfn import CamfnError, metrics
from tests.metrics.known import SPACE, close, drawn, every_dims, given
from tests.oracles import metrics as oracle


def masks_of(dims: int) -> Tensor:
    masks = drawn(7, 2, *SPACE[dims]) > 0.4
    masks[:, 0], masks[:, -1] = True, False
    return masks


@every_dims
def test_they_are_those_of_a_loop(dims: int) -> None:
    _, heatmap = given(dims)
    masks = masks_of(dims)
    for maps in (heatmap, heatmap.round(), torch.ones_like(heatmap)):
        close(metrics.roc_auc(maps, masks), [oracle.roc_auc(*pair) for pair in zip(maps, masks, strict=True)])
        for k in (None, 1, 5, math.prod(SPACE[dims])):
            expected = [oracle.rank_accuracy(m, t, k or int(t.sum())) for m, t in zip(maps, masks, strict=True)]
            close(metrics.rank_accuracy(maps, masks, k=k), expected)


@every_dims
def test_the_mask_itself_is_right_its_inverse_is_wrong_a_constant_is_chance(dims: int) -> None:
    masks = masks_of(dims)
    truth = masks.double()
    for metric in (metrics.roc_auc, metrics.rank_accuracy):
        close(metric(truth, masks), 1.0)
    close(metrics.roc_auc(-truth, masks), 0.0)
    close(metrics.rank_accuracy(-truth, masks, k=1), 0.0)
    area = truth.flatten(1).mean(1)
    for constant in (0.0, -3.0):
        flat = torch.full_like(truth, constant)
        close(metrics.roc_auc(flat, masks), 0.5)
        close(metrics.rank_accuracy(flat, masks), area)
        close(metrics.rank_accuracy(flat, masks, k=1), area)


@drawn_from(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=2, max_size=12))
@settings(deadline=None)
def test_auc_is_that_of_scikit_learn(pixels: list[tuple[int, bool]]) -> None:
    from sklearn.metrics import roc_auc_score

    values = torch.tensor([[float(v) for v, _ in pixels]])
    truth = torch.tensor([[t for _, t in pixels]])
    if truth.all() or not truth.any():
        with pytest.raises(CamfnError, match=r"covers its map|no pixel belongs"):
            metrics.roc_auc(values, truth)
        return
    close(metrics.roc_auc(values, truth), [roc_auc_score(truth[0].numpy(), values[0].numpy())], 1e-6)


def test_many_pixels_do_not_lose_digits() -> None:
    values = torch.arange(400_000.0)[None]
    close(metrics.roc_auc(values, values >= 399_000), 1.0, 1e-6)
    close(metrics.rank_accuracy(values, values >= 399_000), 1.0, 1e-6)


def test_boxes_and_what_does_not_fit() -> None:
    _, heatmap = given(2)
    boxes = torch.tensor([[1, 1, 4, 4], [0, 0, 6, 2]])
    masks = metrics.box_masks(boxes, SPACE[2])
    close(metrics.rank_accuracy(heatmap, boxes), metrics.rank_accuracy(heatmap, masks))
    with pytest.raises(CamfnError, match="k: expected at most 30"):
        metrics.rank_accuracy(heatmap, masks, k=31)
    with pytest.raises(CamfnError, match="k: expected a whole number"):
        metrics.rank_accuracy(heatmap, masks, k=0)
    with pytest.raises(CamfnError, match="mask of bool"):
        metrics.roc_auc(heatmap, masks.float())
    for metric in (metrics.roc_auc, metrics.rank_accuracy):
        with pytest.raises(CamfnError, match="NaN or infinity in 2 of 2"):
            metric(heatmap * math.nan, masks)
        with pytest.raises(CamfnError, match="no pixel belongs to the object of sample 0"):
            metric(heatmap, masks & False)
