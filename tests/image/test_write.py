"""Pictures out: files, bytes, arrays, PIL images, the screen."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="needs Pillow: pip install 'camfn[cli]'")

from PIL import Image, ImageShow

from camfn import CamfnError, image

from .common import rand


def test_png_gives_back_the_bytes(tmp_path: Path) -> None:
    byte = (rand(3, 7, 11) * 255).round().to(torch.uint8)
    for name, picture in (("bytes.png", byte), ("floats.PNG", byte / 255), ("doubles.png", byte.double() / 255)):
        image.save(picture, tmp_path / name)
        with Image.open(tmp_path / name) as opened:
            assert opened.mode == "RGB"
            assert torch.equal(torch.from_numpy(np.array(opened)).permute(2, 0, 1), byte)


def test_save_rounds_to_the_nearest_byte(tmp_path: Path) -> None:
    image.save(torch.tensor([0.4, 99.6, 254.6])[:, None, None] / 255, tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as opened:
        assert opened.getpixel((0, 0)) == (0, 100, 255)


def test_jpeg_is_close(tmp_path: Path) -> None:
    ramp = torch.linspace(0, 1, 64).expand(3, 32, 64)
    image.save(ramp, str(tmp_path / "ramp.jpg"))
    with Image.open(tmp_path / "ramp.jpg") as opened:
        assert opened.format == "JPEG"
        got = torch.from_numpy(np.array(opened)).permute(2, 0, 1) / 255
    torch.testing.assert_close(got, ramp, atol=0.02, rtol=0)


def test_save_refuses_unknown_names_and_what_is_no_picture(tmp_path: Path) -> None:
    for name in ("map.npy", "map"):
        with pytest.raises(ValueError, match=r"\.png or \.jpg"):
            image.save(torch.zeros(3, 4, 4), tmp_path / name)
    with pytest.raises(ValueError, match=r"picture\[0\]"):
        image.save(torch.zeros(2, 3, 4, 4), tmp_path / "map.png")
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        image.save(torch.full((3, 4, 4), -1.0), tmp_path / "map.png")
    assert list(tmp_path.iterdir()) == []


KINDS: dict[str, Any] = {
    "tensor": lambda byte: byte.float() / 255,
    "batch of one": lambda byte: byte[None],
    "array": lambda byte: byte.permute(1, 2, 0).numpy(),
    "PIL": lambda byte: Image.fromarray(byte.permute(1, 2, 0).contiguous().numpy()),
    "bytes": lambda byte: image.to_bytes(byte),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_picture_in_and_the_same_picture_out(kind: str, tmp_path: Path) -> None:
    byte = (rand(3, 7, 11) * 255).round().to(torch.uint8)
    given = KINDS[kind](byte)
    array = byte.permute(1, 2, 0).numpy()
    assert np.array_equal(image.to_numpy(given), array)
    assert np.array_equal(np.asarray(image.to_pil(given)), array)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(image.to_bytes(given)))), array)
    image.save(given, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == image.to_bytes(byte)
    assert np.array_equal(image.to_numpy(tmp_path / "a.png"), array)
    assert torch.equal(image.read(str(tmp_path / "a.png")), byte / 255)


def test_bytes_of_each_kind_and_no_other() -> None:
    picture = rand(3, 8, 8).requires_grad_()
    starts = {"png": b"\x89PNG", ".PNG": b"\x89PNG", "jpg": b"\xff\xd8", "jpeg": b"\xff\xd8", "webp": b"RIFF"}
    assert all(image.to_bytes(picture, kind).startswith(start) for kind, start in starts.items())
    with pytest.raises(CamfnError, match=r"\.png or \.jpg, got 'npy'"):
        image.to_bytes(picture, "npy")
    with pytest.raises(TypeError, match="ending of a file"):
        image.to_bytes(picture, 3)  # type: ignore[arg-type]


def test_show_in_a_viewer_in_a_notebook_and_without_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def viewer(picture: Any, title: str | None) -> bool:
        seen.append((picture.size, title))
        return True

    monkeypatch.setattr(ImageShow, "show", viewer)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(CamfnError, match=r"no screen.*image\.save"):
        image.show(rand(3, 4, 6))
    monkeypatch.setenv("DISPLAY", ":0")
    image.show(rand(3, 4, 6), "cat")
    assert seen == [((6, 4), "cat")]
    monkeypatch.setattr(ImageShow, "show", lambda picture, title: False)
    with pytest.raises(CamfnError, match="no viewer"):
        image.show(rand(3, 4, 6))

    class Shell:
        kernel = object()

    display = pytest.importorskip("IPython.display", reason="needs IPython")
    monkeypatch.setattr("IPython.get_ipython", Shell)
    monkeypatch.setattr(display, "display", lambda picture: seen.append(picture.size))
    image.show(rand(3, 4, 6))
    assert seen[-1] == (6, 4)
