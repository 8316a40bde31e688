"""The run behind `camfn explain` of volumes: a map of three dimensions, and slices of what the network sees."""

# tested in tests/photos/test_medical.py

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import image
from .._photos.explain import Explained
from .._photos.volume import is_volume, read_volume
from .._shared.errors import PhotoError, UsageError
from ._files import PhotoFiles
from ._job import Job
from ._outputs import told, write_map
from ._records import Record


def any_volumes(photos: Sequence[Path], formats: Sequence[str], task: str, others: bool) -> bool:
    """Say whether a run is one of volumes, and check that it is one alone.

    Raises:
        UsageError: volumes beside photos, or options that are for photos.
    """
    volumes = [photo for photo in photos if is_volume(photo)]
    if volumes and len(volumes) < len(photos):
        raise UsageError(f"{volumes[0]} is a volume, and others are photos: explain them in two runs")
    if volumes and (set(formats) - {"npy", "npz"} or task != "classify" or others):
        raise UsageError(
            f"{volumes[0]} is a volume: leave --task, --check and --figure out; --format takes npy and npz"
        )
    return bool(volumes)


@dataclass
class VolumeJob(Job):
    """A `Job` for volumes; it explains one at a time, and draws slices of the network's input."""

    def _read(self, path: Path) -> Any:
        try:
            return read_volume(path)
        except PhotoError as error:
            return error

    def _explain_all(self, photos: list[Any]) -> Iterator[Explained]:
        """Explain nothing yet: volumes may differ in size."""
        return iter(())

    def _results(self, item: PhotoFiles, photo: Any, explained: Iterator[Explained]) -> Record:
        """Explain one volume, write its files, and return its part of the record."""
        seen = self.loaded.preprocess(photo)
        if seen.ndim != 4:
            raise UsageError(f"--preprocess gives {tuple(seen.shape)} of a volume: expected (C, D, H, W)")
        (found,) = self._explain([photo])
        gray = seen.float().mean(0)
        low, high = gray.amin(), gray.amax()
        gray = (gray - low) / (high - low).clamp_min(1e-12)
        explanations = []
        for base, index, cam, problem, score in zip(
            item.bases, found.classes, found.cams, found.problems, found.scores, strict=True
        ):
            facts = self.choice.record(index, score, found.logits, self.loaded.classes)
            facts["problem"] = told(problem, cam, self.colormap)
            size = (gray.shape[1], gray.shape[2])
            explanations.append(
                facts | write_map(self.outputs, base, cam, size, partial(self._slices, gray, cam), facts)
            )
        return {"explanations": explanations}

    def _slices(self, gray: Tensor, cam: Tensor) -> Tensor:
        """Lay slices along the first axis of the network's input out in a grid, the map over them."""
        heatmap = image.normalize(cam[None], signed=self.colormap == "seismic")[0]
        return image.montage(image.slices(gray, heatmap, alpha=self.alpha, colormap=self.colormap))
