"""Pictures of concepts: colors, numbers, legends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import image

from .common import rand


def test_each_place_has_the_color_of_its_strongest_concept() -> None:
    photo = rand(2, 3, 6, 8)
    maps = rand(2, 3, 6, 8, seed=1)
    colors = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    for scale in (None, 2.0, torch.tensor([0.5, 4.0])):
        got = image.concepts(photo, maps, alpha=0.7, colors=colors, scale=scale)
        for b in range(2):
            full = float(maps[b].max() if scale is None else scale[b] if isinstance(scale, Tensor) else scale)
            for y in range(6):
                for x in range(8):
                    here = maps[b, :, y, x].tolist()
                    best = here.index(max(here))
                    opacity = 0.7 * min(here[best] / full, 1)
                    expected = (1 - opacity) * photo[b, :, y, x] + opacity * colors[best]
                    torch.testing.assert_close(got[b, :, y, x], expected)


def test_where_nothing_is_found_the_photo_is_left() -> None:
    photo = rand(3, 20, 30)
    assert torch.equal(image.concepts(photo, torch.zeros(1, 2, 4, 4))[0], photo)
    assert torch.equal(image.concepts(photo, rand(1, 2, 4, 4, dtype=torch.float64), alpha=0)[0], photo)


def test_a_legend_with_numbers_colors_and_labels() -> None:
    photo = torch.full((3, 200, 300), 0.5)
    maps = torch.zeros(2, 3, 4, 6)
    maps[:, 0, 0, 0], maps[:, 1, 3, 5], maps[:, 2, 3, 0] = 1.0, 0.8, 0.05
    plain = image.concepts(photo, maps)
    marked = image.concepts(photo, maps, ["a", "b", "c"])
    other = image.concepts(
        photo, maps, [["a", "b", "c"], ["a", "b", "something else, so long that it needs lines " * 3]]
    )
    assert marked.shape[-1] == 300
    assert marked.shape[-2] > 260
    assert other.shape[-2] > marked.shape[-2]
    assert not torch.equal(other[0], other[1])
    colors = [torch.tensor(list(bytes.fromhex(text))) / 255 for text in ("D55E00", "0072B2", "F0E442")]
    for k, color in enumerate(colors):
        same = (marked[0] - color[:, None, None]).abs().amax(0) < 1e-3
        assert int(same[200:].sum()) > 50
        # the third is too weak for a number
        assert (int(same[:200].sum()) > int(((plain[0] - color[:, None, None]).abs().amax(0) < 1e-3).sum())) == (k < 2)
    assert torch.equal(marked[0, :, 200:, -1], torch.ones(3, marked.shape[2] - 200))


def test_a_small_photo_is_set_in_the_middle() -> None:
    photo = rand(3, 16, 20)
    got = image.concepts(photo, torch.zeros(1, 2, 2, 2), ["one", "two"])
    start = (got.shape[-1] - 20) // 2
    assert start > 0
    torch.testing.assert_close(got[0, :, :16, start : start + 20], photo)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float64])
def test_picture_dtypes(dtype: torch.dtype) -> None:
    photo = (rand(3, 20, 30, dtype=torch.float64) * (255 if dtype == torch.uint8 else 1)).to(dtype)
    got = image.concepts(photo, rand(1, 2, 4, 4), ["one", "two"])
    assert got.dtype == (torch.float32 if dtype == torch.uint8 else dtype)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda photo, maps: image.concepts(photo, maps[0]), r"maps\[None\]"),
        (lambda photo, maps: image.concepts(photo, -maps), "no negative"),
        (lambda photo, maps: image.concepts(photo, maps * torch.nan), "NaN"),
        (lambda photo, maps: image.concepts(photo[None].expand(3, -1, -1, -1), maps), "got 3 for 2"),
        (lambda photo, maps: image.concepts(photo, maps, alpha=2), "alpha"),
        (lambda photo, maps: image.concepts(photo, maps, ["a"]), "labels: expected 4 texts"),
        (lambda photo, maps: image.concepts(photo, maps, [["a"] * 4]), "labels: expected 4 texts"),
        (lambda photo, maps: image.concepts(photo, maps, colors=torch.ones(3, 3)), r"colors: expected \(4, 3\)"),
        (lambda photo, maps: image.concepts(photo, maps.repeat(1, 3, 1, 1)), "12 concepts"),
    ],
)
def test_picture_errors(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(rand(3, 20, 30, dtype=torch.float64), rand(2, 4, 4, 5, seed=1, dtype=torch.float64))
