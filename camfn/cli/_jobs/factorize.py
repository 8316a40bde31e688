"""The run behind `camfn factorize`: factor a set of photos, or each photo, and write the concepts as files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ... import image, observe, resume
from ..._photos.layer import Layer, choose_layer
from ..._photos.read import DEFAULT, ReadAs, read_or_error, read_photo
from ..._photos.reading import reading_of
from ..._shared.errors import UsageError
from ..._shared.files import write_whole
from ...factorize import NamedClass, Negative, deep_feature_factorization, tail_scores, top_classes
from ...zoo import Loaded
from .._files.files import PhotoFiles, save_record, with_ending
from .._files.records import Record

RECORD = "concepts.json"
_NAMED = 0.05
"""A legend names a class beside the best one if its probability is at least this."""


class _PhotoConcepts(NamedTuple):
    """The concepts of one photo.

    Attributes:
        maps: (r, h, w).
        classes: the likely classes of each concept.
        scale: the value of a map that is drawn in full color.
    """

    maps: Tensor
    classes: list[list[NamedClass]]
    scale: float


@dataclass
class FactorizeJob:
    """The inputs of one run, all checked, and its results so far.

    `run` yields one record a photo. It writes the files of a photo, and `concepts.json`, before it yields.

    Attributes:
        plans: the photos and the paths of their files.
        out: the folder of `concepts.json`.
        loaded: model, preprocessing, view, class names.
        rank: number of concepts.
        together: factor all photos with the same concepts, instead of each photo with its own.
        negative: "error" to refuse negative activations, "relu" to set them to 0.
        layer_name: a dotted name, or None for the layer that `layers.suggest` puts first on the first batch.
        device: the device of the network; the factorization runs on the CPU.
        batch_size: number of photos that run at once.
        alpha: opacity of the colors.
        header: the part of the record that describes model, options, device and versions.
        read_as: the window of gray values, and the frame.
        progress: not used, since no forward is perturbed; `run_job` sets it on every job.
        layer: the layer, after the first batch.
        records: the records of the photos so far, in order.
    """

    plans: list[PhotoFiles]
    out: Path
    loaded: Loaded
    rank: int
    together: bool
    negative: Negative
    layer_name: str | None
    device: torch.device
    batch_size: int
    alpha: float
    header: Record
    read_as: ReadAs = DEFAULT
    progress: Callable[[int, int], None] | None = None
    layer: Layer | None = None
    records: list[Record] = field(default_factory=list)

    def run(self) -> Iterator[Record]:
        """Yield a record for each photo, in order, after writing its files."""
        self.loaded.model.to(self.device)
        size = len(self.plans) if self.together else self.batch_size
        for start in range(0, len(self.plans), size):
            yield from self._group(self.plans[start : start + size])

    def _group(self, plans: Sequence[PhotoFiles]) -> Iterator[Record]:
        """Factor a group of photos, and write the concepts of each."""
        inputs: list[Tensor] = []
        problems: list[str | None] = []
        reads: list[Record | None] = []
        for item in plans:
            photo = read_or_error(item.photo, self.read_as)
            readable = isinstance(photo, Image.Image)
            problems.append(None if readable else str(photo))
            reads.append(reading_of(photo).record() if readable else None)
            if isinstance(photo, Image.Image):
                inputs.append(self.loaded.preprocess(photo))
        concepts = iter(self._factor([torch.stack(inputs[i : i + self.batch_size]) for i in self._starts(inputs)]))
        for item, problem, read in zip(plans, problems, reads, strict=True):
            record: Record = {"photo": str(item.photo), "read": read, "problem": problem, "picture": None, "maps": None}
            record |= {"concepts": []} if problem else self._write(item, next(concepts))
            self.records.append(record)
            layer = self.layer and {"name": self.layer.name, "reason": self.layer.reason}
            save_record(self.record_file, self.header | {"layer": layer, "photos": self.records})
            yield record

    def _starts(self, inputs: Sequence[Tensor]) -> range:
        """Return the index of the first photo of each batch."""
        return range(0, len(inputs), self.batch_size)

    @torch.no_grad()
    def _factor(self, batches: list[Tensor]) -> list[_PhotoConcepts]:
        """Factor photos, and name each concept by the classes that the rest of the network gives it."""
        if not batches:
            return []
        model = self.loaded.model
        layer = self.layer = self.layer or choose_layer(model, batches[0].to(self.device), self.layer_name)
        see = observe(model, layer.name, layout=layer.layout)
        activations = [see(batch.to(self.device))[0].cpu() for batch in batches]
        low = min(float(each.min()) for each in activations)
        if low < 0 and self.negative == "error":
            raise UsageError(
                f"layer {layer.name!r} has negative activations, down to {low:.3g}, and concepts are not negative: "
                "take a layer that ends in a ReLU, or give --negative relu to factor the positive part"
            )
        maps, concepts, *_ = deep_feature_factorization(
            torch.cat(activations), self.rank, together=self.together, negative=self.negative
        )
        peaks = maps.amax((2, 3))
        strength = peaks.amax(0) if self.together else peaks
        scale = strength.amax().expand(len(maps)) if self.together else strength.amax(1)
        cut = resume(model, layer.name, layout=layer.layout)
        logits, start = [], 0
        for batch, seen in zip(batches, activations, strict=True):
            own = slice(None) if self.together else slice(start, start + len(batch))
            tail, on = cut(batch.to(self.device)), seen.to(self.device)
            scores = tail_scores(concepts[own].to(on), tail, on, strength=strength[own].to(on))
            logits.append(scores.float().cpu())
            start += len(batch)
        scores = torch.cat(logits)
        if self.together:
            # one name a concept: they differ only where something of the photo goes around the layer
            scores = scores.mean(0, keepdim=True).expand_as(scores)
        names = [top_classes(each, self.loaded.classes) for each in scores]
        return [_PhotoConcepts(*each) for each in zip(maps, names, scale.tolist(), strict=True)]

    def _write(self, item: PhotoFiles, result: _PhotoConcepts) -> Record:
        """Write a photo's maps, and a picture if the maps show something."""
        self.out.mkdir(parents=True, exist_ok=True)
        (base,) = item.bases
        raw, picture = with_ending(base, "npy"), with_ending(base, "png")
        write_whole(raw, partial(np.save, arr=result.maps.numpy()))
        seen = bool(result.maps.any())
        if seen:
            # The photo is read again, because a large set of photos does not fit in memory.
            view = (
                torch.from_numpy(np.array(self.loaded.view(read_photo(item.photo, self.read_as)))).permute(2, 0, 1)
                / 255
            )
            labels = [_label(classes) for classes in result.classes]
            drawn = image.concepts(view, result.maps[None], labels, alpha=self.alpha, scale=result.scale)
            write_whole(picture, partial(image.save, drawn[0]))
        energy = result.maps.flatten(1).square().sum(1)
        shares = (energy / energy.sum()).tolist() if seen else [0.0] * self.rank
        concepts = [
            {
                "concept": k + 1,
                "share": share,
                "peak": float(own.max()),
                "classes": [
                    {"index": c.class_index, "name": c.name, "score": c.score, "probability": c.probability}
                    for c in classes
                ],
            }
            for k, (own, classes, share) in enumerate(zip(result.maps, result.classes, shares, strict=True))
        ]
        problem = None if seen else f"{item.photo}: no concept is found anywhere, so there is no picture"
        return {"problem": problem, "picture": picture.name if seen else None, "maps": raw.name, "concepts": concepts}

    @property
    def record_file(self) -> Path:
        """Path of the record of the run."""
        return self.out / RECORD


def _label(classes: list[NamedClass]) -> str:
    """Write a legend's label: the best class, and the other likely classes."""
    likely = classes[:1] + [each for each in classes[1:] if each.probability >= _NAMED]
    return ", ".join(f"{each.name} {each.probability:.0%}" for each in likely)
