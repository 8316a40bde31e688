"""`yolo_head` on made-up outputs of Ultralytics' networks, against loops. The networks themselves: test_ultralytics."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import CamfnError
from camfn.targets import box_score, yolo_head

SIZES, STRIDES = ((3, 4), (2, 2)), (8, 16)


def outputs(bins: int = 1, *, turned: bool = False, seed: int = 0) -> tuple[Tensor, dict[str, Any]]:
    """Predictions that nothing reads, and raw outputs of two images and two levels, 16 candidates."""
    generator = torch.Generator().manual_seed(seed)
    raw: dict[str, Any] = {
        "boxes": torch.randn(2, 4 * bins, 16, generator=generator),
        "scores": torch.randn(2, 3, 16, generator=generator),
        "feats": [torch.zeros(2, 5, *size) for size in SIZES],
    }
    if turned:
        raw["angle"] = torch.randn(2, 1, 16, generator=generator)
    return torch.zeros(2, 7, 16), raw


def loop(raw: dict[str, Any], bins: int) -> list[list[list[tuple[float, float]]]]:
    """The corners of each candidate's (rotated) box, in pixels of the input."""
    found = []
    for image in range(2):
        places = [(x, y, s) for (h, w), s in zip(SIZES, STRIDES) for y in range(h) for x in range(w)]
        rows = []
        for n, (x, y, stride) in enumerate(places):
            sides = []
            for side in range(4):
                logits = raw["boxes"][image, side * bins : (side + 1) * bins, n].tolist()
                weights = [math.exp(v) for v in logits]
                mean = sum(i * w for i, w in enumerate(weights)) / sum(weights)
                sides.append(logits[0] if bins == 1 else mean)
            left, top, right, bottom = sides
            angle = float(raw["angle"][image, 0, n]) if "angle" in raw else 0.0
            cos, sin = math.cos(angle), math.sin(angle)
            # the offset of the center is in the frame of the box, too
            middle = ((right - left) / 2, (bottom - top) / 2)
            center = (x + 0.5 + middle[0] * cos - middle[1] * sin, y + 0.5 + middle[0] * sin + middle[1] * cos)
            corners = []
            for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1)):
                u, v = a * (left + right) / 2, b * (top + bottom) / 2
                corners.append(((center[0] + u * cos - v * sin) * stride, (center[1] + u * sin + v * cos) * stride))
            rows.append(corners)
        found.append(rows)
    return found


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("bins", [1, 16])
def test_boxes_are_those_of_a_loop(bins: int, turned: bool) -> None:
    found = outputs(bins, turned=turned)
    corners = torch.tensor(loop(found[1], bins))
    want = torch.cat([corners.amin(2), corners.amax(2)], -1)
    if bins == 1:  # sides may be negative there, and the upright box is then inside out
        found[1]["boxes"].abs_()
        corners = torch.tensor(loop(found[1], bins))
        want = torch.cat([corners.amin(2), corners.amax(2)], -1)
    head = yolo_head(strides=STRIDES)
    torch.testing.assert_close(head.boxes_of(found), want)
    torch.testing.assert_close(head.scores_of(found), found[1]["scores"].sigmoid().transpose(1, 2))
    assert head.fixed


def test_the_branch_is_that_of_the_predictions() -> None:
    _, many = outputs(seed=1)
    _, one = outputs(seed=2)
    both, head = {"one2many": many, "one2one": one}, yolo_head(strides=STRIDES)
    all_of_them, best = torch.zeros(2, 7, 16), torch.zeros(2, 10, 6)
    assert torch.equal(head.scores_of((all_of_them, both)), head.scores_of((all_of_them, many)))
    assert torch.equal(head.scores_of((best, both)), head.scores_of((best, one)))
    fused = {"one2many": {}, "one2one": one}  # fusing leaves one branch
    assert torch.equal(head.scores_of((best, fused)), head.scores_of((best, one)))
    masks = ((all_of_them, torch.zeros(2, 32, 8, 8)), both)
    assert torch.equal(head.scores_of(masks), head.scores_of((all_of_them, many)))


def test_scores_and_sides_have_gradients() -> None:
    found = outputs(16)
    for key in ("boxes", "scores"):
        found[1][key].requires_grad_()
    head = yolo_head(strides=STRIDES)
    (grad,) = torch.autograd.grad(box_score(13, 2, head=head)(found).sum(), found[1]["scores"])
    assert grad.nonzero().tolist() == [[0, 2, 13], [1, 2, 13]]
    (grad,) = torch.autograd.grad(box_score(13, 2, head=head, part="width")(found).sum(), found[1]["boxes"])
    assert set(grad.nonzero()[:, 2].tolist()) == {13}
    assert set(grad.nonzero()[:, 1].tolist()) == {*range(16), *range(32, 48)}


def test_refusals() -> None:
    predictions, raw = outputs()
    head = yolo_head(strides=STRIDES)
    cases: list[tuple[Any, str]] = [
        (predictions, "yolo_head reads the predictions"),
        ((predictions, [torch.zeros(2, 7, 3, 4)]), r"8.4 or newer"),
        ((predictions, {**raw, "index": torch.ones(3)}), "prompt-free"),
        ((predictions, {**raw, "feats": raw["feats"][:1]}), "expected 2 levels"),
    ]
    for wrong, message in cases:
        with pytest.raises(CamfnError, match=message):
            head.boxes_of(wrong)
    strides: list[Any] = [(), 8, ("8",), None]
    for given in strides:
        with pytest.raises(CamfnError, match="strides"):
            yolo_head(strides=given)
