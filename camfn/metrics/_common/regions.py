"""Regions of an image: the cells of a grid, sets of cells drawn at random, and sums of a map over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
from einops import einsum
from torch import Tensor

from ..._shared.checks import generator_of, is_concrete, same_device, space, tensor, whole
from ..._shared.devices import brought
from ..._shared.errors import CamfnError
from ..._shared.maps import resize
from ..._shared.noise import draw_uniform
from ...image._checks import as_maps


def grid_cells(size: Sequence[int], cells: int | Sequence[int] = 4) -> Tensor:
    """Cut an image into a grid of cells, as masks.

    Args:
        size: of the images, (height, width), or one number for each of one to three dimensions.
        cells: how many along each dimension: a number, or one for each dimension. Where it does not divide the size,
            pixel `i` of `L` lies in cell `floor(i cells / L)`.

    Returns:
        (n, *size), bool, in reading order; each pixel is in one of them.

    Raises:
        CamfnError: more cells than pixels along a dimension.

    Example:
        >>> grid_cells((2, 4), (1, 2)).int()
        tensor([[[1, 1, 0, 0],
                 [1, 1, 0, 0]],
        <BLANKLINE>
                [[0, 0, 1, 1],
                 [0, 0, 1, 1]]], dtype=torch.int32)
    """
    size = space("grid_cells: size", size)
    counts = (cells,) * len(size) if isinstance(cells, int) else space("grid_cells: cells", cells, len(size))
    lines = []
    for length, count in zip(size, counts):
        whole("grid_cells: cells", count)
        if count > length:
            raise CamfnError(f"grid_cells: cells: expected at most {length} along a side of {length}, got {count}")
        lines.append(torch.arange(length) * count // length == torch.arange(count)[:, None])
    marked = []
    for place in product(*map(range, counts)):
        cell = torch.ones(size, dtype=torch.bool)
        for dim, (line, k) in enumerate(zip(lines, place)):
            cell &= line[k].reshape(-1, *(1,) * (len(size) - dim - 1))
        marked.append(cell)
    return torch.stack(marked)


def random_cells(cells: Tensor, count: int, samples: int, *, generator: torch.Generator) -> Tensor:
    """Draw sets of cells: each mask is the union of `count` different ones.

    All methods that a photo compares take the same sets, so that `drops` runs once for them.

    Args:
        cells: (n, *T), bool, as `grid_cells` gives them; or (n, B, *T), other ones for each sample.
        count: cells in a set.
        samples: how many sets.
        generator: draws them, on its own device.

    Returns:
        (samples, *T), bool, or (samples, B, *T).

    Raises:
        CamfnError: more cells asked for than there are.

    Example:
        >>> cells = grid_cells((4, 4), 2)
        >>> random_cells(cells, 3, 5, generator=torch.Generator().manual_seed(0)).flatten(1).sum(1)
        tensor([12, 12, 12, 12, 12])
    """
    _bool_masks("random_cells: cells", cells)
    whole("random_cells: count", count)
    whole("random_cells: samples", samples)
    generator_of("random_cells", generator)
    total = cells.shape[0]
    if count > total:
        raise CamfnError(f"random_cells: count: expected at most {total}, the number of cells, got {count}")
    chosen = brought(_choices(total, count, samples, generator), cells.float())
    return (chosen @ cells.flatten(1).float() > 0).reshape(samples, *cells.shape[1:])


def random_pixels(size: Sequence[int], count: int, samples: int, *, generator: torch.Generator) -> Tensor:
    """Draw sets of pixels: each mask holds `count` different ones.

    Args:
        size: of the images, (height, width), or one number for each of one to three dimensions.
        count: pixels in a set.
        samples: how many sets.
        generator: draws them; the masks are on its device.

    Returns:
        (samples, *size), bool.

    Raises:
        CamfnError: more pixels asked for than there are.

    Example:
        >>> random_pixels((4, 4), 3, 5, generator=torch.Generator().manual_seed(0)).flatten(1).sum(1)
        tensor([3, 3, 3, 3, 3])
    """
    size = space("random_pixels: size", size)
    whole("random_pixels: count", count)
    whole("random_pixels: samples", samples)
    generator_of("random_pixels", generator)
    if count > math.prod(size):
        raise CamfnError(f"random_pixels: count: expected at most {math.prod(size)}, the pixels, got {count}")
    return _choices(math.prod(size), count, samples, generator).reshape(samples, *size)


def label_masks(labels: Tensor) -> Tensor:
    """Turn labels of superpixels into masks.

    Args:
        labels: (*T), integers, for all samples; such as `torch.as_tensor(skimage.segmentation.slic(photo))`. For those
            of each photo, stack the masks of each: `torch.stack([label_masks(one) for one in labels], 1)`.

    Returns:
        (n, *T), bool, in the order of the labels; each pixel is in one of them.

    Raises:
        CamfnError: labels that are not integers.

    Example:
        >>> label_masks(torch.tensor([[1, 1, 4], [4, 4, 4]])).int()
        tensor([[[1, 1, 0],
                 [0, 0, 0]],
        <BLANKLINE>
                [[0, 0, 1],
                 [1, 1, 1]]], dtype=torch.int32)
    """
    tensor("label_masks: labels", labels)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or not labels.numel():
        raise CamfnError(
            f"label_masks: labels: expected integers (*T), got {tuple(labels.shape)} of {labels.dtype}; pass "
            "labels.long()"
        )
    if not labels.ndim or not is_concrete(labels):
        got = "a single number" if not labels.ndim else "labels whose values cannot be read"
        raise CamfnError(f"label_masks: labels: expected (*T), got {got}")
    found: Tensor = torch.unique(labels)
    return labels == found.reshape(-1, *(1,) * labels.ndim)


def _choices(total: int, count: int, samples: int, generator: torch.Generator) -> Tensor:
    """Choose `count` of `total` things, for each sample: (samples, total), bool, on the generator's device."""
    order = draw_uniform((samples, total), generator).argsort(1)
    chosen = torch.zeros(samples, total, dtype=torch.bool, device=order.device)
    return chosen.scatter(1, order[:, :count], True)


def region_sums(heatmap: Tensor, masks: Tensor) -> Tensor:
    """Sum a map over regions: what it says that each of them is worth.

    Args:
        heatmap: (B, *S), raw, with its sign; resized linearly to T where S differs.
        masks: (n, *T), bool, the same for all samples, or (n, B, *T).

    Returns:
        (B, n).

    Raises:
        CamfnError: other shapes; NaN or infinity, naming the samples.

    Example:
        >>> region_sums(torch.tensor([[[1.0, 2.0, 3.0, 5.0]]]), grid_cells((1, 4), (1, 2)))
        tensor([[3., 8.]])
    """
    return sums_of("region_sums", heatmap, masks)


def sums_of(what: str, heatmap: Tensor, masks: Tensor) -> Tensor:
    """Sum a map over regions, in the name of another function."""
    maps = as_maps(heatmap, f"{what}: heatmap")
    shared = shared_by_all(what, masks, maps.shape[0], maps.ndim - 1)
    same_device(f"{what}: masks", masks, maps, "heatmap")
    size = tuple(masks.shape[1 if shared else 2 :])
    at_size = maps if tuple(maps.shape[1:]) == size else resize(maps[:, None], size)[:, 0]
    inside = masks.to(at_size.dtype)
    if shared:
        return einsum(at_size.flatten(1), inside.flatten(1), "b p, n p -> b n")
    return einsum(at_size.flatten(1), inside.flatten(2), "b p, n b p -> b n")


def shared_by_all(what: str, masks: Tensor, batch: int, dims: int) -> bool:
    """Whether masks (n, *T) are those of all samples; False for (n, B, *T); it raises for other shapes."""
    _bool_masks(f"{what}: masks", masks)
    if masks.ndim == dims + 1:
        return True
    if masks.ndim == dims + 2 and masks.shape[1] == batch:
        return False
    raise CamfnError(
        f"{what}: masks: expected (n, *T), or (n, B, *T) with B = {batch}, of {dims} spatial dimensions; got "
        f"{tuple(masks.shape)}"
    )


def of_images(what: str, masks: Tensor, images: Tensor) -> Tensor:
    """Check masks against images (B, C, *T); return them as (n, *T) or (n, B, 1, *T), which broadcast to the images."""
    shared = shared_by_all(what, masks, images.shape[0], images.ndim - 2)
    same_device(f"{what}: masks", masks, images, "images")
    if tuple(masks.shape[1 if shared else 2 :]) != tuple(images.shape[2:]):
        size = tuple(images.shape[2:])
        raise CamfnError(
            f"{what}: masks: expected regions at the size of the images, {size}, got {tuple(masks.shape)}; for cells: "
            f"metrics.grid_cells({size}, 4)"
        )
    return masks if shared else masks[:, :, None]


def sizes_of(masks: Tensor, spatial: int) -> Tensor:
    """Count the pixels of each region: (n,), or (n, B) where each sample has its own."""
    return masks.flatten(masks.ndim - spatial).sum(-1)


def _bool_masks(name: str, masks: Tensor) -> None:
    """Refuse anything but at least one mask of bool with a position."""
    tensor(name, masks)
    if masks.dtype != torch.bool or masks.ndim < 2 or not math.prod(masks.shape):
        raise CamfnError(
            f"{name}: expected at least one mask of bool, (n, *T), got {tuple(masks.shape)} of {masks.dtype}"
        )
