"""Maps by regions: superpixels of a photo, and what a map adds up to in each region."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .._shared.checks import number, one_of, seen_false, whole
from .._shared.devices import brought
from .._shared.errors import CamfnError
from .._shared.maps import safe_divide
from .._shared.optional import extra
from .._shared.regions import masks_of
from ._checks import as_maps, as_photo


def superpixels(photo: Tensor, *, count: int = 50, compactness: float = 10.0) -> Tensor:
    """Divide photos into superpixels, by SLIC: regions of one color that keep to edges.

    As `regions` of `methods.region_search` and of `by_region`. Needs scikit-image.

    Args:
        photo: (3, H, W) or (B, 3, H, W), in [0, 1] or uint8; the photo, and not the model's input.
        count: about how many; SLIC decides.
        compactness: how square they are; 0.1 follows colors, 100 draws squares.

    Returns:
        Labels from 0, (H, W) or (B, H, W), int64, on the device of the photo.

    Raises:
        CamfnError: another shape, values outside [0, 1], `count` below 1, a compactness of 0 or less.
        MissingPackageError: no scikit-image.

    Source: SLIC, Achanta et al., TPAMI 2012, as scikit-image has it.

    Example:
        >>> import torch
        >>> halves = torch.zeros(1, 3, 40, 60)
        >>> halves[..., 30:] = 1
        >>> labels = superpixels(halves, count=12)
        >>> bool((labels[0, :, 29] != labels[0, :, 30]).all())  # none lies across the edge
        True
    """
    whole("superpixels: count", count)
    number("superpixels: compactness", compactness, "(0, inf)")
    photos = as_photo(photo, "superpixels: photo", batched=True)
    with extra("scikit-image", "image.superpixels", name="demo"):
        from skimage.segmentation import slic
    labels = [
        torch.from_numpy(slic(one.permute(1, 2, 0).numpy(), count, compactness, start_label=0))
        for one in photos.detach().float().cpu().reshape(-1, *photos.shape[-3:])
    ]
    return torch.stack(labels).reshape(*photos.shape[:-3], *photos.shape[-2:]).to(photo.device)


def by_region(heatmap: Tensor, regions: Tensor, *, how: Literal["mean", "sum"] = "mean") -> Tensor:
    """Give all pixels of a region one value: the mean of the map over it, or its sum.

    Of masks that overlap, such as segmentations at several scales, the region with the greatest mean (or sum) over its
    pixels comes first, then, as often, the one whose pixels not taken yet have the greatest; a pixel has the value of
    the region that took it, and pixels of no region have their own mean (or sum) together. This is XRAI, which takes
    the mean of integrated gradients, summed over channels; its masks are Felzenszwalb segmentations at six scales,
    dilated by 5 pixels, and it leaves out a region with fewer than 50 new pixels. With "mean" the map's sum stays.

    Source: arXiv 1906.02825 and the authors' code, package saliency.

    Args:
        heatmap: (B, *S), signed or not.
        regions: labels (*S) or (B, *S) of an integer dtype, equal in a region; or masks, (n, *S) or (n, B, *S), bool
            or floats, of which those above 0 count.
        how: "mean" or "sum".

    Returns:
        (B, *S), in the dtype of the map.

    Raises:
        CamfnError: regions of another shape; a map that is NaN or infinite.

    Example:
        >>> import torch
        >>> by_region(torch.tensor([[1.0, 3.0, 5.0]]), torch.tensor([0, 0, 1]))
        tensor([[2., 2., 5.]])
        >>> masks = torch.tensor([[1, 1, 0], [0, 1, 1]]).bool()
        >>> by_region(torch.tensor([[1.0, 3.0, 5.0]]), masks)  # the second has more, and leaves the first one pixel
        tensor([[1., 4., 4.]])
    """
    one_of("by_region: how", how, ("mean", "sum"))
    values = as_maps(heatmap, "heatmap").flatten(1)
    masks = masks_of("by_region", regions, heatmap.shape[1:], len(heatmap))
    if seen_false(masks == masks):
        raise CamfnError("by_region: regions: expected masks without NaN, above 0 inside of a region")
    inside = brought(masks > 0, values).expand(-1, len(heatmap), *heatmap.shape[1:]).flatten(2).transpose(0, 1)
    free, painted = torch.ones_like(values), torch.zeros_like(values)
    for _ in range(inside.shape[1]):
        new = inside * free[:, None]
        size = new.sum(2)
        found = (new * values[:, None]).sum(2)
        found = safe_divide(found, size) if how == "mean" else found
        best = torch.where(size > 0, found, -torch.inf).argmax(1, keepdim=True)
        taken = new.gather(1, best[..., None].expand(-1, -1, new.shape[2]))[:, 0]
        painted = painted + taken * found.gather(1, best)
        free = free - taken
    rest = (free * values).sum(1, keepdim=True)
    rest = safe_divide(rest, free.sum(1, keepdim=True)) if how == "mean" else rest
    return (painted + free * rest).reshape(heatmap.shape).to(heatmap.dtype)
