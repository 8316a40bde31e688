"""Where a photo lies in the input that `Letterbox` makes of it, and the way back."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from camfn.zoo._photo.letterbox import Frame, Letterbox, whole_frame

SIZES = ((640, 480), (480, 640), (451, 300), (1920, 1080), (33, 500), (1, 3000), (640, 640))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [160, 640])
def test_a_frame_is_a_letterbox(size: tuple[int, int], side: int) -> None:
    frame = Letterbox((side, side)).frame(Image.new("RGB", size))
    top, left, height, width = frame.inner
    assert frame.photo == size[::-1]
    assert max(height, width) == side
    assert frame.size[0] % 32 == frame.size[1] % 32 == 0
    for length, start, whole in ((height, top, frame.size[0]), (width, left, frame.size[1])):
        assert 0 <= whole - length < 32
        assert abs((whole - length - start) - start) <= 1
    assert abs(height / width - size[1] / size[0]) <= max(1.0, size[1] / size[0]) / min(height, width)


@pytest.mark.parametrize("size", SIZES)
def test_corners_of_the_photo_come_back(size: tuple[int, int]) -> None:
    frame = Letterbox((320, 320)).frame(Image.new("RGB", size))
    top, left, height, width = frame.inner
    box = torch.tensor([[left, top, left + width, top + height]]).float()
    torch.testing.assert_close(frame.boxes(box), torch.tensor([[0.0, 0.0, *size]]))
    beyond = torch.tensor([[-50.0, -50.0, 900.0, 900.0]])
    torch.testing.assert_close(frame.boxes(beyond), torch.tensor([[0.0, 0.0, *size]]))


def test_maps_lose_the_padding_and_nothing_else() -> None:
    frame = Frame((64, 64), (8, 0, 48, 64), (30, 40))
    cams = torch.zeros(2, 8, 8)
    cams[0, :1], cams[1, 1] = 1.0, 1.0  # the padding above; the first row of the photo
    found = frame.maps(cams)
    assert found.shape == (2, 48, 64)
    assert float(found[0, 8:].amax()) == 0.0
    assert float(found[1, 3].amin()) > 0.9
    plain = Frame((64, 64), (0, 0, 64, 64), (30, 40))
    assert plain.maps(cams) is cams
    assert not plain.padded
    assert whole_frame((64, 96), (30, 40)) == ((64, 96), (0, 0, 64, 96), (30, 40))


def test_a_stretched_photo_fills_the_input() -> None:
    fit = Letterbox((320, 320), stretch=True)
    frame = fit.frame(Image.new("RGB", (100, 50)))
    assert frame == ((320, 320), (0, 0, 320, 320), (50, 100))
    torch.testing.assert_close(frame.boxes(torch.tensor([[160.0, 160, 320, 320]])), torch.tensor([[50.0, 25, 100, 50]]))
    assert str(fit) == "stretched to 320 x 320"
    assert "letterboxed into 160 x 96" in str(Letterbox((160, 96)))
