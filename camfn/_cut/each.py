"""Several targets of one forward: all boxes of an image, all words of a caption."""

# tested in tests/cut/test_inputs.py and tests/targets/test_boxes.py

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._shared.checks import batch_sizes, describe, one_score_a_sample, refuse_lost_graph
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.inputs import Images
from .._shared.pullback import naming_writes_in_place
from .._shared.value import Value, frozen
from .._shared.vocabulary import AnyLayout, Captured, Inputs, ScoreFn, Select, Target
from ..targets import as_score
from .capture import Point, check_unused, layer_planter, map_maker, run_to_end
from .derive import gradients, tensors_of
from .graft import bare
from .layer_checks import check_picks, layer_name
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
        CamfnError: a target does not give one number a sample; no targets.

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
        model, name = bare(self.model), str(self.layer)
        leaves: list[Tensor] = []

        def leaf(_: Point, x: Tensor) -> Tensor:
            """Hand the network a copy that is a leaf of autograd: nothing before the layer is differentiated."""
            leaves.append(x.detach().clone().requires_grad_())
            return leaves[-1].clone()

        with torch.inference_mode(False), torch.enable_grad(), naming_writes_in_place():
            outputs, activations = run_to_end(layer_planter(model, [name])(), inputs, self.select, None, leaf)
            ((raw,),) = activations.values()
            rows = _scores(outputs, targets, batch_sizes(inputs, [raw]))
            grads = []
            for i, row in enumerate(rows):
                score = _score_of(targets, i)
                absent = None if self.unused == "zeros" else _missing(model, name, inputs, score, self.select)
                grads.append(gradients(row, leaves, of=model, retain_graph=True, missing=absent))
        raw = raw.detach()
        tensors, rebuild = tensors_of(outputs)
        to_map = map_maker(model, name, [raw], inputs, self)
        return Captured(
            to_map([raw]), torch.stack([to_map(row) for row in grads]), rebuild([x.detach() for x in tensors])
        )


def _missing(
    model: nn.Module, name: str, inputs: Inputs, score: ScoreFn, select: Select | None
) -> Callable[[list[int]], None]:
    def missing(_: list[int]) -> None:
        raise no_gradient(model, name, inputs, score, select)

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
