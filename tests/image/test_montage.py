"""Montages, their captions, and picture files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from camfn import CamfnError, image
from camfn.image import _montage

from .common import FLOATS, rand


def test_montage_puts_each_picture_in_its_cell() -> None:
    pictures = [rand(3, 10, 14, seed=i) for i in range(5)]
    grid = image.montage(pictures, columns=3, padding=4, background=0.25)
    assert grid.shape == (3, 4 + 2 * (10 + 4), 4 + 3 * (14 + 4))
    rest = grid.clone()
    for i, picture in enumerate(pictures):
        y, x = 4 + (i // 3) * 14, 4 + (i % 3) * 18
        assert torch.equal(grid[:, y : y + 10, x : x + 14], picture)
        rest[:, y : y + 10, x : x + 14] = 0.25
    assert torch.equal(rest, torch.full_like(rest, 0.25))


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (3, 1, 3), (4, 2, 2), (6, 2, 3), (7, 3, 3)])
def test_montage_chooses_the_columns(count: int, rows: int, columns: int) -> None:
    assert image.montage(rand(count, 3, 5, 6), padding=1).shape == (3, 1 + 6 * rows, 1 + 7 * columns)


def test_montage_fits_pictures_of_other_sizes_and_centers_them() -> None:
    wide, tall = torch.full((3, 10, 20), 0.3), torch.full((3, 20, 10), 0.6)
    grid = image.montage([wide, tall], padding=0)
    assert grid.shape == (3, 20, 40)
    left, right = grid[:, :, :20], grid[:, :, 20:]
    for cell, value in ((left, 0.3), (right.transpose(1, 2), 0.6)):
        torch.testing.assert_close(cell[:, 5:15], torch.full((3, 10, 20), value))
        assert torch.equal(cell[:, :5], torch.ones(3, 5, 20))
        assert torch.equal(cell[:, 15:], torch.ones(3, 5, 20))
    assert image.montage([wide, tall], padding=0, cell=(30, 8)).shape == (3, 30, 16)


def test_montage_shrinks_by_averaging() -> None:
    stripes = (torch.arange(80) % 8 == 0).float().expand(3, 80, 80)  # one column in eight
    small = image.montage([stripes], padding=0, cell=(10, 10))
    assert small.mean().item() == pytest.approx(1 / 8, abs=0.01)
    assert small.min() > 0


@pytest.mark.parametrize(("background", "ink"), [(1.0, 0.0), (0.0, 1.0)])
def test_captions_are_drawn_below_their_picture(background: float, ink: float) -> None:
    pictures = [torch.full((3, 30, 90), 0.5)] * 2
    bare = image.montage(pictures, padding=3, background=background)
    blank = image.montage(pictures, ["", ""], padding=3, background=background)
    written = image.montage(pictures, ["", "Grad-CAM"], padding=3, background=background)
    assert blank.shape[1] > bare.shape[1]
    assert torch.equal(blank[:, : 33 + 3], torch.cat([bare[:, :33], torch.full((3, 3, 189), background)], dim=1))
    changed = (written != blank).any(0)
    assert not changed[:33].any()
    assert not changed[:, : 3 + 90 + 3].any()
    assert changed[33:, 96:].any()
    assert (written[:, 33:, 96:] - ink).abs().min() < 0.2


def test_captions_of_other_texts_differ() -> None:
    pictures = rand(2, 3, 40, 100)
    grids = [image.montage(pictures, ["photo", text]) for text in ("Grad-CAM", "LayerCAM")]
    assert not torch.equal(*grids)


LONG = "the quick brown fox jumps over the lazy dog " * 3


WORD = "EfficientNet_B0_blocks_6_0_bn3_activations_of_the_last_block"


@pytest.mark.parametrize("text", [LONG, WORD, f"a {WORD} b", "two\nlines", "", "i" * 300, "W" * 80])
@pytest.mark.parametrize("size", [12, 20])
def test_long_captions_are_wrapped_whole(text: str, size: int) -> None:
    font = _font(size)
    lines = _montage.wrap_text(text, 120, font)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(font.getlength(line) <= 120 for line in lines)
    if text == LONG:
        assert " ".join(lines).split() == text.split()


@pytest.mark.parametrize("text", [LONG, WORD, "gjpqy", "j" * 300, "W" * 80])
@pytest.mark.parametrize("size", [8, 12, 17, 24, 32])
def test_no_ink_is_cut_off(text: str, size: int) -> None:
    narrow = _montage._captions([text], 6 * size, size, None, 1.0)[0]
    lines = _montage.wrap_text(text, 6 * size - 2, _font(size))
    roomy = _montage._captions(["\n".join(lines)], 60 * size, size, None, 1.0)[0]
    assert narrow.shape[1] == roomy.shape[1]
    assert (1 - narrow).sum().item() == pytest.approx((1 - roomy).sum().item(), rel=1e-6)
    assert torch.equal(narrow[:, -1], torch.ones(1, 6 * size))


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def test_tiny_pictures_get_legible_captions() -> None:
    grid = image.montage([torch.zeros(3, 8, 8)], ["a caption"], padding=0, caption_size=14)
    assert grid.shape[2] == 6 * 14
    assert (grid[:, :8, 38:46] == 0).all()


def test_captions_take_a_font_file(tmp_path: Path) -> None:
    (tmp_path / "own.ttf").write_bytes(_font(14).path.getvalue())
    default = _montage._captions(["Grad-CAM"], 90, 14, None, 1.0)[0]
    same = _montage._captions(["Grad-CAM"], 90, 14, tmp_path / "own.ttf", 1.0)[0]
    assert same.shape == default.shape
    # a file is laid out by another engine, with kerning: other places, the same letters
    assert (1 - same).sum().item() == pytest.approx((1 - default).sum().item(), rel=0.1)
    with pytest.raises(ValueError, match=r"path of a font file.*resource"):
        image.montage(rand(1, 3, 20, 90), ["Grad-CAM"], font=tmp_path / "none.ttf")


def test_montage_keeps_the_first_dtype_and_takes_bytes() -> None:
    byte = (rand(3, 6, 6) * 255).to(torch.uint8)
    assert torch.equal(image.montage([byte], padding=0), byte / 255)
    for dtype in FLOATS:
        grid = image.montage([rand(3, 6, 6).to(dtype), byte], ["a", "b"])
        assert grid.dtype == dtype
        assert grid.min() >= 0
        assert grid.max() <= 1
    learned = rand(3, 6, 6).requires_grad_()
    assert not image.montage([learned]).requires_grad


def test_montage_refuses_what_it_cannot_lay_out() -> None:
    picture = torch.zeros(3, 4, 4)
    for bare in (picture, torch.tensor(3)):
        with pytest.raises(CamfnError, match="expected a list of pictures"):
            image.montage(bare)
    with pytest.raises(ValueError, match="at least one picture"):
        image.montage([])
    with pytest.raises(ValueError, match="each of the 2 pictures, got a list of 1"):
        image.montage([picture, picture], ["one"])
    with pytest.raises(ValueError, match="list of texts, one a picture, got a str"):
        image.montage([picture, picture], "ab")
    with pytest.raises(ValueError, match=r"images\[1\].*images\[1\]\[0\]"):
        image.montage([picture, picture[None]])
    with pytest.raises(ValueError, match=r"images\[1\].*\[0, 1\]"):
        image.montage([picture, picture - 2])
    with pytest.raises(ValueError, match="columns"):
        image.montage([picture], columns=0)
    with pytest.raises(ValueError, match="caption_size: expected"):
        image.montage([picture], ["a"], caption_size=0)
    with pytest.raises(ValueError, match=r"cell .*expected"):
        image.montage([picture], cell=(0, 4))
    with pytest.raises(ValueError, match="background"):
        image.montage([picture], background=255)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_montage_of_slices_is_that_of_the_slices_with_their_numbers(axis: int) -> None:
    volume, heat = torch.rand(5, 40, 41), torch.rand(2, 3, 4)
    length = volume.shape[axis]
    shown = image.slices(volume, heat, axis=axis, count=3)
    texts = [f"{i} of {length}" for i in (1, round((length - 1) / 2) + 1, length)]
    found = image.slice_montage(volume, heat, axis=axis, count=3)
    assert torch.equal(found, image.montage(list(shown), texts))
    assert image.slice_montage((255 * volume).to(torch.uint8), heat, count=2).shape[0] == 3
    with pytest.raises(CamfnError, match="axis"):
        image.slice_montage(volume, heat, axis=3)
    with pytest.raises(CamfnError, match="volume"):
        image.slice_montage(volume[0], heat)
