"""The run behind `camfn explain` and `camfn guided`: explain photos in batches, and write files for each photo."""

# tested in tests/cli/test_cli.py

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import image
from .._photos.classes import ClassChoice, first_score, no_class
from .._photos.explain import Changes, Explained, explain_batch
from .._photos.layer import Layer, choose_layer, choose_layers
from .._photos.read import DEFAULT, ReadAs, read_or_error
from .._shared.errors import PhotoError
from .._shared.files import write_whole
from ..catalogue import info_of
from ..zoo import Loaded
from ._files import RECORD, PhotoFiles, Record, save_record, with_ending


@dataclass
class Job:
    """The inputs of one run, all checked, and its results so far.

    `run` yields one record a photo. It writes the files of a photo, and `explanations.json`, before it yields.

    Attributes:
        plans: the photos and the paths of their files.
        out: the folder of `explanations.json`.
        loaded: model, preprocessing, view, class names.
        method: a method of `camfn.catalogue`, or a partial of one.
        choice: the classes to explain.
        layer_name: a dotted name, or None for the layer that `layers.suggest` puts first on the first batch.
        device: the device of the model.
        batch_size: number of photos that run at once.
        chunk_size: number of perturbed forwards that run at once.
        alpha: opacity of the overlay.
        colormap: colormap of the overlay.
        header: the part of the record that describes model, options, device and versions.
        changes: transformations of the method.
        read_as: the window of gray values, and the frame.
        progress: called with (done, total) after each chunk of perturbed forwards.
        layer: the layer, after the first batch.
        records: the records of the photos so far, in order.
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
    read_as: ReadAs = DEFAULT
    changes: Changes = field(default_factory=Changes)
    progress: Callable[[int, int], None] | None = None
    layer: Layer | None = None
    records: list[Record] = field(default_factory=list)

    def run(self) -> Iterator[Record]:
        """Yield a record for each photo, in order, after writing its files."""
        self.loaded.model.to(self.device)
        plans = iter(self.plans)
        while batch := list(islice(plans, self.batch_size)):
            photos = [read_or_error(item.photo, self.read_as) for item in batch]
            explained = self._explain_all(photos)
            for item, photo in zip(batch, photos, strict=True):
                record: Record = {"photo": str(item.photo), "problem": None, "top": [], "explanations": []}
                if isinstance(photo, Image.Image):
                    record |= self._results(item, photo, explained)
                else:
                    record["problem"] = str(photo)
                self.records.append(record)
                self._save()
                yield record

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
        inputs = torch.stack([self.loaded.preprocess(photo) for photo in photos]).to(self.device)
        model = self.loaded.model
        if self.layer is None and info_of(self.method).takes_layer:
            if self.changes.layers:
                self.layer = choose_layers(model, inputs, self.changes.layers)
            else:
                target = first_score(self.choice) if info_of(self.method).explains_class else no_class
                self.layer = choose_layer(model, inputs, self.layer_name, self.method, target)
        options: dict[str, Any] = {"chunk_size": self.chunk_size, "progress": self.progress, "changes": self.changes}
        return explain_batch(self.method, model, self.layer, inputs, self.choice, **options)

    def _write(self, item: PhotoFiles, photo: Image.Image, explained: Explained) -> Record:
        """Write a photo's maps, and an overlay of each map that shows something."""
        self.out.mkdir(parents=True, exist_ok=True)
        view = torch.from_numpy(np.array(self.loaded.view(photo))).permute(2, 0, 1) / 255
        explanations = []
        results = (explained.classes, explained.cams, explained.problems, explained.scores)
        names = self.loaded.classes
        for base, index, cam, problem, score in zip(item.bases, *results, strict=True):
            raw, overlay = with_ending(base, "npy"), with_ending(base, "png")
            write_whole(raw, partial(np.save, arr=cam.numpy()))
            if problem is None:
                write_whole(overlay, partial(image.save, self._draw(view, cam)))
            explanations.append(
                self.choice.record(index, score, explained.logits, names)
                | {"map": raw.name, "overlay": None if problem else overlay.name, "problem": problem}
            )
        several = len(explained.logits) > 1 and self.choice.form not in ("higher", "lower")
        best = explained.logits.topk(min(5, len(explained.logits))).indices.tolist() if several else []
        return {"top": [self._class_record(explained.logits, index) for index in best], "explanations": explanations}

    def _draw(self, view: Tensor, cam: Tensor) -> Tensor:
        """Draw a map over the photo; draw a picture of gradients by itself, without the photo."""
        if cam.ndim == 3:
            return image.relief(cam[None])[0]
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

    @property
    def record_file(self) -> Path:
        """Path of the record of the run."""
        return self.out / RECORD

    def _save(self) -> None:
        """Write the record of the run so far."""
        layer = self.layer and {"name": self.layer.name, "reason": self.layer.reason}
        save_record(self.record_file, self.header | {"layer": layer, "photos": self.records})
