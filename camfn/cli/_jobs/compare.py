"""A grid of photos and methods: a row for each photo, a column for each method, equal columns joined into one."""

# tested in tests/cli/jobs/test_compare.py and tests/cli/test_transforms.py

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ... import image
from ..._photos.classes import ClassChoice, first_score
from ..._photos.explain import explain_batch
from ..._photos.layer import Layer, choose_layer
from ..._shared.errors import CamfnError, UsageError
from ...catalogue import info_of
from ...image._layout import Scale
from ...zoo import Loaded
from .._files.outputs import told
from .job import view_of

if TYPE_CHECKING:
    from ...evaluate._measures.memo import Layers

_EQUAL = 1e-4
"""Largest difference of two heatmaps in [0, 1] that are equal but for rounding."""

_CELL = 256
"""Longer side of a picture in a grid of several photos, in pixels."""

_LEAST = 128
"""The same where photos are small, in pixels: the captions are this wide."""

_LETTERS = 20
"""Size of the letters of such a grid, in pixels: it is often shown smaller than it is."""


_NO_CLASS = "no class"


class Shown(NamedTuple):
    """One map of a grid.

    Attributes:
        cam: (h, w).
        label: what is explained.
        problem: why it shows nothing, or None.
    """

    cam: Tensor
    label: str
    problem: str | None


@dataclass
class Comparison:
    """Photos explained by several methods.

    Attributes:
        loaded: model, preprocessing, view, class names; the model is on the device.
        chosen: methods by name.
        choice: the target.
        layer_name: a dotted name, or None for the suggested layer.
        device: the device of the model.
        lenient: names of methods to leave out where they cannot explain the model; of others the error is raised.
        chunk_size: number of perturbed forwards that run at once.
        look: opacity and colormap of the overlays.
        progress: called with (done, total) after each chunk of perturbed forwards.
        finished: called after each method on each photo.
        messages: the layers, each method that shows nothing or cannot explain the model, and each that equals another.
        drawn: names of the methods that gave a map of every photo.
    """

    loaded: Loaded
    chosen: Mapping[str, Callable[..., Tensor]]
    choice: ClassChoice
    layer_name: str | None
    device: torch.device
    lenient: Container[str]
    chunk_size: int | None
    look: tuple[float, str]
    progress: Callable[[int, int], None]
    finished: Callable[[], None]
    messages: list[str] = field(default_factory=list)
    drawn: set[str] = field(default_factory=set)
    _layers: dict[bool, Layer] = field(default_factory=dict)
    _shapes: set[torch.Size] = field(default_factory=set)

    def grid(self, photos: Sequence[tuple[str, Image.Image]]) -> Tensor:
        """Draw the grid, (3, H, W): the photo first, then its map by each method.

        Args:
            photos: names and photos.

        Raises:
            UsageError: no method gives a map.
            CamfnError: a method that is not in `lenient` cannot explain the model.
        """
        return self._draw(photos, *self._columns(photos))

    def figure(self, photos: Sequence[tuple[str, Image.Image]], width: float | None, scale: Scale) -> image.Figure:
        """Lay the same out as a figure for a paper; the class stands at the photo, and "no class" at the method.

        Args:
            photos: names and photos.
            width: inches; None for one column of a paper, or two where there are more than four methods.
            scale: as in `image.figure`.

        Raises:
            UsageError: no method gives a map.
            CamfnError: a method that is not in `lenient` cannot explain the model.
        """
        columns, groups = self._columns(photos)
        leads = [columns[names[0]] for names in groups]
        alpha, colormap = self.look
        return image.figure(
            [view_of(self.loaded, photo) for _, photo in photos],
            [[_finite(maps[row].cam) for maps in leads] for row in range(len(photos))],
            [" = ".join(names) + _without_class(maps) for names, maps in zip(groups, leads)],
            [_row_name(name, [maps[row] for maps in leads]) for row, (name, _) in enumerate(photos)],
            width=width or (3.25 if len(groups) <= 4 else 6.75),
            signed=colormap == "seismic",
            scale=scale,
            colormap=None if colormap in ("seismic", "turbo") else colormap,
            alpha=alpha,
        )

    def layers(self) -> Layers:
        """Return the layers of the drawn maps as `evaluate_photo` takes them, so that it measures these maps."""
        name = self.layer_name or "auto"
        return {(name, kind, shape): layer for kind, layer in self._layers.items() for shape in self._shapes}

    def _columns(self, photos: Sequence[tuple[str, Image.Image]]) -> tuple[dict[str, list[Shown]], list[list[str]]]:
        """Explain each photo by each method; return the maps by method, and the methods whose maps are equal."""
        inputs = [self.loaded.preprocess(photo)[None].to(self.device) for _, photo in photos]
        self._shapes.update(one.shape for one in inputs)
        columns = {name: maps for name in self.chosen if (maps := self._column(name, photos, inputs)) is not None}
        if not columns:
            raise UsageError("no method gave a map: " + "; ".join(self.messages))
        self.drawn.update(columns)
        groups = joined(columns, signed=self.look[1] == "seismic")
        self.messages += [_said(names, columns) for names in groups if len(names) > 1]
        return columns, groups

    def _column(
        self, name: str, photos: Sequence[tuple[str, Image.Image]], inputs: Sequence[Tensor]
    ) -> list[Shown] | None:
        """Explain each photo by one method; None for a method that is left out."""
        shown = []
        for i, ((photo, _), one) in enumerate(zip(photos, inputs, strict=True)):
            try:
                shown.append(self._map(name, one))
            except CamfnError as error:
                if name not in self.lenient:
                    raise
                self.messages.append(f"{name} is left out: {' '.join(str(error).split())}")
                for _ in photos[i + 1 :]:
                    self.finished()
                return None
            finally:
                self.finished()
            if shown[-1].problem is not None:
                where = f" of {photo}" if len(photos) > 1 else ""
                signed = " --colormap seismic draws both signs." if "Look at it signed" in shown[-1].problem else ""
                self.messages.append(f"{name}{where} shows nothing: {shown[-1].problem}{signed}")
        return shown

    def _map(self, name: str, inputs: Tensor) -> Shown:
        """Explain one photo by one method, at the layer of all photos."""
        method = self.chosen[name]
        at_attention = info_of(method).kind == "attention"
        if at_attention not in self._layers:
            score = first_score(self.choice)
            self._layers[at_attention] = choose_layer(self.loaded.model, inputs, self.layer_name, method, score)
        layer = self._layers[at_attention]
        (explained,) = explain_batch(
            method,
            self.loaded.model,
            layer,
            inputs,
            self.choice,
            chunk_size=self.chunk_size,
            progress=self.progress,
        )
        message = f"layer {layer.name}: {layer.reason}"
        self.messages += [] if message in self.messages else [message]
        explains_class = explained.scores[0] is not None
        label = self.choice.label(explained.classes[0], self.loaded.classes) if explains_class else _NO_CLASS
        return Shown(explained.cams[0], label, told(explained.problems[0], explained.cams[0], self.look[1]))

    def _draw(
        self,
        photos: Sequence[tuple[str, Image.Image]],
        columns: Mapping[str, list[Shown]],
        groups: Iterable[Sequence[str]],
    ) -> Tensor:
        """Draw a row for each photo; of one photo, the methods go on in the next row."""
        alone = len(photos) == 1
        pictures, captions, sides = [], [], []
        for row, (name, photo) in enumerate(photos):
            view = view_of(self.loaded, photo)
            sides.append((view.shape[1], view.shape[2]))
            pictures.append(view)
            captions.append("photo" if alone else name)
            for names in groups:
                shown = columns[names[0]][row]
                pictures.append(self._overlay(view, shown))
                captions.append(f"{' = '.join(names)}\n{shown.label if shown.problem is None else 'shows nothing'}")
        if alone:
            return image.montage(pictures, captions, cell=sides[0])
        height, width = (max(side[axis] for side in sides) for axis in (0, 1))
        longer = max(height, width)
        scale = min(_CELL, max(longer, _LEAST)) / longer
        cell = max(1, round(scale * height)), max(1, round(scale * width))
        return image.montage(pictures, captions, columns=len(pictures) // len(photos), cell=cell, caption_size=_LETTERS)

    def _overlay(self, view: Tensor, shown: Shown) -> Tensor:
        """Draw a map over its photo; a map that shows nothing leaves the photo."""
        if shown.problem is not None:
            return view
        alpha, colormap = self.look
        heatmap = image.normalize(shown.cam[None], signed=colormap == "seismic")
        return image.overlay(view, heatmap, alpha=alpha, colormap=colormap)[0]


def _finite(cam: Tensor) -> Tensor | None:
    """Return a map; None where it holds NaN."""
    return cam.cpu() if bool(cam.isfinite().all()) else None


def _without_class(maps: Sequence[Shown]) -> str:
    """Say of a method that it explains no class."""
    return f" ({_NO_CLASS})" if all(one.label == _NO_CLASS for one in maps) else ""


def _row_name(name: str, maps: Sequence[Shown]) -> str:
    """Name a row by the class that its maps explain; by the photo where they explain none, or several."""
    labels = {one.label for one in maps} - {_NO_CLASS}
    return labels.pop() if len(labels) == 1 else name


def joined(columns: Mapping[str, Sequence[Shown]], *, signed: bool = False) -> list[list[str]]:
    """Group the methods whose pictures are the same for every photo, in the order of their first ones.

    On a network that ends in pooling and one linear layer, Grad-CAM, HiResCAM and CAM are equal up to a factor.
    """
    groups: list[list[str]] = []
    for name, maps in columns.items():
        group = next((group for group in groups if _all_equal(columns[group[0]], maps, signed)), None)
        if group is None:
            groups.append([name])
        else:
            group.append(name)
    return groups


def _said(names: Sequence[str], columns: Mapping[str, Sequence[Shown]]) -> str:
    """Say that methods share a panel, and whether their negative parts, which the colors may leave out, agree too."""
    first = columns[names[0]]
    whole = all(_all_equal(first, columns[name], True) for name in names)
    what = "their maps are" if whole else "the positive parts of their maps are"
    return f"{', '.join(names[:-1])} and {names[-1]} share a panel: {what} equal, up to a factor"


def _all_equal(ones: Sequence[Shown], others: Sequence[Shown], signed: bool) -> bool:
    return all(_equal(one, other, signed) for one, other in zip(ones, others, strict=True))


def _equal(one: Shown, other: Shown, signed: bool) -> bool:
    """Whether two maps give one picture, and explain one target; those that show nothing are never joined."""
    if one.problem or other.problem or one.label != other.label or one.cam.shape != other.cam.shape:
        return False
    first, second = (image.normalize(each.cam[None].double(), signed=signed) for each in (one, other))
    return bool((first - second).abs().max() <= _EQUAL)
