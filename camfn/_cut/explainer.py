"""Explainer: a method, a model and a layer, composed into one function of the inputs and the target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._shared.inputs import copy_of, images_of
from .._shared.vocabulary import AnyLayout, Call, Inputs, Select, Target
from ..targets import pin
from .capture import capture, observe
from .folded import BatchNormFolded
from .graft import bare, run_apart
from .layer_checks import layer_name, spatial_map
from .resume import record
from .scores import _scores
from .signature import read_signature


def explainer(
    method: Callable[..., Tensor],
    model: nn.Module,
    layer: str | nn.Module,
    *,
    select: Select | None = None,
    layout: AnyLayout = "auto",
    call: Call | None = None,
    chunk_size: int | Literal["auto"] | None = None,
    progress: Callable[[int, int], None] | None = None,
    differentiable: bool = False,
) -> Callable[..., Tensor]:
    """Compose a method with a model's layer: `explainer(grad_cam, model, "layer4")(images, target)` is the map.

    What the signature of the method asks for is what is computed: no backward where `grads` has a default; and where it
    has keywords of these names, `tail` (activations to scores), `forward` (inputs to scores), `inputs` (the images),
    `chunk_size` and `progress` are bound. Choices that the target leaves to the outputs, such as the top class, are
    made once, on the unperturbed inputs.

    Args:
        method: one of `camfn.methods`, a `functools.partial` of one, or a function of yours.
        model: any module; left exactly as it is.
        layer: a dotted name as in `model.named_modules()`, or the module itself.
        select: which tensor, where the layer returns a tuple or a dict.
        layout: turns the layer's own shape into (B, C, *spatial), and back; "auto" finds it, as `layout.find`, and None
            takes the layer's output as it is.
        call: which of several runs of the layer in one forward, or "all", as for `capture`.
        chunk_size: how many perturbed forwards run at once, for the methods that perturb: a number, or "auto" for what
            fits a quarter of the free memory; None leaves it to the method.
        progress: called with (done, in all) after each chunk of perturbed forwards, for the methods that perturb.
        differentiable: keep the outer graph through the map (gradient methods), so that it may be part of a loss.

    Returns:
        A function of the inputs and a target that returns the raw map, (B, *spatial).

    Raises:
        TypeError: the method requires a keyword that is not bound here.
        CaptureError: no such layer, or its activations are not a map.

    Example:
        >>> import torch
        >>> from camfn.methods import grad_cam
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> explainer(grad_cam, net, "0")(torch.ones(2, 3, 8, 8), 4).shape
        torch.Size([2, 6, 6])
    """
    name = layer_name(model, layer)
    needs = read_signature(method)
    model = bare(model)
    what: dict[str, Any] = {"select": select, "layout": layout, "call": call}
    see = observe(model, name, **what, differentiable=differentiable)
    derive = capture(model, name, **what, differentiable=differentiable)
    cut = record(model, name, **what)

    def explain(inputs: Inputs, target: Target = None) -> Tensor:
        recorded = cut(inputs) if "tail" in needs.context else None
        if needs.gradients:
            activations, grads, outputs = derive(inputs, target)
        else:
            activations, outputs = recorded[:2] if recorded else see(inputs)
            grads = None
        spatial_map(name, activations, layout)
        knobs = {"chunk_size": chunk_size, "progress": progress}
        context: dict[str, Any] = {key: value for key, value in knobs.items() if value is not None}
        if recorded or needs.context & {"forward", "inputs"}:
            score = pin(target, outputs)
        if recorded:
            context["tail"] = _scores(model, recorded.tail, score, has_convolutions_left=recorded.convolutions_left)
        if needs.context & {"forward", "inputs"}:
            context["inputs"], rebuild = images_of(inputs)
            folded = BatchNormFolded(model)
            context["forward"] = _scores(
                model,
                lambda x: run_apart(model, copy_of(rebuild(x))),
                score,
                many=lambda x: folded(copy_of(rebuild(x))),
            )
        # in inference mode a tail has no derivatives
        keep = differentiable and torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            arguments = (activations, grads, outputs)[: needs.positional]
            return method(*arguments, **{key: context[key] for key in needs.context & context.keys()})

    return explain
