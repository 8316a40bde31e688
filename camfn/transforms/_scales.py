"""Activations and gradients averaged over sizes of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .._cut.capture import capture
from .._cut.layer_checks import layer_name, spatial_map
from .._cut.sight import Reads, refuse_parts
from .._cut.signature import read_signature
from .._shared.checks import describe, keeps_graph, one_of, space, whole
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.inputs import Images, images_of
from .._shared.maps import resize, widen
from .._shared.value import Value, frozen
from .._shared.vocabulary import AnyLayout, Captured, Inputs, Select, Target
from ..targets import logits_of, pin


@frozen
class multi_scale(Value):
    """Compose a method with a layer whose activations and gradients are averaged over sizes of the image (CAMERAS).

    `L = method(mean_r up(A_r), mean_r up(g_r))` over the image at its own size and at each of `sizes`, `up` resizing to
    the image. CAMERAS is this of `hires_cam`; its outer ReLU is left to `image.normalize`. The authors take 224, 324
    and so on to 924. A size counts for a sample only where its top class is the one at the image's own size; where a
    class is given, the authors let every size count, and so does `agree=None`.

    The image is resized as by the authors, bicubically, in one or three dimensions linearly. The network must take
    images of all the sizes; a layout of tokens is of one size only.

    Source: arXiv 2106.10649; the authors' code for the agreement.

    Call it with the inputs and a target: it returns the raw map, (B, *size). Costs a forward and a backward at each
    size. The target is pinned at the image's own size.

    Args:
        method: takes (activations, grads, outputs) and nothing else of the network; `hires_cam` is the paper's.
        model: any module; left exactly as it is.
        layer: a dotted name as in `model.named_modules()`, or the module itself.
        sizes: further sizes, each a spatial shape or a number for the shorter side, sides in proportion.
        size: spatial shape of the result; None is the image's own, as in the paper. Memory holds C maps of this shape.
        agree: leave sizes out where their top class is another; None: where no target is given.
        images: which input is resized, where several have space: an index, a key, a path of these such as
            ("pixels", 0), or a function of the inputs.
        select: as for `explainer`.
        layout: as for `explainer`.
        differentiable: as for `explainer`; which sizes agree is a constant.

    Raises:
        CamfnError: no sizes or one that does not fit; a method that needs more of the network; a layer that sees
            a part of the image alone, at one of the sizes.

    Example:
        >>> import torch
        >>> from camfn.methods import hires_cam
        >>> head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 5))
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), head)
        >>> multi_scale(hires_cam, net, "0", [12, 16])(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 8, 8])
    """

    method: Callable[..., Tensor]
    model: nn.Module
    layer: str | nn.Module
    sizes: Sequence[int | Sequence[int]]
    _: KW_ONLY
    size: Sequence[int] | None = None
    agree: bool | None = None
    images: Images | None = None
    select: Select | None = None
    layout: AnyLayout = "auto"
    differentiable: bool = False
    _derive: Callable[..., Any] = field(init=False)
    _takes: int = field(init=False)

    def __post_init__(self) -> None:
        needs = read_signature(self.method)
        if needs.context:
            raise CamfnError(
                f"multi_scale: {getattr(self.method, '__name__', 'this method')} asks for "
                f"{', '.join(sorted(needs.context))} of the network, which has no mean over sizes; take hires_cam, "
                "grad_cam, layer_cam or eigen_cam"
            )
        if not isinstance(self.sizes, (list, tuple)):
            raise ArgumentTypeError(
                f"multi_scale: sizes: expected a list of sizes, as [324, (424, 300)], got {describe(self.sizes)}"
            )
        for one in self.sizes:
            if isinstance(one, (list, tuple)):
                space("multi_scale: sizes", one)
            else:
                whole("multi_scale: sizes", one)
        if self.size is not None:
            space("multi_scale: size", self.size)
        one_of("multi_scale: agree", self.agree, (None, True, False))
        if not self.sizes:
            raise CamfnError("multi_scale: expected at least one further size, as in sizes=[324, 424], got none")
        object.__setattr__(self, "layer", layer_name(self.model, self.layer))
        what: dict[str, Any] = {"select": self.select, "layout": self.layout, "images": self.images}
        derive = capture(self.model, self.layer, **what, differentiable=self.differentiable)
        object.__setattr__(self, "_derive", derive)
        object.__setattr__(self, "_takes", needs.positional)

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the raw map, (B, *size)."""
        keep = keeps_graph("multi_scale", self.model, inputs, self.differentiable)
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            images, rebuild = images_of(inputs, self.images, "resizes the images")
            size = tuple(images.shape[2:]) if self.size is None else tuple(self.size)
            captured = self._whole(inputs, target)
            spatial_map(str(self.layer), captured.activations, self.layout)
            score, choosy = pin(target, captured.outputs), target is None if self.agree is None else self.agree
            top = logits_of(captured.outputs).argmax(1) if choosy else None
            activations, grads = (resize(widen(x), size) for x in captured[:2])
            count: Tensor | float = 1.0
            for shape in [_shape(one, images.shape[2:]) for one in self.sizes]:
                resized = self._whole(rebuild(_resized(images, shape)), score)
                a, g = (resize(widen(x), size) for x in resized[:2])
                counts: Tensor | float = 1.0
                if top is not None:
                    same = (logits_of(resized.outputs).argmax(1) == top).to(a.dtype)
                    counts = same.reshape(-1, *(1,) * (a.ndim - 1))
                activations, grads, count = activations + counts * a, grads + counts * g, count + counts
            means = (activations / count, grads / count, captured.outputs)
            return self.method(*means[: self._takes]).to(captured.activations.dtype)

    def _whole(self, inputs: Inputs, target: Target) -> Captured:
        """Capture the layer; refuse one that sees a part of the image alone."""
        with (reads := Reads(inputs, derives=True)):
            captured: Captured = self._derive(inputs, target)
        if reads.in_doubt:
            maps = {str(self.layer): captured.activations}
            refuse_parts("multi_scale", self.model, maps, reads, self.images, over=True)
        return captured


def _shape(wanted: int | Sequence[int], own: Sequence[int]) -> tuple[int, ...]:
    """Return the spatial shape that a size stands for, given the image's own."""
    shape = tuple(round(wanted * side / min(own)) for side in own) if isinstance(wanted, int) else tuple(wanted)
    if len(shape) != len(own) or min(shape) < 1:
        raise CamfnError(
            f"sizes: expected numbers of pixels, or shapes like that of the images, {tuple(own)}; got {wanted}"
        )
    return shape


def _resized(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Resize images to a spatial shape: bicubically in two dimensions, linearly in one or three."""
    if tuple(images.shape[2:]) == shape:
        return images
    if images.ndim != 4:
        return resize(images, shape)
    resized: Tensor = functional.interpolate(widen(images), shape, mode="bicubic", align_corners=False)
    return resized.to(images.dtype)
