"""Whether the pixels of the object come first in the order of the map."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..._shared.checks import is_concrete, whole
from ..._shared.errors import CamfnError
from ...image._checks import as_maps
from .boxes import Boxes
from .overlap import check_masks, on_region


def rank_accuracy(heatmap: Tensor, region: Boxes, *, k: int | None = None) -> Tensor:
    """Relevance rank accuracy: the share of the top k pixels that lie on the object; k is the object's size.

    With a number k it is the top-k intersection. Of pixels with the same value as the last of the k, each counts by the
    share of them that fits: for a constant map the result is the area of the object.

    Source: arXiv 2003.07258 (there with the ground truth of a synthetic world); 2104.14995
    for top-k.

    Args:
        heatmap: (B, H, W), or (B, *S) of one to three dimensions; raw, with its sign.
        region: boxes in pixels of the heatmap (see `box_masks`), or a bool mask (B, *S).
        k: number of pixels; None takes as many as the object of each sample has.

    Returns:
        (B,), in [0, 1], higher is better.

    Raises:
        CamfnError: k above the number of pixels, other shapes, a sample without an object, NaN or infinity.

    Example:
        >>> rank_accuracy(torch.tensor([[[0.9, 0.8, 0.1]]]), torch.tensor([[[True, False, True]]]))
        tensor([0.5000])
    """
    maps, masks = on_region("rank_accuracy", heatmap, region)
    values, truth = maps.flatten(1), masks.flatten(1)
    total = values.shape[1]
    if k is not None:
        whole("rank_accuracy: k", k)
        if k > total:
            raise CamfnError(f"rank_accuracy: k: expected at most {total}, the pixels of a map, got {k}")
    size = truth.sum(1, keepdim=True) if k is None else torch.full_like(truth[:, :1], k, dtype=torch.long)
    most = int(size.max()) if k is None and is_concrete(size) and len(size) else (k or total)
    # the largest alone are sorted, where the host may read how many
    last = values.topk(most, 1).values.gather(1, size - 1)
    above, tied = values > last, values == last
    room = (size - above.sum(1, keepdim=True)).to(values) / tied.sum(1, keepdim=True)
    hits = (above & truth).sum(1) + room[:, 0] * (tied & truth).sum(1)
    return (hits / size[:, 0]).to(heatmap.dtype)


def roc_auc(heatmap: Tensor, masks: Tensor) -> Tensor:
    """Area under the ROC curve of the pixels: how often a pixel of the object is above one beside it, ties by half.

    It does not see how small the object is: a map that marks an area twenty times the object's can have 0.95. `pxap` is
    the area under precision and recall, which does.

    Source: Fawcett, Pattern Recognition Letters 2006; Quantus' AUC.

    Args:
        heatmap: (B, *S), raw, with its sign.
        masks: (B, *S), bool.

    Returns:
        (B,), in [0, 1], higher is better; 0.5 for a constant map.

    Raises:
        CamfnError: other shapes, a mask that is not bool, is empty or covers its map, NaN or infinity.

    Example:
        >>> roc_auc(torch.tensor([[0.9, 0.8, 0.1]]), torch.tensor([[True, False, True]]))
        tensor([0.5000])
    """
    maps = as_maps(heatmap, "roc_auc: heatmap")
    check_masks("roc_auc", masks, maps)
    values, truth = maps.flatten(1), masks.flatten(1)
    inside = truth.sum(1)
    outside = math.prod(maps.shape[1:]) - inside
    if is_concrete(outside) and bool((outside == 0).any()):
        raise CamfnError(
            f"roc_auc: masks: expected a pixel beside the object, but the mask of sample "
            f"{int((outside == 0).int().argmax())} covers its map"
        )
    ordered, order = values.sort(1)
    # twice the mean rank of equal values stays a whole number: a sum of a million ranks does not fit in float32
    halves = (_twice_the_ranks(ordered) * truth.gather(1, order)).sum(1) - inside * (inside + 1)
    return (halves.to(maps.dtype) / (2 * inside * outside)).to(heatmap.dtype)


def _twice_the_ranks(ordered: Tensor) -> Tensor:
    """Twice the ranks from 1 of values in ascending order (B, N), equal ones with the mean of theirs."""
    places = torch.arange(ordered.shape[1], device=ordered.device).expand(ordered.shape)
    new = ordered[:, 1:] != ordered[:, :-1]
    edge = torch.ones_like(ordered[:, :1], dtype=torch.bool)
    first = torch.where(torch.cat([edge, new], 1), places, 0).cummax(1).values
    last = torch.where(torch.cat([new, edge], 1), places, ordered.shape[1]).flip(1).cummin(1).values.flip(1)
    return first + last + 2
