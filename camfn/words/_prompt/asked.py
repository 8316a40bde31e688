"""What one call explains: the model, the prompt with its answer, and the words."""

# tested in tests/words/maps/test_explain.py

from __future__ import annotations

from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..._shared.errors import CamfnError
from .pieces import Piece


class Asked(NamedTuple):
    """What one call explains: shared by the engines of the methods.

    Attributes:
        model: the network.
        full: inputs of one forward on prompt and answer.
        pieces: of the pictures.
        prompt: ids of the prompt, (P,).
        ids: of the answer, (N,).
        groups: the tokens of each word.
    """

    model: nn.Module
    full: dict[str, Any]
    pieces: list[Piece]
    prompt: Tensor
    ids: Tensor
    groups: list[list[int]]

    @property
    def queries(self) -> Tensor:
        """Positions whose states predict the tokens of the answer, (N,)."""
        return torch.arange(len(self.prompt) - 1, len(self.prompt) - 1 + len(self.ids), device=self.ids.device)

    @property
    def inputs(self) -> dict[str, Any]:
        """Inputs of a forward that makes no logits but those of the answer, where the model can leave them out."""
        takes = "logits_to_keep" in signature(type(self.model).forward).parameters
        return {**self.full, "logits_to_keep": self.queries} if takes else self.full

    def vocabulary(self, outputs: Any) -> Tensor:
        """Return the log-probabilities of all words at each token of the answer, (N, V), in float32 at least."""
        logits: Tensor = outputs.logits[0]
        if logits.shape[0] != len(self.ids):
            logits = logits[self.queries.to(logits.device)]
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return wide.log_softmax(-1)

    def log_probabilities(self, outputs: Any) -> Tensor:
        """Return the log-probability of each token of the answer, (N,)."""
        found = self.vocabulary(outputs)
        return found.gather(1, self.ids.to(found.device)[:, None])[:, 0]

    def check_numbers(self, said: Tensor) -> None:
        """Refuse a model that says words with no probability."""
        if bool(said.isnan().any()):
            raise CamfnError(
                f"words: the logits of this {type(self.model).__name__} are NaN: pass inputs without NaN; a model in "
                "float16 may leave its range, so take bfloat16 or float32"
            )

    def of_words(self, of_tokens: Tensor) -> Tensor:
        """Sum what belongs to the tokens of each word, (N,) to (K,)."""
        return torch.stack([of_tokens[group].sum() for group in self.groups])


def check_settled(name: str, model: nn.Module) -> None:
    """Refuse a model in training mode, two runs of which differ by dropout."""
    if any(module.training for module in model.modules()):
        raise CamfnError(
            f"{name}: this {type(model).__name__} is in training mode, where two runs differ by dropout too: "
            "call model.eval()"
        )
