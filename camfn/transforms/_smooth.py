"""Maps averaged over noise, and maps of a method replaced by the first component of its weighted channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._shared.errors import CamfnError
from .._shared.maps import widen
from .._shared.vocabulary import Inputs, Target
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
        CamfnError: neither or both of `generator` and `noise`, noise of another shape, n below 1, sigma below 0.

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
        raise CamfnError(
            f"smooth: expected one of generator and noise, got {'neither' if noise is None else 'both'}. "
            "For example smooth(explain, 25, generator=torch.Generator().manual_seed(0))"
        )
    if n < 1 or sigma < 0:
        raise CamfnError(f"smooth: expected n of at least 1 and sigma of at least 0, got {n} and {sigma}")

    def run(inputs: Inputs, target: Target = None) -> Tensor:
        images = first_image(inputs)
        drawn = noise
        if drawn is None:
            assert generator is not None
            drawn = torch.randn((n, *images.shape), generator=generator, device=generator.device, dtype=torch.float32)
        elif drawn.ndim != images.ndim + 1 or not drawn.shape[0] or drawn.shape[2:] != images.shape[1:]:
            raise CamfnError(f"smooth: expected noise of shape (n, *{tuple(images.shape)}), got {tuple(drawn.shape)}")
        dims = tuple(range(1, images.ndim))
        span = images.amax(dims, keepdim=True) - images.amin(dims, keepdim=True) if relative else 1.0
        variants = [Variant(images + sigma * span * one) for one in drawn.to(images)]
        cams = explain_variants(explain, inputs, target, variants, chunk_size)
        return torch.stack([widen(cam)[0] for cam in cams]).mean(0).to(cams[0].dtype)

    return run
