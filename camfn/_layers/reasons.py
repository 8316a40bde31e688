"""Why a suggestion comes first, and why there is none, in words."""

# tested in tests/test_layers.py

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

_HEAD = 3
"""So many operations with parameters are a head behind the pooling, as VGG has it; more are a part of the network."""


class Choice(NamedTuple):
    """What is known of the layer that comes first.

    Attributes:
        depends: whether the score depends on it.
        no_longer: a later layer with a reading that the score does not depend on; "" where there is none.
        unread: the later layers that the score depends on and that have no reading, in the order of computation.
        head: the detector's head that reads its level; "" where there is none.
        tower: the tower that reads the image, in a network that reads words too; "" in any other.
        returned: whether the network returns its output.
        dense: whether the network returns a map of scores.
        last_is_unclear: whether a later layer can be read in several ways.
        after: the operations with parameters that come after it.
        spread: whether one of these gives more than one place.
        repeated: a layer with places that runs several times behind it, and how often; ("", 0) where there is none.
    """

    depends: bool
    no_longer: str
    unread: Sequence[str]
    head: str
    tower: str
    returned: bool
    dense: bool
    last_is_unclear: bool
    after: Sequence[str]
    spread: bool
    repeated: tuple[str, int] = ("", 0)


def why_first(choice: Choice) -> str:
    """Say why a suggestion comes first."""
    if not choice.depends:
        return "the last layer with a grid, but the score depends on no layer: are the weights of the head zero?"
    if choice.head:
        return f"the last level that the head {choice.head} reads{_unread(choice.unread)}"
    if choice.unread:
        place = f"the last layer of {choice.tower}, which reads the image," if choice.tower else "the last layer"
        return f"{place} that can be read as a grid{_unread(choice.unread)}"
    if choice.no_longer:
        return f"the last layer whose places the score depends on; it no longer does at {choice.no_longer}"
    if choice.tower:
        return f"the last layer of {choice.tower}, which reads the image, that can be read as a grid"
    if choice.last_is_unclear:
        return "the last layer whose grid is clear"
    if choice.dense:
        return "the last features with a grid, just before the map of scores"
    if choice.returned:
        return "the last layer with a grid, whose output the model returns"
    if choice.repeated[0]:
        return f"the last layer with a grid that runs once{_repeated(*choice.repeated)}"
    if len(choice.after) > _HEAD and choice.spread:
        return f"the last layer that can be read as a grid; {choice.after[0]} to {choice.after[-1]} come after it"
    if len(choice.after) > _HEAD:
        return (
            f"the last layer with a grid; what comes after it, {choice.after[0]} to {choice.after[-1]}, has one place. "
            "Larger images may give later layers a grid"
        )
    return "the last layer with a grid, just before pooling"


def _unread(names: Sequence[str]) -> str:
    """Say how many later layers have no reading, which, and what to pass."""
    if not names:
        return ""
    if len(names) == 1:
        which, last = f"1 later layer, {names[0]}, has", names[0]
    else:
        which, last = f"{len(names)} later layers, {names[0]} to {names[-1]}, have", names[-1]
    return (
        f"; {which} no reading as a map of the image (camfn.layout.find(model, {last!r}, inputs) says why): to take "
        "one, pass its name and its layout (camfn.layout)"
    )


def _repeated(name: str, times: int) -> str:
    """Say which layer runs several times, and how to name one of its runs."""
    if not name:
        return ""
    return f"; {name} runs {times} times: to take a run of it, pass its name and which, call=0 to call={times - 1}"


def left_out(unclear: list[str]) -> str:
    """Name up to three layers whose space can be read in several ways, the last first: `suggest` leaves these out."""
    if not unclear:
        return ""
    names = ", ".join(reversed(unclear[-3:])) + (f" and {len(unclear) - 3} more" if len(unclear) > 3 else "")
    return (
        f"; not listed, since each can be read in several ways: {names} (camfn.layout.find(model, {unclear[-1]!r}, "
        "inputs) lists the ways)"
    )


def no_layer_text(
    model: nn.Module, image: Tensor, unclear: list[str], unread: Sequence[str], repeated: tuple[str, int]
) -> str:
    """Say that no layer can be suggested, and how to go on."""
    return (
        f"no layer of this {type(model).__name__} has a grid like the image's, {tuple(image.shape[2:])}: name the "
        f"layer, and pass a layout (camfn.layout){_unread(unread)}{_repeated(*repeated)}{left_out(unclear)}"
    )
