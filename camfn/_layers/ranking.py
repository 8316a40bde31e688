"""Rank the layers of a network: look at one run of it, at a run with another image, and at one backward."""

# tested in tests/test_layers.py

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._cut.capture import capture_many
from .._cut.graft import is_quantized
from .._cut.layouts import clearest, note_verdict
from .._cut.places import places_seen
from .._cut.trial import Laid
from .._layout.facts import LayerContext
from .._layout.readings import as_map, images_among, possible_readings, rests_on_a_count, same_stride
from .._shared.errors import CaptureError
from .._shared.inputs import Images, floating_leaves
from .._shared.vocabulary import LayoutPair, Reading, Target
from .heads import head_over_levels, inside, packs_levels, read_by, towers
from .late import late_readings
from .reasons import Choice, left_out, no_layer_text, why_first
from .scores import Group, Result, is_score_map, projects, results
from .watch import Ran, Watched, changed_by_the_image, together, watch

_PASSES_ON = re.compile("dropout|droppath|identity")
_NO_FEATURES = re.compile("(max|avg|adaptive|lp|blur).*pool|permute|flatten|softmax|linear|^embedding$|positional")
"""Modules that return no new feature map: poolings, reshapings, position embeddings, projections inside a block."""

_COARSE = 32
"""Pixels from one place to the next, beyond which a level of a pyramid is an extra one, made of the level before it."""


class Suggestion(NamedTuple):
    """A layer that could be explained.

    Attributes:
        name: dotted name of the layer, as `capture` takes it.
        spatial: the map's spatial shape.
        channels: number of the map's channels.
        depends: whether the score depends on the layer's output at any place of the map.
        layout: the layout that makes the layer's output a map; None where the output is a map already.
        reason: the layer's class and reading; for the first suggestion of a list, also why it comes first.
    """

    name: str
    spatial: tuple[int, ...]
    channels: int
    depends: bool
    layout: LayoutPair | None
    reason: str


class _Layer(NamedTuple):
    """A layer that returns one tensor that the image changes, and what is known of it.

    Attributes:
        group: the calls that returned the tensor.
        readings: how it can be read as a map; empty where it cannot.
        spread: whether it has more than one place, however they are laid out.
    """

    group: Group
    readings: list[Reading]
    spread: bool


class Suggesting:
    """One look at a network: a run of all layers, a run with another image, and one backward."""

    def __init__(self, model: nn.Module, inputs: Any, target: Target, images: Images | None, image: Tensor) -> None:
        self.model, self.inputs, self.image = model, inputs, image
        self.run = watch(model, inputs)
        self.results = results(self.run.outputs, image)
        groups = _groups(self.run)
        self.moved = self._moved(images)
        where = {id(ran): place for place, ran in enumerate(self.run.calls)}
        groups = [group for group in groups if where[id(group.calls[-1])] in self.moved] or groups
        self.layers = self._seen({group.name: self._known(group, images) for group in groups}, images)
        maps = {name: layer for name, layer in self.layers.items() if layer.readings}
        features = {id(layer.group.output) for layer in maps.values() if not projects(layer.group.calls[0], self.run)}
        self.results = [one for one in self.results if one.whole or id(one.scores) not in features]
        dense = self._score_maps([result for result in self.results if result.dense])
        scores = dense + self._score_maps([result for result in self.results if not result.dense])
        self.unclear = [name for name, layer in maps.items() if len(layer.readings) > 1 and name not in scores]
        clear = {name: layer.readings[0] for name, layer in maps.items() if len(layer.readings) == 1}
        dense += self._added_up({name: reading for name, reading in clear.items() if name not in scores})
        scores += dense
        self.clear = {name: reading for name, reading in clear.items() if name not in scores}
        self.dense = bool(dense)
        self.unread = [name for name, layer in self.layers.items() if layer.spread and name not in scores]
        self.target = target

    def _moved(self, images: Images | None) -> set[int]:
        """Return the places of the calls whose outputs another image changes; all where this is not known."""
        changed = changed_by_the_image(self.model, self.inputs, images, self.run)
        if changed is None:
            return set(range(len(self.run.calls)))
        return {place for place, flag in enumerate(together(changed).tolist()) if flag}

    def _score_maps(self, found: Sequence[Result]) -> list[str]:
        """Name the layers that are maps of one of these scores."""
        return _read({name: is_score_map(layer.group, found, self.run) for name, layer in self.layers.items()})

    def _known(self, group: Group, images: Images | None) -> _Layer:
        """List the readings of a layer, without those of a single place."""
        shape = group.output.shape
        readings = possible_readings(self.model, group.name, shape, self.inputs, images)
        grids = [reading for reading in readings if reading.name != "windows" and max(reading.spatial, default=2) > 1]
        spread = _has_places(group.output) and not readings
        return _Layer(group, readings if grids else [], spread)

    def _origin(self, group: Group) -> str:
        """Name the layer that an activation function reads, which lays out space as its own output does."""
        call = group.calls[0]
        source = call.reads[0].source if type(call.module).__module__ == nn.ReLU.__module__ and call.reads else None
        if source is None or call.works or call.reads[0].shape != tuple(group.output.shape):
            return group.name
        return self.run.calls[source].name

    def _is_doubtful(self, name: str, shape: torch.Size, reading: Reading) -> bool:
        """Whether a reading rests on less than the stated channels of a map, with one stride along each dimension.

        In three dimensions the strides may differ, and the first may be time: a volume's first convolution tells.
        """
        size = self.image.shape[2:]
        if len(size) == 3 and reading.layout is None:
            stem = LayerContext(self.model, name, self.image.shape).facts.stem
            return size[0] == self.image.shape[1] or not stem or rests_on_a_count(self.model, name, shape, reading)
        if len(size) != 2 or not same_stride(size, reading.spatial):
            return True
        return reading.layout is not None and rests_on_a_count(self.model, name, shape, reading)

    def _seen(self, layers: dict[str, _Layer], images: Images | None) -> dict[str, _Layer]:
        """Keep the readings whose places see their own parts of the image, where shapes alone do not settle them."""
        asked = {
            name: layer.readings
            for name, layer in layers.items()
            if len(layer.readings) > 1
            or any(
                self._is_doubtful(self._origin(layer.group), layer.group.output.shape, one) for one in layer.readings
            )
        }
        which, known = images_among(self.inputs, images), self._given([one.group for one in layers.values()])
        laid = {name: [Laid(one.layout) for one in readings] for name, readings in asked.items()}
        seen = places_seen(self.model, laid, self.inputs, which, known=known) if laid else {}
        for name, readings in asked.items():
            if None in seen[name]:
                continue
            # that a tensor holds no places is no map
            right = [one for one in clearest(readings, seen[name]) if one.spatial]
            layers[name] = layers[name]._replace(readings=right, spread=not right)
        clear = [layer.group.calls[-1].end for layer in layers.values() if len(layer.readings) == 1]
        late = {
            name: layer.group.output
            for name, layer in layers.items()
            if layer.spread and layer.group.calls[-1].end > max(clear, default=0)
        }
        for name, reading in late_readings(self.model, late, self.inputs, which, known).items():
            layers[name] = layers[name]._replace(readings=[reading], spread=False)
        tried = [name for name in asked if None not in seen[name] and len(layers[name].readings) == 1]
        for name in [*tried, *late] if len(which) == 1 else []:
            for reading in layers[name].readings:
                note_verdict(self.model, name, layers[name].group.output.shape, self.inputs, images, reading)
        return layers

    def _given(self, groups: Sequence[Group]) -> dict[str, Tensor] | None:
        """Return what layers gave in the run of all layers; None if that was in training mode."""
        if any(module.training for module in self.model.modules()):
            return None
        return {group.name: group.output for group in groups if id(group.output) not in self.run.rewritten}

    def _added_up(self, clear: dict[str, Reading]) -> list[str]:
        """Name the layers of a segmentation network whose channel k reaches only the scores of class k.

        Some networks add such maps up to the scores, so that none of the maps is equal to the model's output.
        """
        result = next((result for result in self.results if result.dense and result.channels > 1), None)
        names = [
            name
            for name, reading in clear.items()
            if result is not None
            and reading.channels == result.channels
            and (result.whole or projects(self.layers[name].group.calls[0], self.run))
        ]
        if result is None or not names:
            return []
        place = next(i for i, leaf in enumerate(floating_leaves(self.run.outputs)) if leaf is result.scores)
        captured = capture_many(self.model, names, layout=None, unused="zeros")(
            self.inputs, lambda out: floating_leaves(out)[place][:, 0].flatten(1).sum(1)
        )
        grads = {name: as_map(clear[name].layout, captured[name].grads) for name in names}
        return _read({name: [grad[:, 0].any() & ~grad[:, 1:].any()] for name, grad in grads.items()})

    def _reached(self) -> set[str]:
        """Name the layers that the score depends on: by a gradient, or all of those that have none, being quantized."""
        names = [*self.clear, *self.unread]
        if any(map(is_quantized, self.model.modules())):
            return set(names)
        captured = capture_many(self.model, names, layout=None, unused="zeros")(self.inputs, self.target)
        return set(
            _read(
                {name: [as_map(reading.layout, captured[name].grads).any()] for name, reading in self.clear.items()}
                | {name: [captured[name].grads.any()] for name in self.unread}
            )
        )

    def ranked(self) -> list[Suggestion]:
        """Order the layers, the best first, and say why it comes first."""
        if not self.clear:
            raise CaptureError(no_layer_text(self.model, self.image, self.unclear, self.unread, self._repeated(-1)))
        reached = self._reached()
        suggestions = [self._suggestion(name, name in reached) for name in reversed(self.clear)]
        unread = [name for name in self.unread if name in reached]
        head = (
            None
            if self.dense
            else head_over_levels(self.run, [self._group(name) for name in [*self.clear, *self.unclear]], self.image)
        )
        read = read_by(head) if head else set()
        parts = [""] if self.dense else towers(self.run, self.inputs, self.image)

        # masks that are a product of the decoder's last features and of queries are as fine as these features
        sizes = set() if head or self.dense else self._sizes_of_masks()

        def demoted(suggestion: Suggestion) -> tuple[bool, ...]:
            group, last = self._group(suggestion.name), suggestion.name in reached
            in_head = head is not None and id(group.output) not in read
            return (
                not last,
                in_head,
                bool(sizes) and suggestion.spatial not in sizes,
                not inside(suggestion.name, parts),
            )

        suggestions.sort(key=demoted)
        grids = [reading.spatial for reading in self.clear.values()]
        several = head is not None or packs_levels(grids, [self._group(name).output.shape for name in unread])
        self._put_extra_levels_back(suggestions, several)
        first = suggestions[0]
        later = [name for name in unread if self._end(name) > self._end(first.name)]
        after = self._works_on(first.name)
        choice = Choice(
            first.depends, self._no_longer(suggestions), later, head.name if head else "",
            next((part for part in parts if part), ""), self._is_returned(first.name), self.dense,
            bool(self.unclear) and self._end(self.unclear[-1]) > self._end(first.name), [ran.name for ran in after],
            any(_has_places(x) for ran in after for x in ran.outputs), self._repeated(self._end(first.name)),
        )  # fmt: skip
        suggestions[0] = first._replace(reason=f"{why_first(choice)} ({first.reason}){left_out(self.unclear)}")
        return suggestions

    def _suggestion(self, name: str, depends: bool) -> Suggestion:
        reading = self.clear[name]
        about = f"{type(self.model.get_submodule(name)).__name__}, {reading.reason}"
        reason = about if depends else f"{about}; the score does not depend on it at any place"
        return Suggestion(name, reading.spatial, reading.channels, depends, reading.layout, reason)

    def _group(self, name: str) -> Group:
        return self.layers[name].group

    def _end(self, name: str) -> int:
        """The moment at which a layer ended."""
        return self._group(name).calls[-1].end

    def _sizes_of_masks(self) -> set[tuple[int, ...]]:
        """List the spatial shapes of what the network returns in the shape of an image, and that no layer returns."""
        layers = {id(layer.group.output) for layer in self.layers.values()}
        return {
            tuple(result.scores.shape[-self.image.ndim + 2 :])
            for result in self.results
            if result.dense and id(result.scores) not in layers
        }

    def _no_longer(self, suggestions: Sequence[Suggestion]) -> str:
        """Name the last layer behind the first suggestion that the score does not depend on; "" where there is none."""
        end = self._end(suggestions[0].name)
        later = [one.name for one in suggestions[1:] if not one.depends and self._end(one.name) > end]
        return later[0] if later else ""

    def _put_extra_levels_back(self, suggestions: list[Suggestion], several: bool) -> None:
        """Move levels coarser than a backbone's last behind the first level that is not, in networks of several."""

        def coarse(suggestion: Suggestion) -> bool:
            size = self.image.shape[-len(suggestion.spatial) :]
            return max(length / cells for length, cells in zip(size, suggestion.spatial)) > 1.5 * _COARSE

        keep = next((i for i, one in enumerate(suggestions) if one.depends and not coarse(one)), 0)
        if several and keep:
            suggestions.insert(0, suggestions.pop(keep))

    def _is_returned(self, name: str) -> bool:
        """Whether the network returns a layer's output."""
        output = self._group(name).output
        return any(leaf is output for leaf in floating_leaves(self.run.outputs))

    def _repeated(self, end: int) -> tuple[str, int]:
        """Name the outermost layer with parameters and places that runs several times after a moment, and how often."""
        counts = Counter(ran.name for ran in self.run.calls)
        several = [
            ran.name
            for place, ran in enumerate(self.run.calls)
            if ran.name and counts[ran.name] > 1 and ran.start > end and place in self.moved
            if any(_has_places(x) for x in ran.outputs) and next(ran.module.parameters(), None) is not None
        ]
        name = min(several, key=lambda one: one.count("."), default="")
        return name, counts[name] if name else 0

    def _works_on(self, name: str) -> list[Ran]:
        """List the operations with parameters that begin after a layer has ended, and that the image reaches."""
        end, calls = self._end(name), enumerate(self.run.calls)
        if any(self._end(other) > end for other in self.unread):
            return []  # which have more than one place
        return [ran for place, ran in calls if ran.works and ran.start > end and place in self.moved]


def _groups(run: Watched) -> list[Group]:
    """Group the calls of modules that ran once by the floating-point tensor that they returned, as it ended last."""
    runs: dict[str, int] = {}
    for ran in run.calls:
        runs[ran.name] = runs.get(ran.name, 0) + 1
    same_tensor: dict[int, list[Any]] = {}
    for ran in run.calls:
        if len(ran.outputs) == 1 and (ran.outputs[0].is_floating_point() or ran.outputs[0].is_quantized):
            # a layer that adds in place returns the tensor of an earlier layer: the group moves to the later's turn
            key = id(ran.outputs[0])
            same_tensor[key] = [*same_tensor.pop(key, []), ran]
    found = []
    for calls in same_tensor.values():
        named = [ran for ran in calls if ran.name and runs[ran.name] == 1 and not _passes_on(ran.module)]
        if not named or _class_matches(_NO_FEATURES, named[0].module):
            continue
        outermost = min(reversed(named), key=lambda ran: ran.name.count("."))
        found.append(Group(outermost.name, outermost.module, outermost.outputs[0], named))
    return found


def _has_places(output: Tensor) -> bool:
    """Whether an output has several places: (B, C, 1, 1) and (B, 1, C) have one, in whatever order."""
    return output.ndim > 2 and sum(length > 1 for length in output.shape[1:]) > 1


def _passes_on(module: nn.Module) -> bool:
    """Whether a module returns what it got: dropout in evaluation, an identity, a sequence of nothing."""
    return _class_matches(_PASSES_ON, module) or (isinstance(module, nn.Sequential) and not len(module))


def _class_matches(pattern: re.Pattern[str], module: nn.Module) -> bool:
    """Whether the lower-case name of a module's class matches a pattern."""
    return pattern.search(type(module).__name__.lower()) is not None


def _read(conditions: dict[str, list[Tensor]]) -> list[str]:
    """Name what has a condition, a tensor () of bool, that is true; all are read at once, which waits once."""
    names = [name for name, each in conditions.items() for _ in each]
    if not names:
        return []
    flags = together([one for each in conditions.values() for one in each]).tolist()
    return list(dict.fromkeys(name for name, flag in zip(names, flags) if flag))
