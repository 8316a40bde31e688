"""Observe and capture: what a layer returned, and how the score depends on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vjp
from torch.utils import _pytree as pytree

from ._check import CaptureError, batch_sizes, chosen_tensor, floating, layer_name, one_score_a_sample, ran_once
from ._graft import Graft, call, copied, graft, swapped
from ._types import Captured, Inputs, Layout, ScoreFn, Select, Target
from .targets import as_score


def observe(
    model: nn.Module,
    layer: str | nn.Module,
    *,
    select: Select | None = None,
    layout: Layout | None = None,
    differentiable: bool = False,
) -> Callable[[Inputs], tuple[Tensor, Any]]:
    """Run a model and keep what one layer returned: forward only.

    Args:
        model: any module; left exactly as it is.
        layer: a dotted name as in `model.named_modules()`, or the module itself.
        select: which tensor, where the layer returns a tuple or a dict: an index, a key or a function.
        layout: turns the layer's own shape into (B, C, *spatial).
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

    def run(inputs: Inputs) -> tuple[Tensor, Any]:
        cut = ahead if torch.compiler.is_compiling() else plant()
        keep = differentiable and torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            outputs, activations = _forward(cut, inputs, select)
        (found,) = activations.values()
        return layout.to_map(found) if layout else found, outputs

    return run


def capture(
    model: nn.Module,
    layer: str | nn.Module,
    *,
    select: Select | None = None,
    layout: Layout | None = None,
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
        layout: turns the layer's own shape into (B, C, *spatial), for activations and gradients alike.
        differentiable: keep the outer graph, so that a map may be part of a loss (needed too inside `torch.func.grad`).
            Fused attention kernels have no second derivative: run under `sdpa_kernel(SDPBackend.MATH)` then.

    Returns:
        A function of the inputs and a target that returns `Captured(activations, grads, outputs)`. The target is None
        (each sample's top class), a class, a class a sample, or a function of the outputs that gives (B,).

    Raises:
        CaptureError: no such layer, it ran never or several times, or its output is not one tensor.
        ValueError: the target does not give one number a sample.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> activations, grads, outputs = capture(net, "0")(torch.ones(2, 3, 8, 8), 4)
        >>> grads.shape == activations.shape
        True
    """
    run_many = capture_many(model, [layer], select=select, layout=layout, differentiable=differentiable)

    def run(inputs: Inputs, target: Target = None) -> Captured:
        (captured,) = run_many(inputs, target).values()
        return captured

    return run


def capture_many(
    model: nn.Module,
    layers: Sequence[str | nn.Module],
    *,
    select: Select | None = None,
    layout: Layout | None = None,
    differentiable: bool = False,
) -> Callable[..., dict[str, Captured]]:
    """Capture several layers with one forward and one backward.

    Args:
        model: any module; see `capture`.
        layers: dotted names or modules; one may lie inside another.
        select: as for `capture`, for every layer.
        layout: as for `capture`, for every layer.
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

    def run(inputs: Inputs, target: Target = None) -> dict[str, Captured]:
        score = as_score(target)
        keep = differentiable and torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            if torch.compiler.is_compiling():
                activations, grads, outputs = _pull_back(ahead, inputs, score, select)
            else:
                activations, grads, outputs = _differentiate(plant(), inputs, score, select, keep)
        to_map = layout.to_map if layout else (lambda raw: raw)
        return {name: Captured(to_map(activations[name]), to_map(grads[name]), outputs) for name in activations}

    return run


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


def _forward(
    cut: _Cut, inputs: Inputs, select: Select | None, delta: Callable[[str, Tensor], Tensor] | None = None
) -> tuple[Any, dict[str, Tensor]]:
    """Run the graft; keep a copy of each layer's output, and hand the network the output plus its delta."""
    calls = dict.fromkeys(cut.names, 0)
    activations: dict[str, Tensor] = {}

    def tap(name: str, output: Any) -> Any:
        calls[name] += 1
        picked = floating(name, chosen_tensor(name, output, select))
        activations[name] = picked.clone()
        return output if delta is None else swapped(output, picked, picked + delta(name, picked))

    cut.slot.tap = tap
    outputs = call(cut.graft, copied(inputs))
    del cut.slot.tap
    for name in cut.names:
        ran_once(name, calls[name], cut.graft.root)
    return outputs, {name: activations[name] for name in cut.names}


def _differentiate(
    cut: _Cut, inputs: Inputs, score: ScoreFn, select: Select | None, create_graph: bool
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor], Any]:
    """Differentiate the score in a zero added to each layer's output, at a level of differentiation of its own.

    `vjp` opens the level, in a scalar: the shapes of the deltas are known only once the layers have run.
    """
    structure: list[Any] = []

    def at_own_level(seed: Tensor) -> tuple[Tensor, tuple[list[Tensor], list[Tensor], list[Tensor]]]:
        deltas: dict[str, Tensor] = {}

        def delta(name: str, output: Tensor) -> Tensor:
            deltas[name] = seed.to(output).expand_as(output)
            return deltas[name]

        outputs, activations = _forward(cut, inputs, select, delta)
        scores = one_score_a_sample(score(outputs), batch_sizes(inputs, activations.values()))
        tensors, rebuild = tensors_of(outputs)
        structure.append(rebuild)
        wanted = [deltas[name] for name in activations]
        return seed, (list(activations.values()), _gradients(scores, wanted, create_graph), tensors)

    kept: Any
    try:
        kept = vjp(at_own_level, torch.zeros(()), has_aux=True)[-1]
    except RuntimeError as error:
        if "setup_context" not in str(error) or torch._C._functorch.peek_interpreter_stack() is not None:
            raise
        # operations registered through torch.library (torchvision's roi_align) refuse any level of torch.func
        with torch.enable_grad():
            kept = at_own_level(torch.zeros((), requires_grad=True))[1]
        if not create_graph:
            kept = pytree.tree_map(lambda tensor: tensor.detach(), kept)
    activations, grads, tensors = kept
    return dict(zip(cut.names, activations)), dict(zip(cut.names, grads)), structure[0](tensors)


def _gradients(scores: Tensor, deltas: list[Tensor], create_graph: bool) -> list[Tensor]:
    if not scores.requires_grad:
        return [torch.zeros_like(delta) for delta in deltas]
    ones = torch.ones_like(scores)
    found = torch.autograd.grad(scores, deltas, ones, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(delta) if grad is None else grad for grad, delta in zip(found, deltas)]


def _pull_back(
    cut: _Cut, inputs: Inputs, score: ScoreFn, select: Select | None
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor], Any]:
    """Do the same by a pullback, which can be compiled; the first forward, needed for its shapes, is dropped there."""
    _, first = _forward(cut, inputs, select)
    zeros = {name: torch.zeros(a.shape, dtype=a.dtype, device=a.device) for name, a in first.items()}
    structure: list[Any] = []

    def scores_of(deltas: dict[str, Tensor]) -> tuple[Tensor, tuple[dict[str, Tensor], list[Tensor]]]:
        outputs, activations = _forward(cut, inputs, select, lambda name, output: deltas[name])
        tensors, rebuild = tensors_of(outputs)
        structure.append(rebuild)
        return one_score_a_sample(score(outputs), batch_sizes(inputs, activations.values())), (activations, tensors)

    found: Any = vjp(scores_of, zeros, has_aux=True)
    scores, pullback, (activations, tensors) = found
    (grads,) = pullback(torch.ones_like(scores))
    return activations, grads, structure[0](tensors)


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
