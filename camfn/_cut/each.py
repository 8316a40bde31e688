"""Several targets of one forward: all boxes of an image, all words of a caption."""

# tested in tests/cut/test_inputs.py and tests/targets/test_boxes.py

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._shared.checks import batch_sizes, describe, one_score_a_sample
from .._shared.errors import CamfnError
from .._shared.vocabulary import AnyLayout, Captured, Inputs, Select, Target
from ..targets import as_score
from .capture import Point, layer_planter, map_maker, run_to_end
from .derive import gradients, tensors_of
from .graft import bare

Targets = Sequence[Target] | Callable[[Any], Tensor]


def capture_each(
    model: nn.Module,
    layer: str | nn.Module,
    *,
    select: Select | None = None,
    layout: AnyLayout = None,
) -> Callable[[Inputs, Targets], Captured]:
    """Capture a layer for several targets: one forward, and one backward a target.

    `vmap` over targets that differ in a tensor does the same at once. This takes any targets, and models that `vmap`
    and `torch.func` refuse, among them torchvision's two-stage detectors. The model is left as it is, as by `capture`.

    Args:
        model: any module; see `capture`.
        layer: a dotted name as in `model.named_modules()`, or the module itself.
        select: as for `capture`.
        layout: as for `capture`.

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
    plant = layer_planter(model, [layer])
    model = bare(model)

    def run(inputs: Inputs, targets: Targets) -> Captured:
        leaves: list[Tensor] = []

        def leaf(_: Point, x: Tensor) -> Tensor:
            """Hand the network a copy that is a leaf of autograd: nothing before the layer is differentiated."""
            leaves.append(x.detach().clone().requires_grad_())
            return leaves[-1].clone()

        with torch.inference_mode(False), torch.enable_grad():
            outputs, activations = run_to_end(plant(), inputs, select, None, leaf)
            ((name, (raw,)),) = activations.items()
            rows = _scores(outputs, targets, batch_sizes(inputs, [raw]))
            grads = [gradients(row, leaves, of=model, retain_graph=True) for row in rows]
        raw = raw.detach()
        tensors, rebuild = tensors_of(outputs)
        to_map = map_maker(model, name, [raw], inputs, layout)
        return Captured(
            to_map([raw]), torch.stack([to_map(row) for row in grads]), rebuild([x.detach() for x in tensors])
        )

    return run


def _scores(outputs: Any, targets: Targets, batches: Iterable[int]) -> list[Tensor]:
    if callable(targets):
        found = targets(outputs)
        if not isinstance(found, Tensor) or found.ndim != 2 or not len(found):
            raise CamfnError(f"targets: expected the function to return scores (T, B), it returned {describe(found)}")
        rows = list(found)
    else:
        rows = [as_score(target)(outputs) for target in targets]
    if not rows:
        raise CamfnError("targets: expected at least one, got none")
    return [one_score_a_sample(row, batches) for row in rows]
