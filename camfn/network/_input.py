"""Gradients of the score with respect to the image: plain, averaged over noise, and integrated along a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from .._shared.errors import CamfnError
from .._shared.maps import widen
from .._shared.quadrature import gauss_legendre
from .._shared.vocabulary import Inputs, Target
from ._level import differentiator, image_of, pinned
from ._noise import noise_source, noisy

Rule: TypeAlias = Literal["gauss", "riemann"]
"""The rule of an integral: Gauss-Legendre nodes, or the right ends of equal steps."""


def input_gradient(model: nn.Module) -> Callable[..., Tensor]:
    """Input gradient, also called saliency: the derivative of the score in each value of the image.

    `G = df/dx`, with its sign and channels; the paper's map is the largest `|G|` over channels, `G.abs().amax(1)`.
    One forward and one backward.

    Source: arXiv 1312.6034, the section on image-specific class saliency.

    Args:
        model: any module; left exactly as it is.

    Returns:
        A function of the inputs and a target (as for `camfn.capture`) that returns (B, C, *S), like the image, which is
        the first floating-point tensor of the inputs.

    Raises:
        CamfnError: the target does not give one number a sample.
        TypeError: the inputs hold no floating-point tensor.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
        >>> gradient = input_gradient(net)(torch.ones(2, 3, 2, 2), 4)
        >>> torch.equal(gradient[0].flatten(), net[1].weight[4])
        True
    """
    derive = differentiator(model)
    return lambda inputs, target=None: derive(inputs, target).image_grad


def smooth_grad(
    model: nn.Module,
    *,
    samples: int = 50,
    std: float = 0.15,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
) -> Callable[..., Tensor]:
    """SmoothGrad: the input gradient averaged over noisy images.

    `G = mean_n df/dx (x + std (max x - min x) noise_n)`, the range of each image its own. One forward and one
    backward for each noise; one more forward if the target depends on the outputs (the top class): it is chosen on the
    clean image.

    Source: arXiv 1706.03825; 50 samples and a deviation of 10 to 20 % of the range as recommended there.

    Args:
        model: any module; left exactly as it is.
        samples: the number of noise tensors that a generator draws.
        std: standard deviation of the noise, in units of the range of each image, `max x - min x`.
        generator: draws normal noise on its own device, in float32 whatever the images are; each call continues its
            sequence. Under `vmap` and `torch.compile` give the noise.
        noise: (n, *image.shape), the noise of unit deviation itself, in place of a generator.

    Returns:
        A function of the inputs and a target that returns (B, C, *S), like the image.

    Raises:
        CamfnError: neither or both of `generator` and `noise`, noise of another shape, `samples` below 1, a negative
            `std`; the target does not give one number a sample.
        TypeError: the inputs hold no floating-point tensor.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> explain = smooth_grad(net, samples=3, generator=torch.Generator().manual_seed(0))
        >>> explain(torch.rand(2, 3, 8, 8), 4).shape
        torch.Size([2, 3, 8, 8])
    """
    noise_of = noise_source("smooth_grad", samples, std, generator, noise)
    derive = differentiator(model)

    def explain(inputs: Inputs, target: Target = None) -> Tensor:
        score = pinned(model, inputs, target)
        gradients = [widen(derive(changed, score).image_grad) for changed in noisy(inputs, noise_of, std)]
        return torch.stack(gradients).mean(0).to(image_of(inputs)[0].dtype)

    return explain


def integrated_gradients(
    model: nn.Module, *, baseline: float | Tensor = 0.0, steps: int = 32, rule: Rule = "gauss"
) -> Callable[..., Tensor]:
    """Integrated gradients: how much each value of the image adds to the score, measured from a baseline.

    `A = (x - x0) integral_0^1 df/dx (x0 + t (x - x0)) dt`, whose sum is `f(x) - f(x0)` but for the error of the
    integral. `steps` points at Gauss-Legendre nodes, exact for a score that is a polynomial in t of degree `2 steps`,
    or with `rule="riemann"` the paper's right ends of equal steps, `t = k / steps`. One forward and one backward for
    each point; one more forward if the target depends on the outputs (the top class): it is chosen on the image.

    Source: arXiv 1703.01365, eq. 1 and 3.

    Args:
        model: any module; left exactly as it is.
        baseline: where to start: a number, or a tensor that broadcasts against the image, in the image's own units, so
            that 0 is the mean color of a normalized image.
        steps: points of the integral.
        rule: "gauss" or "riemann".

    Returns:
        A function of the inputs and a target that returns (B, C, *S), like the image.

    Raises:
        CamfnError: `steps` below 1, an unknown rule, a baseline that does not fit the image, or a target that does not
            give one number a sample.
        TypeError: the inputs hold no floating-point tensor.

    Example:
        >>> import torch
        >>> class Square(torch.nn.Module):
        ...     def forward(self, x):
        ...         return x.square()
        >>> integrated_gradients(Square(), steps=1)(torch.tensor([[3.0, 2.0]]), 0)
        tensor([[9., 0.]])
    """
    if steps < 1:
        raise CamfnError(f"integrated_gradients: expected at least one step, got {steps}")
    if rule not in ("gauss", "riemann"):
        raise CamfnError(f"integrated_gradients: rule: expected 'gauss' or 'riemann', got {rule!r}")
    ends = [(k + 1) / steps for k in range(steps)]
    nodes, lengths = gauss_legendre(steps) if rule == "gauss" else (ends, [1 / steps] * steps)
    derive = differentiator(model)

    def explain(inputs: Inputs, target: Target = None) -> Tensor:
        score = pinned(model, inputs, target)
        image, rebuild = image_of(inputs)
        start = _start(baseline, image)
        total = torch.zeros_like(widen(image))
        for t, length in zip(nodes, lengths):
            # measured from the image, so that t = 1 is exactly the image
            at = image - (1 - t) * (image - start)
            total = total + length * derive(rebuild(at), score).image_grad
        return ((image - start) * total).to(image.dtype)

    return explain


def _start(baseline: float | Tensor, image: Tensor) -> Tensor:
    """Return the baseline in the shape of the image."""
    start = torch.as_tensor(baseline, dtype=image.dtype, device=image.device)
    try:
        return start.expand_as(image)
    except RuntimeError as error:
        raise CamfnError(
            f"integrated_gradients: expected a baseline that broadcasts against the image, {tuple(image.shape)}; got "
            f"{tuple(start.shape)}"
        ) from error
