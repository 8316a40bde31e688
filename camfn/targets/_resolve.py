"""Turn a class, a list of classes or a function into a function of the outputs, and pin it."""

# tested in tests/targets/test_classes.py

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from .._shared.checks import describe, length_matches, one_score_a_sample
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.value import frozen, shown
from .._shared.vocabulary import ScoreFn, Target
from ._classes import class_score
from ._score import Arithmetic, Classes, Combination, pin_score


def as_score(target: Target) -> ScoreFn:
    """Turn a target of any type into a function of the outputs.

    Args:
        target: None (each sample's top class), a class, a class a sample, a function, or a list with a class or a
            function for each sample.

    Raises:
        TypeError: the target has none of these types.

    Example:
        >>> import torch
        >>> as_score([1, lambda outputs: outputs.sum(1)])(torch.ones(2, 3))
        tensor([1., 3.])
    """
    if target is None or isinstance(target, (int, Tensor)):
        return class_score(target)
    if callable(target):
        return target
    if _is_class(target) or hasattr(target, "__array__"):  # a NumPy array
        return class_score(cast(Classes, target))
    if isinstance(target, (list, tuple)):
        if all(_is_class(item) for item in target):
            return class_score(cast(Classes, target))
        if all(_is_class(item) or callable(item) for item in target):
            return OneEach(tuple(as_score(item) for item in target))
    raise ArgumentTypeError(
        f"target: expected a class index, a tensor or list with one a sample, a function of the outputs, or None for "
        f"the top class; got {describe(target)}"
    )


def pin(target: Target, outputs: Any) -> ScoreFn:
    """Fix the choices that a target makes from the outputs (the top class, the classes to contrast with).

    Args:
        target: a target of any type, as for `as_score`.
        outputs: the model's outputs for the unperturbed inputs.

    Returns:
        A function of the outputs, (B,), whose choices are fixed.

    Example:
        >>> import torch
        >>> top = pin(None, torch.tensor([[1.0, 2.0]]))
        >>> top(torch.tensor([[5.0, 3.0]]))
        tensor([3.])
    """
    return pin_score(as_score(target), outputs)


def _is_class(value: Any) -> bool:
    """Whether a value is one class: an int of Python or NumPy, or a tensor without dimensions."""
    return hasattr(value, "__index__") and not getattr(value, "shape", ())


@frozen
class OneEach(Combination, tree=True):
    """The target that scores sample i with the i-th of its parts."""

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample by its own part; refuse parts that read one sample's outputs in place of a batch's."""
        scores = super().__call__(outputs)
        for part in self.parts:
            if not isinstance(part, Arithmetic):
                _refuse_one_sample(part, outputs)
        return scores

    def formula(self, *columns: Tensor) -> Tensor:
        """Take the i-th score of the i-th part."""
        count = len(self.parts)
        for column in columns:
            if not isinstance(column, Tensor) or column.ndim != 1:
                one_score_a_sample(column, (count,))
            length_matches("targets", count, column.shape[0])
        return torch.stack([column[i] for i, column in enumerate(columns)])

    def __repr__(self) -> str:
        return f"as_score([{', '.join(map(shown, self.parts))}])"


def _refuse_one_sample(part: ScoreFn, outputs: Any) -> None:
    """Refuse a function that takes the outputs (K,) of one sample: of a batch, it would read other samples."""
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or not outputs.shape[0]:
        return
    try:
        alone = part(outputs[:1])
        fits = isinstance(alone, Tensor) and alone.ndim == 1 and alone.shape[0] == 1
    except IndexError:
        fits = False
    if not fits:
        raise CamfnError(
            f"target: each function of a list takes the outputs of the whole batch, here {tuple(outputs.shape)}, and "
            "returns one number a sample; one of them reads the outputs of a single sample. For example "
            "[lambda outputs: outputs[:, 281], 3], or a list of classes alone, [281, 3]"
        )
