"""Masks and boxes of the strong parts of a map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .._shared.checks import is_concrete, number
from .._shared.devices import tensor_on
from .._shared.errors import CamfnError
from .._shared.optional import extra
from ._checks import as_maps

if TYPE_CHECKING:
    from numpy.typing import NDArray


def to_mask(heatmap: Tensor, *, threshold: float = 0.2) -> Tensor:
    """Mark where a map exceeds a fraction of its own maximum.

    The comparison is strict, `heatmap > threshold * max`: "above 20 % of the max" in 1512.04150, section 3.2, and
    the binary threshold of MaxBoxAcc (2001.07437). A map with nothing above zero therefore gives an empty mask.

    Args:
        heatmap: (B, *S); need not be normalized; for a single one pass `heatmap[None]`.
        threshold: fraction of each map's maximum, 0 <= threshold < 1.

    Returns:
        (B, *S), bool.

    Raises:
        CamfnError: a threshold out of range; NaN or infinity, naming the samples (not checked inside `vmap`, `grad` and
            `compile`).

    Example:
        >>> import torch
        >>> from camfn.image import to_mask
        >>> to_mask(torch.tensor([[0.0, 0.2, 0.3, 1.0]]))
        tensor([[False, False,  True,  True]])
    """
    work = as_maps(heatmap, "heatmap")
    number("threshold", threshold, "[0, 1)", "A fraction of the maximum")
    return work > threshold * work.amax(tuple(range(1, work.ndim)), keepdim=True)


def to_boxes(heatmap: Tensor, *, threshold: float = 0.2, largest: bool = False) -> list[Tensor]:
    """Box the connected parts of `to_mask`; pixels that touch at a corner are connected.

    Args:
        heatmap: (B, H, W); upsample it first for boxes in the pixels of the photo.
        threshold: as in `to_mask`.
        largest: keep only the part with most pixels, the box of 1512.04150, section 3.2.

    Returns:
        For each sample (n, 4), int64, on the device of `heatmap`: x0, y0, x1, y1 in pixels, half-open, so that the
        part lies in `[y0:y1, x0:x1]`. The part with most pixels comes first, and among equals the one met first in
        reading order. An empty mask gives (0, 4).

    Raises:
        CamfnError: as `to_mask`, or `heatmap` is not (B, H, W).
        ImportError: SciPy is missing.

    Example:
        >>> import torch
        >>> from camfn.image import to_boxes
        >>> heatmap = torch.zeros(1, 6, 8)
        >>> heatmap[0, 1:3, 2:7] = 1.0
        >>> to_boxes(heatmap)
        [tensor([[2, 1, 7, 3]])]
    """
    work = as_maps(heatmap, "heatmap", spatial=2)
    if not is_concrete(work):
        raise CamfnError(f"to_boxes: expected a heatmap that can be read, got one on {work.device}, or under vmap")
    return boxes_of(work, threshold, largest)


def boxes_of(maps: Tensor, threshold: float, largest: bool) -> list[Tensor]:
    """Do the same for maps (B, *S) of any number of dimensions: (n, 2 D), the low corner and the high one, x first."""
    masks = to_mask(maps, threshold=threshold).cpu().numpy()
    count = 1 if largest else None
    return [tensor_on(torch.from_numpy(_component_boxes(mask)[:count]), maps.device) for mask in masks]


def _component_boxes(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return half-open (n, 2 D) boxes of the parts of a mask that touch, also at a corner, most pixels first."""
    with extra("SciPy", "to_boxes"):
        from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    pixels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    spans = [part[::-1] for part in ndimage.find_objects(labels)]
    boxes = [[*(span.start for span in part), *(span.stop for span in part)] for part in spans]
    return np.array(boxes, dtype=np.int64).reshape(-1, 2 * mask.ndim)[np.argsort(-pixels, kind="stable")]
