"""How like two maps are: correlations of their values and ranks, and structural similarity."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._shared.checks import same_device, shapes_agree, whole
from ..._shared.errors import CamfnError
from ..._shared.maps import safe_divide
from ...image._checks import as_maps, within_unit
from .filter import gaussian


def spearman(first: Tensor, second: Tensor, *, absolute: bool = False) -> Tensor:
    """Rank correlation of maps; equal values have the mean of their ranks.

    Source: arXiv 1810.03292, section 3.1.1, with and without absolute values.

    Args:
        first: (B, *S).
        second: (B, *S).
        absolute: rank the magnitudes of the values.

    Returns:
        (B,), in [-1, 1]; 0 where a map is constant, unless both are: 1.

    Raises:
        CamfnError: other shapes; NaN or infinity, naming the samples.

    Example:
        >>> spearman(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 8.0, 27.0]]))
        tensor([1.])
    """
    maps = [as_maps(each, f"spearman: {name}") for each, name in ((first, "first"), (second, "second"))]
    shapes_agree("spearman: second", second.shape, first.shape)
    same_device("spearman: second", second, first, "first maps")
    rows = [each.abs().flatten(1) if absolute else each.flatten(1) for each in maps]
    rho, defined = correlation(*(mean_ranks(each) for each in rows))
    constant = torch.stack([(each == each[:, :1]).all(1) for each in rows]).all(0)
    return torch.where(defined, rho, constant.to(rho)).to(first.dtype)


def ssim(first: Tensor, second: Tensor, *, window: int = 11) -> Tensor:
    """Structural similarity of heatmaps, the mean of the SSIM index over the image.

    Source: arXiv 1810.03292, section 3.1.1. The index is kornia's: a Gaussian window of deviation 1.5, the border
    mirrored, constants 0.01^2 and 0.03^2.

    Args:
        first: (B, *S) in [0, 1].
        second: (B, *S) in [0, 1].
        window: side of the Gaussian window in pixels, odd.

    Returns:
        (B,), at most 1.

    Raises:
        CamfnError: other shapes, values outside [0, 1], NaN, or a window that does not fit.

    Example:
        >>> heatmap = torch.rand(2, 16, 16)
        >>> ssim(heatmap, heatmap)
        tensor([1., 1.])
    """
    maps = [as_maps(each, f"ssim: {name}") for each, name in ((first, "first"), (second, "second"))]
    shapes_agree("ssim: second", second.shape, first.shape)
    same_device("ssim: second", second, first, "first maps")
    whole("ssim: window", window)
    if not all(map(within_unit, maps)):
        raise CamfnError("ssim: expected heatmaps in [0, 1]; pass camfn.image.normalize(cam)")
    if window % 2 == 0 or window // 2 >= min(first.shape[1:]):
        raise CamfnError(
            f"ssim: window: expected an odd side, at most {2 * min(first.shape[1:]) - 1} for maps of "
            f"{tuple(first.shape[1:])}, got {window}"
        )
    x, y = maps[0][:, None], maps[1][:, None]
    mean_x, mean_y, xx, yy, xy = (gaussian(each, window, 1.5) for each in (x, y, x * x, y * y, x * y))
    bias, slack = 0.01**2, 0.03**2
    likeness = (2 * mean_x * mean_y + bias) * (2 * (xy - mean_x * mean_y) + slack)
    most = (mean_x**2 + mean_y**2 + bias) * (xx - mean_x**2 + yy - mean_y**2 + slack)
    return (likeness / most).flatten(1).mean(1).to(first.dtype)


def mean_ranks(rows: Tensor) -> Tensor:
    """Rank the values of each row (B, N) from 1; equal values get the mean of their ranks."""
    ordered = rows.sort(1).values
    low, high = (torch.searchsorted(ordered, rows.contiguous(), right=right) for right in (False, True))
    return (low + high + 1).to(rows.dtype) / 2


def correlation(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Pearson correlation of rows (B, N), and whether it is defined, both (B,); undefined ones are 0."""
    x, y = (_centered(row) for row in (first, second))
    norms = x.norm(dim=1) * y.norm(dim=1)
    return safe_divide((x * y).sum(1), norms).clamp(-1, 1), norms > 0


def _centered(rows: Tensor) -> Tensor:
    """Subtract the mean of each row and scale its largest magnitude to 1; constant rows become exactly 0."""
    level = (rows == rows[:, :1]).all(1, keepdim=True)
    above = torch.where(level, 0, rows - rows.mean(1, keepdim=True))
    return safe_divide(above, above.abs().amax(1, keepdim=True))
