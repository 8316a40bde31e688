"""Pictures of detections: maps stretched inside of boxes, colors of classes, labels that hide no other."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from camfn import CamfnError, image
from camfn.image import _labels as module
from camfn.image._labels import class_color
from tests.nets.small import images

BOXES = torch.tensor([[4.0, 6.0, 30.0, 28.0], [20.0, 10.0, 60.0, 36.0], [22.0, 12.0, 50.0, 30.0]])
SIZE = (40, 64)


def tutorial(cam: Any, boxes: Any) -> Any:
    """pytorch-grad-cam's tutorial on detectors: each box's cut by scale_cam_image, zero elsewhere."""
    found = []
    for one, (x0, y0, x1, y1) in zip(cam, boxes.astype(int)):
        own = np.zeros_like(one)
        part = one[y0:y1, x0:x1] - one[y0:y1, x0:x1].min()
        own[y0:y1, x0:x1] = part / (1e-7 + part.max())
        found.append(own)
    return np.stack(found)


def test_inside_is_the_tutorials() -> None:
    cam = images(3, 5, 8)
    large = image.upsample(cam, SIZE)
    found = image.inside(cam, BOXES, SIZE)
    np.testing.assert_allclose(found.numpy(), tutorial(large.numpy(), BOXES.numpy()), atol=1e-5)
    assert torch.equal(found, image.inside(5 * cam + 3, BOXES, SIZE).round(decimals=7)) or torch.allclose(
        found, image.inside(5 * cam + 3, BOXES, SIZE), atol=1e-5
    )
    assert not image.inside(torch.ones(1, 5, 8), BOXES[:1], SIZE).any()
    beyond = image.inside(cam[:1], torch.tensor([[-20.0, -9.0, 500.0, 400.0]]), SIZE)
    torch.testing.assert_close(beyond[0].amax(), torch.tensor(1.0))
    assert not image.inside(cam[:1], torch.tensor([[80.0, 50.0, 90.0, 60.0]]), SIZE).any()


def test_inside_a_box_thinner_than_a_pixel_is_a_line_and_beyond_the_photo_nothing() -> None:
    cam = torch.arange(2560.0).reshape(1, *SIZE).repeat(3, 1, 1)
    boxes = torch.tensor([[63.7, 5.0, 63.9, 20.0], [70.0, 5.0, 90.0, 20.0], [10.2, 8.0, 10.4, 30.0]])
    found = image.inside(cam, boxes, SIZE)
    assert float(found[0, 5:20, 63].max()) == 1.0
    assert float(found[0].sum()) == float(found[0, 5:20, 63].sum())
    assert not found[1].any()
    assert float(found[2, 8:30, 10].max()) == 1.0
    assert float(found[2].sum()) == float(found[2, 8:30, 10].sum())


def test_the_box_of_each_class_has_its_color_and_small_photos_are_enlarged() -> None:
    cam, photo = images(3, 5, 8), torch.full((3, *SIZE), 0.2)
    drawn = image.detections(photo, cam, BOXES, ["cat 0.91", "dog 0.80", "cat 0.70"], [1, 2, 1])
    assert drawn.shape == (3, 400, 640)
    pixels = (drawn * 255).round().permute(1, 2, 0).int()
    for index, box in ((1, BOXES[0]), (2, BOXES[1])):
        color = torch.tensor(class_color(index), dtype=torch.int)
        x0, y0, x1, y1 = (box * 10).int().tolist()
        on = (pixels == color).all(-1)
        assert on[(y0 + y1) // 2, x0 - 2 : x0 + 3].any()
        assert on[y1 - 2 : y1 + 3, (x0 + x1) // 2 + 40].any()
    assert image.detections(photo, cam, BOXES, least=0).shape == (3, *SIZE)
    assert len({class_color(n) for n in range(80)}) == 80


def test_without_detections_the_photo_is_left() -> None:
    photo = images(3, *SIZE).sigmoid()
    drawn = image.detections(photo, torch.zeros(0, 5, 8), torch.zeros(0, 4), [], [], least=0)
    assert (drawn - photo).abs().max() <= 1 / 255


def test_turned_boxes_are_drawn_by_their_corners() -> None:
    corners = torch.tensor([[[32.0, 2.0], [60.0, 20.0], [32.0, 38.0], [4.0, 20.0]]])
    photo = torch.zeros(3, *SIZE)
    drawn = image.detections(
        photo, torch.zeros(1, 5, 8), torch.tensor([[4.0, 2.0, 60.0, 38.0]]), corners=corners, least=0
    )
    assert drawn[:, 20, 2:7].any()
    assert not drawn[:, 3:6, 4:8].any()  # the corner of the upright box


@pytest.mark.parametrize("rescale", ["whole", "inside"])
@pytest.mark.parametrize("colormap", ["turbo", "seismic"])
def test_the_strongest_map_is_shown_at_each_place(rescale: Any, colormap: str) -> None:
    cam = torch.zeros(2, 4, 4)
    cam[0, 0, 0], cam[1, 3, 3] = 5.0, 0.1  # the second is weak, and as visible
    photo = torch.full((3, 64, 64), 0.5)
    boxes = torch.tensor([[0.0, 0.0, 40.0, 40.0], [24.0, 24.0, 64.0, 64.0]])
    drawn = image.detections(photo, cam, boxes, rescale=rescale, colormap=colormap, least=0)
    apart = [
        image.detections(photo, cam[n : n + 1], boxes[n : n + 1], rescale=rescale, colormap=colormap, least=0)
        for n in (0, 1)
    ]
    torch.testing.assert_close(drawn[:, 8, 8], apart[0][:, 8, 8])
    torch.testing.assert_close(drawn[:, 56, 56], apart[1][:, 56, 56])


def rectangles(monkeypatch: pytest.MonkeyPatch, boxes: Tensor, labels: list[str]) -> list[Any]:
    """The places of the labels of one picture."""
    found: list[Any] = []
    plain = module._label

    def kept(draw: Any, place: Any, *rest: Any) -> None:
        found.append(place)
        plain(draw, place, *rest)

    monkeypatch.setattr(module, "_label", kept)
    image.detections(torch.zeros(3, 480, 640), torch.zeros(len(boxes), 5, 8), boxes, labels)
    return found


def test_labels_stay_in_the_picture_and_hide_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(10, 2, generator=generator) * torch.tensor([400.0, 250.0])
    boxes = torch.cat([start, start + 60 + 170 * torch.rand(10, 2, generator=generator)], 1)
    boxes[4] = boxes[3]  # two detections in one place
    found = rectangles(monkeypatch, boxes, [f"traffic light {n / 10}" for n in range(10)])
    assert len(found) == 10
    for x0, y0, x1, y1 in found:
        assert x0 >= 0 <= y0
        assert x1 <= 640
        assert y1 <= 480
    assert not [pair for pair in combinations(found, 2) if module._shared(*pair) > 0]


def test_labels_of_twenty_boxes_at_one_place_hide_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = torch.tensor([[240.0, 160.0, 340.0, 220.0]]).repeat(20, 1)
    found = rectangles(monkeypatch, boxes, [f"traffic light 0.{n:02}" for n in range(20)])
    assert len(found) == 20
    assert not [pair for pair in combinations(found, 2) if module._shared(*pair) > 0]
    assert all(x0 >= 0 <= y0 and x1 <= 640 and y1 <= 480 for x0, y0, x1, y1 in found)


def test_refusals() -> None:
    photo, cam = torch.zeros(3, *SIZE), images(3, 5, 8)
    cases: list[tuple[Any, str]] = [
        (lambda: image.detections(photo, cam, BOXES[:2]), r"boxes: expected x0 y0 x1 y1 of each map, \(3, 4\)"),
        (lambda: image.detections(photo, cam, BOXES[:, [2, 1, 0, 3]]), "x0 <= x1"),
        (lambda: image.detections(photo, cam, BOXES, ["a"]), "labels: expected one for each of 3"),
        (lambda: image.detections(photo, cam, BOXES, classes=["a", "b", "c"]), "classes"),  # type: ignore[list-item]
        (lambda: image.detections(photo, cam, BOXES, rescale="outside"), "rescale"),  # type: ignore[arg-type]
        (lambda: image.detections(photo, cam[0], BOXES), "cam"),
        (lambda: image.inside(cam, BOXES, (40,)), "size"),
        (lambda: image.inside(cam, BOXES * torch.nan, SIZE), "finite"),
    ]
    for call, message in cases:
        with pytest.raises(CamfnError, match=message):
            call()
