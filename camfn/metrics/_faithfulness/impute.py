"""Fill in missing pixels from their neighbors: a sparse linear system, solved by conjugate gradients with multigrid."""

# tested in tests/metrics/faithfulness/test_road.py

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ..._shared.checks import number, same_device, shapes_agree, tensor
from ..._shared.errors import CamfnError
from ..._shared.maps import safe_divide, widen
from ...image._checks import require_finite
from .._common.order import as_images
from .multigrid import Array, cycle, framed, grids_of, inside, laplacian, namespace, ratio, run

_MAX_ITERATIONS = 200
"""Iterations after which `impute` raises an error; 4 to 7 are usual."""


def impute(images: Tensor, missing: Tensor, *, tolerance: float = 1e-5) -> Tensor:
    """Fill in missing pixels: each becomes the weighted mean of its 8 neighbors, all of them solved for at once.

    Direct neighbors weigh 1/6 and diagonal ones 1/12; at the border, the neighbors inside the image share the weight of
    those outside. This is a Dirichlet problem of a graph's Laplacian, symmetric and positive definite as soon as one
    pixel is known. Conjugate gradients, preconditioned by one multigrid V-cycle, solve it in 4 to 7 iterations at any
    size. The authors and pytorch-grad-cam solve the same system by a sparse LU, image by image.

    Source: arXiv 2202.00449, section 4 and the authors' code.

    Args:
        images: (B, C, H, W), or a series (B, C, L), where this is linear interpolation.
        missing: (B, H, W) or (B, L), bool. `impute` does not read missing pixels, unless an image has no
            others.
        tolerance: for each channel, the norm of the residual relative to the residual of the mean of the known pixels.

    Returns:
        Images with the known pixels unchanged, without a derivative. An image without a known pixel becomes its
        mean, channel by channel.

    Raises:
        CamfnError: other shapes or types, volumes; NaN or infinity in the images, naming the samples.
        RuntimeError: the tolerance was not reached.

    Example:
        >>> images = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> missing = torch.zeros(1, 4, 4, dtype=torch.bool)
        >>> missing[0, 1, 1:3] = True
        >>> impute(images, missing)[0, 0, 1].round(decimals=3)
        tensor([4., 5., 6., 7.])
    """
    as_images("impute", images)
    tensor("impute: missing", missing)
    number("impute: tolerance", tolerance, "(0, 1)")
    same_device("impute: missing", missing, images, "images")
    refuse_volumes("impute", images)
    if images.ndim not in (3, 4) or not images.is_floating_point() or missing.dtype != torch.bool:
        raise CamfnError(
            f"impute: expected floating-point images (B, C, *T) and missing (B, *T) of bool, got "
            f"{tuple(images.shape)} of {images.dtype} and {tuple(missing.shape)} of {missing.dtype}"
        )
    shapes_agree("impute: missing", missing.shape, (images.shape[0], *images.shape[2:]))
    require_finite(images, "impute: images")
    wide = widen(images.detach())
    if images.ndim == 3:
        return torch.where(missing[:, None], _interpolated(wide, missing).to(images.dtype), images)
    mask = missing[:, None].to(wide)
    filled = _solve_on_cpu(wide, mask, tolerance) if wide.device.type == "cpu" else _solved(wide, mask, tolerance)
    return torch.where(missing[:, None], filled.to(images.dtype), images)


def refuse_volumes(what: str, images: Tensor) -> None:
    """Refuse three spatial dimensions, for which the source gives the neighbors no weights."""
    if images.ndim == 5:
        raise CamfnError(
            f"{what}: expected series (B, C, L) or images (B, C, H, W), got volumes {tuple(images.shape)}: ROAD weighs "
            "the 8 neighbors of a pixel, and says nothing of the 26 of a voxel. For volumes: deletion(score, volumes, "
            "heatmap, baseline=blur), or one slice at a time"
        )


def _interpolated(series: Tensor, missing: Tensor) -> Tensor:
    """Solve the system of a line (B, C, L): linear between known values, constant beyond them, the mean without any."""
    length = series.shape[2]
    place = torch.arange(length, device=series.device)
    before = torch.where(missing, -1, place).cummax(1).values
    after = torch.where(missing, length, place).flip(1).cummin(1).values.flip(1)
    left = torch.where(before < 0, after, before).clamp(max=length - 1)
    right = torch.where(after == length, before, after).clamp(min=0)
    first, last = (series.gather(2, at[:, None].expand_as(series)) for at in (left, right))
    share = safe_divide((place - left).to(series), (right - left).to(series))[:, None]
    between = first + share * (last - first)
    return torch.where(missing.all(1)[:, None, None], series.mean(2, keepdim=True), between)


def _solve_on_cpu(images: Tensor, missing: Tensor, tolerance: float) -> Tensor:
    """Solve by NumPy, one image at a time in each thread.

    Torch would fork and join its threads for each of some 100 short operations an iteration. On a busy machine that
    takes ten times as long as the arithmetic.
    """

    def one(image: Tensor, mask: Tensor) -> Tensor:
        return torch.from_numpy(_solved(image[None].numpy(), mask[None].numpy(), tolerance))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        filled = list(pool.map(one, images, missing))
    return torch.cat(filled) if filled else images


def _solved(images: Array, missing: Array, tolerance: float) -> Array:
    """Fill in the missing pixels (B, 1, H, W) of images (B, C, H, W) by preconditioned conjugate gradients."""
    known = 1 - missing
    known = known + (_sum(known) == 0)  # an image without a known pixel counts as known, so that its mean is defined
    mean = _sum(images * known) / _sum(known)
    grids = grids_of(1 - known, images.shape[1])
    better, residual, (image, spare) = grids[0].solution, grids[0].right, grids[0].spare
    solution = framed(mean + (1 - missing) * (images - mean), grids[0].shape)
    direction = 0 * solution
    precondition, multiply = cycle(grids), laplacian(direction, grids[0])
    run(laplacian(solution, grids[0]))
    residual -= image
    goal = tolerance**2 * _dot(residual, residual)
    before = 0 * goal
    # a look at the residual waits for an accelerator, and 4 iterations are usual
    looks = range(_MAX_ITERATIONS) if not isinstance(images, Tensor) else range(4, _MAX_ITERATIONS, 2)
    for i in range(_MAX_ITERATIONS):
        size = _dot(residual, residual)
        if i in looks and bool((size <= goal).all()):
            return solution.reshape(grids[0].shape)[inside(images)]
        run(precondition)
        now = _dot(residual, better)
        direction *= ratio(now, before)
        direction += better
        before = now
        run(multiply)
        step = ratio(now, _dot(direction, image))
        image *= step
        residual -= image
        solution += namespace(solution).multiply(direction, step, out=spare)
    left = float(ratio(size, goal).max()) ** 0.5 * tolerance
    raise RuntimeError(
        f"impute: relative residual {left:.2g} after {_MAX_ITERATIONS} iterations; pass a larger tolerance"
    )


def _sum(x: Array) -> Array:
    """Sum over the pixels, (B, C, 1, 1)."""
    return x.sum((2, 3), keepdims=True)


def _dot(x: Array, y: Array) -> Array:
    """Scalar product over the pixels, (B, C, 1)."""
    return namespace(x).einsum("bck,bck->bc", x, y)[..., None]
