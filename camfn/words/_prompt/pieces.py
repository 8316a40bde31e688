"""What a picture in a prompt is: its places in the sequence of the language model, and the runs of the tower."""

# tested in tests/words/prompt/test_spans.py

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._shared.errors import CamfnError


class Span(NamedTuple):
    """One picture, or one video, in a prompt.

    Attributes:
        image: which picture or video of the prompt, from 0, in the order of the prompt.
        part: "image" or "video"; "thumbnail" for the whole of a picture that the model sees in tiles as well.
        positions: where its places stand in the sequence, row by row of the grid, (N,).
        grid: number of places along each dimension: (height, width), or (time, height, width) of a video.
    """

    image: int
    part: str
    positions: Tensor
    grid: tuple[int, ...]


class Piece(NamedTuple):
    """A span, and what of the vision tower it comes from.

    Attributes:
        span: the places in the language model.
        units: which of the tower's runs in the batch, or of the images in a packed sequence, lie side by side.
        size: height and width of the photo, where the tiles have padding that is cut.
    """

    span: Span
    units: tuple[tuple[int, ...], ...]
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Prompt:
    """A prompt of a model, for the rules of its family.

    Attributes:
        config: of the model.
        ids: the prompt, (P,).
        inputs: all that the processor returned.
        tiles: rows and columns of each picture, where the caller says them.
    """

    config: Any
    ids: Tensor
    inputs: Mapping[str, Any]
    tiles: Sequence[tuple[int, int]] | None

    @property
    def kind(self) -> str:
        """Name of the family."""
        return str(self.config.model_type)

    def at(self, token: str = "image_token_id") -> Tensor:
        """Return the positions of a placeholder."""
        found: Tensor = self.ids == getattr(self.config, token)
        return found.nonzero()[:, 0]

    @property
    def side(self) -> int:
        """Number of patches along each side of one run of the tower."""
        vision = self.config.vision_config
        sizes = [one if isinstance(one, int) else one[0] for one in (vision.image_size, vision.patch_size)]
        both = [one for one in (vision.image_size, vision.patch_size) if not isinstance(one, int)]
        if any(len(set(one)) > 1 for one in both):
            raise CamfnError(f"words: the pictures of this {self.kind} are not square, which camfn does not read")
        return int(sizes[0]) // int(sizes[1])

    def tensor(self, key: str, width: int, why: str) -> list[list[int]]:
        """Return rows of whole numbers of the inputs, which say how large each picture is."""
        value = self.inputs.get(key)
        if not isinstance(value, Tensor) or value.ndim != 2 or value.shape[1] != width:
            raise CamfnError(
                f"words: {self.kind} needs {key} (pictures, {width}) among the inputs, which says {why}: pass all that "
                "its processor returns"
            )
        return [[int(n) for n in row] for row in value.tolist()]

    def wrong_count(self, expected: int, got: int, what: str) -> CamfnError:
        """Return the error of a prompt with another number of placeholders than its pictures have places."""
        return CamfnError(
            f"words: the prompt has {got} placeholders of {what}, but its pictures have {expected} places: pass the "
            "inputs as the model's own processor returned them"
        )


def plain(image: int, positions: Tensor, grid: tuple[int, ...], unit: int, part: str = "image") -> Piece:
    """Return the piece of a picture that the tower sees in one run."""
    return Piece(Span(image, part, positions, grid), ((unit,),))


def check_each(prompt: Prompt, at: Tensor, counts: Sequence[int], what: str = "pictures") -> list[Tensor]:
    """Split positions into those of each picture."""
    if sum(counts) != len(at):
        raise prompt.wrong_count(sum(counts), len(at), what)
    return list(torch.split(at, list(counts)))


def check_grids(grids: Sequence[tuple[int, int]], sizes: Sequence[Sequence[int]], place: int) -> None:
    """Refuse a picture that is smaller than one place of the language model."""
    for n, (grid, size) in enumerate(zip(grids, sizes)):
        if not all(grid):
            raise CamfnError(
                f"words: picture {n} comes as {size[0]} x {size[1]} pixels from the processor, less than the {place} x "
                f"{place} of one place of the language model: make the photo larger, or set the processor's patch_size "
                "and spatial_merge_size to those of the model"
            )


def in_rows(runs: Sequence[Tensor], rows: int, columns: int, side: int) -> tuple[Tensor, tuple[int, int]]:
    """Lay the places of tiles side by side: positions row by row of the whole picture, and its grid."""
    laid = torch.stack(list(runs)).reshape(rows, columns, side, side).transpose(1, 2)
    return laid.reshape(-1), (rows * side, columns * side)


def unpadded(size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """Return how many rows above and columns left of a photo of this size are padding, in a grid of tiles.

    As many are below and at the right; the padding of a photo is in one direction.
    """
    (height, width), (rows, columns) = size, grid
    if width / height > columns / rows:
        return (rows - int(round(height * (columns / width), 7))) // 2, 0
    return 0, (columns - int(round(width * (rows / height), 7))) // 2


def square_side(prompt: Prompt, count: int) -> int:
    """Return the side of a square of so many places."""
    side = math.isqrt(count)
    if side * side != count:
        raise CamfnError(f"words: the {count} places of a picture of this {prompt.kind} are no square")
    return side
