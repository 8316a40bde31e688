"""Maps averaged over noise on the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY

import torch
from torch import Tensor

from .._shared.checks import function, number, whole
from .._shared.devices import brought
from .._shared.errors import CamfnError
from .._shared.inputs import Images, all_images_of
from .._shared.maps import widen
from .._shared.noise import draw_normal, one_source
from .._shared.value import Value, frozen
from .._shared.vocabulary import Inputs, Target
from ._variants import Variant, check_chunk_size, explain_variants


@frozen
class smooth(Value):
    """Average a map over noise on the images: `mean_i explain(x + std_x e_i)`, the averaging of SmoothGrad.

    The maps are averaged, so any method will do. Smooth Grad-CAM++ (1908.01224) averages gradients and their powers
    before it computes its weights instead. The unchanged images are not among the samples. Without a target, the top
    class of the unchanged images is explained in all of them.

    Source: arXiv 1706.03825, for the noise and its unit.

    Call it with the inputs and a target: it returns the mean map, (B, *spatial).

    Args:
        explain: a function of the inputs and a target that returns maps (B, *spatial), as for `augment`.
        samples: how many noisy copies of each image; `explain` runs on all of them.
        std: standard deviation of the normal noise.
        relative: True: `std` is a share of each image's range, `max x - min x`; False: `std` is in the units of the
            inputs that the model sees, after their normalization.
        generator: the source of the noise; the noise is drawn on the generator's device, in float32.
        noise: in place of a generator, noise of standard deviation 1, of shape (samples, B, C, *S), or
            (samples, 1, C, *S) to give all images the same noise.
        images: which input gets the noise, where several have space: an index, a key, a path of these such as
            ("pixels", 0), or a function of the inputs.
        chunk_size: how many noisy copies of an image go in one batch; None is all of them.

    Raises:
        CamfnError: neither or both of `generator` and `noise`; noise of another shape; no samples; a negative `std`.

    Example:
        >>> import torch
        >>> from camfn import explainer
        >>> from camfn.methods import hires_cam
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> explain = smooth(explainer(hires_cam, net, "0"), 8, generator=torch.Generator().manual_seed(0))
        >>> explain(torch.rand(2, 3, 8, 8), 4).shape
        torch.Size([2, 6, 6])
    """

    explain: Callable[..., Tensor]
    samples: int = 25
    _: KW_ONLY
    std: float = 0.15
    relative: bool = True
    generator: torch.Generator | None = None
    noise: Tensor | None = None
    images: Images | None = None
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        one_source("smooth", self.generator, self.noise, arguments="explain, 25")
        function(
            "smooth: explain",
            self.explain,
            "an explainer, as explainer(grad_cam, model, layer)",
        )
        whole("smooth: samples", self.samples)
        number("smooth: std", self.std, "[0, inf)")
        check_chunk_size(self.chunk_size)

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the mean map, (B, *spatial)."""
        (images,), rebuild = all_images_of(inputs, [self.images], "adds noise to the images")
        source = one_source("smooth", self.generator, self.noise)
        unit = source if isinstance(source, Tensor) else draw_normal((self.samples, *images.shape), source)
        if unit.ndim != images.ndim + 1 or not unit.shape[0] or unit.shape[2:] != images.shape[1:]:
            raise CamfnError(
                f"smooth: expected noise of shape (samples, *{tuple(images.shape)}), got {tuple(unit.shape)}"
            )
        if any(size == 0 for size in images.shape[1:]):
            raise CamfnError(f"smooth: expected images (B, C, *S), none of them empty, got {tuple(images.shape)}")
        dims = tuple(range(1, images.ndim))
        span = images.amax(dims, keepdim=True) - images.amin(dims, keepdim=True) if self.relative else 1.0
        variants = [Variant([images + self.std * span * one]) for one in brought(unit, images)]
        cams = explain_variants(self.explain, target, [images], rebuild, variants, self.chunk_size)
        return torch.stack([widen(cam) for cam in cams]).mean(0).to(cams[0].dtype)
