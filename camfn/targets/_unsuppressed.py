"""torchvision's detectors before suppression: every candidate, at a fixed place in the outputs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from .._shared.checks import describe
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.value import Value, frozen


@frozen
class candidates_head(Value):
    """Read the outputs of `unsuppressed(model)`: a dict of boxes (B, N, 4), in pixels, and scores (B, N, K).

    A candidate has the same index in every image, so that a box may be named by it.

    Example:
        >>> import torch
        >>> found = {"boxes": torch.zeros(1, 5, 4), "scores": torch.ones(1, 5, 3)}
        >>> candidates_head().scores_of(found).shape
        torch.Size([1, 5, 3])
    """

    def boxes_of(self, outputs: Any) -> Tensor:
        """Read the corners of every candidate, (B, N, 4)."""
        return _entry(outputs, "boxes")

    def scores_of(self, outputs: Any) -> Tensor:
        """Read the class scores of every candidate, (B, N, K)."""
        return _entry(outputs, "scores")

    @property
    def objectness_of(self) -> None:
        """These candidates have no objectness."""
        return None

    @property
    def fixed(self) -> bool:
        """A candidate keeps its index."""
        return True


def _entry(outputs: Any, key: str) -> Tensor:
    if isinstance(outputs, dict) and isinstance(outputs.get(key), Tensor):
        value: Tensor = outputs[key]
        return value
    raise CamfnError(f"candidates_head reads what unsuppressed(model) returns; got {describe(outputs)}")


class unsuppressed(nn.Module):
    """A torchvision detector that returns all its candidates, before thresholds and suppression.

    Suppression reads data, so that the rows of a detector's list of boxes stand for other places in every image, and
    runs cannot be joined. Before it, candidate n has one place: an anchor of RetinaNet, FCOS, SSD or SSDLite. Of Faster
    R-CNN (and the box head of Mask and Keypoint R-CNN) the candidates are pairs of a proposal and a label, those that
    exceed `score_thresh` on the given images; these proposals are held for all later images. The detections of the
    detector itself are among the candidates.

    The layers have the names that they have in the detector, and are its own modules. Read the outputs by
    `candidates_head()`.

    Args:
        model: a detector of torchvision, in evaluation mode; left as it is.
        images: (B, 3, H, W), for two-stage detectors only: the images whose proposals are held.

    Raises:
        CamfnError: another network, one in training mode, or a two-stage detector without images.

    Example:
        >>> import torch
        >>> from torchvision.models.detection import ssdlite320_mobilenet_v3_large as ssdlite
        >>> net = unsuppressed(ssdlite(weights=None, weights_backbone=None).eval())
        >>> {key: tuple(value.shape) for key, value in net(torch.rand(1, 3, 64, 64)).items()}
        {'boxes': (1, 3234, 4), 'scores': (1, 3234, 91)}
    """

    transform: Any
    backbone: Any
    head: Any
    anchor_generator: Any
    rpn: Any
    roi_heads: Any
    proposals: Tensor
    pairs: Tensor
    valid: Tensor

    def __init__(self, model: nn.Module, images: Tensor | None = None) -> None:
        super().__init__()
        kind = _kind(model)
        if kind == "GeneralizedRCNN" and not isinstance(images, Tensor):
            raise CamfnError(
                f"unsuppressed: a {type(model).__name__} has proposals, which are held: unsuppressed(model, images)"
            )
        for name, child in model.named_children():
            self.add_module(name, child)
        coder: Any = self.roi_heads.box_coder if kind == "GeneralizedRCNN" else model.box_coder
        self.box_coder = coder
        self.kind = kind
        self.eval()
        if kind == "GeneralizedRCNN":
            assert images is not None
            with torch.no_grad():
                self._hold(images)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the boxes, in pixels of these images, and the class scores of all candidates."""
        x, size = _prepared(self.transform, images)
        features = _named(self.backbone(x))
        boxes, scores = (self._second_stage if self.kind == "GeneralizedRCNN" else self._one_stage)(x, size, features)
        height, width = size
        limit = boxes.new_tensor([width, height, width, height])
        ratio = boxes.new_tensor([images.shape[-1] / width, images.shape[-2] / height] * 2)
        return {"boxes": torch.minimum(boxes.clamp(min=0), limit) * ratio, "scores": scores}

    def _one_stage(self, x: Tensor, size: tuple[int, int], features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Decode every anchor."""
        maps = list(features.values())
        found = self.head(maps)
        anchors = self.anchor_generator(_listed(x, size), maps)[0]
        logits, codes = found["cls_logits"], found["bbox_regression"]
        batch = logits.shape[0]
        decode: Callable[..., Tensor] = self.box_coder.decode if self.kind == "FCOS" else self.box_coder.decode_single
        boxes = decode(codes.flatten(0, 1), anchors.repeat(batch, 1)).reshape(batch, -1, 4)
        if self.kind == "SSD":
            return boxes, logits.softmax(-1)
        if self.kind == "FCOS":
            return boxes, (logits.sigmoid() * found["bbox_ctrness"].sigmoid()).sqrt()
        return boxes, logits.sigmoid()

    def _second_stage(self, x: Tensor, size: tuple[int, int], features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Decode the pairs of a proposal and a label that are held."""
        held = self.proposals.shape[0]
        if x.shape[0] % held:
            raise CamfnError(
                f"unsuppressed: the proposals of {held} images are held, so a batch has as many, or several times as "
                f"many; got {x.shape[0]} images"
            )
        times = x.shape[0] // held
        boxes, scores = self._boxes_and_scores(features, self.proposals.repeat(times, 1, 1), size)
        count = scores.shape[2]
        pairs, valid = self.pairs.repeat(times, 1), self.valid.repeat(times, 1)
        chosen = scores.flatten(1).gather(1, pairs) * valid
        own = torch.zeros(*chosen.shape, count, dtype=chosen.dtype, device=chosen.device)
        own = own.scatter(2, (pairs % count)[..., None], chosen[..., None])
        return boxes.flatten(1, 2).gather(1, pairs[..., None].expand(-1, -1, 4)), own

    def _boxes_and_scores(
        self, features: dict[str, Tensor], proposals: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return the box of every proposal and label, (B, R, K, 4), and its score, (B, R, K)."""
        heads, listed = self.roi_heads, list(proposals)
        pooled = heads.box_head(heads.box_roi_pool(features, listed, [size] * len(listed)))
        logits, codes = heads.box_predictor(pooled)
        shape = proposals.shape[:2]
        boxes: Tensor = self.box_coder.decode(codes, listed)
        scores: Tensor = logits.softmax(-1)
        return boxes.reshape(*shape, -1, 4), scores.reshape(*shape, -1)

    def _hold(self, images: Tensor) -> None:
        """Find the proposals of these images, and the pairs of a proposal and a label that exceed the threshold."""
        x, size = _prepared(self.transform, images)
        features = _named(self.backbone(x))
        listed, _ = self.rpn(_listed(x, size), features)
        counts = [len(one) for one in listed]
        proposals = pad_sequence(listed, batch_first=True)
        self.register_buffer("proposals", proposals)
        _, scores = self._boxes_and_scores(features, proposals, size)
        scores[..., 0] = 0
        for one, count in zip(scores, counts):
            one[count:] = 0
        flat = scores.flatten(1)
        above = flat > self.roi_heads.score_thresh
        # the best pair stays where none exceeds the threshold
        above.scatter_(1, flat.argmax(1, keepdim=True), True)
        pairs = [row.nonzero()[:, 0] for row in above]
        self.register_buffer("pairs", pad_sequence(pairs, batch_first=True))
        self.register_buffer("valid", pad_sequence([torch.ones_like(row) for row in pairs], batch_first=True).bool())


def _kind(model: Any) -> str:
    """Return the class of torchvision that a detector is, or derives from."""
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"unsuppressed: expected a detector of torchvision, got {describe(model)}")
    classes = {base.__name__ for base in type(model).__mro__ if base.__module__.startswith("torchvision.")}
    kind = next((name for name in ("RetinaNet", "FCOS", "SSD", "GeneralizedRCNN") if name in classes), None)
    if kind is None:
        raise CamfnError(
            "unsuppressed: expected torchvision's RetinaNet, FCOS, SSD, SSDLite or Faster R-CNN, got "
            f"{describe(model)}. For another detector, return the candidates before suppression yourself, and read "
            "them by BoxHead(boxes_of, scores_of)"
        )
    if model.training:
        raise CamfnError("unsuppressed: the detector is in training mode, where it returns losses: call model.eval()")
    return kind


def _prepared(transform: Any, images: Any) -> tuple[Tensor, tuple[int, int]]:
    """Normalize, resize and pad images as the detector does; return their size before padding too."""
    if not isinstance(images, Tensor) or images.ndim != 4:
        raise CamfnError(f"unsuppressed: expected images as one tensor (B, 3, H, W), got {describe(images)}")
    x = torch.stack([transform.resize(transform.normalize(image))[0] for image in images])
    height, width = int(x.shape[-2]), int(x.shape[-1])
    step = transform.size_divisible
    return functional.pad(x, (0, -width % step, 0, -height % step)), (height, width)


def _named(features: Any) -> dict[str, Tensor]:
    """Return a backbone's features by their names."""
    return {"0": features} if isinstance(features, Tensor) else features


def _listed(x: Tensor, size: tuple[int, int]) -> Any:
    """Return what torchvision calls an ImageList."""
    return SimpleNamespace(tensors=x, image_sizes=[size] * x.shape[0])
