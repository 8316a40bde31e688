"""Whether samples with like maps have like classes: numbers of a set of samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..._shared.checks import describe, function, length_matches, number, same_device
from ..._shared.errors import ArgumentTypeError, CamfnError
from ..._shared.maps import safe_divide
from ...image._checks import as_maps


def sufficiency(heatmap: Tensor, classes: Tensor, *, threshold: float = 0.6) -> Tensor:
    """Sufficiency: of the other samples whose map is near, the share that has the same class.

    The distance is Euclidean after each pixel was divided by its deviation over the samples; near are those within a
    share of the largest distance. It tells little of fewer than some hundred samples, and of maps that show where an
    object is rather than what it is.

    Source: arXiv 2202.00734; distance and threshold are Quantus'.

    Args:
        heatmap: (B, *S), raw or normalized.
        classes: (B,), integers: what the network predicts.
        threshold: share of the largest distance between two maps.

    Returns:
        (B,), in [0, 1], higher is better; 0 where no other map is near.

    Raises:
        CamfnError: a threshold outside [0, 1], classes of another batch, NaN or infinity, naming the samples.

    Example:
        >>> maps = torch.tensor([[0.0, 1.0], [0.0, 1.1], [5.0, 0.0]])
        >>> sufficiency(maps, torch.tensor([1, 1, 0]))
        tensor([1., 1., 0.])
    """
    number("sufficiency: threshold", threshold, "[0, 1]")
    rows = as_maps(heatmap, "sufficiency: heatmap").flatten(1)
    same = _same_class("sufficiency", classes, rows)
    scaled = safe_divide(rows, rows.std(0, keepdim=True)) if len(rows) > 1 else rows
    # by differences: products of the maps would leave a rounding error between equal ones
    distances = torch.stack([(scaled - one).norm(dim=1) for one in scaled]) if len(rows) else rows.new_zeros(0, 0)
    near = distances <= threshold * distances.amax() if len(rows) else same
    return _share(near, same, rows).to(heatmap.dtype)


def consistency(heatmap: Tensor, classes: Tensor, *, discretize: Callable[[Tensor], Tensor] = torch.sign) -> Tensor:
    """Consistency: of the other samples with the same discrete map, the share that has the same class.

    Maps of many pixels are never the same: cut them down first, such as by `lambda maps: maps.flatten(1).argmax(1)`,
    the place of the largest value.

    Source: arXiv 2202.00734; the sign is one of Quantus' ways to discretize.

    Args:
        heatmap: (B, *S), raw.
        classes: (B,), integers: what the network predicts.
        discretize: maps to (B, ...), whose equality counts.

    Returns:
        (B,), in [0, 1], higher is better; 0 where no other sample has the same map.

    Raises:
        CamfnError: classes of another batch, NaN or infinity, naming the samples.

    Example:
        >>> maps = torch.tensor([[1.0, -1.0], [2.0, -3.0], [1.0, -2.0], [1.0, 1.0]])
        >>> consistency(maps, torch.tensor([1, 1, 0, 0]))
        tensor([0.5000, 0.5000, 0.0000, 0.0000])
    """
    maps = as_maps(heatmap, "consistency: heatmap")
    same = _same_class("consistency", classes, maps)
    function("consistency: discretize", discretize, "from maps to (B, ...), such as torch.sign")
    codes = discretize(maps)
    if not isinstance(codes, Tensor) or not codes.ndim or len(codes) != len(maps):
        raise CamfnError(f"consistency: discretize: expected it to return ({len(maps)}, ...), got {describe(codes)}")
    equal = torch.stack([(codes == one).reshape(len(codes), -1).all(1) for one in codes]) if len(codes) else same
    return _share(equal, same, maps).to(heatmap.dtype)


def _same_class(what: str, classes: Tensor, maps: Tensor) -> Tensor:
    """Return which pairs of samples have one class, (B, B); refuse anything but one integer a sample."""
    if not isinstance(classes, Tensor) or classes.ndim != 1 or classes.is_floating_point() or classes.is_complex():
        raise ArgumentTypeError(f"{what}: classes: expected integers (B,), got {describe(classes)}")
    length_matches(f"{what}: classes", len(classes), len(maps))
    same_device(f"{what}: classes", classes, maps, "heatmap")
    return classes[:, None] == classes


def _share(near: Tensor, same: Tensor, like: Tensor) -> Tensor:
    """Return the share of each sample's near ones that are of its class, without itself, (B,)."""
    others = near & ~torch.eye(len(near), dtype=torch.bool, device=near.device)
    return safe_divide((others & same).sum(1).to(like), others.sum(1).to(like))
