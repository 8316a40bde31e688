"""Maps for one batch of photos: a method composed with a model, run for the classes that a user chose."""

# tested in tests/cli/test_cli.py and test_transforms.py

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from inspect import signature
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from .. import Captured, attention, diagnose, explainer, observe
from .._cut.explainer import explain_each
from .._cut.head import find_head, head_rows
from .._cut.signature import read_signature
from .._shared.checks import describe
from .._shared.errors import UsageError
from .._shared.vocabulary import ScoreFn, without_grads
from ..catalogue import info_of
from ..transforms import augment, eigen_smooth, fuse, smooth
from ..transforms._fuse import Fusion
from .classes import ClassChoice, Picked, columns_of, no_class
from .halves import in_halves
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
"""Number of targets whose gradients at the layer are in memory at the same time."""


class Explained(NamedTuple):
    """The explanations of one photo.

    Attributes:
        logits: (K,); empty for a model without classes.
        classes: the explained classes; None for a target of no class or of several, and for a method that explains
            none.
        cams: one raw map, (h, w), or one picture, (3, H, W), for each target.
        problems: for each target the reason why its map is useless, or None.
        scores: the value of each target; None for a method that explains none.
    """

    logits: Tensor
    classes: list[int | None]
    cams: list[Tensor]
    problems: list[str | None]
    scores: list[float | None]


_Composed: TypeAlias = "Callable[[], tuple[Callable[..., Tensor], list[Captured]]]"
"""Makes an explainer, and the list that fills with what it captures."""


class _Map(NamedTuple):
    """The maps of a batch for one target, and what `diagnose` and the record read."""

    cam: Tensor
    captured: Captured
    outputs: Any
    picked: Picked | None


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
    """Explain each photo of a batch for its own targets; a batch that memory does not hold runs as halves.

    A method that reads activations and gradients costs one forward for up to 16 targets, and a backward of the tail for
    each; one that asks for the tail costs one more, and runs the tail anew for each target; `cam` and methods that
    explain no class cost one forward.

    Args:
        method: a method of `camfn.catalogue`, a function of one's own, or a partial of either.
        model: the network, on the device of `inputs`.
        layer: the layer to explain at; None for a method that takes no layer.
        inputs: (B, 3, H, W).
        choice: the targets; a method that explains no class makes one map and leaves them aside.
        changes: transformations of the method.
        chunk_size: number of perturbed forwards that run at once.
        progress: called with (done, total) after each chunk of perturbed forwards.
    """

    composed = partial(compose, method, model, layer, changes, chunk_size, progress)
    limits = {"chunk_size": chunk_size, "progress": progress}
    is_plain = changes == Changes(seed=changes.seed)

    def run(part: Tensor) -> list[Explained]:
        return _by_photo(list(_maps(method, model, layer, part, choice, composed, is_plain, limits)), len(part))

    return in_halves(run, inputs)


def _maps(
    method: Callable[..., Tensor],
    model: nn.Module,
    layer: Layer | None,
    inputs: Tensor,
    choice: ClassChoice,
    composed: _Composed,
    is_plain: bool,
    limits: dict[str, Any],
) -> Iterator[_Map]:
    """Yield the maps of each target, in the way that runs the network least; `is_plain` without transformations."""
    info = info_of(method)
    plain = is_plain and info.kind == "layer"
    if layer is not None and plain and info.needs & {"gradients", "tail", "forward"}:
        yield from _from_one_forward(
            explainer(method, model, layer.name, layout=layer.layout, **limits), inputs, choice
        )
    elif layer is not None and plain and info.needs == {"head"} and "weights" in read_signature(method).context:
        yield from _from_rows(method, model, layer, inputs, choice)
    else:
        yield from _one_by_one(method, model, layer, inputs, choice, composed)


def _from_one_forward(explain: explainer, inputs: Tensor, choice: ClassChoice) -> Iterator[_Map]:
    """Explain with a method on a layer: the forwards that no target changes run once for up to `_AT_ONCE` targets."""
    for start in range(0, choice.best, _AT_ONCE):
        picked: list[Picked] = []

        def choose(outputs: Any, start: int = start, picked: list[Picked] = picked) -> list[ScoreFn]:
            picked[:] = choice.pick(outputs)[start : start + _AT_ONCE]
            return [each.score for each in picked]

        found, outputs = explain_each(explain, inputs, choose)
        for each, (cam, arguments) in zip(picked, found, strict=True):
            check_map(cam, len(inputs), arguments[0].ndim - 1)
            yield _Map(cam, Captured(*arguments, *(None,) * (3 - len(arguments))), outputs, each)


def _from_rows(
    method: Callable[..., Tensor], model: nn.Module, layer: Layer, inputs: Tensor, choice: ClassChoice
) -> Iterator[_Map]:
    """Explain with a method of activations and rows of the head: one forward."""
    with torch.no_grad():
        activations, outputs = observe(model, layer.name, layout=layer.layout)(inputs)
        head = find_head(model, layer.name, activations, outputs, method)
        for each in choice.pick(outputs):
            cam = method(activations, weights=head_rows(head, each.score, outputs))
            check_map(cam, len(inputs), activations.ndim - 1)
            yield _Map(cam, without_grads(activations, outputs), outputs, each)


def _one_by_one(
    method: Callable[..., Tensor],
    model: nn.Module,
    layer: Layer | None,
    inputs: Tensor,
    choice: ClassChoice,
    composed: _Composed,
) -> Iterator[_Map]:
    """Explain each target by itself; a method that explains no class runs once."""
    explains_class = info_of(method).explains_class
    outputs: Any = None
    targets: Sequence[Picked | None] = [None]
    if explains_class or layer is None or info_of(method).kind != "layer":
        with torch.no_grad():
            outputs = model(inputs)
        targets = choice.pick(outputs) if explains_class else targets
    for picked in targets:
        explain, captured = composed()
        cam = explain(inputs, picked.score if picked else no_class)
        info = info_of(method)
        over_inputs = inputs.ndim - 1 if info.kind == "network" and info.gives == "map" else None
        check_map(cam, len(inputs), captured[-1].activations.ndim - 1 if captured else over_inputs)
        yield _Map(cam, captured_or_map(captured, cam), captured[-1].outputs if outputs is None else outputs, picked)


def _by_photo(maps: Sequence[_Map], batch: int) -> list[Explained]:
    """Turn the maps of each target into the explanations of each photo."""
    logits = _logits_or_none(maps[0].outputs, batch)
    photos = [Explained(row, [], [], [], []) for row in logits]
    for each in maps:
        given = None if each.picked is None else each.picked.score(each.outputs).detach().float().cpu()
        classes = None if each.picked is None or each.picked.classes is None else each.picked.classes.tolist()
        for i, (photo, problem) in enumerate(zip(photos, diagnose(each.captured, each.cam), strict=True)):
            photo.cams.append(each.cam[i].detach().float().cpu())
            photo.classes.append(classes[i] if classes else None)
            photo.scores.append(None if given is None else float(given[i]))
            finite = bool(photo.logits.isfinite().all())
            photo.problems.append(problem if finite else "the model's scores are not finite.")
    return photos


def _logits_or_none(outputs: Any, batch: int) -> Tensor:
    """Return the logits, (B, K), or (B, 0) of a model that has none."""
    try:
        return columns_of(outputs).detach().float().cpu()
    except UsageError:
        return torch.empty(batch, 0)


def check_map(cam: Any, batch: int, dimensions: int | None) -> None:
    """Refuse what a function of one's own returns in the place of a map."""
    fits = isinstance(cam, Tensor) and cam.ndim > 1 and len(cam) == batch and cam.is_floating_point()
    if not fits or dimensions not in (None, cam.ndim):
        raise UsageError(
            f"the method returned {describe(cam)}: expected the raw map of each photo, floats of shape ({batch}, h, w)"
        )


def _explainer_of(method: Callable[..., Any], model: nn.Module, at: dict[str, Any]) -> Callable[..., Tensor]:
    """Call a method of a whole network, and refuse what is no explainer."""
    try:
        signature(method).bind(model, **at)
    except TypeError as error:
        raise UsageError(
            f"the method takes {signature(method)}, and camfn gives it {', '.join(['model', *at])} alone: expected a "
            f"function that returns an explainer, a function (inputs, target) -> map; {error}"
        ) from error
    except ValueError:
        pass  # the signature of some callables cannot be read
    explain: Callable[..., Tensor] = method(model, **at)
    try:
        fits = callable(explain) and bool(signature(explain).bind(None, None))
    except TypeError:
        fits = False
    except ValueError:
        fits = True  # the signature of some callables cannot be read
    if not fits:
        got = f"a function {signature(explain)}" if callable(explain) else describe(explain)
        raise UsageError(
            f"the method returned {got} for the model: expected an explainer, a function (inputs, target) -> map, "
            "floats of shape (B, h, w)"
        )
    return explain


def compose(
    method: Callable[..., Any],
    model: nn.Module,
    layer: Layer | None,
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
        explain = _explainer_of(method, model, at)
    elif info.kind == "attention":
        explain = attention.attention_explainer(method, model, None if layer.name == ALL else layer.name)
    else:
        context: dict[str, Any] = {"layout": layer.layout, "chunk_size": chunk_size, "progress": progress}
        recording = _record_arguments(eigen_smooth(method) if changes.eigen_smooth else method, captured)
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


def plain(method: Callable[..., Any], model: nn.Module, layer: Layer) -> Callable[..., Any]:
    """Compose a method on a layer or on attentions with a model, as the library does, without transformations."""
    if info_of(method).kind == "attention":
        return attention.attention_explainer(method, model, None if layer.name == ALL else layer.name)
    return explainer(method, model, layer.name, layout=layer.layout)


def captured_or_map(captured: list[Captured], cam: Tensor) -> Captured:
    """Return the last captured tensors; of a method that captures none, the map in the place of the activations."""
    return captured[-1] if captured else without_grads(cam[:, None], None)


def _record_arguments(method: Callable[..., Tensor], captured: list[Captured]) -> Callable[..., Tensor]:
    """Append the arguments of each call to `captured`, so that `diagnose` needs no second forward."""

    @wraps(method)  # `explainer` reads the signature
    def recording(*given: Any, **context: Any) -> Tensor:
        captured.append(Captured(*given, *(None,) * (3 - len(given))))
        return method(*given, **context)

    return recording
