"""Variants of Score-CAM, whose masks are noisy (SS-CAM), scaled (IS-CAM) or made of groups of channels (Group-CAM)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from einops import reduce
from torch import Tensor

from ..._shared.checks import number, one_of, shapes_agree, tensor
from ..._shared.devices import brought, tensor_on
from ..._shared.errors import CamfnError
from ..._shared.maps import (
    channel_sum,
    lowest_and_range,
    over_space,
    resize,
    safe_divide,
    spatial_mean,
    weighted_sum,
    widen,
)
from ..._shared.noise import draw_normal, one_source
from ..._shared.rows import ChunkSize, Progress, no_nan, row_of, score_variants
from .._checks import at_least_one, checked, fits_inputs, lays_over_images
from .channels import mask, minus_minimum, quantile_of, strongest, take

Form: TypeAlias = Literal["softmax", "score"]
"""Whether the weights are the softmax of the scores over channels, or the scores themselves."""


@lays_over_images
def ss_cam(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    samples: int = 35,
    std: float = 2.0,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    form: Form = "softmax",
    top_k: float | None = None,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """SS-CAM: Score-CAM with scores averaged over noisy masks.

    `L(p) = sum_k w_k A_k(p)`, with the mean score `y_k = mean_n forward(inputs * (H_k + noise_n))` of the masks
    `H_k = minmax(upsample(A_k))`, and `w = softmax_k(y)` or `w = y`, as in `score_cam`. One noise field serves all
    channels and samples of a batch: the mean keeps its expectation, and channels are compared under the same noise.
    C times `samples` forwards. Under `vmap` and `torch.compile` give the noise. Its outer ReLU is not applied.

    This is the paper's form with noise on the mask, as torch-cam has it (which draws anew for each channel). In the
    authors' code, the noise goes on the upsampled channel before any rescaling, with the deviation
    `(2 / (max - min))^2`, and the weight is the mean probability (`form="score"` with `targets.class_probability`); it
    has a second form with the noise on the masked input. Neither is offered.

    Source: arXiv 2006.14255; its equations were not checked in print.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: not used.
        outputs: not used.
        forward: the whole network and the target, inputs to scores (B,); must run under `torch.vmap`.
        inputs: (B, channels, *T), what the network was run on, with as many spatial dimensions as the activations.
        samples: how many noise fields a generator draws.
        std: the standard deviation of the noise that a generator draws, for masks in [0, 1].
        generator: draws normal noise on its own device, in float32 whatever the activations are.
        noise: (n, *T), the noise itself, in place of a generator; added as it is.
        form: "softmax" or "score"; with "score" a constant channel weighs 0.
        top_k: how many channels to try, those with the largest `sum_p A_k^2`: an int, or a float in (0, 1] for a share
            of them; the others weigh 0, and the softmax is over those tried. None is all.
        chunk_size: masked batches run at once; None is all, "auto" as many as memory allows.
        progress: called with masked batches done and their number.

    Returns:
        The raw map, (B, *S).

    Raises:
        CamfnError: if neither or both of `generator` and `noise` are given, for noise or inputs of another shape,
            `samples` below 1, an unknown form or number of channels, or scores that are not one number a sample.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[0.0, 1.0], [5.0, 5.0]]])  # masks (0, 1) and 0
        >>> image, noise = torch.tensor([[[2.0, 3.0]]]), torch.tensor([[0.5, 0.0], [-0.5, 0.0]])
        >>> ss_cam(activations, forward=lambda x: x.sum((1, 2)), inputs=image, noise=noise, form="score")
        tensor([[0., 3.]])
    """
    at_least_one("ss_cam", samples=samples)
    number("ss_cam: std", std, "[0, inf)")
    fits_inputs("ss_cam", activations, inputs, forward)
    size = tuple(inputs.shape[2:])
    source = one_source("ss_cam", generator, noise)
    noise = source if isinstance(source, Tensor) else std * draw_normal((samples, *size), source)
    if noise.ndim != inputs.ndim - 1 or tuple(noise.shape[1:]) != size or not noise.shape[0]:
        raise CamfnError(f"ss_cam: expected noise of shape (n, *T), T = {size}; got {tuple(noise.shape)}")
    fields = tensor_on(noise, activations.device)
    return _mean_score_cam(
        "ss_cam",
        activations,
        forward,
        inputs,
        lambda m, i: m + row_of(fields, i).to(m.dtype),
        len(fields),
        form,
        top_k,
        chunk_size,
        progress,
    )


@lays_over_images
def is_cam(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    steps: int = 10,
    form: Form = "softmax",
    top_k: float | None = None,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """IS-CAM: Score-CAM with scores averaged over growing fractions of the mask.

    `L(p) = sum_k w_k A_k(p)`, with the mean score `y_k = mean_i forward(inputs * (i / n) H_k)`, i = 1 ... n, of the
    masks `H_k = minmax(upsample(A_k))`, and `w = softmax_k(y)` or `w = y`, as in `score_cam`; the score of the baseline
    cancels in the softmax. C times `steps` forwards. Its outer ReLU is not applied.

    torch-cam adds the fractions up, so that its masks reach (n + 1) / 2 times the mask and leave [0, 1]; here each is a
    fraction of the mask. The paper's own equation could not be read, so which of the two it means is open.

    Source: arXiv 2010.03023; its equations were not checked in print.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: not used.
        outputs: not used.
        forward: the whole network and the target, inputs to scores (B,); must run under `torch.vmap`.
        inputs: (B, channels, *T), what the network was run on, with as many spatial dimensions as the activations.
        steps: the number n of fractions; 1 is Score-CAM.
        form: "softmax" or "score"; with "score" a constant channel weighs 0.
        top_k: how many channels to try, those with the largest `sum_p A_k^2`: an int, or a float in (0, 1] for a share
            of them; the others weigh 0, and the softmax is over those tried. None is all.
        chunk_size: masked batches run at once; None is all, "auto" as many as memory allows.
        progress: called with masked batches done and their number.

    Returns:
        The raw map, (B, *S).

    Raises:
        CamfnError: for inputs of another shape, `steps` below 1, an unknown form, or scores that are not one number a
            sample.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[0.0, 1.0], [5.0, 5.0]]])  # masks (0, 1) and 0
        >>> image = torch.tensor([[[2.0, 3.0]]])
        >>> is_cam(activations, forward=lambda x: x.sum((1, 2)), inputs=image, steps=2, form="score")  # (1.5 + 3) / 2
        tensor([[0.0000, 2.2500]])
    """
    at_least_one("is_cam", steps=steps)
    return _mean_score_cam(
        "is_cam",
        activations,
        forward,
        inputs,
        lambda m, i: m * (i + 1).to(m.dtype) / steps,
        steps,
        form,
        top_k,
        chunk_size,
        progress,
    )


@lays_over_images
def group_cam(
    activations: Tensor,
    grads: Tensor,
    outputs: Any = None,
    *,
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    groups: int = 32,
    quantile: float = 0.7,
    baseline: Tensor | None = None,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Group-CAM: Grad-CAM of groups of channels, each weighted by the score of the input that it masks.

    `L(p) = sum_g s_g M_g(p)`. A group's map is `ReLU(sum_k mean(g_k) A_k)` over its channels, 0 where it is not above
    its own quantile. `M_g` is that map less the minimum, over the range, of its upsampled self `H_g`, so that the
    upsampled L is `sum_g s_g minmax(H_g)`, as in the authors' code, while L stays at the layer's resolution. The weight
    is the gain `s_g = forward(x H_g + b (1 - H_g)) - forward(b)` over the blurred input b. The channels are cut into
    `groups` runs of equal length, the last one shorter. One backward and `groups + 1` forwards. Signed where a group
    speaks against the class; the outer ReLU is not applied.

    The authors take the gradient of the logit and the gain in probability. Here both are of the one target given; pass
    a `forward` of your own to mix them. pytorch-grad-cam and torch-cam do not have the method.

    Source: arXiv 2103.13859 and the authors' code.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: (B, C, *S), derivative of each sample's score.
        outputs: not used.
        forward: the whole network and the target, inputs to scores (B,); must run under `torch.vmap`.
        inputs: (B, channels, *T), what the network was run on, with as many spatial dimensions as the activations.
        groups: the number of groups; C or more is a group for each channel.
        quantile: a group's map is set to 0 where it is not above this quantile of its values.
        baseline: like the inputs, replaces them outside a mask; None is a Gaussian blur of 51 pixels and deviation
            50 (reflected at the border, the window no wider than the image allows).
        chunk_size: masked batches run at once; None is all, "auto" as many as memory allows.
        progress: called with masked batches done and their number.

    Returns:
        The raw signed map, (B, *S).

    Raises:
        CamfnError: for inputs or a baseline of another shape, `groups` below 1, a quantile outside [0, 1], or scores
            that are not one number a sample.

    Example:
        >>> import torch
        >>> activations, grads = torch.tensor([[[0.0, 1.0, 4.0]]]), torch.ones(1, 1, 3)
        >>> image = torch.tensor([[[5.0, 6.0, 7.0]]])
        >>> black = torch.zeros_like(image)
        >>> group_cam(activations, grads, forward=lambda x: x.sum((1, 2)), inputs=image, baseline=black)
        tensor([[0., 0., 7.]])
    """
    at_least_one("group_cam", groups=groups)
    number("group_cam: quantile", quantile, "[0, 1]")
    fits_inputs("group_cam", activations, inputs, forward)
    if baseline is not None:
        tensor("group_cam: baseline", baseline, "an image for each input, or None for the blurred inputs")
        shapes_agree("group_cam: baseline", baseline.shape, inputs.shape)
    a, g = checked("group_cam", activations, grads)
    length = -(-a.shape[1] // groups)
    weighted = over_space(spatial_mean(g), a) * a
    maps = torch.stack([channel_sum(part) for part in torch.split(weighted, length, 1)], 1).relu()
    maps = torch.where(maps <= over_space(quantile_of(maps.flatten(2), quantile), maps), 0.0, maps)
    up = resize(maps, inputs.shape[2:])
    space = tuple(range(2, a.ndim))
    low, width = lowest_and_range(up, space)
    # the last mask is 0 and shows the baseline alone
    shown = torch.cat([safe_divide(up - low, width), torch.zeros_like(up[:, :1])], 1)
    base = _blur(inputs) if baseline is None else baseline

    def masked(group: Tensor) -> Tensor:
        """Show the input where the mask of a group is 1, and the baseline where it is 0."""
        return base + (inputs - base) * row_of(shown, group, 1)[:, None].to(inputs.dtype)

    rows = torch.arange(maps.shape[1] + 1, device=a.device)
    per_row = score_variants("group_cam: forward", forward, masked, rows, chunk_size=chunk_size, progress=progress)
    scores = widen(per_row.mT)
    no_nan("group_cam: forward", scores, activations, inputs)
    gains = (scores[:, :-1] - scores[:, -1:]).to(a.dtype)
    return weighted_sum(safe_divide(maps - low, width), gains).to(activations.dtype)


def _mean_score_cam(
    method: str,
    activations: Tensor,
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    change: Callable[[Tensor, Tensor], Tensor],
    count: int,
    form: Form,
    top_k: float | None,
    chunk_size: ChunkSize,
    progress: Progress | None,
) -> Tensor:
    """Return Score-CAM whose score of a channel is the mean over `count` changed masks, `change(mask, index)`."""
    one_of(f"{method}: form", form, ("softmax", "score"))
    fits_inputs(method, activations, inputs, forward)
    a = widen(activations)
    a = a if top_k is None else take(a, strongest(method, a, top_k))
    from_zero = minus_minimum(a)

    def masked(row: Tensor) -> Tensor:
        """Multiply the input with the changed mask `row % count` of channel `row // count`."""
        changed = change(mask(row_of(from_zero, row // count, 1)[:, None], inputs), row % count)
        return inputs * changed.to(inputs.dtype)

    rows = torch.arange(a.shape[1] * count, device=a.device)
    per_row = score_variants(f"{method}: forward", forward, masked, rows, chunk_size=chunk_size, progress=progress)
    scores = reduce(widen(per_row.mT), "b (k n) -> b k", "mean", n=count)
    no_nan(f"{method}: forward", scores, activations, inputs)
    space = tuple(range(2, a.ndim))
    weights = scores.softmax(1) if form == "softmax" else torch.where(from_zero.amax(space) > 0, scores, 0.0)
    return weighted_sum(a, weights.to(a.dtype)).to(activations.dtype)


def _blur(inputs: Tensor, radius: int = 25, std: float = 50.0) -> Tensor:
    """Blur with a Gaussian along each spatial dimension; the image is reflected at its border."""
    blurred = widen(inputs)
    for axis in range(2, inputs.ndim):
        matrix = brought(_blur_matrix(inputs.shape[axis], radius, std), blurred)
        blurred = (blurred.movedim(axis, -1) @ matrix.mT).movedim(-1, axis)
    return blurred.to(inputs.dtype)


def _blur_matrix(size: int, radius: int, std: float) -> Tensor:
    """Return (size, size); each row is a Gaussian window whose part beyond the border is reflected."""
    reach = min(radius, size - 1)
    offsets = torch.arange(-reach, reach + 1)
    window = (-0.5 * (offsets.double() / std).square()).exp()
    places = (torch.arange(size)[:, None] + offsets).abs()
    places = (size - 1) - (size - 1 - places).abs()
    window = (window / window.sum()).expand(size, -1)
    return torch.zeros(size, size, dtype=torch.float64).scatter_add(1, places, window)
