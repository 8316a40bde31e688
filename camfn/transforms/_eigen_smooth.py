"""Eigen-smoothing: the first component of a method's weighted channels, in place of their sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, field
from typing import Any, Literal

import torch
from torch import Tensor

from .._cut.signature import read_signature
from .._shared.checks import is_concrete, one_of
from .._shared.components import Sign, first_component, orient
from .._shared.errors import CamfnError
from .._shared.maps import pixels, widen
from .._shared.value import Value, frozen


@frozen
class eigen_smooth(Value):
    """Replace the sum over channels of a method by their first component: Eigen-CAM of its weighted channels.

    For `L(p) = sum_k c_k(p)`, with `c_k = w_k A_k` in Grad-CAM, the result is `O v_1`, `O` the (N, C) matrix of the
    `c_k`: the part that the channels' contributions have in common. A component has no sign of its own. The rule "map"
    takes the sign whose product with L is not negative, so that the smoothed map never inverts the method's map.
    pytorch-grad-cam (`eigen_smooth=True`) centers the contributions, leaves the sign to the solver and clips negative
    values, so that some of its maps are inverted by chance; `centered=True` is its matrix, with a sign rule. No outer
    ReLU is applied.

    The function gives the method one channel at a time, all of them in one batch. So the method must weigh each channel
    from the activations and gradients of that channel alone: `grad_cam`, `hires_cam`, `elementwise_grad_cam`,
    `grad_cam_plusplus`, `xgrad_cam`, `layer_cam`, `bag_cam`, or one of yours. Where data can be
    read, the function checks that the contributions sum to the method's own map.

    Source: pytorch-grad-cam, which introduced it; no paper. The sign rule is camfn's.

    It is a method: (activations, grads, outputs) to the raw map, (B, *S), of norm sigma_1.

    Args:
        method: takes (activations, grads, outputs) and nothing else of the network.
        centered: subtract each channel's mean contribution first; the map then sums to zero.
        sign: "map", or a rule of `eigen_grad_cam`: "corr_mean", "absmax", "sum".

    Raises:
        CamfnError: the method takes no gradients, or more of the network; or, once run, does not sum over channels that
            it weighs one by one; `centered=True` with `sign="sum"`.

    Example:
        >>> import torch
        >>> from camfn.methods import grad_cam
        >>> activations = torch.tensor([[[3.0, 0.0], [4.0, 0.0]]])
        >>> eigen_smooth(grad_cam)(activations, torch.ones(1, 2, 2)).round(decimals=4)
        tensor([[5., 0.]])
    """

    method: Callable[..., Tensor]
    _: KW_ONLY
    centered: bool = False
    sign: Sign | Literal["map"] = "map"
    _takes: int = field(init=False)

    def __post_init__(self) -> None:
        needs = read_signature(self.method)
        name = _name(self.method)
        if not needs.gradients or needs.context:
            what = f"asks for {', '.join(sorted(needs.context))}" if needs.context else "takes no gradients"
            raise CamfnError(
                f"eigen_smooth: {name} {what}, so it does not weigh each channel by its own gradient; take grad_cam, "
                "hires_cam, grad_cam_plusplus, xgrad_cam or layer_cam. For activations alone: eigen_cam"
            )
        one_of("eigen_smooth: sign", self.sign, ("map", "sum", "absmax", "corr_mean"))
        if self.centered and self.sign == "sum":
            raise CamfnError(
                "sign='sum' cannot orient a centered map: it sums to zero. Use 'map', 'corr_mean' or 'absmax'"
            )
        object.__setattr__(self, "_takes", needs.positional)

    @property
    def __name__(self) -> str:
        """The name that errors call it by."""
        return f"eigen_smooth({_name(self.method)})"

    def __call__(self, activations: Tensor, grads: Tensor, outputs: Any = None) -> Tensor:
        """Return the raw map, (B, *S)."""
        a, g = widen(activations, grads)
        # each channel of each sample becomes a sample of one channel
        single = (a.flatten(0, 1)[:, None], g.flatten(0, 1)[:, None], outputs)
        cams = self.method(*single[: self._takes])
        contributions = cams.reshape(*a.shape[:2], *cams.shape[1:])
        summed = contributions.sum(1)
        if is_concrete(a) and is_concrete(g):
            check_sum_of_channels(_name(self.method), summed, self.method(*(a, g, outputs)[: self._takes]))
        rows = pixels(contributions)
        component = first_component(rows - rows.mean(-2, keepdim=True) if self.centered else rows)
        aligned = (
            _oriented_like(component, summed.flatten(1)) if self.sign == "map" else orient(component, rows, self.sign)
        )
        return aligned.reshape(summed.shape).to(activations.dtype)


def _name(method: Callable[..., Tensor]) -> str:
    """Return what an error calls a method, or the method that a partial binds."""
    return str(getattr(getattr(method, "func", method), "__name__", "this method"))


def _oriented_like(component: Tensor, cam: Tensor) -> Tensor:
    """Return the component, or its negative where its product with the map (or, if that is 0, its sum) is negative."""
    product = (component * cam).sum(-1, keepdim=True)
    evidence = torch.where(product == 0, component.sum(-1, keepdim=True), product).detach()
    return torch.where(evidence < 0, -component, component)


def check_sum_of_channels(name: str, summed: Tensor, expected: Tensor) -> None:
    """Refuse a method whose map is not the sum of the maps that it gives for each channel alone."""
    scale = expected.detach().abs().amax()
    if summed.shape == expected.shape and bool((summed - expected).detach().abs().amax() <= 1e-3 * scale):
        return
    if summed.shape == expected.shape and not expected.isfinite().all():
        return
    raise CamfnError(
        f"eigen_smooth: the map of {name} is not the sum of the maps that it gives for each channel alone; "
        "take grad_cam, hires_cam, grad_cam_plusplus, xgrad_cam or layer_cam"
    )
