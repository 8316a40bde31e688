"""The head of a known detector, from the network itself: how to read its outputs, and why so."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Any

from torch import Tensor, nn

from .._shared.checks import describe
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.value import Value, frozen
from ._heads import Head, detr_head, torchvision_head
from ._unsuppressed import candidates_head
from ._yolo import yolo_head


@frozen
class known_head(Value):
    """A head that `head_for` found; the targets take it as any head.

    Args:
        head: the head that reads the outputs.
        reason: the kind of the network, and why `head` reads its outputs.
        layers: names of the layers from whose maps the detector predicts boxes, one for each level; empty where
            `head_for` does not know them.
        threshold: the least score of a detection that the detector's own package shows.
        best: how many of its best pairs of a candidate and a class that package looks at; None for each candidate's
            best class.

    Example:
        >>> from camfn.targets import detr_head
        >>> known_head(detr_head("softmax"), "a DETR").fixed
        False
    """

    head: Head
    reason: str = ""
    _: KW_ONLY
    layers: tuple[str, ...] = ()
    threshold: float = 0.5
    best: int | None = None

    @property
    def boxes_of(self) -> Callable[[Any], Tensor]:
        """Function from outputs to the corners of every candidate, (B, N, 4)."""
        return self.head.boxes_of

    @property
    def scores_of(self) -> Callable[[Any], Tensor]:
        """Function from outputs to the class scores of every candidate, (B, N, K)."""
        return self.head.scores_of

    @property
    def objectness_of(self) -> Callable[[Any], Tensor] | None:
        """Function from outputs to the objectness of every candidate, (B, N), or None."""
        return self.head.objectness_of

    @property
    def fixed(self) -> bool:
        """Whether candidate n stands for the same place in every image."""
        return self.head.fixed


def head_for(model: nn.Module) -> known_head:
    """Find the head that reads a detector's outputs, with the reason.

    It knows Ultralytics' networks (YOLO of any version and task that has boxes, World, YOLOE, RT-DETR), the package
    rfdetr, Hugging Face's DETR and its descendants, Grounding DINO and OWL-ViT, torchvision's detectors and
    `unsuppressed` ones, and the models that `zoo.load` returns of detectors that read words. The configuration of a
    DETR says which of its classes is "no object".

    Args:
        model: the network; it is not run.

    Returns:
        A head for `box_score` and its like, with `reason`, the names of the `layers` to explain at, and the threshold
        of the package.

    Raises:
        CamfnError: camfn does not know the network, the network has no boxes, or its scores could be read in two ways.

    Example:
        >>> from torchvision.models.detection import ssdlite320_mobilenet_v3_large as ssdlite
        >>> found = head_for(ssdlite(weights=None, weights_backbone=None, num_classes=7))
        >>> found.head, found.reason
        (torchvision_head(7), "torchvision's SSD lists the detections that are left after suppression, of 7 labels")
    """
    inner = _inner(model)
    for find in (_of_words, _of_ultralytics, _of_rfdetr, _of_hugging_face, _of_torchvision):
        found = find(inner)
        if found is not None:
            return found
    got = f"{describe(inner)}{_inside(inner)}"
    raise CamfnError(f"head_for: expected a detector that camfn knows, got {got}. {_WRITE_ONE}")


_WRITE_ONE = (
    "For another detector, two functions of its outputs are enough: BoxHead(boxes_of, scores_of), the corners "
    "(B, N, 4) of its candidates and their class scores (B, N, K)"
)


def _inner(model: Any) -> nn.Module:
    """Take a network out of what runs it as a whole: the compiler, data parallelism, peft."""
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"head_for: expected a network, got {describe(model)}{_inside(model)}")
    if {"YOLO", "RTDETR", "Model"} & _bases(model, "ultralytics.engine", "ultralytics.models"):
        name = type(model).__name__
        raise ArgumentTypeError(f"head_for: expected a network, got {name}, which holds one: pass its .model")
    base: Any = getattr(model, "get_base_model", None)
    if base is not None:
        return _inner(base())
    wrapped = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}
    attribute = wrapped.get(type(model).__name__)
    return model if attribute is None else _inner(getattr(model, attribute))


def _inside(holder: Any) -> str:
    """Say which part of a network is a known detector; empty without one."""
    children = dict(holder.named_children()) if isinstance(holder, nn.Module) else getattr(holder, "__dict__", {})
    for name, child in children.items():
        if isinstance(child, nn.Module):
            try:
                head_for(child)
            except CamfnError:
                continue
            return f"; head_for(model.{name}) reads it, if the model returns that part's outputs as they are"
    return ""


def _bases(model: object, *packages: str) -> set[str]:
    """Return the names of the classes of some packages that an object is an instance of."""
    return {base.__name__ for base in type(model).__mro__ if base.__module__.startswith(packages)}


def _of_ultralytics(model: Any) -> known_head | None:
    """Know Ultralytics' networks by the last of their modules."""
    if "BaseModel" not in _bases(model, "ultralytics."):
        return None
    last = model.model[-1]
    kinds, own = _bases(last, "ultralytics."), type(last).__name__
    name = f"the {own} at the end of this {type(model).__name__}"
    layers = tuple(f"model.{i if i >= 0 else last.i + i}" for i in (last.f if isinstance(last.f, list) else [last.f]))
    if "RTDETRDecoder" in kinds:
        reason = f"{name} has the focal loss's sigmoids and no class 'no object'; it picks its queries in each image"
        return known_head(
            detr_head("sigmoid", count=last.nc), reason, layers=layers, threshold=0.25, best=last.num_queries
        )
    if "Detect" not in kinds:
        instead = ": class_score explains a class" if "Classify" in kinds else ": mask_score explains a region"
        raise CamfnError(f"head_for: {name} gives no boxes{instead}")
    strides = tuple(float(x) for x in last.stride)
    if getattr(last, "end2end", False):
        reason = f"{name} needs no suppression, and its raw outputs keep every candidate at its place"
    else:
        reason = f"{name} gives every candidate before suppression, with sigmoids as scores"
    if any(kind.startswith("OBB") for kind in kinds):
        reason += "; its boxes are rotated, and read as the upright boxes around them"
    agnostic = any(kind.startswith("YOLOE") for kind in kinds)
    return known_head(
        yolo_head(strides=strides, agnostic=agnostic), reason, layers=layers[: len(strides)], threshold=0.25
    )


def _of_rfdetr(model: Any) -> known_head | None:
    """Know the network of the package rfdetr."""
    if "LWDETR" not in _bases(model, "rfdetr."):
        return None
    names = [name for name, _ in model.named_modules()]
    layers = tuple(name for name in names if re.fullmatch(r"backbone\.0\.projector\.stages\.\d+", name))
    reason = "rfdetr's LWDETR has sigmoids of the focal loss, and no class 'no object'; it picks queries in each image"
    return known_head(detr_head("sigmoid"), reason, layers=layers, threshold=0.5, best=300)


def _of_words(model: Any) -> known_head | None:
    """Know a detector that reads words, which the zoo asked for some things: each is a class."""
    if type(model).__module__ != "camfn.zoo._libraries.prompts":
        return None
    found = head_for(model.model)
    layers, names = tuple(f"model.{name}" for name in found.layers), list(model.names)
    count = len(names) if model.places is None else None
    head = detr_head("sigmoid", fixed=found.fixed, count=count, phrases=model.places)
    return known_head(head, f"{found.reason}; asked for {names}", layers=layers, threshold=found.threshold)


_SOFTMAX = {"detr", "table-transformer", "yolos"}
"""Model types whose last class is "no object"."""

_PICKS = {
    "rt_detr", "rt_detr_v2", "d_fine", "deimv2", "lw_detr", "rf_detr", "pp_doclayout_v2", "pp_doclayout_v3",
    "pp_doclayout_v4",
}  # fmt: skip
"""Model types that pick their queries among the places of the image."""

_QUERIES = {"conditional_detr", "dab-detr", "deformable_detr"}
"""Model types whose queries are their own; a two-stage Deformable DETR picks them."""

_WORDS = {"grounding-dino": 0.25, "mm-grounding-dino": 0.25, "owlvit": 0.1, "owlv2": 0.1}
"""Model types that score words, and the threshold of their processors."""

_PROJECTIONS = r"(?:decoder_input_proj|input_proj|input_proj_vision|input_projection)(?:\.\d+)?"


_OWL = r"owlv(?:it|2)\.vision_model\.encoder\.layers\.\d+\.layer_norm1"
"""Of OWL-ViT; behind its last attention the score of a box depends on its own patch alone."""


def _of_hugging_face(model: Any) -> known_head | None:
    """Know transformers' detectors by their configuration, and a new one by the size of its classifier."""
    config: Any = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    if not isinstance(kind, str) or "PreTrainedModel" not in _bases(model, "transformers."):
        return None
    known = kind in _SOFTMAX | _PICKS | _QUERIES | set(_WORDS)
    if "ObjectDetection" not in type(model).__name__ and not (known and "Segmentation" in type(model).__name__):
        if not known:
            return None
        raise CamfnError(f"head_for: {type(model).__name__} has no boxes: take the class ...ForObjectDetection of it")
    layers = _levels(model)
    if kind in _WORDS:
        fixed = kind in ("owlvit", "owlv2") or not config.two_stage
        each = "text" if fixed and kind.startswith("owl") else "token of the text; a phrase is detr_head(phrases=...)"
        reason = f"{kind} was trained with the focal loss: a sigmoid for each {each}"
        head = detr_head("sigmoid", fixed=fixed)
        return known_head(head, reason, layers=layers, threshold=_WORDS[kind])
    softmax = kind in _SOFTMAX if known else _has_no_object(model, config.num_labels)
    picks = kind in _PICKS or not known or (kind == "deformable_detr" and bool(config.two_stage))
    what = "the last class is 'no object'" if softmax else "sigmoids of the focal loss, and no class 'no object'"
    why = f"its model_type is {kind}" if known else f"its classifier has {config.num_labels + int(softmax)} outputs"
    reason = f"{what}, as {why}; " + ("it picks its queries in each image" if picks else "query n is one in all images")
    best = None if softmax else 100 if kind in ("conditional_detr", "deformable_detr") else 300
    if kind in _PICKS:
        best = int(getattr(config, "num_queries", 300))
    head = detr_head("softmax" if softmax else "sigmoid", fixed=not picks, count=int(config.num_labels))
    return known_head(head, reason, layers=layers, threshold=0.5, best=best)


def _has_no_object(model: nn.Module, labels: int) -> bool:
    """Say whether the classifier of a detector has one class more than there are labels.

    Raises:
        CamfnError: layers of both sizes, or of none.
    """
    sizes = {module.out_features for module in model.modules() if isinstance(module, nn.Linear)}
    if (labels in sizes) == (labels + 1 in sizes):
        raise CamfnError(
            f"head_for: the layers of {type(model).__name__} do not say whether it has a class 'no object' beside its "
            f'{labels} labels: pass detr_head("softmax") if it has, and detr_head("sigmoid") if not'
        )
    return labels + 1 in sizes


def _levels(model: nn.Module) -> tuple[str, ...]:
    """Name the projections through which a DETR's decoder, or else its encoder, reads the maps; OWL-ViT's last norm."""
    towers = [name for name, _ in model.named_modules() if re.fullmatch(_OWL, name)]
    if towers:
        return tuple(towers[-1:])
    names = [name for name, _ in model.named_modules() if re.fullmatch(_PROJECTIONS, name.rpartition("model.")[2])]
    decoder = [name for name in names if "decoder_input_proj" in name] or names
    return tuple(name for name in decoder if not any(other.startswith(f"{name}.") for other in decoder))


def _of_torchvision(model: Any) -> known_head | None:
    """Know torchvision's detectors, and those that `unsuppressed` made of them."""
    if type(model).__module__ == "camfn.targets._unsuppressed":
        reason = "unsuppressed(model) gives every candidate, at its place"
        return known_head(candidates_head(), reason, layers=_pyramid(model), threshold=0.05)
    kinds = _bases(model, "torchvision.models.detection")
    kind = next((name for name in ("RetinaNet", "FCOS", "SSD", "GeneralizedRCNN") if name in kinds), None)
    if kind is None:
        return None
    if kind == "GeneralizedRCNN":
        predictor: Any = model.roi_heads.box_predictor
        count = predictor.cls_score.out_features
    else:
        classifier: Any = model.head.classification_head
        count = classifier.num_columns if kind == "SSD" else classifier.num_classes
    name = type(model).__name__
    reason = f"torchvision's {name} lists the detections that are left after suppression, of {count} labels"
    return known_head(torchvision_head(int(count)), reason, layers=_pyramid(model), threshold=0.0)


def _pyramid(model: nn.Module) -> tuple[str, ...]:
    """Name the levels of a feature pyramid, or of an SSD."""
    names = [name for name, _ in model.named_modules()]
    pyramid = [n for n in names if re.fullmatch(r"backbone\.fpn\.(layer_blocks\.\d+|extra_blocks\.p\d)", n)]
    if pyramid:
        return tuple(pyramid)
    plain = [n for n in names if n == "backbone.features" and "backbone.scale_weight" in dict(model.named_parameters())]
    first = plain or [n for n in names if re.fullmatch(r"backbone\.features\.\d+", n)]
    return (*first, *(n for n in names if re.fullmatch(r"backbone\.extra\.\d+", n)))
