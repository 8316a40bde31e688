"""Explainer: a method, a model and a layer, composed into one function of the inputs and the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import KW_ONLY, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from .._shared.checks import keeps_graph
from .._shared.inputs import copy_of, images_of
from .._shared.rows import Progress
from .._shared.value import frozen
from .._shared.vocabulary import Inputs, ScoreFn, Target
from ..targets import pin
from .capture import OPTIONS, Options, capture, observe
from .each import capture_each
from .folded import BatchNormFolded
from .graft import bare, run_apart
from .head import find_head, head_rows
from .layer_checks import layer_name, spatial_map
from .resume import Recorded, record
from .scores import _scores
from .sight import Reads, refuse_parts
from .signature import MethodNeeds, read_signature
from .traced import outside_the_compiler


@frozen
class explainer(Options):
    """Compose a method with a model's layer: `explainer(grad_cam, model, "layer4")(images, target)` is the map.

    What the signature of the method asks for is what is computed: no backward where `grads` has a default; and where it
    has keywords of these names, `tail` (activations to scores), `forward` (inputs to scores), `inputs` (the images),
    `weights` (the rows of the linear head that the target reads, where the keyword has no default), `chunk_size` and
    `progress` are bound. Choices that the target leaves to the outputs, such as the top class, are
    made once, on the unperturbed inputs.

    Args:
        method: one of `camfn.methods`, a `functools.partial` of one, or a function of yours.
        model: any module; left exactly as it is.
        layer: a dotted name as in `model.named_modules()`, or the module itself.
        select: which tensor, where the layer returns a tuple or a dict.
        layout: turns the layer's own shape into (B, C, *spatial), and back; "auto" finds it, as `layout.find`, and None
            takes the layer's output as it is.
        call: which of several runs of the layer in one forward, or "all", as for `capture`.
        images: which of the inputs is the image, that a method which perturbs changes and "auto" reads the layout from:
            an index, a key, a path of these such as ("pixels", 0), or a function of the inputs. If it is not given, the
            only one with space.
        chunk_size: how many perturbed forwards run at once, for the methods that perturb: a number, or "auto" for what
            fits a quarter of the free memory; None leaves it to the method.
        progress: called with (done, in all) after each chunk of perturbed forwards, for the methods that perturb. If it
            has a keyword `engine`, the run tells it how: "folded" into one larger batch, "vmapped", or "one by one",
            the first of these that a trial on two of them shows to be right.
        differentiable: keep the outer graph through the map, so that it may be part of a loss.
        unused: as for `capture`.
        has_aux: return `(cam, outputs)`, with the outputs that the model gave on the way.

    Returns:
        A function of the inputs and a target that returns the raw map, (B, *spatial).

    Raises:
        TypeError: the method requires a keyword that is not bound here.
        CaptureError: no such layer, or its activations are not a map.
        CamfnError: a method that masks the images by the layer's maps, and a layer that sees a part of the image alone.

    Example:
        >>> import torch
        >>> from camfn.methods import grad_cam
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> explainer(grad_cam, net, "0")(torch.ones(2, 3, 8, 8), 4).shape
        torch.Size([2, 6, 6])
    """

    method: Callable[..., Tensor]
    model: nn.Module
    layer: str | nn.Module
    _: KW_ONLY
    chunk_size: int | Literal["auto"] | None = None
    progress: Progress | None = None
    unused: Literal["error", "zeros"] = "error"
    has_aux: bool = False
    _needs: MethodNeeds = field(init=False)
    _see: observe = field(init=False)
    _derive: capture = field(init=False)
    _record: record = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", layer_name(self.model, self.layer))
        super().__post_init__()
        what: dict[str, Any] = {name: getattr(self, name) for name in OPTIONS}
        object.__setattr__(self, "_needs", read_signature(self.method))
        object.__setattr__(self, "_see", observe(self.model, self.layer, **what))
        object.__setattr__(self, "_derive", capture(self.model, self.layer, **what, unused=self.unused))
        object.__setattr__(self, "_record", record(self.model, self.layer, **what))

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the raw map, (B, *spatial); with `has_aux`, the map and the model's outputs."""
        explain = _explain if self._needs.context <= _COMPILED else _explain_eagerly
        cam, outputs = explain(self, inputs, target)
        # a type checker sees the map alone, as most callers do
        return cast(Tensor, (cam, outputs)) if self.has_aux else cam


_COMPILED = {"chunk_size", "progress"}
"""What a method may ask for and be compiled whole."""


def _explain(of: explainer, inputs: Inputs, target: Target) -> tuple[Tensor, Any]:
    """Gather what the method asks for, and call it."""
    keep = keeps_graph("explainer", of.model, inputs, of.differentiable)
    with torch.inference_mode(False), torch.set_grad_enabled(keep):
        needs = of._needs
        reads = Reads(inputs) if needs.over_images else None
        with reads or nullcontext():
            recorded = of._record(inputs) if "tail" in needs.context else None
            grads = None
            if needs.gradients:
                activations, grads, outputs = of._derive(inputs, target)
            else:
                activations, outputs = recorded[:2] if recorded else of._see(inputs)
        _check(of, activations, reads)
        arguments = (activations, grads, outputs)[: needs.positional]
        cam = of.method(*arguments, **_context(of, inputs, activations, outputs, recorded, target))
    return cam, outputs


_explain_eagerly = outside_the_compiler(_explain)


def explain_each(
    of: explainer, inputs: Inputs, choose: Callable[[Any], Sequence[ScoreFn]]
) -> tuple[list[tuple[Tensor, tuple[Any, ...]]], Any]:
    """Explain several targets of one batch; what no target changes runs once.

    A method costs one forward that records its tail, and one for all gradients, where it asks for these; then each
    target has its own backward and its own perturbed runs.

    Args:
        of: the explainer, without an outer graph.
        inputs: as it takes them.
        choose: makes the targets of the outputs, none or several; called once for each of these forwards.

    Returns:
        For each target the raw map, (B, *spatial), and the arguments of the method (activations, gradients, outputs, as
        many as it takes, and the activations always); and the outputs of the model.
    """
    needs = of._needs
    with torch.inference_mode(False), torch.no_grad():
        reads = Reads(inputs) if needs.over_images else None
        with reads or nullcontext():
            recorded = of._record(inputs) if "tail" in needs.context else None
            targets: Sequence[ScoreFn] = []
            grads: Sequence[Tensor | None] = []
            if needs.gradients:

                def scores(outputs: Any) -> Tensor:
                    nonlocal targets
                    targets = choose(outputs)
                    return torch.stack([target(outputs) for target in targets])

                what: dict[str, Any] = {"select": of.select, "layout": of.layout, "images": of.images}
                derive = capture_each(of.model, of.layer, **what, unused=of.unused)
                activations, each, outputs = derive(inputs, scores)
                grads = list(each)
            else:
                activations, outputs = recorded[:2] if recorded else of._see(inputs)
                targets = choose(outputs)
                grads = [None] * len(targets)
        _check(of, activations, reads)
        found = []
        for target, gradient in zip(targets, grads, strict=True):
            arguments = (activations, gradient, outputs)
            context = _context(of, inputs, activations, outputs, recorded, target)
            cam = of.method(*arguments[: needs.positional], **context)
            found.append((cam, arguments[: max(1, needs.positional)]))
    return found, outputs


def _check(of: explainer, activations: Tensor, reads: Reads | None) -> None:
    """Refuse activations that are no map, or, of a method that lays them over the images, that see a part of them."""
    spatial_map(str(of.layer), activations, of.layout)
    if reads:
        refuse_parts("explainer", of.model, {str(of.layer): activations}, reads, of.images, over=True)


def _context(
    of: explainer, inputs: Inputs, activations: Tensor, outputs: Any, recorded: Recorded | None, target: Target
) -> dict[str, Any]:
    """Make the keywords that the method asks for, of one target."""
    model, asked = bare(of.model), of._needs.context
    knobs = {"chunk_size": of.chunk_size, "progress": of.progress}
    context: dict[str, Any] = {key: value for key, value in knobs.items() if value is not None}
    if recorded or asked & {"forward", "inputs", "weights"}:
        score = pin(target, outputs)
    if "weights" in asked:
        head = find_head(model, str(of.layer), activations, outputs, of.method)
        context["weights"] = head_rows(head, score, outputs)
    if recorded:
        context["tail"] = _scores(model, recorded.tail, score, has_convolutions_left=recorded.convolutions_left)
    if asked & {"forward", "inputs"}:
        context["inputs"], rebuild = images_of(inputs, of.images)
        folded = BatchNormFolded(model)
        context["forward"] = _scores(
            model,
            lambda x: run_apart(model, copy_of(rebuild(x))),
            score,
            many=lambda x: folded(copy_of(rebuild(x))),
        )
    return {key: context[key] for key in asked if key in context}
