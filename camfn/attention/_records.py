"""What one attention of a forward gives, and all of them."""

# tested in tests/attention/test_capture.py

from __future__ import annotations

import html
from typing import Any, NamedTuple

from torch import Tensor

from .._shared.seen import picture, record_sheet, record_table, table


class AttentionRecord(NamedTuple):
    """One attention of a forward, `output = probabilities @ v`.

    `B` is the batch, or the number of windows where the network attends in windows; `H` counts heads, `Nq` queries,
    `Nk` keys. Queries and keys are as they enter their product: rotated, normalized, and scaled where the network
    scales them before it.

    Attributes:
        name: dotted name of the module in which it ran.
        probabilities: (B, H, Nq, Nk), as softmax returned them, before any dropout.
        grads: same shape, derivative of each sample's score; None in a record of `observe_attention`.
        q: (B, H, Nq, D).
        k: (B, H, Nk, D).
        v: (B, H, Nk, D).
        output: (B, H, Nq, D), before heads are joined and projected.
        output_grads: same shape, derivative of each sample's score; None in a record of `observe_attention`.
    """

    name: str
    probabilities: Tensor
    grads: Tensor | None
    q: Tensor
    k: Tensor
    v: Tensor
    output: Tensor
    output_grads: Tensor | None

    def _repr_html_(self) -> str:
        """Show shapes, ranges and the attention of the first samples in a notebook instead of all numbers."""
        return record_table(self._asdict(), ("probabilities", "grads"), "heads")

    def _repr_png_(self) -> bytes | None:
        """Draw the mean over heads of probabilities and their gradients of the first samples, a row each."""
        return record_sheet(self.probabilities, self.grads)


class Attended(NamedTuple):
    """The attentions of a forward, and its outputs.

    Attributes:
        records: one record an attention, in the order of execution.
        outputs: the model's outputs, unchanged.
    """

    records: list[AttentionRecord]
    outputs: Any

    def _repr_html_(self) -> str:
        """Show a line for each attention in a notebook: its name, shape and, as a picture, the mean over heads."""
        rows = []
        for record in self.records:
            data = record_sheet(record.probabilities)
            drawn = picture(data, f"probabilities of {record.name}") if data else ""
            rows.append([html.escape(record.name), str(tuple(record.probabilities.shape)), drawn])
        return table(["attention", "probabilities", "mean over heads: queries down, keys to the right"], rows)

    def _repr_png_(self) -> bytes | None:
        """Draw the mean over heads of the first samples' probabilities, a row for each attention."""
        return record_sheet(*(record.probabilities for record in self.records))
