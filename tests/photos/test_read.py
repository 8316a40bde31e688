"""Photos of every kind load as the RGB they are meant to show."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camfn._photos.read import ReadAs, read_photo, to_rgb
from camfn._photos.reading import Reading, frames_told, reading_of
from camfn._photos.window import read_window
from camfn._shared.errors import PhotoError, UsageError

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


def test_twelve_bits_in_sixteen_are_never_black_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.array([[0, 819, 4095]], np.uint16)).save(path)
    with pytest.raises(PhotoError, match=r"0 to 4095 of 0 to 65535.*--window 0,4095.*auto.*full"):
        read_photo(path)

    def row_of(window: str) -> list[int]:
        row: list[int] = np.asarray(read_photo(path, ReadAs(read_window(window))))[0, :, 0].tolist()
        return row

    assert row_of("0,4095") == [0, 51, 255]
    assert row_of("auto") == [0, 51, 255]
    assert row_of("full") == [0, 3, 16]
    assert row_of("819,2457") == [0, 0, 255]
    for wrong in ("5", "5,5", "9,1", "a,b", "nan,1", "Full", "1,2,3"):
        with pytest.raises(UsageError, match="expected LOW,HIGH, the lower first"):
            read_window(wrong)


@pytest.mark.parametrize("values", [[0, 1000, 16383], [30000, 31000, 32000], [7, 7, 7]])
def test_a_range_below_a_quarter_is_refused(tmp_path: Path, values: list[int]) -> None:
    for kind in (np.uint16, np.int32):
        Image.fromarray(np.array([values], kind)).save(tmp_path / "x.tif")
        with pytest.raises(PhotoError, match="less than a quarter"):
            read_photo(tmp_path / "x.tif")
    Image.fromarray(np.array([values], np.float32) / 65535).save(tmp_path / "y.tif")
    with pytest.raises(PhotoError, match="less than a quarter"):
        read_photo(tmp_path / "y.tif")


def test_colors_of_sixteen_bits_are_never_black_in_silence(tmp_path: Path) -> None:
    pixels = np.zeros((1, 3, 3), np.uint16)
    for high, fine in ((4095, False), (65535, True)):
        pixels[0, 2] = high
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
        path = tmp_path / f"{high}.png"
        path.write_bytes(png(3, 1, 16, 2, rows))
        if fine:
            assert np.asarray(read_photo(path)).max() == 255
        else:
            with pytest.raises(PhotoError, match="colors of 16 bits"):
                read_photo(path)
            assert np.asarray(read_photo(path, ReadAs("full"))).max() == 15


def png(width: int, height: int, bits: int, color: int, rows: bytes) -> bytes:
    """Write a PNG, which Pillow cannot with 16 bits a color."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_chosen_frame(tmp_path: Path) -> None:
    path = tmp_path / "x.gif"
    Image.new("L", (2, 2), 30).save(path, save_all=True, append_images=[Image.new("L", (2, 2), 200)])
    assert np.asarray(read_photo(path, ReadAs(frame=2)))[0, 0].tolist() == [200, 200, 200]
    with pytest.raises(PhotoError, match="it has 2 frames, and --frame 3"):
        read_photo(path, ReadAs(frame=3))


# nothing is started, and nothing ends the run


def test_no_program_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Popen", "run", "call", "check_call", "check_output"):
        monkeypatch.setattr(f"subprocess.{name}", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr("os.system", lambda *_: pytest.fail("a program was started"))
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    for name in ("cat.jpg", "cat.png", "cat.eps", "cat.ps", "cat", "cat.tif", "cat.wmf", "cat.xyz"):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(PhotoError, match=name):
            read_photo(tmp_path / name)


def test_a_name_that_is_wrong_about_its_format(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), "red").save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / "x.jpg")
    assert read_photo(tmp_path / "x.jpg").getpixel((0, 0)) == (255, 0, 0)
    Image.new("RGB", (3, 2), "red").save(tmp_path / "x.tga")
    assert read_photo(tmp_path / "x.tga").getpixel((0, 0)) == (255, 0, 0)
    (tmp_path / "x.tga").rename(tmp_path / "y.jpg")
    with pytest.raises(PhotoError, match="not an image"):
        read_photo(tmp_path / "y.jpg")


@pytest.mark.parametrize(
    "error", [RuntimeError("first\nsecond"), NotImplementedError(), MemoryError(), RecursionError("deep")]
)
def test_whatever_a_decoder_raises_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "x.png")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(PhotoError, match=r"x\.png: .") as caught:
        read_photo(tmp_path / "x.png")
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    for path, words in (
        (tmp_path / "loop.png", "symbolic links"),
        (tmp_path / "pipe.png", "a pipe or a device"),
        (Path("/dev/zero"), "a pipe or a device"),
        (tmp_path / ("x" * 300), "too long"),
        (tmp_path / "x\0y", "null"),
    ):
        with pytest.raises(PhotoError, match=words):
            read_photo(path)


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


@pytest.mark.parametrize("kind", ["gif", "tiff", "png", "webp"])
def test_the_frame_and_the_number_of_frames_are_known(tmp_path: Path, kind: str) -> None:
    draws = np.random.default_rng(0)
    frames = [Image.fromarray(draws.integers(0, 256, (8, 9, 3), dtype=np.uint8)) for _ in range(3)]
    path = tmp_path / f"many.{kind}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert reading_of(read_photo(path)) == Reading(1, 3)
    assert reading_of(read_photo(path, ReadAs(frame=2))) == Reading(2, 3)
    frames[0].save(path)
    assert reading_of(read_photo(path)) == Reading(1, 1)


def test_damaged_frames_behind_the_first_leave_it_readable(tmp_path: Path) -> None:
    path = tmp_path / "many.tiff"
    frames = [Image.new("RGB", (40, 50), color) for color in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    path.write_bytes(path.read_bytes()[:-50])
    photo = read_photo(path)
    assert photo.getpixel((0, 0)) == (255, 0, 0)
    assert reading_of(photo).frames in (None, 1, 2)
    assert frames_told(Reading(1, None).record()) == ", frame 1 of several, damaged ones"


def test_the_window_is_known_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.array([[0, 30000, 65535]], dtype=np.uint16)).save(path)
    assert reading_of(read_photo(path)) == Reading(window=(0, 65535), window_reason="the full range of its kind")
    auto = reading_of(read_photo(path, ReadAs("auto")))
    assert auto == Reading(window=(0, 65535), window_reason="--window auto: the photo's own range")
    assert reading_of(read_photo(path, ReadAs((5.0, 9.0)))).record() == {
        "frame": 1,
        "frames": 1,
        "window": [5.0, 9.0],
        "window_reason": "--window",
    }
    assert reading_of(Image.new("RGB", (1, 1))) == Reading()
