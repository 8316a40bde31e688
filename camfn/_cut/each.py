"""Several targets of one forward: all boxes of an image, all words of a caption."""

# tested in tests/cut/test_inputs.py, tests/targets/test_boxes.py and tests/targets/test_known.py

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._shared.checks import batch_sizes, describe, one_score_a_sample, refuse_lost_graph
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.inputs import Images
from .._shared.levels import inside_transform
from .._shared.pullback import naming_refusals
from .._shared.value import Value, frozen
from .._shared.vocabulary import AnyLayout, Captured, Inputs, ScoreFn, Select, Target
from ..targets import as_score
from .capture import Point, check_unused, layer_planter, map_maker, run_to_end
from .constants import on_constants
from .derive import gradients, tensors_of
from .graft import bare
from .layer_checks import check_picks, layer_name, layer_names
from .lost import no_gradient

Targets = Sequence[Target] | Callable[[Any], Tensor]


@frozen
class capture_each(Value):
    """Capture a layer for several targets: one forward, and one backward a target.

    `vmap` over targets that differ in a tensor does the same at once. This takes any targets, and models that `vmap`
    and `torch.func` refuse, among them torchvision's two-stage detectors. The model is left as it is, as by `capture`.

    Args:
        model: any module; see `capture`.
        layer: a dotted name as in `model.named_modules()`, or the module itself.
        select: as for `capture`.
        layout: as for `capture`.
        images: as for `observe`.
        unused: as for `capture`, target by target.

    Returns:
        A function of the inputs and the targets, a sequence of them or a function of the outputs to scores (T, B). It
        returns `Captured` with gradients (T, B, C, *S), one row a target; the other two as from `capture`.

    Raises:
        CaptureError: no such layer, it ran never or several times, or its output is not one tensor.
        CamfnError: a target does not give one number a sample; no targets; a transform of `torch.func` is on.

    Example:
        >>> import torch
        >>> from camfn.methods import grad_cam
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> activations, grads, outputs = capture_each(net, "0")(torch.ones(2, 3, 8, 8), [4, None, [1, 2]])
        >>> grads.shape
        torch.Size([3, 2, 4, 6, 6])
        >>> torch.vmap(grad_cam, in_dims=(None, 0))(activations, grads).shape
        torch.Size([3, 2, 6, 6])
    """

    model: nn.Module
    layer: str | nn.Module
    _: KW_ONLY
    select: Select | None = None
    layout: AnyLayout = "auto"
    images: Images | None = None
    unused: Literal["error", "zeros"] = "error"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", layer_name(self.model, self.layer))
        check_picks(self.select, self.layout, images=self.images)
        check_unused(self.unused)

    def __call__(self, inputs: Inputs, targets: Targets) -> Captured:
        """Return the activations, one gradient a target, and the outputs of the model."""
        refuse_lost_graph("capture_each", self.model, inputs)
        _refuse_transforms("capture_each")
        model, name = bare(self.model), str(self.layer)
        leaves: list[Tensor] = []

        def leaf(_: Point, x: Tensor) -> Tensor:
            """Hand the network a copy that is a leaf of autograd: nothing before the layer is differentiated."""
            leaves.append(x.detach().clone().requires_grad_())
            return leaves[-1].clone()

        def run(network: nn.Module) -> tuple[Any, dict[str, list[Tensor]]]:
            """Run the network anew."""
            leaves.clear()
            return run_to_end(layer_planter(network, [name])(), inputs, self.select, None, leaf)

        with torch.inference_mode(False), torch.enable_grad(), naming_refusals():
            outputs, activations = on_constants(model, run)
            ((raw,),) = activations.values()
            rows = _scores(outputs, targets, batch_sizes(inputs, [raw]))
            grads = []
            for i, row in enumerate(rows):
                score = _score_of(targets, i)
                absent = None if self.unused == "zeros" else _lost_in_all(model, [name], inputs, score, self.select)
                grads.append(gradients(row, leaves, of=model, retain_graph=True, missing=absent))
        raw = raw.detach()
        tensors, rebuild = tensors_of(outputs)
        to_map = map_maker(model, name, [raw], inputs, self)
        return Captured(
            to_map([raw]), torch.stack([to_map(row) for row in grads]), rebuild([x.detach() for x in tensors])
        )


@frozen
class capture_levels(Value):
    """Capture several layers for several targets: one forward, and one backward a target.

    It is for detectors, whose boxes come from the levels of a pyramid: a box's score depends on its own level, and on
    those that lead there. The gradient at a level counts all roads to the score, also those through other levels. A
    level that a score does not use has a gradient of zeros there; a score that uses none of them is an error.

    Args:
        model: any module; see `capture`.
        layers: dotted names or modules, as `targets.head_for(model).layers`.
        select: as for `capture`, for every layer.
        layout: as for `capture`, for every layer.
        images: as for `observe`.

    Returns:
        A function of the inputs and the targets, as `capture_each` takes them. It returns a dict from each layer's name
        to its `Captured`, with gradients (T, B, C, *S).

    Raises:
        CaptureError: as for `capture_each`.
        CamfnError: a target does not give one number a sample; no targets; a transform of `torch.func` is on.

    Example:
        >>> import torch
        >>> from camfn.methods import odam
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3), torch.nn.Flatten())
        >>> found = capture_levels(net, ["0", "1"])(torch.ones(2, 3, 8, 8), [4, [1, 2]])
        >>> {name: tuple(torch.vmap(odam, (None, 0))(a, g).shape) for name, (a, g, _) in found.items()}
        {'0': (2, 2, 6, 6), '1': (2, 2, 4, 4)}
    """

    model: nn.Module
    layers: Sequence[str | nn.Module]
    _: KW_ONLY
    select: Select | None = None
    layout: AnyLayout = "auto"
    images: Images | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", layer_names(self.model, self.layers))
        check_picks(self.select, self.layout, images=self.images)

    def __call__(self, inputs: Inputs, targets: Targets) -> dict[str, Captured]:
        """Return the activations of each layer, one gradient a target, and the outputs of the model."""
        refuse_lost_graph("capture_levels", self.model, inputs)
        _refuse_transforms("capture_levels")
        model, names = bare(self.model), [str(layer) for layer in self.layers]
        zeros: dict[Point, Tensor] = {}

        def zero(point: Point, x: Tensor) -> Tensor:
            """Add a leaf of autograd; autograd keeps no graph of what comes before the first layer."""
            start = x if zeros else x.detach()
            zeros[point] = torch.zeros_like(x, memory_format=torch.preserve_format).requires_grad_()
            return start + zeros[point]

        def run(network: nn.Module) -> tuple[Any, dict[str, list[Tensor]]]:
            """Run the network anew."""
            zeros.clear()
            return run_to_end(layer_planter(network, names)(), inputs, self.select, None, zero)

        with torch.inference_mode(False), torch.enable_grad(), naming_refusals():
            outputs, activations = on_constants(model, run)
            raws = {name: raw for name, (raw,) in activations.items()}
            rows = _scores(outputs, targets, batch_sizes(inputs, raws.values()))
            leaves, grads = [zeros[name, 0] for name in names], []
            for i, row in enumerate(rows):
                lost = _lost_in_all(model, names, inputs, _score_of(targets, i), self.select)
                grads.append(gradients(row, leaves, of=model, retain_graph=True, missing=lost))
        tensors, rebuild = tensors_of(outputs)
        plain = rebuild([x.detach() for x in tensors])
        found = {}
        for place, name in enumerate(names):
            raw = raws[name].detach()
            to_map = map_maker(model, name, [raw], inputs, self)
            found[name] = Captured(to_map([raw]), torch.stack([to_map([row[place]]) for row in grads]), plain)
        return found


def _refuse_transforms(name: str) -> None:
    """Refuse to make leaves of autograd where `torch.func` allows none."""
    if inside_transform() and not torch.compiler.is_compiling():
        raise CamfnError(
            f"{name}: expected to run outside of torch.func's transforms, got a call under vmap, grad, vjp or another: "
            f"autograd makes no leaves there. Call capture, which runs under them, or call {name} outside"
        )


def _lost_in_all(
    model: nn.Module, names: list[str], inputs: Inputs, score: ScoreFn, select: Select | None
) -> Callable[[list[int]], None]:
    """Make what refuses a score that has a gradient at none of the layers."""

    def missing(places: list[int]) -> None:
        if len(places) == len(names):
            raise no_gradient(model, names[-1], inputs, score, select)

    return missing


def _score_of(targets: Targets, i: int) -> ScoreFn:
    """Return the function of the outputs that gives the scores of one target."""
    if isinstance(targets, Sequence):
        return as_score(targets[i])
    return lambda outputs: targets(outputs)[i]


def _scores(outputs: Any, targets: Targets, batches: Iterable[int]) -> list[Tensor]:
    if callable(targets):
        found = targets(outputs)
        if not isinstance(found, Tensor) or found.ndim != 2 or not len(found):
            raise CamfnError(f"targets: expected the function to return scores (T, B), it returned {describe(found)}")
        rows = list(found)
    else:
        if not isinstance(targets, (list, tuple)):
            raise ArgumentTypeError(
                f"targets: expected a list of targets, or a function of the outputs that returns scores (T, B); got "
                f"{describe(targets)}. One target: capture(model, layer)(inputs, target)"
            )
        rows = [as_score(target)(outputs) for target in targets]
    if not rows:
        raise CamfnError("targets: expected at least one, got none")
    return [one_score_a_sample(row, batches) for row in rows]
