"""Differentiate a score in the image, and in zeros added to the outputs of modules that are tapped, by one backward."""

# tested in tests/network/test_input.py and test_full.py

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from .._cut.derive import Around, Zero, derive, planter
from .._cut.graft import run_apart
from .._cut.layer_checks import check_model
from .._shared.checks import one_score_a_sample
from .._shared.inputs import copy_of, floating_leaves, images_of
from .._shared.vocabulary import Inputs, ScoreFn, Target
from ..targets import as_score, pin

Offset: TypeAlias = Callable[[nn.Module, Tensor], "Tensor | None"]
"""What a tapped module adds to its linear part, given the module and its input; it broadcasts against the output."""


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
    check_model(model)
    plant = planter(model, lambda: {name: module for name, module in model.named_modules() if taps(module)}, enter=True)

    def run(inputs: Inputs, target: Target = None) -> Derived:
        score_of = as_score(target)
        with torch.inference_mode(False), torch.no_grad():
            cut = plant()
            image, rebuild = image_of(inputs)

            def forward(image: Tensor | None, zero: Zero) -> tuple[Any, dict[str, Tensor]]:
                assert image is not None
                calls = _Calls(offset, zero)
                outputs = cut.run(rebuild(image), calls.leave, calls.enter, around)
                return outputs, calls.offsets

            def score(outputs: Any, _: dict[str, Tensor]) -> Tensor:
                return one_score_a_sample(score_of(outputs), (image.shape[0],))

            image = image.clone()
            derived = derive(forward, score, image=image, tapped=bool(cut.names))
        assert derived.image_grad is not None
        return Derived(derived.outputs, derived.scores, image, derived.image_grad, derived.grads, derived.kept)

    return run


def image_of(inputs: Inputs) -> tuple[Tensor, Callable[[Tensor], Inputs]]:
    """Return the image, the first floating-point tensor of the inputs, and what puts another in its place."""
    return images_of(inputs, None, "differentiates in the image")


def pinned(model: nn.Module, inputs: Inputs, target: Target) -> ScoreFn:
    """Make the choices that a target leaves to the outputs on the inputs as they are; a forward only if it has some."""
    score = as_score(target)
    if not getattr(score, "pinned", None) or isinstance(target, (int, Tensor)):
        return score
    with torch.inference_mode(False), torch.no_grad():
        return pin(score, run_apart(model, copy_of(inputs)))


class _Calls:
    """The calls of tapped modules in one run: an offset and a zero each; later calls of one module are numbered."""

    def __init__(self, offset: Offset, zero: Zero) -> None:
        self.offset, self.zero = offset, zero
        self.begun: list[Tensor | None] = []
        self.counts: Counter[str] = Counter()
        self.offsets: dict[str, Tensor] = {}

    def enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Take a module's offset before it runs, since it may overwrite its input."""
        self.begun.append(self.offset(module, floating_leaves((args, kwargs))[0]))

    def leave(self, name: str, output: Tensor) -> Tensor:
        """Add a zero to the output of a module that has an offset."""
        offset = self.begun.pop()
        if offset is None:
            return output
        self.counts[name] += 1
        key = name if self.counts[name] == 1 else f"{name}#{self.counts[name]}"
        self.offsets[key] = offset
        return output + self.zero(key, output)
