"""Rollouts whose matrices are formed some rows at a time equal those of whole records."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camfn import CaptureError, attention
from camfn.attention import _long, _watch
from camfn.attention._long import gradient_rollout_of_rows, rollout_of_rows
from tests.attention.test_each import Causal

X = torch.randn(1, 7, 8, generator=torch.Generator().manual_seed(1))
ROWS = torch.tensor([6, 2, 4])


@pytest.fixture(params=[{}, {"fused": False}, {"masked": True}], ids=str)
def net(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return Causal(**request.param).eval()


@pytest.fixture(params=[1, 30, 10**6])
def numbers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one row, of two, and of all."""
    monkeypatch.setattr(_long, "NUMBERS", request.param)


def scores(outputs: Tensor) -> Tensor:
    return outputs[0, ROWS, torch.tensor([1, 3, 0])]


@pytest.mark.usefixtures("numbers")
def test_gradient_rollout_is_that_of_whole_records(net: nn.Module) -> None:
    found = gradient_rollout_of_rows(net, None, X, ROWS, scores)
    for k, row in enumerate(found):

        def score(outputs: Tensor, k: int = k) -> Tensor:
            return scores(outputs)[k][None]

        records = attention.capture_attention(net)(X, score).records
        expected = attention.gradient_rollout(records, prefix=0, query=int(ROWS[k]))[0]
        torch.testing.assert_close(row, expected, atol=1e-7, rtol=1e-5)
        assert row.any()


@pytest.mark.usefixtures("numbers")
def test_rollout_is_that_of_whole_records(net: nn.Module) -> None:
    kept: list[Tensor] = []
    found = torch.stack(rollout_of_rows(net, None, X, ROWS, kept.append))
    expected = attention.attention_rollout(attention.observe_attention(net)(X).records, prefix=0, query=ROWS)[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-5)
    assert torch.equal(kept[0], net(X))


def test_no_matrix_over_all_tokens_is_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    net, formed = Causal().eval(), list[torch.Size]()
    inner = _watch.probabilities

    def watched(*args: Any, **options: Any) -> Tensor:
        formed.append((found := inner(*args, **options)).shape)
        return found

    monkeypatch.setattr(_watch, "probabilities", watched)
    monkeypatch.setattr(_long, "NUMBERS", 2 * 7 * 3)  # three rows of two heads
    gradient_rollout_of_rows(net, None, X, ROWS, scores)
    assert max(shape[-2] for shape in formed) == 3


def test_the_weights_of_a_multi_head_attention_are_at_hand() -> None:
    class Weighs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y, weights = self.attend(x, x, x, need_weights=True)
            return y + weights.sum(-1, keepdim=True)  # type: ignore[no-any-return]

    net = Weighs().eval()
    kept: list[Tensor] = []
    rollout_of_rows(net, None, X, ROWS, kept.append)
    torch.testing.assert_close(kept[0], net(X))


class Pooled(Causal):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        pooled: Tensor = functional.scaled_dot_product_attention(q, k[..., ::2, :], v[..., ::2, :])
        return pooled


def test_what_has_no_rollout_is_refused() -> None:
    with pytest.raises(CaptureError, match="same tokens in every layer, got 7 x 4: name layers of one tower"):
        rollout_of_rows(Pooled().eval(), None, X, ROWS, lambda outputs: None)
    with pytest.raises(CaptureError, match="the score has no gradient"):
        gradient_rollout_of_rows(Causal().eval(), None, X, ROWS, lambda outputs: outputs[0, ROWS, 0].detach() + X.sum())
