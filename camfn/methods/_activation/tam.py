"""TAM: the class's own score at every place, less what earlier words explain, filtered by rank."""

# tested in tests/methods/test_methods.py and tests/words/maps/test_tam.py

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..._shared.checks import shapes_agree, tensor, within
from ..._shared.errors import CamfnError
from ..._shared.maps import safe_divide, safe_sqrt, widen
from .activation import cam


def tam(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    weights: Tensor,
    context: Tensor | None = None,
    likeness: Tensor | None = None,
    filtered: bool = True,
) -> Tensor:
    """TAM: the positive part of CAM, less the part that earlier words explain, through a rank-Gaussian filter.

    `L(p) = filter(ReLU(M - a I))(p)`. `M = ReLU(sum_k w_k A_k)` is the word's own score at every place, and
    `I = sum_i s_i E_i / sum_i s_i` the mean of the maps `E_i` of earlier words, by the scores `s_i` of this word at
    theirs; `a = <M, I> / <I, I>` are the least squares. The filter sorts the values of each 3 x 3 window, reflected at
    the border, and weights them by `exp(-r^2 / 2 sigma^2)`, with `r` the rank from the median and `sigma` the window's
    standard deviation divided by its mean: even windows give their median, uneven ones their mean.

    For a classifier there are no earlier words, and the map is CAM's positive part, filtered. For the words of a
    multimodal language model `camfn.words.explain(..., method="tam")` reads states, rows of the head and earlier words.
    The authors find `a` by a numerical minimization, and scale the map together with the scores of the text; here it
    is raw. As the map of an answer's first word they keep that of the prompt's last token; here it is the word's own.

    Source: arXiv 2506.23270, eq. 3 to 9, and the authors' code.

    Args:
        activations: (B, C, *S), one to three spatial dimensions; of three the first is time, and frames are filtered
            one by one.
        grads: not used.
        outputs: not used.
        weights: (C,), the row of the head for one class, or (B, C), a row a sample.
        context: (B, E, *S), the maps of E earlier words, each before its own subtraction.
        likeness: (B, E), the score of this word at the position of each of them, not negative.
        filtered: whether to filter.

    Returns:
        The raw map, (B, *S), not negative.

    Raises:
        CamfnError: for weights, maps or scores of another shape, negative scores, or maps without scores.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[[1.0, 0.0, 3.0]]]])
        >>> tam(activations, weights=torch.ones(1), filtered=False)
        tensor([[[1., 0., 3.]]])
        >>> tam(activations, weights=torch.ones(1), filtered=False, context=activations, likeness=torch.ones(1, 1))
        tensor([[[0., 0., 0.]]])
    """
    own = widen(cam(activations, weights=weights)).relu()
    if context is not None or likeness is not None:
        if context is None or likeness is None:
            raise CamfnError("tam: expected context= and likeness= together, the maps of earlier words and the scores")
        tensor("tam: context", context)
        tensor("tam: likeness", likeness)
        batch, count = activations.shape[0], context.shape[1] if context.ndim > 1 else 0
        shapes_agree("tam: context (B, E, *S)", context.shape, (batch, count, *activations.shape[2:]))
        shapes_agree("tam: likeness (B, E)", likeness.shape, (batch, count))
        if not within(likeness, 0, inf):
            raise CamfnError("tam: likeness: expected scores of 0 or more, as scores.relu()")
        own = without_context(own.flatten(1), context.to(own).flatten(2), likeness.to(own)).view_as(own)
    return (rank_gaussian(own) if filtered else own).to(activations.dtype)


def without_context(own: Tensor, context: Tensor, likeness: Tensor) -> Tensor:
    """Take out of maps (B, N) what the mean of earlier ones (B, E, N), weighted by scores (B, E), explains."""
    share = safe_divide(likeness, likeness.sum(1, keepdim=True))
    mean = (share[..., None] * context).sum(1)
    # squares of small or large numbers leave their range; a power of two changes no digit
    mean = safe_divide(mean, mean.abs().amax(1, keepdim=True).detach().log2().floor().exp2())
    factor = safe_divide((own * mean).sum(1, keepdim=True), mean.square().sum(1, keepdim=True))
    return (own - factor * mean).relu()


def rank_gaussian(maps: Tensor) -> Tensor:
    """Filter maps (B, *S) in windows of three places a side, over the last two dimensions of space."""
    *_, height, width = maps[..., None, :].shape if maps.ndim == 2 else maps.shape
    flat = maps.reshape(-1, 1, height, width)
    # a side of one place has nothing to reflect
    for dim, side in ((3, width), (2, height)):
        pad = (1, 1, 0, 0) if dim == 3 else (0, 0, 1, 1)
        flat = functional.pad(flat, pad, mode="reflect" if side > 1 else "replicate")
    window = torch.stack(
        [flat[:, 0, i : i + height, j : j + width] for i in range(3) for j in range(3)], -1
    ).sort(-1).values  # fmt: skip
    mean = window.mean(-1, keepdim=True)
    ratio = safe_sqrt(safe_divide(window - mean, mean).square().mean(-1, keepdim=True))
    rank = torch.arange(-4, 5, dtype=maps.dtype, device=maps.device)
    uneven = ratio > 0
    weights = (-rank.square() / (2 * torch.where(uneven, ratio, 1).square())).exp()
    weights = torch.where(uneven, weights, (rank == 0).to(maps))
    found = (window * weights).sum(-1) / weights.sum(-1)
    return torch.where(mean[..., 0] <= 0, 0, found).view_as(maps)
