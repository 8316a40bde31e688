"""The run behind `camfn explain` and `camfn guided`: explain photos in batches, and write files for each photo."""

# tested in tests/cli/test_cli.py

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ... import image, layout
from ..._photos.classes import ClassChoice, first_score, no_class
from ..._photos.explain import Changes, Explained, explain_batch
from ..._photos.layer import Layer, choose_layer, choose_layers
from ..._photos.read import DEFAULT, ReadAs, read_or_error
from ..._photos.reading import reading_of
from ..._shared.errors import CamfnError, PhotoError, UsageError
from ..._shared.files import hash_of_file
from ..._shared.vocabulary import ScoreFn
from ...catalogue import info_of
from ...zoo import Loaded
from .._files.figure import Panel, save_figure
from .._files.files import PhotoFiles
from .._files.outputs import Outputs, told, write_map
from .._files.records import RECORD, SCHEMA, Record, append_line, hash_of_weights, now
from .trust import checked, composed

_WRITERS = 2
"""How many threads write files and read photos at the same time."""


@dataclass
class Job:
    """The inputs of one run, all checked, and its results so far.

    `run` yields one record a photo. It writes the files of a photo, and its lines of `explanations.jsonl`, before it
    yields. Of a batch, the files of two photos are drawn, encoded
    and written at once; all are written before the next batch runs.

    Attributes:
        plans: the photos and the paths of their files.
        out: the folder of `explanations.jsonl`.
        loaded: model, preprocessing, view, class names.
        method: a method of `camfn.catalogue`, or a partial of one.
        choice: the classes to explain.
        layer_name: a dotted name, or None for the layer that `layers.suggest` puts first on the first batch.
        device: the device of the model.
        batch_size: number of photos that run at once.
        chunk_size: number of perturbed forwards that run at once.
        alpha: opacity of the overlay.
        colormap: colormap of the overlay.
        as_grad_cam: draw overlays as pytorch-grad-cam does.
        header: the part of the record that describes model, options, device and versions.
        changes: transformations of the method.
        read_as: the window of gray values, and the frame.
        progress: called with (done, total) after each chunk of perturbed forwards.
        layer: the layer, after the first batch.
        outputs: the files to write of each map.
        check: check each map, and give a table of it.
        seed: of the draws of the check.
        figure: the figure to write at the end, or None.
        command: of a photo's name, the command that explains it again.
        panels: the rows of the figure so far.
    """

    plans: list[PhotoFiles]
    out: Path
    loaded: Loaded
    method: Callable[..., Tensor]
    choice: ClassChoice
    layer_name: str | None
    device: torch.device
    batch_size: int
    chunk_size: int | None
    alpha: float
    colormap: str
    header: Record
    as_grad_cam: bool = False
    read_as: ReadAs = DEFAULT
    changes: Changes = field(default_factory=Changes)
    progress: Callable[[int, int], None] | None = None
    layer: Layer | None = None
    outputs: Outputs = field(default_factory=Outputs)
    check: bool = False
    seed: int = 0
    figure: Path | None = None
    command: Callable[[str], str] = str
    panels: list[Panel] = field(default_factory=list)
    _writing: list[Callable[[], None]] = field(default_factory=list)
    _ahead: int = _WRITERS

    def run(self) -> Iterator[Record]:
        """Yield a record for each photo, in order, after writing its files."""
        self.loaded.model.to(self.device)
        self.header["weights_sha256"] = self._hash()
        plans = iter(self.plans)
        pending: deque[tuple[Path, Record, list[Future[None]]]] = deque()
        with ThreadPoolExecutor(_WRITERS) as pool:
            while batch := list(islice(plans, self.batch_size)):
                photos = list(pool.map(lambda item: self._read(item.photo), batch))
                explained = self._explain_all(photos)
                for item, photo in zip(batch, photos, strict=True):
                    self._writing = []
                    record: Record = {"photo": str(item.photo), "problem": None, "top": [], "explanations": []}
                    record["read"] = self._read_how(photo)
                    if not isinstance(photo, PhotoError):
                        record |= self._results(item, photo, explained)
                    else:
                        record["problem"] = str(photo)
                    pending.append((item.photo, record, [pool.submit(write) for write in self._writing]))
                    if len(pending) > self._ahead:  # no more than these are held in memory
                        yield self._finished(*pending.popleft())
                while pending:
                    yield self._finished(*pending.popleft())
        if self.figure is not None and self.panels:
            save_figure(self.figure, self.panels, self.alpha, self.colormap)

    def _finished(self, photo: Path, record: Record, files: list[Future[None]]) -> Record:
        """Wait for the files of a photo, add its lines to the record of the folder, and return its record."""
        for file in files:
            file.result()
        self._save(photo, record)
        return record

    def _hash(self) -> str | None:
        """Return the hash of what the model has learned."""
        return hash_of_weights(self.loaded.model)

    def _read(self, path: Path) -> Image.Image | PhotoError:
        """Read a photo; return the error instead of raising it."""
        return read_or_error(path, self.read_as)

    def _read_how(self, photo: Image.Image | PhotoError) -> Record | None:
        """Say which frame and window of gray values `read_photo` read; None for a photo that it could not read."""
        return None if isinstance(photo, PhotoError) else reading_of(photo).record()

    def _explain_all(self, photos: list[Image.Image | PhotoError]) -> Iterator[Explained]:
        """Explain the readable photos of a batch."""
        return iter(self._explain([photo for photo in photos if isinstance(photo, Image.Image)]))

    def _results(self, item: PhotoFiles, photo: Image.Image, explained: Iterator[Explained]) -> Record:
        """Take the explanation of the next photo, write its files, and return its part of the record."""
        return self._write(item, photo, next(explained))

    def _explain(self, photos: list[Image.Image]) -> list[Explained]:
        """Explain photos as one batch; choose the layer on the first one."""
        if not photos:
            return []
        inputs = torch.stack([self.loaded.preprocess(photo) for photo in photos])
        # convolutions on the CPU are faster on channels-last memory
        inputs = inputs.to(
            self.device, memory_format=torch.channels_last if inputs.ndim == 4 else torch.preserve_format
        )
        model = self.loaded.model
        if self.layer is None and info_of(self.method).takes_layer:
            if self.changes.layers:
                self.layer = choose_layers(model, inputs, self.changes.layers)
            else:
                target = first_score(self.choice) if info_of(self.method).explains_class else no_class
                self.layer = choose_layer(model, inputs, self.layer_name, self.method, target)
            self.header["layer"] = layer_record(model, self.layer, inputs)
        options: dict[str, Any] = {"chunk_size": self.chunk_size, "progress": self.progress, "changes": self.changes}
        return explain_batch(self.method, model, self.layer, inputs, self.choice, **options)

    def _write(self, item: PhotoFiles, photo: Image.Image, explained: Explained) -> Record:
        """Write a photo's maps, and an overlay of each map that shows something."""
        view = self._view(photo)
        names = self.loaded.classes
        checks = self._checks(photo, explained)
        explanations = []
        results = (explained.classes, explained.cams, explained.problems, explained.scores, checks)
        for base, index, cam, problem, score, verdicts in zip(item.bases, *results, strict=True):
            facts = self.choice.record(index, score, explained.logits, names)
            facts["problem"] = told(problem, cam, self.colormap)
            draw = partial(self._draw, view, cam)
            files = write_map(self.outputs, base, cam, _size(view), draw, facts, self._writing.append)
            self._add_panel(item, view, cam, facts)
            explanations.append(facts | files | verdicts)
        several = len(explained.logits) > 1 and self.choice.form not in ("higher", "lower")
        best = explained.logits.topk(min(5, len(explained.logits))).indices.tolist() if several else []
        return {"top": [self._class_record(explained.logits, index) for index in best], "explanations": explanations}

    def _view(self, photo: Image.Image) -> Tensor:
        """Return what the map is drawn over: the part of a photo that the network sees."""
        return view_of(self.loaded, photo)

    def _draw(self, view: Tensor, cam: Tensor) -> Tensor:
        """Draw a map over the photo; draw a picture of gradients by itself, without the photo."""
        if cam.ndim == 3:
            return image.relief(cam.expand(3, -1, -1)[None])[0]  # of a gray image too
        if self.as_grad_cam:
            return image.overlay(view, cam[None], alpha=self.alpha, like="grad-cam")[0]
        heatmap = image.normalize(cam[None], signed=self.colormap == "seismic")
        return image.overlay(view, heatmap, alpha=self.alpha, colormap=self.colormap)[0]

    def _class_record(self, logits: Tensor, index: int) -> Record:
        """Return the index, name, score and probability of a class; null stands for what is not finite."""
        names, probability = self.loaded.classes, logits.softmax(0)[index].item()
        score = logits[index].item()
        return {
            "index": index,
            "name": names[index] if names else None,
            "score": score if math.isfinite(score) else None,
            "probability": probability if math.isfinite(probability) else None,
        }

    def _checks(self, photo: Image.Image, explained: Explained) -> list[Record]:
        """Check each map of one photo; a map that shows nothing has no check."""
        if not self.check:
            return [{}] * len(explained.cams)
        inputs = self.loaded.preprocess(photo)[None].to(self.device)
        explain = composed(self.method, self.loaded.model, self.layer, self.changes, self.chunk_size)
        with torch.no_grad():
            scores = self._scores(self.loaded.model(inputs))
        return [
            {} if problem else {"check": checked(explain, inputs, score, self.loaded.classes, self.seed)}
            for score, problem in zip(scores, explained.problems, strict=True)
        ]

    def _scores(self, outputs: Any) -> list[ScoreFn]:
        """Return the targets of one photo; of a method that explains no class, the top class if there is one."""
        try:
            return [each.score for each in self.choice.pick(outputs)]
        except UsageError:
            if info_of(self.method).explains_class:
                raise
            return [no_class]

    def _add_panel(self, item: PhotoFiles, view: Tensor, cam: Tensor, facts: Record) -> None:
        """Keep what the figure draws of a map."""
        pictures = self._pictures(view, cam) if self.figure is not None else None
        if pictures is not None:
            numbers = [f"{key} {facts[key]:.3g}" for key in ("probability", "score") if facts[key] is not None]
            label = facts["name"] or ("" if facts["index"] is None else f"class {facts['index']}")
            title = ", ".join(filter(None, [str(self.header.get("method", "")), label, *numbers[:1]]))
            self.panels.append(
                Panel(pictures[0], None if facts["problem"] else cam, title, item.photo.name, pictures[1])
            )

    def _pictures(self, view: Tensor, cam: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """Return what the figure draws: the photo, and the overlay if the figure does not draw it itself."""
        return (view, None) if cam.ndim == 2 else None

    @property
    def record_file(self) -> Path:
        """Path of the record of the folder."""
        return self.out / RECORD

    def _save(self, photo: Path, record: Record) -> None:
        """Append a line for each map of a photo, or one line that says why there is none."""
        common = {"schema": SCHEMA, "time": now(), "command": self.command(str(photo)), "folder": str(Path.cwd())}
        common |= {"photo": str(photo), "photo_sha256": hash_of_file(photo), **self.header}
        common["read"] = record["read"]
        common["layer"] = self.header.get("layer")
        common["top"] = record["top"]
        nothing = {"index": None, "name": None, "score": None, "probability": None, "map": None, "overlay": None}
        for explanation in record["explanations"] or [nothing | {"files": [], "problem": record["problem"]}]:
            kept = dict(explanation)
            if "check" in kept:
                kept["check"] = {key: value for key, value in kept["check"].items() if key != "table"}
            append_line(self.record_file, common | kept)


def view_of(loaded: Loaded, photo: Image.Image) -> Tensor:
    """Return the part of a photo that the network sees, (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(loaded.view(photo))).permute(2, 0, 1) / 255


def _size(view: Tensor) -> tuple[int, int]:
    return view.shape[1], view.shape[2]


def layer_record(model: nn.Module, layer: Layer, inputs: Tensor) -> Record:
    """Describe a layer for the record: its name, why it was chosen, its layout, and what decided for that."""
    record: Record = {"name": layer.name, "reason": layer.reason, "layout": None, "layout_reason": None}
    if layer.channels and "," not in layer.name:
        record["layout"] = "none" if layer.layout is None else repr(layer.layout)
        with suppress(CamfnError):
            record["layout_reason"] = layout.find(model, layer.name, inputs[:1]).reason
    return record
