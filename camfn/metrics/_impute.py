"""Missing pixels from their neighbors: a sparse linear system, solved by conjugate gradients with multigrid."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from .._shared.checks import shapes_agree
from .._shared.errors import CamfnError
from .._shared.maps import widen
from ..image._checks import require_finite
from ._multigrid import Array, cycle, framed, grids_of, inside, laplacian, namespace, ratio, run

_MOST = 200
"""Iterations before it is said that the system is not solved; 4 to 7 are usual."""


def impute(images: Tensor, missing: Tensor, *, tolerance: float = 1e-5) -> Tensor:
    """Fill in missing pixels: each becomes the weighted mean of its 8 neighbors, all of them solved for at once.

    Direct neighbors weigh 1/6 and diagonal ones 1/12; those outside the image are left out, and the others share their
    weight. This is a Dirichlet problem of a graph's Laplacian, symmetric and positive definite as soon as one pixel is
    known: solved by conjugate gradients, preconditioned by one multigrid V-cycle, in 4 to 7 iterations whatever
    the size. The authors and pytorch-grad-cam solve the same system by a sparse LU, image by image.

    Source: arXiv 2202.00449, section 4 and the authors' code.

    Args:
        images: (B, C, H, W).
        missing: (B, H, W), bool; the values of missing pixels do not matter, unless all are.
        tolerance: norm of the residual over that of filling in the mean of the known pixels, for each channel.

    Returns:
        (B, C, H, W), known pixels untouched; no derivative. An image of which nothing is known becomes its mean,
        channel by channel.

    Raises:
        CamfnError: other shapes or types; NaN or infinity in the images, naming the samples.
        RuntimeError: the tolerance was not reached.

    Example:
        >>> images = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> missing = torch.zeros(1, 4, 4, dtype=torch.bool)
        >>> missing[0, 1, 1:3] = True
        >>> impute(images, missing)[0, 0, 1].round(decimals=3)
        tensor([4., 5., 6., 7.])
    """
    if images.ndim != 4 or not images.is_floating_point() or missing.dtype != torch.bool:
        raise CamfnError(
            f"impute: expected floating-point images (B, C, H, W) and missing (B, H, W) of bool, got "
            f"{tuple(images.shape)} of {images.dtype} and {tuple(missing.shape)} of {missing.dtype}"
        )
    shapes_agree("impute: missing", missing.shape, (images.shape[0], *images.shape[2:]))
    require_finite(images, "impute: images")
    wide = widen(images.detach())
    gone = missing[:, None].to(wide)
    filled = _on_cpu(wide, gone, tolerance) if wide.device.type == "cpu" else _solved(wide, gone, tolerance)
    return torch.where(missing[:, None], filled.to(images.dtype), images)


def _on_cpu(images: Tensor, gone: Tensor, tolerance: float) -> Tensor:
    """Solve by NumPy, one image at a time in each thread.

    Torch would fork and join its threads for each of some 100 short operations an iteration, which on a machine that is
    busy takes ten times as long as the arithmetic.
    """

    def one(image: Tensor, mask: Tensor) -> Tensor:
        return torch.from_numpy(_solved(image[None].numpy(), mask[None].numpy(), tolerance))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        found = list(pool.map(one, images, gone))
    return torch.cat(found) if found else images


def _solved(images: Array, gone: Array, tolerance: float) -> Array:
    """Images (B, C, H, W) with what is gone (B, 1, H, W) filled in, by preconditioned conjugate gradients."""
    known = 1 - gone
    known = known + (_sum(known) == 0)  # of an image that is all gone, everything counts, and nothing is to be found
    mean = _sum(images * known) / _sum(known)
    grids = grids_of(1 - known, images.shape[1])
    better, residual, (image, spare) = grids[0].found, grids[0].right, grids[0].spare
    found = framed(mean + (1 - gone) * (images - mean), grids[0].shape)
    direction = 0 * found
    precondition, multiply = cycle(grids), laplacian(direction, grids[0])
    run(laplacian(found, grids[0]))
    residual -= image
    goal = tolerance**2 * _dot(residual, residual)
    before = 0 * goal
    for _ in range(_MOST):
        size = _dot(residual, residual)
        if bool((size <= goal).all()):
            return found.reshape(grids[0].shape)[inside(images)]
        run(precondition)
        now = _dot(residual, better)
        direction *= ratio(now, before)
        direction += better
        before = now
        run(multiply)
        step = ratio(now, _dot(direction, image))
        image *= step
        residual -= image
        found += namespace(found).multiply(direction, step, out=spare)
    left = float(ratio(size, goal).max()) ** 0.5 * tolerance
    raise RuntimeError(f"impute: relative residual {left:.2g} after {_MOST} iterations; pass a larger tolerance")


def _sum(x: Array) -> Array:
    return x.sum((2, 3), keepdims=True)


def _dot(x: Array, y: Array) -> Array:
    """(B, C, 1)."""
    return namespace(x).einsum("bck,bck->bc", x, y)[..., None]
