"""Score: a target that can be added to others, pinned to some outputs, and moved with an image."""

# tested in tests/targets/test_classes.py

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .._shared.checks import class_in_range, describe, length_matches
from .._shared.devices import tensor_on
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.vocabulary import ScoreFn

Move: TypeAlias = Callable[[Tensor], Tensor]
"""Moves a mask (B, *S) on an image in the way that the image is moved."""

Classes: TypeAlias = "int | Tensor | Sequence[int] | None"
"""The top class of each sample, one class for all, or a class a sample."""


class Score:
    """A target that can be added, subtracted and scaled.

    Attributes:
        function: model outputs to (B,) scores.
        pinned: function from a model's outputs to the target with its choices fixed at these outputs: the top class,
            the classes to contrast with. Perturbation methods call it with the outputs of the unperturbed inputs, so
            that each perturbed forward is scored by the same classes. None where the target makes no choice.
        moved: if the target refers to image positions (a mask, a box): function from a `Move` to the target for the
            moved image. `transforms.augment` calls it; any callable may have this attribute. None elsewhere.
    """

    # a plain class: not every compiler that camfn supports can make a frozen dataclass while tracing
    def __init__(
        self,
        function: ScoreFn,
        pinned: Callable[[Any], ScoreFn] | None = None,
        moved: Callable[[Move], ScoreFn] | None = None,
    ) -> None:
        self.function = function
        self.pinned = pinned
        self.moved = moved

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        return self.function(outputs)

    def __add__(self, other: ScoreFn) -> Score:
        """Sum of two targets."""
        _require_target(other)
        return combined([self, other], lambda one, two: one + two)

    def __mul__(self, factor: float) -> Score:
        """Multiple of a target."""
        if callable(factor):
            raise ArgumentTypeError("a target can be multiplied by a number only, not by another target")
        return combined([self], lambda one: one * factor)

    __rmul__ = __mul__

    def __neg__(self) -> Score:
        """Negative of the target, for a counterfactual map (Grad-CAM, 1610.02391, section 3.3)."""
        return self * -1.0

    def __sub__(self, other: ScoreFn) -> Score:
        """Difference of two targets."""
        _require_target(other)
        return self + -(other if isinstance(other, Score) else Score(other))

    def log(self) -> Score:
        """Logarithm of a positive target: with `class_score`, the log-logit of BagCAMs (2207.07818)."""
        return combined([self], lambda one: one.log())


def moved(target: ScoreFn, move: Move) -> ScoreFn:
    """Return the target for a moved image; a target that refers to no image positions is returned unchanged.

    Args:
        target: a function of the outputs; if it refers to image positions, it has the attribute `moved` of `Score`.
        move: moves a mask (B, *S) in the way that the image was moved.

    Example:
        >>> import torch
        >>> masked = lambda mask: Score(lambda y: (y * mask).sum(1), moved=lambda move: masked(move(mask)))
        >>> left = masked(torch.tensor([[1.0, 0.0]]))
        >>> moved(left, lambda mask: mask.flip(-1))(torch.tensor([[3.0, 4.0]]))
        tensor([4.])
    """
    move_target = getattr(target, "moved", None)
    return move_target(move) if move_target else target


def _require_target(other: Any) -> None:
    """Raise if the other operand of a sum is no target."""
    if not callable(other):
        raise ArgumentTypeError(
            f"only a target can be added to a target, got {describe(other)}; a constant would not change the map. "
            "For a multiple: 2 * class_score(281)"
        )


def combined(parts: Sequence[ScoreFn], formula: Callable[..., Tensor]) -> Score:
    """Build the target that a formula computes from other targets; to pin or move it pins or moves each of these."""
    has_positions = any(getattr(part, "moved", None) for part in parts)
    return Score(
        lambda outputs: formula(*[part(outputs) for part in parts]),
        lambda outputs: combined([_pinned(part, outputs) for part in parts], formula),
        (lambda move: combined([moved(part, move) for part in parts], formula)) if has_positions else None,
    )


def _pinned(part: ScoreFn, outputs: Any) -> ScoreFn:
    """Fix the choices of one target at these outputs."""
    return part.pinned(outputs) if isinstance(part, Score) and part.pinned else part


def named_output(outputs: Any, *names: str) -> Any:
    """Return the first of these keys or attributes that the outputs have; without any, the outputs themselves."""
    for name in names:
        value = outputs.get(name) if isinstance(outputs, dict) else getattr(outputs, name, None)
        if value is not None:
            return value
    return outputs


def class_index(logits: Tensor, classes: Classes) -> Tensor:
    """Return one class a sample, (B, 1): the given classes, or each sample's top class."""
    batch, count = logits.shape
    if classes is None:
        return logits.detach().argmax(1, keepdim=True)
    if isinstance(classes, int) and not isinstance(classes, bool):
        class_in_range(classes, count)
        return torch.full((batch, 1), classes, device=logits.device)
    index = class_indices("classes", classes, logits, lambda: f"() or ({batch},)", none=batch == 0)
    if index.ndim > 1:
        raise CamfnError(f"classes: expected integers, shape () or ({batch},); got {tuple(index.shape)}")
    if index.ndim:
        length_matches("classes", index.shape[0], batch)
    return index.expand(batch)[:, None]


def class_indices(
    argument: str, given: Any, logits: Tensor, shape: Callable[[], str], *, none: bool = False, waits: bool = False
) -> Tensor:
    """Return class indices as an integer tensor; an error names the argument and the shape expected.

    Args:
        argument: the name of the argument.
        given: class indices.
        logits: (B, K).
        shape: makes the text of the shape; a text made ahead of the error would fix the sizes in it while compiling.
        none: whether no index at all is right, as for a batch of none.
        waits: whether to read indices on an accelerator, too: needed where nothing gathers by them.
    """
    expected = "a class index, or integers of shape"
    if isinstance(given, (list, tuple)) and any(isinstance(one, bool) for one in given):
        raise ArgumentTypeError(f"{argument}: expected {expected} {shape()}; got bools: {list(given)[:8]}")
    try:
        index = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(f"{argument}: expected {expected} {shape()}; got {describe(given)}") from error
    empty = any(size == 0 for size in index.shape)
    if empty and none:
        return tensor_on(index, logits.device).long()
    if empty or index.is_floating_point() or index.is_complex() or index.dtype is torch.bool:
        raise CamfnError(f"{argument}: expected integers, shape {shape()}; got {tuple(index.shape)} of {index.dtype}")
    class_in_range(index, logits.shape[1], waits=waits)
    return tensor_on(index, logits.device).long()


def refuse_one_logit(logits: Tensor, classes: Classes, *, over_classes: bool) -> None:
    """Refuse one logit a sample, (B, 1), for a target that chooses among classes or compares them.

    The top class of one logit is always the first, also where it is negative, and its softmax is always 1.
    """
    if logits.shape[1] == 1 and (over_classes or classes is None):
        raise CamfnError(
            f"expected logits of several classes, (B, K), got one logit a sample, {tuple(logits.shape)}, which has no "
            "top class, and whose softmax is always 1. Pass target=camfn.targets.binary_score() for what raises the "
            "logit, or binary_score(positive=False) for what lowers it"
        )


def logits_of(outputs: Any) -> Tensor:
    """Find the (B, K) logits in a model's outputs: the tensor itself, or the key or attribute `logits`.

    Raises:
        CamfnError: the outputs hold no such logits; the error says how to pass a function instead.

    Example:
        >>> import torch
        >>> logits_of({"logits": torch.zeros(2, 5), "loss": None}).shape
        torch.Size([2, 5])
    """
    logits = named_output(outputs, "logits")
    if isinstance(logits, Tensor) and logits.ndim == 2:
        return logits
    raise CamfnError(
        f"a class index needs logits of shape (B, K); the model returned {describe(outputs)}. Pass a function that "
        "gives one number a sample, such as target=lambda outputs: outputs[0][:, 281] for a tuple, or "
        "target=lambda outputs: outputs[:, 15].mean((1, 2)) for a segmentation map"
    )
