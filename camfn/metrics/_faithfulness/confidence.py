"""How the score changes when the heatmap masks the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from ..._shared.checks import function, number, same_device
from ..._shared.devices import brought, tensor_on
from ..._shared.errors import CamfnError
from ..._shared.maps import safe_divide
from ...image._checks import within_unit
from .._common.order import on_images
from .._common.scores import number_a_sample, of_the_same

Baseline: TypeAlias = "float | Tensor | Callable[[Tensor], Tensor]"
"""The values of removed pixels: a number, a tensor that broadcasts to the images, or a function of them."""

_ADVICE = "Pass probabilities, as scores_of(model, images) gives, not logits."


def masked(
    images: Tensor,
    heatmap: Tensor,
    *,
    baseline: Baseline = 0.0,
    normalize: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Mask images by their heatmaps: `x H + b (1 - H)`.

    Papers mask either before or after the normalization by mean and deviation, which changes all numbers (2301.07002,
    section 5.2): 0 is black before it, and the mean color after it. To mask after it, pass normalized images. To mask
    before it, pass photos in [0, 1] and `normalize`.

    Args:
        images: (B, C, *T).
        heatmap: (B, *S) in [0, 1], or bool, such as `most_relevant(heatmap, 0.5)`, which removes half of the pixels as
            Score-CAM's protocol does (1910.01279, section 4.2); resized linearly to T where S differs.
        baseline: b: a number, a tensor that broadcasts to the images, or a function of them such as `blur`.
        normalize: a function of the masked photos, where the images are not normalized yet.

    Returns:
        Masked images for the model, (B, C, *T).

    Raises:
        CamfnError: a heatmap outside [0, 1], with NaN or infinity, or of another batch.

    Example:
        >>> images, heatmap = torch.full((1, 1, 2, 2), 4.0), torch.tensor([[[0.0, 0.25], [0.5, 1.0]]])
        >>> masked(images, heatmap)[0, 0]
        tensor([[0., 1.],
                [2., 4.]])
    """
    mask = on_images("masked", heatmap, images)
    if normalize is not None:
        function("masked: normalize", normalize, "such as lambda photos: (photos - mean) / std")
    if not within_unit(mask):
        raise CamfnError("masked: expected a heatmap in [0, 1]; pass camfn.image.normalize(cam)")
    weight = mask[:, None].to(images.dtype)
    blend = images * weight + baseline_of("masked", baseline, images) * (1 - weight)
    return blend if normalize is None else normalize(blend)


def baseline_of(what: str, baseline: Baseline, images: Tensor) -> Tensor:
    """Evaluate a baseline on the images, and broadcast it to their shape."""
    value = baseline(images) if callable(baseline) else baseline
    if not isinstance(value, Tensor):
        number(f"{what}: baseline", value, advice="Or pass a tensor, or a function of the images such as blur")
        value = tensor_on(value, images.device, images.dtype)
    if value.is_complex() or (value.ndim and value.device != images.device):
        same_device(f"{what}: baseline", value, images, "images")
        raise CamfnError(f"{what}: baseline: expected real numbers, got {value.dtype}")
    try:
        return torch.broadcast_to(brought(value, images), images.shape)
    except RuntimeError as error:
        raise CamfnError(
            f"{what}: baseline: expected something that broadcasts to the images, {tuple(images.shape)}; got "
            f"{tuple(value.shape)}. One number a channel: baseline=values[:, None, None]"
        ) from error


def confidence_change(before: Tensor, after: Tensor) -> Tensor:
    """Change of the score, `o - p`, which is CamMultImageConfidenceChange in pytorch-grad-cam.

    Args:
        before: p, (B,), scores of the images.
        after: o, (B,), scores of the masked images.

    Returns:
        (B,), any sign.

    Raises:
        CamfnError: scores that are not (B,) numbers.

    Example:
        >>> confidence_change(torch.tensor([0.5]), torch.tensor([0.75]))
        tensor([0.2500])
    """
    low = -torch.inf
    p = number_a_sample("confidence_change", "before", before, low, torch.inf, "")
    return (
        of_the_same("confidence_change", p, number_a_sample("confidence_change", "after", after, low, torch.inf, ""))
        - p
    )


def average_drop(before: Tensor, after: Tensor) -> Tensor:
    """Average Drop: the share of the probability that the masked image loses, `max(0, p - o) / p`.

    Source: arXiv 1710.11063, section 4.1, there in percent. pytorch-grad-cam's DropInConfidence does not divide by p.

    Args:
        before: p, (B,), probabilities of the images.
        after: o, (B,), probabilities of the masked images.

    Returns:
        (B,), in [0, 1], lower is better; 0 where p is 0. The paper's number is 100 times the mean.

    Raises:
        CamfnError: scores that are not (B,) numbers, or negative ones.

    Example:
        >>> average_drop(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        tensor([0.5000, 0.0000])
    """
    p = number_a_sample("average_drop", "before", before, 0, torch.inf, _ADVICE)
    o = of_the_same("average_drop", p, number_a_sample("average_drop", "after", after, 0, torch.inf, _ADVICE))
    return safe_divide((p - o).relu(), p)


def average_increase(before: Tensor, after: Tensor) -> Tensor:
    """Average Increase: whether the masked image scores higher, `1[p < o]`.

    Source: arXiv 1710.11063, section 4.1 (% Increase in Confidence).

    Args:
        before: p, (B,), scores of the images.
        after: o, (B,), scores of the masked images.

    Returns:
        (B,), 0 or 1, higher is better. The paper's number is 100 times the mean.

    Raises:
        CamfnError: scores that are not (B,) numbers.

    Example:
        >>> average_increase(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        tensor([0., 1.])
    """
    return (confidence_change(before, after) > 0).to(before.dtype)


def average_gain(before: Tensor, after: Tensor) -> Tensor:
    """Average Gain: the gain of probability over the largest possible gain, `max(0, o - p) / (1 - p)`.

    It is the counterpart of Average Drop. A mask that hides almost nothing (Fake-CAM) has no drop, but no gain either.

    Source: arXiv 2301.07002, eq. 15, there in percent.

    Args:
        before: p, (B,), probabilities of the images.
        after: o, (B,), probabilities of the masked images.

    Returns:
        (B,), in [0, 1], higher is better; 0 where p is 1.

    Raises:
        CamfnError: scores that are not (B,) numbers in [0, 1].

    Example:
        >>> average_gain(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        tensor([0.0000, 0.5000])
    """
    p = number_a_sample("average_gain", "before", before, 0, 1, _ADVICE)
    o = of_the_same("average_gain", p, number_a_sample("average_gain", "after", after, 0, 1, _ADVICE))
    return safe_divide((o - p).relu(), 1 - p)
