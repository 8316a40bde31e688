"""Boxes drawn on photos."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from camfn import image


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
    ],
)
def test_boxes_of_other_shapes_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
