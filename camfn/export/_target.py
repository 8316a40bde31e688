"""The target of an exported map: the class that the file's user asks for, each sample's top class where it is -1."""

# tested in tests/export/test_program.py

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._shared.checks import describe
from .._shared.errors import CamfnError
from .._shared.value import frozen
from ..targets._score import Arithmetic, named_output


def logits_among(outputs: Any) -> Tensor:
    """Return the logits of a model's outputs, (B, K) or (B, K, *S): the tensor itself, or "logits" or "out" of several.

    Raises:
        CamfnError: the outputs hold no such tensor, or several without a name.
    """
    found = named_output(outputs, "logits", "out")
    if isinstance(found, (tuple, list)) and len(found) == 1:
        found = found[0]
    if isinstance(found, Tensor) and found.ndim >= 2 and found.is_floating_point():
        return found
    raise CamfnError(
        f"target='input' chooses a class among logits (B, K); the model returned {describe(outputs)}. Pass a target "
        "that reads its outputs, as target=lambda outputs: outputs[0][:, 281]; or wrap the model to return logits"
    )


@frozen
class asked_class(Arithmetic, tree=True):
    """The logit of the class that each sample asks for, its top class for -1; of a dense output, summed over places.

    A graph raises no error, so a class that the outputs lack goes to an index that is out of range: the runtime raises.

    Args:
        classes: (B,) of int64, or (1,) for all samples.
    """

    classes: Tensor

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        return self.pinned(outputs)(outputs)

    @property
    def pinned(self) -> Callable[[Any], chosen_class]:
        """Choose the classes at these outputs."""
        return lambda outputs: chosen_class(self._chosen(_summed(logits_among(outputs).detach())))

    def _chosen(self, logits: Tensor) -> Tensor:
        count = logits.shape[1]
        known = torch.where(self.classes < -1, count, self.classes)
        index = torch.where(known == -1, logits.argmax(1), known)
        return torch.arange(count, device=logits.device).index_select(0, index)


@frozen
class chosen_class(Arithmetic, tree=True):
    """The logit of a class of each sample; of a dense output, summed over places.

    Args:
        classes: (B,) of int64, each from 0 to K - 1.
    """

    takes_rows = True  # its arithmetic keeps the batch open under vmap

    classes: Tensor

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        logits = _summed(logits_among(outputs))
        hot = torch.arange(logits.shape[1], device=logits.device) == self.classes[:, None]
        return (logits * hot.to(logits.dtype)).sum(1)


def _summed(logits: Tensor) -> Tensor:
    """Sum a dense output over its places, (B, K)."""
    return logits if logits.ndim == 2 else logits.flatten(2).sum(2)
