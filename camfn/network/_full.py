"""FullGrad: a score as the sum of an input-gradient term and a bias-gradient term for every biased layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._cut.sight import Box, Uncropped, lay_over, may_see_parts, seen_by
from .._shared.errors import CamfnError
from .._shared.maps import channel_sum, lowest_and_range, resize, safe_divide, widen
from .._shared.value import frozen
from .._shared.vocabulary import Inputs, Target
from ._biases import biased, biased_or_smooth, offset_of, on_a_grid
from ._level import Derived, OnNetwork
from ._noise import OnNoisyImages


class FullGradients(NamedTuple):
    """The terms of a score: `score = <input_grad, image> + sum of all bias terms`.

    Attributes:
        outputs: what the model returned.
        score: (B,).
        image: (B, C, *S), the first floating-point tensor of the inputs.
        input_grad: same shape, the derivative of each sample's score.
        biases: for each call of a biased layer, in order of execution, the product of its bias and the derivative in
            its output, in the shape of that output: (B, C, *S) of a convolution, (B, C) of a linear layer. The key is
            the layer's dotted name; the second call of a layer is "name#2".
    """

    outputs: Any
    score: Tensor
    image: Tensor
    input_grad: Tensor
    biases: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        """Sum of all terms of each sample, (B,), added up in float64 where the device has it."""
        batch = self.image.shape[0]
        for key, term in self.biases.items():
            if term.shape[0] != batch:
                raise CamfnError(
                    f"full_gradients: the term of layer {key!r} has {term.shape[0]} rows for {batch} images, so the "
                    "sum of a sample is unknown; add up the rows of its biases that belong to a sample yourself"
                )
        terms = [self.input_grad * self.image, *self.biases.values()]
        wide = torch.float32 if self.image.device.type == "mps" else torch.float64
        sums = [term.reshape(term.shape[0], -1).sum(1, dtype=wide) for term in terms]
        return torch.stack(sums).sum(0).to(self.score.dtype)

    @property
    def completeness_gap(self) -> Tensor:
        """The score less the sum of its terms, (B,): 0 but for rounding if every bias of the network is among them."""
        return self.score - self.total


@frozen
class full_gradients(OnNetwork):
    """Full-gradient decomposition: a score as a sum of input-gradient and bias-gradient terms.

    `f(x) = <df/dx, x> + sum_l <df/dy_l, b_l>`, over all layers `l` whose output is `y_l = linear(...) + b_l`. The bias
    of a convolution or linear layer is its own, that of a BatchNorm in evaluation mode `beta - gamma mu / sqrt(var +
    eps)`, and that of a clipped ReLU (`nn.ReLU6`, `nn.Hardtanh`) the part it clips at. Exact for networks that are
    linear in pieces between these; `completeness_gap` is what is left. With `implicit=True` smooth activations and
    LayerNorm, GroupNorm and InstanceNorm have their implicit bias too, `phi(z) - phi'(z) z` for an element-wise one and
    `f(z) - J_f(z) z` in general, exact at each input.

    All terms come from one forward and one backward; layers that run several times or never are no obstacle. The gap
    keeps biases that are not seen: those added by functions (`F.conv2d`, `F.relu6`, a bare parameter), products of
    activations (attention, squeeze-and-excitation gates), and modules that fuse their parts (`nn.MultiheadAttention`).

    Source: arXiv 1905.00780, the full-gradient decomposition; the authors' code for the biases of BatchNorm. That code
    pairs biases and gradients by the order of registration, as pytorch-grad-cam does, which breaks where a branch is
    not run or modules run in another order; here each is taken where it arises.

    Call it with the inputs and a target (as for `camfn.capture`): it returns `FullGradients`. Under `vmap` over targets
    sum its terms inside.

    Args:
        model: any module in evaluation mode; left exactly as it is.
        implicit: count smooth activations and per-sample normalizations among the biased layers.
        images: which input is the image, where several have space: an index, a key, a path of these such as
            ("pixels", 0), or a function of the inputs.
        differentiable: keep the outer graph, so that the result may be part of a loss; needed inside `torch.func.grad`.

    Raises:
        CamfnError: a BatchNorm takes its statistics from the batch; the target does not give one number a sample.
        TypeError: the inputs hold no floating-point tensor.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> full = full_gradients(net)(torch.ones(2, 3, 8, 8), 4)
        >>> list(full.biases), full.biases["0"].shape
        (['0', '3'], torch.Size([2, 4, 6, 6]))
        >>> bool((full.completeness_gap.abs() < 1e-5).all())
        True
    """

    _: KW_ONLY
    implicit: bool = False

    def __call__(self, inputs: Inputs, target: Target = None) -> FullGradients:
        """Return the terms of the score."""
        taps = biased_or_smooth if self.implicit else biased
        keep = self.keeps_graph(inputs)
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            outputs, score, image, grad, grads, offsets, _ = self.derived(inputs, target, taps=taps, offset=offset_of)
            return FullGradients(outputs, score, image, grad, {k: _product(grads[k], offsets[k]) for k in grads})


@frozen
class full_grad(OnNetwork):
    """FullGrad: the input-gradient and bias-gradient terms of all layers, each rescaled and added up.

    `L(p) = sum_c psi(x df/dx)_c(p) + sum_l sum_c psi(b_l df/dy_l)_c(p)` over convolutions and BatchNorms with
    `psi(t) = upsample(minmax(|t|))`, the minimum and maximum of each layer taken over its channels and positions
    together for each sample. Channels are summed before they are upsampled: the result is the same, because
    upsampling is linear, and far cheaper. Biases of linear layers belong to the decomposition (`full_gradients`) but
    have no place in the image, so that the map leaves them out. One forward and one backward.

    The authors' code upsamples with `align_corners=True` and adds 1e-6 to the range of a layer; here pixel centers are
    at half integers as everywhere in camfn, unless `align_corners` is True, and a layer without range gives 0.
    pytorch-grad-cam rescales every channel by itself, so that all count the same.

    Source: arXiv 1905.00780, the section on saliency maps; the authors' code for the joint rescaling.

    Call it with the inputs and a target (as for `camfn.capture`): it returns the map, (B, *S), at the
    resolution of the image, never negative.

    Args:
        model: any module in evaluation mode; left exactly as it is.
        align_corners: upsample as the authors' code does.
        images: which input is the image, where several have space: an index, a key, a path of these such as
            ("pixels", 0), or a function of the inputs.
        differentiable: keep the outer graph, so that the result may be part of a loss; needed inside `torch.func.grad`.

    Raises:
        CamfnError: as for `full_gradients`; images without one to three spatial dimensions.
        TypeError: the inputs hold no floating-point tensor.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> full_grad(net)(torch.ones(2, 3, 8, 8), 4).shape
        torch.Size([2, 8, 8])
    """

    _: KW_ONLY
    align_corners: bool = False

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the map, (B, *S)."""
        keep = self.keeps_graph(inputs)
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            _, _, image, grad, grads, offsets, reads = self.terms(inputs, target)
            terms = ((key, _product(grads.pop(key), offsets[key])) for key in list(grads))
            return _saliency(self, inputs, grad * image, terms, reads)

    def terms(self, inputs: Inputs, target: Target) -> Derived:
        """Differentiate at all layers on a grid; refuse a network whose grids have no place in the image."""
        whole = partial(Uncropped, type(self).__name__, self.image_of(inputs)[0])
        return self.derived(inputs, target, taps=on_a_grid, offset=offset_of, around=whole)


@frozen
class simple_full_grad(full_grad):
    """Simple FullGrad: FullGrad with gradients in the outputs of biased layers in place of bias times gradient.

    `L(p) = sum_c psi(x df/dx)_c(p) + sum_l sum_c psi(df/dy_l)_c(p)`, otherwise as `full_grad`, over the same layers.
    One forward and one backward. No peer has it.

    Source: the authors' code of arXiv 1905.00780, which calls it a convenience.

    Call it with the inputs and a target (as for `camfn.capture`): it returns the map, (B, *S), never
    negative.

    Args:
        model: any module in evaluation mode; left exactly as it is.
        align_corners: upsample as the authors' code does.
        images: which input is the image, where several have space: an index, a key, a path of these such as
            ("pixels", 0), or a function of the inputs.
        differentiable: keep the outer graph, so that the result may be part of a loss; needed inside `torch.func.grad`.

    Raises:
        CamfnError: as for `full_grad`.
        TypeError: the inputs hold no floating-point tensor.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> simple_full_grad(net)(torch.ones(2, 3, 8, 8), 4).shape
        torch.Size([2, 8, 8])
    """

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the map, (B, *S)."""
        keep = self.keeps_graph(inputs)
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            _, _, image, grad, grads, _, reads = self.terms(inputs, target)
            return _saliency(self, inputs, grad * image, grads.items(), reads)


@frozen
class smooth_full_grad(OnNoisyImages, full_grad):
    """Smooth FullGrad: FullGrad of terms that are averaged, with their sign, over noisy images.

    `L(p) = sum_c psi(mean_n x_n df/dx_n)_c(p) + sum_l sum_c psi(mean_n b_l df/dy_l)_c(p)` with the noisy images
    `x_n = x + std (max x - min x) noise_n`, otherwise as `full_grad`, which it is without noise. One forward and one
    backward for each noise; one more forward if the target depends on the outputs (the top class): it is chosen on the
    clean image.

    The authors' code takes the range over the batch, the top class of each noisy image anew, and sums the channels of
    the input term before its absolute value, which their FullGrad does not; here the range is each image's own.

    Source: the authors' code of arXiv 1905.00780; the noise of arXiv 1706.03825.

    Call it with the inputs and a target (as for `camfn.capture`): it returns the map, (B, *S), never
    negative.

    Args:
        model: any module in evaluation mode; left exactly as it is.
        samples: the number of noise tensors that a generator draws.
        std: standard deviation of the noise, in units of the range of each image, `max x - min x`.
        generator: draws normal noise on its own device, in float32 whatever the images are; each call continues its
            sequence.
        noise: in place of a generator, the noise of unit deviation itself, (n, B, C, *S), or (n, 1, C, *S) to give all
            images the same.
        align_corners: upsample as the authors' code does.
        images: which input is the image, where several have space: an index, a key, a path of these such as
            ("pixels", 0), or a function of the inputs.
        differentiable: keep the outer graph, so that the result may be part of a loss; needed inside `torch.func.grad`.

    Raises:
        CamfnError: neither or both of `generator` and `noise`, noise of another shape, `samples` below 1, a negative
            `std`; as for `full_grad`.
        TypeError: the inputs hold no floating-point tensor.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> explain = smooth_full_grad(net, samples=3, generator=torch.Generator().manual_seed(0))
        >>> explain(torch.rand(2, 3, 8, 8), 4).shape
        torch.Size([2, 8, 8])
    """

    _: KW_ONLY
    samples: int = 25

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the map, (B, *S)."""
        keep = self.keeps_graph(inputs)
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            image, rebuild = self.image_of(inputs)
            score = self.pinned(inputs, target)
            first = torch.zeros_like(image)
            sums: dict[str, Tensor] = {}
            reads: dict[str, tuple[int, ...]] = {}
            for changed in self.noisy(image, rebuild):
                _, _, at, grad, grads, offsets, reads = self.terms(changed, score)
                first = first + grad * at
                for key in list(grads):
                    product = _product(grads.pop(key), offsets[key])
                    sums[key] = sums[key] + product if key in sums else product
            return _saliency(self, inputs, first, sums.items(), reads)


def _product(grad: Tensor, offset: Tensor) -> Tensor:
    """Return the gradient times the bias, in the dtype of the gradient."""
    return (grad * offset).to(grad.dtype)


def _saliency(
    of: full_grad,
    inputs: Inputs,
    first: Tensor,
    terms: Iterable[tuple[str, Tensor]],
    reads: Mapping[str, tuple[int, ...]],
) -> Tensor:
    """Return the sum of psi over the terms that have as many dimensions as the image, (B, *S).

    Args:
        of: the method.
        inputs: of the network.
        first: the term of the image.
        terms: those of layers, by key.
        reads: the shape of what each of them took.
    """
    if first.ndim not in (3, 4, 5):
        raise CamfnError(
            f"FullGrad: expected images (B, C, *S) with one to three spatial dimensions, got {tuple(first.shape)}; "
            "full_gradients gives the terms of any input"
        )
    size = first.shape[2:]
    total = _rescaled(first)
    image, rebuild = of.image_of(inputs)
    on_map = {key: shape for key, shape in reads.items() if len(shape) == first.ndim}
    boxes: dict[str, Box | None] = {}
    if may_see_parts(inputs, image, on_map):
        boxes = seen_by(type(of).__name__, of.model, image, rebuild, on_a_grid)
    for key, term in terms:
        if term.ndim == first.ndim:
            scaled, corners = _rescaled(term), of.align_corners
            if key in boxes:
                total = total + lay_over(scaled, boxes[key], size, align_corners=corners)
            else:
                total = total + resize(scaled, size, align_corners=corners)
    return total[:, 0].to(first.dtype)


def _rescaled(term: Tensor) -> Tensor:
    """Return `sum_c minmax(|t|)_c`, (B, C, *S) to (B, 1, *S); the minimum and maximum are those over C and S."""
    wide = widen(term)
    size = wide.abs()
    dims = tuple(range(1, size.ndim))
    low, width = lowest_and_range(size, dims)
    return safe_divide(channel_sum(size - low)[:, None], width)
