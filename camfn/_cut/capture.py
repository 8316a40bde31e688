"""Observe and capture: what a layer returned, and how the score depends on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import vjp
from torch.utils import _pytree as pytree

from .._layout.readings import layout_for
from .._shared.checks import batch_sizes, inside_transform, one_score_a_sample
from .._shared.errors import CaptureError
from .._shared.inputs import call as run_on
from .._shared.inputs import copy_of, replace_tensor
from .._shared.vocabulary import AnyLayout, Call, Captured, Inputs, ScoreFn, Select, Target
from ..targets import as_score
from .graft import Graft, bare, graft
from .layer_checks import chosen_calls, chosen_tensor, connected, floating, layer_name


def observe(
    model: nn.Module,
    layer: str | nn.Module,
    *,
    select: Select | None = None,
    layout: AnyLayout = None,
    call: Call | None = None,
    differentiable: bool = False,
) -> Callable[[Inputs], tuple[Tensor, Any]]:
    """Run a model and keep what one layer returned: forward only.

    Args:
        model: any module; left exactly as it is.
        layer: a dotted name as in `model.named_modules()`, or the module itself.
        select: which tensor, where the layer returns a tuple or a dict: an index, a key or a function.
        layout: turns the layer's own shape into (B, C, *spatial); "auto" finds it, as `layout.find`.
        call: which of several runs of the layer in one forward, 0 the first and -1 the last; or "all", one after the
            other along the channels, so that maps which sum over channels become the sum of the runs' maps.
        differentiable: keep the graph that leads from the inputs and parameters to the activations.

    Returns:
        A function of the inputs (a tensor, a tuple of arguments or a dict of keywords) that returns the activations and
        the model's outputs.

    Raises:
        CaptureError: no such layer, it ran never or several times, or its output is not one tensor.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> activations, outputs = observe(net, "0")(torch.ones(2, 3, 8, 8))
        >>> activations.shape, outputs.shape
        (torch.Size([2, 4, 6, 6]), torch.Size([2, 5]))
    """
    plant = _planter(model, [layer])
    ahead = plant()
    model = bare(model)

    def run(inputs: Inputs) -> tuple[Tensor, Any]:
        cut = ahead if torch.compiler.is_compiling() else plant()
        keep = differentiable and torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            outputs, activations = _forward(cut, inputs, select, call)
        ((name, found),) = activations.items()
        return _maps(model, name, found, found, inputs, layout), outputs

    return run


def capture(
    model: nn.Module,
    layer: str | nn.Module,
    *,
    select: Select | None = None,
    layout: AnyLayout = None,
    call: Call | None = None,
    differentiable: bool = False,
) -> Callable[..., Captured]:
    """Run a model and keep a layer's activations and the gradient of the score with respect to them.

    The model is never touched: no hook, mode, `.grad`, `requires_grad` or buffer changes. Frozen parameters and an
    outer `no_grad` or `inference_mode` are no obstacle, and what follows the layer may overwrite its output in place.
    Only the network after the layer is differentiated. `vmap` over targets runs the forward once.

    Args:
        model: any module; one in training mode is run as it is, on copies of its buffers.
        layer: a dotted name as in `model.named_modules()`, or the module itself.
        select: which tensor, where the layer returns a tuple or a dict: an index, a key or a function.
        layout: turns the layer's own shape into (B, C, *spatial), for activations and gradients alike; "auto" finds
            it, as `layout.find`.
        call: as for `observe`.
        differentiable: keep the outer graph, so that a map may be part of a loss (needed too inside `torch.func.grad`).
            Fused attention kernels have no second derivative: run under `sdpa_kernel(SDPBackend.MATH)` then.

    Returns:
        A function of the inputs and a target that returns `Captured(activations, grads, outputs)`. The target is None
        (each sample's top class), a class, a class a sample, or a function of the outputs that gives (B,).

    Raises:
        CaptureError: no such layer, it ran never or several times, or its output is not one tensor.
        CamfnError: the target does not give one number a sample.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> activations, grads, outputs = capture(net, "0")(torch.ones(2, 3, 8, 8), 4)
        >>> grads.shape == activations.shape
        True
    """
    run_many = capture_many(model, [layer], select=select, layout=layout, call=call, differentiable=differentiable)

    def run(inputs: Inputs, target: Target = None) -> Captured:
        (captured,) = run_many(inputs, target).values()
        return captured

    return run


def capture_many(
    model: nn.Module,
    layers: Sequence[str | nn.Module],
    *,
    select: Select | None = None,
    layout: AnyLayout = None,
    call: Call | None = None,
    differentiable: bool = False,
) -> Callable[..., dict[str, Captured]]:
    """Capture several layers with one forward and one backward.

    Args:
        model: any module; see `capture`.
        layers: dotted names or modules; one may lie inside another.
        select: as for `capture`, for every layer.
        layout: as for `capture`, for every layer; "auto" finds each its own.
        call: as for `capture`, for every layer.
        differentiable: as for `capture`.

    Returns:
        A function of the inputs and a target that returns a dict from each layer's name to its `Captured`.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> list(capture_many(net, ["0", "1"])(torch.ones(2, 3, 8, 8), 4))
        ['0', '1']
    """
    plant = _planter(model, layers)
    ahead = plant()
    model = bare(model)

    def run(inputs: Inputs, target: Target = None) -> dict[str, Captured]:
        score = as_score(target)
        keep = differentiable and torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            if torch.compiler.is_compiling():
                activations, grads, outputs = _pull_back(ahead, inputs, score, select, call)
            else:
                activations, grads, outputs = _differentiate(plant(), inputs, score, select, call, keep)
        return {
            name: Captured(
                _maps(model, name, raw, raw, inputs, layout),
                _maps(model, name, grads[name], raw, inputs, layout),
                outputs,
            )
            for name, raw in activations.items()
        }

    return run


def _maps(
    model: nn.Module, name: str, values: list[Tensor], raw: list[Tensor], inputs: Inputs, layout: AnyLayout
) -> Tensor:
    """Lay out what the chosen calls gave, and join them along the channels."""
    maps = []
    for value, like in zip(values, raw):
        found = layout_for(layout, model, name, like, inputs)
        maps.append(found.to_map(value) if found else value)
    if len({(*one.shape[:1], *one.shape[2:]) for one in maps}) > 1:
        shapes = ", ".join(str(tuple(one.shape)) for one in maps)
        raise CaptureError(f"layer {name!r}: its calls give {shapes}, which do not join: take one, as in call=0")
    return maps[0] if len(maps) == 1 else torch.cat(maps, 1)


class _Slot:
    """Where a cut's layers find what to do with their outputs, set for the time of one run."""

    tap: Callable[[str, Any], Any]


@dataclass(frozen=True)
class _Cut:
    """A graft whose layers hand their outputs to the slot's tap."""

    graft: Graft
    names: tuple[str, ...]
    slot: _Slot


def _planter(model: nn.Module, layers: Sequence[str | nn.Module]) -> Callable[[], _Cut]:
    """Check the layers now; return what makes a fresh cut, so that calls share no state and see the model as it is."""
    names = tuple(layer_name(model, layer) for layer in layers)
    model = bare(model)
    if not names:
        raise CaptureError("expected at least one layer, got an empty list")

    def plant() -> _Cut:
        modules = {name: model.get_submodule(name) for name in names}
        wanted = {id(module) for module in modules.values()}
        cut = _Cut(graft(model, lambda module: id(module) in wanted), names, _Slot())
        for name, module in modules.items():
            cut.graft.owned[id(module)].register_forward_hook(_hand_over(name, cut.slot))
        return cut

    return plant


def _hand_over(name: str, slot: _Slot) -> Callable[[nn.Module, Any, Any], Any]:
    return lambda module, args, output: slot.tap(name, output)


_Point: TypeAlias = tuple[str, int]
"""A layer and which of its runs."""


def _forward(
    cut: _Cut,
    inputs: Inputs,
    select: Select | None,
    wanted: Call | None,
    delta: Callable[[_Point, Tensor], Tensor] | None = None,
) -> tuple[Any, dict[str, list[Tensor]]]:
    """Run the graft; keep a copy of each layer's output, and hand the network the output plus its delta."""
    activations: dict[str, list[Tensor]] = {name: [] for name in cut.names}

    def tap(name: str, output: Any) -> Any:
        picked = floating(name, chosen_tensor(name, output, select))
        activations[name].append(picked.clone())
        point = name, len(activations[name]) - 1
        return output if delta is None else replace_tensor(output, picked, picked + delta(point, picked))

    cut.slot.tap = tap
    outputs = run_on(cut.graft, copy_of(inputs))
    del cut.slot.tap
    return outputs, {
        name: [found[i] for i in chosen_calls(name, len(found), wanted, cut.graft.root)]
        for name, found in activations.items()
    }


def _points(cut: _Cut, deltas: Mapping[_Point, Tensor], wanted: Call | None) -> list[_Point]:
    ran = Counter(name for name, _ in deltas)
    return [(name, i) for name in cut.names for i in chosen_calls(name, ran[name], wanted, cut.graft.root)]


def _by_layer(cut: _Cut, points: list[_Point], values: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    return {name: [value for point, value in zip(points, values) if point[0] == name] for name in cut.names}


def _differentiate(
    cut: _Cut, inputs: Inputs, score: ScoreFn, select: Select | None, wanted: Call | None, create_graph: bool
) -> tuple[Mapping[str, list[Tensor]], Mapping[str, list[Tensor]], Any]:
    """Differentiate the score in a zero added to each layer's output, at a level of differentiation of its own.

    `vjp` opens the level, in a scalar: the shapes of the deltas are known only once the layers have run.
    """
    structure: list[Any] = []
    points: list[_Point] = []

    def at_own_level(seed: Tensor) -> tuple[Tensor, tuple[dict[str, list[Tensor]], list[Tensor], list[Tensor]]]:
        deltas: dict[_Point, Tensor] = {}

        def delta(point: _Point, output: Tensor) -> Tensor:
            deltas[point] = seed.to(output).expand_as(output)
            return deltas[point]

        outputs, activations = _forward(cut, inputs, select, wanted, delta)
        scores = one_score_a_sample(score(outputs), batch_sizes(inputs, _flat(activations)))
        tensors, rebuild = tensors_of(outputs)
        structure.append(rebuild)
        points.extend(_points(cut, deltas, wanted))
        grads = gradients(scores, [deltas[p] for p in points], of=cut.graft.root, create_graph=create_graph)
        return seed, (activations, grads, tensors)

    kept: Any
    try:
        kept = vjp(at_own_level, torch.zeros(()), has_aux=True)[-1]
    except RuntimeError as error:
        if "setup_context" not in str(error) or inside_transform():
            raise
        # custom operators (torchvision's roi_align) refuse any level of torch.func
        with torch.enable_grad():
            kept = at_own_level(torch.zeros((), requires_grad=True))[1]
        if not create_graph:
            kept = pytree.tree_map(lambda tensor: tensor.detach(), kept)
    activations, grads, tensors = kept
    return activations, _by_layer(cut, points, grads), structure[0](tensors)


def _flat(activations: Mapping[str, list[Tensor]]) -> list[Tensor]:
    return [value for values in activations.values() for value in values]


def gradients(
    scores: Tensor,
    deltas: Sequence[Tensor],
    *,
    of: nn.Module | None = None,
    create_graph: bool = False,
    retain_graph: bool = False,
) -> list[Tensor]:
    """Derivatives of the sum of the scores, zero where they do not depend on a delta; refused if `of` is quantized."""
    found: Sequence[Tensor | None] = [None] * len(deltas)
    if scores.requires_grad:
        options: dict[str, bool] = {"create_graph": create_graph, "retain_graph": create_graph or retain_graph}
        found = torch.autograd.grad(scores, deltas, torch.ones_like(scores), allow_unused=True, **options)
    if of is not None:
        connected(found, of)
    return [torch.zeros_like(delta) if grad is None else grad for grad, delta in zip(found, deltas)]


def _pull_back(
    cut: _Cut, inputs: Inputs, score: ScoreFn, select: Select | None, wanted: Call | None
) -> tuple[Mapping[str, list[Tensor]], Mapping[str, list[Tensor]], Any]:
    """Do the same by a pullback, which can be compiled; the first forward, needed for its shapes, is dropped there."""
    _, first = _forward(cut, inputs, select, "all" if wanted is not None else None)
    zeros = {
        name: [torch.zeros(a.shape, dtype=a.dtype, device=a.device) for a in calls] for name, calls in first.items()
    }
    structure: list[Any] = []

    def scores_of(deltas: Any) -> tuple[Tensor, tuple[dict[str, list[Tensor]], list[Tensor]]]:
        outputs, activations = _forward(cut, inputs, select, wanted, lambda point, output: deltas[point[0]][point[1]])
        tensors, rebuild = tensors_of(outputs)
        structure.append(rebuild)
        scores = one_score_a_sample(score(outputs), batch_sizes(inputs, _flat(activations)))
        return scores, (activations, tensors)

    found: Any = vjp(scores_of, zeros, has_aux=True)
    scores, pullback, (activations, tensors) = found
    (grads,) = pullback(torch.ones_like(scores))
    picked = {
        name: [all_calls[i] for i in chosen_calls(name, len(all_calls), wanted, cut.graft.root)]
        for name, all_calls in grads.items()
    }
    return activations, picked, structure[0](tensors)


def tensors_of(outputs: Any) -> tuple[list[Tensor], Callable[[list[Tensor]], Any]]:
    """Take the tensors out of a model's outputs, since only they may leave a `vjp`; and put them back.

    An object of a class that pytrees do not know is a leaf: its attributes are looked at, and it comes back as a copy.
    """
    leaves, spec = pytree.tree_flatten(outputs)
    places: list[tuple[int, str | None]] = []
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            places.append((i, None))
        else:
            held = getattr(leaf, "__dict__", {})
            places.extend((i, key) for key, value in held.items() if isinstance(value, Tensor))

    def rebuild(tensors: list[Tensor]) -> Any:
        holders = {i for i, key in places if key is not None}
        again = [copy(leaf) if i in holders else leaf for i, leaf in enumerate(leaves)]
        for (i, key), tensor in zip(places, tensors):
            if key is None:
                again[i] = tensor
            else:
                vars(again[i])[key] = tensor
        return pytree.tree_unflatten(again, spec)

    return [leaves[i] if key is None else vars(leaves[i])[key] for i, key in places], rebuild
