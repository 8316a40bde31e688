"""Methods that keep one location of the activations at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ..._shared.checks import function, one_of
from ..._shared.rows import ChunkSize, Progress, no_nan, score_variants
from .._checks import TAIL, checked

Kernel: TypeAlias = Literal["gaussian", "point"]
"""The mask around a location: its binomial neighborhood, or the location alone."""

_KERNELS = {"gaussian": (0.5, 0.25), "point": (1.0, 0.0)}
"""Weight of a location and of its two neighbors, along one dimension."""


def recipro_cam(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    tail: Callable[[Tensor], Tensor],
    kernel: Kernel = "gaussian",
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Recipro-CAM: the score that the rest of the network gives to one location alone.

    `L(p) = tail(A * M_p)` with a mask `M_p` around position p, the same for all channels: 1 at p and 0 elsewhere
    ("point"), or the binomial (1, 2, 1) / 4 along each dimension ("gaussian", 3 x 3 in two). No gradient; a run of the
    tail for each position. Over a pooled linear head the point map is `CAM / N + b`, and the Gaussian one that of the
    CAM filtered with the mask (its border padded with zeros). The authors take softmaxed scores: use
    `targets.class_probability`. The map is signed, and not rescaled.

    The authors' code, in its Gaussian form, spreads the one vector `A(p)` over the neighbors instead of keeping theirs,
    and runs the point form by default; here the mask multiplies the activations, as in their text for transformers.
    For those (ViT-ReciproCAM) the class token must go on unmasked: give `explainer` the layout
    `layout.tokens(grid, keep_prefix=True)`, the default, at the input of the last block.

    Source: arXiv 2209.14074 (and 2310.02588 for transformers); neither equation was checked in print.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: not used.
        outputs: not used.
        tail: the network after the layer and the target, activations (B, C, *S) to scores (B,); must run under
            `torch.vmap`.
        kernel: "gaussian" or "point".
        chunk_size: positions tried at once; None is all N at once, "auto" as many as memory allows.
        progress: called with positions done and N.

    Returns:
        The raw map of scores, (B, *S).

    Raises:
        CamfnError: if the tail does not return one score a sample, or NaN, or for an unknown kernel.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[1.0, 0.0, 2.0], [0.0, 4.0, 0.0]]])
        >>> recipro_cam(activations, tail=lambda a: a[:, 0].sum(1) - a[:, 1].sum(1) + 5, kernel="point")
        tensor([[6., 1., 7.]])
    """
    checked("recipro_cam", activations)
    one_of("recipro_cam: kernel", kernel, _KERNELS)
    function("recipro_cam: tail", tail, TAIL)
    space = activations.shape[2:]
    axes = [torch.arange(size, device=activations.device) for size in space]
    center, neighbor = _KERNELS[kernel]

    def masked(place: Tensor) -> Tensor:
        """Multiply the activations with the mask around a location."""
        mask = torch.ones((), dtype=activations.dtype, device=activations.device)
        for axis, at in zip(axes, place):
            distance = (axis - at).abs()
            line = torch.where(distance == 0, center, torch.where(distance == 1, neighbor, 0.0))
            mask = mask[..., None] * line.to(mask.dtype)
        return activations * mask

    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)
    scores = score_variants("recipro_cam: tail", tail, masked, places, chunk_size=chunk_size, progress=progress).mT
    no_nan("recipro_cam: tail", scores, activations)
    return scores.reshape(activations.shape[0], *space).to(activations.dtype)
