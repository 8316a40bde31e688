"""The strip of one photo."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from camfn import image
from camfn.training._strip import CELL, caption_of, picture_of, shown, strip_of, thinned


def test_images_are_stretched_each_to_its_own_range_unless_they_are_photos() -> None:
    photos = torch.rand(2, 3, 4, 5)
    assert torch.equal(shown(photos), photos)
    found = shown(photos * torch.tensor([4.0, 9.0]).reshape(2, 1, 1, 1) - 2)
    assert found.flatten(1).amin(1).tolist() == [0, 0]
    assert found.flatten(1).amax(1).tolist() == [1, 1]
    assert shown(torch.full((1, 1, 2, 2), 7.0)).tolist() == torch.zeros(1, 3, 2, 2).tolist()


@pytest.mark.parametrize("most", [2, 3, 5, 8])
def test_a_strip_keeps_the_ends_and_spreads_the_rest(most: int) -> None:
    kept: list[int] = []
    for step in range(0, 1000, 10):
        kept = thinned([*kept, step], most)
        assert kept[0] == 0
        assert kept[-1] == step
        assert len(kept) <= most
        assert kept == sorted(set(kept))
    gaps = [second - first for first, second in pairwise(kept)]
    assert max(gaps) <= 4 * 990 / (most - 1)


def test_captions_say_what_a_map_is() -> None:
    cam = torch.rand(3, 3)
    assert caption_of(5, None, cam) == "step 5"
    assert caption_of(5, 0.931, cam) == "step 5, r 0.93"
    assert caption_of(5, math.nan, cam) == "step 5, r undefined"
    assert caption_of(5, 0.5, cam * math.nan) == "step 5, no finite map"


def test_a_map_without_numbers_leaves_the_photo_in_gray() -> None:
    photo, cam = torch.rand(3, 8, 8), torch.rand(2, 2)
    assert torch.equal(picture_of(photo, cam), image.overlay(photo[None], image.normalize(cam[None]))[0])
    gray = picture_of(photo, cam * math.inf)
    assert torch.equal(gray[0], gray[2])


def test_a_strip_is_one_row() -> None:
    strip = strip_of(torch.rand(3, 32, 32), "cat", [torch.rand(3, 32, 32)] * 3, ["step 0", "step 1", "step 2"])
    assert strip.shape[0] == 3
    assert strip.shape[1] < 2 * CELL
    assert strip.shape[2] >= 4 * CELL
