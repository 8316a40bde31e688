"""Photos of every kind load as the RGB they are meant to show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camfn._photos.read import read_photo, to_rgb
from camfn._shared.errors import PhotoError

Pixel = tuple[int, int, int]


def loaded(image: Image.Image, path: Path, **options: Any) -> list[Pixel]:
    """Save, read back, and give the pixels of the first row."""
    image.save(path, **options)
    photo = read_photo(path)
    assert photo.mode == "RGB"
    assert photo.size == image.size
    return [tuple(pixel) for pixel in np.asarray(photo)[0].tolist()]


def gray(*values: int) -> list[Pixel]:
    return [(value, value, value) for value in values]


def row(mode: str, *pixels: object) -> Image.Image:
    image = Image.new(mode, (len(pixels), 1))
    for x, pixel in enumerate(pixels):
        image.putpixel((x, 0), pixel)  # type: ignore[arg-type]
    return image


def test_rgb_is_unchanged(tmp_path: Path) -> None:
    assert loaded(row("RGB", (1, 2, 3), (250, 0, 9)), tmp_path / "x.png") == [(1, 2, 3), (250, 0, 9)]


def test_grayscale(tmp_path: Path) -> None:
    assert loaded(row("L", 0, 77, 255), tmp_path / "x.png") == gray(0, 77, 255)


def test_one_bit(tmp_path: Path) -> None:
    assert loaded(row("1", 0, 1, 1), tmp_path / "x.png") == gray(0, 255, 255)
    assert loaded(row("1", 0, 1, 1), tmp_path / "x.tif") == gray(0, 255, 255)


def test_gray_with_alpha_lies_on_white(tmp_path: Path) -> None:
    assert loaded(row("LA", (40, 255), (40, 0), (0, 127)), tmp_path / "x.png") == gray(40, 255, 128)


def test_rgba_lies_on_white(tmp_path: Path) -> None:
    pixels = row("RGBA", (10, 20, 30, 255), (10, 20, 30, 0), (255, 0, 0, 51))
    # a fifth of red and four fifths of white
    assert loaded(pixels, tmp_path / "x.png") == [(10, 20, 30), (255, 255, 255), (255, 204, 204)]


@pytest.mark.parametrize(("mode", "pixel", "rgb"), [("RGB", (1, 2, 3), (1, 2, 3)), ("L", 50, (50, 50, 50))])
def test_a_color_declared_transparent_is_white(tmp_path: Path, mode: str, pixel: object, rgb: Pixel) -> None:
    black: object = 0 if mode == "L" else (0, 0, 0)
    assert loaded(row(mode, black, pixel), tmp_path / "x.png", transparency=black) == [(255, 255, 255), rgb]


def test_palette(tmp_path: Path) -> None:
    image = row("P", 0, 1, 2)
    image.putpalette([200, 0, 0, 0, 150, 0, 0, 0, 100])
    assert loaded(image, tmp_path / "x.png") == [(200, 0, 0), (0, 150, 0), (0, 0, 100)]
    assert loaded(image, tmp_path / "x.gif") == [(200, 0, 0), (0, 150, 0), (0, 0, 100)]


def test_palette_with_a_transparent_color(tmp_path: Path) -> None:
    image = row("P", 0, 1, 2)
    image.putpalette([200, 0, 0, 0, 150, 0, 0, 0, 100])
    expected = [(200, 0, 0), (255, 255, 255), (0, 0, 100)]
    assert loaded(image, tmp_path / "x.png", transparency=1) == expected
    assert loaded(image, tmp_path / "x.gif", transparency=1) == expected


def test_palette_with_an_alpha_for_each_color(tmp_path: Path) -> None:
    image = row("P", 0, 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    assert loaded(image, tmp_path / "x.png", transparency=bytes([51, 255])) == [(255, 204, 204), (0, 0, 255)]


def test_cmyk(tmp_path: Path) -> None:
    pixels = row("CMYK", (0, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255), (255, 0, 0, 0))
    expected = [(255, 255, 255), (255, 0, 0), (0, 0, 0), (0, 255, 255)]
    assert loaded(pixels, tmp_path / "x.tif") == expected


def test_cmyk_jpeg_is_not_inverted(tmp_path: Path) -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    (r, g, b), *_ = loaded(red, tmp_path / "x.jpg", quality=100)
    assert (r > 245, g < 10, b < 10) == (True, True, True)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bits_are_scaled(tmp_path: Path, name: str) -> None:
    image = Image.fromarray(np.array([[0, 257, 25700, 65535]], np.uint16))
    assert image.mode == "I;16"
    assert loaded(image, tmp_path / name) == gray(0, 1, 100, 255)


def test_a_dark_sixteen_bit_photo_stays_dark(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 257, 514]], np.uint16))
    assert loaded(image, tmp_path / "x.png") == gray(0, 1, 2)


def test_big_endian_sixteen_bits() -> None:
    image = Image.frombytes("I;16B", (2, 1), np.array([257, 65535], ">u2").tobytes())
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [1, 255]


def test_thirty_two_bits_are_sixteen_where_they_fit(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 25700, 65535]], np.int32))
    assert image.mode == "I"
    assert loaded(image, tmp_path / "x.tif") == gray(0, 100, 255)


def test_thirty_two_bits_are_stretched_where_they_do_not_fit(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[-1000, 0, 1550]], np.int32))
    assert loaded(image, tmp_path / "x.tif") == gray(0, 100, 255)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.4, 1.0], [0, 102, 255]),
        ([0.0, 0.2, 0.4], [0, 51, 102]),
        ([0.0, 100.0, 200.0], [0, 100, 200]),
        ([0.0, 0.5, 1.25], [0, 102, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 1000.0, 2550.0], [0, 100, 255]),
        ([7000.0, 7000.0], [0, 0]),
    ],
)
def test_float_tiff(tmp_path: Path, values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.float32))
    assert image.mode == "F"
    assert loaded(image, tmp_path / "x.tif") == gray(*expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("suffix", "compression"), [("png", None), ("tif", None), ("tif", "tiff_lzw")])
def test_the_camera_s_rotation_is_carried_out(
    tmp_path: Path, orientation: int, suffix: str, compression: str | None
) -> None:
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    # what a camera stores, for each value of the tag, by the EXIF standard's "where row 0 and column 0 are"
    stored: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: np.transpose,
        6: np.rot90,
        7: lambda a: np.rot90(a, 2).T,
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored[orientation](upright))).save(path, exif=exif, compression=compression)
    assert np.asarray(read_photo(path))[..., 0].tolist() == upright.tolist()


def test_the_first_of_several_frames(tmp_path: Path) -> None:
    path = tmp_path / "x.gif"
    Image.new("L", (2, 2), 30).save(path, save_all=True, append_images=[Image.new("L", (2, 2), 200)])
    assert np.asarray(read_photo(path))[0, 0].tolist() == [30, 30, 30]


def test_unreadable_photos_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    whole.with_suffix(".jpg").write_bytes(b"")
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:-900])
    text = tmp_path / "notes.jpg"
    text.write_text("not an image")
    broken = tmp_path / "nan.tif"
    Image.fromarray(np.array([[0.0, np.nan]], np.float32)).save(broken)
    cases = {
        tmp_path / "none.jpg": "No such file",
        tmp_path: "directory",
        text: "not an image",
        whole.with_suffix(".jpg"): "not an image",
        cut: "truncated",
        broken: "not finite",
    }
    for path, words in cases.items():
        with pytest.raises(PhotoError) as caught:
            read_photo(path)
        assert str(path) in str(caught.value)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
