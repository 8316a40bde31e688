"""The run behind `camfn explain --task detect`: the detections that a detector shows, each with its own map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from ... import image
from ..._photos.explain import Explained
from ..._photos.layer import Layer, choose_layer, choose_outside_heads
from ..._photos.levels import at_levels, explain_levels
from ..._shared.boxes import corners_of
from ..._shared.errors import CamfnError, PhotoError, UsageError
from ..._shared.vocabulary import ScoreFn
from ...catalogue import info_of
from ...image._detections import Rescale
from ...targets import (
    BoxHead,
    Detections,
    Head,
    box_score,
    detection_similarity,
    detections,
    detr_head,
    head_for,
    known_head,
)
from ...zoo import Loaded
from ...zoo._photo.letterbox import Frame, whole_frame
from .._files.files import PhotoFiles, with_ending
from .._files.outputs import write_map, write_picture
from .._files.records import Record
from .job import Job, layer_record, view_of
from .trust import checked

Found = list[tuple[ScoreFn, Record]]


@dataclass
class DetectJob(Job):
    """A `Job` for a detector: one forward a photo, for all its detections.

    Attributes:
        rescale: how the maps are stretched in pictures, as for `image.detections`.
        pictures: of each photo, the path of the picture of all its detections, without its ending; empty for none.
    """

    rescale: Rescale = "whole"
    pictures: list[PhotoFiles] = field(default_factory=list)
    head: Head | None = None
    levels: tuple[str, ...] = ()

    def _explain_all(self, photos: list[Image.Image | PhotoError]) -> Iterator[Explained]:
        """Explain nothing yet: photos of a detector differ in size, so `_results` explains one at a time."""
        return iter(())

    def _results(self, item: PhotoFiles, photo: Image.Image, explained: Iterator[Explained]) -> Record:
        """Explain each detection of one photo, write its files, and return its part of the record."""
        inputs = self.loaded.preprocess(photo)[None].to(self.device)
        view = view_of(self.loaded, photo)
        frame = frame_of(self.loaded, photo, inputs, view)
        if self.head is None:
            self.head = head_of(self.loaded)
        find = partial(self._found, self.head, frame, len(item.bases))
        if not self.levels:
            self.levels = self._choose(inputs, find)
            if not self.levels:
                return self._nothing(item, inputs)
        found = explain_levels(self.method, self.loaded.model, self.levels, inputs, find, chunk_size=self.chunk_size)
        if not found:
            return self._nothing(item, inputs)
        explain = at_levels(self.method, self.loaded.model, self.levels, self.chunk_size)
        explanations, cams = [], []
        for base, (target, facts, raw) in zip(item.bases, found, strict=False):
            cam = frame.maps(raw[None])[0]
            cams.append(cam)
            facts = facts | {"problem": problem_of(cam, facts["score"])}
            draw = partial(self._picture, view, [cam], [facts])
            files = write_map(self.outputs, base, cam, (view.shape[1], view.shape[2]), draw, facts)
            self._add_panel(item, view, cam, facts)
            wanted = self.check and facts["problem"] is None
            check = {"check": checked(explain, inputs, target, None, self.seed)} if wanted else {}
            explanations.append(facts | files | check)
        self._write_all(item, view, cams, explanations)
        return {"explanations": explanations}

    def _write_all(self, item: PhotoFiles, view: Tensor, cams: list[Tensor], facts: list[Record]) -> None:
        """Write the picture of all detections of a photo."""
        base = self.pictures[self.plans.index(item)].bases[0] if self.pictures else None
        kept = [(cam, one) for cam, one in zip(cams, facts, strict=True) if one["problem"] is None]
        if base is not None and kept and self.outputs.overlay:
            picture = self._picture(view, [cam for cam, _ in kept], [one for _, one in kept], 640)
            write_picture(with_ending(base, "png"), picture)

    def _picture(self, view: Tensor, cams: list[Tensor], facts: list[Record], least: int = 0) -> Tensor:
        """Draw detections over the photo, which is enlarged to at least so many pixels."""
        corners = [one["corners"] for one in facts if "corners" in one]
        return image.detections(
            view,
            torch.stack(cams),
            torch.tensor([one["box"] for one in facts]),
            [f"{one['name']} {one['score']:.2f}" for one in facts],
            [one["index"] for one in facts],
            corners=torch.tensor(corners) if corners else None,
            rescale=self.rescale,
            alpha=self.alpha,
            colormap=self.colormap,
            least=least,
        )

    def _found(self, head: Head, frame: Frame, count: int, outputs: Any) -> Found:
        """Return the first detections of one photo as targets, each with its description in the record."""
        shown = first_of(detections(head, outputs)[0], self.choice.chosen, count)
        boxes, corners = in_photo(head, frame, shown)
        names, similar = self.loaded.classes, info_of(self.method).name == "d_rise"
        found: Found = []
        for n, (place, label) in enumerate(zip(shown.candidates.tolist(), shown.labels.tolist())):
            target = detection_similarity(place, head=head) if similar else box_score(place, label, head=head)
            score = float(shown.scores[n])
            facts: Record = {"index": label, "name": names[label] if names else str(label), "score": score}
            facts |= {"probability": score, "box": boxes[n].tolist()}
            found.append((target, facts if corners is None else facts | {"corners": corners[n].tolist()}))
        return found

    def _nothing(self, item: PhotoFiles, inputs: Tensor) -> Record:
        """Say why the picture has no detection: the classes found, or the best score that was not enough."""
        assert self.head is not None
        names, wanted = self.loaded.classes, self.choice.chosen
        with torch.no_grad():
            outputs = self.loaded.model(inputs)
            shown = detections(self.head, outputs)[0]
            (best,) = detections(self.head, outputs, 0.0)

        def called(label: int) -> str:
            return repr(names[label]) if names else str(label)

        if len(shown.labels):
            others = ", ".join(called(label) for label in list(dict.fromkeys(shown.labels.tolist()))[:5])
            assert wanted is not None
            why = f"no {called(wanted)}, and {len(shown.labels)} others, the best of {others}"
        elif len(best.scores):
            score, label = float(best.scores[0]), int(best.labels[0])
            why = f"nothing; the best score is {score:.3g}, of {called(label)}, and the detector shows none so low"
        else:
            why = "nothing at all"
        return {"problem": f"{item.photo}: the detector shows {why}"}

    def _choose(self, inputs: Tensor, find: Any) -> tuple[str, ...]:
        """Choose the named layer, the levels that the head is known to read, or the first suggestion outside of it."""
        model = self.loaded.model
        known = self.head.layers if isinstance(self.head, known_head) else ()
        if self.layer_name is not None:
            self.layer = choose_layer(model, inputs, self.layer_name)
            names: tuple[str, ...] = (self.layer.name,)
        elif known:
            assert isinstance(self.head, known_head)
            perturbs = info_of(self.method).needs != {"gradients"}
            names = known[-1:] if perturbs and "tail" not in info_of(self.method).needs else known
            reason = f"the levels that the boxes are predicted from; {self.head.reason}"
            self.layer = Layer(", ".join(names), 0, None, reason)
        else:
            with torch.no_grad():
                targets = find(model(inputs))
            if not targets:
                return ()
            self.layer = choose_outside_heads(model, inputs, targets[0][0])
            names = (self.layer.name,)
        self.header["layer"] = layer_record(model, self.layer, inputs)
        return names


def problem_of(cam: Tensor, score: float) -> str | None:
    """Say why a map shows nothing; None for one that shows something."""
    if bool(cam.isfinite().all()) and bool(cam.any()):
        return None
    if score > 1 - 1e-6:
        return f"the map is zero: the score is {score:.7g}, where a sigmoid or softmax has no gradient."
    return "the map is zero, or not finite."


def head_of(loaded: Loaded) -> Head:
    """Return the functions that read scores and boxes from the outputs of a detector of the zoo."""
    if loaded.name == "tiny:detector":
        plain = BoxHead(_corners, lambda out: out[..., 4:5].sigmoid() * out[..., 5:].softmax(-1))
        return known_head(plain, "a detector of the tiny world", threshold=0.25)
    own = getattr(loaded.model, "box_head", None)
    if own is not None:
        return cast("Head", own)
    try:
        return head_for(loaded.model)
    except CamfnError as error:
        raise UsageError(
            f"{loaded.name} is not a detector that camfn knows: {error}. Your own detector needs its head in an "
            "attribute box_head"
        ) from error


def frame_of(loaded: Loaded, photo: Image.Image, inputs: Tensor, view: Tensor) -> Frame:
    """Return where the view of a photo lies in the input of the network."""
    own = getattr(loaded.preprocess, "frame", None)
    if own is not None:
        frame: Frame = own(photo)
        return frame
    return whole_frame((inputs.shape[-2], inputs.shape[-1]), (view.shape[1], view.shape[2]))


def first_of(shown: Detections, label: int | None, count: int) -> Detections:
    """Return the first detections, of one class or of all."""
    some = shown if label is None else shown.at(shown.labels == label)
    return some.at(torch.arange(min(count, len(some.scores)), device=some.scores.device))


def in_photo(head: Head, frame: Frame, shown: Detections) -> tuple[Tensor, Tensor | None]:
    """Convert the boxes of detections, and the corners of rotated ones, to pixels of the photo."""
    plain = head.head if isinstance(head, known_head) else head
    boxes = shown.boxes.detach().float().cpu()
    if isinstance(plain, detr_head):
        boxes = boxes * boxes.new_tensor([frame.size[1], frame.size[0]] * 2)
    corners = None if shown.corners is None else frame.points(shown.corners.detach().float().cpu())
    return frame.boxes(boxes), corners


def _corners(out: Tensor) -> Tensor:
    """Convert boxes from center and size to corners."""
    return corners_of(out[..., :2], out[..., 2:4])
