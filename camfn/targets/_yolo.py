"""Ultralytics' detectors before suppression: every place of the image is a candidate, and keeps its index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._shared.boxes import corners_of
from .._shared.checks import describe
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.value import Value, frozen


class Raw(NamedTuple):
    """What the head of an Ultralytics network hands on beside its predictions.

    Attributes:
        distances: of the box's sides from the candidate's place, (B, 4 R, N), in cells; R above 1 are the logits of a
            distribution over 0 to R - 1.
        logits: of the classes, (B, K, N).
        levels: the maps that the head read.
        angle: of rotated boxes, in radians, (B, 1, N); None for others.
        masks: of segmentations, the coefficients of each candidate, (B, M, N), and the M masks that they mix,
            (B, M, h, w); None for others.
        end_to_end: whether the network was trained to need no suppression, and its predictions are the best candidates.
    """

    distances: Tensor
    logits: Tensor
    levels: list[Tensor]
    angle: Tensor | None
    masks: tuple[Tensor, Tensor] | None
    end_to_end: bool


@frozen
class yolo_head(Value):
    """Read what Ultralytics' networks return in evaluation: YOLO detect, segment, pose and OBB, World and YOLOE.

    Candidate n is one place of the image in every image, before any suppression; so it is for YOLOv10 and YOLO26, whose
    predictions are sorted, but whose raw outputs are not. Boxes are corners in pixels of the network's (letterboxed)
    input; of a rotated box they are the corners of the upright box around it. Ultralytics 8.4 or newer.

    Args:
        strides: pixels of the input between the places of each level, as `model.stride` says.
        agnostic: whether a detection suppresses those of other classes too, as in `predict()` of YOLOE.

    Raises:
        CamfnError: outputs of another kind.

    Example:
        >>> import torch
        >>> levels = [torch.zeros(1, 16, 4, 4), torch.zeros(1, 16, 2, 2)]
        >>> raw = {"boxes": torch.ones(1, 4, 20), "scores": torch.zeros(1, 80, 20), "feats": levels}
        >>> head = yolo_head(strides=(8, 16))
        >>> head.boxes_of((torch.zeros(1, 84, 20), raw))[0, 0], head.scores_of((torch.zeros(1, 84, 20), raw)).shape
        (tensor([-4., -4., 12., 12.]), torch.Size([1, 20, 80]))
    """

    _: KW_ONLY
    strides: Sequence[float] = (8, 16, 32)
    agnostic: bool = False

    def __post_init__(self) -> None:
        given = self.strides
        if not isinstance(given, (list, tuple)) or not given or not all(isinstance(x, (int, float)) for x in given):
            raise ArgumentTypeError(
                f"strides: expected a number of pixels for each level, as (8, 16, 32), got {given!r}"
            )
        object.__setattr__(self, "strides", tuple(given))

    def boxes_of(self, outputs: Any) -> Tensor:
        """Decode the corners of every candidate, (B, N, 4)."""
        center, size, angle = self.rotated_boxes_of(outputs)
        if angle is not None:
            cos, sin, (width, height) = angle.cos().abs(), angle.sin().abs(), size.chunk(2, -1)
            size = torch.cat([width * cos + height * sin, width * sin + height * cos], -1)
        return corners_of(center, size)

    def rotated_boxes_of(self, outputs: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """Decode center and size, (B, N, 2), and the angle of rotated boxes, (B, N, 1)."""
        raw = read_raw(outputs)
        low, high = _expected(raw.distances).transpose(1, 2).chunk(2, -1)
        place, stride = self._places(raw.levels)
        offset, angle = (high - low) / 2, None
        if raw.angle is not None:
            angle = raw.angle.transpose(1, 2)
            x, y = offset.chunk(2, -1)
            offset = torch.cat([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], -1)
        return (place + offset) * stride, (low + high) * stride, angle

    def scores_of(self, outputs: Any) -> Tensor:
        """Read the class scores of every candidate, (B, N, K)."""
        return read_raw(outputs).logits.sigmoid().transpose(1, 2)

    @property
    def objectness_of(self) -> Callable[[Any], Tensor] | None:
        """These detectors have no objectness."""
        return None

    @property
    def fixed(self) -> bool:
        """A candidate keeps its place."""
        return True

    def _places(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the centers of the cells of all levels, (N, 2), in cells, and the stride of each, (N, 1)."""
        if len(levels) != len(self.strides):
            raise CamfnError(
                f"yolo_head: expected {len(self.strides)} levels, the model has {len(levels)}: give strides"
            )
        places, strides = [], []
        for level, stride in zip(levels, self.strides):
            like: dict[str, Any] = {"dtype": level.dtype, "device": level.device}
            y, x = (torch.arange(length, **like) + 0.5 for length in level.shape[2:])
            places.append(torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], -1).flatten(0, 1))
            strides.append(torch.full((len(places[-1]), 1), float(stride), **like))
        return torch.cat(places), torch.cat(strides)


def read_raw(outputs: Any) -> Raw:
    """Find the raw outputs of an Ultralytics network in what it returns.

    Raises:
        CamfnError: there are none.
    """
    raw = outputs[1] if isinstance(outputs, (list, tuple)) and len(outputs) == 2 else None
    end_to_end = False
    if isinstance(raw, dict) and "one2one" in raw:
        predictions = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
        many = raw["one2many"].get("scores")
        # of the best candidates there are rows; of all, columns
        end_to_end = many is None or predictions.shape[-1] != many.shape[-1]
        raw = raw["one2one" if end_to_end else "one2many"]
    if not isinstance(raw, dict) or not {"boxes", "scores", "feats"} <= set(raw):
        raise CamfnError(
            "yolo_head reads the predictions and the raw outputs that Ultralytics' networks (8.4 or newer) return in "
            f"evaluation; the model returned {describe(outputs)}. Pass the network YOLO(...).model, not YOLO(...) "
            "itself; for others: head_for(model), or BoxHead(boxes_of, scores_of)"
        )
    if raw.get("index") is not None:
        raise CamfnError("yolo_head: a prompt-free YOLOE leaves out candidates by their score: set text or classes")
    levels = [level for level in raw["feats"] if level.ndim == 4]
    mixed = outputs[0][1] if isinstance(outputs[0], tuple) else None
    masks = (raw["mask_coefficient"], mixed) if mixed is not None and "mask_coefficient" in raw else None
    return Raw(raw["boxes"], raw["scores"], levels, raw.get("angle"), masks, end_to_end)


def _expected(distances: Tensor) -> Tensor:
    """Return the distances, (B, 4, N): the mean of each distribution where there is one."""
    bins = distances.shape[1] // 4
    if bins == 1:
        return distances
    values = torch.arange(bins, dtype=distances.dtype, device=distances.device)
    return torch.einsum("bskn,k->bsn", distances.reshape(len(distances), 4, bins, -1).softmax(2), values)
