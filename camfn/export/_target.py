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

    Args:
        classes: (B,) of int64.
    """

    classes: Tensor

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        logits = logits_among(outputs)
        chosen = self._chosen(logits)[:, None]
        return (_summed(logits) * (torch.arange(logits.shape[1], device=logits.device) == chosen).to(logits.dtype)).sum(
            1
        )

    @property
    def pinned(self) -> Callable[[Any], asked_class]:
        """Choose the top classes at these outputs."""
        return lambda outputs: asked_class(self._chosen(logits_among(outputs)))

    def _chosen(self, logits: Tensor) -> Tensor:
        return torch.where(self.classes < 0, _summed(logits.detach()).argmax(1), self.classes)


def _summed(logits: Tensor) -> Tensor:
    """Sum a dense output over its places, (B, K)."""
    return logits if logits.ndim == 2 else logits.flatten(2).sum(2)
