"""The attentions of a network, by tower and number of tokens."""

# tested in tests/attention/test_places.py

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ._forward import pattern
from ._sight import Seen


class Group(NamedTuple):
    """Attentions of one tower over the same number of tokens."""

    tower: str
    tokens: int
    at: list[int]

    @property
    def key(self) -> tuple[str, int]:
        return self.tower, self.tokens


def groups_of(seen: Sequence[Seen], inside: Sequence[int], *, every: bool = False) -> list[Group]:
    """Return the attentions that have a row a sample, or all, by tower and number of tokens, in order.

    Of those whose queries are not their keys, the last may end a group: attention that pools.
    """
    found: dict[tuple[str, int], list[int]] = {}
    for i in inside:
        if seen[i].is_global or every:
            found.setdefault((seen[i].tower, seen[i].keys), []).append(i)
    groups = []
    for (tower, tokens), at in found.items():
        square = [i for i in at if seen[i].queries == tokens]
        pools = [i for i in at if i > max(square, default=-1)]
        kept = at if every else [*square, *pools] if len(pools) < 2 else square or at[-1:]
        groups.append(Group(tower, tokens, kept))
    return groups


def names_of(seen: Sequence[Seen], at: Iterable[int]) -> str:
    """Return the argument that names attentions: by patterns, unless these fit others too."""
    at = set(at)
    names = list(dict.fromkeys(pattern(seen[i].name) for i in sorted(at)))
    if any(pattern(one.name) in names for i, one in enumerate(seen) if i not in at):
        names = list(dict.fromkeys(seen[i].name for i in sorted(at)))
    return repr(names[0] if len(names) == 1 else names)


def listed(seen: Sequence[Seen], groups: Sequence[Group]) -> str:
    """Name groups of attentions, each with the number of its tokens."""

    def words(group: Group) -> str:
        windows = "" if all(seen[i].is_global for i in group.at) else ", in windows"
        return f"{names_of(seen, group.at)} over {group.tokens} tokens{windows}"

    return "; ".join(map(words, groups)) or "none"
