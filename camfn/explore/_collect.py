"""Maps of a batch for a page, of a model and tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._shared.checks import describe
from .._shared.errors import CamfnError
from .._shared.maps import min_max
from .._shared.vocabulary import ScoreFn, Target
from ..catalogue import METHODS, find, info_of
from ..targets import as_score, logits_of
from ._compute import check_methods, compute
from ._explored import Explored
from ._grid import ShownMethod, ShownPhoto, ShownTarget, refuse_many
from ._layers import Layers, count_of, pick_layers

Targets = Sequence[int | ScoreFn | None] | Mapping[str, Target]


def collect(
    model: nn.Module,
    inputs: Tensor,
    targets: Targets = (None,),
    *,
    methods: str | Sequence[str | Callable[..., Tensor]] = "cheap",
    layers: Layers = "auto:3",
    pictures: Tensor | Sequence[Tensor] | None = None,
    classes: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> Explored:
    """Explain inputs for several targets by several methods at several layers, for a page or a notebook.

    Methods that do not perturb, such as those of "cheap", share one forward of each input, and one backward for each
    target.

    Args:
        model: the network, in evaluation mode.
        inputs: (B, C, H, W), or volumes (B, C, D, H, W).
        targets: class indices, functions of the outputs, or None for each input's top class; or a dict from labels to
            targets.
        methods: "cheap" for all methods on a layer that do not perturb; or a list of names of the catalogue and of
            functions.
        layers: dotted names, or "auto:K" for K layers of different depth that `camfn.layers.suggest` ranks.
        pictures: what the maps are drawn over, in [0, 1]: (B, 3, H, W), of volumes (B, D, H, W), or a list of one each;
            None for the inputs themselves, each stretched to its own range.
        classes: names of the classes by index.
        names: of the inputs, for the page.

    Returns:
        The maps: `page` writes them, `widget` shows them, and a notebook shows them as they are.

    Raises:
        CamfnError: there are more maps than a page holds, or a layer, method or target does not fit the model.

    Example:
        >>> import camfn.explore
        >>> from camfn import tiny
        >>> scenes = tiny.scenes(2, generator=torch.Generator().manual_seed(0))
        >>> methods = ["grad_cam", "eigen_cam"]
        >>> camfn.explore.collect(tiny.load("cnn"), scenes.images, [3, 7], methods=methods, layers="body")
        Explored(2 photos, 4 targets, 2 methods, 1 layers)
    """
    if not isinstance(inputs, Tensor) or inputs.ndim not in (4, 5) or not len(inputs):
        raise CamfnError(f"collect: expected inputs (B, C, H, W) or (B, C, D, H, W), got {describe(inputs)}")
    chosen, given = _methods(methods), _labelled(targets, classes)
    check_methods(chosen)
    refuse_many(len(inputs) * len(given), len(chosen), count_of(layers))
    views = _pictures(inputs, pictures)
    titles = [f"input {place + 1}" for place in range(len(inputs))] if names is None else list(names)
    if len(titles) != len(inputs):
        raise CamfnError(f"collect: expected a name for each of {len(inputs)} inputs, got {len(titles)}")
    first = next(iter(given.values()))
    shown, start = pick_layers(model, inputs[:1], layers, first)
    lenient = set(chosen) if methods == "cheap" else set()
    photos = []
    for place, (view, title) in enumerate(zip(views, titles)):
        told: list[ShownTarget] = []
        maps = compute(
            model,
            inputs[place : place + 1],
            _chooser(given, classes, told),
            chosen,
            [(layer.id,) for layer in shown],
            lenient=lenient,
        )
        cells = tuple(tuple(tuple(row) for row in rows) for rows in maps)
        photos.append(ShownPhoto(title, view, tuple(told), cells, inputs.ndim == 5))
    return Explored(tuple(photos), shown_methods(chosen), shown, start)


def shown_methods(methods: Mapping[str, Callable[..., Tensor]]) -> tuple[ShownMethod, ...]:
    """Describe methods for a page by the first line of their documentation."""
    return tuple(
        ShownMethod(name, _first_line(method), info_of(method).explains_class) for name, method in methods.items()
    )


def _first_line(method: Any) -> str:
    return (inspect.getdoc(getattr(method, "func", method)) or "").partition("\n")[0]


def _methods(words: str | Sequence[str | Callable[..., Tensor]]) -> dict[str, Callable[..., Tensor]]:
    """Find methods; one that draws random numbers gets a generator of its own, of seed 0."""
    if isinstance(words, str) and words == "cheap":
        words = [row.name for row in METHODS if row.kind == "layer" and not row.perturbs]
    listed = [words] if isinstance(words, str) else list(words)
    if not listed:
        raise CamfnError('collect: expected at least one method, as methods=["grad_cam"], or "cheap"')
    found: dict[str, Callable[..., Tensor]] = {}
    for each in listed:
        function = find(each).function if isinstance(each, str) else each
        if not callable(function):
            raise CamfnError(f"collect: expected names of methods or functions, got {each!r}")
        name = each if isinstance(each, str) else getattr(each, "__name__", repr(each))
        found[name] = _seeded(function)
    return found


def _seeded(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    from functools import partial

    bound = "generator" in getattr(function, "keywords", {})
    if bound or not info_of(function).draws:
        return function
    return partial(function, generator=torch.Generator().manual_seed(0))


def _labelled(targets: Targets, classes: Sequence[str] | None) -> dict[str, Target]:
    """Give each target a label; the label of None, the top class, is empty until the outputs are known."""
    if isinstance(targets, Mapping):
        given = dict(targets)
    elif isinstance(targets, (list, tuple, range)):
        given = {_label(target, classes): target for target in targets}
    else:
        raise CamfnError(f"collect: expected a list or a dict of targets, got {describe(targets)}")
    if not given:
        raise CamfnError("collect: expected at least one target")
    return given


def _label(target: Target, classes: Sequence[str] | None) -> str:
    if target is None:
        return ""
    if isinstance(target, int):
        return classes[target] if classes and 0 <= target < len(classes) else f"class {target}"
    return str(getattr(target, "__name__", None) or target)


def _chooser(
    given: Mapping[str, Target], classes: Sequence[str] | None, told: list[ShownTarget]
) -> Callable[[Any], list[ScoreFn]]:
    """Return what makes the targets of the outputs, and describes each in `told`."""

    def choose(outputs: Any) -> list[ScoreFn]:
        scores = [as_score(target) for target in given.values()]
        told.clear()
        for label, target, score in zip(given, given.values(), scores):
            with torch.no_grad():
                value = float(score(outputs).flatten()[0])
                top = int(logits_of(outputs)[0].argmax()) if target is None else 0
            words = label or f"top: {_label(top, classes)}"
            told.append(ShownTarget(label or "top", words, f"{value:.3g}"))
        return scores

    return choose


def _pictures(inputs: Tensor, pictures: Tensor | Sequence[Tensor] | None) -> list[Tensor]:
    """Return what each map is drawn over, in [0, 1]."""
    if pictures is None:
        return [picture_of(one) for one in inputs]
    views = [view.detach().float().cpu() for view in pictures]
    if len(views) != len(inputs):
        raise CamfnError(f"collect: expected a picture for each of {len(inputs)} inputs, got {len(views)}")
    for view in views:
        if not view.numel() or not 0 <= float(view.min()) <= float(view.max()) <= 1:
            raise CamfnError("collect: expected pictures with values in [0, 1], as the photo before mean and deviation")
    return views


def picture_of(one: Tensor) -> Tensor:
    """Return what a network sees of one input, stretched to [0, 1]: color or gray, and gray slices of a volume."""
    view = one.detach().float().cpu()
    if view.ndim == 4 or len(view) not in (1, 3):
        view = view.mean(0, keepdim=view.ndim == 3)
    return min_max(view, tuple(range(view.ndim)))
