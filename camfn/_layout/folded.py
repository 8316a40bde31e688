"""Layouts of batches that are folded: frames, views, instances or tiles that the network takes as further samples."""

# tested in tests/layout/test_folded.py

from __future__ import annotations

from dataclasses import KW_ONLY

import torch
from torch import Tensor

from .._shared.checks import describe, whole
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.value import Value, frozen
from .._shared.vocabulary import LayoutPair


def _each_to_map(each: LayoutPair | None, raw: Tensor) -> Tensor:
    return raw if each is None else each.to_map(raw)


def _each_from_map(each: LayoutPair | None, cam: Tensor, like: Tensor) -> Tensor:
    return cam if each is None else each.from_map(cam, like)


def _check_each(name: str, each: object) -> None:
    if each is not None and (isinstance(each, type) or not (hasattr(each, "to_map") and hasattr(each, "from_map"))):
        raise ArgumentTypeError(
            f"{name}: each: expected the layout of one of them, as layout.tokens((14, 14)), or None where it is "
            f"(B, C, *spatial); got {describe(each)}"
        )


@frozen
class frames(Value):
    """Frames folded into the batch, (B * count, C, *S), as one map (B, C, count, *S), for video as 2-D frames.

    So are views, crops, and the instances of a bag: the first spatial dimension of the map then tells them apart. The
    frames of a sample follow each other.

    Args:
        count: number of frames of a sample.
        each: layout of one frame, where it is not (C, *S): tokens, channels last.

    Raises:
        CamfnError: the first dimension of the layer's output is no multiple of `count`.

    Example:
        >>> frames(8).to_map(torch.ones(16, 512, 7, 7)).shape
        torch.Size([2, 512, 8, 7, 7])
        >>> from camfn.layout import tokens
        >>> frames(8, each=tokens((14, 14))).to_map(torch.ones(16, 197, 384)).shape
        torch.Size([2, 384, 8, 14, 14])
    """

    count: int
    _: KW_ONLY
    each: LayoutPair | None = None

    def __post_init__(self) -> None:
        whole("frames: count", self.count)
        _check_each("frames", self.each)

    def to_map(self, raw: Tensor) -> Tensor:
        """Give the frames of a sample a dimension of their own."""
        if raw.ndim < 2 or raw.shape[0] % self.count:
            raise CamfnError(
                f"layout frames({self.count}) stands for (B * {self.count}, C, *spatial); the layer gives "
                f"{tuple(raw.shape)}"
            )
        one = _each_to_map(self.each, raw)
        return one.reshape(-1, self.count, *one.shape[1:]).transpose(1, 2)

    def from_map(self, cam: Tensor, like: Tensor) -> Tensor:
        """Fold the frames of a map into the batch."""
        return _each_from_map(self.each, cam.transpose(1, 2).flatten(0, 1), like)


@frozen
class tiles(Value):
    """Tiles folded into the batch, (B * rows * cols, C, h, w), put together to one map (B, C, rows * h, cols * w).

    The tiles of a sample follow each other row by row, as vision-language models cut a large image. Signals are cut
    along their one dimension (`cols=None`), volumes along the first too (`planes`). Tiles that overlap are put side by
    side as they are.

    Args:
        rows: number of tiles down the image; along a signal.
        cols: number of tiles across the image; None for signals.
        planes: number of tiles along the first dimension of a volume; None for images.
        before: number of images of a sample that come before its tiles, such as a view of the whole: they are left out
            of the map.
        after: number of such images that come after its tiles.
        each: layout of one tile, where it is not (C, *S): tokens, channels last.

    Raises:
        CamfnError: the first dimension of the layer's output is no multiple of the images of a sample, or the output
            has another number of spatial dimensions.

    Example:
        >>> tiles(2, 3).to_map(torch.ones(6, 512, 7, 7)).shape
        torch.Size([1, 512, 14, 21])
        >>> from camfn.layout import tokens
        >>> thumbnail_last = tiles(2, 2, after=1, each=tokens((16, 16)))
        >>> thumbnail_last.to_map(torch.ones(5, 257, 384)).shape
        torch.Size([1, 384, 32, 32])
    """

    rows: int
    cols: int | None = None
    _: KW_ONLY
    planes: int | None = None
    before: int = 0
    after: int = 0
    each: LayoutPair | None = None

    def __post_init__(self) -> None:
        for name in ("rows", "cols", "planes"):
            if getattr(self, name) is not None or name == "rows":
                whole(f"tiles: {name}", getattr(self, name))
        whole("tiles: before", self.before, 0)
        whole("tiles: after", self.after, 0)
        _check_each("tiles", self.each)
        if self.planes is not None and self.cols is None:
            raise CamfnError("tiles: expected cols beside planes, as in tiles(2, 2, planes=2) for a volume")

    def to_map(self, raw: Tensor) -> Tensor:
        """Put the tiles together."""
        maps = self._apart(_each_to_map(self.each, raw), raw)
        grid, size = self._grid(), maps.shape[3:]
        own = maps[:, self.before : self.before + torch.Size(grid).numel()]
        n = len(grid)
        apart = own.reshape(own.shape[0], *grid, *own.shape[2:])  # (B, *grid, C, *size)
        sides = [side for d in range(n) for side in (1 + d, 2 + n + d)]
        together = apart.permute(0, 1 + n, *sides)
        return together.reshape(own.shape[0], own.shape[2], *(k * s for k, s in zip(grid, size)))

    def from_map(self, cam: Tensor, like: Tensor) -> Tensor:
        """Cut a map into tiles, with the other images of `like`."""
        others = self._apart(_each_to_map(self.each, like), like)
        grid, size = self._grid(), others.shape[3:]
        n = len(grid)
        apart = cam.reshape(*cam.shape[:2], *(side for pair in zip(grid, size) for side in pair))
        cut = apart.permute(0, *(2 + 2 * d for d in range(n)), 1, *(3 + 2 * d for d in range(n)))
        own = cut.reshape(cam.shape[0], -1, cam.shape[1], *size)
        whole_batch = torch.cat([others[:, : self.before], own, others[:, self.before + own.shape[1] :]], 1)
        return _each_from_map(self.each, whole_batch.flatten(0, 1), like)

    def _grid(self) -> tuple[int, ...]:
        return tuple(side for side in (self.planes, self.rows, self.cols) if side is not None)

    def _apart(self, maps: Tensor, raw: Tensor) -> Tensor:
        """Give the images of a sample a dimension of their own: (B, images, C, *size)."""
        grid = self._grid()
        count = self.before + torch.Size(grid).numel() + self.after
        if maps.ndim != 2 + len(grid) or maps.shape[0] % count:
            raise CamfnError(
                f"layout {self!r} stands for {count} images a sample, (B * {count}, C, "
                f"{', '.join(('depth', 'height', 'width')[3 - len(grid) :] if len(grid) > 1 else ['length'])}); the "
                f"layer gives {tuple(raw.shape)}"
            )
        return maps.reshape(-1, count, *maps.shape[1:])
