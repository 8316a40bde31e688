"""Gradients of the score with respect to the image: plain, averaged over noise, and integrated along a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from .._shared.checks import number, one_of, whole
from .._shared.devices import tensor_on
from .._shared.errors import CamfnError
from .._shared.maps import widen
from .._shared.quadrature import gauss_legendre
from .._shared.value import frozen
from .._shared.vocabulary import Inputs, Target
from ._level import OnNetwork
from ._noise import OnNoisyImages

Rule: TypeAlias = Literal["gauss", "riemann"]
"""The rule of an integral: Gauss-Legendre nodes, or the right ends of equal steps."""


@frozen
class input_gradient(OnNetwork):
    """Input gradient, also called saliency: the derivative of the score in each value of the image.

    `G = df/dx`, with its sign and channels; the paper's map is the largest `|G|` over channels, `G.abs().amax(1)`.
    One forward and one backward.

    Source: arXiv 1312.6034, the section on image-specific class saliency.

    Call it with the inputs and a target (as for `camfn.capture`): it returns (B, C, *S), like the image.

    Args:
        model: any module; left exactly as it is.
        images: which input is the image, where several have space: an index, a key, a path of these such as
            ("pixels", 0), or a function of the inputs.
        differentiable: keep the outer graph, so that the result may be part of a loss; needed inside `torch.func.grad`.

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

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the gradient, of the shape of the image."""
        return self.derived(inputs, target).image_grad


@frozen
class smooth_grad(OnNoisyImages):
    """SmoothGrad: the input gradient averaged over noisy images.

    `G = mean_n df/dx (x + std (max x - min x) noise_n)`, the range of each image its own. One forward and one
    backward for each noise; one more forward if the target depends on the outputs (the top class): it is chosen on the
    clean image.

    Source: arXiv 1706.03825; 50 samples and a deviation of 10 to 20 % of the range as recommended there.

    Call it with the inputs and a target (as for `camfn.capture`): it returns (B, C, *S), like the image.

    Args:
        model: any module; left exactly as it is.
        samples: the number of noise tensors that a generator draws.
        std: standard deviation of the noise, in units of the range of each image, `max x - min x`.
        generator: draws normal noise on its own device, in float32 whatever the images are; each call continues its
            sequence. Under `vmap` and `torch.compile` give the noise.
        noise: in place of a generator, the noise of unit deviation itself, (n, B, C, *S), or (n, 1, C, *S) to give all
            images the same.
        images: which input is the image, where several have space: an index, a key, a path of these such as
            ("pixels", 0), or a function of the inputs.
        differentiable: keep the outer graph, so that the result may be part of a loss; needed inside `torch.func.grad`.

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

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the mean gradient, of the shape of the image."""
        keep = self.keeps_graph(inputs)
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            image, rebuild = self.image_of(inputs)
            score = self.pinned(inputs, target)
            changes = self.noisy(image, rebuild)
            gradients = [widen(self.derived(changed, score).image_grad) for changed in changes]
            return torch.stack(gradients).mean(0).to(image.dtype)


@frozen
class integrated_gradients(OnNetwork):
    """Integrated gradients: how much each value of the image adds to the score, measured from a baseline.

    `A = (x - x0) integral_0^1 df/dx (x0 + t (x - x0)) dt`, whose sum is `f(x) - f(x0)` but for the error of the
    integral. `steps` points at Gauss-Legendre nodes, exact for a score that is a polynomial in t of degree `2 steps`,
    or with `rule="riemann"` the paper's right ends of equal steps, `t = k / steps`. One forward and one backward for
    each point; one more forward if the target depends on the outputs (the top class): it is chosen on the image.

    Source: arXiv 1703.01365, eq. 1 and 3.

    Call it with the inputs and a target (as for `camfn.capture`): it returns (B, C, *S), like the image.

    Args:
        model: any module; left exactly as it is.
        baseline: where to start: a number, or a tensor that broadcasts against the image, in the image's own units, so
            that 0 is the mean color of a normalized image.
        steps: points of the integral.
        rule: "gauss" or "riemann".
        images: which input is the image, where several have space: an index, a key, a path of these such as
            ("pixels", 0), or a function of the inputs.
        differentiable: keep the outer graph, so that the result may be part of a loss; needed inside `torch.func.grad`.

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

    _: KW_ONLY
    baseline: float | Tensor = 0.0
    steps: int = 32
    rule: Rule = "gauss"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("integrated_gradients: steps", self.steps)
        one_of("integrated_gradients: rule", self.rule, ("gauss", "riemann"))
        check_baseline("integrated_gradients", self.baseline)

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the attribution, of the shape of the image."""
        keep = self.keeps_graph(inputs)
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            score = self.pinned(inputs, target)
            image, rebuild = self.image_of(inputs)
            start = start_of("integrated_gradients", self.baseline, image)
            total = torch.zeros_like(widen(image))
            for t, length in zip(*self._points()):
                # measured from the image, so that t = 1 is exactly the image
                at = image - (1 - t) * (image - start)
                total = total + length * self.derived(rebuild(at), score).image_grad
            return ((image - start) * total).to(image.dtype)

    def _points(self) -> tuple[Sequence[float], Sequence[float]]:
        """Return the points of the integral, and what each counts."""
        if self.rule == "gauss":
            return gauss_legendre(self.steps)
        return [(k + 1) / self.steps for k in range(self.steps)], [1 / self.steps] * self.steps


def check_baseline(method: str, baseline: float | Tensor) -> None:
    """Refuse a baseline that is neither a number nor a tensor."""
    if not isinstance(baseline, Tensor):
        number(f"{method}: baseline", baseline, advice="Or pass a tensor like the image")


def start_of(method: str, baseline: float | Tensor, image: Tensor) -> Tensor:
    """Return the baseline in the shape of the image."""
    start = tensor_on(baseline, image.device, image.dtype)
    try:
        return start.expand_as(image)
    except RuntimeError as error:
        raise CamfnError(
            f"{method}: expected a baseline that broadcasts against the image, {tuple(image.shape)}; got "
            f"{tuple(start.shape)}"
        ) from error
