"""Take the patches and the queries out of a sequence of tokens."""

# tested in tests/attention/test_methods.py

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from .._shared.checks import describe, is_at_hand, whole
from .._shared.errors import ArgumentTypeError, CamfnError

Positions: TypeAlias = "slice | Sequence[int] | Tensor"
"""Where the patches stand in the sequence: a slice, indices (N,), or those of each sample (B, N)."""

Query: TypeAlias = "int | Sequence[int] | Tensor | Literal['all'] | None"
"""The token whose row is read, or several, (Q,), or those of each sample, (Q, B); None for the mean over patches."""

Where: TypeAlias = "slice | Tensor"
"""Checked positions: a slice without a step, or indices (N,) or (B, N)."""


def patches(
    method: str, shape: Sequence[int], prefix: int = 0, suffix: int = 0, positions: Positions | None = None
) -> Where:
    """Return where the patches stand among the keys of an attention (B, H, Nq, Nk); refuse what is none of them."""
    batch, tokens = shape[0], shape[-1]
    if positions is not None:
        return _checked_positions(method, positions, batch, tokens)
    whole(f"{method}: prefix", prefix, 0)
    whole(f"{method}: suffix", suffix, 0)
    if prefix + suffix >= tokens:
        given = f"prefix={prefix}" + (f" and suffix={suffix}" if suffix else "")
        verb = "leave" if suffix else "leaves"
        raise CamfnError(f"{method}: {given} {verb} none of the {tokens} tokens: expected less than {tokens}")
    return slice(prefix, tokens - suffix)


def check_positions(method: str, positions: Any) -> None:
    """Refuse positions that are no positions in any sequence."""
    if isinstance(positions, slice):
        return
    at = _indices(f"{method}: positions", positions, "a slice, indices (N,), or indices of each sample (B, N)")
    if at.ndim not in (1, 2) or not at.shape[-1]:
        raise CamfnError(f"{method}: positions: expected (N,) or (B, N), at least one each, got {tuple(at.shape)}")


def _checked_positions(method: str, positions: Any, batch: int, tokens: int) -> Where:
    check_positions(method, positions)
    if isinstance(positions, slice):
        found = range(*positions.indices(tokens))
        end = max(positions.start or 0, positions.stop or 0)
        if not found or end > tokens:
            raise CamfnError(f"{method}: positions={positions} are not among the {tokens} tokens")
        return slice(found[0], found[-1] + 1) if found.step == 1 else torch.tensor(list(found))
    at = torch.as_tensor(positions)
    if at.ndim == 2 and at.shape[0] != batch:
        raise CamfnError(f"{method}: positions: expected (N,), or (B, N) for {batch} samples, got {tuple(at.shape)}")
    if is_at_hand(at):
        if not 0 <= int(at.min()) <= int(at.max()) < tokens:
            raise CamfnError(f"{method}: positions: expected 0 to {tokens - 1}, got {int(at.min())} to {int(at.max())}")
        ordered = at.sort(-1).values
        if bool((ordered[..., 1:] == ordered[..., :-1]).any()):
            raise CamfnError(f"{method}: positions: expected each token once, got {at.tolist()}")
    return at


def check_query(method: str, query: Any) -> None:
    """Refuse a query that is no query of any sequence."""
    if query is None or (isinstance(query, str) and query == "all"):
        return
    if isinstance(query, (str, bool)):
        raise CamfnError(f"{method}: query: expected an index, several, 'all' or None, got {query!r}")
    at = _indices(f"{method}: query", query, "an index, several, 'all' or None")
    if at.ndim > 2 or not at.numel():
        raise CamfnError(f"{method}: query: expected an index, (Q,) or (Q, B), got {tuple(at.shape)}")


def check_range(method: str, query: Query, shape: Sequence[int]) -> None:
    """Refuse a query that is none of the queries of an attention (B, H, Nq, Nk)."""
    check_query(method, query)
    if query is None or isinstance(query, str):
        return
    at, count = torch.as_tensor(query), shape[-2]
    if at.ndim == 2 and at.shape[1] != shape[0]:
        raise CamfnError(f"{method}: query: expected (Q,), or (Q, B) for {shape[0]} samples, got {tuple(at.shape)}")
    if is_at_hand(at) and not -count <= int(at.min()) <= int(at.max()) < count:
        raise CamfnError(
            f"{method}: query={query} is none of the {count} queries: expected 0 to {count - 1}, -1 for the last, or "
            "None"
        )


def _indices(name: str, value: Any, expected: str) -> Tensor:
    """Return indices as a tensor; refuse anything else."""
    given = isinstance(value, (Tensor, Integral)) or (isinstance(value, (list, tuple, range)) and len(value) > 0)
    try:
        at = torch.as_tensor(value) if given else None
    except (TypeError, ValueError, RuntimeError):
        at = None
    if at is None or at.is_floating_point() or at.is_complex() or at.dtype == torch.bool:
        raise ArgumentTypeError(f"{name}: expected {expected}, got {describe(value)}")
    return at


def take(x: Tensor, where: Where, dim: int) -> Tensor:
    """Take tokens along a dimension of (B, ...)."""
    if isinstance(where, slice):
        return x.narrow(dim, where.start, where.stop - where.start)
    where = where.to(x.device)
    if where.ndim == 1:
        return x.index_select(dim, where)
    shape = [1] * x.ndim
    shape[0], shape[dim] = where.shape
    return torch.take_along_dim(x, where.view(shape), dim)


def rows(x: Tensor, query: Query) -> Tensor:
    """Take the rows of the queries, (B, Nq, C) to (B, Q, C)."""
    if query is None or isinstance(query, str):
        return x
    if isinstance(query, int):
        return x.narrow(1, query % x.shape[1], 1)
    at = torch.as_tensor(query, device=x.device).remainder(x.shape[1])
    if at.ndim == 2:
        return torch.take_along_dim(x, at.transpose(0, 1)[..., None], 1)
    return x.index_select(1, at.reshape(-1))


def mean_or_rows(matrix: Tensor, where: Where, query: Query) -> Tensor:
    """Take the rows of the queries, (B, Q, Nk); without a query, the mean over the rows of the patches, (B, 1, Nk).

    Attention that pools has no rows of patches: the mean is over its queries.
    """
    if query is not None:
        return rows(matrix, query)
    is_square = matrix.shape[1] == matrix.shape[2]
    return (take(matrix, where, 1) if is_square else matrix).mean(1, keepdim=True)


def one_or_each(found: Tensor, query: Query) -> Tensor:
    """Return (B, N) of one query, and (Q, B, N) of several, from (B, Q, N)."""
    single = query is None or isinstance(query, int) or (isinstance(query, Tensor) and not query.ndim)
    return found[:, 0] if single else found.movedim(1, 0)
