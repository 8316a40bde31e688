"""Gradients along paths to the image: Guided IG chooses its path, IDGI says what each step counts."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY

import torch
from torch import Tensor

from .._shared.checks import number, whole
from .._shared.maps import safe_divide, widen
from .._shared.value import frozen
from .._shared.vocabulary import Inputs, Target
from ._input import check_baseline, start_of
from ._level import OnNetwork


@frozen
class idgi(OnNetwork):
    """IDGI: the change of the score at each step of a path, shared out by the squared gradient.

    `A = sum_k (f(x_(k+1)) - f(x_k)) g_k^2 / sum g_k^2`, with `x_k = x0 + k / n (x - x0)` and `g_k = df/dx (x_k)`: only
    the gradient's own direction changes the score, so each step's change is the gradient's. The sum is `f(x) - f(x0)`
    at any number of steps, unless the gradient of a step is 0 everywhere, which then counts nothing. All values of a
    step have one sign: that of its change. n forwards and backwards and one forward; one more forward if the target
    depends on the outputs (the top class): it is chosen on the image.

    Source: arXiv 2303.14242 and the authors' code, on the path of integrated gradients.

    Call it with the inputs and a target (as for `camfn.capture`): it returns (B, C, *S), like the image.

    Args:
        model: any module; left exactly as it is.
        baseline: where to start: a number, or a tensor that broadcasts against the image, in the image's own units.
        steps: n.
        images: which input is the image, where several have space: an index, a key, a path of these such as
            ("pixels", 0), or a function of the inputs.
        differentiable: keep the outer graph, so that the result may be part of a loss; needed inside `torch.func.grad`.

    Raises:
        CamfnError: `steps` below 1, a baseline that does not fit the image, or a target that does not give one number
            a sample.
        TypeError: the inputs hold no floating-point tensor.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[3.0, 1.0]]))
        >>> idgi(net, steps=4)(torch.tensor([[2.0, 4.0]]), 0).round(decimals=3)  # 10 as 9 : 1
        tensor([[9., 1.]])
    """

    _: KW_ONLY
    baseline: float | Tensor = 0.0
    steps: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("idgi: steps", self.steps)
        check_baseline("idgi", self.baseline)

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the attribution, of the shape of the image."""
        keep = self.keeps_graph(inputs)
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            score = self.pinned(inputs, target)
            image, rebuild = self.image_of(inputs)
            start = start_of("idgi", self.baseline, image)
            total = torch.zeros_like(widen(image))
            at = self.derived(rebuild(start), score)
            for k in range(1, self.steps + 1):
                # measured from the image, so that the last point is exactly the image
                after = self.derived(rebuild(image - (1 - k / self.steps) * (image - start)), score)
                g = widen(at.image_grad)
                size = g.abs().flatten(1).amax(1)
                share = safe_divide(g, _each(size, g)).square()
                change = widen(after.score) - widen(at.score)
                total = total + share * _each(safe_divide(change, share.flatten(1).sum(1)), g)
                at = after
            return total.to(image.dtype)


@frozen
class guided_ig(OnNetwork):
    """Guided IG: integrated gradients along a path that first changes the values with the smallest gradient.

    `A = sum_k (x_(k+1) - x_k) df/dx (x_k)`. At each of the `steps` steps the distance to the image, `sum |x - x_k|`,
    falls by an equal part, by moving the `fraction` of values whose gradient is smallest, and the next where they do
    not suffice; each value stays within `max_dist` of its place on the straight line, as shares of the line. With
    `max_dist=0` the path is the line: `integrated_gradients` by left ends. The sum nears `f(x) - f(x0)` with the
    steps. One forward and one backward a step; one more forward if the target depends on the outputs (the top class):
    it is chosen on the image.

    Source: arXiv 2106.09788 and the authors' code, package saliency; its defaults.

    Call it with the inputs and a target (as for `camfn.capture`): it returns (B, C, *S), like the image.

    Args:
        model: any module; left exactly as it is.
        baseline: where to start: a number, or a tensor that broadcasts against the image, in the image's own units.
        steps: points of the path at which the gradient is taken.
        fraction: share of the values to move at a time, in (0, 1].
        max_dist: how far a value may be from the straight line, in [0, 1].
        images: which input is the image, where several have space: an index, a key, a path of these such as
            ("pixels", 0), or a function of the inputs.
        differentiable: keep the outer graph, so that the result may be part of a loss; needed inside `torch.func.grad`.

    Raises:
        CamfnError: `steps` below 1, a fraction or distance out of range, a baseline that does not fit the image, or a
            target that does not give one number a sample.
        TypeError: the inputs hold no floating-point tensor.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[3.0, 1.0]]))
        >>> guided_ig(net, steps=5)(torch.tensor([[2.0, 4.0]]), 0).round(decimals=3)  # one gradient on any path
        tensor([[6., 4.]])
    """

    _: KW_ONLY
    baseline: float | Tensor = 0.0
    steps: int = 200
    fraction: float = 0.25
    max_dist: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("guided_ig: steps", self.steps)
        number("guided_ig: fraction", self.fraction, "(0, 1]")
        number("guided_ig: max_dist", self.max_dist, "[0, 1]")
        check_baseline("guided_ig", self.baseline)

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the attribution, of the shape of the image."""
        keep = self.keeps_graph(inputs)
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            score = self.pinned(inputs, target)
            image, rebuild = self.image_of(inputs)
            start = start_of("guided_ig", self.baseline, image)
            end, first = widen(image).flatten(1), widen(start).flatten(1)
            x, total = first, torch.zeros_like(end)
            for k in range(1, self.steps + 1):
                at = rebuild(x.reshape(image.shape).to(image.dtype))
                g = widen(self.derived(at, score).image_grad).flatten(1)
                moved = self._moved(x, first, end, g.detach().abs(), k / self.steps)
                total, x = total + (moved - x) * g, moved
            return total.reshape(image.shape).to(image.dtype)

    def _moved(self, x: Tensor, first: Tensor, end: Tensor, size: Tensor, t: float) -> Tensor:
        """Move the values of least gradient, (B, D), until the distance to the end is `1 - t` of the whole."""
        low, high = (first + (end - first) * share for share in (max(t - self.max_dist, 0), min(t + self.max_dist, 1)))
        if t + self.max_dist >= 1:
            high = end
        x = torch.where((x - first).abs() < (low - first).abs(), low, x)
        left = (1 - t) * (end - first).abs().sum(1, keepdim=True)
        few = 1 + math.floor(self.fraction * (x.shape[1] - 1))
        done = torch.zeros_like(left, dtype=torch.bool)
        for _ in range(-(-x.shape[1] // few)):
            # a value that is as far as it may be takes no part
            free = torch.where(x == high, torch.inf, size)
            chosen = (free <= free.kthvalue(few, 1, keepdim=True).values) & (x != high) & ~done
            reach = torch.where(chosen, high - x, 0.0).abs().sum(1, keepdim=True)
            share = safe_divide((end - x).abs().sum(1, keepdim=True) - left, reach).clamp(min=0)
            x = torch.where(chosen, torch.where(share > 1, high, x + share.clamp(max=1) * (high - x)), x)
            done = done | ((share <= 1) & (reach > 0))
        return x


def _each(values: Tensor, like: Tensor) -> Tensor:
    """(B,) to (B, 1, ..., 1), to broadcast over `like`."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))
