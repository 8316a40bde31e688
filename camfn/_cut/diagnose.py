"""Diagnose: why a map is blank or useless, in words."""

from __future__ import annotations

import math

from torch import Tensor

from .._shared.checks import describe, is_concrete, length_matches, one_of, tensor
from .._shared.chunks import Engine
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.vocabulary import Captured


def diagnose(captured: Captured, cam: Tensor, *, engine: Engine | None = None) -> list[str | None]:
    """Say why each sample's map is blank or useless, if it is.

    Args:
        captured: what the map was made of; `grads` may be None for methods that use none.
        cam: the raw map, (B, *spatial).
        engine: how the runs of a method that perturbs were made, as `explainer` tells `progress`: "folded", "vmapped"
            or "one by one". The sentence on a map of zeros then names it.

    Returns:
        For each sample a sentence, or None where the map is fine.

    Raises:
        CamfnError: not one map a sample.

    Example:
        >>> import torch
        >>> activations = torch.rand(1, 4, 7, 7)
        >>> diagnose(Captured(activations, torch.zeros_like(activations), None), torch.zeros(1, 7, 7))[0][:38]
        'the gradient is zero everywhere at thi'
    """
    if not isinstance(captured, tuple) or len(captured) != 3 or not isinstance(captured[0], Tensor):
        raise ArgumentTypeError(
            f"diagnose: captured: expected what capture(model, layer)(inputs, target) gives, got {describe(captured)}"
        )
    tensor("diagnose: cam", cam, "the raw map (B, *spatial) of a method")
    if cam.ndim < 1 or not cam.is_floating_point() or not is_concrete(cam):
        raise CamfnError(
            f"diagnose: cam: expected raw maps (B, *spatial) of floats that can be read, got {tuple(cam.shape)} of "
            f"{cam.dtype} on {cam.device}"
        )
    length_matches("diagnose: cam", cam.shape[0], captured.activations.shape[0])
    one_of("diagnose: engine", engine, (None, "folded", "vmapped", "one by one"))
    return [_why(captured, cam, i, engine) for i in range(cam.shape[0])]


def _why(captured: Captured, cam: Tensor, i: int, engine: Engine | None) -> str | None:
    heat, activations = cam[i].detach(), captured.activations[i].detach()
    grads = None if captured.grads is None else captured.grads[i].detach()
    if not heat.isfinite().all():
        return _nonfinite(heat, activations, grads)
    if heat.numel() == 1:
        return (
            "the map has one position only: the layer comes after the pooling, or the image is too small for it. "
            "Take an earlier layer."
        )
    if not heat.any():
        return _zero(captured, activations, grads, engine)
    if bool((heat <= 0).all()):
        return (
            "the map is negative everywhere: at this layer nothing speaks for the target, only against it, and a "
            "picture that clips negative values is blank. Look at it signed, at another layer, or at another target."
        )
    if bool((heat == heat.flatten()[0]).all()):
        return "the map has the same value at every position, so it shows no place more than another."
    return None


def _zero(captured: Captured, activations: Tensor, grads: Tensor | None, engine: Engine | None) -> str:
    """Say why a map is zero; of the gradient only where it decides, since not every method reads it."""
    text = "the map is zero everywhere"
    if not activations.any():
        return f"{text}: so are the activations, its units are all inactive. Take another layer, or look at the photo."
    if engine is not None:
        return f"{text}: the method made runs of the network, {engine}, and their scores leave nothing of it."
    if grads is None:
        return f"{text}."
    if not grads.any():
        return _no_gradient(captured)
    if not (grads * activations).any():
        return f"{text} although the gradient is not: wherever the layer is active, the score does not depend on it."
    return f"{text} although neither the activations nor the gradients are: the method itself leaves nothing of them."


def _nonfinite(heat: Tensor, activations: Tensor, grads: Tensor | None) -> str:
    bad = heat.numel() - int(heat.isfinite().sum())
    source = "the method made them of finite activations and gradients"
    if not activations.isfinite().all():
        source = "the activations have them already: look at the photo's values and at the precision of the model"
    elif grads is not None and not grads.isfinite().all():
        source = "the gradients have them already: the target may take the logarithm of a score that is not positive"
    return f"{bad} of {heat.numel()} values of the map are not finite; {source}."


def _no_gradient(captured: Captured) -> str:
    scores = captured.outputs if isinstance(captured.outputs, Tensor) else None
    where = "for every sample" if not captured.grads.any() else "for this sample, not for others of the batch"
    text = f"the gradient is zero everywhere at this layer, {where}: "
    if captured.grads.any():
        return text + "its score is saturated (explain the logit, not the probability) or its units are all inactive."
    if scores is not None and scores.ndim == 2 and math.isclose(float(scores.softmax(-1).max()), 1.0, abs_tol=1e-6):
        text += "the probability is saturated (explain the logit instead), or "
    return text + (
        "the layer is not connected to the score. It may belong to another branch, come after the score, or hold the "
        "patch tokens of the last block, which a class-token head does not read: take a layer before that "
        "block's attention."
    )
