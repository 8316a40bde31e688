"""Observe and capture: what a layer returned, and how the score depends on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, fields
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from .._layout.readings import as_map
from .._shared.checks import batch_sizes, keeps_graph, one_of, one_score_a_sample
from .._shared.errors import CaptureError
from .._shared.inputs import Images, replace_tensor
from .._shared.levels import level_of_func
from .._shared.value import Value, frozen
from .._shared.vocabulary import AnyLayout, Call, Captured, Inputs, Select, Target
from ..targets import as_score
from .derive import Zero, derive
from .graft import bare
from .layer_checks import (
    check_picks,
    chosen_calls,
    chosen_tensor,
    dequantized,
    floating,
    inner_transform,
    layer_name,
    layer_names,
)
from .layouts import ReadingOptions, layouts_for
from .lost import no_gradient
from .taps import Tapped, planter


@frozen
class Options(Value):
    """How to read the layers of a model: the options that all cuts share, as `observe` describes them."""

    _: KW_ONLY
    select: Select | None = None
    layout: AnyLayout = "auto"
    images: Images | None = None
    call: Call | None = None
    differentiable: bool = False

    def __post_init__(self) -> None:
        check_picks(self.select, self.layout, self.call, self.images)


OPTIONS = tuple(one.name for one in fields(Options))


@frozen
class AtLayer(Options):
    """A model and one of its layers, which is held by its name."""

    model: nn.Module
    layer: str | nn.Module

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", layer_name(self.model, self.layer))
        super().__post_init__()

    @property
    def name(self) -> str:
        """Dotted name of the layer."""
        return str(self.layer)


@frozen
class observe(AtLayer):
    """Run a model and keep what one layer returned: forward only.

    Args:
        model: any module; left exactly as it is.
        layer: a dotted name as in `model.named_modules()`, or the module itself.
        select: which tensor, where the layer returns a tuple or a dict: an index, a key or a function.
        layout: turns the layer's own shape into (B, C, *spatial); "auto" finds it, as `layout.find`, and None keeps the
            layer's own shape.
        images: which input "auto" reads the layout from, where several have space and it depends on which: an index, a
            key, a path of these such as ("pixels", 0), or a function of the inputs.
        call: which of several runs of the layer in one forward, 0 the first and -1 the last; or "all", one after the
            other along the channels, so that maps which sum over channels become the sum of the runs' maps.
        differentiable: keep the graph that leads from the inputs and parameters to the activations.

    Returns:
        A function of the inputs (a tensor, a tuple of arguments or a dict of keywords) that returns the activations and
        the model's outputs.

    Raises:
        CaptureError: no such layer, it ran never or several times, or its output is not one tensor; its layout cannot
            be found.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> activations, outputs = observe(net, "0")(torch.ones(2, 3, 8, 8))
        >>> activations.shape, outputs.shape
        (torch.Size([2, 4, 6, 6]), torch.Size([2, 5]))
    """

    def __call__(self, inputs: Inputs) -> tuple[Tensor, Any]:
        """Return the activations of the layer and the outputs of the model."""
        model = bare(self.model)
        keep = keeps_graph("observe", model, inputs, self.differentiable)
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            outputs, activations = run_to_end(layer_planter(model, [self.name])(), inputs, self.select, self.call)
        ((name, raw),) = activations.items()
        return map_maker(model, name, raw, inputs, self)(raw), outputs


@frozen
class capture(AtLayer):
    """Run a model and keep a layer's activations and the gradient of the score with respect to them.

    The model is never touched: no hook, mode, `.grad`, `requires_grad` or buffer changes. Frozen parameters and an
    outer `no_grad` or `inference_mode` are no obstacle, and what follows the layer may overwrite its output in place.
    Only the network after the layer is differentiated. `vmap` over targets runs the forward once.

    Args:
        model: any module; one in training mode is run as it is, on copies of its buffers.
        layer: a dotted name as in `model.named_modules()`, or the module itself.
        select: which tensor, where the layer returns a tuple or a dict: an index, a key or a function.
        layout: turns the layer's own shape into (B, C, *spatial), for activations and gradients alike; "auto" finds
            it, as `layout.find`, and None keeps the layer's own shape.
        images: as for `observe`.
        call: as for `observe`.
        differentiable: keep the outer graph, so that a map may be part of a loss (needed too inside `torch.func.grad`).
            Fused attention kernels have no second derivative: run under `sdpa_kernel(SDPBackend.MATH)` then.
        unused: what a gradient that does not exist is, because the model or the target cuts the graph or the score does
            not use the layer: an "error" that says which, or "zeros".

    Returns:
        A function of the inputs and a target that returns `Captured(activations, grads, outputs)`. The target is None
        (each sample's top class), a class, a class a sample, or a function of the outputs that gives (B,).

    Raises:
        CaptureError: no such layer, it ran never or several times, or its output is not one tensor; its layout cannot
            be found; the score has no gradient there.
        CamfnError: the target does not give one number a sample.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> activations, grads, outputs = capture(net, "0")(torch.ones(2, 3, 8, 8), 4)
        >>> grads.shape == activations.shape
        True
    """

    _: KW_ONLY
    unused: Literal["error", "zeros"] = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_unused(self.unused)

    def __call__(self, inputs: Inputs, target: Target = None) -> Captured:
        """Return the activations of the layer, their gradient and the outputs of the model."""
        return _capture(self, [self.name], inputs, target)[self.name]


@frozen
class capture_many(Options):
    """Capture several layers with one forward and one backward.

    Args:
        model: any module; see `capture`.
        layers: dotted names or modules; one may lie inside another.
        select: as for `capture`, for every layer.
        layout: as for `capture`, for every layer; "auto" finds each its own.
        images: as for `observe`.
        call: as for `capture`, for every layer.
        differentiable: as for `capture`.
        unused: as for `capture`.

    Returns:
        A function of the inputs and a target that returns a dict from each layer's name to its `Captured`.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> list(capture_many(net, ["0", "1"], layout=None)(torch.ones(2, 3, 8, 8), 4))
        ['0', '1']
    """

    model: nn.Module
    layers: Sequence[str | nn.Module]
    _: KW_ONLY
    unused: Literal["error", "zeros"] = "error"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", layer_names(self.model, self.layers))
        super().__post_init__()
        check_unused(self.unused)

    def __call__(self, inputs: Inputs, target: Target = None) -> dict[str, Captured]:
        """Return each layer's activations, their gradient and the outputs of the model, by the layer's name."""
        return _capture(self, self.layers, inputs, target)


def _capture(
    of: capture | capture_many, layers: Sequence[str | nn.Module], inputs: Inputs, target: Target
) -> dict[str, Captured]:
    """Run a model once, differentiate the score in these layers, and lay out what each returned."""
    model, score_of = bare(of.model), as_score(target)
    cut = layer_planter(model, layers)()

    def forward(_: Tensor | None, zero: Zero) -> tuple[Any, dict[str, list[Tensor]]]:
        return run_to_end(cut, inputs, of.select, of.call, lambda point, x: x + zero(point, x))

    def score(outputs: Any, activations: dict[str, list[Tensor]]) -> Tensor:
        given = [x for calls in activations.values() for x in calls]
        return one_score_a_sample(score_of(outputs), batch_sizes(inputs, given))

    ran: Counter[str] = Counter()

    def chosen(points: Iterable[Point]) -> list[Point]:
        ran.clear()
        ran.update(name for name, _ in points)
        return [(name, i) for name in cut.names for i in chosen_calls(name, ran[name], of.call, cut.root)]

    def missing(points: Sequence[Point]) -> None:
        # of several runs of a layer, one that the score does not use has a gradient of zeros
        absent = Counter(name for name, _ in points)
        for name in absent:
            if of.call != "all" or absent[name] == ran[name]:
                raise no_gradient(model, name, inputs, score_of, of.select, several=len(absent) < len(ran))

    keep = keeps_graph(type(of).__name__, model, inputs, of.differentiable)
    with torch.inference_mode(False), torch.set_grad_enabled(keep):
        derived = derive(
            forward,
            score,
            chosen=chosen,
            missing=None if of.unused == "zeros" else missing,
            of=cut.root,
            create_graph=keep,
        )
    captured = {}
    for name, activations in derived.kept.items():
        grads = [grad for point, grad in derived.grads.items() if point[0] == name]
        to_map = map_maker(model, name, activations, inputs, of)
        captured[name] = Captured(to_map(activations), to_map(grads), derived.outputs)
    return captured


def check_unused(unused: object) -> None:
    """Refuse what names no way to treat a gradient that does not exist."""
    one_of("unused", unused, ("error", "zeros"))


Point: TypeAlias = tuple[str, int]
"""A layer and which of its runs in one forward."""


def layer_planter(model: nn.Module, layers: Sequence[str | nn.Module]) -> Callable[[], Tapped]:
    """Return a function that makes a fresh graft in which the layers of these names report their outputs."""
    return planter(model, lambda: {str(name): model.get_submodule(str(name)) for name in layers})


def run_to_end(
    cut: Tapped,
    inputs: Inputs,
    select: Select | None,
    wanted: Call | None,
    handed_on: Callable[[Point, Tensor], Tensor] | None = None,
) -> tuple[Any, dict[str, list[Tensor]]]:
    """Run the network; return its outputs and a copy of what each chosen run of a layer returned.

    `handed_on` makes the tensor that the network goes on with, from the one that the layer returned.
    """
    activations: dict[str, list[Tensor]] = {name: [] for name in cut.names}

    level = level_of_func()

    def leave(name: str, output: Any) -> Any:
        if level_of_func() != level:
            raise inner_transform(name)
        picked = chosen_tensor(name, output, select)
        # the network may overwrite its own
        activations[name].append(floating(name, picked if handed_on is not None else dequantized(picked)).clone())
        if handed_on is None:
            return output
        return replace_tensor(output, picked, handed_on((name, len(activations[name]) - 1), picked))

    outputs = cut.run(inputs, leave)
    return outputs, {
        name: [runs[i] for i in chosen_calls(name, len(runs), wanted, cut.root)] for name, runs in activations.items()
    }


def map_maker(
    model: nn.Module,
    name: str,
    activations: list[Tensor],
    inputs: Inputs,
    options: ReadingOptions,
) -> Callable[[list[Tensor]], Tensor]:
    """Decide the layout of a layer once; return a function that lays out the tensors of its runs and joins them."""
    layouts = layouts_for(options, model, name, activations, inputs)
    return lambda values: joined(name, [as_map(layout, value) for value, layout in zip(values, layouts)])


def joined(name: str, maps: list[Tensor]) -> Tensor:
    """Join the maps of a layer's runs along their channels."""
    if len(maps) == 1:
        return maps[0]
    first, *others = [(*one.shape[:1], *one.shape[2:]) for one in maps]  # an open size of a trace has no hash
    if any(other != first for other in others):
        shapes = ", ".join(str(tuple(one.shape)) for one in maps)
        raise CaptureError(
            f"layer {name!r}: its runs in one forward give maps of different shapes, {shapes}, which cannot be joined "
            "along the channels: take one run, as in call=0"
        )
    return torch.cat(maps, 1)
