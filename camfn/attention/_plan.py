"""Choose the attentions to record: those over the image, with the places of its patches."""

# tested in tests/attention/test_places.py

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .._shared.errors import CamfnError, CaptureError
from ._capture import Choice
from ._forward import check_ran, within
from ._groups import groups_of, listed, names_of
from ._places import INSTEAD, Asked, Finder, Places
from ._sight import Looker, Seen


class Plan(NamedTuple):
    """The attentions to record, and where the patches stand in their sequence.

    Attributes:
        seen: all attentions of a forward.
        choice: those to record.
        places: where the patches are in the last of them.
    """

    seen: Sequence[Seen]
    choice: Choice
    places: Places


def plan(looker: Looker, asked: Asked) -> Plan:
    """Find the attentions over the image and the places of its patches.

    Raises:
        CaptureError: there are none, or several, or their patches have no place; lists the attentions and the calls.
    """
    model, seen = looker.model, looker.survey()
    check_ran(asked.layers, seen, model)
    inside = [i for i, one in enumerate(seen) if within(one.name, asked.layers)]
    groups = groups_of(seen, inside)
    if asked.layers is not None:
        groups = [group for group in groups if inside[-1] in group.at]
    finder = Finder(looker, asked, seen, groups)
    found = [(group, places) for group in groups if (places := finder.places(group)) is not None]
    surest = {group.tower for group, places in found if places.is_seen}
    if surest:
        found = [(group, places) for group, places in found if group.tower in surest]
    if len({group.tower for group, _ in found}) == 1 and asked.of_one:
        found = [max(found, key=lambda one: one[0].at[-1])]
    if len(found) != 1:
        raise CaptureError(finder.refusal([group for group, _ in found]))
    ((group, places),) = found
    at = inside if asked.layers is not None else group.at
    if asked.layers is None and not asked.of_one:
        others = [one for i, one in enumerate(seen) if one.tower == group.tower and i not in group.at]
        if others:
            raise CamfnError(
                f"{asked.name} needs attention over the same tokens of the whole image in every layer, (B, H, N, N). "
                f"This {type(model).__name__} has {listed(seen, groups_of(seen, inside, every=True))}. Name layers "
                f"that attend to the same tokens, such as layers={names_of(seen, group.at)}. {INSTEAD}"
            )
    if asked.layers is None and not asked.pools:
        at = [i for i in at if seen[i].queries == seen[i].keys] or at
    return Plan(seen, Choice(tuple(dict.fromkeys(seen[i].name for i in at)), tuple(at)), places)
