"""Find the token that the network reads: the query of a method that reads one row of the attention."""

# tested in tests/attention/test_places.py

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .._shared.checks import is_concrete
from .._shared.errors import CamfnError
from ._gradients import UNUSED_BLOCKS
from ._plan import Plan
from ._records import AttentionRecord
from ._rows import Query, Where
from ._sight import Looker

_MOST_PREFIX = 8
"""Of so many tokens before the patches, class tokens and registers, the first that is read is the query."""


def averages(model: nn.Module) -> bool:
    """Whether timm or Hugging Face state that a model averages its patches."""
    averages = str(getattr(model, "global_pool", "")).startswith(("avg", "max"))
    return bool(averages or getattr(getattr(model, "config", None), "use_mean_pooling", False))


def read_by_gradient(
    relevances: Callable[[Query], Tensor], last: AttentionRecord, where: Where, *, amid_text: bool
) -> Tensor:
    """Return the relevances for the query that the score reads: that with a gradient in the last attention.

    It is the first token before the patches with a gradient, in each sample; or else the mean over patches. No host
    waits for an accelerator to find it. Amid text the host does wait, for several words may be read.
    """
    assert last.output_grads is not None
    others = _others(where, last.probabilities.shape[-1]) if _is_square(last) else []
    if not others:
        return relevances(None)
    read = (last.output_grads != 0).any(-1).any(1)
    if amid_text or not _is_prefix(others, where):
        return relevances(_only(read, others))
    before = read[:, : len(others)]
    first = before.int().argmax(1)
    some = before.any(1)
    found, mean = relevances(first[None])[0], relevances(None)
    # where nothing is read, any row will do: the class token's is zero
    return torch.where((some | ~read.any(1))[:, None], found, mean)


def _only(read: Tensor, others: Sequence[int]) -> Query:
    """Return the one token that the score reads; None where it reads the patches alone."""
    if not is_concrete(read):
        raise CamfnError(
            "query='auto' cannot be found inside vmap or a trace where other tokens stand around the patches: pass "
            "query=, such as query=-1 for the last token"
        )
    at = read.any(0).nonzero().flatten().tolist()
    named = [i for i in at if i in set(others)]
    if len(at) == 1 or len(named) == 1:
        return int((named or at)[0])
    if not named:
        return None
    raise _several(f"the score reads {len(named)} tokens beside the patches, {named[0]} to {named[-1]}", named)


def _several(what: str, named: Sequence[int]) -> CamfnError:
    return CamfnError(f"{what}: say which row is meant, query={named[0]}; or query={list(named[:2])} for a map each")


def read_by_outputs(looker: Looker, plan: Plan, *, amid_text: bool) -> Query:
    """Return the token that the network's outputs read, without a gradient."""
    place = plan.choice.places[-1]
    last, where = plan.seen[place], plan.places.where
    others = _others(where, last.keys) if last.queries == last.keys else []
    if not others:
        return None
    is_prefix = _is_prefix(others, where) and not amid_text
    if not looker.may_look:
        if is_prefix:
            return 0
        raise CamfnError("query='auto' cannot be found inside vmap or a trace: pass query=, such as query=0")

    # hidden states tell nothing of what the head reads
    pooled = looker.outputs_read(plan.seen, place, pooled=True)

    def read(tokens: Sequence[int]) -> bool:
        return looker.outputs_read(plan.seen, place, tokens, pooled=pooled)

    if not read(others):
        return None
    if is_prefix:
        return next((i for i in others if read([i])), None)
    first, rest = _first_read(others, read)
    if rest and read(rest):
        raise _several("the outputs read several tokens beside the patches", [first, *rest])
    return first


def _first_read(tokens: Sequence[int], read: Callable[[Sequence[int]], bool]) -> tuple[int, Sequence[int]]:
    """Return the first of some tokens that is read, and those behind it; one of them is."""
    low, high = 0, len(tokens)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if read(tokens[low:middle]) else (middle, high)
    return tokens[low], tokens[low + 1 :]


def without_unread(looker: Looker, plan: Plan) -> Plan:
    """Leave out the last attentions where no output depends on them, as of a tower whose last block but one is read.

    Outputs without a place for each token come first, since hidden states of the last block may be among the rest.
    """
    places = plan.choice.places
    if not looker.may_look:
        return plan
    for pooled in (True, False):
        for unread in range(min(UNUSED_BLOCKS + 1, len(places))):
            end = len(places) - unread
            if looker.outputs_read(plan.seen, places[end - 1], pooled=pooled):
                return plan._replace(choice=plan.choice._replace(places=places[:end]))
    return plan


def _others(where: Where, tokens: int) -> list[int]:
    """Return the tokens that are no patches."""
    if isinstance(where, slice):
        return [*range(where.start), *range(where.stop, tokens)]
    # positions of each sample differ: what stands at none of them in the first stands for all
    held = set((where if where.ndim == 1 else where[0]).tolist())
    return [i for i in range(tokens) if i not in held]


def _is_prefix(others: Sequence[int], where: Where) -> bool:
    """Whether all other tokens are few and stand before the patches."""
    return len(others) <= _MOST_PREFIX and isinstance(where, slice) and where.start == len(others)


def _is_square(record: AttentionRecord) -> bool:
    return record.probabilities.shape[-2] == record.probabilities.shape[-1]
