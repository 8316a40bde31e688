"""Score: a target that can be added to others, pinned to some outputs, and moved with an image."""

# tested in tests/targets/test_classes.py

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import index
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .._shared.checks import class_in_range, describe, length_matches
from .._shared.devices import tensor_on
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.value import Value, frozen, shown
from .._shared.vocabulary import ScoreFn

Move: TypeAlias = Callable[[Tensor], Tensor]
"""Moves a mask (B, *S) on an image in the way that the image is moved."""

Classes: TypeAlias = "int | Tensor | Sequence[int] | None"
"""The top class of each sample, one class for all, or a class a sample."""


class Arithmetic(Value):
    """The base of all targets of this package: a frozen dataclass that can be added, subtracted and scaled.

    A target of your own may be one too, and then prints, pickles and compares as these do; any function of the outputs
    is a target as well.
    """

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        raise NotImplementedError

    @property
    def pinned(self) -> Callable[[Any], ScoreFn] | None:
        """Function from a model's outputs to the target whose choices are fixed at these outputs.

        Choices are the top class and the classes to contrast with. Perturbation methods call `pinned` with the outputs
        of the unperturbed inputs, so that each perturbed forward is scored by the same classes. None where the target
        makes no choice. Any callable may have this attribute.
        """
        return None

    @property
    def moved(self) -> Callable[[Move], ScoreFn] | None:
        """If the target refers to image positions (a mask, a box): function from a `Move` to the target moved by it.

        `transforms.augment` calls it; any callable may have this attribute. None elsewhere.
        """
        return None

    def __add__(self, other: ScoreFn) -> Arithmetic:
        """Sum of two targets."""
        _require_target(other)
        return Sum((self, other))

    def __mul__(self, factor: float | Tensor) -> Arithmetic:
        """Multiple of a target."""
        if not isinstance(factor, (int, float, Tensor)):
            raise ArgumentTypeError(f"a target can be multiplied by a number only, got {describe(factor)}")
        return Multiple((self,), factor)

    __rmul__ = __mul__

    def __neg__(self) -> Arithmetic:
        """Negative of the target, for a counterfactual map (Grad-CAM, 1610.02391, section 3.3)."""
        return self * -1.0

    def __sub__(self, other: ScoreFn) -> Arithmetic:
        """Difference of two targets."""
        _require_target(other)
        return self + -(other if isinstance(other, Arithmetic) else Score(other))

    def log(self) -> Arithmetic:
        """Logarithm of a positive target: with `class_score`, the log-logit of BagCAMs (2207.07818)."""
        return Logarithm((self,))


@frozen
class Score(Arithmetic, tree=True):
    """A target of your own that can be added, subtracted and scaled.

    Args:
        function: model outputs to (B,) scores.
        pinned: function from a model's outputs to the target with its choices fixed at these outputs; None where the
            target makes no choice.
        moved: if the target refers to image positions: function from a `Move` to the target for the moved image.

    Example:
        >>> import torch
        >>> largest = Score(lambda outputs: outputs.amax(1))
        >>> (2 * largest)(torch.tensor([[1.0, 3.0]]))
        tensor([6.])
    """

    function: ScoreFn
    pinned: Callable[[Any], ScoreFn] | None = None
    moved: Callable[[Move], ScoreFn] | None = None

    def __post_init__(self) -> None:
        _require_target(self.function)

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        return self.function(outputs)


@frozen
class Combination(Arithmetic):
    """What a formula computes from other targets; to pin or move it pins or moves each of these."""

    parts: tuple[ScoreFn, ...]

    def formula(self, *columns: Tensor) -> Tensor:
        """Compute the score from the scores of the parts."""
        raise NotImplementedError

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        return self.formula(*[part(outputs) for part in self.parts])

    @property
    def pinned(self) -> Callable[[Any], ScoreFn]:
        """Pin each part."""
        return self._pin

    @property
    def moved(self) -> Callable[[Move], ScoreFn] | None:
        """Move each part, if one of them has places."""
        return self._move if any(getattr(part, "moved", None) for part in self.parts) else None

    def _pin(self, outputs: Any) -> Combination:
        return replace(self, parts=tuple(pin_score(part, outputs) for part in self.parts))

    def _move(self, move: Move) -> Combination:
        return replace(self, parts=tuple(moved(part, move) for part in self.parts))


@frozen
class Sum(Combination, tree=True):
    """Sum of two targets."""

    def formula(self, *columns: Tensor) -> Tensor:
        """Add the scores."""
        one, other = columns
        return one + other

    def __repr__(self) -> str:
        one, other = self.parts
        if isinstance(other, Multiple) and isinstance(other.factor, (int, float)) and other.factor < 0:
            taken = other.parts[0] if _is_minus_one(other.factor) else Multiple(other.parts, -other.factor)
            return f"{shown(one)} - ({taken!r})" if isinstance(taken, Sum) else f"{shown(one)} - {shown(taken)}"
        return f"{shown(one)} + {shown(other)}"


@frozen
class Multiple(Combination, tree=True):
    """A target times a number; a tensor as the factor is a leaf that `vmap` can go over."""

    factor: float | Tensor

    def formula(self, *columns: Tensor) -> Tensor:
        """Multiply the score."""
        return columns[0] * self.factor

    def __repr__(self) -> str:
        (part,) = self.parts
        text = f"({part!r})" if isinstance(part, Sum) else shown(part)
        return f"-{text}" if _is_minus_one(self.factor) else f"{shown(self.factor)} * {text}"


def _is_minus_one(factor: float | Tensor) -> bool:
    return isinstance(factor, (int, float)) and factor == -1


@frozen
class Logarithm(Combination, tree=True):
    """Logarithm of a positive target."""

    def formula(self, *columns: Tensor) -> Tensor:
        """Take the logarithm."""
        return columns[0].log()

    def __repr__(self) -> str:
        (part,) = self.parts
        return f"({part!r}).log()" if isinstance(part, (Sum, Multiple)) else f"{shown(part)}.log()"


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


def pin_score(score: ScoreFn, outputs: Any) -> ScoreFn:
    """Fix the choices of a function of the outputs at these outputs; one without choices is returned as it is."""
    choose = getattr(score, "pinned", None)
    fixed: ScoreFn = choose(outputs) if choose else score
    return fixed


def named_output(outputs: Any, *names: str) -> Any:
    """Return the first of these keys or attributes that the outputs have; without any, the outputs themselves."""
    for name in names:
        value = outputs.get(name) if isinstance(outputs, dict) else getattr(outputs, name, None)
        if value is not None:
            return value
    return outputs


def checked_classes(argument: str, given: Any) -> Any:
    """Return classes as a value holds them: None, an int, a tensor, a tuple of ints; refuse what are no integers."""
    if given is None or type(given) is int:
        return given
    if isinstance(given, Tensor):
        if given.is_floating_point() or given.is_complex() or given.dtype is torch.bool:
            raise CamfnError(f"{argument}: expected integers, got {describe(given)} of {given.dtype}")
        return given
    if hasattr(given, "__array__") and given.ndim:
        return checked_classes(argument, torch.as_tensor(given))
    if isinstance(given, (list, tuple)) and any(isinstance(item, Tensor) for item in given):
        if not all(isinstance(item, Tensor) and item.shape == given[0].shape for item in given):
            raise ArgumentTypeError(f"{argument}: expected a list of integers, got {describe(given)}")
        return checked_classes(argument, torch.stack(list(given)))
    if isinstance(given, (list, tuple)):
        lengths = {len(item) if isinstance(item, (list, tuple)) else -1 for item in given}
        if len(lengths) > 1:
            raise ArgumentTypeError(f"{argument}: expected a list of integers, got {given!r:.60}")
        return tuple(checked_classes(argument, _listed(argument, item)) for item in given)
    # an integer of Python, NumPy or a library like it
    if type(given) is bool or not hasattr(given, "__index__"):
        raise ArgumentTypeError(
            f"{argument}: expected integers: an int, a list or tensor of them, or None; got {describe(given)}"
        )
    return index(given)


def _listed(argument: str, given: Any) -> Any:
    """Refuse None in a list of classes: a target takes the top class of all samples, or of none."""
    if given is None:
        raise ArgumentTypeError(f"{argument}: expected a list of integers, got None in it; None alone is the top class")
    return given


def class_index(logits: Tensor, classes: Classes) -> Tensor:
    """Return one class a sample, (B, 1): the given classes, or each sample's top class."""
    batch, count = logits.shape
    if classes is None:
        return logits.detach().argmax(1, keepdim=True)
    if isinstance(classes, int):
        class_in_range(classes, count)
        return torch.full((batch, 1), classes, device=logits.device)
    chosen = class_tensor(classes, logits)
    if chosen.ndim > 1:
        raise CamfnError(f"classes: expected integers, shape () or ({batch},); got {tuple(chosen.shape)}")
    if chosen.ndim:
        length_matches("classes", chosen.shape[0], batch)
    return chosen.expand(batch)[:, None]


def class_tensor(classes: Tensor | Sequence[Any] | int, logits: Tensor, *, waits: bool = False) -> Tensor:
    """Return checked classes as a tensor beside the logits (B, K); refuse a class out of range.

    With `waits` classes on an accelerator are read, too: needed where nothing gathers by them.
    """
    chosen = torch.as_tensor(classes)
    class_in_range(chosen, logits.shape[1], waits=waits)
    return tensor_on(chosen, logits.device).long()


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
