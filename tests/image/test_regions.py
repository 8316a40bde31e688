"""Masks and boxes of maps against a flood fill."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from camfn import image

from .common import rand


def test_the_mask_is_strictly_above_the_fraction_of_each_maximum() -> None:
    heatmap = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 5.0, 4.0]], [[0.0, 0.5, 0.25], [2.0, 0.4, 0.0]]])
    expected = torch.tensor([[[0, 0, 1], [1, 1, 1]], [[0, 1, 0], [1, 0, 0]]]).bool()
    assert torch.equal(image.to_mask(heatmap), expected)
    assert torch.equal(image.to_mask(heatmap, threshold=0.5), heatmap > torch.tensor([2.5, 1.0])[:, None, None])
    assert torch.equal(image.to_mask(heatmap, threshold=0), heatmap > 0)


@pytest.mark.parametrize("value", [0.0, -1.0])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.9])
def test_nothing_above_zero_gives_an_empty_mask_and_no_box(value: float, threshold: float) -> None:
    heatmap = torch.full((2, 3, 4), value)
    assert not image.to_mask(heatmap, threshold=threshold).any()
    for boxes in image.to_boxes(heatmap, threshold=threshold):
        assert boxes.shape == (0, 4)
        assert boxes.dtype == torch.int64


def test_a_constant_map_is_one_box_of_everything() -> None:
    (boxes,) = image.to_boxes(torch.full((1, 3, 5), 0.1))
    assert boxes.tolist() == [[0, 0, 5, 3]]


@pytest.mark.parametrize("threshold", [-0.1, 1.0, 20.0])
def test_thresholds_are_fractions(threshold: float) -> None:
    for call in (image.to_mask, image.to_boxes):
        with pytest.raises(ValueError, match=r"\[0, 1\)"):
            call(torch.ones(1, 2, 2), threshold=threshold)


DRAWN = {
    "at the border": (
        """
        ##...
        ##...
        ....#
        """,
        [[0, 0, 2, 2], [4, 2, 5, 3]],
    ),
    "corners touch": (
        """
        ##...
        ##...
        ..##.
        .....
        """,
        [[0, 0, 4, 3]],
    ),
    "the larger first": (
        """
        #....
        ...##
        ...##
        """,
        [[3, 1, 5, 3], [0, 0, 1, 1]],
    ),
    "ties in reading order": (
        """
        ...#.
        #....
        ..#.#
        """,
        [[3, 0, 4, 1], [0, 1, 1, 2], [2, 2, 3, 3], [4, 2, 5, 3]],
    ),
    "most pixels, not the largest box": (
        """
        #.....###
        .#....###
        ..#...###
        ...#.....
        """,
        [[6, 0, 9, 3], [0, 0, 4, 4]],
    ),
    "one in the hole of another": (
        """
        #####
        #...#
        #.#.#
        #...#
        #####
        """,
        [[0, 0, 5, 5], [2, 2, 3, 3]],
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_boxes_of_drawn_masks(name: str) -> None:
    drawing, expected = DRAWN[name]
    heatmap = torch.tensor([[float(c == "#") for c in line] for line in drawing.split()])[None]
    assert image.to_boxes(heatmap)[0].tolist() == expected
    assert image.to_boxes(heatmap, largest=True)[0].tolist() == expected[:1]


def naive_boxes(mask: Any) -> list[list[int]]:
    """Flood every part from its first pixel in reading order."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    parts = []
    for start in sorted(left):
        if start not in left:
            continue
        part, edge = {start}, [start]
        while edge:
            y, x = edge.pop()
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left - part
            part |= near
            edge += near
        left -= part
        parts.append(part)
    parts.sort(key=len, reverse=True)
    spans = [([y for y, _ in part], [x for _, x in part]) for part in parts]
    return [[min(xs), min(ys), max(xs) + 1, max(ys) + 1] for ys, xs in spans]


def test_boxes_equal_a_flood_fill() -> None:
    heatmap = rand(20, 13, 9)
    for threshold in (0.5, 0.7, 0.9):
        boxes = image.to_boxes(heatmap, threshold=threshold)
        for m, got in zip(heatmap, boxes, strict=True):
            assert got.tolist() == naive_boxes((m > threshold * m.max()).numpy())
