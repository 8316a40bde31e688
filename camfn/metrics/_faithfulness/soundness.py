"""Whether what a map marks is enough for the score, and whether all of it is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..._shared.checks import describe, function, number, seen_false
from ..._shared.devices import tensor_on
from ..._shared.errors import ArgumentTypeError, CamfnError
from ..._shared.maps import safe_divide
from ..._shared.rows import finite, one_score
from .._common.order import as_images, count_of, on_images, ranks
from .._common.scores import ScoreOf, for_runs
from .confidence import Baseline, baseline_of
from .curves import Curve
from .impute import impute, refuse_volumes

VALUES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SHOWN = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def completeness(
    score: ScoreOf,
    images: Tensor,
    heatmap: Tensor,
    *,
    values: Sequence[float] = VALUES,
    baseline: Baseline | None = None,
) -> Curve:
    """Completeness: the drop of the score without the pixels whose value is within a share of the map's maximum.

    For each v, the pixels above `(1 - v) max` go. Unlike deletion it removes by value and not by area: a map that marks
    half of what matters is found out, since what it left dim stays. It costs `len(values) + 1` forwards and has no
    derivative.

    Source: arXiv 2308.08949 and the authors' code, which takes the accuracy over a data set for the score.

    Args:
        score: f: images (B, C, *T) to (B,), as `scores_of(model, images)` makes it.
        images: (B, C, *T).
        heatmap: (B, *S), not negative; resized linearly to T where S differs.
        values: v, in [0, 1], ascending.
        baseline: what replaces pixels, as in `masked`; None fills them in from their neighbors by `impute`, which takes
            series and images.

    Returns:
        A `Curve`: `f(x) - f(x without them)`, (B, V), against v. `.average` is one number, higher is better; 0 for a
        map of zeros, and at v = 0.

    Raises:
        CamfnError: negative values in the map, other shapes, volumes without a baseline, NaN in the map or from
            `score`.

    Example:
        >>> images = torch.tensor([[[[1.0, 2.0, 3.0, 5.0]]]])
        >>> completeness(lambda x: x.sum((1, 2, 3)), images, images[:, 0], values=(0.2, 0.5, 1.0), baseline=0.0).scores
        tensor([[ 5.,  8., 11.]])
    """
    what = "completeness"
    maps, steps = _marked(what, images, heatmap, values)
    top = maps.flatten(1).amax(1).reshape(-1, *(1,) * (maps.ndim - 1))
    gone = [torch.zeros_like(maps, dtype=torch.bool), *(maps > (1 - v) * top for v in steps)]
    scores = _scores_without(what, score, images, gone, baseline)
    return Curve(tensor_on(steps, scores.device, scores.dtype), scores[:, :1] - scores[:, 1:])


def soundness(
    score: ScoreOf,
    images: Tensor,
    heatmap: Tensor,
    *,
    shares: Sequence[float] = SHOWN,
    threshold: float = 0.01,
    baseline: Baseline | None = None,
) -> Curve:
    """Soundness: the share of the shown part of a map that raised the score when it was shown.

    The image is shown from the most relevant pixel down, a share of the pixels at a time; the others are filled in.
    Where a step raises the score by no more than the threshold, the map's mass in that step counts as false:
    `(mass shown - false) / mass shown`. The last steps of any map raise little: read it at the share where the scores
    are what you ask for, or compare maps by `.average`. It costs `len(shares) + 1` forwards and has no derivative.

    Source: arXiv 2308.08949 and the authors' code, which takes the accuracy over a data set, or each sample's score as
    here, and starts from a score of 0; this function starts from the score of the image that is wholly filled in.

    Args:
        score: images (B, C, *T) to (B,), as `scores_of(model, images)` makes it.
        images: (B, C, *T).
        heatmap: (B, *S), not negative; resized linearly to T where S differs.
        shares: of the pixels shown, in (0, 1], ascending.
        threshold: by how much a step must raise the score.
        baseline: what replaces pixels that are not shown, as in `masked`; None fills them in from their neighbors by
            `impute`, which takes series and images.

    Returns:
        A `Curve`, (B, S) in [0, 1], against the shares; higher is better; 0 where no mass is shown.

    Raises:
        CamfnError: as `completeness`.

    Example:
        >>> images, heatmap = torch.tensor([[[[1.0, 0.0, 3.0, 0.0]]]]), torch.tensor([[[0.0, 2.0, 6.0, 0.0]]])
        >>> soundness(lambda x: x.sum((1, 2, 3)), images, heatmap, shares=(0.25, 0.5), baseline=0.0).scores
        tensor([[1.0000, 0.7500]])
    """
    what = "soundness"
    maps, steps = _marked(what, images, heatmap, shares)
    number(f"{what}: threshold", threshold, "[0, inf)")
    if steps[0] == 0:
        raise CamfnError(f"{what}: shares: expected numbers in (0, 1], got {steps[0]}")
    order = ranks(maps)
    shown = [order < k for k in (0, *(count_of(f"{what}: shares", s, math.prod(order.shape[1:])) for s in steps))]
    scores = _scores_without(what, score, images, [~seen for seen in shown], baseline)
    mass = torch.stack([(maps * seen).flatten(1).sum(1) for seen in shown], 1)
    new = mass.diff(dim=1)
    false = torch.where(scores.diff(dim=1) <= threshold, new, 0).cumsum(1)
    kept = safe_divide(mass[:, 1:] - false, mass[:, 1:]).clamp(0, 1)
    return Curve(tensor_on(steps, scores.device, scores.dtype), kept.to(scores.dtype))


def _marked(what: str, images: Tensor, heatmap: Tensor, steps: Sequence[float]) -> tuple[Tensor, list[float]]:
    """Return maps without negative values at the size of the images, and ascending numbers in [0, 1]."""
    as_images(what, images)
    maps = on_images(what, heatmap, images)
    if seen_false(maps >= 0):
        raise CamfnError(f"{what}: expected a heatmap without negative values; pass camfn.image.normalize(cam)")
    if not isinstance(steps, (list, tuple)) or not steps:
        raise ArgumentTypeError(
            f"{what}: expected a list of numbers in [0, 1], got {describe(steps)}; for example (0.1, 0.5, 0.9)"
        )
    for step in steps:
        number(f"{what}: values or shares", step, "[0, 1]")
    if list(steps) != sorted(steps):
        raise CamfnError(f"{what}: expected ascending numbers, got {list(steps)}")
    return maps, [float(step) for step in steps]


def _scores_without(what: str, score: ScoreOf, images: Tensor, gone: list[Tensor], baseline: Baseline | None) -> Tensor:
    """Score images of which pixels are replaced or filled in, once for each mask (B, *T): (B, S)."""
    function(f"{what}: score", score, "as scores_of(model, images) makes it")
    if baseline is None:
        refuse_volumes(what, images)
    base = None if baseline is None else baseline_of(what, baseline, images)
    score, found = for_runs(score, len(gone)), []
    for missing in gone:
        changed = impute(images, missing) if base is None else torch.where(missing[:, None], base, images)
        with torch.no_grad():
            found.append(one_score(f"{what}: score", score(changed), len(images)))
    return finite(f"{what}: score", torch.stack(found, 1))
