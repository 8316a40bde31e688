"""What one attention of a forward gives, and all of them."""

# tested in tests/attention/test_capture.py

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


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


class Attended(NamedTuple):
    """The attentions of a forward, and its outputs.

    Attributes:
        records: one record an attention, in the order of execution.
        outputs: the model's outputs, unchanged.
    """

    records: list[AttentionRecord]
    outputs: Any
