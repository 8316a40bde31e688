"""Sanity checks that cost one explanation: of a network drawn anew, and of another class."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..._shared.checks import describe, function, generator_of, whole
from ..._shared.devices import brought
from ..._shared.errors import ArgumentTypeError, CamfnError
from ...image._checks import as_maps
from .._common.likeness import spearman
from .sanity import Redraw, copy_with, redrawn, resampled


def efficient_randomization(
    explain: Callable[[nn.Module], Tensor],
    model: nn.Module,
    *,
    generator: torch.Generator,
    bins: int = 100,
    redraw: Redraw = resampled,
) -> Tensor:
    """Efficient randomization test (eMPRT): how much more complex a map is once all parameters are drawn anew.

    `(H(E of the random network) - H(E)) / H(E)`, H the entropy of the histogram of the map's values. It compares no map
    with another, as `randomization` does, so noise in a map does not pass for a change. It costs two explanations.

    Source: arXiv 2405.02383; Quantus chooses the number of bins from all maps of a run, 100 is its default.

    Args:
        explain: a model to maps (B, *S), always of the same images and classes, such as
            `lambda net: explainer(grad_cam, net, "layer4")(images, classes)`.
        model: any module; stays unchanged.
        generator: draws the new values.
        bins: of the histogram, from the least to the largest value of each map.
        redraw: as in `randomized`.

    Returns:
        (B,), higher is better; 0 for a map that does not read the network. For a map whose values fill one bin: 0 if
        that of the random network does too, otherwise infinite.

    Raises:
        CamfnError: a model without parameters, NaN or infinity in a map, naming the samples.

    Example:
        >>> net = nn.Linear(4, 2)
        >>> maps = torch.arange(4.0)[None]
        >>> efficient_randomization(lambda net: maps, net, generator=torch.Generator().manual_seed(0))
        tensor([0.])
    """
    what = "efficient_randomization"
    function(f"{what}: explain", explain, "from a model to maps, such as lambda model: explainer(...)(images)")
    whole(f"{what}: bins", bins, 2)
    before = _histogram_entropy(f"{what}: the map", explain(model), bins)
    drawn = deque(redrawn(model, generator, None, redraw, cascading=True), maxlen=1)
    if not drawn:
        raise CamfnError(f"{what}: model: expected one with parameters to draw anew, got {type(model).__name__}")
    ((_, values),) = drawn
    after = _histogram_entropy(f"{what}: the map of the random network", explain(copy_with(model, values)), bins)
    if after.shape != before.shape:
        raise CamfnError(f"{what}: explain: expected {len(before)} maps for each model, got {len(after)}")
    rise = (after - before) / before
    return torch.where(after == before, 0, rise)


def random_logit(
    explain: Callable[[Tensor], Tensor],
    classes: Tensor,
    count: int,
    *,
    generator: torch.Generator,
    similarity: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Random logit test: the similarity of the maps of a class and of another one, drawn for each sample.

    A map that ignores the class has 1. Two classes that look alike have similar maps for good reason. It costs two
    explanations.

    Source: arXiv 1912.09818; SSIM there, as `similarity=lambda a, b: ssim(normalize(a), normalize(b))`.

    Args:
        explain: classes (B,) to maps (B, *S), always of the same images, such as `lambda c: explain(images, c)`.
        classes: (B,), integers.
        count: number of classes of the network.
        generator: draws the other classes, on its own device.
        similarity: two batches of maps to (B,); by default `spearman`.

    Returns:
        (B,), lower is better; in [-1, 1] for `spearman`, which is 1 for two constant maps.

    Raises:
        CamfnError: a class out of range, a single class, NaN or infinity in a map.

    Example:
        >>> maps = torch.arange(12.0).reshape(3, 4)
        >>> random_logit(lambda c: maps[c], torch.tensor([0, 2]), 3, generator=torch.Generator().manual_seed(0))
        tensor([1., 1.])
    """
    function("random_logit: explain", explain, "from classes to maps, such as lambda c: explain(images, c)")
    if similarity is not None:
        function("random_logit: similarity", similarity, "from two batches of maps to (B,), or None for spearman")
    whole("random_logit: count", count, 2)
    generator_of("random_logit", generator)
    if not isinstance(classes, Tensor) or classes.ndim != 1 or classes.dtype.is_floating_point or classes.is_complex():
        raise ArgumentTypeError(f"random_logit: classes: expected integers (B,), got {describe(classes)}")
    if bool(((classes < 0) | (classes >= count)).any()):
        raise CamfnError(f"random_logit: classes: expected classes from 0 to {count - 1}, got {classes.tolist()[:8]}")
    step = torch.randint(1, count, classes.shape, generator=generator, device=generator.device)
    others = (classes + brought(step, classes)) % count
    return (similarity or spearman)(explain(classes).detach(), explain(others).detach())


def _histogram_entropy(name: str, maps: Tensor, bins: int) -> Tensor:
    """Entropy of the histogram of each map (B, *S), from its least to its largest value, in nats, (B,)."""
    values = as_maps(maps, name).detach().flatten(1)
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    width = torch.where(high == low, 1, high - low)
    places = ((values - low) / width * bins).long().clamp(max=bins - 1)
    counts = torch.zeros(len(values), bins, dtype=values.dtype, device=values.device)
    counts = counts.scatter_add(1, places, torch.ones_like(values))
    nats: Tensor = torch.special.entr(counts / values.shape[1]).sum(1)
    return nats
