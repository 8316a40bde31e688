"""Rows of attention that are recorded alone, and the gradients of several scores of one forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camfn import CamfnError, CaptureError
from camfn.attention import AttentionRecord, capture_attention, le_grad, observe_attention
from camfn.attention._each import attended_each


class Causal(nn.Module):
    """Two blocks of causal attention with fewer keys than queries' heads, fused or written out, and a head."""

    def __init__(self, fused: bool = True, masked: bool = False) -> None:
        super().__init__()
        self.fused, self.masked = fused, masked
        self.blocks = nn.ModuleList(nn.ModuleDict({"qkv": nn.Linear(8, 24), "out": nn.Linear(8, 8)}) for _ in "ab")
        self.head = nn.Linear(8, 5)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        allowed = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).tril()
        if not self.fused:
            scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~allowed, float("-inf"))
            written: Tensor = scores.softmax(-1) @ v
            return written
        if self.masked:
            return functional.scaled_dot_product_attention(q, k, v, allowed[None, None])
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            q, k, v = (one.unflatten(-1, (2, 4)).transpose(1, 2) for one in block["qkv"](x).chunk(3, -1))  # type: ignore[index]
            x = x + block["out"](self.attend(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[index]
        found: Tensor = self.head(x)
        return found


@pytest.fixture(params=[{}, {"fused": False}, {"masked": True}], ids=str)
def net(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return Causal(**request.param).eval()


X = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
ROWS = torch.tensor([4, 2])


def test_rows_are_those_of_the_whole_record(net: nn.Module) -> None:
    def score(outputs: Tensor) -> Tensor:
        return outputs[:, 4, 1] + outputs[:, 2, 3]

    whole = capture_attention(net)(X, score)
    some = capture_attention(net, queries=ROWS)(X, score)
    torch.testing.assert_close(some.outputs, whole.outputs)
    for one, other in zip(some.records, whole.records, strict=True):
        for part in ("probabilities", "grads", "q", "output", "output_grads"):
            torch.testing.assert_close(getattr(one, part), getattr(other, part)[:, :, ROWS])
        torch.testing.assert_close((one.k, one.v), (other.k, other.v))
    seen = observe_attention(net, queries=[4, 2])(X)
    assert torch.equal(seen.records[0].probabilities, some.records[0].probabilities)


def test_each_score_has_the_gradients_of_its_own_capture(net: nn.Module) -> None:
    def scores(outputs: Tensor) -> Tensor:
        return torch.stack([outputs[0, 4, 1], outputs[0, 2, 3]])

    def keep(n: int, records: Sequence[AttentionRecord]) -> Tensor:
        assert records[1].grads is not None
        return records[1].grads

    found = attended_each(net, None, X[:1], scores, keep)
    first = capture_attention(net)(X[:1], lambda outputs: outputs[:, 4, 1]).records[1].grads
    second = capture_attention(net)(X[:1], lambda outputs: outputs[:, 2, 3]).records[1].grads
    torch.testing.assert_close(found, [first, second])
    some = attended_each(net, None, X[:1], scores, keep, queries=ROWS)
    torch.testing.assert_close(some[0], found[0][:, :, ROWS])


def test_a_score_that_reads_no_attention_is_refused(net: nn.Module) -> None:
    with pytest.raises(CaptureError, match="gradient"):
        attended_each(net, None, X[:1], lambda outputs: outputs.detach()[0, :1, 0], lambda n, records: torch.zeros(1))


@pytest.mark.parametrize("queries", ["all", [-1], [1, 1], [[0]], 3, [0.5]])
def test_rows_are_checked(queries: Any) -> None:
    with pytest.raises(CamfnError, match=r"queries|query"):
        observe_attention(Causal(), queries=queries)


def test_a_row_that_an_attention_does_not_have_is_refused(net: nn.Module) -> None:
    with pytest.raises(CaptureError, match="expected rows from 0 to 5"):
        observe_attention(net, queries=[6])(X)


def test_le_grad_takes_rows_of_all_layers(net: nn.Module) -> None:
    whole, some = (capture_attention(net, queries=at)(X, lambda y: y[:, 4, 1]).records for at in (None, ROWS))
    torch.testing.assert_close(le_grad(some, prefix=0, query=0), le_grad(whole, prefix=0, query=4))
