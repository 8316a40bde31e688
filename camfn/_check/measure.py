"""The numbers of a check: how alike maps are, the parts of a picture, the place of a peak, and scores of parts."""

# tested in tests/check/test_measure.py

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from .._shared.noise import draw_uniform
from ..metrics import masked, most_relevant, spearman
from ..metrics._common.order import on_images


def alike(maps: Tensor, others: list[Tensor]) -> Tensor:
    """Rank correlation of maps (B, *S) with each of n others, (B, n); a map that is not finite is like nothing: 0."""
    finite = [torch.where(_finite(one), one, 0).contiguous() for one in (maps, *others)]
    return torch.stack([spearman(finite[0], one) for one in finite[1:]], 1)


def _finite(maps: Tensor) -> Tensor:
    return maps.isfinite().flatten(1).all(1).reshape(-1, *(1,) * (maps.ndim - 1))


def as_map(cam: Tensor, images: Tensor) -> Tensor:
    """Return a map (B, *S); of a picture of gradients (B, C, *T), the sum of its magnitudes over the channels."""
    return cam.abs().sum(1) if cam.ndim == images.ndim and cam.ndim > 2 else cam


def mean_color(images: Tensor) -> Tensor:
    """Mean of each channel of each image, (B, C, 1, ...): what stands in the place of a removed part.

    Example:
        >>> mean_color(torch.tensor([[[1.0, 3.0]]]))
        tensor([[[2.]]])
    """
    return images.mean(tuple(range(2, images.ndim)), keepdim=True)


def moves(count: int, size: tuple[int, ...], generator: torch.Generator) -> list[tuple[int, ...]]:
    """Draw cyclic moves of a picture, each a quarter to three quarters of a side along one axis, anything along others.

    A part that moves so keeps its shape and its size, and lies elsewhere.
    """
    drawn = draw_uniform((count, len(size)), generator).tolist()
    found = []
    for number, shares in enumerate(drawn):
        far = number % len(size)
        shares[far] = 0.25 + 0.5 * shares[far]
        found.append(tuple(round(share * side) for share, side in zip(shares, size)))
    return found


def scores_of_parts(
    score: Callable[[Tensor], Tensor],
    images: Tensor,
    cam: Tensor,
    share: float,
    elsewhere: list[tuple[int, ...]],
    step: Callable[[], None],
) -> tuple[Tensor, Tensor]:
    """Score images of which the marked part is kept, and of which it is removed; and the same for parts elsewhere.

    Returns:
        Scores where the part is kept, (B, 1 + n), and where it is removed, (B, 1 + n); the marked part comes first.
    """
    marked = most_relevant(on_images("check", cam, images), share)
    axes = tuple(range(1, marked.ndim))
    parts = [marked, *(marked.roll(move, axes) for move in elsewhere)]
    kept: list[Tensor] = []
    removed: list[Tensor] = []
    for part in parts:
        for scores, mask in ((kept, part), (removed, ~part)):
            scores.append(score(masked(images, mask, baseline=mean_color)))
            step()
    return torch.stack(kept, 1), torch.stack(removed, 1)


def peak_place(cam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Measure where a map (B, *S) is strong: where it reaches at least half of its peak.

    Returns:
        border: distance of the peak's middle to the nearest edge, as a share of that side; (B,), at most 0.5.
        together: share of the strong values that lie in one piece with the peak; (B,).
        marked: share of the positions that are strong; (B,).
        All three are NaN for a map without a positive value.
    """
    size = cam.shape[1:]
    peak = cam.flatten(1).max(1)
    place = torch.stack(torch.unravel_index(peak.indices, size), 1)
    sides = torch.tensor(size, device=cam.device)
    # along an axis with fewer than two positions there is no border to speak of
    gap = (torch.minimum(place, sides - 1 - place) + 0.5) / sides
    border = torch.where(sides > 1, gap, 0.5).amin(1).to(cam)
    strong = cam >= peak.values.reshape(-1, *(1,) * len(size)) / 2
    seed = functional.one_hot(peak.indices, cam[0].numel()).reshape(cam.shape).bool()
    value = cam * strong
    together = (value * flooded(seed, strong)).flatten(1).sum(1) / value.flatten(1).sum(1)
    marked = strong.flatten(1).to(cam.dtype).mean(1)
    return tuple(torch.where(peak.values > 0, one, torch.nan) for one in (border, together, marked))  # type: ignore[return-value]


def flooded(seed: Tensor, within: Tensor) -> Tensor:
    """Grow a seed (B, *S), one to three dimensions, over all positions of `within` that touch it, corners included.

    Example:
        >>> flooded(torch.tensor([[True, False, False, False]]), torch.tensor([[True, True, False, True]]))
        tensor([[ True,  True, False, False]])
    """
    grow = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[seed.ndim - 2]
    while True:
        wider = (grow(seed[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0) & within
        if torch.equal(wider, seed):
            return seed
        seed = wider
