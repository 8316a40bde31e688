"""Differentiate a score in the image, and in zeros added to the outputs of modules that are tapped, by one backward."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import vjp

from .._cut.capture import gradients, tensors_of
from .._cut.graft import graft, run_apart
from .._cut.layer_checks import layer_name
from .._shared.checks import one_score_a_sample
from .._shared.inputs import call, copy_of, floating_leaves, images_of
from .._shared.vocabulary import Inputs, ScoreFn, Target
from ..targets import as_score, pin

Offset: TypeAlias = Callable[[nn.Module, Tensor], "Tensor | None"]
"""What a tapped module adds to its linear part, given the module and its input; it broadcasts against the output."""

Around: TypeAlias = Callable[[], AbstractContextManager[Any]]
"""Makes the context that the network runs in."""


class Derived(NamedTuple):
    """One forward and one backward.

    Attributes:
        outputs: what the model returned.
        score: (B,).
        image: the first floating-point tensor of the inputs, (B, C, *S).
        image_grad: same shape, the derivative of each sample's score.
        grads: the same for the output of each call of a tapped module, in order.
        offsets: what each of these calls adds to its linear part.
    """

    outputs: Any
    score: Tensor
    image: Tensor
    image_grad: Tensor
    grads: dict[str, Tensor]
    offsets: dict[str, Tensor]


def differentiator(
    model: nn.Module,
    *,
    taps: Callable[[nn.Module], bool] = lambda module: False,
    offset: Offset = lambda module, z: None,
    around: Around = nullcontext,
) -> Callable[..., Derived]:
    """Prepare `(inputs, target) -> Derived` on grafts of the model.

    Args:
        model: left exactly as it is.
        taps: which modules' outputs get a zero added to be differentiated in.
        offset: what is kept of each of their calls.
        around: the context that the network, but not the target, runs in.
    """
    layer_name(model, "")  # the checks of a model
    plant = _planter(model, taps, offset)
    ahead = plant()

    def run(inputs: Inputs, target: Target = None) -> Derived:
        score = as_score(target)
        with torch.inference_mode(False), torch.no_grad():
            cut = ahead if torch.compiler.is_compiling() else plant()
            image, rebuild = image_of(inputs)
            network = _Network(cut, rebuild, around)
            # autograd.grad does not compile, and the shapes of the zeros are known before only if there are none
            derive = _pull_back if torch.compiler.is_compiling() or not cut.tapped else _differentiate
            return derive(network, image.clone(), score)

    return run


def image_of(inputs: Inputs) -> tuple[Tensor, Callable[[Tensor], Inputs]]:
    """Return the image, the first floating-point tensor of the inputs, and what puts another in its place."""
    return images_of(inputs, "differentiates in the image, but the inputs hold no floating-point tensor")


def pinned(model: nn.Module, inputs: Inputs, target: Target) -> ScoreFn:
    """Make the choices that a target leaves to the outputs on the inputs as they are; a forward only if it has some."""
    score = as_score(target)
    if not getattr(score, "pinned", None) or isinstance(target, (int, Tensor)):
        return score
    with torch.inference_mode(False), torch.no_grad():
        return pin(score, run_apart(model, copy_of(inputs)))


class _Slot:
    """Where the hooks of a cut find what to do, set for the time of one run."""

    tap: Callable[[str, Tensor, Tensor | None], Tensor]


class _Cut(NamedTuple):
    """A graft whose tapped modules hand their outputs and offsets to the slot."""

    run: Callable[..., Any]
    slot: _Slot
    tapped: bool


class _Network(NamedTuple):
    """A cut, how the image goes into its inputs, and the context it runs in."""

    cut: _Cut
    rebuild: Callable[[Tensor], Inputs]
    around: Around

    def __call__(self, image: Tensor, tap: Callable[[str, Tensor, Tensor | None], Tensor]) -> Any:
        self.cut.slot.tap = tap
        with self.around():
            outputs = call(self.cut.run, copy_of(self.rebuild(image)))
        del self.cut.slot.tap
        return outputs


def _planter(model: nn.Module, taps: Callable[[nn.Module], bool], offset: Offset) -> Callable[[], _Cut]:
    def plant() -> _Cut:
        named = [(name, module) for name, module in model.named_modules() if taps(module)]
        wanted = {id(module) for _, module in named}
        copy, slot = graft(model, lambda module: id(module) in wanted), _Slot()
        for name, module in named:
            _tap(copy.owned[id(module)], name, slot, offset)
        return _Cut(copy, slot, bool(named))

    return plant


def _tap(module: nn.Module, name: str, slot: _Slot, offset: Offset) -> None:
    """Take a module's offset before it runs, since it may overwrite its input, and tap its output after."""
    found: list[Tensor | None] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        found[:] = [offset(module, floating_leaves((args, kwargs))[0])]

    def after(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return slot.tap(name, output, found.pop())

    module.register_forward_pre_hook(before, with_kwargs=True)
    module.register_forward_hook(after)


class _Calls:
    """The calls of tapped modules in one run: a zero and an offset each; later calls of one module are numbered."""

    def __init__(self, zero: Callable[[str, Tensor], Tensor]) -> None:
        self.zero = zero
        self.zeros: dict[str, Tensor] = {}
        self.offsets: dict[str, Tensor] = {}

    def __call__(self, name: str, output: Tensor, offset: Tensor | None) -> Tensor:
        if offset is None:
            return output
        earlier = sum(key.partition("#")[0] == name for key in self.zeros)
        key = f"{name}#{earlier + 1}" if earlier else name
        self.offsets[key], self.zeros[key] = offset, self.zero(key, output)
        return output + self.zeros[key]


def _scored(score: ScoreFn, outputs: Any, image: Tensor) -> Tensor:
    return one_score_a_sample(score(outputs), {image.shape[0]})


def _differentiate(network: _Network, image: Tensor, score: ScoreFn) -> Derived:
    """One forward and one backward at a level of differentiation of their own, which `vjp` opens."""
    structure: list[Any] = []

    def at_own_level(image: Tensor, seed: Tensor) -> Any:
        calls = _Calls(lambda key, output: seed.to(output).expand_as(output))
        outputs = network(image, calls)
        scores = _scored(score, outputs, image)
        wanted = [image, *calls.zeros.values()]
        grads = gradients(scores, wanted)
        tensors, rebuild = tensors_of(outputs)
        structure.append(rebuild)
        return seed, (scores, grads[0], dict(zip(calls.zeros, grads[1:])), calls.offsets, tensors)

    kept: Any = vjp(at_own_level, image, torch.zeros((), device=image.device), has_aux=True)[-1]
    scores, grad, grads, offsets, tensors = kept
    return Derived(structure[0](tensors), scores, image, grad, grads, offsets)


def _pull_back(network: _Network, image: Tensor, score: ScoreFn) -> Derived:
    """Do the same by a pullback; where modules are tapped, a first run tells the shapes (dead code once compiled)."""
    zeros: dict[str, Tensor] = {}
    if network.cut.tapped:
        first = _Calls(lambda key, output: torch.zeros(output.shape, dtype=output.dtype, device=output.device))
        network(image, first)
        zeros = first.zeros
    structure: list[Any] = []

    def scores_of(image: Tensor, zeros: dict[str, Tensor]) -> Any:
        calls = _Calls(lambda key, output: zeros[key])
        outputs = network(image, calls)
        tensors, rebuild = tensors_of(outputs)
        structure.append(rebuild)
        return _scored(score, outputs, image), (calls.offsets, tensors)

    found: Any = vjp(scores_of, image, zeros, has_aux=True)
    scores, pullback, (offsets, tensors) = found
    grad, grads = pullback(torch.ones_like(scores))
    return Derived(structure[0](tensors), scores, image, grad, grads, offsets)
