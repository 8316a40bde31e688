"""Opti-CAM: gradient ascent finds the weights of the channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._shared.checks import number, progress_bar
from ..._shared.chunks import telling
from ..._shared.maps import safe_divide, safe_sqrt, weighted_sum, widen
from ..._shared.pullback import pullback
from ..._shared.rows import Progress, no_nan, one_score, readable
from .._checks import at_least_one, fits_inputs, lays_over_images
from .channels import mask, minus_minimum


@lays_over_images
def opti_cam(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    steps: int = 100,
    learning_rate: float = 0.1,
    patience: int | None = 10,
    progress: Progress | None = None,
) -> Tensor:
    """Opti-CAM: the weights whose map, as a mask on the input, gives the highest score.

    `L(p) = sum_k softmax(u)_k A_k(p)`, with u of each sample searched by Adam from 0 (all channels alike) to maximize
    `forward(inputs * minmax(upsample(L)))`. The best of the `steps` maps tried is returned, for each sample its own. A
    sample stops when its score has not risen for `patience` steps. At most `steps` forwards and backwards of the whole
    network. Signed where activations are; the map is not rescaled.

    The authors' code clips the activations at 0 first, returns its last iterate, and minimizes the distance to the
    score of the unmasked input; the paper maximizes the score, as here. Adam has its usual betas (0.9, 0.999), and no
    epsilon: a weight whose gradient is 0 stays. No peer has the method.

    If gradients are enabled outside, the graph of all steps is kept. Under `vmap` and `torch.compile` all steps run.

    Source: arXiv 2301.07002.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: not used.
        outputs: not used.
        forward: the whole network and the target, inputs to scores (B,); must be differentiable.
        inputs: (B, channels, *T), what the network was run on, with as many spatial dimensions as the activations.
        steps: maps tried, the first with uniform weights.
        learning_rate: the learning rate of Adam.
        patience: steps without a better score after which a sample stops; None is never.
        progress: called with the steps done and `steps`.

    Returns:
        The raw map, (B, *S).

    Raises:
        CamfnError: if `forward` does not return one score a sample, or NaN, for inputs of another shape, or for
            `steps` or `patience` below 1.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[4.0, 2.0, 0.0], [0.0, 4.0, 0.0]]])
        >>> image = torch.ones(1, 1, 3)
        >>> opti_cam(activations, forward=lambda x: x[:, 0, 0] - x[:, 0, 1], inputs=image, steps=50).argmax(1)
        tensor([0])
    """
    at_least_one("opti_cam", steps=steps)
    if patience is not None:
        at_least_one("opti_cam", patience=patience)
    number("opti_cam: learning_rate", learning_rate, "(0, inf)")
    fits_inputs("opti_cam", activations, inputs, forward)
    progress_bar("opti_cam", progress)
    tell = telling(progress, "one by one")
    batch = activations.shape[0]
    a = widen(activations)
    from_zero = minus_minimum(a)

    def score(u: Tensor) -> Tensor:
        """Score the inputs under the mask that the weights `softmax(u)` make."""
        # A mask is the same for any multiple of its map, so that the softmax needs no divisor. Without the divisor the
        # gradient of each channel has no rounding noise from the others.
        weights = (u - u.amax(1, keepdim=True).detach()).exp()
        shown = mask(weighted_sum(from_zero, weights)[:, None], inputs)
        scores = one_score("opti_cam: forward", forward(inputs * shown.to(inputs.dtype)), batch)
        return scores.to(a.dtype)

    limit = steps if patience is None else patience
    u = torch.zeros(activations.shape[:2], dtype=a.dtype, device=a.device)
    mean, square, best = u, u, u
    highest, stale = torch.full_like(u[:, 0], -torch.inf), torch.zeros_like(u[:, 0])
    for step in range(1, steps + 1):
        scores, pull = pullback(score, u)
        no_nan("opti_cam: forward", scores[:, None], activations, inputs)
        better = (stale < limit) & (scores > highest)
        best = torch.where(better[:, None], u, best)
        highest = torch.where(better, scores, highest)
        stale = torch.where(better, 0.0, stale + 1)
        done = step == steps or (readable(stale) and bool((stale >= limit).all()))
        tell(steps if done else step, steps)
        if done:
            break
        slope = pull(torch.ones_like(scores))
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope.square()
        u = u + learning_rate * safe_divide(mean / (1 - 0.9**step), safe_sqrt(square / (1 - 0.999**step)))
    return weighted_sum(a, best.softmax(1)).to(activations.dtype)
