"""`box_iou` beside a loop over pairs of rectangles."""

from __future__ import annotations

import torch

from camfn._shared.boxes import box_iou


def naive_iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union else 0.0


def test_iou_is_that_of_two_rectangles() -> None:
    generator = torch.Generator().manual_seed(0)
    low = 8 * torch.rand(6, 2, generator=generator, dtype=torch.float64)
    boxes = torch.cat([low, low + 2 + 6 * torch.rand(6, 2, generator=generator, dtype=torch.float64)], 1)
    wanted = [[naive_iou(a, b) for b in boxes.tolist()] for a in boxes.tolist()]
    torch.testing.assert_close(box_iou(boxes[:, None], boxes), torch.tensor(wanted, dtype=torch.float64))
    apart = torch.tensor([20.0, 20.0, 21.0, 21.0], dtype=torch.float64)
    assert not box_iou(boxes, apart).any()


def test_iou_of_two_empty_boxes_is_zero() -> None:
    assert box_iou(torch.zeros(4), torch.zeros(4)) == 0
