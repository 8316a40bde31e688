"""The run behind `camfn explain --task segment` and `similar`: regions of a segmentation, similarity to a photo."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ... import explainer
from ..._photos.explain import Explained
from ..._photos.layer import Layer, choose_layer, choose_outside_heads
from ..._photos.read import read_photo
from ..._photos.scored import explain_found
from ..._shared.errors import PhotoError, UsageError
from ..._shared.vocabulary import ScoreFn
from ...targets import mask_score, similarity
from ...zoo import Loaded
from .._files.files import PhotoFiles
from .._files.outputs import write_map
from .._files.records import Record
from .job import Job, layer_record, view_of
from .trust import checked


@dataclass
class TaskJob(Job):
    """A `Job` for a model that does not classify photos. It explains one photo at a time.

    Attributes:
        task: "segment" or "similar".
        like: for "similar": the photo to compare with.
    """

    task: str = "segment"
    like: Path | None = None

    def _explain_all(self, photos: list[Image.Image | PhotoError]) -> Iterator[Explained]:
        """Explain nothing yet: photos may differ in size, so `_results` explains one at a time."""
        return iter(())

    def _results(self, item: PhotoFiles, photo: Image.Image, explained: Iterator[Explained]) -> Record:
        """Explain each target of one photo, write its files, and return its part of the record."""
        inputs = self.loaded.preprocess(photo)[None].to(self.device)
        view = view_of(self.loaded, photo)
        model = embedding_of(self.loaded) if self.task == "similar" else self.loaded.model
        nothing: Record = {"problem": f"{item.photo}: the network finds nothing of the kind"}
        if self.layer is None:
            with torch.no_grad():
                targets = self._targets(model(inputs))
            if not targets:
                return nothing
            self.layer = self._layer(model, inputs, targets[0][0])
            self.header["layer"] = layer_record(model, self.layer, inputs)
        find = partial(self._targets_of, len(item.bases))
        found = explain_found(self.method, model, self.layer, inputs, find, chunk_size=self.chunk_size)
        if not found:
            return nothing
        explain = explainer(self.method, model, self.layer.name, layout=self.layer.layout, chunk_size=self.chunk_size)
        explanations = []
        for base, (target, facts, cam) in zip(item.bases, found, strict=False):
            problem = None if bool(cam.isfinite().all()) and bool(cam.any()) else "the map is zero, or not finite."
            if self.task == "similar" and facts["score"] > 1 - 1e-6:
                problem = "the two are alike in every respect; at its maximum a cosine has no gradient."
            facts = facts | {"problem": problem}
            draw = partial(self._draw, view, cam)
            files = write_map(self.outputs, base, cam, (view.shape[1], view.shape[2]), draw, facts)
            self._add_panel(item, view, cam, facts)
            check = {"check": checked(explain, inputs, target, None, self.seed)} if self.check and not problem else {}
            explanations.append(facts | files | check)
        return {"explanations": explanations}

    def _targets_of(self, count: int, outputs: Any) -> list[tuple[ScoreFn, Record]]:
        """Return the first targets of one photo."""
        return self._targets(outputs)[:count]

    def _layer(self, model: nn.Module, inputs: Tensor, target: ScoreFn) -> Layer:
        """Choose the named layer, or the first suggested layer outside of the model's heads."""
        if self.layer_name is not None:
            return choose_layer(model, inputs, self.layer_name)
        return choose_outside_heads(model, inputs, target)

    def _targets(self, outputs: Any) -> list[tuple[ScoreFn, Record]]:
        """Return the targets to explain, each with its description in the record, the best first."""
        if self.task == "similar":
            assert self.like is not None
            with torch.no_grad():
                given = self.loaded.preprocess(read_photo(self.like, self.read_as))[None].to(self.device)
                reference = embedding_of(self.loaded)(given)[0]
            target = similarity(reference)
            return [(target, self._facts(0, target(outputs)[0]) | {"name": str(self.like)})]
        return self._regions(outputs)

    def _regions(self, outputs: Any) -> list[tuple[ScoreFn, Record]]:
        """Return the scores of the largest regions of a segmentation, or of the chosen class."""
        logits = outputs["out"] if isinstance(outputs, dict) else outputs
        share = logits[0].argmax(0).flatten().bincount(minlength=logits.shape[1]) / logits[0, 0].numel()
        if self.choice.chosen is not None:
            chosen = [self.choice.chosen]
        else:
            # the first class of a segmentation is the background
            chosen = (share[1:].topk(self.choice.best).indices + 1).tolist()
        return [(mask_score(k, "predicted"), self._facts(k, share[k])) for k in chosen]

    def _facts(self, index: int, score: Tensor) -> Record:
        """Return the description of a target in the record."""
        names, value = self.loaded.classes, float(score)
        return {"index": index, "name": names[index] if names else str(index), "score": value, "probability": value}


def embedding_of(loaded: Loaded) -> nn.Module:
    """Return a copy of a classifier without its last linear layer."""
    linear = [name for name, module in loaded.model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UsageError(f"{loaded.name} ends in no linear layer, before which its embedding would be")
    tower = deepcopy(loaded.model)
    tower.set_submodule(linear[-1], nn.Identity())
    return tower
