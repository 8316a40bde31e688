"""Explainer: a method, a model and a layer, composed into one function of the inputs and the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ._capture import capture, observe
from ._check import bare, describe, layer_name, spatial_map
from ._folded import Folded
from ._graft import copied, floating_leaves, run_apart
from ._record import repeated
from ._resume import record
from ._types import AnyLayout, Call, Inputs, ScoreFn, Select, Target
from .targets import pin

CONTEXT = ("tail", "forward", "inputs", "chunk_size", "progress")
"""Keywords of a method that `explainer` binds."""


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
        progress: told (done, in all) after each chunk of perturbed forwards, for the methods that perturb.
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
    asked = _asked(method)
    model = bare(model)
    what: dict[str, Any] = {"select": select, "layout": layout, "call": call}
    see = observe(model, name, **what, differentiable=differentiable)
    derive = capture(model, name, **what, differentiable=differentiable)
    cut = record(model, name, **what)

    def explain(inputs: Inputs, target: Target = None) -> Tensor:
        recorded = cut(inputs) if "tail" in asked.context else None
        if asked.gradients:
            activations, grads, outputs = derive(inputs, target)
        else:
            activations, outputs = recorded[:2] if recorded else see(inputs)
            grads = None
        spatial_map(name, activations, layout)
        knobs = {"chunk_size": chunk_size, "progress": progress}
        context: dict[str, Any] = {key: value for key, value in knobs.items() if value is not None}
        if recorded or asked.context & {"forward", "inputs"}:
            score = pin(target, outputs)
        if recorded:
            context["tail"] = _scores(model, recorded.tail, score, convolves=recorded.convolves)
        if asked.context & {"forward", "inputs"}:
            context["inputs"], rebuild = images_of(inputs)
            together = Folded(model)
            context["forward"] = _scores(
                model,
                lambda x: run_apart(model, copied(rebuild(x))),
                score,
                many=lambda x: together(copied(rebuild(x))),
            )
        # in inference mode a tail has no derivatives
        keep = differentiable and torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            arguments = (activations, grads, outputs)[: asked.positional]
            return method(*arguments, **{key: context[key] for key in asked.context & context.keys()})

    return explain


class _Asked(NamedTuple):
    """What a method's signature asks for."""

    positional: int
    gradients: bool
    context: set[str]


def _asked(method: Callable[..., Tensor]) -> _Asked:
    parameters = signature(method).parameters
    places = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    positional = [p for p in parameters.values() if p.kind in places][:3]
    keywords = {key: p for key, p in parameters.items() if p.kind is Parameter.KEYWORD_ONLY}
    missing = [key for key, p in keywords.items() if p.default is Parameter.empty and key not in CONTEXT]
    if missing:
        name = getattr(method, "__name__", "this method")
        raise TypeError(
            f"{name} needs {', '.join(missing)}, which explainer does not bind. Bind it first: "
            f"explainer(functools.partial({name}, {missing[0]}=...), model, layer)"
        )
    variadic = any(p.kind is Parameter.VAR_POSITIONAL for p in parameters.values())
    gradients = variadic or (len(positional) > 1 and positional[1].default is Parameter.empty)
    # a keyword bound by functools.partial shows as one with a default, and stays as it was bound
    unbound = {key for key in CONTEXT if key in keywords and keywords[key].default in (Parameter.empty, None)}
    return _Asked(3 if variadic else len(positional), gradients, unbound | ({"chunk_size"} & set(keywords)))


class _Scores:
    """A network, or the part after the cut, and the target: a batch (B, ...) to scores (B,)."""

    couples = True
    """Whether a sample's score may depend on the others of its batch."""

    def __init__(self, run: Callable[[Tensor], Any], score: ScoreFn) -> None:
        self.run, self.score = run, score

    def __call__(self, changed: Tensor) -> Tensor:
        return self.score(self.run(changed))


class _Folding(_Scores):
    """Scores of several batches at once, run as one larger batch."""

    couples = False

    def __init__(
        self, run: Callable[[Tensor], Any], score: ScoreFn, many: Callable[[Tensor], Any], *, convolves: bool
    ) -> None:
        super().__init__(run, score)
        self.many, self.convolves = many, convolves

    def fold(self, batches: Tensor) -> Tensor:
        """(n, B, ...) to (n, B)."""
        apart = batches.shape[:2]
        together = batches.flatten(0, 1)
        if self.convolves and together.ndim == 4 and together.device.type == "cpu":
            # oneDNN then reorders neither what goes into a convolution nor what comes out
            together = together.contiguous(memory_format=torch.channels_last)
        leaves, spec = pytree.tree_flatten(self.many(together))
        rows = [isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == together.shape[0] for leaf in leaves]
        split = [leaf.unflatten(0, apart) if row else leaf for leaf, row in zip(leaves, rows)]
        each = torch.vmap(
            lambda *one: self.score(pytree.tree_unflatten(one, spec)),
            in_dims=tuple(0 if row else None for row in rows),
        )
        return torch.as_tensor(each(*split))


def _scores(
    model: nn.Module,
    run: Callable[[Tensor], Any],
    score: ScoreFn,
    *,
    many: Callable[[Tensor], Any] | None = None,
    convolves: bool = True,
) -> _Scores:
    """A function of one batch, and of several unless the network is training: `many` then runs them as one."""
    # a BatchNorm in training would see the other batches, and a dropout would draw anew
    training = any(module.training for module in model.modules())
    return _Scores(run, score) if training else _Folding(run, score, many or run, convolves=convolves)


def images_of(
    inputs: Inputs, purpose: str = "perturbs the images, but the inputs hold no such tensor"
) -> tuple[Tensor, Callable[[Tensor], Inputs]]:
    """Return the first floating-point tensor of the inputs, and what puts another, of n batches, in its place.

    The purpose is what an error says of the method that wants it.
    """
    inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
    leaves = floating_leaves(inputs)
    if not leaves:
        raise TypeError(f"this method {purpose}: {describe(inputs)}")
    images = leaves[0]

    def rebuild(changed: Tensor) -> Any:
        times = changed.shape[0] // images.shape[0] if images.shape[0] else 1
        return pytree.tree_map(
            lambda leaf: changed if leaf is images else repeated(leaf, times, {images.shape[0]}), inputs
        )

    return images, rebuild
