"""A photo letterboxed: its sides in proportion, padded to a size, and the way back into the photo's own frame."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..._shared.errors import LoadError
from ..._shared.value import Value, frozen


class Frame(NamedTuple):
    """Where a photo lies in the input that `Letterbox` makes of it.

    Attributes:
        size: of the input, (height, width).
        inner: the part of the input that is the photo: top, left, height, width.
        photo: of the photo, (height, width).
    """

    size: tuple[int, int]
    inner: tuple[int, int, int, int]
    photo: tuple[int, int]

    @property
    def padded(self) -> bool:
        """Whether the input has more than the photo."""
        return self.inner != (0, 0, *self.size)

    def maps(self, cams: Tensor) -> Tensor:
        """Bring maps (n, h, w) of the input into the photo's frame.

        Without padding they are the maps as they are. Otherwise they are upsampled to the input, with half-pixel
        centers, and the padding is cut off.
        """
        if not self.padded:
            return cams
        top, left, height, width = self.inner
        large = functional.interpolate(cams[:, None], self.size, mode="bilinear", align_corners=False)[:, 0]
        return large[:, top : top + height, left : left + width]

    def points(self, points: Tensor) -> Tensor:
        """Convert points (..., 2), x and y in pixels of the input, to pixels of the photo."""
        top, left, height, width = self.inner
        ratio = points.new_tensor([self.photo[1] / width, self.photo[0] / height])
        return (points - points.new_tensor([left, top])) * ratio

    def boxes(self, boxes: Tensor) -> Tensor:
        """Convert corners (n, 4) in pixels of the input to pixels of the photo, and cut off what lies outside of it."""
        corners = self.points(boxes.reshape(-1, 2, 2))
        limit = corners.new_tensor([self.photo[1], self.photo[0]])
        return torch.minimum(corners.clamp(min=0), limit).flatten(1)


def whole_frame(size: tuple[int, int], photo: tuple[int, int]) -> Frame:
    """Return the frame of a photo that fills the input, in proportion or not; both are (height, width)."""
    return Frame(size, (0, 0, *size), photo)


@frozen
class Letterbox(Value):
    """Ultralytics' preprocessing: called with an RGB photo, it gives (3, H, W) in [0, 1].

    Attributes:
        size: height and width of the square, or rectangle, that the photo is fitted into.
        stride: the padding makes the sides multiples of it, and is no larger, as in `predict()` of one photo.
        stretch: sides out of proportion and no padding, as for RT-DETR.
    """

    size: tuple[int, int]
    stride: int = 32
    stretch: bool = False

    def __call__(self, photo: Image.Image) -> Tensor:
        from ultralytics.data.augment import LetterBox

        fit = LetterBox(self.size, auto=not self.stretch, scale_fill=self.stretch, stride=self.stride)
        pixels: Any = fit(image=np.ascontiguousarray(np.asarray(photo.convert("RGB"))))
        found = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).contiguous().float() / 255
        expected = self.frame(photo).size
        if tuple(found.shape[1:]) != expected:
            raise LoadError(f"Ultralytics' LetterBox gives {tuple(found.shape[1:])} of this photo, expected {expected}")
        return found

    def frame(self, photo: Image.Image) -> Frame:
        """Return where a photo lies in the input; the sides are rounded one by one, so they are scaled one by one."""
        height, width = self.size
        if self.stretch:
            return whole_frame(self.size, (photo.height, photo.width))
        ratio = min(height / photo.height, width / photo.width)
        inner = max(round(photo.height * ratio), 1), max(round(photo.width * ratio), 1)
        padding = (height - inner[0]) % self.stride, (width - inner[1]) % self.stride
        top, left = (round(one / 2 - 0.1) for one in padding)
        return Frame((inner[0] + padding[0], inner[1] + padding[1]), (top, left, *inner), (photo.height, photo.width))

    def __str__(self) -> str:
        height, width = self.size
        if self.stretch:
            return f"stretched to {height} x {width}"
        return f"letterboxed into {height} x {width}, padded to multiples of {self.stride}"
