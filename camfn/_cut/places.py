"""Whether the places of a map see their own parts of the image: what settles a layout that a count alone suggests."""

# tested in tests/layout/test_places.py

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._layout.readings import as_map
from .._shared.checks import is_concrete
from .._shared.errors import CamfnError
from .._shared.inputs import call as run_with
from .._shared.inputs import copy_of, replace_tensor
from .._shared.levels import level_of_func
from .._shared.vocabulary import Call, Inputs, LayoutPair, Select
from .graft import bare, graft
from .layer_checks import chosen_calls, chosen_tensor
from .random_state import same_draws

_PLACES = 6
"""So many places of a map are tried."""

_WIDTH = 16
"""Channels are projected to so many at random, which keeps the lengths of their differences to about a third."""

_CLEAR = 0.25
"""The own place changes by at least this part of what the place that changes most does."""

_SLACK = 3
"""Half the width of the largest kernels in use, in cells."""

RIGHT = 0.65
"""A reading is right where at least this part of its places see their own part: 4 of 6, or 3 of 4."""


_Part: TypeAlias = "tuple[tuple[int, int, int], ...]"
"""A part of an image: along each axis the axis, the first position and the one after the last."""


class Laid(NamedTuple):
    """How a layer's output becomes a map, and which parts of the image the map's places stand for.

    Attributes:
        layout: the layout; None where the output is a map.
        axes: for each spatial dimension of the map, the axis of the image that it lies along.
        strict: whether the own place must change, and not one beside it, in a layer's output that is a map already.
    """

    layout: LayoutPair | None
    axes: Sequence[int] | None = None
    strict: bool = False


class Places(NamedTuple):
    """How many of the places of a map that were tried see their own part of the image.

    Attributes:
        seeing: the number that do.
        tried: the number of places that were tried.
        depends: whether any place of the map depends on any of these parts.
        clearness: the share of the change that is at the own place, in the mean of the places.
        needed: the clearness that a right reading has at least: on a small grid places may seem to see by chance.
    """

    seeing: int
    tried: int
    depends: bool
    clearness: float
    needed: float = 0.0

    @property
    def share(self) -> float:
        """Share of the places that see their own part."""
        return self.seeing / self.tried

    @property
    def right(self) -> bool:
        """Whether so many do that the map lies where the layout says."""
        return self.share >= RIGHT and self.clearness >= self.needed

    def clearer_than(self, other: Places) -> bool:
        """Whether another reading of the same output seems right by chance, as where half of it is off."""
        return self.share > other.share + 0.1 or self.clearness > 1.5 * other.clearness


def places_seen(
    model: nn.Module,
    laid: Mapping[str, Sequence[Laid]],
    inputs: Inputs,
    images: Sequence[Tensor],
    *,
    select: Select | None = None,
    call: Call | None = None,
) -> dict[str, list[Places | None]]:
    """Count the places that see their own parts of the image, for layers and for layouts of each that are in question.

    A part of the image that belongs to a place is overwritten with noise, and the network runs up to the layers once
    more. What changes at a place beyond what changes everywhere, and beyond what changes there whatever part is
    overwritten, is its own. Where the layout is right, no place changes much more than the one that the part is of.
    Runs the first sample where the network allows it, in evaluation mode, without a gradient: one forward, and six for
    each size of the maps, which end at the last layer that has a map of this size.

    Args:
        model: any module; left as it is.
        laid: the layouts in question, by the layer's name.
        inputs: arguments of the model.
        images: the tensors among the inputs, or tensors of their shapes, that are overwritten.
        select: which tensor, where a layer returns several.
        call: which of several runs of a layer; None and "all" take the first.

    Returns:
        For each layer and layout the places; None where no value can be read, or the network does not run.
    """
    found: dict[str, list[Places | None]] = {name: [None] * len(layouts) for name, layouts in laid.items()}
    for trial in trials(model, list(laid), inputs, images, select, call):
        trial.note(laid)
        for name, layouts in laid.items():
            for i, one in enumerate(layouts):
                found[name][i] = found[name][i] or trial.places(name, one)
        if all(one is not None for each in found.values() for one in each):
            break
    return found


def trials(
    model: nn.Module,
    names: Sequence[str],
    inputs: Inputs,
    images: Sequence[Tensor],
    select: Select | None,
    call: Call | None,
) -> Iterator[Trial]:
    """Yield a trial on the first sample, and one on the whole batch; none where no value can be read."""
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if not images or torch.compiler.is_compiling() or level_of_func() is not None or not all(map(is_concrete, leaves)):
        return
    batch = images[0].shape[0]
    first = pytree.tree_map(lambda leaf: leaf[:1] if _has_batch(leaf, batch) else leaf, inputs)
    for given in [first, inputs] if batch > 1 else [inputs]:
        # a network may take no single sample, and one that is cut from others may not run at all
        with suppress(Exception):
            yield Trial(bare(model), names, given, images, select, call)


def _has_batch(leaf: Any, batch: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == batch


class _Reached(Exception):
    """Ends a run at the last of the layers in question."""


class Trial:
    """Runs of a network up to some layers, with a part of the image or one place of a layer's map overwritten."""

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        inputs: Inputs,
        images: Sequence[Tensor],
        select: Select | None,
        call: Call | None,
    ) -> None:
        self.model, self.names, self.inputs, self.select, self.call = model, names, inputs, select, call
        self.shapes = {tuple(image.shape[1:]) for image in images}
        self.size = images[0].shape
        self.graft = graft(model, {id(module) for module in model.modules()})
        for module in self.graft.owned.values():
            module.training = False
        self.outputs: dict[str, list[Tensor]] = {name: [] for name in names}
        self.struck: tuple[str, LayoutPair | None, tuple[int, ...]] | None = None
        for name in names:
            own = self.graft.owned[id(model.get_submodule(name))]
            own.register_forward_hook(self._keeper(name), prepend=True)
        self.same_draws = same_draws(images[0].device)
        self.until: Collection[str] = names
        self.base = self._run()
        self.runs: dict[_Part, dict[str, Tensor]] = {}
        self.asked: dict[_Part, dict[str, None]] = {}

    def _keeper(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def keep(module: nn.Module, args: Any, output: Any) -> Any:
            try:
                picked = chosen_tensor(name, output, self.select)
            except CamfnError:
                return output  # an outer module may return several tensors
            if name in self.until:
                self.outputs[name].append(picked.clone())
            if self.call in (None, 0) and all(self.outputs[one] for one in self.until):
                raise _Reached
            if self.struck and self.struck[0] == name:
                _, layout, cell = self.struck
                struck = as_map(layout, picked).clone()
                _overwrite(struck, tuple((2 + axis, i, i + 1) for axis, i in enumerate(cell)))
                return replace_tensor(output, picked, layout.from_map(struck, picked) if layout else struck)
            return output

        return keep

    def _run(self, part: _Part = ()) -> dict[str, Tensor]:
        """Return the outputs of the layers with a part of the image overwritten, given as (axis, start, stop)."""
        for runs in self.outputs.values():
            runs.clear()
        inputs = copy_of(self.inputs)
        for leaf in pytree.tree_leaves(inputs) if part else ():
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and tuple(leaf.shape[1:]) in self.shapes:
                _overwrite(leaf, part)
        with torch.inference_mode(False), torch.no_grad(), suppress(_Reached), self.same_draws():
            run_with(self.graft, inputs)
        wanted = 0 if self.call in (None, "all") else self.call
        return {
            name: runs[chosen_calls(name, len(runs), wanted, self.model)[0]]
            for name, runs in self.outputs.items()
            if runs
        }

    def note(self, laid: Mapping[str, Sequence[Laid]]) -> None:
        """Note which layers will be asked for after which part is overwritten: a run ends at the last of these."""
        for name, one in ((name, one) for name, layouts in laid.items() for one in layouts if name in self.base):
            with suppress(Exception):  # of a layout that does not fit, which `places` leaves out
                grid = tuple(as_map(one.layout, self.base[name]).shape[2:])
                for cell in spread(grid, _PLACES):
                    self.asked.setdefault(self._part(one, cell, grid), {})[name] = None

    def _part(self, laid: Laid, cell: tuple[int, ...], grid: tuple[int, ...]) -> _Part:
        """Return the part of the image that a place of a layer's map stands for."""
        axes = laid.axes or range(len(self.size) - len(grid), len(self.size))
        return tuple(_own_part(axis, i, n, self.size[axis]) for axis, i, n in zip(axes, cell, grid))

    def places(self, name: str, laid: Laid) -> Places | None:
        """Try some places of a layer's map, of which each stands for a part of the image."""

        def after(cell: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
            part = self._part(laid, cell, grid)
            if name not in self.runs.get(part, {}):
                self.until = self.asked.get(part, {}) | {name: None}
                try:
                    self.runs[part] = self._run(part)
                finally:
                    self.until = self.names
            return self.runs[part][name]

        return self._tried(name, laid, after)

    def handed_on(self, name: str, laid: Laid, outer: str, outer_laid: Laid) -> Places | None:
        """Try whether places of a layer's map change the same places of another's."""

        def after(cell: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
            self.struck = (name, laid.layout, cell)
            try:
                return self._run()[outer]
            finally:
                self.struck = None

        return self._tried(outer, outer_laid, after)

    def _tried(
        self, name: str, laid: Laid, after: Callable[[tuple[int, ...], tuple[int, ...]], Tensor]
    ) -> Places | None:
        """Look where a layer's map changes, at places whose own parts `after` overwrites; None if that fails."""
        base = self.base.get(name)
        if base is None or not is_concrete(base):
            return None
        with suppress(Exception):  # of a layout that does not fit, or of a network that takes no such image
            before = as_map(laid.layout, base)[:1].double()
            grid = tuple(before.shape[2:])
            cells = spread(grid, _PLACES)
            changes = [(as_map(laid.layout, after(cell, grid))[:1].double() - before).flatten(2)[0] for cell in cells]
            change = _projected(torch.stack(changes))
            if not bool(change.isfinite().all()):
                return None
            # a large kernel of random weights has its largest entry off the center
            slack = _SLACK if base.ndim == before.ndim and not laid.strict else 0
            if len(cells) == 1:
                return Places(int(change.any()), 1, bool(change.any()), 1.0)
            seeing, clearness = _sees_own(change, cells, grid, slack)
            needed = 0.0 if slack else min(2 / math.prod(grid), 0.5)
            return Places(int(seeing.sum()), len(cells), bool(change.any()), float(clearness), needed)
        return None


def _own_part(axis: int, i: int, cells: int, size: int) -> tuple[int, int, int]:
    """Return the part of an image's axis that the cell at `i` of so many stands for: (axis, start, stop)."""
    return axis, i * size // cells, max(-(-(i + 1) * size // cells), i * size // cells + 1)


def _overwrite(image: Tensor, part: Sequence[tuple[int, int, int]]) -> None:
    """Write noise of the image's own mean and spread into a part of it, in place."""
    view = image
    for axis, start, stop in part:
        view = view.narrow(axis, start, stop - start)
    noise = torch.randn(view.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread_of = image.double().std() if image.numel() > 1 else image.new_zeros(())
    scale = torch.where(spread_of > 0, spread_of, 1.0)
    view.copy_((image.double().mean() + scale * noise.to(image.device)).to(image.dtype).expand_as(view))


def _projected(change: Tensor) -> Tensor:
    """Project changes (K, C, N) to fewer channels at random, the same each time."""
    channels = change.shape[1]
    if channels <= _WIDTH:
        return change
    matrix = torch.randn(_WIDTH, channels, generator=torch.Generator().manual_seed(0), dtype=change.dtype)
    return torch.einsum("wc,kcn->kwn", matrix.to(change.device), change)


def _sees_own(
    change: Tensor, cells: Sequence[tuple[int, ...]], grid: tuple[int, ...], slack: int
) -> tuple[Tensor, Tensor]:
    """Say for each part k whether the place cells[k] changes clearly, and how clearly, given the changes (K, W, N).

    With slack, a place so many cells apart may change in its stead, but none more than a quarter of the grid apart.
    """
    apart = change - change.mean(2, keepdim=True)
    apart = apart - apart.mean(0, keepdim=True)
    energy = apart.square().sum(1).reshape(len(cells), *grid)
    around = [
        energy[k][tuple(_around(i, min(slack, n // 4)) for i, n in zip(cell, grid))].amax()
        for k, cell in enumerate(cells)
    ]
    here = torch.stack(around)
    own = torch.stack([energy[k][cell] for k, cell in enumerate(cells)])
    share = own / energy.flatten(1).sum(1).clamp_min(torch.finfo(energy.dtype).tiny)
    return (here > 0) & (here >= _CLEAR * energy.flatten(1).amax(1)), share.mean()


def _around(i: int, reach: int) -> slice:
    return slice(max(i - reach, 0), i + reach + 1)


def spread(grid: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """List places that lie evenly in a grid, as many as there are or `count`, by the sequence R of Roberts."""
    total = math.prod(grid)
    if total <= count:
        return [tuple(int(i) for i in torch.unravel_index(torch.tensor(k), tuple(grid))) for k in range(total)]
    root = 2.0
    for _ in range(30):
        root = (1 + root) ** (1 / (len(grid) + 1))
    places: dict[tuple[int, ...], None] = {}
    k = 0
    while len(places) < count:
        places[tuple(int((0.5 + k * root ** -(d + 1)) % 1 * n) for d, n in enumerate(grid))] = None
        k += 1
    return list(places)
