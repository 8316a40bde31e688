"""The units of pictures: classes that are asked for, parts that can be taken away, and questions."""

# tested in tests/evaluate/suite/test_run.py

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..._shared.errors import UsageError
from .._inputs.cases import Case
from .asked import Asked
from .cells import Full, Grid, Part, Twin
from .context import Context, Vectors
from .explain import CONTROLS, Explained, Explainer, control
from .measures import Tables, tiny_measures
from .parts import part_measures
from .questions import questioned
from .scenes import Scenes


class Picture:
    """A picture whose classes are asked for, with the tracks that need its masks or remove its parts."""

    def __init__(self, context: Context, name: str) -> None:
        self.context, self.name = context, name.partition("/")[2]
        self.tracks = tuple(track for track in context.suite.tracks if track in ("single", "groups", "ceiling"))
        if self.name not in context.source.blocks(context.suite.measured):
            self.tracks = ()

    @cached_property
    def asked(self) -> Asked:
        """The picture, once for each class."""
        return moved(self.context.source.picture(self.name, self.context.model), self.context.device)

    @cached_property
    def tables(self) -> Tables:
        """What all maps share, of the first class of each picture."""
        asked = moved(self.context.source.picture(self.name, self.context.model, 1), self.context.device)
        return Tables(self.context.model.model, asked, self.context.suite, self.name)

    def explain(self, case: Case) -> Explained:
        """Explain each class."""
        if case.method in CONTROLS:
            return Explained(control(case.method, self.asked, self.context.suite, self.name))
        return self.explainer(case)

    @cached_property
    def explainer(self) -> Explainer:
        """What explains the questions; methods share its captures."""
        return self.context.explainer(self.context.model.model, self.asked, self.name)

    def measure(self, maps: Tensor) -> Vectors:
        """Measure by the masks, and by the parts that go."""
        return self.of_masks(maps) | self.of_network(maps)

    def of_masks(self, maps: Tensor) -> Vectors:
        """Measure by the masks alone, without the network."""
        truth = self.context.source.truth(self.name)
        return tiny_measures(maps, *truth) if truth and "tiny" in self.context.suite.tracks else {}

    def of_network(self, maps: Tensor) -> Vectors:
        """Measure by what the network loses."""
        if not self.tracks:
            return {}
        each = len(maps) // len(self.tables.asked.images)
        return self.tables.measures(maps[::each], self.tracks)


class Parts:
    """A scene of four digits, of which any set can be drawn without: FunnyBirds' protocol (2308.06248)."""

    def __init__(self, context: Context, name: str) -> None:
        self.context, self.name = context, name.partition("/")[2]
        source = context.source
        if not isinstance(source, Scenes):
            raise UsageError("the parts of a photo cannot be taken away: they are of scenes alone")
        self.source = source

    @cached_property
    def asked(self) -> Asked:
        """The scenes, and the first two digits of each."""
        return moved(self.source.picture(self.name, self.context.model), self.context.device)

    def explain(self, case: Case) -> Explained:
        """Explain two of the digits."""
        if case.method in CONTROLS:
            return Explained(control(case.method, self.asked, self.context.suite, self.name))
        return self.explainer(case)

    @cached_property
    def explainer(self) -> Explainer:
        """What explains the questions; methods share its captures."""
        return self.context.explainer(self.context.model.model, self.asked, self.name)

    @cached_property
    def outputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits without each set of digits, (n, 16, 10), the labels and the masks."""
        images, labels, masks = self.source.truth_of_parts(self.name)
        with torch.no_grad():
            logits = torch.stack([self.context.model.model(each.to(self.context.device)) for each in images])
        return logits.float().cpu(), labels, masks

    def measure(self, maps: Tensor) -> Vectors:
        """Measure by what the network says without each set of digits."""
        scenes = maps.chunk(len(self.outputs[0]))
        each = [part_measures(own, *truth) for own, truth in zip(scenes, zip(*self.outputs, strict=True), strict=True)]
        return {name: torch.cat([one[name] for one in each]) for name in each[0]}


class Questions:
    """The questions why one class and not another, and why a class of a group."""

    def __init__(self, context: Context, name: str) -> None:
        self.context, self.name = context, name.partition("/")[2]
        self.ask = context.source.questions

    @cached_property
    def asked(self) -> Asked:
        """The picture, once for each question."""
        return moved(self.ask(self.name, self.context.model), self.context.device)

    def explain(self, case: Case) -> Explained:
        """Explain the answer to each question."""
        if case.method in CONTROLS:
            return Explained(control(case.method, self.asked, self.context.suite, self.name))
        return self.explainer(case)

    @cached_property
    def explainer(self) -> Explainer:
        """What explains the questions; methods share its captures."""
        return self.context.explainer(self.context.model.model, self.asked, self.name)

    def measure(self, maps: Tensor) -> Vectors:
        """Measure what the answer loses while the map's pixels go."""
        return questioned(self.context.model.model, self.asked, maps, self.context.suite)


class Groupings(Questions):
    """The questions why a class and not the others of its group, and why one group and not another."""

    def __init__(self, context: Context, name: str) -> None:
        super().__init__(context, name)
        self.ask = context.source.groupings


def moved(asked: Asked, device: str) -> Asked:
    """Move the pictures to a device."""
    images = asked.images.to(device, memory_format=torch.channels_last)
    removed = asked.removed.to(device) if isinstance(asked.removed, Tensor) else asked.removed
    return asked._replace(images=images, removed=removed)


KINDS: dict[str, Any] = {
    "gridpg": Grid,
    "dipart": Part,
    "difull": Full,
    "twin": Twin,
    "picture": Picture,
    "parts": Parts,
    "questions": Questions,
    "groupings": Groupings,
}
"""The units by the first word of their names."""
