"""Targets for classifiers: logit, probability and log-probability of a class, and its contrast to other classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._shared.checks import describe
from .._shared.errors import CamfnError
from .._shared.vocabulary import ScoreFn
from ._score import Classes, Score, class_index, class_indices, logits_of, named_output, refuse_one_logit


def class_score(classes: Classes = None) -> Score:
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
    return _of_class(classes, lambda logits: logits, over_classes=False)


def class_probability(classes: Classes = None) -> Score:
    """Softmax probability of a class. Where it is near 1, its gradient and so the map are near zero.

    Args:
        classes: an int, a (B,) tensor or list with one class a sample, or None for each sample's top class.

    Example:
        >>> import torch
        >>> class_probability(0)(torch.zeros(2, 4))
        tensor([0.2500, 0.2500])
    """
    return _of_class(classes, lambda logits: logits.softmax(-1))


def class_log_probability(classes: Classes = None) -> Score:
    """Log-probability of a class. Its gradient does not vanish where another class has the larger probability.

    Args:
        classes: an int, a (B,) tensor or list with one class a sample, or None for each sample's top class.

    Example:
        >>> import torch
        >>> class_log_probability(0)(torch.zeros(1, 4)).exp()
        tensor([0.2500])
    """
    return _of_class(classes, lambda logits: logits.log_softmax(-1))


def rest(classes: Classes = None) -> Score:
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
    return _of_class(classes, lambda logits: logits + logits.log_softmax(-1))


def binary_score(positive: bool = True) -> Score:
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

    def score(outputs: Any) -> Tensor:
        values = named_output(outputs, "logits")
        if not isinstance(values, Tensor) or values.ndim not in (1, 2) or values[..., None].shape[1] != 1:
            raise CamfnError(
                f"binary_score expects one logit a sample, shape (B,) or (B, 1); the model returned "
                f"{describe(outputs)}. For several classes: class_score(index)"
            )
        return values.reshape(-1) if positive else -values.reshape(-1)

    return Score(score)


def contrast(
    classes: Classes = None,
    against: int | Tensor | Sequence[int] | None = None,
    *,
    gamma: float = 1.0,
    count: int = 3,
    weighted: bool = False,
) -> Score:
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

    def score(outputs: Any) -> Tensor:
        y = logits_of(outputs)
        chosen = y.gather(1, class_index(y, classes))
        others = _compared_classes(y, chosen, classes, against, count)
        terms = chosen - gamma * y.gather(1, others)
        if not weighted:
            return terms.mean(1)
        p = y.detach().softmax(-1).gather(1, others)
        return (p * terms).sum(1) / p.sum(1)

    def pinned(outputs: Any) -> ScoreFn:
        y = logits_of(outputs)
        index = class_index(y, classes)
        others = _compared_classes(y, y.gather(1, index), index[:, 0], against, count)
        return contrast(index[:, 0], others, gamma=gamma, weighted=weighted)

    return Score(score, pinned)


def _of_class(classes: Classes, transform: Callable[[Tensor], Tensor], *, over_classes: bool = True) -> Score:
    """Build the target that reads a class from transformed logits (B, K)."""

    def score(outputs: Any) -> Tensor:
        logits = logits_of(outputs)
        refuse_one_logit(logits, classes, over_classes=over_classes)
        return transform(logits).gather(1, class_index(logits, classes))[:, 0]

    def pinned(outputs: Any) -> ScoreFn:
        logits = logits_of(outputs)
        refuse_one_logit(logits, classes, over_classes=over_classes)
        return _of_class(class_index(logits, classes)[:, 0], transform, over_classes=over_classes)

    return Score(score, pinned if classes is None else None)


def _compared_classes(y: Tensor, chosen: Tensor, classes: Classes, against: Any, count: int) -> Tensor:
    """Return the classes to compare with, (B, n): the caller's, or the `count` classes with the nearest logits."""
    batch, total = y.shape
    if against is not None:
        others = class_indices("against", against, y, lambda: f"(), (n,) or ({batch}, n)")
        if others.ndim < 2:
            return others.reshape(1, -1).expand(batch, -1)
        if others.ndim > 2 or others.shape[0] != batch:
            raise CamfnError(f"against: expected shape (), (n,) or ({batch}, n); got {tuple(others.shape)}")
        return others
    if min(count, total - 1) < 1:
        raise CamfnError(f"contrast needs at least one class to compare with: count is {count}, of {total} classes")
    distance = (y - chosen).detach().abs()
    own = torch.arange(total, device=y.device) == class_index(y, classes)
    return distance.masked_fill(own, torch.inf).topk(min(count, total - 1), dim=1, largest=False).indices
