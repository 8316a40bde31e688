"""Occlusion: what the score loses under a patch that slides over the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from einops import einsum
from torch import Tensor

from ..._shared.checks import describe, function, whole
from ..._shared.devices import tensor_on
from ..._shared.errors import ArgumentTypeError, CamfnError
from ..._shared.maps import widen
from ..._shared.rows import ChunkSize, Progress, finite, row_of, score_variants
from .._checks import broadcastable, images


def occlusion(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    patch: int | Sequence[int] | None = None,
    stride: int | Sequence[int] | None = None,
    baseline: float | Tensor = 0.0,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Occlusion: the drop of the score under a sliding patch, averaged where patches overlap.

    `L(p) = mean over the patches P that hold p of f(x) - f(x with the baseline in P)`, with its sign, at the resolution
    of the inputs, not of the layer: the layer does not matter. The last patch along each dimension ends with the input.
    One forward for each place, and one more: 170 with the patch of a seventh and half of it as stride. The patch
    decides what is seen: what is much larger than it survives, and what is smaller spreads over it.

    Source: arXiv 1311.2901, section on occlusion sensitivity, where the map is the score itself.

    Args:
        activations: (B, C, *S), not used.
        grads: not used.
        outputs: not used.
        forward: the whole network and the target, inputs to scores (B,); must run under `torch.vmap`.
        inputs: (B, channels, *T), one to three spatial dimensions.
        patch: sides of the patch in pixels, one number or one for each dimension; None is a seventh of each side.
        stride: how far the patch moves, at most its side; None is half of the patch.
        baseline: what replaces the patch: a number, or a tensor that broadcasts to the inputs.
        chunk_size: places at once; None is all, "auto" as many as memory allows.
        progress: called with places done and their number.

    Returns:
        The raw signed map, (B, *T), where other methods give (B, *S).

    Raises:
        CamfnError: a patch larger than the inputs, a stride larger than the patch, a baseline that does not broadcast,
            or scores that are not one finite number a sample.

    Example:
        >>> import torch
        >>> image = torch.tensor([[[2.0, 3.0, 5.0]]])
        >>> occlusion(image, forward=lambda x: x.sum((1, 2)), inputs=image, patch=2, stride=1)
        tensor([[5.0000, 6.5000, 8.0000]])
    """
    images("occlusion", inputs)
    function("occlusion: forward", forward, "from inputs to one score a sample, as explainer binds it")
    size = tuple(inputs.shape[2:])
    patch = _sides("patch", patch, size, [-(-side // 7) for side in size])
    stride = _sides("stride", stride, patch, [-(-side // 2) for side in patch])
    base = broadcastable("occlusion: baseline", baseline, inputs, "inputs")
    lines = [[*range(0, side - p, s), side - p] for side, p, s in zip(size, patch, stride)]
    corners = tensor_on(list(product(*lines)), inputs.device)
    within = [torch.arange(side, device=inputs.device) for side in size]

    def covered(index: Tensor) -> Tensor:
        """Mark the patch at one of the places, (*T)."""
        mask = torch.ones((), dtype=torch.bool, device=inputs.device)
        corner = row_of(corners, index)
        for dim, (places, side) in enumerate(zip(within, patch)):
            line = (places >= corner[dim]) & (places < corner[dim] + side)
            mask = mask & line.reshape(-1, *(1,) * (len(size) - dim - 1))
        return mask

    def hidden(row: Tensor) -> Tensor:
        return torch.where(covered((row - 1).clamp(min=0)) & (row > 0), base, inputs)

    x = widen(inputs)
    rows = torch.arange(len(corners) + 1, device=inputs.device)
    scores = widen(
        score_variants("occlusion: forward", forward, hidden, rows, chunk_size=chunk_size, progress=progress)
    )
    finite("occlusion: forward", scores.mT, inputs)
    drops = (scores[:1] - scores[1:]).to(x.dtype)
    total, count = torch.zeros_like(x[:, 0]), x.new_zeros(x.shape[2:])
    # all patches at once may not fit the memory: build them again, 64 at a time
    for lost, index in zip(torch.split(drops, 64), torch.split(rows[:-1], 64)):
        marked = torch.vmap(covered)(index).to(x.dtype)
        total = total + einsum(lost, marked, "n b, n ... -> b ...")
        count = count + marked.sum(0)
    return (total / count).to(inputs.dtype)


def _sides(name: str, given: int | Sequence[int] | None, most: Sequence[int], default: Sequence[int]) -> list[int]:
    """Return one whole number for each dimension, from 1 to the most."""
    if given is None:
        return list(default)
    sides = [given] * len(most) if isinstance(given, int) else given
    if not isinstance(sides, (list, tuple)) or len(sides) != len(most):
        raise ArgumentTypeError(
            f"occlusion: {name}: expected a whole number, or one for each of {len(most)} dimensions, got "
            f"{describe(given)}"
        )
    for side, limit in zip(sides, most):
        whole(f"occlusion: {name}", side)
        if side > limit:
            raise CamfnError(f"occlusion: {name}: expected at most {limit} along this dimension, got {side}")
    return list(sides)
