"""Find where the patches of the image stand in the sequence of an attention."""

# tested in tests/attention/test_places.py

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .._layout.facts import LayerContext
from .._layout.readings import image_among, images_read, readings_of, several_images_text
from .._shared.checks import describe, holds_data
from .._shared.errors import CamfnError, CaptureError
from .._shared.inputs import Images, tensors_in
from .._shared.vocabulary import LayoutPair
from ._forward import Layers, within
from ._groups import Group, groups_of, listed, names_of
from ._rows import Positions, Where, patches
from ._sight import Looker, Mask, Seen, Sight, part_of

INSTEAD = "Take a class activation map: camfn.explainer(camfn.methods.grad_cam, model, layer)"


class Asked(NamedTuple):
    """What the caller says of the attentions and of the patches; None of what is to be found.

    Attributes:
        name: the method's name, for errors.
        layers: checked names and patterns.
        grid: number of patches along each dimension.
        prefix: number of tokens before the patches.
        suffix: number of tokens after them.
        positions: where the patches stand.
        layout: a layout of (B, tokens, C).
        images: which of the inputs is the image.
        of_one: whether the method reads one attention, and not all of a tower.
        pools: whether it reads attention that pools.
    """

    name: str
    layers: Layers
    grid: tuple[int, ...] | None
    prefix: int | None
    suffix: int | None
    positions: Positions | None
    layout: LayoutPair | None
    images: Images | None
    of_one: bool
    pools: bool


class Places(NamedTuple):
    """Where the patches are.

    Attributes:
        spatial: number of patches along each dimension.
        where: their positions among the keys.
        is_seen: whether parts of the image were seen to be where they say.
    """

    spatial: tuple[int, ...]
    where: Where
    is_seen: bool = False


_Grids = list[tuple[tuple[int, ...], tuple[int, ...]]]
"""Grids that may be, each with the positions of its patches, row by row."""


class _NoPlaces(Exception):
    """The patches of a group of attentions are not found, and why."""


class Finder:
    """Finds the patches of groups of attentions, and remembers why it did not.

    Attributes:
        why: for each group without patches, why.
    """

    def __init__(self, looker: Looker, asked: Asked, seen: Sequence[Seen], groups: Sequence[Group]) -> None:
        self.model, self.inputs, self.asked, self.seen = looker.model, looker.inputs, asked, seen
        self.why: dict[tuple[str, int], str] = {}
        self.groups = groups
        self.first = {group.key: self._first(group) for group in groups}
        is_said = asked.positions is not None or asked.layout is not None
        is_said = is_said or (asked.grid is not None and (asked.prefix is not None or asked.suffix is not None))
        needed = [] if is_said else list(dict.fromkeys(self.first.values()))
        self.sights = looker.sights(asked.images, seen, needed)

    def _first(self, group: Group) -> tuple[int, bool]:
        """Return where the tokens of a group first appear in its tower, and whether as queries."""
        for i, one in enumerate(self.seen):
            if one.tower == group.tower and one.is_global and group.tokens in (one.queries, one.keys):
                return i, one.queries == group.tokens
        raise AssertionError("a group has an attention")

    def places(self, group: Group) -> Places | None:
        """Return where the patches of a group are; None, and a reason in `why`, where they are not found."""
        try:
            return self._places(group)
        except _NoPlaces as error:
            self.why[group.key] = str(error)
            return None

    def _places(self, group: Group) -> Places:
        if any(self.seen[i].is_piece for i in group.at):
            raise _NoPlaces("for each of several images or frames that are packed into one input: pass one at a time")
        asked, shape = self.asked, (self._batch(), 1, group.tokens, group.tokens)
        if asked.layout is not None:
            return self._laid_out(group, asked.layout)
        if asked.positions is not None:
            try:
                where = patches("attention_explainer", shape, positions=asked.positions)
            except CamfnError as error:
                raise _NoPlaces(str(error)) from error
            count = where.stop - where.start if isinstance(where, slice) else where.shape[-1]
            grids = [asked.grid] if asked.grid else [grid for grid, at in self._by_count(group, count)]
            if len(grids) != 1 or math.prod(grids[0]) != count:
                which = " or ".join(map(str, grids)) or "no grid of the image"
                raise _NoPlaces(f"the {count} positions are not {which}: pass {self._grid_call()}")
            return Places(tuple(grids[0]), where)
        return self._settled(group, self._grids(group), self.sights.get(self.first[group.key]))

    def _batch(self) -> int:
        positions = self.asked.positions
        return positions.shape[0] if isinstance(positions, Tensor) and positions.ndim == 2 else 1

    def _laid_out(self, group: Group, layout: LayoutPair) -> Places:
        """Return where a layout of (B, tokens, C), or of packed tokens (N, C), says that the patches are."""
        numbers, texts = torch.arange(group.tokens), []
        for raw in (numbers[None, :, None], numbers[:, None]):
            try:
                laid = layout.to_map(raw)
            except (CamfnError, RuntimeError, IndexError) as error:
                texts.append(str(error))
                continue
            return Places(tuple(laid.shape[2:]), _tidy(laid[0, 0].flatten().tolist()))
        raise _NoPlaces(texts[0])

    def _grids(self, group: Group) -> _Grids:
        """List the grids that what is said, and the facts of the model, allow."""
        asked, tokens, name = self.asked, group.tokens, self.seen[group.at[-1]].name
        if asked.grid is not None:
            count = math.prod(asked.grid)
            if asked.prefix is not None or asked.suffix is not None:
                before = tokens - count - (asked.suffix or 0) if asked.prefix is None else asked.prefix
                after = tokens - count - before if asked.suffix is None and before == 0 else asked.suffix or 0
                if before < 0 or before + count + after != tokens:
                    behind = "any number of" if asked.prefix is None else str(asked.prefix)
                    ahead = f", with {asked.suffix} behind it" if asked.suffix else ""
                    raise _NoPlaces(f"which are not a grid of {asked.grid} behind {behind} tokens{ahead}")
                return [(asked.grid, tuple(range(before, before + count)))]
            if count > tokens:
                raise _NoPlaces(f"which are not a grid of {asked.grid} behind any number of tokens")
            return self._at_rest(group, asked.grid, tokens - count)
        images = images_read(self.model, name, 3, self.inputs, asked.images)
        if not images:
            raise _NoPlaces(
                f"expected an image (B, C, *spatial) among the inputs, or grid=, got {describe(self.inputs)}"
            )
        if asked.prefix is not None or asked.suffix is not None:
            before, after = asked.prefix or 0, asked.suffix or 0
            each = [_of_one_stride(tokens - before - after, image.shape[2:]) for image in images]
            at = tuple(range(before, tokens - after))
            found = [[(grid, at) for grid in grids] for grids in each]
        else:
            found = [self._read(group, tokens, image) for image in images]
        if any(other != found[0] for other in found):
            raise CaptureError(
                several_images_text(f"the grid of attention in {name!r}", self.inputs, images, asked.images)
            )
        return found[0]

    def _at_rest(self, group: Group, grid: tuple[int, ...], rest: int) -> _Grids:
        """List where a grid may stand among more tokens: behind the class tokens and registers of the model.

        Without data no run can tell: the patches of a model whose facts are silent count as the last tokens.
        """
        images = images_read(self.model, self.seen[group.at[-1]].name, 3, self.inputs, self.asked.images)
        prefix = 0
        if rest and images:
            facts = LayerContext(self.model, self.seen[group.at[-1]].name, images[0].shape).facts
            is_silent = not facts.prefix + facts.suffix and not all(map(holds_data, tensors_in(self.inputs)))
            if facts.prefix + facts.suffix != rest and not is_silent:
                return []
            prefix = rest if is_silent else facts.prefix
        elif rest:
            return []
        return [(grid, tuple(range(prefix, prefix + math.prod(grid))))]

    def _read(self, group: Group, tokens: int, image: Tensor) -> _Grids:
        """List the grids that the facts of the model allow for a number of tokens."""
        last = self.seen[group.at[-1]]
        shape = (image.shape[0], tokens, last.width)
        found: dict[tuple[tuple[int, ...], tuple[int, ...]], None] = {}
        if image.ndim == 3 and LayerContext(self.model, last.name, image.shape).facts.stem is None:
            return []  # a signal, or patches that are packed in the input
        for reading in readings_of(self.model, last.name, shape, self.inputs, image):
            if reading.layout is not None:
                numbers = torch.arange(tokens)[:, None].expand(shape)
                # one by one: torch 2.6 refuses tolist() under torch.func
                at = [int(number) for number in reading.layout.to_map(numbers)[0, 0].flatten()]
                if len(set(at)) == len(at) == math.prod(reading.spatial):
                    found[tuple(reading.spatial), tuple(at)] = None
        return list(found)

    def _by_count(self, group: Group, count: int) -> _Grids:
        """List the grids of so many patches that the facts of the model allow."""
        images = images_read(self.model, self.seen[group.at[-1]].name, 3, self.inputs, self.asked.images)
        if self.asked.grid is not None:
            return [(self.asked.grid, tuple(range(count)))] if math.prod(self.asked.grid) == count else []
        each = [[one for one in self._read(group, count, image) if len(one[1]) == count] for image in images]
        return each[0] if each and all(other == each[0] for other in each) else []

    def _settled(self, group: Group, found: _Grids, sight: Sight | None) -> Places:
        """Keep the grids whose patches see what they stand for; return the one that is left."""
        if sight is None:
            return self._one(group, found, False)
        whole, part = sight.whole, sight.part
        if not any(map(any, whole)):
            raise _NoPlaces("which do not depend on the image")
        counts = {sum(row) for row in whole}
        if len(counts) > 1:
            raise _NoPlaces("which come from the image in another number in each sample: pass positions=")
        at = [[i for i, flag in enumerate(row) if flag] for row in whole]
        if len(at[0]) < group.tokens:
            same = [one for one in found if all(sorted(one[1]) == own for own in at)]
            if not same and self.asked.prefix is None and self.asked.suffix is None:
                own = at[0] if all(other == at[0] for other in at) else None
                if own is None:
                    raise _NoPlaces("of which others come from the image in each sample: pass positions=")
                same = [(grid, tuple(own[i] for i in order)) for grid, order in self._by_count(group, len(own))]
            if not same:
                raise _NoPlaces(
                    f"of which {_span(at[0])} come from the image: {len(at[0])} are no grid of it that the model "
                    f"states. Pass {_call(at[0])} and {self._grid_call()}"
                )
            found = same
        is_local = part != whole
        if is_local:
            claimed, found = found, [one for one in found if self._is_where_it_says(one, part)]
            if claimed and not found:
                raise _NoPlaces(
                    f"of which {_span(at[0])} come from the image, but not row by row: the tokens that see a corner of "
                    f"the image are no corner of a grid of {claimed[0][0]}. Pass positions= and grid=, or layout="
                )
        elif sight.was_mixed:
            raise _NoPlaces(
                f"of which {_span(at[0])} come from the image, through the attention of another tower. If these are "
                f"its patches row by row, pass {_call(at[0])} and {self._grid_call()}"
            )
        return self._one(group, found, is_local)

    def _is_where_it_says(self, one: tuple[tuple[int, ...], tuple[int, ...]], part: Mask) -> bool:
        """Whether the patches that depend on a part of the image are a corner of the grid that covers the part."""
        grid, at = one
        images = images_read(self.model, "", 3, self.inputs, self.asked.images)
        sizes = [tuple(image.shape[2:]) for image in images if image.ndim - 2 == len(grid)]
        if not sizes:  # as of a flat grid
            return True
        for row in part:
            flags = torch.tensor([row[i] for i in at]).view(grid)
            corner = [int(flags.movedim(i, 0).flatten(1).any(1).sum()) for i in range(len(grid))]
            inside = flags[tuple(slice(n) for n in corner)]
            if not bool(inside.all()) or int(inside.sum()) != int(flags.sum()) or not corner[0]:
                return False
            covered = (part_of(n, i == 0) * cells // n for i, (n, cells) in enumerate(zip(sizes[0], grid)))
            if any(own < least for own, least in zip(corner, covered)):
                return False
        return True

    def _one(self, group: Group, found: _Grids, is_seen: bool) -> Places:
        if len(found) == 1:
            return Places(found[0][0], _tidy(found[0][1]), is_seen)
        which = " or ".join(dict.fromkeys(str(grid) for grid, _ in found)) or "no grid"
        name = self.seen[group.at[-1]].name
        images = images_read(self.model, name, 3, self.inputs, self.asked.images)
        size = f" of a {' x '.join(map(str, images[0].shape[2:]))} image" if images else ""
        said = [f"prefix={self.asked.prefix}"] if self.asked.prefix is not None else []
        said += [f"suffix={self.asked.suffix}"] if self.asked.suffix is not None else []
        behind = f", with {' and '.join(said)}" if said else ""
        raise _NoPlaces(f"in which there is {which}{size}{behind}: pass {self._grid_call()}, and prefix= or positions=")

    def _grid_call(self) -> str:
        """Write the option `grid` as it is for images, and for videos and volumes."""
        image = image_among(self.inputs, self.asked.images)
        return "grid=(height, width)" if image is None or image.ndim < 5 else "grid=(depth or time, height, width)"

    def refusal(self, found: Sequence[Group]) -> str:
        """Say which attentions there are, and what to pass."""
        kind = type(self.model).__name__
        if found:
            calls = "; ".join(f"layers={names_of(self.seen, group.at)}, over {group.tokens} tokens" for group in found)
            return f"several attentions of this {kind} are over an image: say which, {calls}"
        if not self.groups:
            inside = [i for i, one in enumerate(self.seen) if within(one.name, self.asked.layers)]
            return (
                f"{self.asked.name} needs attention over the same tokens of the whole image in every layer, "
                f"(B, H, N, N). This {kind} has {listed(self.seen, groups_of(self.seen, inside, every=True))}: their "
                f"tokens are not all the places of the image. {INSTEAD}"
            )
        texts = [
            f"attention in {names_of(self.seen, group.at)} is over {group.tokens} tokens, {self.why[group.key]}"
            for group in self.groups
        ]
        return f"{'; '.join(texts)}. Attention over channels (XCiT) or in windows (Swin, MaxViT) has no grid. {INSTEAD}"


def _of_one_stride(count: int, size: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the grid of one integer stride that so many patches make up: a list of one, or empty."""
    if count < 1:
        return []
    stride = max(round((math.prod(size) / count) ** (1 / len(size))), 1)
    grid = tuple(length // stride for length in size)
    return [grid] if math.prod(grid) == count else []


def _tidy(at: Sequence[int]) -> Where:
    """Return positions as a slice where they follow each other."""
    if list(at) == list(range(at[0], at[0] + len(at))):
        return slice(at[0], at[0] + len(at))
    return torch.tensor(at)


def _span(at: Sequence[int]) -> str:
    """Say which tokens positions are."""
    where = _tidy(at)
    return f"{at[0]} to {at[-1]}" if isinstance(where, slice) else f"{len(at)} from {at[0]} to {at[-1]}"


def _call(at: Sequence[int]) -> str:
    """Return the argument that says these positions."""
    where = _tidy(at)
    return f"positions=slice({where.start}, {where.stop})" if isinstance(where, slice) else f"positions={list(at)}"
