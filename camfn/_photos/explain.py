"""Maps for one batch of photos: a method composed with a model, run for the classes that a user chose."""

# tested in tests/cli/test_cli.py and test_transforms.py

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from .. import Captured, attention, capture_each, diagnose, explainer
from .._shared.errors import UsageError
from ..catalogue import info_of
from ..targets import logits_of
from ..transforms import augment, eigen_smooth, fuse, smooth
from ..transforms._fuse import Fusion
from .classes import ClassChoice
from .head import check_cam, head_rows
from .layer import ALL, Layer


class Changes(NamedTuple):
    """Transformations of a method, in the order in which they are applied.

    Attributes:
        eigen_smooth: replace the method's sum over channels by the first component.
        layers: names or patterns of the layers whose maps are fused; empty for one layer.
        how: the rule of the fusion.
        augment: average the map over flips and brightness.
        smooth: number of noisy copies to average over; 0 for none.
        seed: seed of the noise.
    """

    eigen_smooth: bool = False
    layers: tuple[str, ...] = ()
    how: Fusion = "mean"
    augment: bool = False
    smooth: int = 0
    seed: int = 0


_NONE = Changes()
_AT_ONCE = 16
"""Number of classes whose gradients at the layer are in memory at the same time."""


class Explained(NamedTuple):
    """The explanations of one photo.

    Attributes:
        logits: (K,).
        classes: the explained classes.
        cams: one raw map, (h, w), or one picture, (3, H, W), for each class.
        problems: for each class the reason why its map is useless, or None.
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
    choice: ClassChoice,
    *,
    changes: Changes = _NONE,
    chunk_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Explained]:
    """Explain each photo of a batch for its own classes.

    Args:
        method: a method of `camfn.catalogue`, or a partial of one; a method that needs "head" gets the rows of the
            model's last linear layer.
        model: a classifier, on the device of `inputs`.
        layer: the layer to explain at; None for a method that takes no layer.
        inputs: (B, 3, H, W).
        choice: the classes.
        changes: transformations of the method.
        chunk_size: number of perturbed forwards that run at once.
        progress: called with (done, total) after each chunk of perturbed forwards.
    """
    with torch.no_grad():
        logits = logits_of(model(inputs)).float()
    classes = _class_indices(logits, choice)
    cams: list[list[Tensor]] = [[] for _ in inputs]
    problems: list[list[str | None]] = [[] for _ in inputs]
    info = info_of(method)
    maps: Iterator[tuple[Tensor, Captured]]
    if (
        layer is not None
        and info.kind == "layer"
        and info.needs == {"gradients"}
        and changes == Changes(seed=changes.seed)
    ):
        maps = _maps_of_one_forward(method, model, layer, inputs, classes)
    else:
        maps = _maps_one_by_one(method, model, layer, inputs, classes, changes, chunk_size, progress)
    for target, (cam, captured) in zip(classes.T, maps, strict=True):
        if layer is not None and "head" in info.needs:
            check_cam(model, layer, cam, target, logits)
        for i, problem in enumerate(diagnose(captured, cam)):
            cams[i].append(cam[i].float().cpu())
            problems[i].append(problem if logits[i].isfinite().all() else "the model's scores are not finite.")
    rows = zip(logits.cpu(), classes.tolist(), cams, problems, strict=True)
    return [Explained(*row) for row in rows]


def _maps_one_by_one(
    method: Callable[..., Tensor],
    model: nn.Module,
    layer: Layer | None,
    inputs: Tensor,
    classes: Tensor,
    changes: Changes,
    chunk_size: int | None,
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[Tensor, Captured]]:
    """Yield the maps of each column of `classes`, (B, K), with the tensors that `diagnose` looks at."""
    for target in classes.T:
        explain, captured = compose(method, model, layer, target, changes, chunk_size, progress)
        cam = explain(inputs, target)
        yield cam, captured_or_map(captured, cam)


def _maps_of_one_forward(
    method: Callable[..., Tensor], model: nn.Module, layer: Layer, inputs: Tensor, classes: Tensor
) -> Iterator[tuple[Tensor, Captured]]:
    """Yield what `_maps_one_by_one` yields for a gradient method, with one forward for up to `_AT_ONCE` classes."""
    capture = capture_each(model, layer.name, layout=layer.layout)
    columns = list(classes.T)
    for start in range(0, len(columns), _AT_ONCE):
        activations, grads, outputs = capture(inputs, columns[start : start + _AT_ONCE])
        for gradient in grads:
            with torch.no_grad():
                yield method(activations, gradient, outputs), Captured(activations, gradient, outputs)


def compose(
    method: Callable[..., Any],
    model: nn.Module,
    layer: Layer | None,
    target: Tensor,
    changes: Changes,
    chunk_size: int | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[Callable[..., Tensor], list[Captured]]:
    """Compose a method with a model and its transformations.

    Returns:
        A function of inputs and target that returns the map, and a list to which each run of a method on a layer
        appends its activations, gradients and outputs.
    """
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
        bound = partial(method, weights=head_rows(model, layer, target)) if "head" in info.needs else method
        recording = _record_arguments(eigen_smooth(bound) if changes.eigen_smooth else bound, captured)
        if changes.layers:
            # each of the layers has its own layout
            explain = fuse(recording, model, changes.layers, how=changes.how, **context | {"layout": "auto"})
        else:
            explain = explainer(recording, model, layer.name, **context)
    # One copy of the batch at a time: --batch-size bounds the memory, and several copies at once would multiply it.
    if changes.augment:
        explain = augment(explain, chunk_size=1)
    if changes.smooth:
        generator = torch.Generator().manual_seed(changes.seed)
        explain = smooth(explain, changes.smooth, generator=generator, chunk_size=1)
    return explain, captured


def captured_or_map(captured: list[Captured], cam: Tensor) -> Captured:
    """Return the last captured tensors; of a method that captures none, the map in the place of the activations."""
    return captured[-1] if captured else Captured(cam[:, None], cast("Tensor", None), None)


def _class_indices(logits: Tensor, choice: ClassChoice) -> Tensor:
    """Return the classes to explain for each photo, (B, K)."""
    batch, count = logits.shape
    if choice.best > count or (choice.chosen or 0) >= count:
        raise UsageError(f"the model has {count} classes, 0 to {count - 1}, fewer than the target asks for")
    if choice.chosen is None:
        return logits.topk(choice.best).indices
    return torch.full((batch, 1), choice.chosen, device=logits.device)


def _record_arguments(method: Callable[..., Tensor], captured: list[Captured]) -> Callable[..., Tensor]:
    """Append the arguments of each call to `captured`, so that `diagnose` needs no second forward."""

    @wraps(method)  # `explainer` reads the signature
    def recording(activations: Tensor, grads: Any = None, outputs: Any = None, **context: Any) -> Tensor:
        captured.append(Captured(activations, grads, outputs))
        return method(activations, grads, outputs, **context)

    return recording
