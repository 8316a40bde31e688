"""The page's code that reads photos, prepares them and draws maps, run by node, beside Pillow and camfn."""

from __future__ import annotations

import json
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from camfn import image
from camfn._photos.read import ReadAs, read_or_error, read_photo
from camfn._shared.errors import PhotoError
from camfn.export._page import _colors, pillow_goes_down_first
from camfn.zoo._photo.recipe import Recipe

from .pngs import CHANNELS, KINDS, write_png

NODE = shutil.which("node")
CODE = Path(__file__).with_name("page_code.cjs")

pytestmark = pytest.mark.skipif(NODE is None, reason="left out: the page's code beside Pillow, which needs node")


def run(folder: Path, jobs: list[dict[str, Any]]) -> list[Any]:
    """Run jobs in one process of node; each gets a file to write to."""
    for k, job in enumerate(jobs):
        job["out"] = str(folder / f"{k}.out")
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [str(NODE), str(CODE), str(folder / "jobs.json")], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


def bytes_of(job: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.fromfile(job["out"], np.uint8)


def noise(*shape: int, below: int = 256, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, below, shape)


# ------------------------------------------------------------------------------------------------------------- reading


def holds_as_read(folder: Path, files: list[Path]) -> None:
    """Hold what the page reads, or refuses, to `read_photo`, with and without the full range."""
    jobs: list[dict[str, Any]] = [
        {"do": "read", "file": str(file), "range": way} for file in files for way in (None, "full")
    ]
    for job, said in zip(jobs, run(folder, jobs)):
        photo = read_or_error(Path(job["file"]), ReadAs(job["range"], None))
        if isinstance(photo, PhotoError):
            assert said.get("deep") is True, (job, said, photo)
            continue
        assert said.get("size") == list(photo.size), (job, said)
        assert np.array_equal(bytes_of(job), np.asarray(photo).ravel()), job


@pytest.mark.parametrize("interlaced", [False, True])
def test_png_of_every_depth_is_read_as_pillow_reads_it(tmp_path: Path, interlaced: bool) -> None:
    files = []
    for depth, kind in KINDS:
        for width, height in ((23, 17), (1, 1), (3, 2), (9, 5)):
            files.append(tmp_path / f"{depth}-{kind}-{width}.png")
            values = noise(height, width, CHANNELS[kind], below=2**depth)
            write_png(files[-1], depth, kind, values, interlaced=interlaced)
    for depth in (1, 2, 4, 8):
        files.append(tmp_path / f"palette-{depth}.png")
        table = noise(3 * 2**depth).astype(np.uint8).tobytes()
        write_png(
            files[-1], depth, 3, noise(17, 23, 1, below=2**depth), interlaced=interlaced, chunks=[(b"PLTE", table)]
        )
    holds_as_read(tmp_path, files)


def test_transparent_and_short_palettes_are_laid_on_white(tmp_path: Path) -> None:
    table = noise(3 * 16).astype(np.uint8).tobytes()
    alpha = noise(200, seed=1).astype(np.uint8).tobytes()
    full = noise(3 * 256).astype(np.uint8).tobytes()
    cases: list[tuple[int, int, Any, list[tuple[bytes, bytes]]]] = [
        (8, 3, noise(17, 23, 1), [(b"PLTE", table)]),
        (8, 3, noise(17, 23, 1), [(b"PLTE", full), (b"tRNS", alpha)]),
        (8, 3, noise(17, 23, 1), [(b"PLTE", full), (b"tRNS", b"\xff\xff\x00")]),
        (8, 2, noise(17, 23, 3, below=2) * 100, [(b"tRNS", bytes([0, 100, 0, 0, 0, 100]))]),
        (8, 0, noise(17, 23, 1, below=8), [(b"tRNS", b"\0\3")]),
        (4, 0, noise(17, 23, 1, below=16), [(b"tRNS", b"\0\0")]),
        (1, 0, noise(17, 23, 1, below=2), [(b"tRNS", b"\0\1")]),
        (16, 0, noise(17, 23, 1, below=65536), [(b"tRNS", b"\0\1")]),
    ]
    files = [tmp_path / f"{k}.png" for k in range(len(cases))]
    for file, (depth, kind, values, chunks) in zip(files, cases):
        write_png(file, depth, kind, values, chunks=chunks)
    holds_as_read(tmp_path, files)


def test_deep_values_of_a_narrow_range_are_refused_until_a_range_is_chosen(tmp_path: Path) -> None:
    gray, color, flat = (tmp_path / f"{name}.png" for name in ("gray", "color", "flat"))
    write_png(gray, 16, 0, 100 + noise(17, 23, 1, below=4000))
    write_png(color, 16, 2, 100 + noise(17, 23, 3, below=4000))
    write_png(flat, 16, 0, np.full((17, 23, 1), 700))
    holds_as_read(tmp_path, [gray, color, flat])
    jobs: list[dict[str, Any]] = [{"do": "read", "file": str(file), "range": "own"} for file in (gray, flat)]
    run(tmp_path, jobs)
    for job in jobs:
        expected = np.asarray(read_photo(job["file"], ReadAs("auto", None)))
        assert np.array_equal(bytes_of(job), expected.ravel())


def test_png_is_turned_as_its_exif_or_its_xmp_says(tmp_path: Path) -> None:
    files = []
    for told in range(1, 10):
        exif = Image.Exif()
        exif[0x112] = told
        data = exif.tobytes()
        lines = [data.hex()[k : k + 72] for k in range(0, 2 * len(data), 72)]
        profile = "\n".join(["", "exif", f"{len(data):8}", *lines, ""]).encode()
        xmp = f'<x:xmpmeta tiff:Orientation="{told}"/>'.encode()
        for name, chunk in (
            ("exif", (b"eXIf", data[6:])),
            ("xmp", (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)),
            ("profile", (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))),
        ):
            files.append(tmp_path / f"{name}-{told}.png")
            write_png(files[-1], 8, 2, noise(17, 23, 3), chunks=[chunk])
    holds_as_read(tmp_path, files)


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_the_orientation_of_jpeg_and_webp_is_found(tmp_path: Path, kind: str) -> None:
    jobs: list[dict[str, Any]] = []
    for told in (1, 3, 6, 8):
        exif = Image.Exif()
        exif[0x112] = told
        file = tmp_path / f"{told}.{kind}"
        Image.fromarray(noise(16, 24, 3).astype(np.uint8)).save(file, exif=exif)
        jobs.append({"do": "turn", "file": str(file), "kind": kind})
    Image.new("RGB", (8, 8)).save(tmp_path / f"none.{kind}")
    jobs.append({"do": "turn", "file": str(tmp_path / f"none.{kind}"), "kind": kind})
    assert run(tmp_path, jobs) == [1, 3, 6, 8, 1]


def test_a_damaged_png_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "whole.png"
    Image.fromarray(noise(64, 64, 3).astype(np.uint8)).save(file)
    jobs = []
    for length in (40, 3000, 9000):
        (tmp_path / f"{length}.png").write_bytes(file.read_bytes()[:length])
        jobs.append({"do": "read", "file": str(tmp_path / f"{length}.png")})
    assert all("error" in said and not said["deep"] for said in run(tmp_path, jobs))


# ----------------------------------------------------------------------------------------------------------- the input


@pytest.mark.parametrize("interpolation", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_the_input_is_pillows_to_the_bit(tmp_path: Path, interpolation: str) -> None:
    sizes = [(181, 120), (97, 201), (401, 64), (64, 64), (48, 48), (200, 300), (31, 500)]
    shapes: list[tuple[tuple[int, int], Any]] = [
        ((48, 48), 64),
        ((48, 48), 48),
        ((64, 48), (64, 48)),
        ((80, 80), 50),
        ((50, 37), None),
    ]
    numbers = [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((127 / 255,) * 3, (128 / 255,) * 3), ((0.5,), (0.25,))]
    jobs: list[dict[str, Any]] = []
    expected = []
    for width, height in sizes:
        photo = Image.fromarray(noise(height, width, 3, seed=width).astype(np.uint8))
        raw = tmp_path / f"{width}.rgb"
        raw.write_bytes(photo.tobytes())
        for k, (size, resize) in enumerate(shapes):
            mean, std = numbers[k % 3]
            recipe = Recipe(size, resize, mean, std, interpolation)
            given = {"size": size, "resize": resize, "mean": mean, "std": std, "interpolation": interpolation}
            given["rowsFirst"] = pillow_goes_down_first()
            jobs.append({"do": "prepare", "file": str(raw), "width": width, "height": height, "recipe": given})
            expected.append((recipe(photo).numpy(), list(recipe.view(photo).size)))
    for job, said, (numbers_of, view) in zip(jobs, run(tmp_path, jobs), expected):
        assert np.array_equal(np.fromfile(job["out"], np.float32), numbers_of.ravel()), job
        assert said["view"][2:] == view


# -------------------------------------------------------------------------------------------------------------- the map


@pytest.mark.parametrize("colors", ["turbo", "viridis", "seismic"])
def test_the_overlay_is_that_of_camfn_image(tmp_path: Path, colors: str) -> None:
    signed, cam, photo = colors == "seismic", torch.randn(1, 7, 5), torch.rand(1, 3, 40, 33)
    job: dict[str, Any] = {"do": "overlay", "values": cam.flatten().tolist(), "size": [7, 5], "width": 33, "height": 40}
    [said] = run(tmp_path, [job := job | {"signed": signed, "alpha": 0.7, "colors": _colors()[colors]}])
    layer = torch.from_numpy(bytes_of(job).reshape(40, 33, 4)).movedim(-1, 0) / 255
    drawn = torch.lerp(photo, layer[None, :3], layer[None, 3:])
    heat = image.normalize(cam, signed=signed)
    torch.testing.assert_close(drawn, image.overlay(photo, heat, alpha=0.7, colormap=colors), rtol=0, atol=6 / 255)
    most = float(cam.abs().max())
    assert said["span"] == pytest.approx([-most, most] if signed else [float(cam.relu().min()), float(cam.max())])


def test_the_map_in_words(tmp_path: Path) -> None:
    spot = [0.0] * 48 + [1.0]
    jobs: list[dict[str, Any]] = [
        {"do": "overlay", "values": values, "size": [7, 7], "width": 1, "height": 1, "signed": False, "alpha": 1}
        for values in (spot, [-1.0] * 49, [0.0] * 24 + [2.0] + [0.0] * 24, [None] * 49, [0.0] * 49)  # JSON has no NaN
    ]
    words = [said["words"] for said in run(tmp_path, [job | {"colors": _colors()["turbo"]} for job in jobs])]
    assert words[0] == "The map is strongest at the bottom on the right; 2\u00a0% of the picture holds half of it."
    assert words[1] == "The map has no positive value for this class; the colors “seismic” show the negative ones."
    assert words[2].startswith("The map is strongest in the center;")
    assert words[4] == "The map shows nothing for this class: it is zero everywhere."
    assert words[3] == "The map shows nothing: it has values that are not finite."
