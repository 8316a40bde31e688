"""Which layout a layer's output has: what facts allow, held to what the places of the map see where facts are thin."""

# tested in tests/layout/test_verdicts.py

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._layout.guesses import guesses
from .._layout.readings import (
    Found,
    check_layout,
    found_by_facts,
    images_among,
    is_skewed,
    listed,
    possible_readings,
    rests_on_a_count,
    the_only,
)
from .._shared.errors import CaptureError
from .._shared.inputs import Images
from .._shared.vocabulary import AnyLayout, Call, Inputs, LayoutPair, Reading, Select
from .place_rules import Places
from .places import places_seen, trials
from .trial import Laid

_known: WeakKeyDictionary[nn.Module, dict[Any, Reading]] = WeakKeyDictionary()
"""For each model the readings that were found to be right: by layer, and the shapes of the inputs and of its output."""

_writing = threading.Lock()


class ReadingOptions(Protocol):
    """The options of a cut that say how to read a layer."""

    @property
    def layout(self) -> AnyLayout: ...
    @property
    def images(self) -> Images | None: ...
    @property
    def select(self) -> Select | None: ...


def layouts_for(
    options: ReadingOptions, model: nn.Module, name: str, raws: Sequence[Tensor], inputs: Inputs
) -> list[LayoutPair | None]:
    """Return for each run of a layer the layout that the caller chose, or the one that is found.

    A layer's activations and its gradients have one shape: decide once, and apply `as_map` to each.

    Raises:
        CaptureError: as `reading_for`.
    """
    layout = options.layout
    if isinstance(layout, str) and layout == "auto":
        return [reading_for(options, model, name, raw, inputs).layout for raw in raws]
    check_layout(layout)
    images_among(inputs, options.images)
    return [layout for _ in raws]


def reading_for(options: ReadingOptions, model: nn.Module, name: str, raw: Tensor, inputs: Inputs) -> Reading:
    """Find the one reading of a layer whose output is `raw`.

    What rests on a count alone, or has strides far apart, is right if the places of the map see their own parts of the
    image (`places_seen`). `reading_for` tries it once for a layer and the shapes. Where no value can be read the facts
    decide, as where nothing was tried before: on meta and fake tensors, inside `vmap` and other transforms, and under
    the compiler.

    Raises:
        CaptureError: the facts allow no reading, or several; or the places do not see their own parts. Lists each
            reading with the call that asks for it.
    """
    shape = tuple(raw.shape)
    if torch.compiler.is_compiling():
        found = found_by_facts(model, name, raw, inputs, options.images)
        return the_only(found.readings, name, shape, found.images)
    verdicts, key = _verdicts(model), _key(options, model, name, shape, inputs)
    if key in verdicts:
        return verdicts[key]
    found = found_by_facts(model, name, raw, inputs, options.images)
    only = found.readings[0] if len(found.readings) == 1 else None
    doubtful = only is None or rests_on_a_count(model, name, shape, only) or is_skewed(only, found.images)
    if not found.images or not doubtful:
        return the_only(found.readings, name, shape, found.images)
    reading, certain = _tried(options, model, name, shape, inputs, found)
    if certain:
        with _writing:
            verdicts[key] = reading
    return reading


def note_verdict(
    model: nn.Module, name: str, shape: Sequence[int], inputs: Inputs, which: Images | None, found: Reading
) -> None:
    """Note a reading that the places of a layer's map showed to be right, so that a cut need not try them again."""
    verdicts = _verdicts(model)
    with _writing:
        verdicts[_key(_Only(which), model, name, tuple(shape), inputs)] = found


class _Only(NamedTuple):
    """Options of a cut that name the image at most."""

    images: Images | None
    layout: AnyLayout = "auto"
    select: Select | None = None


def share_verdicts(model: nn.Module, copy: nn.Module) -> None:
    """Have a copy of a model that holds other tensors know, and add to, what was found on the model."""
    verdicts = _verdicts(model)
    with _writing:
        _known[copy] = verdicts


def _verdicts(model: nn.Module) -> dict[Any, Reading]:
    with _writing:
        return _known.setdefault(model, {})


def _key(options: ReadingOptions, model: nn.Module, name: str, shape: tuple[int, ...], inputs: Any) -> Any:
    """Return what a verdict depends on: the layer, the options of its reading, and the shapes, whatever the batch."""
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    sizes = [_numbers(leaf.shape) for leaf in leaves]
    batch = next((size[0] for size in sizes if len(size) > 2), 0)
    shapes = tuple(_per_sample(size, batch) for size in sizes)
    which, select = _weakly(options.images), _weakly(options.select)
    own = _per_sample(_numbers(shape), batch)
    return name, type(model.get_submodule(name)), select, _call(options), which, own, shapes


def _numbers(shape: Sequence[Any]) -> tuple[int, ...]:
    """Return the sizes of a shape; of one that a trace keeps open, that of its example, for a symbol has no hash."""
    return tuple(int(size.node.hint or 0) if isinstance(size, torch.SymInt) else size for size in shape)


def _per_sample(shape: tuple[int, ...], batch: int) -> tuple[Any, ...]:
    """Replace the first number of a shape by how many there are of each sample, where these are whole."""
    return (f"{shape[0] // batch} a sample", *shape[1:]) if batch and shape and shape[0] % batch == 0 else shape


def _weakly(option: Any) -> Any:
    """Return an option as a part of a key; a function weakly, for it may hold the model, and a later one its id."""
    try:
        return ref(option) if callable(option) else option
    except TypeError:  # of a class without weak references
        return option


def _call(options: ReadingOptions) -> Call | None:
    """Return which run of the layer is read; None where the cut has no such option."""
    return getattr(options, "call", None)


def _tried(
    options: ReadingOptions, model: nn.Module, name: str, shape: tuple[int, ...], inputs: Inputs, found: Found
) -> tuple[Reading, bool]:
    """Return the reading whose places see their own parts of the image, and whether values could be read to say so."""
    call = _call(options)

    def seen(laid: list[Laid]) -> list[Places | None]:
        return places_seen(model, {name: laid}, inputs, found.images, select=options.select, call=call)[name]

    readings = [reading for reading in found.readings if reading.name != "none"]
    places = seen([Laid(reading.layout) for reading in readings])
    if any(one is None for one in places):
        return the_only(found.readings, name, shape, found.images), False
    right = clearest(readings, places)
    if right:
        return the_only(right, name, shape, found.images), True
    if any(one is not None and one.depends for one in places):
        right = [one for one in readings if _is_branch(options, model, name, one, inputs, found.images)]
    guessed = [] if right else [one for image in found.images for one in guesses(model, name, shape, image.shape)]
    tried = seen([Laid(guess.reading.layout, guess.axes, strict=True) for guess in guessed])
    right = right or clearest([one.reading for one in guessed], tried)
    if right or not found.readings:
        return the_only(right, name, shape, found.images), True
    if len(readings) < len(found.readings):
        return the_only(found.readings, name, shape, found.images), False
    raise CaptureError(_wrong_text(name, shape, found, [one for one in places if one is not None]))


def clearest(readings: Sequence[Reading], places: Sequence[Places | None]) -> list[Reading]:
    """Return the reading whose places see their own parts more clearly than those of any other do, or all that see."""
    right: dict[LayoutPair | None, tuple[Reading, Places]] = {}
    for reading, one in zip(readings, places):
        if one is not None and one.right:
            right.setdefault(reading.layout, (reading, one))
    for reading, one in right.values():
        if all(one is other or one.clearer_than(other) for _, other in right.values()):
            return [reading]
    return [reading for reading, _ in right.values()]


def _is_branch(
    options: ReadingOptions,
    model: nn.Module,
    name: str,
    reading: Reading,
    inputs: Inputs,
    images: Sequence[Tensor],
) -> bool:
    """Whether places of a layer's map change the same places of a module around it, which see their own parts.

    It is so where a layer mixes places, as the attention of a transformer and the token mixing of an MLP-Mixer do, and
    the block adds what it gives to what it was given.
    """
    parts = name.split(".")
    around = [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]
    for trial in trials(model, [name, *around], inputs, images, options.select, _call(options)):
        for outer in (one for one in around if one in trial.base):
            shape = tuple(trial.base[outer].shape)
            for one in possible_readings(model, outer, shape, trial.inputs, options.images):
                laid, own = Laid(one.layout), Laid(reading.layout)
                sees = one.spatial == reading.spatial and _right(trial.places(outer, laid))
                if sees and _right(trial.handed_on(name, own, outer, laid)):
                    return True
    return False


def _right(places: Places | None) -> bool:
    return places is not None and places.right


def _wrong_text(name: str, shape: tuple[int, ...], found: Found, places: Sequence[Places]) -> str:
    """Say that a layer's output is no map as its shape suggests, and what to pass."""
    size = " x ".join(map(str, found.images[0].shape[2:]))
    if not any(one.depends for one in places):
        what = "nothing in it depends on the image: it is a position embedding, a mask or text, or its weights are zero"
    else:
        best = max(places, key=lambda one: one.share)
        what = (
            f"its numbers fit a grid, but of {best.tried} places that were tried {best.seeing} see their own part of "
            "the image: it holds queries, frames, instances or tokens in another order"
        )
    return (
        f"layer {name!r} gives {shape}, in which no map of a {size} image is found; {what}. Take a layer of the part "
        f"that reads the image, or pass the layout that you know to be right; its shape would allow "
        f"{listed(found.readings)}"
    )
