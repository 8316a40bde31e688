"""Maps averaged over noise, and maps of a method replaced by the first component of its weighted channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ._check import is_concrete
from ._explain import _asked
from ._maps import Sign, first_component, orient, pixels, widen
from ._types import Inputs, Target
from ._variants import Variant, explain_variants, first_image


def smooth(
    explain: Callable[..., Tensor],
    n: int = 25,
    *,
    sigma: float = 0.15,
    relative: bool = True,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    chunk_size: int | None = None,
) -> Callable[..., Tensor]:
    """Average a map over noise on the images: `1/n sum_i explain(x + sigma_x e_i)`, the averaging of SmoothGrad.

    What is averaged is the map, so that any method will do. Smooth Grad-CAM++ (1908.01224) averages gradients and their
    powers ahead of its weights instead. The unchanged images are not among the n; the top class, where no target is
    given, is theirs.

    Source: arXiv 1706.03825, for the noise and its unit.

    Args:
        explain: a function of the inputs and a target that returns maps (B, *spatial), as for `augment`.
        n: how many noisy copies of each sample; costs n times what `explain` does.
        sigma: standard deviation of normal noise.
        relative: sigma is a share of each sample's range, `max x - min x`; False: in the units of the inputs, after
            whatever normalization they went through.
        generator: where the noise is drawn from, on its own device, in float32.
        noise: (n, B, C, *S), of standard deviation 1, or (n, 1, C, *S) for all samples, in place of a generator.
        chunk_size: how many noisy copies of a sample go in one batch; None is all of them.

    Returns:
        A function of the inputs and a target that returns the mean map, (B, *spatial).

    Raises:
        ValueError: neither or both of `generator` and `noise`, noise of another shape, n below 1, sigma below 0.

    Example:
        >>> import torch
        >>> from camfn import explainer
        >>> from camfn.methods import hires_cam
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> explain = smooth(explainer(hires_cam, net, "0"), 8, generator=torch.Generator().manual_seed(0))
        >>> explain(torch.rand(2, 3, 8, 8), 4).shape
        torch.Size([2, 6, 6])
    """
    if (generator is None) == (noise is None):
        raise ValueError(
            f"smooth: expected one of generator and noise, got {'neither' if noise is None else 'both'}. "
            "For example smooth(explain, 25, generator=torch.Generator().manual_seed(0))"
        )
    if n < 1 or sigma < 0:
        raise ValueError(f"smooth: expected n of at least 1 and sigma of at least 0, got {n} and {sigma}")

    def run(inputs: Inputs, target: Target = None) -> Tensor:
        images = first_image(inputs)
        drawn = noise
        if drawn is None:
            assert generator is not None
            drawn = torch.randn((n, *images.shape), generator=generator, device=generator.device, dtype=torch.float32)
        elif drawn.ndim != images.ndim + 1 or not drawn.shape[0] or drawn.shape[2:] != images.shape[1:]:
            raise ValueError(f"smooth: expected noise of shape (n, *{tuple(images.shape)}), got {tuple(drawn.shape)}")
        dims = tuple(range(1, images.ndim))
        span = images.amax(dims, keepdim=True) - images.amin(dims, keepdim=True) if relative else 1.0
        variants = [Variant(images + sigma * span * one) for one in drawn.to(images)]
        cams = explain_variants(explain, inputs, target, variants, chunk_size)
        return torch.stack([widen(cam)[0] for cam in cams]).mean(0).to(cams[0].dtype)

    return run


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
        ValueError: the method takes no gradients, or more of the network; or, once run, does not sum over channels that
            it weighs one by one; `centered=True` with `sign="sum"`.

    Example:
        >>> import torch
        >>> from camfn.methods import grad_cam
        >>> activations = torch.tensor([[[3.0, 0.0], [4.0, 0.0]]])
        >>> eigen_smooth(grad_cam)(activations, torch.ones(1, 2, 2)).round(decimals=4)
        tensor([[5., 0.]])
    """
    asked = _asked(method)
    name = str(getattr(getattr(method, "func", method), "__name__", "this method"))
    if not asked.gradients or asked.context:
        what = f"asks for {', '.join(sorted(asked.context))}" if asked.context else "takes no gradients"
        raise ValueError(
            f"eigen_smooth: {name} {what}, so it does not weigh each channel by its own gradient; take grad_cam, "
            "hires_cam, grad_cam_plusplus, xgrad_cam or layer_cam. For activations alone: eigen_cam"
        )
    if centered and sign == "sum":
        raise ValueError("sign='sum' cannot orient a centered map: it sums to zero. Use 'map', 'corr_mean' or 'absmax'")

    def smoothed(activations: Tensor, grads: Tensor, outputs: Any = None) -> Tensor:
        a, g = widen(activations, grads)
        alone = (a.flatten(0, 1)[:, None], g.flatten(0, 1)[:, None], outputs)
        found = method(*alone[: asked.positional])
        contributions = found.reshape(*a.shape[:2], *found.shape[1:])
        whole = contributions.sum(1)
        if is_concrete(a) and is_concrete(g):
            _one_by_one(name, whole, method(*(a, g, outputs)[: asked.positional]))
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
    raise ValueError(
        f"eigen_smooth: the map of {name} is not the sum of what it gives for each channel alone; take grad_cam, "
        "hires_cam, grad_cam_plusplus, xgrad_cam or layer_cam"
    )
