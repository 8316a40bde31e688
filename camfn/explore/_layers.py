"""The layers of a page: named ones, or a few of different depth."""

# tested in tests/explore/test_collect.py

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .. import layers as suggested
from .. import layout
from .._cut.graft import bare
from .._cut.layer_checks import layer_name
from .._shared.errors import CamfnError, UsageError
from .._shared.lists import split_list
from .._shared.vocabulary import Target
from ._grid import ShownLayer

Layers = str | Sequence[str]


def count_of(words: Layers) -> int:
    """Return how many layers words ask for, at most.

    Raises:
        UsageError: `auto:K` where K is no number, or no name.
    """
    return len(_names(words)) or _auto(words)


def _auto(words: Layers) -> int:
    """Read K of auto:K; 0 for words that are names."""
    if not isinstance(words, str) or words.partition(":")[0].strip() != "auto":
        return 0
    _, colon, number = words.partition(":")
    if colon and not (number.strip().isdecimal() and int(number)):
        raise UsageError(f"layers {words!r}: expected names separated by commas, auto, or auto:K, as auto:3")
    return int(number) if colon else 1


def _names(words: Layers) -> list[str]:
    if _auto(words):
        return []
    return split_list(words, "layers") if isinstance(words, str) else list(dict.fromkeys(words))


def pick_layers(
    model: nn.Module, inputs: Tensor, words: Layers, target: Target, *, leave: Sequence[str] = ()
) -> tuple[tuple[ShownLayer, ...], int]:
    """Find the layers that words stand for.

    `auto:K` takes the layer that `layers.suggest` puts first, then the best of each other size of map, then further
    ones by their rank; they stand in the order of the network.

    Args:
        model: the network.
        inputs: (1, ...), one input.
        words: names separated by commas or a list of them, or `auto:K`.
        target: what the suggested layers are to depend on; None for the top class.
        leave: parts of names of layers that are not suggested.

    Returns:
        The layers, and the index of the best: the first suggestion, or the last of named ones.

    Raises:
        CamfnError: a named layer that does not exist, or gives one position only.
    """
    names = _names(words)
    if names:
        return tuple(_named(model, inputs, name) for name in names), len(names) - 1
    suggestions = suggested.suggest(model, inputs, target)
    # no score depends on any layer where the head is zero, as of an untrained network: the maps are zero, and so shown
    every = [each for each in suggestions if each.depends] or suggestions
    # the score of one box reads a detector's head at one place, so that the map there is one point
    ranked = [each for each in every if not any(part in each.name for part in leave)] or every
    firsts = list({each.spatial: each for each in reversed(ranked)}.values())
    firsts.sort(key=ranked.index)
    rest = [each for each in ranked if each not in firsts]
    taken = (firsts + rest)[: _auto(words)]
    names = [name for name, _ in bare(model).named_modules()]
    taken.sort(key=lambda each: _end(names, each.name))
    shown = tuple(ShownLayer(each.name, f"{_size(each.spatial)}, {each.channels} channels") for each in taken)
    return shown, next(place for place, each in enumerate(taken) if each.name == ranked[0].name)


def _end(names: Sequence[str], name: str) -> tuple[int, int]:
    """Return where a module ends in the order of the network: after all modules inside of it."""
    inside = [place for place, each in enumerate(names) if each == name or each.startswith(f"{name}.")]
    return max(inside, default=-1), -len(name)


def _named(model: nn.Module, inputs: Tensor, name: str) -> ShownLayer:
    """Check that a layer gives a map."""
    found = layout.find(model, layer_name(model, name), inputs)
    if max(found.spatial) == 1:
        raise CamfnError(f"layer {name!r} gives one position only, after the pooling: name another (camfn layers)")
    return ShownLayer(name, f"{_size(found.spatial)}, {found.channels} channels")


def _size(spatial: Sequence[int]) -> str:
    return " x ".join(map(str, spatial))
