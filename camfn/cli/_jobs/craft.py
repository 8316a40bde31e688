"""The run behind `camfn concepts`: concepts of a class's photos, their importance, a picture and two files."""

# tested in tests/cli/commands/test_concepts.py

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ... import image, observe, resume
from ..._photos.layer import choose_layer
from ..._photos.read import ReadAs, read_or_error
from ..._shared.checks import describe
from ..._shared.errors import CamfnError, UsageError
from ..._shared.files import write_whole
from ..._shared.maps import resize
from ...factorize import Craft, Negative, craft, crops
from ...targets import class_score, logits_of
from ...zoo import Loaded
from .._files.files import save_record
from .._files.records import Record

_CELL = 160
"""Pixels of a side of a picture in the sheet."""


@dataclass
class CraftJob:
    """The inputs of one run, all checked.

    Attributes:
        photos: the photos.
        out: the picture; the .json and the .npz have its stem.
        loaded: model, preprocessing, view, class names.
        class_index: the class.
        rank: number of concepts.
        size: side of a crop in pixels of the model's input, 0 for 2/7 of it.
        shown: crops beside each concept's map.
        designs: as in `factorize.concept_importance`.
        negative: "error" to refuse negative activations, "relu" to set them to 0.
        every: use all photos, not only those that the model takes for the class.
        layer_name: a dotted name, or None for the layer that `layers.suggest` puts first.
        device: the device of the network; the factorization runs there too.
        batch_size: crops, and photos, that run at once.
        read_as: the window of gray values, and the frame.
        header: the part of the record that describes model, options, device and versions.
    """

    photos: Sequence[Path]
    out: Path
    loaded: Loaded
    class_index: int
    rank: int
    size: int
    shown: int
    designs: int
    negative: Negative
    every: bool
    layer_name: str | None
    device: torch.device
    batch_size: int
    read_as: ReadAs
    header: Record

    def run(self, told: Sequence[str] = (), progress: Callable[[str, int, int | None], None] = lambda *_: None) -> int:
        """Write the picture and the files; return how many photos could not be read.

        `progress` is called with a stage in words, what is done of it, and its whole, or None where that is not known.
        """
        paths, views, inputs, problems = self._read(progress)
        for problem in problems:
            if problem not in told:
                print(f"camfn: {problem}", file=sys.stderr)
        if not inputs:
            raise UsageError("no photo could be read, so there is nothing to find concepts in")
        sides = inputs[0].shape[1:]
        size = self.size or max(1, round(2 / 7 * min(sides)))
        if size > min(sides):
            raise UsageError(f"--size {size}: a crop has sides of {min(sides)} at most, those of the model's input")
        model = self.loaded.model.to(self.device)
        _check_classifier(model, inputs[0][None].to(self.device), self.loaded.name)
        progress("asking for the classes", 0, None)
        kept = self._kept(model, inputs)
        name = self._name()
        print(f"{len(kept)} of {len(inputs)} photos {'are used' if self.every else f'are taken for {name}'}")
        images = torch.stack([inputs[i] for i in kept]).to(self.device)
        layer = choose_layer(model, images[: self.batch_size], self.layer_name)
        print(f"layer {layer.name}: {layer.reason}")
        found = craft(
            images,
            observe(model, layer.name, layout=layer.layout),
            resume(model, layer.name, layout=layer.layout),
            class_score(self.class_index),
            self.rank,
            size=size,
            designs=self.designs,
            negative=self.negative,
            batch_size=self.batch_size,
            progress=partial(progress, "finding concepts"),
        )
        progress("writing", 0, None)
        seen = torch.stack([_seen(views[i], images.shape[2:]) for i in kept])
        self._write(found, seen, [paths[i] for i in kept], size, {"name": layer.name, "reason": layer.reason})
        return len(problems)

    def _read(
        self, progress: Callable[[str, int, int | None], None]
    ) -> tuple[list[Path], list[Image.Image], list[Tensor], list[str]]:
        """Read the photos: paths, views and inputs of those that can be read, and the problems of the others."""
        paths: list[Path] = []
        views: list[Image.Image] = []
        inputs: list[Tensor] = []
        problems: list[str] = []
        for done, path in enumerate(self.photos):
            progress("reading photos", done, len(self.photos))
            photo = read_or_error(path, self.read_as)
            if isinstance(photo, Image.Image):
                paths.append(path)
                views.append(self.loaded.view(photo))
                inputs.append(self.loaded.preprocess(photo))
            else:
                problems.append(str(photo))
        return paths, views, inputs, problems

    @torch.no_grad()
    def _kept(self, model: torch.nn.Module, inputs: Sequence[Tensor]) -> list[int]:
        """Return the numbers of the photos to use."""
        if self.every:
            return list(range(len(inputs)))
        batches = torch.split(torch.stack(list(inputs)), self.batch_size)
        best = torch.cat([logits_of(model(batch.to(self.device))).argmax(1).cpu() for batch in batches])
        kept: list[int] = (best == self.class_index).nonzero().flatten().tolist()
        if not kept:
            names = sorted({self._name(int(i)) for i in best})
            raise UsageError(
                f"the model takes none of the {len(inputs)} photos for {self._name()}, but for {', '.join(names[:5])}"
                f"{', ...' if len(names) > 5 else ''}: give --all to use them all the same"
            )
        return kept

    def _name(self, index: int | None = None) -> str:
        """Return the name of a class, the one that is asked for if none is given."""
        at = self.class_index if index is None else index
        return self.loaded.classes[at] if self.loaded.classes else f"class {at}"

    def _write(self, found: Craft, seen: Tensor, paths: Sequence[Path], size: int, layer: dict[str, Any]) -> None:
        """Write the sheet, the numbers and the maps."""
        found = Craft(*(value.cpu() for value in found))
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.out, partial(image.save, self._sheet(found, seen, size)))
        arrays: dict[str, Any] = {
            "concepts": found.concepts.numpy(),
            "importance": found.importance.numpy(),
            "of_images": found.of_images.numpy(),
            "maps": found.maps.numpy(),
            "strengths": found.strengths.numpy(),
            "error": found.error.numpy(),
        }
        write_whole(self.out.with_suffix(".npz"), lambda path: np.savez_compressed(path, **arrays))
        concepts = [
            {
                "concept": k + 1,
                "importance": float(found.importance[k]),
                "of_photos": found.of_images[:, k].tolist(),
                "strongest": str(paths[int(found.maps[:, k].flatten(1).mean(1).argmax())]),
            }
            for k in range(len(found.concepts))
        ]
        record: Record = {"class": self._name(), "class_index": self.class_index, "crop": size, "layer": layer}
        record |= {"photos": [str(path) for path in paths], "concepts": concepts}
        record |= {"error": found.error.tolist(), "explained": found.explained.tolist()}
        save_record(self.out.with_suffix(".json"), self.header | record)
        for concept in concepts:
            print(f"concept {concept['concept']}: importance {concept['importance']:.2f}")
        low, high = float(found.explained.min()), float(found.explained.max())
        span = f"{low:.0%}" if f"{low:.0%}" == f"{high:.0%}" else f"{low:.0%} to {high:.0%}"
        print(f"the concepts make {span} of the energy of a photo's activations; importance is of this part alone")
        print(f"picture: {self.out}")

    def _sheet(self, found: Craft, seen: Tensor, size: int) -> Tensor:
        """Draw a row for each concept: its map over the photo where it is strongest, then its strongest crops."""
        pictures: list[Tensor] = []
        captions: list[str] = []
        cut = found._replace(crops=crops(seen, size))
        columns = min(self.shown, len(cut.crops))
        for k, importance in enumerate(found.importance.tolist()):
            own = found.maps[:, k]
            where = int(own.flatten(1).mean(1).argmax())
            heat = own[where] / own.amax().clamp(min=torch.finfo(own.dtype).tiny)
            pictures.append(image.overlay(seen[where], heat[None], alpha=0.7)[0])
            best = cut.strongest(k, columns)
            captions.append(f"{k + 1}: importance {importance:.2f}" if len(best) else f"{k + 1}: in no crop")
            pictures += list(resize(best, (_CELL, _CELL)).clamp(0, 1)) if len(best) else []
            pictures += [torch.ones(3, _CELL, _CELL)] * (columns - len(best))
            captions += [""] * columns
        cell = (_CELL, _CELL)
        return image.montage(pictures, captions, columns=1 + columns, cell=cell, caption_size=13)


@torch.no_grad()
def _check_classifier(model: torch.nn.Module, image: Tensor, name: str) -> None:
    """Refuse a model without a score for each class of the whole photo."""
    outputs = model(image)
    try:
        logits: Any = logits_of(outputs)
    except CamfnError:
        logits = outputs
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise UsageError(
            f"camfn concepts explains classifiers, which give a score for each class, (B, K); {name} returns "
            f"{describe(logits)}. For another task take camfn.factorize.craft with a target of your own"
        )


def _seen(view: Image.Image, size: Sequence[int]) -> Tensor:
    """Return the part of a photo that the model sees, in the size of its input, (3, H, W) in [0, 1]."""
    height, width = size
    small = view.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255
