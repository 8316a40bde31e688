"""Smooth Grad-CAM++: the gradients that Grad-CAM++ reads, averaged over noisy images."""

from __future__ import annotations

from dataclasses import KW_ONLY, field

import torch
from torch import Tensor, nn

from .._cut.capture import capture
from .._cut.layer_checks import layer_name
from .._shared.maps import largest, over_space, safe_divide, spatial_sum, weighted_sum, widen
from .._shared.value import frozen
from .._shared.vocabulary import AnyLayout, Inputs, Select, Target
from ._noise import OnNoisyImages


@frozen
class smooth_grad_cam_plusplus(OnNoisyImages):
    """Smooth Grad-CAM++: Grad-CAM++ of a layer with its gradients and their powers averaged over noisy images.

    `L(p) = sum_k w_k A_k(p)` with `w_k = sum_p alpha_k(p) ReLU(D1_k(p))`, `alpha_k(p) = D2 / (2 D2 + S_k D3)`, 0 where
    the denominator is; `D1, D2, D3` the means over the noisy images of `g, g^2, g^3`, `A` and `S_k = sum_p A_k(p)`
    those of the image itself. The noisy images are `x + std (max x - min x) noise_n`. One forward and one backward to
    the layer for each noise and for the clean image; one more forward if the target depends on the outputs (the top
    class): it is chosen on the clean image. Without noise, and over a tail that is affine, it is `grad_cam_plusplus`.

    torch-cam takes the ReLU of the last noisy image's gradient, in place of that of the mean. It says
    that the paper prints `D1` in the numerator of alpha, and takes `D2`, as Grad-CAM++ has it and as here. The paper's
    outer ReLU is not applied.

    Source: arXiv 1908.01224, its formulas as the documentation of torch-cam has them.

    Call it with the inputs and a target (as for `camfn.capture`): it returns the raw map at the layer, (B, *S).

    Args:
        model: any module; left exactly as it is.
        layer: a dotted name, or the module itself.
        samples: the number of noise tensors that a generator draws.
        std: standard deviation of the noise, in units of the range of each image, `max x - min x`.
        generator: draws normal noise on its own device, in float32 whatever the images are; each call continues its
            sequence. Under `vmap` and `torch.compile` give the noise.
        noise: in place of a generator, the noise of unit deviation itself, (n, B, C, *S), or (n, 1, C, *S) to give all
            images the same.
        select: which tensor, where the layer returns a tuple or a dict.
        layout: turns the layer's own shape into (B, C, *S), as for `explainer`.
        images: which input is the image, where several have space: an index, a key, a path of these such as
            ("pixels", 0), or a function of the inputs.
        differentiable: keep the outer graph, so that the result may be part of a loss; needed inside `torch.func.grad`.

    Raises:
        CamfnError: neither or both of `generator` and `noise`, noise of another shape, `samples` below 1, a negative
            `std`; the target does not give one number a sample.
        CaptureError: no such layer, or its activations are not a map.
        TypeError: the inputs hold no floating-point tensor.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> explain = smooth_grad_cam_plusplus(net, "0", samples=3, generator=torch.Generator().manual_seed(0))
        >>> explain(torch.rand(2, 3, 8, 8), 4).shape
        torch.Size([2, 6, 6])
    """

    layer: str | nn.Module
    _: KW_ONLY
    samples: int = 25
    select: Select | None = None
    layout: AnyLayout = "auto"
    _capture: capture = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layer", layer_name(self.model, self.layer))
        at = capture(
            self.model,
            self.layer,
            select=self.select,
            layout=self.layout,
            images=self.images,
            differentiable=self.differentiable,
        )
        object.__setattr__(self, "_capture", at)

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the raw map at the layer, (B, *S)."""
        keep = self.keeps_graph(inputs)
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            image, rebuild = self.image_of(inputs)
            score = self.pinned(inputs, target)
            activations, clean, _ = self._capture(inputs, score)
            a, g = widen(activations, clean)
            # in units of the clean gradient the powers of a small one do not underflow
            unit = largest(g, tuple(range(1, g.ndim)))
            first = second = third = torch.zeros_like(a)
            count = 0
            for changed in self.noisy(image, rebuild):
                g = safe_divide(widen(self._capture(changed, score).grads), unit)
                first, second, third, count = first + g, second + g.square(), third + g**3, count + 1
            denominator = 2 * second + over_space(spatial_sum(a), a) * unit * third
            weights = spatial_sum(safe_divide(second, denominator) * first.relu()) * unit.flatten(1) / count
            return weighted_sum(a, weights).to(activations.dtype)
