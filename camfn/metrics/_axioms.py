"""Properties that a right attribution has by definition, and by how far a map misses them."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from .._cut.layer_checks import check_model
from .._shared.checks import describe, function, length_matches, number, same_device, shapes_agree
from .._shared.devices import brought
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.rows import finite
from ..image._checks import as_maps, require_finite
from ._common.order import as_images
from ._common.regions import sums_of
from ._common.scores import ScoreOf, number_a_sample, score_once
from ._faithfulness.confidence import Baseline, baseline_of
from ._robustness.sensitivity import euclidean


def completeness_residual(
    score: ScoreOf,
    images: Tensor,
    attribution: Tensor,
    *,
    baseline: Baseline = 0.0,
    drop: Tensor | None = None,
) -> Tensor:
    """Measure how far the sum of an attribution is from the change of the score: `(sum a - D) / D`, `D = f(x) - f(b)`.

    Integrated gradients are complete; a class activation map is not meant to be, and its sum depends on its resolution.
    Quantus asks whether the floating-point numbers are equal, which they never are. It costs two forwards.

    Source: arXiv 1703.01365, proposition 1.

    Args:
        score: f: images (B, C, *T) to (B,), as `scores_of(model, images)` makes it; the logit that was explained.
        images: x, (B, C, *T).
        attribution: a, (B, *S) or (B, C, *T), at its own resolution: it is summed as it is.
        baseline: b, as in `masked`.
        drop: D, (B,): the score is then not called, so that the maps of many methods share its two forwards.

    Returns:
        (B,), any sign, 0 is best; infinite where the score of the baseline is that of the image, but the sum is not 0.

    Raises:
        CamfnError: another batch, NaN or infinity in the attribution or the drop, NaN or infinity from `score`.

    Example:
        >>> images, score = torch.tensor([[[[1.0, 2.0, 3.0]]]]), lambda x: x.sum((1, 2, 3))
        >>> completeness_residual(score, images, 2 * images)
        tensor([1.])
        >>> drop = score(images) - score(0 * images)
        >>> [float(completeness_residual(score, images, k * images, drop=drop)) for k in (1, 3)]
        [0.0, 2.0]
    """
    what = "completeness_residual"
    as_images(what, images)
    values = as_maps(attribution, f"{what}: attribution")
    same_device(f"{what}: attribution", values, images, "images")
    length_matches(f"{what}: attribution", len(values), len(images))
    if drop is None:
        base = baseline_of(what, baseline, images)
        of_images, of_base = (score_once(what, score, each) for each in (images, base))
        finite(f"{what}: score", torch.stack([of_images, of_base], 1))
        change = of_images - of_base
    else:
        change = number_a_sample(what, "drop", drop, -torch.inf, torch.inf, "")
        length_matches(f"{what}: drop", len(change), len(images))
        same_device(f"{what}: drop", change, images, "images")
        require_finite(change, f"{what}: drop")
    miss = values.flatten(1).sum(1).to(change) - change
    return torch.where(miss == 0, 0, miss / change)


def non_sensitivity(heatmap: Tensor, drops: Tensor, masks: Tensor, *, threshold: float = 1e-3) -> Tensor:
    """Non-sensitivity: the number of regions of which a map says that they do not matter where they do, or the reverse.

    A region does not matter to the map where the sum of its magnitudes is at most a share of the largest sum, and to
    the score where the magnitude of the drop is at most that share of the largest drop. Below a thousandth, the
    rounding of float32 decides.

    Source: arXiv 2007.07584: the symmetric difference of the two sets, of features.

    Args:
        heatmap: (B, *S); resized linearly to T where S differs. Its sign has no effect.
        drops: (B, n), from `drops`.
        masks: those that `drops` took, (n, *T) or (n, B, *T), bool.
        threshold: the share.

    Returns:
        (B,), 0 to n, lower is better. No region of a map of zeros matters to it.

    Raises:
        CamfnError: a threshold outside [0, 1), other shapes, NaN or infinity, naming the samples.

    Example:
        >>> from camfn.metrics import grid_cells
        >>> masks, lost = grid_cells((1, 4), (1, 4)), torch.tensor([[0.0, 0.0, 2.0, 1.0]])
        >>> non_sensitivity(torch.tensor([[[0.0, 1.0, 5.0, 0.0]]]), lost, masks)
        tensor([2.])
    """
    what = "non_sensitivity"
    number(f"{what}: threshold", threshold, "[0, 1)")
    sums = sums_of(what, as_maps(heatmap, f"{what}: heatmap").abs(), masks)
    lost = as_maps(drops, f"{what}: drops").abs()
    shapes_agree(f"{what}: drops", lost.shape, sums.shape)
    same_device(f"{what}: drops", lost, sums, "heatmap")
    told, true = (x > threshold * x.amax(1, keepdim=True) for x in (sums, lost))
    return (told != true).sum(1).to(sums.dtype)


def input_invariance(
    explain: Callable[[nn.Module, Tensor], Tensor], model: nn.Module, images: Tensor, *, shift: float | Tensor = 1.0
) -> Tensor:
    """Input invariance: how far a map moves when the images are shifted, and the network takes the shift back.

    `|E(f', x + m) - E(f, x)| / |E(f, x)|` with `f'(y) = f(y - m)`, which is the same network of the same images. The
    gradient does not move; the gradient times the input does, and integrated gradients from a baseline that stays. It
    costs two explanations.

    The paper and Quantus put the shift into the bias of the first layer, which padding with zeros makes another
    network at the border. This function subtracts it before the first layer.

    Source: arXiv 1711.00867.

    Args:
        explain: a model and images (B, C, *T) to maps (B, *S), always for the same classes, such as
            `lambda net, x: explainer(grad_cam, net, "layer4")(x, classes)`.
        model: takes the images as its first argument; stays unchanged.
        images: x, (B, C, *T).
        shift: m: a number, or a tensor that broadcasts to the images.

    Returns:
        (B,), not negative, 0 is best, up to rounding. For a map of zeros: 0 if it stays, otherwise infinite.

    Raises:
        CamfnError: a shift that does not broadcast, NaN or infinity in a map.

    Example:
        >>> net, images = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.ones(1, 1, 2, 2)
        >>> input_invariance(lambda net, x: x.sum(1), net, images)
        tensor([1.])
    """
    what = "input_invariance"
    check_model(model)
    as_images(what, images)
    function(f"{what}: explain", explain, 'such as lambda net, x: explainer(grad_cam, net, "layer4")(x, classes)')
    moved = baseline_of(what, shift, images)
    copy = deepcopy(model, {id(one): one for one in (*model.parameters(), *model.buffers())})

    def take_back(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if not args or not isinstance(args[0], Tensor):
            raise ArgumentTypeError(
                f"{what}: model: expected one that takes the images as its first argument, got "
                f"{describe(args[0]) if args else 'none by place'}"
            )
        return (args[0] - brought(moved[:1] if len(moved) != len(args[0]) else moved, args[0]), *args[1:])

    copy.register_forward_pre_hook(take_back)
    before, after = explain(model, images), explain(copy, images + moved)
    for maps, name in ((before, "the maps"), (after, "the maps of the shifted images")):
        if not isinstance(maps, Tensor) or not maps.ndim or len(maps) != len(images) or not maps.is_floating_point():
            raise CamfnError(f"{what}: explain: expected maps (B, *S), B = {len(images)}, got {describe(maps)}")
        require_finite(maps, f"{what}: {name}")
    shapes_agree(f"{what}: the maps of the shifted images", after.shape, before.shape)
    far, size = (euclidean(x.detach()) for x in (after - before, before))
    return torch.where(far == 0, far, far / size).to(before.dtype)
