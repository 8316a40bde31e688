"""The run behind `camfn explore`: photos, volumes and detections made ready for one page."""

# tested in tests/cli/commands/test_explore.py

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._photos.classes import ClassChoice, columns_of, first_score
from ..._photos.layer import HEADS
from ..._photos.levels import joined
from ..._photos.read import ReadAs, read_or_error
from ..._photos.volume import volume_or_error
from ..._photos.words import pick_detections, pick_target, refuse_words
from ..._shared.errors import CamfnError, UsageError
from ..._shared.lists import split_at
from ..._shared.vocabulary import ScoreFn
from ...explore import Explored, ShownLayer, ShownPhoto, ShownTarget
from ...explore._collect import picture_of, shown_methods
from ...explore._compute import check_methods, compute
from ...explore._grid import refuse_many
from ...explore._layers import count_of, pick_layers
from ...targets import box_score, detections, known_head
from ...zoo import Loaded
from .detect import first_of, frame_of, head_of, in_photo
from .job import view_of

Aims = list[tuple[ScoreFn, ShownTarget]]


class _NothingFoundError(CamfnError):
    """A detector shows nothing in a photo."""


def split_targets(text: str | None, detect: bool, model: str, names: list[str] | None) -> list[str]:
    """Split targets at commas, or at semicolons where there are any, and refuse what is known to be none.

    A text that is one contrast, or the name of a class with commas in it, is one target.

    Raises:
        UsageError: an empty target, or one that is known to be none.
    """
    if text is None:
        return ["top:20" if detect else "top:3"]
    whole = text.strip()
    parts = [part.strip() for part in split_at(text, ";", "target", brackets=False)]
    named = whole.casefold() in (name.casefold() for name in names or ())
    if len(parts) == 1 and not whole.startswith("contrast:") and not named:
        parts = [part.strip() for part in split_at(text, ",", "target", brackets=False)]
    if not all(parts):
        raise UsageError(f"--target {text!r}: expected targets separated by commas, or by ;, as 'contrast:a,b; top:2'")
    for part in parts:
        refuse_words(part, model, names)
    return list(dict.fromkeys(parts))


def _asked(word: str) -> int:
    """Return how many targets of a photo a word stands for."""
    _, colon, number = word.rpartition("top:")
    return int(number) if colon and number.strip().isdecimal() else 1


@dataclass
class ExploreJob:
    """The inputs of one page, all checked.

    Attributes:
        methods: by name.
        lenient: names of methods to show without a map where they cannot explain the model.
        words: the targets.
        layers: in words.
        detect: whether the model is a detector.
        volumes: whether the photos are volumes.
        device: of the model.
        chunk_size: number of perturbed forwards that run at once.
        messages: the layers, and the photos in which a detector finds nothing.
    """

    methods: Mapping[str, Callable[..., Tensor]]
    lenient: Container[str]
    words: Sequence[str]
    layers: str
    detect: bool
    volumes: bool
    device: torch.device
    chunk_size: int | None
    messages: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_methods(self.methods)
        self.layers = "auto:3" if self.layers.strip() == "auto" and not self.detect else self.layers
        if self.detect and (bad := [name for name in self.methods if name.partition(":")[0] in ("cam", "d_rise")]):
            self.methods = {name: method for name, method in self.methods.items() if name not in bad}
            if not all(name in self.lenient for name in bad) or not self.methods:
                raise UsageError(f"{bad[0]} does not explain boxes on a page: take --methods odam,grad_cam,layer_cam")

    def refuse_many(self, photos: int) -> None:
        """Refuse a page of too many maps before the model is loaded."""
        refuse_many(photos * sum(map(_asked, self.words)), len(self.methods), count_of(self.layers))

    def read(self, path: Path, read_as: ReadAs) -> Any:
        """Read a photo or a volume; return the error instead of raising it."""
        return volume_or_error(path) if self.volumes else read_or_error(path, read_as)

    def run(self, loaded: Loaded, photos: Sequence[tuple[str, Any]], finished: Callable[[], None]) -> Explored:
        """Explain each photo.

        Raises:
            UsageError: a detector finds nothing in any photo.
            CamfnError: a layer, target or method that does not fit the model.
        """
        choices = [pick_detections(word, loaded) if self.detect else pick_target(word, loaded) for word in self.words]
        if self.detect and any(choice.form != "score" for choice in choices):
            raise UsageError("--task detect takes class names, indices, top or top:K as --target")
        loaded.model.to(self.device)
        shown: list[ShownPhoto] = []
        layers: tuple[ShownLayer, ...] = ()
        start = 0
        for name, photo in photos:
            one = loaded.preprocess(photo)
            inputs = one[None].to(self.device)
            picture = picture_of(one) if self.volumes else view_of(loaded, photo)
            to_view, find = self._ready(loaded, photo, inputs, picture, choices)
            try:
                if not layers:
                    layers, start = self._layers(loaded, inputs, choices, find)
                shown.append(self._photo(loaded, name, picture, inputs, layers, to_view, find))
            except _NothingFoundError:
                self.messages.append(f"{name}: the detector shows nothing of the kind")
            finished()
        if not shown:
            asked, names = ",".join(self.words), ", ".join(name for name, _ in photos)
            raise UsageError(
                f"the detector shows no box of --target {asked} in {names}: give "
                "another --target, as top:20 or the name of a class, or another photo"
            )
        self.messages.append(f"layers {', '.join(layer.id for layer in layers)}")
        return Explored(tuple(shown), shown_methods(self.methods), layers, start)

    def _ready(
        self, loaded: Loaded, photo: Any, inputs: Tensor, picture: Tensor, choices: Sequence[ClassChoice]
    ) -> tuple[Callable[[Tensor], Tensor], Callable[[Any], Aims]]:
        """Return what brings a raw map into the frame of the picture, and what finds the targets in the outputs."""
        if not self.detect:
            return lambda cam: cam, partial(_classes, choices, loaded)
        frame, head = frame_of(loaded, photo, inputs, picture), head_of(loaded)
        size = picture.shape[-1], picture.shape[-2]
        return lambda cam: frame.maps(cam[None])[0], partial(_boxes, choices, loaded, head, frame, size)

    def _layers(
        self, loaded: Loaded, inputs: Tensor, choices: Sequence[ClassChoice], find: Callable[[Any], Aims]
    ) -> tuple[tuple[ShownLayer, ...], int]:
        """Choose the layers on the first photo that has a target."""
        if not self.detect:
            return pick_layers(loaded.model, inputs, self.layers, first_score(choices[0]))
        head, automatic = head_of(loaded), self.layers.partition(":")[0].strip() == "auto"
        levels = head.layers if isinstance(head, known_head) else ()
        if automatic and levels and ":" not in self.layers:
            return (ShownLayer(", ".join(levels), "the joined levels that boxes are predicted from"),), 0
        if automatic and levels:
            return pick_layers(loaded.model, inputs, levels[-count_of(self.layers) :], None)
        with torch.no_grad():
            aims = find(loaded.model(inputs))
        if not aims:
            raise _NothingFoundError
        return pick_layers(loaded.model, inputs, self.layers, aims[0][0], leave=HEADS)

    def _photo(
        self,
        loaded: Loaded,
        name: str,
        picture: Tensor,
        inputs: Tensor,
        layers: Sequence[ShownLayer],
        to_view: Callable[[Tensor], Tensor],
        find: Callable[[Any], Aims],
    ) -> ShownPhoto:
        """Explain one photo."""
        told: list[ShownTarget] = []

        def choose(outputs: Any) -> list[ScoreFn]:
            with torch.no_grad():
                aims = find(outputs)
            if not aims:
                raise _NothingFoundError
            told[:] = [target for _, target in aims]
            return [score for score, _ in aims]

        levels = [tuple(layer.id.split(", ")) for layer in layers]
        maps = compute(
            loaded.model,
            inputs,
            choose,
            self.methods,
            levels,
            lenient=[key for key in self.methods if key in self.lenient],
            join=joined,
            chunk_size=self.chunk_size,
        )
        cells = tuple(
            tuple(tuple(cam if isinstance(cam, str) else to_view(cam) for cam in row) for row in rows) for rows in maps
        )
        return ShownPhoto(name, picture, tuple(told), cells, self.volumes)


def _classes(choices: Sequence[ClassChoice], loaded: Loaded, outputs: Any) -> Aims:
    """Return the targets of one photo; one that the words name twice, by name and by rank, once."""
    found: dict[str, tuple[ScoreFn, ShownTarget]] = {}
    for choice in choices:
        for rank, picked in enumerate(choice.pick(outputs), 1):
            index = None if picked.classes is None else int(picked.classes[0])
            label, value = choice.label(index, loaded.classes), float(picked.score(outputs)[0])
            logits = columns_of(outputs)[0].float() if choice.form != "text" else torch.empty(0)
            probability = choice.record(index, value, logits, loaded.classes)["probability"]
            score = f"{value:.3g}" if probability is None else _percent(probability)
            ranked = choice.chosen is None and choice.form not in ("text", "higher", "lower")
            words = f"{'' if choice.form == 'score' else choice.form + ' '}top {rank}" if ranked else label
            found.setdefault(label, (picked.score, ShownTarget(words, label, score)))
    return list(found.values())


def _percent(probability: float) -> str:
    return "< 0.1%" if 0 < probability < 5e-4 else f"{probability:.1%}"


def _boxes(
    choices: Sequence[ClassChoice], loaded: Loaded, head: Any, frame: Any, size: tuple[int, int], outputs: Any
) -> Aims:
    """Return the detections of one photo that the words name, each once, their boxes as parts of the picture."""
    every = detections(head, outputs)[0]
    found: dict[int, tuple[ScoreFn, ShownTarget]] = {}
    for choice in choices:
        count = choice.best if choice.chosen is None else len(every.scores)
        shown = first_of(every, choice.chosen, count)
        boxes, _ = in_photo(head, frame, shown)
        for place, label, score, box in zip(shown.candidates.tolist(), shown.labels.tolist(), shown.scores, boxes):
            name = loaded.classes[label] if loaded.classes else str(label)
            left, top, right, bottom = (value / side for value, side in zip(box.tolist(), (*size, *size)))
            target = ShownTarget("", name, f"{float(score):.2f}", (left, top, right, bottom))
            found.setdefault(place, (box_score(place, label, head=head), target))
    return [(score, target._replace(id=f"box {number}")) for number, (score, target) in enumerate(found.values(), 1)]
