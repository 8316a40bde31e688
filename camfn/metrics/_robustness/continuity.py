"""How far a map moves when the image is shifted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..._shared.checks import describe, whole
from ..._shared.devices import tensor_on
from ..._shared.errors import ArgumentTypeError, CamfnError
from ..._shared.maps import safe_divide, widen
from ..._shared.rows import Progress
from .._faithfulness.confidence import Baseline, baseline_of
from .sensitivity import bare_map, each_perturbation, euclidean, map_of


def continuity(
    explain: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    shifts: Sequence[int] = (-4, -2, -1, 1, 2, 4),
    dim: int = -1,
    baseline: Baseline = 0.0,
    progress: Progress | None = None,
) -> Tensor:
    """Continuity: how far a map moves when the image is shifted, `max |M(x') - M(x)|_1 / |x' - x|_2`.

    A map that follows its object moves too, and is charged for it: compare maps of one size and scale only. It costs
    `len(shifts) + 1` explanations.

    Source: Montavon, Samek and Mueller, 2018 (1706.07979), as Quantus does it, which shifts until the image is black.

    Args:
        explain: images (B, C, *T) to maps (B, *S), always for the same classes.
        images: x, (B, C, *T).
        shifts: by how many pixels, to larger indices where positive.
        dim: along which spatial dimension of the images.
        baseline: what comes in at the border, as in `masked`.
        progress: called with (shifts done, all shifts) after each.

    Returns:
        (B,), not negative, lower is better; 0 for a map that does not move.

    Raises:
        CamfnError: no shift, one as large as the image, a dimension that is not spatial, NaN in a map.

    Example:
        >>> images = torch.tensor([[[[0.0, 0.0, 1.0, 0.0, 0.0]]]])
        >>> continuity(lambda x: x.sum(1), images, shifts=(1,))
        tensor([1.4142])
    """
    what = "continuity"
    plain = map_of(what, explain, images)
    base = baseline_of(what, baseline, images)
    axis = dim % images.ndim if isinstance(dim, int) and -images.ndim <= dim < images.ndim else 0
    if axis < 2:
        raise CamfnError(f"continuity: dim: expected a spatial dimension, -{images.ndim - 2} to -1, got {dim!r}")
    amounts = _shifts(shifts, images.shape[axis])
    places = torch.arange(images.shape[axis], device=images.device)

    def slope(shift: Tensor) -> Tensor:
        source = places - shift
        inside = ((source >= 0) & (source < len(places))).reshape(-1, *(1,) * (images.ndim - axis - 1))
        moved = torch.where(inside, images.index_select(axis, source.clamp(0, len(places) - 1)), base)
        far = widen(bare_map(what, explain, moved) - plain).abs().flatten(1).sum(1)
        return safe_divide(far, euclidean(moved - images))

    return each_perturbation(what, slope, tensor_on(amounts, images.device), 1, progress).amax(0).to(plain.dtype)


def _shifts(shifts: Sequence[int], length: int) -> list[int]:
    """Return whole numbers other than 0, each below the length of the image; refuse anything else."""
    if not isinstance(shifts, (list, tuple, range)) or not len(shifts):
        raise ArgumentTypeError(
            f"continuity: shifts: expected a list of whole numbers, got {describe(shifts)}; for example (-1, 1)"
        )
    for shift in shifts:
        whole("continuity: shifts", shift, 1 - length)
        if not 0 < abs(shift) < length:
            raise CamfnError(
                f"continuity: shifts: expected numbers other than 0 below the {length} pixels of the image, got {shift}"
            )
    return list(shifts)
