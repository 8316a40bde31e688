"""Decoding heads that write in place over what their own derivative needs: refused with what works, which does work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CaptureError, capture, capture_each, capture_many, explainer, methods
from tests.nets.small import images, seeded, unchanged


class Detector(nn.Module):
    """A convolution, and a head that decodes boxes as YOLOv5 ("slices") and YOLOv7 ("views") do."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.body, self.head, self.way = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 7, 1), way

    def forward(self, x: Tensor) -> Any:
        raw = self.head(self.body(x))
        if self.training:
            return raw
        boxes = raw.flatten(2).mT.contiguous().sigmoid()
        if self.way == "slices":
            boxes[..., :2] = (boxes[..., :2] * 2 - 0.5) * 8
            boxes[..., 2:4] = (boxes[..., 2:4] * 2) ** 2 * 4
        elif self.way == "views":
            centers, sizes, scores = boxes.split((2, 2, 3), 2)
            centers *= 8
            sizes *= 4
            boxes = torch.cat([centers, sizes, scores], 2)
        return boxes, [raw]


DOORS: dict[str, Callable[..., Any]] = {
    "capture": lambda net, x, target: capture(net, "body")(x, target),
    "capture_each": lambda net, x, target: capture_each(net, "body")(x, [target]),
    "capture_many": lambda net, x, target: capture_many(net, ["body"])(x, target),
    "grad_cam": lambda net, x, target: explainer(methods.grad_cam, net, "body")(x, target),
    "lift_cam": lambda net, x, target: explainer(methods.lift_cam, net, "body")(x, target),
    "shapley_cam": lambda net, x, target: explainer(methods.shapley_cam, net, "body")(x, target),
    "opti_cam": lambda net, x, target: explainer(methods.opti_cam, net, "body")(x, target),
}
X = images(1, 3, 16, 16)


def decoded(outputs: Any) -> Tensor:
    best: Tensor = outputs[0][..., 4].amax(1)
    return best


def raw(outputs: Any) -> Tensor:
    """The score of the text."""
    best: Tensor = outputs[1][0].flatten(1).amax(1)
    return best


@pytest.mark.parametrize("way", ["slices", "views"])
@pytest.mark.parametrize("door", DOORS)
def test_the_error_says_to_take_the_raw_heads(door: str, way: str) -> None:
    net = seeded(lambda: Detector(way)).eval()
    with unchanged(net), pytest.raises(CaptureError, match=r"in place.*outputs\[1\]\[0\].*head\.train\(\)"):
        DOORS[door](net, X, decoded)


@pytest.mark.parametrize("door", DOORS)
def test_what_the_error_says_works(door: str) -> None:
    DOORS[door](seeded(lambda: Detector("slices")).eval(), X, raw)
    for way in ("slices", "views"):
        net = seeded(lambda: Detector(way)).eval()  # noqa: B023
        net.train()
        DOORS[door](net, X, lambda outputs: outputs.flatten(1).amax(1))


@pytest.mark.parametrize("way", ["slices", "views"])
def test_methods_without_gradients_run_as_it_is(way: str) -> None:
    net = seeded(lambda: Detector(way)).eval()
    for method in (methods.ablation_cam, methods.recipro_cam, methods.score_cam):
        assert explainer(method, net, "body")(X, decoded).any()
