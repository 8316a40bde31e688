"""Targets for classifiers: logit, probability and log-probability of a class, and its contrast to other classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._shared.checks import describe, is_concrete, number, shapes_agree
from .._shared.errors import CamfnError
from .._shared.value import frozen
from ._score import (
    Arithmetic,
    Classes,
    checked_classes,
    class_index,
    class_tensor,
    logits_of,
    named_output,
    refuse_one_logit,
)


@frozen
class _OfClass(Arithmetic):
    """A target that reads a class from transformed logits (B, K)."""

    classes: Classes = None
    over_classes: ClassVar[bool] = True
    """Whether the score compares the classes with each other."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", checked_classes("classes", self.classes))

    def transformed(self, logits: Tensor) -> Tensor:
        """Turn the logits into what the class is read from, (B, K)."""
        return logits

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        logits = self._logits(outputs)
        return self.transformed(logits).gather(1, class_index(logits, self.classes))[:, 0]

    @property
    def pinned(self) -> Callable[[Any], _OfClass] | None:
        """Take the top class at these outputs; None where classes are given."""
        return self._pin if self.classes is None else None

    def _pin(self, outputs: Any) -> _OfClass:
        return type(self)(class_index(self._logits(outputs), None)[:, 0])

    def _logits(self, outputs: Any) -> Tensor:
        logits = logits_of(outputs)
        refuse_one_logit(logits, self.classes, over_classes=self.over_classes)
        return logits


@frozen
class class_score(_OfClass, tree=True):
    """Logit of a class, before softmax: the score that Grad-CAM (1610.02391) and most later methods explain.

    Args:
        classes: an int, a (B,) tensor or list with one class a sample, or None for each sample's top class.

    Returns:
        A target: outputs with logits (B, K) to (B,).

    Raises:
        CamfnError: a class out of range, a list of the wrong length, or outputs without (B, K) logits.

    Example:
        >>> import torch
        >>> class_score([2, 0])(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        tensor([3., 4.])
    """

    over_classes: ClassVar[bool] = False


@frozen
class class_probability(_OfClass, tree=True):
    """Softmax probability of a class. Where it is near 1, its gradient and so the map are near zero.

    Args:
        classes: an int, a (B,) tensor or list with one class a sample, or None for each sample's top class.

    Example:
        >>> import torch
        >>> class_probability(0)(torch.zeros(2, 4))
        tensor([0.2500, 0.2500])
    """

    def transformed(self, logits: Tensor) -> Tensor:
        """Turn the logits into what the class is read from, (B, K)."""
        return logits.softmax(-1)


@frozen
class class_log_probability(_OfClass, tree=True):
    """Log-probability of a class. Its gradient does not vanish where another class has the larger probability.

    Args:
        classes: an int, a (B,) tensor or list with one class a sample, or None for each sample's top class.

    Example:
        >>> import torch
        >>> class_log_probability(0)(torch.zeros(1, 4)).exp()
        tensor([0.2500])
    """

    def transformed(self, logits: Tensor) -> Tensor:
        """Turn the logits into what the class is read from, (B, K)."""
        return logits.log_softmax(-1)


@frozen
class rest(_OfClass, tree=True):
    """ReST, residual softmax target: `y_c + log softmax(y)_c` (ShapleyCAM, 2501.06261).

    Each sample has its own term. pytorch-grad-cam subtracts the cross-entropy averaged over the batch, so that a
    sample's score depends on the other samples.

    Args:
        classes: an int, a (B,) tensor or list with one class a sample, or None for each sample's top class.

    Example:
        >>> import torch
        >>> rest(0)(torch.zeros(1, 4)).exp()
        tensor([0.2500])
    """

    def transformed(self, logits: Tensor) -> Tensor:
        """Turn the logits into what the class is read from, (B, K)."""
        return logits + logits.log_softmax(-1)


@frozen
class binary_score(Arithmetic, tree=True):
    """Logit of a model with one output, (B,) or (B, 1), or its negative to explain the other class.

    Args:
        positive: True explains the class of a large logit, False the class of a small one.

    Raises:
        CamfnError: the outputs are not one number a sample.

    Example:
        >>> import torch
        >>> binary_score(positive=False)(torch.tensor([[3.0], [-1.0]]))
        tensor([-3.,  1.])
    """

    positive: bool = True

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        values = named_output(outputs, "logits")
        if not isinstance(values, Tensor) or values.ndim not in (1, 2) or values[..., None].shape[1] != 1:
            raise CamfnError(
                f"binary_score expects one logit a sample, shape (B,) or (B, 1); the model returned "
                f"{describe(outputs)}. For several classes: class_score(index)"
            )
        return values.reshape(-1) if self.positive else -values.reshape(-1)


@frozen
class contrast(Arithmetic, tree=True):
    """Difference between the logit of a class and the logits of similar classes (Finer-CAM, 2501.11309).

    The default form is `mean_d (y_c - gamma y_d)`; the weighted form `sum_d p_d (y_c - gamma y_d) / sum_d p_d`, where
    the probabilities `p_d` are constants: their gradient is not part of the score. (The authors' code and
    pytorch-grad-cam differentiate through them; the authors' weighted form also drops gamma.)

    Args:
        classes: the class to explain, as for `class_score`.
        against: classes to compare with: an int, a (n,) list, or a (B, n) tensor. None takes the `count` classes whose
            logits are nearest to the explained one's.
        gamma: strength of the comparison; 0 explains the class alone.
        count: how many similar classes to take.
        weighted: weight the comparisons by the probabilities of their classes.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[5.0, 4.0, 0.0]])
        >>> contrast(0, 1)(logits), contrast(count=1)(logits)
        (tensor([1.]), tensor([1.]))
    """

    classes: Classes = None
    against: int | Tensor | Sequence[int] | None = None
    _: KW_ONLY
    gamma: float | Tensor = 1.0
    count: int = 3
    weighted: bool = False

    def __post_init__(self) -> None:
        for name in ("classes", "against"):
            object.__setattr__(self, name, checked_classes(name, getattr(self, name)))
        if self.against is not None and not isinstance(self.against, Tensor) and not isinstance(self.classes, Tensor):
            _check_against(self.classes, self.against)
        if not isinstance(self.gamma, Tensor):  # of several strengths, `vmap` makes one
            number("gamma", self.gamma, advice="0 explains the class alone")
        if type(self.count) is not int or self.count < 1:
            raise CamfnError(f"count: expected at least one class to compare with, got {self.count}")

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        y = logits_of(outputs)
        chosen = y.gather(1, class_index(y, self.classes))
        others = self._others(y)
        if isinstance(self.gamma, Tensor):
            shapes_agree("contrast: gamma", self.gamma.shape, ())
        terms = chosen - self.gamma * y.gather(1, others)
        if not self.weighted:
            return terms.mean(1)
        p = y.detach().softmax(-1).gather(1, others)
        return (p * terms).sum(1) / p.sum(1)

    @property
    def pinned(self) -> Callable[[Any], contrast]:
        """Take the class and the classes to compare with at these outputs."""
        return self._pin

    def _pin(self, outputs: Any) -> contrast:
        y = logits_of(outputs)
        classes = class_index(y, self.classes)[:, 0]
        return contrast(classes, self._others(y), gamma=self.gamma, count=self.count, weighted=self.weighted)

    def _others(self, y: Tensor) -> Tensor:
        """Return the classes to compare with, (B, n): the caller's, or the `count` classes with the nearest logits."""
        batch, total = y.shape
        if self.against is not None:
            others = class_tensor(self.against, y)
            if others.ndim > 2 or (others.ndim == 2 and others.shape[0] != batch):
                raise CamfnError(f"against: expected shape (), (n,) or ({batch}, n); got {tuple(others.shape)}")
            _check_against(self.classes, others)
            return others if others.ndim == 2 else others.reshape(1, -1).expand(batch, -1)
        if total < 2:
            raise CamfnError(f"contrast needs at least one class to compare with: the model has {total}")
        own = class_index(y, self.classes)
        distance = (y - y.gather(1, own)).detach().abs()
        distance = distance.masked_fill(torch.arange(total, device=y.device) == own, torch.inf)
        return distance.topk(min(self.count, total - 1), dim=1, largest=False).indices


def _check_against(classes: Any, against: Any) -> None:
    """Refuse a class that is compared with twice or with itself, where the classes can be read without waiting."""
    if torch.compiler.is_compiling():
        return
    rows = torch.as_tensor(against)
    own = rows.new_empty((1, 0)) if classes is None else torch.as_tensor(classes).reshape(-1, 1)
    rows = rows if rows.ndim == 2 else rows.reshape(1, -1)
    if not all(values.device.type == "cpu" and is_concrete(values) for values in (rows, own)):
        return
    if not rows.shape[1]:
        raise CamfnError("against: expected at least one class to compare with, got none")
    in_order = rows.sort(1).values
    if bool((in_order[:, 1:] == in_order[:, :-1]).any()):
        raise CamfnError(f"against: expected each class once, got {rows.tolist()}")
    # classes that all samples are compared with may hold the class of one of them
    if own.numel() and len(own) in (1, len(rows)) and bool((rows == own).any()):
        raise CamfnError(f"against: the explained class is among the classes to compare it with, {rows.tolist()}")
