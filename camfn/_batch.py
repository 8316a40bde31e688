"""Maps for one batch of photos: the layer, the classes, and the method's context, from what a user asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from . import Captured, CaptureError, Layout, attention, diagnose, explainer, layers, layout, methods
from ._ask import UsageError, Wanted, of_network, takes_layer
from ._fuse import Fusion, matching
from .targets import logits_of
from .transforms import augment, eigen_smooth, fuse, smooth

ALL = "*"
"""Stands for every attention of a network."""


class Layer(NamedTuple):
    """A layer to explain at.

    Attributes:
        name: dotted; for methods on attention also `ALL`.
        channels: C.
        layout: what makes its output a map; None where it is one already.
        reason: why it was taken.
    """

    name: str
    channels: int
    layout: Layout | None
    reason: str


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


def choose_layer(
    model: nn.Module, inputs: Tensor, name: str | None, method: Callable[..., Tensor] = methods.grad_cam
) -> Layer:
    """Take the layer that was named, or the first that is suggested, with its layout; or attention, named or all.

    Raises:
        UsageError: the named layer never runs, or gives no map of the image.
        CaptureError: no layer gives a map.
    """
    if on_attention(method):
        records = attention.observe_attention(model, name)(inputs[:1]).records
        many = f"{len(records)} attentions, from {records[0].name} to {records[-1].name}"
        return Layer(name or ALL, 0, None, many if len(records) > 1 else f"the attention in {records[0].name}")
    if name is None:
        best = layers.suggest(model, inputs)[0]
        return Layer(best.name, best.channels, best.layout, best.reason)
    instead = "name another (see: camfn layers MODEL), or take --layer auto"
    try:
        reading = layout.find(model, name, inputs[:1])
    except CaptureError as error:
        raise UsageError(f"{error}; {instead}") from error
    if max(reading.spatial) == 1:
        raise UsageError(f"layer {name!r} gives one position only, after the pooling: {instead}")
    return Layer(name, reading.channels, reading.layout, f"as asked for ({reading.reason})")


def on_attention(method: Callable[..., Tensor]) -> bool:
    """Whether a method takes records of attention, not a layer's activations."""
    return getattr(method, "func", method) in attention.METHODS.values()


def choose_layers(model: nn.Module, inputs: Tensor, names: tuple[str, ...]) -> Layer:
    """Take several layers; the last stands for all.

    Raises:
        UsageError: one gives no map.
    """
    taken = [choose_layer(model, inputs, name) for name in matching(model, names)]
    return taken[-1]._replace(name=", ".join(item.name for item in taken), reason="as asked for, their maps fused")


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
        if method is methods.cam and layer is not None:
            check_cam(model, layer, cam, target, logits)
        for i, problem in enumerate(diagnose(seen_by(captured, cam), cam)):
            cams[i].append(cam[i].float().cpu())
            problems[i].append(problem if logits[i].isfinite().all() else "the model's scores are not finite.")
    rows = zip(logits.cpu(), classes.tolist(), cams, problems, strict=True)
    return [Explained(*row) for row in rows]


def composed(
    method: Callable[..., Tensor],
    model: nn.Module,
    layer: Layer | None,
    target: Tensor,
    changes: Changes,
    chunk_size: int | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[Callable[..., Tensor], list[Captured]]:
    """Compose a method with its transformations, and keep what it is given when it runs."""
    captured: list[Captured] = []
    if layer is None or of_network(method):
        explain = _of_network(method, model, layer)
    elif on_attention(method):
        explain = attention.attention_explainer(method, model, None if layer.name == ALL else layer.name)
    else:
        context: dict[str, Any] = {"layout": layer.layout, "chunk_size": chunk_size, "progress": progress}
        bound = partial(methods.cam, weights=_rows(model, layer, target)) if method is methods.cam else method
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


def _of_network(method: Callable[..., Any], model: nn.Module, layer: Layer | None) -> Callable[..., Tensor]:
    """Give a method of a whole network its model, and its layer if it is taken at one."""
    at = {"layer": layer.name, "layout": layer.layout} if layer and takes_layer(method) else {}
    explain: Callable[..., Tensor] = method(model, **at)
    return explain


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


def _head(model: nn.Module, layer: Layer) -> nn.Linear:
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UsageError(_no_cam(layer, "there is no linear layer"))
    return linear[-1]


def _rows(model: nn.Module, layer: Layer, target: Tensor) -> Tensor:
    head = _head(model, layer)
    if int(target.max()) >= head.out_features or head.in_features != layer.channels:
        raise UsageError(_no_cam(layer, f"the last linear layer is {head.in_features} to {head.out_features}"))
    return head.weight.detach()[target]


def check_cam(model: nn.Module, layer: Layer, cam: Tensor, target: Tensor, logits: Tensor) -> None:
    """Hold the map to the law of the original CAM: its mean and the bias make the logit."""
    bias = _head(model, layer).bias
    given = logits.gather(1, target[:, None])[:, 0]
    mean = cam.float().flatten(1).mean(1) + (0 if bias is None else bias.detach()[target])
    far = (mean - given).abs() > 1e-3 * logits.abs().amax(1)
    if far.any():
        i = int(far.nonzero()[0])
        raise UsageError(_no_cam(layer, f"the map's mean and the bias make {mean[i]:.4g}, the logit is {given[i]:.4g}"))


def _no_cam(layer: Layer, why: str) -> str:
    return (
        f"cam needs global pooling followed by one linear layer right after the chosen layer, {layer.name!r}; here "
        f"{why}. grad_cam works everywhere: --method grad_cam"
    )
