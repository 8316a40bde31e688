"""The size and the range of raw maps: upsampling, normalizing, and the pipeline of pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._shared.checks import describe, length_matches, same_device, whole
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.maps import min_max, resize, safe_divide
from ._checks import as_float, as_maps


def upsample(cam: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps linearly between half-pixel centers (`align_corners=False`), without antialiasing.

    Args:
        cam: (B, *S) with one, two or three spatial dimensions.
        size: the new S in pixels: (length,), (height, width) or (depth, height, width), as in `photo.shape[-2:]`.

    Returns:
        (B, *size), device and dtype of `cam`.

    Raises:
        CamfnError: `size` has not one number for each spatial dimension.

    Example:
        >>> import torch
        >>> from camfn.image import upsample
        >>> upsample(torch.rand(2, 7, 7), (240, 320)).shape
        torch.Size([2, 240, 320])
    """
    as_float(cam, "cam")
    if cam.ndim not in (2, 3, 4):
        raise CamfnError(f"cam: expected (B, *spatial) with one to three spatial dimensions, got {tuple(cam.shape)}")
    order = ("(length,)", "(height, width)", "(depth, height, width)")[cam.ndim - 2]
    if not isinstance(size, (list, tuple)):
        raise ArgumentTypeError(
            f"size: expected one number for each spatial dimension, as in (height, width), got {size!r}"
        )
    for side in size:
        whole(f"size {order}", side)
    if len(size) != cam.ndim - 1:
        raise CamfnError(
            f"size: expected {order} in pixels for maps of shape {tuple(cam.shape)}, got {tuple(size)}; "
            f"for a photo: upsample(cam, photo.shape[-{cam.ndim - 1}:])"
        )
    return resize(cam[:, None], tuple(size))[:, 0]


def normalize(cam: Tensor, *, signed: bool = False) -> Tensor:
    """Rescale each map to a heatmap in [0, 1].

    By default negative values are clipped, as by the ReLU that ends most papers' equations, and the rest is stretched,
    (m - min) / (max - min); a constant map becomes 0. With `signed` nothing is clipped and zero has its own place,
    (1 + m / max|m|) / 2; a map of zeros becomes 0.5. No constant is added to a denominator: a map and its multiple by
    a positive number give the same heatmap.

    Args:
        cam: (B, *S), raw maps; for a single one pass `cam[None]`.
        signed: keep the sign, with zero at 0.5; show it with `colormap="seismic"`.

    Returns:
        Same shape, device and dtype, in [0, 1].

    Raises:
        CamfnError: NaN or infinity, naming the samples. On an accelerator, where a check would wait, and where data
            cannot be read (`vmap`, `compile`), such a sample becomes NaN.

    Example:
        >>> import torch
        >>> from camfn.image import normalize
        >>> normalize(torch.tensor([[-4.0, 0.0, 1.0, 2.0]]))
        tensor([[0.0000, 0.0000, 0.5000, 1.0000]])
        >>> normalize(torch.tensor([[-4.0, 0.0, 1.0, 2.0]]), signed=True)
        tensor([[0.0000, 0.5000, 0.6250, 0.7500]])
    """
    work = as_maps(cam, "cam", waits=False)
    dims = tuple(range(1, work.ndim))
    if signed:
        return (0.5 + 0.5 * safe_divide(work, work.abs().amax(dims, keepdim=True))).to(cam.dtype)
    return min_max(work.relu(), dims).to(cam.dtype)


def peer_postprocess(cams: Tensor | Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Postprocess raw maps as pytorch-grad-cam 1.5.7 does for 2-D inputs, for comparing with numbers made by it.

    For each layer: ReLU, s(m) = (m - min) / (1e-7 + max(m - min)) of each image, resizing; then s of the mean over
    the layers. Magnitude and sign are lost; the 1e-7 dims maps that are not much larger, each layer by itself before
    the mean.

    Args:
        cams: (B, h, w) raw maps of one layer, or a sequence of such with a layer each, of any sizes.
        size: (height, width) of the result; pytorch-grad-cam itself takes (width, height).

    Returns:
        (B, *size) in [0, 1], device and dtype of the (first) map.

    Raises:
        CamfnError: no maps, or maps that are not (B, h, w).

    Example:
        >>> import torch
        >>> from camfn.image import peer_postprocess
        >>> peer_postprocess([torch.randn(2, 14, 14), torch.randn(2, 7, 7)], (240, 320)).shape
        torch.Size([2, 240, 320])
    """
    given = [cams] if isinstance(cams, Tensor) else cams
    if not isinstance(given, (list, tuple)) or not all(isinstance(cam, Tensor) for cam in given):
        raise ArgumentTypeError(f"cams: expected (B, h, w) or a sequence of such, got {describe(cams)}")
    layers = list(given)
    if not layers or any(cam.ndim != 3 for cam in layers):
        raise CamfnError(f"cams: expected (B, h, w) or a sequence of such, got {[tuple(cam.shape) for cam in layers]}")
    for cam in layers[1:]:
        length_matches("cams", cam.shape[0], layers[0].shape[0])
        same_device("cams", cam, layers[0], "first cam")
    scaled = [upsample(min_max(as_float(cam, "cams").relu(), (1, 2), epsilon=1e-7), size) for cam in layers]
    return min_max(torch.stack(scaled).mean(0), (1, 2), epsilon=1e-7).to(layers[0].dtype)
