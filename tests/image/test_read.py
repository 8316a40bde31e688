"""Pictures of any kind in."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="needs Pillow: pip install 'camfn[cli]'")

from PIL import Image

from camfn import CamfnError, image

from .common import rand


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_gray_and_black_and_white_are_spread_over_the_colors() -> None:
    gray = (rand(5, 7) * 255).round().to(torch.uint8)
    expected = (gray / 255).expand(3, 5, 7)
    for given in (
        gray,
        gray[None],
        gray.numpy(),
        gray.numpy()[..., None],
        (gray / 255).numpy(),
        (gray.double() / 255).numpy().astype(">f8"),
        Image.fromarray(gray.numpy()),
        encoded(Image.fromarray(gray.numpy()), "TIFF"),
    ):
        torch.testing.assert_close(image.read(given).float(), expected, atol=1e-6, rtol=0)
    mask = gray > 100
    for given in (mask, mask.numpy()):
        assert torch.equal(image.read(given)[1].bool(), mask)


def test_what_comes_of_a_tensor_keeps_its_dtype_and_its_gradient() -> None:
    picture = rand(3, 4, 4).double().requires_grad_()
    assert image.read(picture).dtype == torch.float64
    assert image.read(picture).requires_grad
    frozen = np.zeros((4, 4, 3), np.uint8)
    frozen.setflags(write=False)
    assert image.read(frozen[::-1]).shape == (3, 4, 4)


def test_a_file_is_read_upright_on_white_and_its_first_frame(tmp_path: Path) -> None:
    wide = Image.new("RGB", (6, 4), (255, 0, 0))
    turned = Image.Exif()
    turned[0x0112] = 6
    assert image.read(encoded(wide, "JPEG", exif=turned)).shape == (3, 6, 4)
    clear = Image.new("RGBA", (6, 4), (255, 0, 0, 0))
    assert bool((image.read(clear) == 1).all())
    assert bool((image.read(encoded(clear, "PNG")) == 1).all())
    frames = encoded(wide, "GIF", save_all=True, append_images=[Image.new("RGB", (6, 4), (0, 0, 255))])
    assert image.read(frames)[:, 0, 0].tolist() == [1, 0, 0]
    (tmp_path / "a.png").write_bytes(encoded(wide, "PNG"))
    assert torch.equal(image.read(tmp_path / "a.png"), image.read(wide))


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((3, 4, 5), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((4, 5, 4), np.uint8), "alpha channel"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"picture\[0\]"),
        (np.zeros((4, 5, 2), np.uint8), r"\(H, W, 3\) or \(H, W\)"),
        (np.zeros((4, 5, 3), np.uint16), "65535"),
        (np.zeros((4, 5, 3), np.int64), "int64"),
        (np.zeros((4, 5, 3), complex), "complex"),
        (np.full((4, 5, 3), 200.0), r"picture / 255"),
        (np.full((4, 5, 3), np.nan), r"\[0, 1\]"),
        (np.zeros((0, 5, 3), np.uint8), "at least one pixel"),
        (torch.zeros(2, 3, 4, 4), r"picture\[0\]"),
        (torch.zeros(4, 4, 3), "movedim"),
        (torch.full((3, 4, 4), -1.0), "normalized"),
        (Image.new("I;16", (4, 4)), "65535"),
        (Image.new("F", (4, 4)), "'F'"),
        (b"no picture", "no picture that Pillow decodes"),
        (b"", "no picture that Pillow decodes"),
        (image.to_bytes(rand(3, 64, 64))[:900], "cannot read these bytes"),
        ("/no/such/file.png", "/no/such/file.png.*No such file"),
        ("/", "cannot read '/'"),
        (None, "montage"),
        ([torch.zeros(3, 4, 4)], "montage"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_picture_is_refused(picture: Any, message: str) -> None:
    with pytest.raises(CamfnError, match=message):
        image.read(picture)


def test_a_program_in_a_file_is_not_run() -> None:
    with pytest.raises(CamfnError, match="no picture that Pillow decodes"):
        image.read(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\nshowpage\n")
