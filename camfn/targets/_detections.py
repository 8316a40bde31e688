"""The detections that a detector's own package shows, each with the index of its candidate."""

# tested in tests/targets/test_known.py and tests/test_ultralytics.py

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._shared.boxes import box_iou
from .._shared.checks import number
from .._shared.optional import extra
from ._heads import Head, detr_head, read, torchvision_head
from ._known import known_head
from ._yolo import Raw, read_raw, yolo_head


class Detections(NamedTuple):
    """The detections in one image, the best first.

    Attributes:
        candidates: the index of each, (n,), as `box_score` takes it.
        labels: its class, (n,).
        scores: the score of that class, (n,).
        boxes: its corners, (n, 4), in the unit of the head.
        corners: of rotated boxes, their four corners, (n, 4, 2); None for others.
    """

    candidates: Tensor
    labels: Tensor
    scores: Tensor
    boxes: Tensor
    corners: Tensor | None = None

    def at(self, which: Tensor) -> Detections:
        """Take some of the detections, by their places or by a mask."""
        corners = None if self.corners is None else self.corners[which]
        return Detections(self.candidates[which], self.labels[which], self.scores[which], self.boxes[which], corners)


_LEAST: dict[type, float] = {detr_head: 0.5, yolo_head: 0.25, torchvision_head: 0.0}
"""Thresholds of heads that `head_for` did not find."""


def detections(head: Head, outputs: Any, threshold: float | None = None) -> list[Detections]:
    """List the detections in each image of a detector's outputs, as the detector's own package does.

    Of Ultralytics' networks they are what `predict()` shows, suppressed by the package's own function at an IoU of 0.7;
    of a DETR those of the processor's `post_process_object_detection`; torchvision's detectors list them themselves.
    Of any other head each candidate has its best class, and those are suppressed, class by class, that overlap a better
    one by an IoU above 0.5.

    Args:
        head: as `head_for` finds it, or another; without a threshold of its own, 0.5 for a `detr_head`, 0.25 for a
            `yolo_head`, 0 for torchvision's and 0.05 for others.
        outputs: of the detector, in evaluation mode.
        threshold: the least score, which a detection exceeds; None for the package's own.

    Returns:
        `Detections(candidates, labels, scores, boxes, corners)` for each image, detached.

    Example:
        >>> import torch
        >>> from camfn.targets import BoxHead
        >>> head = BoxHead(lambda out: out[..., :4], lambda out: out[..., 4:])
        >>> out = torch.tensor([[[0.0, 0.0, 2.0, 2.0, 0.9, 0.1], [0.0, 0.0, 2.0, 2.1, 0.7, 0.2]]])
        >>> detections(head, out)[0].candidates
        tensor([0])
    """
    known = head if isinstance(head, known_head) else None
    plain = known.head if known else head
    least = _LEAST.get(type(plain), 0.05) if known is None else known.threshold
    if threshold is not None:
        number("detections: threshold", threshold, "[0, 1]")
        least = float(threshold)
    with torch.no_grad():
        if isinstance(plain, yolo_head):
            with extra("ultralytics", "detections of an Ultralytics network", name="ultralytics"):
                import_module("ultralytics.utils.nms")
            return _of_yolo(plain, outputs, least)
        boxes, scores = (part.detach() for part in read(plain, outputs))
        if isinstance(plain, torchvision_head):
            lengths = [len(one["scores"]) for one in outputs]
            return [_listed(b[:n], s[:n], least) for b, s, n in zip(boxes, scores, lengths)]
        if isinstance(plain, detr_head):
            best = known.best if known else None
            pairs = best is not None or (known is None and plain.activation == "sigmoid" and plain.phrases is None)
            return [_best_pairs(*two, best, least) if pairs else _listed(*two, least) for two in zip(boxes, scores)]
        return [_suppressed(_listed(*two, least)) for two in zip(boxes, scores)]


def _listed(boxes: Tensor, scores: Tensor, threshold: float) -> Detections:
    """Give each candidate of one image its best class, and sort those above the threshold."""
    best, labels = scores.max(1)
    order = best.argsort(descending=True, stable=True)
    index = order[best[order] > threshold]
    return Detections(index, labels[index], best[index], boxes[index])


def _best_pairs(boxes: Tensor, scores: Tensor, best: int | None, threshold: float) -> Detections:
    """Take the best pairs of a candidate and a class: a candidate may be in several."""
    count = scores.shape[1]
    values, pairs = scores.flatten().topk(min(best or len(scores), scores.numel()))
    index, labels = pairs // count, pairs % count
    return Detections(index, labels, values, boxes[index]).at(values > threshold)


def _suppressed(found: Detections, overlap: float = 0.5) -> Detections:
    """Leave out what overlaps a better detection of its class."""
    alike = (box_iou(found.boxes[:, None], found.boxes) > overlap) & (found.labels[:, None] == found.labels)
    kept: list[int] = []
    for n in range(len(found.candidates)):
        if not bool(alike[n, kept].any()):
            kept.append(n)
    return found.at(torch.tensor(kept, dtype=torch.long, device=found.candidates.device))


def _of_yolo(head: yolo_head, outputs: Any, threshold: float) -> list[Detections]:
    """Find what `predict()` shows of an Ultralytics network, and which candidates these are."""
    raw = read_raw(outputs)
    boxes, scores = (part.detach() for part in read(head, outputs))
    center, size, angle = head.rotated_boxes_of(outputs)
    if raw.end_to_end:
        rows = [_end_to_end(each, threshold, head.agnostic) for each in scores]
    else:
        # the package's own predictions, but for what stands beside boxes and classes
        parts = [center, size, scores, *([] if angle is None else [angle])]
        columns = torch.cat(parts, 2).transpose(1, 2).detach().clone()
        from ultralytics.utils.nms import non_max_suppression

        kept, places = non_max_suppression(
            columns,
            threshold,
            0.7,
            agnostic=head.agnostic,
            nc=scores.shape[2],
            rotated=angle is not None,
            return_idxs=True,
        )
        rows = [(place.reshape(-1).long(), row[:, 5].long(), row[:, 4]) for place, row in zip(places, kept)]
    found = []
    for n, (index, labels, values) in enumerate(rows):
        turned = None if angle is None else _rotated(center[n, index], size[n, index], angle[n, index]).detach()
        one = Detections(index, labels, values, boxes[n, index], turned)
        found.append(one if raw.masks is None else one.at(_have_masks(raw, head, n, one)))
    return found


def _have_masks(raw: Raw, head: yolo_head, n: int, found: Detections) -> Tensor:
    """Say which detections of image n have a mask that is not empty; `predict()` shows no other."""
    from ultralytics.utils.ops import process_mask

    assert raw.masks is not None
    coefficients, mixed = raw.masks[0][n, :, found.candidates].T, raw.masks[1][n]
    size = tuple(round(length * head.strides[0]) for length in raw.levels[0].shape[2:])
    some: Tensor = process_mask(mixed.detach(), coefficients.detach(), found.boxes, size, upsample=True).flatten(1)
    return some.any(1)


def _end_to_end(scores: Tensor, threshold: float, agnostic: bool, best: int = 300) -> tuple[Tensor, Tensor, Tensor]:
    """Take the best pairs of the best candidates of one image, as the heads of YOLOv10 and YOLO26 do."""
    count = min(best, len(scores))
    values, index = scores.amax(1).topk(count)
    labels = scores[index].argmax(1)
    if not agnostic:
        values, pairs = scores[index].flatten().topk(count)
        index, labels = index[pairs // scores.shape[1]], pairs % scores.shape[1]
    above = values > threshold
    return index[above], labels[above], values[above]


def _rotated(center: Tensor, size: Tensor, angle: Tensor) -> Tensor:
    """Return the four corners of rotated boxes, (n, 4, 2), one after the other around each."""
    cos, sin, width, height = angle.cos(), angle.sin(), size[:, :1] / 2, size[:, 1:] / 2
    across, down = torch.cat([width * cos, width * sin], 1), torch.cat([-height * sin, height * cos], 1)
    return torch.stack(
        [center + across + down, center + across - down, center - across - down, center - across + down], 1
    )
