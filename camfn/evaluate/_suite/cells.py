"""The units of T1: a grid in each of its settings, which explains a case and measures the maps."""

# tested in tests/evaluate/suite/test_grids.py

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..._cut.signature import read_signature
from ..._photos.classes import columns_of
from ..._photos.explain import check_map
from ..._photos.layer import Layer
from ..._shared.errors import UsageError
from ...catalogue import METHODS, info_of
from .._inputs.cases import Case
from .._measures.core import layer_of
from .asked import Asked, Weighted, one_hot
from .context import Context, Vectors
from .explain import CONTROLS, Explained, Explainer, control, copied, is_arithmetic, one_channel
from .grids import (
    DiFull,
    UndividedError,
    cell_masks,
    native_shares,
    parted,
    picture_of,
    shares,
    stitched_captures,
)
from .sources import Cell


class Grid:
    """GridPG: one network sees the whole grid, and each cell's class is asked for."""

    setting = "gridpg"

    def __init__(self, context: Context, name: str) -> None:
        self.context, self.name = context, name
        self.side = context.suite.side
        self.names = list(context.grids[int(name.rpartition("/")[2])])
        self.labels = torch.tensor([context.labels[cell] for cell in self.names])

    @cached_property
    def cells(self) -> list[Cell]:
        """The pictures of the cells."""
        return [self.context.source.cell(name, self.context.model) for name in self.names]

    @cached_property
    def asked(self) -> Asked:
        """The grid, and the class of each cell."""
        image = picture_of(self.cells, self.context.scale).to(self.context.device)
        # convolutions on the CPU are faster on channels-last memory
        images = image.expand(self.side**2, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        return self.question(images)

    def question(self, images: Tensor) -> Asked:
        """Ask for the class of each cell."""
        score = Weighted(one_hot(self.labels, int(self.labels.max()) + 1), self.read)
        masks = cell_masks(self.context.size, self.side)
        return Asked(images, score, score, self.names, self.names, masks, masks.roll(1, 0))

    def read(self, outputs: Any) -> Tensor:
        """Read as many logits as the weights have columns."""
        return columns_of(outputs)[:, : int(self.labels.max()) + 1]

    def explain(self, case: Case) -> Explained:
        """Explain the class of each cell."""
        if case.method in CONTROLS:
            return Explained(self.control(case.method))
        return self.explainer(case)

    @cached_property
    def explainer(self) -> Explainer:
        """What explains the grid; methods share its captures."""
        return self.context.explainer(self.context.model.model, self.asked, self.name)

    def control(self, name: str) -> Tensor:
        """Return the map of a control, which needs no picture."""
        count = self.side**2
        blank = self.question(torch.empty(count, 1, 1, 1).expand(-1, -1, *self.context.size))
        return control(name, blank, self.context.suite, self.name)

    def measure(self, maps: Tensor) -> Vectors:
        """Return the share in the own cell, of resized maps and at their own resolution."""
        own = torch.arange(len(maps))
        found = {self.setting: shares(maps, self.context.size, self.side)[own, own]}
        native = native_shares(maps, self.side)
        if native is not None:
            found[f"{self.setting}_native"] = native[own, own]
        return found


class Part(Grid):
    """DiPart: head k pools cell k of the last features of the whole grid."""

    setting = "dipart"

    def explain(self, case: Case) -> Explained:
        """Explain each head's class in a copy of the network whose last layer is cut into cells."""
        if case.method in CONTROLS:
            return Explained(self.control(case.method))
        last = self.last
        at = _layer(case, self.explainer)
        inside = at.name == last.name or at.name.startswith(f"{last.name}.")
        name = f"{last.name}.layer{at.name.removeprefix(last.name)}" if inside else at.name
        heads = self.of_heads(last.name)
        # the copy takes no other batch than this one, so that nothing is tried on it
        heads.layers[name, False, self.asked.images[:1].shape] = at._replace(name=name)
        return heads(case._replace(layer=name))._replace(layer=at.name)

    @property
    def last(self) -> Layer:
        """The layer that is cut, the same for all cases."""
        return _layer(Case("", "auto", "grad_cam"), self.explainer)

    def divides(self) -> bool:
        """Whether the last features of the grid can be cut into its cells; of 17 x 17 they cannot."""
        try:
            heads = parted(self.context.model.model, self.last.name, range(self.side**2), self.side)
            with torch.no_grad():
                heads(self.asked.images)
        except UndividedError:
            return False
        except Exception:  # the rows say what is wrong
            return True
        return True

    def of_heads(self, last: str) -> Explainer:
        """Return what explains the copy whose layer `last` is cut into cells."""
        if last not in self.parted:
            context = self.context
            heads = parted(context.model.model, last, range(self.side**2), self.side)
            self.parted[last] = Explainer(heads, self.asked, context.suite, self.name, {}, context.one_forward)
        return self.parted[last]

    @cached_property
    def parted(self) -> dict[str, Explainer]:
        """The copies of the network by the layer that is cut."""
        return {}


class Full(Grid):
    """DiFull: head k sees cell k alone."""

    setting = "difull"

    @cached_property
    def apart(self) -> Asked:
        """The cells as a batch, each with its class."""
        images = torch.stack([cell.image for cell in self.cells]).to(self.context.device)
        return self.question(images.contiguous(memory_format=torch.channels_last))

    def explain(self, case: Case) -> Explained:
        """Explain each head's class: arithmetic on stitched tensors, or on a module of as many heads."""
        if case.method in CONTROLS:
            return Explained(self.control(case.method))
        method = self.explainer.method(case)
        if is_arithmetic(method):
            return self._of_layer(case, self.explainer)
        if not works_on_heads(method):
            raise UsageError(
                f"DiFull: {case.method} resizes what layers show to the whole picture, and these saw one cell alone: "
                "its map of the grid would be wrong. DiFull takes methods of activations and gradients, and gradients "
                "of the picture"
            )
        side, heads = self.side, DiFull(self.context.model.model, self.side).eval()
        grid = self.asked.images
        which = torch.arange(side**2)
        made: Any = method
        maps = made(heads)(grid, lambda out: out[which, which, self.labels.to(out.device)])
        return Explained(one_channel(maps, method).detach().float().cpu(), "", None)

    @cached_property
    def explainer(self) -> Explainer:
        """What explains the cells, each alone."""
        return self.context.explainer(self.context.model.model, self.apart, self.name)

    @cached_property
    def captures(self) -> dict[tuple[str, bool], tuple[Tensor, list[Tensor | None], Any]]:
        """Stitched activations, gradients and outputs, by the layer and whether the method takes gradients."""
        return {}

    def heads(self) -> list[int]:
        """List the heads whose class a map explains."""
        return list(range(self.side**2))

    def _of_layer(self, case: Case, explainer: Explainer) -> Explained:
        """Apply a method of activations and gradients to stitched tensors."""
        layer = _layer(case, explainer)
        needs = read_signature(explainer.method(case))
        key = (layer.name, needs.gradients)
        if key not in self.captures:
            asked, model = self.apart, self.context.model.model
            self.captures[key] = stitched_captures(model, layer, asked.images, asked.explained, needs.gradients)
        activations, grads, outputs = self.captures[key]
        maps = []
        for head in self.heads():
            given = (activations, grads[head], outputs[head : head + 1] if isinstance(outputs, Tensor) else outputs)
            method = explainer.method(case)
            own = given if info_of(method) in METHODS else copied(given)
            with torch.no_grad():
                cam = method(*own[: needs.positional])
            check_map(cam, 1, activations.ndim - 1)
            maps.append(cam[0])
        return Explained(torch.stack(maps).float().cpu(), layer.name, None)


class Twin(Full):
    """DiFull with one photo in the first and the last corner: a map that pools its weights cannot tell them apart."""

    setting = "twin"

    def __init__(self, context: Context, name: str) -> None:
        super().__init__(context, name)
        self.names = [*self.names[:-1], self.names[0]]
        self.labels = torch.cat([self.labels[:-1], self.labels[:1]])

    def heads(self) -> list[int]:
        """Ask the first corner alone."""
        return [0]

    def control(self, name: str) -> Tensor:
        """Return the control of the first corner."""
        return super().control(name)[:1]

    def measure(self, maps: Tensor) -> Vectors:
        """Return the share of the own corner among both; a half where neither has any."""
        found = shares(maps, self.context.size, self.side)
        native = native_shares(maps, self.side)
        found = found if native is None else native
        own, twin = found[:, 0], found[:, -1]
        return {"twin": torch.where(own + twin > 0, own / (own + twin).clamp(min=1e-12), 0.5)}


def works_on_heads(method: Any) -> bool:
    """Whether a method of a whole network may explain `DiFull`: one that is made of gradients of the picture."""
    info = info_of(method)
    return info.kind == "network" and info.gives == "picture" and not info.takes_layer


def _layer(case: Case, explainer: Explainer) -> Layer:
    """Find the layer of a case."""
    method = explainer.method(case)
    images = explainer.asked.images[:1]
    layer = layer_of(case, method, explainer.model, images, explainer.layers, explainer.first)
    assert layer is not None
    return layer
