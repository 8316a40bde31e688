"""Differentiate a score in the image, and in zeros added to the outputs of modules that are tapped, by one backward."""

# tested in tests/network/test_input.py and test_full.py

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import KW_ONLY
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from .._cut.derive import IMAGE, Zero, derive
from .._cut.graft import run_apart
from .._cut.layer_checks import check_model
from .._cut.taps import Around, planter
from .._shared.checks import keeps_graph, one_score_a_sample
from .._shared.errors import CaptureError
from .._shared.inputs import Images, copy_of, floating_leaves, images_of
from .._shared.value import Value, frozen
from .._shared.vocabulary import Inputs, ScoreFn, Target
from ..targets import as_score, pin

Offset: TypeAlias = Callable[[nn.Module, Tensor], "Tensor | None"]
"""What a tapped module adds to its linear part, given the module and its input; it broadcasts against the output."""


class Derived(NamedTuple):
    """One forward and one backward.

    Attributes:
        outputs: what the model returned.
        score: (B,).
        image: (B, C, *S), a copy.
        image_grad: same shape, the derivative of each sample's score.
        grads: the same for the output of each call of a tapped module, in order.
        offsets: what each of these calls adds to its linear part.
        reads: the shape of what each of these calls took, those without an offset too.
    """

    outputs: Any
    score: Tensor
    image: Tensor
    image_grad: Tensor
    grads: dict[str, Tensor]
    offsets: dict[str, Tensor]
    reads: dict[str, tuple[int, ...]]


@frozen
class OnNetwork(Value):
    """A method of a whole network.

    Attributes:
        model: left exactly as it is.
        images: which input is the image, where several have space; as for `images_of`.
        differentiable: keep the outer graph, that of the network's inputs and parameters.
    """

    model: nn.Module
    _: KW_ONLY
    images: Images | None = None
    differentiable: bool = False
    _remedy: ClassVar[str] = "Pass differentiable=True"

    def __post_init__(self) -> None:
        check_model(self.model)

    def image_of(self, inputs: Inputs) -> tuple[Tensor, Callable[[Tensor], Inputs]]:
        """Return the image among the inputs, and what puts another in its place."""
        return images_of(inputs, self.images, "differentiates in the image")

    def pinned(self, inputs: Inputs, target: Target) -> ScoreFn:
        """Make the choices that a target leaves to the outputs on the inputs as they are."""
        score = as_score(target)
        if not getattr(score, "pinned", None) or isinstance(target, (int, Tensor)):
            return score
        with torch.inference_mode(False), torch.no_grad():
            return pin(score, run_apart(self.model, copy_of(inputs)))

    def __call__(self, inputs: Inputs, target: Target = None) -> Any:
        """Explain the inputs; each method has its own."""
        raise NotImplementedError

    def keeps_graph(self, inputs: Inputs) -> bool:
        """Whether to keep the outer graph; refuse to drop one."""
        return keeps_graph(type(self).__name__, self.model, inputs, self.differentiable, self._remedy)

    def _lost(self, keys: Iterable[Any]) -> None:
        """Refuse a score whose graph does not reach the image, whose map would be 0 everywhere."""
        if IMAGE in keys:
            raise CaptureError(
                f"{type(self).__name__}: the score has no gradient at the image: no_grad, inference_mode, detach or "
                "the target cuts it off, or the score does not use the image. Methods without gradients still work: "
                "camfn.methods.occlusion, rise, score_cam"
            )

    def derived(
        self,
        inputs: Inputs,
        target: Target,
        *,
        taps: Callable[[nn.Module], bool] = lambda module: False,
        offset: Offset | None = None,
        around: Around = nullcontext,
    ) -> Derived:
        """Run once and differentiate the score in the image, and in the outputs of the tapped modules.

        Args:
            inputs: of the model.
            target: as for `capture`.
            taps: which modules' outputs get a zero added to be differentiated in.
            offset: what is kept of each of their calls; None differentiates in the image alone.
            around: the context that the network, but not the target, runs in.
        """
        score_of = as_score(target)
        model = self.model
        cut = planter(
            model, lambda: {name: module for name, module in model.named_modules() if taps(module)}, enter=True
        )()
        keep = self.keeps_graph(inputs)
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            image, rebuild = self.image_of(inputs)
            reads: dict[str, tuple[int, ...]] = {}

            def forward(image: Tensor | None, zero: Zero) -> tuple[Any, dict[str, Tensor]]:
                assert image is not None
                calls = _Calls(offset, zero, keep)
                outputs = cut.run(rebuild(image), calls.leave, calls.enter, around)
                reads.update(calls.reads)
                return outputs, calls.offsets

            def score(outputs: Any, _: dict[str, Tensor]) -> Tensor:
                return one_score_a_sample(score_of(outputs), (image.shape[0],))

            image = image.clone()
            derived = derive(
                forward,
                score,
                image=image,
                tapped=offset is not None and bool(cut.names),
                missing=self._lost,
                create_graph=keep,
            )
        assert derived.image_grad is not None
        return Derived(derived.outputs, derived.scores, image, derived.image_grad, derived.grads, derived.kept, reads)


class _Calls:
    """The calls of tapped modules in one run: an offset and a zero each; later calls of one module are numbered."""

    def __init__(self, offset: Offset | None, zero: Zero, keep: bool) -> None:
        self.offset, self.zero, self.keep = offset, zero, keep
        self.begun: list[tuple[tuple[int, ...], Tensor | None]] = []
        self.counts: Counter[str] = Counter()
        self.offsets: dict[str, Tensor] = {}
        self.reads: dict[str, tuple[int, ...]] = {}

    def enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Take a module's offset before it runs, since it may overwrite its input."""
        z = floating_leaves((args, kwargs))[0]
        offset = None if self.offset is None else self.offset(module, z if self.keep else z.detach())
        self.begun.append((tuple(z.shape), offset if self.keep or offset is None else offset.detach()))

    def leave(self, name: str, output: Tensor) -> Tensor:
        """Add a zero to the output of a module that has an offset."""
        shape, offset = self.begun.pop()
        self.counts[name] += 1
        key = name if self.counts[name] == 1 else f"{name}#{self.counts[name]}"
        self.reads[key] = shape
        if offset is None:
            return output
        self.offsets[key] = offset
        return output + self.zero(key, output)
