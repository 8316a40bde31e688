"""Attention of the language model over the places of the pictures, for every word of an answer."""

# tested in tests/words/maps/test_attention.py

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ... import attention
from ..._shared.errors import CamfnError, CaptureError
from ...attention._each import attended_each
from ...attention._long import gradient_rollout_of_rows, rollout_of_rows
from ...attention._records import AttentionRecord
from .._prompt.asked import Asked
from .layers import ROADS, blocks_of, decoder_name, head_of

_PRODUCTS = (attention.attention_rollout, attention.gradient_rollout)


def by_attention(asked: Asked, method: Callable[..., Tensor], layer: Any) -> tuple[list[Tensor], Tensor]:
    """Return the maps of each span, and the log-probabilities of the tokens."""
    plain: Any = method
    while isinstance(plain, partial):
        plain = plain.func
    said: list[Tensor] = []
    layers = _layers(asked, layer, every=plain in (*_PRODUCTS, attention.le_grad))
    engine = {attention.le_grad: _le_grad, attention.gradient_rollout: _each, attention.grad_eclip: _each}
    chosen = engine.get(plain, _forward_only)
    if method in _PRODUCTS and not any(module.training for module in asked.model.modules()):
        chosen = _some_rows_at_a_time
    rows = chosen(asked, method, plain, layers, said)
    joined = torch.stack([rows[group].sum(0) for group in asked.groups])
    if plain in (attention.raw_attention, attention.attention_rollout):
        joined = joined / torch.tensor([len(group) for group in asked.groups], device=joined.device)[:, None]
    each = torch.split(joined, [len(piece.span.positions) for piece in asked.pieces], 1)
    maps = [one.reshape(len(one), *piece.span.grid) for one, piece in zip(each, asked.pieces)]
    return maps, said[0]


def _layers(asked: Asked, layer: Any, every: bool) -> list[str]:
    """Return the blocks of the language model whose attention is read: all of them, the last, or the layer's."""
    decoder = decoder_name(asked.model)
    if layer is None:
        blocks = blocks_of(asked.model, decoder)
        return blocks if every else blocks[-1:]
    if layer in ROADS or isinstance(layer, nn.Module) or not str(layer).startswith(decoder):
        raise CaptureError(
            f"words: attention over places and words is that of the language model: expected layer=None or a name that "
            f"begins with {decoder!r}, such as {blocks_of(asked.model, decoder)[0]!r}; got {layer!r}"
        )
    return [str(layer)]


def _positions(asked: Asked) -> Tensor:
    """Return the positions of the places of all pictures."""
    return torch.cat([piece.span.positions.to(asked.ids.device) for piece in asked.pieces])


def _forward_only(
    asked: Asked, method: Callable[..., Tensor], plain: Any, layers: list[str], said: list[Tensor]
) -> Tensor:
    """Raw attention of one layer, whose other rows are never formed; rollout of all layers."""
    rows = None if plain in _PRODUCTS else asked.queries
    observed = attention.observe_attention(asked.model, layers, queries=rows)(asked.inputs)
    said.append(asked.log_probabilities(observed.outputs))
    query = asked.queries if rows is None else "all"
    return method(observed.records, positions=_positions(asked), query=query)[:, 0]


def _some_rows_at_a_time(
    asked: Asked, method: Callable[..., Tensor], plain: Any, layers: list[str], said: list[Tensor]
) -> Tensor:
    """Rollouts with their defaults, without dropout: no matrix over all tokens is kept."""

    def scores(outputs: Any) -> Tensor:
        of_tokens = asked.log_probabilities(outputs)
        said.append(of_tokens.detach())
        return of_tokens

    given = (asked.model, layers, asked.inputs, asked.queries, scores)
    rollout = gradient_rollout_of_rows if plain is attention.gradient_rollout else rollout_of_rows
    rows = torch.stack(rollout(*given))
    return rows[:, _positions(asked).to(rows.device)]


def _le_grad(asked: Asked, method: Callable[..., Tensor], plain: Any, layers: list[str], said: list[Tensor]) -> Tensor:
    """LeGrad: the state that predicts a word depends on its own row alone, so one backward gives all words."""
    norm = asked.model.get_submodule(_norm(asked))
    head = head_of(asked.model)

    def readout(tokens: Tensor) -> Any:
        return SimpleNamespace(logits=head(norm(tokens[:, asked.queries])))

    def score(outputs: Any) -> Tensor:
        of_tokens = asked.log_probabilities(outputs)
        said.append(of_tokens.detach())
        return of_tokens.sum()[None]

    captured = attention.capture_attention(
        asked.model, layers, scores="layers", readout=readout, average=False, queries=asked.queries
    )(asked.inputs, score)
    return method(captured.records, positions=_positions(asked), query="all")[:, 0]


def _each(asked: Asked, method: Callable[..., Tensor], plain: Any, layers: list[str], said: list[Tensor]) -> Tensor:
    """Methods of each word's own gradient: one forward, and one backward a token."""
    rows = None if plain in _PRODUCTS else asked.queries

    def scores(outputs: Any) -> Tensor:
        of_tokens = asked.log_probabilities(outputs)
        said.append(of_tokens.detach())
        return of_tokens

    def reduce(n: int, records: Sequence[AttentionRecord]) -> Tensor:
        query = int(asked.queries[n]) if rows is None else n
        return method(records, positions=_positions(asked), query=query)[0]

    return torch.stack(attended_each(asked.model, layers, asked.inputs, scores, reduce, queries=rows))


def _norm(asked: Asked) -> str:
    """Return the name of the norm between the last block and the head."""
    decoder = decoder_name(asked.model)
    pattern = re.escape(decoder) + r"\.\w*norm\w*"
    found = [name for name, _ in asked.model.named_modules() if re.fullmatch(pattern, name)]
    if len(found) != 1:
        raise CamfnError(
            f"words: le_grad needs the norm in front of the head, and {decoder!r} has {found or 'none'}: take "
            "method='gradient_rollout'"
        )
    return str(found[0])
