"""Maps of a method replaced by the first component of its weighted channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from .._cut.signature import read_signature
from .._shared.checks import is_concrete
from .._shared.components import Sign, first_component, orient
from .._shared.errors import CamfnError
from .._shared.maps import pixels, widen


def eigen_smooth(
    method: Callable[..., Tensor], *, centered: bool = False, sign: Sign | Literal["map"] = "map"
) -> Callable[..., Tensor]:
    """Replace the sum over channels of a method by their first component: Eigen-CAM of its weighted channels.

    For `L(p) = sum_k c_k(p)`, with `c_k = w_k A_k` in Grad-CAM, the result is `O v_1`, `O` the (N, C) matrix of the
    `c_k`: what the channels' contributions have in common. A component has no sign of its own. The rule "map" takes the
    one whose product with L is not negative, so that the smoothed map never turns the method's around. pytorch-grad-cam
    (`eigen_smooth=True`) centers the contributions, leaves the sign to the solver and clips what is negative, so that
    its maps come out inverted by chance; `centered=True` is its matrix, with a sign rule. No outer ReLU is applied.

    The contributions are found by giving the method one channel at a time, all in one batch, so it is for methods that
    weigh each channel by itself from its activations and gradients: `grad_cam`, `hires_cam`, `elementwise_grad_cam`,
    `grad_cam_plusplus`, `xgrad_cam`, `layer_cam`, `bag_cam`, or one of yours. That their sum is the method's own map is
    checked where data can be read.

    Source: pytorch-grad-cam, which introduced it; no paper. The sign rule is camfn's.

    Args:
        method: takes (activations, grads, outputs) and nothing else of the network.
        centered: subtract each channel's mean contribution first; the map then sums to zero.
        sign: "map", or a rule of `eigen_grad_cam`: "corr_mean", "absmax", "sum".

    Returns:
        A method: (activations, grads, outputs) to the raw map, (B, *S), of norm sigma_1.

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
    needs = read_signature(method)
    name = str(getattr(getattr(method, "func", method), "__name__", "this method"))
    if not needs.gradients or needs.context:
        what = f"asks for {', '.join(sorted(needs.context))}" if needs.context else "takes no gradients"
        raise CamfnError(
            f"eigen_smooth: {name} {what}, so it does not weigh each channel by its own gradient; take grad_cam, "
            "hires_cam, grad_cam_plusplus, xgrad_cam or layer_cam. For activations alone: eigen_cam"
        )
    if centered and sign == "sum":
        raise CamfnError("sign='sum' cannot orient a centered map: it sums to zero. Use 'map', 'corr_mean' or 'absmax'")

    def smoothed(activations: Tensor, grads: Tensor, outputs: Any = None) -> Tensor:
        a, g = widen(activations, grads)
        alone = (a.flatten(0, 1)[:, None], g.flatten(0, 1)[:, None], outputs)
        found = method(*alone[: needs.positional])
        contributions = found.reshape(*a.shape[:2], *found.shape[1:])
        whole = contributions.sum(1)
        if is_concrete(a) and is_concrete(g):
            _one_by_one(name, whole, method(*(a, g, outputs)[: needs.positional]))
        rows = pixels(contributions)
        component = first_component(rows - rows.mean(-2, keepdim=True) if centered else rows)
        component = _along(component, whole.flatten(1)) if sign == "map" else orient(component, rows, sign)
        return component.reshape(whole.shape).to(activations.dtype)

    smoothed.__name__ = f"eigen_smooth({name})"
    return smoothed


def _along(component: Tensor, whole: Tensor) -> Tensor:
    """Choose between a component and its negative by its product with the map; by its sum, where that is zero."""
    product = (component * whole).sum(-1, keepdim=True)
    evidence = torch.where(product == 0, component.sum(-1, keepdim=True), product).detach()
    return torch.where(evidence < 0, -component, component)


def _one_by_one(name: str, summed: Tensor, expected: Tensor) -> None:
    scale = expected.detach().abs().amax()
    if summed.shape == expected.shape and bool((summed - expected).detach().abs().amax() <= 1e-3 * scale):
        return
    if summed.shape == expected.shape and not expected.isfinite().all():
        return
    raise CamfnError(
        f"eigen_smooth: the map of {name} is not the sum of what it gives for each channel alone; take grad_cam, "
        "hires_cam, grad_cam_plusplus, xgrad_cam or layer_cam"
    )
