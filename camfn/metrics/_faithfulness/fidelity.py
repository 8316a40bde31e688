"""F-Fidelity: random parts of the top pixels removed, never more than the network was trained to miss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..._shared.checks import number, same_device, shapes_agree, whole
from ..._shared.devices import brought, tensor_on
from ..._shared.noise import draw_uniform, one_source
from ..._shared.rows import ChunkSize, Progress, row_of
from .._common.order import count_of, on_images, ranks, shares_of
from .._common.scores import ScoreOf
from .confidence import Baseline, baseline_of
from .curves import Curve
from .drops import scores_beside

SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def f_fidelity(
    score: ScoreOf,
    images: Tensor,
    heatmap: Tensor,
    *,
    shares: Sequence[float] = SHARES,
    least: bool = False,
    alpha: float = 0.5,
    beta: float = 0.1,
    samples: int = 50,
    generator: torch.Generator | None = None,
    uniform: Tensor | None = None,
    baseline: Baseline = 0.0,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Curve:
    """F-Fidelity: the drop of the score while random parts of the top pixels are gone, for each share of them.

    For a share s, each of the top `s N` pixels goes with probability `a = min(alpha, beta N / (s N))`, so that no more
    than `beta N` go on average: what the network was trained further to miss, by the authors' protocol. The drop is
    `f(x) - mean over n draws of f`. With `least`, the pixels below the top are those that go (FFid-). It costs
    `n len(shares) + 1` forwards and has no derivative.

    On a network that was not trained further it has the weakness of all removals: it shows the network sights that it
    never had.

    Source: arXiv 2410.02970 and the authors' evaluation; the example of their repository compares a share with a count,
    so that its bound never acts.

    Args:
        score: images (B, C, *T) to (B,): whether the class is right, in the paper: a function of yours such as
            `lambda x: (model(x).argmax(1) == classes).float()`. A probability is finer.
        images: (B, C, *T).
        heatmap: (B, *S), raw, with its sign; resized linearly to T where S differs.
        shares: s, of the pixels, in (0, 1]; ascending.
        least: remove pixels beside the top ones; a share of 1 then removes nothing.
        alpha: the largest probability.
        beta: the largest share of all pixels that go on average.
        samples: n, draws, the same for all samples and shares.
        generator: draws them, on its own device.
        uniform: (n, *T), numbers in [0, 1) in place of a generator.
        baseline: what replaces pixels, as in `masked`.
        chunk_size: forwards at once: a number, None for all, or "auto" for what memory allows.
        progress: called with (forwards done, all forwards) after each chunk.

    Returns:
        A `Curve` of the drops, (B, S), against the shares. `.average` is the metric: higher is better, lower with
        `least`.

    Raises:
        CamfnError: numbers out of range, neither or both of generator and uniform, other shapes, NaN in the map or from
            `score`.

    Example:
        >>> images, uniform = torch.tensor([[[[1.0, 2.0, 3.0, 5.0]]]]), torch.zeros(1, 1, 4)
        >>> f_fidelity(
        ...     lambda x: x.sum((1, 2, 3)), images, images[:, 0], shares=(0.25, 0.5, 1.0), beta=0.5, uniform=uniform
        ... ).scores
        tensor([[ 5.,  8., 11.]])
    """
    what = "f_fidelity"
    maps = on_images(what, heatmap, images)
    base = baseline_of(what, baseline, images)
    number(f"{what}: alpha", alpha, "(0, 1]")
    number(f"{what}: beta", beta, "(0, 1]")
    drawn = _draws(what, maps, samples, generator, uniform)
    order, total = ranks(maps), math.prod(maps.shape[1:])
    shares = shares_of(what, shares, "(0, 1]", "(0.1, 0.5, 1.0)")
    counts = [count_of(f"{what}: shares", share, total) for share in shares]
    rates = [min(alpha, beta * total / max(total - k if least else k, 1)) for k in counts]
    k_of, rate_of = (tensor_on(values, images.device) for values in (counts, rates))
    n = len(drawn)

    def thinned(row: Tensor) -> Tensor:
        which = row // n
        top = order < row_of(k_of, which)
        gone = (~top if least else top) & (row_of(drawn, row % n) < row_of(rate_of, which))
        return torch.where(gone[:, None], base, images)

    before, after = scores_beside(what, score, images, thinned, n * len(counts), chunk_size, progress)
    lost = before[:, None] - after.reshape(len(images), len(counts), n).mean(2)
    return Curve(tensor_on(list(shares), lost.device, lost.dtype), lost)


def _draws(what: str, maps: Tensor, samples: int, generator: torch.Generator | None, uniform: Tensor | None) -> Tensor:
    """Check or draw uniform numbers, (n, *T)."""
    source = one_source(what, generator, uniform, name="uniform", arguments="...")
    if not isinstance(source, Tensor):
        whole(f"{what}: samples", samples)
        return brought(draw_uniform((samples, *maps.shape[1:]), source), maps)
    shapes_agree(f"{what}: uniform", source.shape, (max(len(source), 1) if source.ndim else 1, *maps.shape[1:]))
    same_device(f"{what}: uniform", source, maps, "images")
    return source
