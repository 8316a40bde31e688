"""Edges of the input: a control that reads neither the network nor the class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .._shared.maps import safe_sqrt, widen
from ._checks import images


def sobel_edges(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    inputs: Tensor,
) -> Tensor:
    """Sobel edges of the input, the control that a method must beat: it reads no network, no layer and no class.

    `L(p) = sqrt(sum_d (S_d * g)(p)^2)`, g the mean over channels, `S_d` the derivative (-1, 0, 1) / 2 along one
    dimension and (1, 2, 1) / 4 along the others; the border is repeated. At the resolution of the inputs. A metric that
    ranks it high rewards sharp edges, or what a photographer puts into focus. No forward.

    Source: edge detectors as a control are from arXiv 1810.03292; the filter is Sobel's.

    Args:
        activations: (B, C, *S), not used.
        grads: not used.
        outputs: not used.
        inputs: (B, channels, *T), one to three spatial dimensions.

    Returns:
        The raw map, (B, *T), not negative, where other methods give (B, *S).

    Raises:
        CamfnError: inputs of another shape.

    Example:
        >>> import torch
        >>> image = torch.tensor([[[0.0, 0.0, 4.0, 4.0]]])
        >>> sobel_edges(image, inputs=image)
        tensor([[0., 2., 2., 0.]])
    """
    images("sobel_edges", inputs)
    gray = widen(inputs).mean(1, keepdim=True)
    dims = gray.ndim - 2
    total = torch.zeros_like(gray[:, 0])
    for along in range(dims):
        slope = gray
        for dim in range(dims):
            slope = _filtered(slope, dim, derivative=dim == along)
        total = total + slope[:, 0].square()
    return safe_sqrt(total).to(inputs.dtype)


def _filtered(gray: Tensor, dim: int, *, derivative: bool) -> Tensor:
    """Filter (B, 1, *T) along a dimension by (-1, 0, 1) / 2, or by (1, 2, 1) / 4; the border is repeated."""
    dims, length = gray.ndim - 2, gray.shape[2 + dim]
    padding = [0] * (2 * dims)
    padding[2 * (dims - 1 - dim) : 2 * (dims - dim)] = [1, 1]
    wide = functional.pad(gray, padding, mode="replicate")
    before, here, after = (wide.narrow(2 + dim, start, length) for start in range(3))
    return (after - before) / 2 if derivative else (before + 2 * here + after) / 4
