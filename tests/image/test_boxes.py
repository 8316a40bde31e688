"""Boxes drawn on photos."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from camfn import image
from camfn.image._labels import class_color, ink_on, luminance


def test_boxes_are_drawn_where_they_are() -> None:
    photo = torch.zeros(3, 20, 30)
    found = image.boxes(photo, torch.tensor([[4.0, 5.0, 14.0, 12.0]]), color=(255, 0, 0))
    lit = found[0].nonzero()
    assert lit.amin(0).tolist() == [5, 4]
    assert lit.amax(0).tolist() == [12, 14]
    assert found[1:].sum() == 0
    assert torch.equal(image.boxes(photo, torch.zeros(0, 4)), photo)
    assert not torch.equal(image.boxes(photo, torch.tensor([[4.0, 5.0, 28.0, 19.0]]), ["a"], color=(255, 0, 0)), found)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: image.boxes(torch.rand(3, 4, 4), torch.rand(4)), r"shape \(N, 4\)"),
        (lambda: image.boxes(torch.rand(3, 4, 4), torch.tensor([[3.0, 0.0, 1.0, 2.0]])), "x0 <= x1"),
        (lambda: image.boxes(torch.rand(3, 4, 4), torch.zeros(1, 4), ["a", "b"]), "labels: expected one"),
        (lambda: image.boxes(torch.rand(3, 4, 4), torch.zeros(1, 4), classes=[1, 2]), "classes: expected one"),
        (lambda: image.boxes(torch.rand(3, 4, 4), torch.zeros(1, 4), classes=["a"]), "list of indices"),  # type: ignore[list-item]
        (lambda: image.boxes(torch.rand(3, 4, 4), torch.zeros(1, 4), classes=[1], color="red"), "leave out color"),
        (lambda: image.boxes(torch.rand(3, 4, 4), torch.zeros(1, 4), color="no color"), "'yellow'"),
    ],
)
def test_boxes_of_other_shapes_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_class_has_one_color_and_its_label_can_be_read() -> None:
    photo, listed = (
        torch.zeros(3, 400, 600),
        torch.tensor([[20.0, 60, 120, 160], [220, 60, 320, 160], [420, 60, 500, 160]]),
    )
    found = (image.boxes(photo, listed, ["cat", "dog", "cat"], [3, 8, 3]) * 255).round().to(torch.uint8)
    edges = [tuple(found[:, 150, x].tolist()) for x in (20, 220, 420)]
    assert edges == [class_color(3), class_color(8), class_color(3)]
    label = found[:, 38:58, 25:60].flatten(1).T.tolist()
    assert list(class_color(3)) in label
    assert list(ink_on(class_color(3))) in label


def test_ink_has_the_contrast_that_readers_need() -> None:
    """The oracle is WCAG 2's own number for text: 4.5 to 1."""
    colors = [class_color(index) for index in range(500)] + [(119, 119, 119), (0, 0, 0), (255, 255, 255)]
    for color in colors:
        lights = sorted((luminance(color), luminance(ink_on(color))))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5
    assert luminance((255, 255, 255)) == pytest.approx(1)
    assert luminance((255, 0, 0)) == pytest.approx(0.2126)
