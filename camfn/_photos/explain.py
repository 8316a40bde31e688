"""Maps for one batch of photos: the layer, the classes, and the method's context, from what a user asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from .. import Captured, attention, diagnose, explainer
from .._shared.errors import UsageError
from ..catalogue import info_of
from ..targets import logits_of
from ..transforms import augment, eigen_smooth, fuse, smooth
from ..transforms._fuse import Fusion
from .classes import Wanted
from .head import _rows, check_cam
from .layer import ALL, Layer


class Changes(NamedTuple):
    """Transformations of a method, in the order they are applied.

    Attributes:
        eigen_smooth: replace its sum over channels by their first component.
        layers: names or patterns of several layers, whose maps are fused; empty for one layer.
        how: the rule of the fusion.
        augment: average over flips and brightness.
        smooth: average over so many noisy copies; 0 for none.
        seed: of that noise.
    """

    eigen_smooth: bool = False
    layers: tuple[str, ...] = ()
    how: Fusion = "mean"
    augment: bool = False
    smooth: int = 0
    seed: int = 0


_NONE = Changes()


class Explained(NamedTuple):
    """What came out for one photo.

    Attributes:
        logits: (K,).
        classes: those explained.
        cams: raw maps, (h, w), or pictures, (3, H, W), one a class.
        problems: why a map is useless, or None, one a class.
    """

    logits: Tensor
    classes: list[int]
    cams: list[Tensor]
    problems: list[str | None]


def explain_batch(
    method: Callable[..., Tensor],
    model: nn.Module,
    layer: Layer | None,
    inputs: Tensor,
    wanted: Wanted,
    *,
    changes: Changes = _NONE,
    chunk_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Explained]:
    """Explain each photo of a batch for its own classes.

    Args:
        method: one of `camfn.methods`, `camfn.attention` or `camfn.network`, or a partial; `cam` gets the rows of the
            model's head.
        model: a classifier, on the device of `inputs`.
        layer: where to explain; None for a method that is taken at none.
        inputs: (B, 3, H, W).
        wanted: the classes.
        changes: transformations of the method.
        chunk_size: how many perturbed forwards run at once.
        progress: told (done, in all) after each chunk of them.
    """
    with torch.no_grad():
        logits = logits_of(model(inputs)).float()
    classes = _classes(logits, wanted)
    cams: list[list[Tensor]] = [[] for _ in inputs]
    problems: list[list[str | None]] = [[] for _ in inputs]
    for target in classes.T:
        explain, captured = composed(method, model, layer, target, changes, chunk_size, progress)
        cam = explain(inputs, target)
        if layer is not None and "head" in info_of(method).needs:
            check_cam(model, layer, cam, target, logits)
        for i, problem in enumerate(diagnose(seen_by(captured, cam), cam)):
            cams[i].append(cam[i].float().cpu())
            problems[i].append(problem if logits[i].isfinite().all() else "the model's scores are not finite.")
    rows = zip(logits.cpu(), classes.tolist(), cams, problems, strict=True)
    return [Explained(*row) for row in rows]


def composed(
    method: Callable[..., Any],
    model: nn.Module,
    layer: Layer | None,
    target: Tensor,
    changes: Changes,
    chunk_size: int | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[Callable[..., Tensor], list[Captured]]:
    """Compose a method with its transformations, and keep what it is given when it runs."""
    captured: list[Captured] = []
    info = info_of(method)
    explain: Callable[..., Tensor]
    if layer is None or info.kind == "network":
        at = {"layer": layer.name, "layout": layer.layout} if layer and info.takes_layer else {}
        explain = method(model, **at)
    elif info.kind == "attention":
        explain = attention.attention_explainer(method, model, None if layer.name == ALL else layer.name)
    else:
        context: dict[str, Any] = {"layout": layer.layout, "chunk_size": chunk_size, "progress": progress}
        bound = partial(method, weights=_rows(model, layer, target)) if "head" in info.needs else method
        seen = _watched(eigen_smooth(bound) if changes.eigen_smooth else bound, captured)
        if changes.layers:
            # each layer has a layout of its own
            explain = fuse(seen, model, changes.layers, how=changes.how, **context | {"layout": "auto"})
        else:
            explain = explainer(seen, model, layer.name, **context)
    # one variant at a time: what a user bounds by --batch-size stays bounded
    if changes.augment:
        explain = augment(explain, chunk_size=1)
    if changes.smooth:
        drawn = torch.Generator().manual_seed(changes.seed)
        explain = smooth(explain, changes.smooth, generator=drawn, chunk_size=1)
    return explain, captured


def seen_by(captured: list[Captured], cam: Tensor) -> Captured:
    """What the map was made of; of a method on attention or of a whole network, the map itself."""
    return captured[-1] if captured else Captured(cam[:, None], cast("Tensor", None), None)


def _classes(logits: Tensor, wanted: Wanted) -> Tensor:
    """Classes to explain, (B, K)."""
    batch, count = logits.shape
    if wanted.best > count or (wanted.chosen or 0) >= count:
        raise UsageError(f"the model has {count} classes, 0 to {count - 1}, fewer than the target asks for")
    if wanted.chosen is None:
        return logits.topk(wanted.best).indices
    return torch.full((batch, 1), wanted.chosen, device=logits.device)


def _watched(method: Callable[..., Tensor], captured: list[Captured]) -> Callable[..., Tensor]:
    """Keep what a method is given, so that `diagnose` can look at it without a second forward."""

    @wraps(method)  # explainer reads the signature
    def watch(activations: Tensor, grads: Any = None, outputs: Any = None, **context: Any) -> Tensor:
        captured.append(Captured(activations, grads, outputs))
        return method(activations, grads, outputs, **context)

    return watch
