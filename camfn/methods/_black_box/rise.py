"""RISE and D-RISE: random masks on the input, the black-box baselines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from einops import einsum
from torch import Tensor

from ..._shared.checks import function, number, progress_bar
from ..._shared.chunks import telling
from ..._shared.devices import brought, tensor_on
from ..._shared.errors import CamfnError
from ..._shared.maps import resize, widen
from ..._shared.noise import draw_uniform, one_source
from ..._shared.rows import ChunkSize, Progress, finite, no_nan, one_score, row_of, score_variants
from .._checks import at_least_one, images


def rise(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    samples: int = 4000,
    grid: int = 7,
    probability: float = 0.5,
    centered: bool = False,
    generator: torch.Generator | None = None,
    masks: Tensor | None = None,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """RISE: random masks, each weighted by the score of the masked input.

    `L(p) = sum_i f(x M_i) M_i(p) / (n probability)`, at the resolution of the inputs, not of the layer: the layer does
    not matter. A mask is a coarse grid of zeros and ones, upsampled to one cell more than the input and cropped at a
    random place. The masks are the same for all samples of a batch, and are built a chunk at a time. `samples`
    forwards. Under `vmap` and `torch.compile` give the masks. The authors take probabilities,
    `targets.class_probability`, and 4000 masks (8000 for ResNet-50).

    The raw map is `(mean f mean M + cov(f, M)) / probability`. The first part says nothing of the image, but holds most
    of the mass, and the noise of a few hundred masks. With `centered` the second part is left,
    `sum_i (f(x M_i) - mean f) M_i(p) / (n probability)`: take it wherever a share of the mass is compared.

    Source: arXiv 1806.07421 and the authors' code, whose masks differ at the border by its kind of resizing; the number
    for ResNet-50 is from memory of the paper.

    Args:
        activations: (B, C, *S), not used.
        grads: not used.
        outputs: not used.
        forward: the whole network and the target, inputs to scores (B,); must run under `torch.vmap`.
        inputs: (B, channels, *T), one to three spatial dimensions.
        samples: how many masks a generator draws.
        grid: cells along each dimension.
        probability: the probability of a 1 in a cell; the map is divided by it, also where the masks are given.
        centered: subtract the mean score over the masks; the map then has both signs.
        generator: draws the masks on its own device, in float32 whatever the inputs are.
        masks: (n, *T), the masks themselves, in place of a generator.
        chunk_size: masks tried at once; None is all, "auto" as many as memory allows.
        progress: called with masks done and their number.

    Returns:
        The raw map, (B, *T), where other methods give (B, *S).

    Raises:
        CamfnError: if neither or both of `generator` and `masks` are given, for masks of another shape, `samples` or
            `grid` below 1, a probability outside (0, 1], or scores that are not one number a sample, or NaN,
            or, with `centered`, infinite.

    Example:
        >>> import torch
        >>> image, masks = torch.tensor([[[2.0, 3.0]]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        >>> rise(image, forward=lambda x: x.sum((1, 2)), inputs=image, masks=masks)  # scores 2, 5
        tensor([[7., 5.]])
    """
    build, count = _masks("rise", forward, inputs, samples, grid, probability, generator, masks)

    def masked(index: Tensor) -> Tensor:
        return inputs * build(index).to(inputs.dtype)

    x = widen(inputs)
    rows = torch.arange(count, device=x.device)
    scores = widen(score_variants("rise: forward", forward, masked, rows, chunk_size=chunk_size, progress=progress))
    no_nan("rise: forward", scores.mT, inputs)
    if centered:
        # from the first on, so that equal scores leave exactly 0
        apart = finite("rise: forward", scores.mT, inputs).mT - scores[:1]
        scores = apart - apart.mean(0)
    # all masks at once may not fit the memory: build them again, 64 at a time
    parts = [
        einsum(weights, torch.vmap(build)(index), "n b, n ... -> b ...")
        for weights, index in zip(torch.split(scores.to(x.dtype), 64), torch.split(rows, 64))
    ]
    return (sum(parts, torch.zeros_like(parts[0])) / (count * probability)).to(inputs.dtype)


def d_rise(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    samples: int = 5000,
    grid: int = 16,
    probability: float = 0.5,
    generator: torch.Generator | None = None,
    masks: Tensor | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """D-RISE: random masks, each weighted by how much of a detection the masked image keeps.

    `L(p) = sum_i s(x M_i) M_i(p)`, with the similarity `s` of the detection to the most similar one on the masked
    image, which is the target: `targets.detection_similarity`. At the resolution of the inputs; the layer does not
    matter. Masks are made as in `rise`, but the sum is divided by nothing. The masked images run one batch at a time,
    and not under `vmap`, so that any detector will do, suppression included. `samples` forwards.

    Source: arXiv 2006.03204; 5000 masks of 16 cells along each side, as the authors of ODAM run it.

    Args:
        activations: (B, C, *S), not used.
        grads: not used.
        outputs: not used.
        forward: the whole network and the target, inputs to scores (B,).
        inputs: (B, channels, *T), one to three spatial dimensions.
        samples: how many masks a generator draws.
        grid: cells along each dimension.
        probability: the probability of a 1 in a cell.
        generator: draws the masks, as in `rise`.
        masks: (n, *T), the masks themselves, in place of a generator.
        progress: called with masks done and their number.

    Returns:
        The raw map, (B, *T), where other methods give (B, *S).

    Raises:
        CamfnError: as for `rise`.

    Example:
        >>> import torch
        >>> image, masks = torch.tensor([[[2.0, 3.0]]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        >>> d_rise(image, forward=lambda x: x.sum((1, 2)), inputs=image, masks=masks)  # scores 2, 5
        tensor([[7., 5.]])
    """
    build, count = _masks("d_rise", forward, inputs, samples, grid, probability, generator, masks)
    progress_bar("d_rise", progress)
    tell = telling(progress, "one by one")
    total = torch.zeros_like(widen(inputs[:, 0]))
    every: list[Tensor] = []
    for i in range(count):
        mask = build(tensor_on(i, inputs.device))
        scores = one_score("d_rise: forward", forward(inputs * mask.to(inputs.dtype)), inputs.shape[0])
        # later scores are checked together, since each check waits for an accelerator
        every.append(widen(scores if every else no_nan("d_rise: forward", scores, inputs)))
        total = total + einsum(every[-1].to(total.dtype), mask, "b, ... -> b ...")
        tell(i + 1, count)
    no_nan("d_rise: forward", torch.stack(every, 1), inputs)
    return total.to(inputs.dtype)


def _masks(
    method: str,
    forward: Any,
    inputs: Tensor,
    samples: int,
    grid: int,
    probability: float,
    generator: torch.Generator | None,
    masks: Tensor | None,
) -> tuple[Callable[[Tensor], Tensor], int]:
    """Return a function from an index to a mask (*T), and the number of masks."""
    at_least_one(method, samples=samples, grid=grid)
    number(f"{method}: probability", probability, "(0, 1]")
    images(method, inputs)
    function(f"{method}: forward", forward, "from inputs to one score a sample, as explainer binds it")
    size = tuple(inputs.shape[2:])
    source = one_source(method, generator, masks, name="masks")
    x = widen(inputs)
    if not isinstance(source, Tensor):
        return _grids(samples, grid, probability, size, source, x), samples
    masks = source
    if masks.ndim != inputs.ndim - 1 or tuple(masks.shape[1:]) != size or not masks.shape[0]:
        raise CamfnError(f"{method}: expected masks of shape (n, *T), T = {size}; got {tuple(masks.shape)}")
    return _picked(brought(masks, x)), len(masks)


def _picked(masks: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the function from an index to one of the given masks; an index may be batched by `vmap`."""
    return lambda index: row_of(masks, index)


def _grids(
    samples: int, grid: int, probability: float, size: tuple[int, ...], generator: torch.Generator, like: Tensor
) -> Callable[[Tensor], Tensor]:
    """Draw the grid and the place of each mask, and return the function from an index to a mask (*T)."""
    cells = [-(-length // grid) for length in size]
    # each draw has a fixed shape, so that the masks do not depend on the number of masks built at once
    on = draw_uniform((samples, *(grid for _ in size)), generator) < probability
    places = [
        tensor_on(torch.randint(cell, (samples,), generator=generator, device=generator.device), like.device)
        for cell in cells
    ]
    coarse = brought(on, like)
    # linear resizing is a matrix along each dimension: (grid + 1) cells by grid
    lines = [
        resize(torch.eye(grid, dtype=like.dtype, device=like.device)[None], ((grid + 1) * cell,))[0].mT
        for cell in cells
    ]
    within = [torch.arange(length, device=like.device) for length in size]

    def build(index: Tensor) -> Tensor:
        """Resize the grid of one mask, and crop it at its place."""
        mask = row_of(coarse, index)
        for line, place, places_within in zip(lines, places, within):
            mask = torch.tensordot(mask, line[places_within + row_of(place, index)], dims=([0], [1]))
        return mask

    return build
