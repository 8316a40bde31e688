"""Rollouts over long sequences: the attention is formed some rows at a time, and none of it is kept."""

# tested in tests/attention/test_long.py

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .._cut.derive import gradients
from .._cut.graft import bare
from .._cut.lost import no_gradient
from .._shared.errors import CaptureError
from .._shared.inputs import tensors_in
from .._shared.maps import safe_divide, widen
from .._shared.vocabulary import Inputs
from ._capture import checked_layers, wanted_sites
from ._forward import Layers, forward
from ._gradients import NoGradient
from ._watch import Site

NUMBERS = 2**22
"""Of so many numbers of an attention, heads x rows x tokens, at a time; at least one row."""

_Matrix: TypeAlias = Callable[[int, int], Tensor]
"""Rows of a matrix (T, T), from one number to another."""


def rollout_of_rows(
    model: nn.Module, layers: Layers, inputs: Inputs, queries: Tensor, seen: Callable[[Any], Any]
) -> list[Tensor]:
    """Attention rollout of one sample's rows, as `attention_rollout` with its defaults: one forward.

    Args:
        model: any module, out of training mode: dropout would be left out.
        layers: as for `observe_attention`; their attentions are over the same tokens.
        inputs: of the model, of one sample.
        queries: the rows, (Q,).
        seen: called with the outputs.

    Returns:
        A row (T,) for each query.
    """
    plain, names = bare(model), checked_layers(model, layers)
    with torch.inference_mode(False), torch.no_grad():
        outputs, sites = forward(plain, names, inputs, rows_later=True)
        seen(outputs)
        wanted = wanted_sites(names, sites, plain, None)
        blocks = _blocks(wanted)
        return [_product([_averaged(site) for site in wanted], blocks, int(query)) for query in queries]


def gradient_rollout_of_rows(
    model: nn.Module, layers: Layers, inputs: Inputs, queries: Tensor, scores: Callable[[Any], Tensor]
) -> list[Tensor]:
    """Gradient-weighted rollout of one sample's rows, as `gradient_rollout`: one forward, and one backward a row.

    The gradient of the attention is that of its output times the values: `g = dO V^T` for `O = A V`.

    Args:
        model: as for `rollout_of_rows`.
        layers: as there.
        inputs: as there.
        queries: the rows, (Q,).
        scores: function of the outputs to (Q,), the score whose gradient weights each row.

    Returns:
        A row (T,) for each query.
    """
    plain, names = bare(model), checked_layers(model, layers)
    found: list[Tensor] = []
    with torch.inference_mode(False), torch.enable_grad():
        outputs, sites = forward(plain, names, inputs, lambda x: torch.zeros_like(x).requires_grad_(), rows_later=True)
        wanted = wanted_sites(names, sites, plain, None)
        blocks = _blocks(wanted)
        try:
            for query, score in zip(queries, scores(outputs)):
                grads = _output_gradients(wanted, score)
                with torch.no_grad():
                    found.append(_sums([_weighted(*pair) for pair in zip(wanted, grads)], blocks, int(query)))
        except NoGradient as error:
            name = error.name
        else:
            return found
    raise no_gradient(plain, name, inputs, lambda outputs: scores(outputs)[:1], lambda output: tensors_in(output)[0])


def _output_gradients(wanted: Sequence[Site], score: Tensor) -> list[Tensor]:
    """Differentiate one score in the output of each attention, and keep the graph for the next."""

    def absent(places: list[int]) -> None:
        raise NoGradient(wanted[places[0]].name)

    deltas = [site.output_delta for site in wanted if site.output_delta is not None]
    return gradients(score[None], deltas, create_graph=False, retain_graph=True, missing=absent)


def _rows(site: Site, start: int, end: int) -> Tensor:
    assert site.later is not None
    return site.later(start, end)


def _values(site: Site) -> Tensor:
    assert site.v is not None
    return site.v


def _weighted(site: Site, grads: Tensor) -> _Matrix:
    """Return the rows of `mean_h ReLU(g A)`."""

    def matrix(start: int, end: int) -> Tensor:
        a, g, v = widen(_rows(site, start, end), grads[..., start:end, :], _values(site))
        return (a * (g @ v.mT)).relu().flatten(0, -3).mean(0)

    return matrix


def _averaged(site: Site) -> _Matrix:
    """Return the rows of `mean_h A + I`, divided by their sums."""

    def matrix(start: int, end: int) -> Tensor:
        a = widen(_rows(site, start, end)).flatten(0, -3).mean(0)
        a[:, start:end] += torch.eye(len(a), dtype=a.dtype, device=a.device)
        return safe_divide(a, a.sum(-1, keepdim=True))

    return matrix


def _product(matrices: Sequence[_Matrix], blocks: Sequence[tuple[int, int]], query: int) -> Tensor:
    """Return the row of a query in the product of all matrices, the last times those before it."""
    read = matrices[-1](query, query + 1)
    for matrix in reversed(matrices[:-1]):
        read = _times(read, matrix, blocks)
    return read[0]


def _sums(matrices: Sequence[_Matrix], blocks: Sequence[tuple[int, int]], query: int) -> Tensor:
    """Return the row of a query in `R - I`, with `R <- R + M R` from the first matrix to the last."""
    read = matrices[-1](query, query + 1)
    for matrix in reversed(matrices[:-1]):
        read = read + _times(read, matrix, blocks) + matrix(query, query + 1)
    return read[0]


def _times(row: Tensor, matrix: _Matrix, blocks: Sequence[tuple[int, int]]) -> Tensor:
    """Multiply a row (1, T) by a matrix that is formed a block of rows at a time."""
    return torch.stack([row[:, start:end] @ matrix(start, end) for start, end in blocks]).sum(0)


def _blocks(sites: Sequence[Site]) -> list[tuple[int, int]]:
    """Return from which row to which row attentions are formed at a time; refuse those over other tokens."""
    counts = [(site.q.shape[-2], site.k.shape[-2]) for site in sites]
    (count, _), heads = counts[0], sites[0].q.shape[:-2].numel()
    if any(one != (count, count) for one in counts):
        raise CaptureError(
            "a rollout needs attention over the same tokens in every layer, got "
            + " and ".join(dict.fromkeys(f"{one} x {other}" for one, other in counts))
            + ": name layers of one tower"
        )
    size = max(1, NUMBERS // (heads * count))
    return [(start, min(start + size, count)) for start in range(0, count, size)]
