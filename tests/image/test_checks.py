"""What is refused as a photo or a map, and the words that say so."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from camfn import image

from .common import rand


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_samples_are_named(bad: float) -> None:
    maps = rand(4, 5, 6)
    maps[1, 0, 0] = maps[3, 2, 2] = bad
    photo = rand(3, 5, 6)
    calls: list[Callable[[Tensor], Any]] = [
        image.normalize,
        image.colorize,
        image.to_mask,
        image.to_boxes,
        lambda m: image.overlay(photo, m),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"NaN or infinity in 2 of 4 samples: 1, 3\."):
            call(maps)


def test_a_map_without_a_batch_is_refused() -> None:
    of_any_rank: list[Callable[[Tensor], Any]] = [image.normalize, image.to_mask]
    of_images: list[Callable[[Tensor], Any]] = [image.colorize, image.to_boxes]
    for call in of_any_rank:
        with pytest.raises(ValueError, match=r"\[None\]"):
            call(torch.zeros(7))
    for call in of_images:
        with pytest.raises(ValueError, match=r"heatmap\[None\]"):
            call(torch.zeros(7, 7))


def test_bytes_are_a_photo_too() -> None:
    photo = (rand(2, 3, 8, 12) * 255).round().to(torch.uint8)
    heatmap = rand(2, 8, 12, seed=1)
    got = image.overlay(photo, heatmap)
    assert got.dtype == torch.float32
    assert torch.equal(got, image.overlay(photo.float() / 255, heatmap))


@pytest.mark.parametrize(
    ("photo", "text"),
    [
        (torch.full((3, 4, 4), -2.1), r"normalized with a mean.*\* std \+ mean"),
        (torch.full((3, 4, 4), 2.6), r"photo / 255"),
        (torch.full((3, 4, 4), 300.0), r"normalized with a mean"),
        (torch.full((3, 4, 4), 1.01), r"photo\.clamp\(0, 1\)"),
        (torch.full((3, 4, 4), math.nan), r"got nan"),
        (torch.zeros(4, 4, 3), r"photo\.movedim\(-1, -3\)"),
        (torch.zeros(2, 1, 4, 4), r"photo\.repeat_interleave\(3, -3\)"),
        (torch.zeros(4, 4, 5), r"photo\[\.\.\., :3, :, :\]"),
        (torch.zeros(4, 4), r"photo\.expand\(3, -1, -1\)"),
    ],
)
def test_what_is_no_photo_is_refused_with_the_call_that_mends_it(photo: Tensor, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        image.overlay(photo, torch.zeros(1, 2, 2))


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match=r"permute\(2, 0, 1\)"):
        image.overlay(np.zeros((4, 4, 3), np.uint8), torch.zeros(1, 2, 2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected a tensor, got ndarray"):
        image.normalize(np.zeros((1, 2, 2)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"torch\.int64"):
        image.overlay(torch.zeros(3, 4, 4, dtype=torch.int64), torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="opacity"):
        image.overlay(torch.zeros(3, 4, 4), torch.zeros(1, 2, 2), alpha=50)
