"""The run behind `camfn explain` of volumes: a map of three dimensions, and slices of what the network sees."""

# tested in tests/cli/jobs/test_volume.py

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import image
from ..._photos.explain import Explained
from ..._photos.read import DEFAULT, ReadAs
from ..._photos.volume import is_volume, volume_or_error
from ..._shared.errors import CamfnError, UsageError
from ..._shared.maps import min_max
from ...image._paint import slice_numbers
from ...zoo import Loaded
from .._files.files import PhotoFiles
from .._files.records import Record
from .job import Job

_SIDE = 160
"""Pixels that the longer side of a slice has at least."""


def any_volumes(photos: Sequence[Path], formats: Sequence[str], task: str, read_as: ReadAs) -> bool:
    """Say whether a run is one of volumes, and check that it is one alone.

    Raises:
        UsageError: volumes beside photos, or options that are for photos.
    """
    volumes = [photo for photo in photos if is_volume(photo)]
    if not volumes:
        return False
    if len(volumes) < len(photos):
        raise UsageError(f"{volumes[0]} is a volume, and others are photos: explain them in two runs")
    if set(formats) - {"npy", "npz"}:
        raise UsageError(f"{volumes[0]} is a volume: its map has three dimensions, and --format takes npy and npz")
    if task != "classify":
        raise UsageError(f"{volumes[0]} is a volume, which --task {task} does not take: leave --task out")
    if read_as != DEFAULT:
        raise UsageError(
            f"{volumes[0]} is a volume, whose numbers go to --preprocess as they are: leave --window and --frame out"
        )
    return True


def refuse_flat(photo: Path, loaded: Loaded) -> None:
    """Refuse a volume for a model whose preprocessing is resize, crop, mean and deviation of a photo.

    Raises:
        UsageError: says what to give.
    """
    if loaded.recipe is not None:
        raise UsageError(_flat(photo, loaded.name))


def _flat(photo: Path, name: str) -> str:
    return (
        f"{photo} is a volume, and {name} takes photos: give a network of volumes, --model file.py:function, and "
        "--preprocess file.py:function, of an array (X, Y, Z) to a tensor (C, D, H, W)"
    )


@dataclass
class VolumeJob(Job):
    """A `Job` for volumes; it explains and writes one at a time, and draws slices of the network's input."""

    _ahead: int = 0

    def _read(self, path: Path) -> Any:
        return volume_or_error(path)

    def _read_how(self, photo: Any) -> Record | None:
        return None

    def _explain_all(self, photos: list[Any]) -> Iterator[Explained]:
        """Explain nothing yet: volumes may differ in size."""
        return iter(())

    def _results(self, item: PhotoFiles, photo: Any, explained: Iterator[Explained]) -> Record:
        """Explain one volume, write its files, and return its part of the record."""
        try:
            seen = self.loaded.preprocess(photo)
        except CamfnError:
            raise
        except Exception as error:  # what libraries raise of an array varies
            raise UsageError(_flat(item.photo, self.loaded.name)) from error
        if seen.ndim != 4:
            raise UsageError(f"--preprocess gives {tuple(seen.shape)} of a volume: expected (C, D, H, W)")
        return self._write(item, photo, self._explain([photo])[0])

    def _view(self, photo: Any) -> Tensor:
        """Return what the network sees of a volume in gray, (D, H, W) in [0, 1]."""
        return min_max(self.loaded.preprocess(photo).float().mean(0), (0, 1, 2))

    def _draw(self, view: Tensor, cam: Tensor) -> Tensor:
        """Lay slices along the first axis of the network's input out in a grid, the map over them."""
        heatmap = image.normalize(cam[None], signed=self.colormap == "seismic")[0]
        return _grid(view, image.slices(view, heatmap, alpha=self.alpha, colormap=self.colormap))

    def _pictures(self, view: Tensor, cam: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the slices without and with the map."""
        plain = _grid(view, image.slices(view, torch.zeros(1, 1, 1), alpha=0))
        return plain, self._draw(view, cam) if bool(cam.isfinite().all()) else None


def _grid(view: Tensor, slices: Tensor) -> Tensor:
    """Lay slices out, each with its number from 1, and small ones enlarged."""
    depth, *side = view.shape
    scale = max(1, -(-_SIDE // max(side)))
    captions = [f"slice {number + 1} of {depth}" for number in slice_numbers(depth, len(slices)).tolist()]
    return image.montage(slices, captions, cell=(scale * side[0], scale * side[1]))
