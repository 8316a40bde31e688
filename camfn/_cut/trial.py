"""Runs of a network up to some layers, with parts of the image or one place of a layer's map overwritten."""

# tested in tests/layout/test_places.py

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._layout.readings import as_map
from .._shared.checks import is_concrete
from .._shared.errors import CamfnError
from .._shared.inputs import call as run_with
from .._shared.inputs import copy_of, replace_tensor
from .._shared.vocabulary import Call, Inputs, LayoutPair, Select
from .graft import graft
from .layer_checks import chosen_calls, chosen_tensor
from .parts import Part, overwrite, own_part, quarters, spread
from .place_rules import GUESSED, RIGHT, SLACK, SMALL, Places, all_of_few, at_once, one_by_one
from .random_state import same_draws

_PLACES = 6
"""`Trial` tries so many places of a map, each in a run of its own."""

_AT_ONCE, _ROOM = 4, 4
"""`Trial` tries so many places in one run, in a map of at least so many times as many."""


class Laid(NamedTuple):
    """How a layer's output becomes a map, and which parts of the image the map's places stand for.

    Attributes:
        layout: the layout; None where the output is a map.
        axes: for each spatial dimension of the map, the axis of the image that it lies along.
        strict: whether no fact supports the layout: the own place must change, and not one beside it.
    """

    layout: LayoutPair | None
    axes: Sequence[int] | None = None
    strict: bool = False


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
        known: Mapping[str, Tensor] | None = None,
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
        self.known = known is not None
        self.base: Mapping[str, Tensor] = self._run() if known is None else known
        self.runs: dict[tuple[Part, ...], dict[str, Tensor]] = {}
        self.asked: dict[tuple[Part, ...], dict[str, None]] = {}

    def forget_known(self) -> None:
        """Run the network for what its layers give: one that draws gave something else in an earlier run."""
        if self.known:
            self.base, self.known = self._run(), False

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
                overwrite(struck, tuple((2 + axis, i, i + 1) for axis, i in enumerate(cell)))
                return replace_tensor(output, picked, layout.from_map(struck, picked) if layout else struck)
            return output

        return keep

    def _run(self, parts: tuple[Part, ...] = ()) -> dict[str, Tensor]:
        """Return the outputs of the layers with parts of the image overwritten."""
        for runs in self.outputs.values():
            runs.clear()
        inputs = copy_of(self.inputs)
        for leaf in pytree.tree_leaves(inputs) if parts else ():
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and tuple(leaf.shape[1:]) in self.shapes:
                for part in parts:
                    overwrite(leaf, part)
        with torch.inference_mode(False), torch.no_grad(), suppress(_Reached), self.same_draws():
            run_with(self.graft, inputs)
        wanted = 0 if self.call in (None, "all") else self.call
        return {
            name: runs[chosen_calls(name, len(runs), wanted, self.model)[0]]
            for name, runs in self.outputs.items()
            if runs
        }

    def note(self, laid: Mapping[str, Sequence[Laid]], together: bool = False) -> None:
        """Note which layers will be asked for after which parts are overwritten: a run ends at the last of these."""
        self.asked = {}
        for name, one in ((name, one) for name, layouts in laid.items() for one in layouts if name in self.base):
            with suppress(Exception):  # of a layout that does not fit, which `places` leaves out
                for parts in self._plan(name, one, together).runs:
                    self.asked.setdefault(parts, {})[name] = None

    def _plan(self, name: str, laid: Laid, together: bool = False) -> _Plan:
        """Choose the places of a layer's map to try, and the runs."""
        base = self.base[name]
        seen = as_map(laid.layout, base)
        before, grid = seen[:1].double().flatten(2)[0], tuple(seen.shape[2:])
        total, axes = math.prod(grid), laid.axes or range(len(self.size) - len(grid), len(self.size))
        # a large kernel of random weights has its largest entry off the center
        slack = SLACK if base.ndim == len(grid) + 2 and not laid.strict else 0
        few = not slack and 1 < total <= SMALL
        least = GUESSED if laid.strict and base.ndim == 3 else RIGHT
        cells = spread(grid, total if few else _AT_ONCE if together else _PLACES)
        own = [own_part(axes, cell, grid, self.size) for cell in cells]
        if together:
            runs = [tuple(own)] if total >= _ROOM * _AT_ONCE else []
        else:
            runs = [(piece,) for part in own for piece in (quarters(part) if few else [part])]
        return _Plan(before, grid, slack, least, few, cells, runs)

    def _after(self, name: str, parts: tuple[Part, ...]) -> Tensor:
        """Return a layer's output after parts of the image are overwritten."""
        if name not in self.runs.get(parts, {}):
            self.until = self.asked.get(parts, {}) | {name: None}
            try:
                self.runs[parts] = self._run(parts)
            finally:
                self.until = self.names
        return self.runs[parts][name]

    def places(self, name: str, laid: Laid, together: bool = False) -> Places | None:
        """Try some places of a layer's map, of which each stands for a part of the image.

        Returns:
            None if that fails, and where the map is too small for several places `together`.
        """
        if not self._is_known(name):
            return None
        with suppress(Exception):  # of a layout that does not fit, or of a network that takes no such image
            plan = self._plan(name, laid, together)
            return plan.judged([as_map(laid.layout, self._after(name, parts)) for parts in plan.runs], together)
        return None

    def handed_on(self, name: str, laid: Laid, outer: str, outer_laid: Laid) -> Places | None:
        """Try whether places of a layer's map change the same places of another's."""
        if not self._is_known(outer):
            return None
        with suppress(Exception):
            plan = self._plan(outer, outer_laid)
            after = []
            for cell in plan.cells:
                self.struck = (name, laid.layout, cell)
                try:
                    after.append(as_map(outer_laid.layout, self._run()[outer]))
                finally:
                    self.struck = None
            return plan.judged(after)
        return None

    def _is_known(self, name: str) -> bool:
        return name in self.base and is_concrete(self.base[name])


class _Plan(NamedTuple):
    """Which places of a layer's map a `Trial` tries.

    Attributes:
        before: the map as it is, (C, N).
        grid: its spatial shape.
        slack: how many cells from a place another may change in its stead.
        least: the share of the places that must see their own part.
        few: whether these are all places, by quarters of their parts.
        cells: the places.
        runs: the parts of the image that are overwritten, for each run.
    """

    before: Tensor
    grid: tuple[int, ...]
    slack: int
    least: float
    few: bool
    cells: Sequence[tuple[int, ...]]
    runs: Sequence[tuple[Part, ...]]

    def judged(self, after: Sequence[Tensor], together: bool = False) -> Places | None:
        """Count the places that see their own part, given the maps (B, C, *grid) after each run."""
        if not after:
            return None
        change = torch.stack([one[:1].double().flatten(2)[0] - self.before for one in after])
        if not bool(change.isfinite().all()):
            return None
        if together:
            return at_once(change[0], self.cells, self.grid, self.slack)
        if self.few:
            return all_of_few(change.reshape(len(self.cells), -1, *change.shape[1:]))
        return one_by_one(change, self.cells, self.grid, self.slack, self.least)
