"""The files of one map: raw numbers, a gray picture, an overlay."""

# tested in tests/cli/files/test_records.py

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ... import image
from ..._shared.errors import UsageError
from ..._shared.files import write_whole
from ..._shared.lists import split_list
from .files import with_ending

_ENDINGS = {"npy": "npy", "npz": "npz", "tiff": "tiff", "png": "map.png"}
"""What the files of each format end in; STEM.METHOD.png is the overlay."""


class Outputs(NamedTuple):
    """What to write of each map.

    Attributes:
        formats: some of "npy", "npz", "tiff" and "png".
        overlay: whether to draw the map over the photo.
    """

    formats: tuple[str, ...] = ("npy",)
    overlay: bool = True

    @property
    def endings(self) -> list[str]:
        """Endings of all files of a map."""
        return [*(["png"] if self.overlay else []), *(_ENDINGS[name] for name in self.formats)]


def pick_outputs(formats: str, overlay: bool) -> Outputs:
    """Read the formats, separated by commas or spaces."""
    given = split_list(formats, "format")
    for name in given:
        if name not in _ENDINGS:
            raise UsageError(f"--format {name!r}: expected some of npy, npz, tiff and png, as in npy,png")
    return Outputs(tuple(given), overlay)


def write_map(
    outputs: Outputs,
    base: Path,
    cam: Tensor,
    size: tuple[int, int],
    draw: Callable[[], Tensor],
    facts: dict[str, Any],
    submit: Callable[[Callable[[], None]], Any] = lambda write: write(),
) -> dict[str, Any]:
    """Write the files of one map, each whole.

    Args:
        outputs: what to write.
        base: path of the files without their endings.
        cam: the raw map, (h, w), or a picture of gradients, (3, H, W).
        size: of the part of the photo that the network sees, (height, width); TIFF and PNG have it.
        draw: makes the overlay, (3, H, W).
        facts: what was explained, for NPZ; its "problem" says why a map shows nothing, and has no picture.
        submit: takes a function that writes one file, and runs it at once or later.

    Returns:
        For the record: "map", the name of the first file of raw numbers; "overlay"; and "files", the names of all.
    """
    base.parent.mkdir(parents=True, exist_ok=True)
    drawn = facts["problem"] is None
    files: dict[str, str | None] = {}
    for name in outputs.formats:
        file = with_ending(base, _ENDINGS[name])
        if name != "png" or drawn:
            submit(partial(write_whole, file, partial(_WRITERS[name], cam=cam, size=size, facts=facts)))
            files[name] = file.name
    overlay = with_ending(base, "png") if outputs.overlay and drawn else None
    if overlay is not None:
        submit(partial(write_whole, overlay, lambda path: image.save(draw(), path)))
    numbers = [files[name] for name in ("npy", "npz", "tiff") if name in files]
    return {
        "map": numbers[0] if numbers else None,
        "overlay": overlay.name if overlay else None,
        "files": [*files.values(), *([overlay.name] if overlay else [])],
    }


def write_picture(file: Path, picture: Tensor) -> None:
    """Write one picture, (3, H, W), whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, partial(image.save, picture))


def _npy(path: Path, cam: Tensor, size: tuple[int, int], facts: dict[str, Any]) -> None:
    np.save(path, cam.numpy())


def _npz(path: Path, cam: Tensor, size: tuple[int, int], facts: dict[str, Any]) -> None:
    """Write the raw map as `cam`, and each fact that is a word or a number beside it."""
    plain = {key: np.array(value) for key, value in facts.items() if isinstance(value, (str, int, float))}
    np.savez(path, allow_pickle=False, cam=cam.numpy(), **plain)


def _tiff(path: Path, cam: Tensor, size: tuple[int, int], facts: dict[str, Any]) -> None:
    """Write the raw map at the size of the photo, 32-bit floats; a picture of gradients as one page a channel."""
    planes = [Image.fromarray(plane.numpy()) for plane in _at_size(cam, size)]
    planes[0].save(path, format="TIFF", save_all=True, append_images=planes[1:])


def _png(path: Path, cam: Tensor, size: tuple[int, int], facts: dict[str, Any]) -> None:
    """Write the heatmap at the size of the photo, in 16-bit gray: black is zero and below, white the largest value."""
    (plane,) = image.normalize(_at_size(cam, size).sum(0, keepdim=True))
    Image.fromarray((plane.numpy() * 65535).round().astype(np.uint16)).save(path, format="PNG")


_WRITERS: dict[str, Callable[..., None]] = {"npy": _npy, "npz": _npz, "tiff": _tiff, "png": _png}


def _at_size(cam: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map, (h, w), or the channels of a picture, to (channels, *size) in float32."""
    planes = (cam if cam.ndim == 3 else cam[None]).float()
    finite = torch.where(planes.isfinite(), planes, 0)
    return planes if tuple(planes.shape[1:]) == size else image.upsample(finite, size)


def told(problem: str | None, cam: Tensor, colormap: str) -> str | None:
    """Return why a picture of a map shows nothing; colors of both signs show a map that is negative everywhere."""
    negative = bool(cam.isfinite().all()) and bool(cam.any()) and bool(cam.amax() <= 0)
    return None if colormap == "seismic" and negative else problem
