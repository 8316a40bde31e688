"""The metrics of one explanation, by name: `camfn.metrics` computes each, and values that several share are cached."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ... import image, metrics
from .seen import Seen

THRESHOLDS = tuple(k / 20 for k in range(1, 20))
"""Shares of a map's maximum at which MaxBoxAcc draws boxes."""

REDRAWN = 4
"""Number of modules, from the head down, whose parameters randomization draws anew one after the other."""


class Explanation:
    """A map, with the model and the photo that the metrics read.

    Args:
        seen: the photo before the model, and what all methods share of it.
        cam: (1, *S), raw.
        explain: a model and images to the raw map, by the same method for the same class.
    """

    def __init__(self, seen: Seen, cam: Tensor, explain: Callable[[nn.Module, Tensor], Tensor]) -> None:
        self.seen = seen
        self.model, self.images, self.boxes = seen.model, seen.images, seen.boxes
        self.cam = cam
        self.explain = explain
        self.protocol = seen.protocol
        self.name = seen.photo.name
        self.removed = seen.black if seen.protocol.removed == "black" else 0.0
        self.heatmap = self.rescaled(cam)
        self.score = seen.scores

    def rescaled(self, cam: Tensor) -> Tensor:
        """Scale a raw map to [0, 1], and resize it to the images."""
        return image.upsample(image.normalize(cam), self.images.shape[2:])

    def generator(self, what: str) -> torch.Generator:
        """Return a generator for one use (`what`) on this photo."""
        return self.protocol.generator(self.name, what)

    @cached_property
    def before(self) -> Tensor:
        """The score of the images, (1,)."""
        return self.score(self.images)

    @cached_property
    def masked(self) -> Tensor:
        """The images, masked by the heatmap."""
        return metrics.masked(self.images, self.heatmap, baseline=self.removed)

    @cached_property
    def after(self) -> Tensor:
        """The score of the masked images, (1,)."""
        return self.score(self.masked)

    @cached_property
    def region(self) -> list[Tensor]:
        """The boxes, as the metrics take them."""
        return [self.boxes]

    @cached_property
    def masks(self) -> Tensor:
        """The pixels in the boxes, (1, H, W)."""
        return metrics.box_masks(self.region, self.heatmap.shape[1:])

    @cached_property
    def coherency(self) -> Tensor:
        """Coherency of the map with that of the masked images, (1,)."""
        return metrics.coherency(self.heatmap, self.rescaled(self.explain(self.model, self.masked)))

    @cached_property
    def road(self) -> Tensor:
        """Combined ROAD, (1,)."""
        shares = self.protocol.road_shares
        return metrics.road_combined(
            self.score, self.images, self.heatmap, shares=shares, generator=self.generator("road")
        )

    def curve(self, metric: Callable[..., metrics.Curve]) -> metrics.Curve:
        """Compute insertion, deletion or pixel flipping with the settings of the protocol."""
        baseline = {} if metric is metrics.insertion else {"baseline": self.removed}
        step, chunk = self.protocol.step, self.protocol.chunk_size
        return metric(self.score, self.images, self.heatmap, step=step, chunk_size=chunk, **baseline)


class Metric(NamedTuple):
    """A metric, and how a run handles it.

    Attributes:
        better: 1 if higher is better, -1 if lower is better, 0 if the metric only describes the map.
        measure: a function of an explanation that returns a number, (1,), or a number and a vector.
        about: the metric in a few words.
        boxes: whether it needs boxes.
        again: number of explanations that it makes beyond the first.
        join: for a metric that is not the mean over photos, a function of the vectors of all photos, (n, T).
        name: of a metric of one's own: its name in tables, which ends in `:better=higher` or the like.
    """

    better: int
    measure: Callable[[Explanation], Tensor | tuple[Tensor, Tensor]]
    about: str
    boxes: bool = False
    again: int = 0
    join: Callable[[Tensor], Tensor] | None = None
    name: str = ""


def _auc(metric: Callable[..., metrics.Curve]) -> Callable[[Explanation], tuple[Tensor, Tensor]]:
    """Measure the area under a curve, and keep the curve."""

    def measure(e: Explanation) -> tuple[Tensor, Tensor]:
        curve = e.curve(metric)
        return curve.auc, curve.scores[0]

    return measure


def _flipping(e: Explanation) -> tuple[Tensor, Tensor]:
    """Measure the area over the curve of pixel flipping, and keep the curve."""
    curve = e.curve(metrics.pixel_flipping)
    return curve.aopc, curve.scores[0]


def _ious(parts: Literal["largest", "all"]) -> Callable[[Explanation], tuple[Tensor, Tensor]]:
    """Measure the best IoU over all thresholds, and keep the IoU at each."""

    def measure(e: Explanation) -> tuple[Tensor, Tensor]:
        ious = metrics.box_ious(e.heatmap, e.region, thresholds=THRESHOLDS, parts=parts)
        return ious.amax(1), ious[0]

    return measure


def _infidelity(e: Explanation) -> Tensor:
    samples, chunk = e.protocol.infidelity_samples, e.protocol.chunk_size
    generator = e.generator("infidelity")
    return metrics.infidelity(e.score, e.images, e.heatmap, samples=samples, generator=generator, chunk_size=chunk)


def _sensitivity(e: Explanation) -> Tensor:
    generator, samples = e.generator("max_sensitivity"), e.protocol.sensitivity_samples
    # one by one, so that methods share the captures of the noisy images
    return metrics.max_sensitivity(
        lambda x: e.explain(e.model, x), e.images, samples=samples, generator=generator, chunk_size=1
    )


def _randomization(e: Explanation) -> Tensor:
    """Measure the mean similarity while the last children of the network are drawn anew, from the head down."""
    children = [name for name, child in e.model.named_children() if any(True for _ in child.parameters())]
    names = list(reversed(children))[:REDRAWN]
    generator = e.generator("randomization")
    cascade = metrics.randomization(lambda net: e.explain(net, e.images), e.model, generator=generator, names=names)
    return cascade.similarity.mean(1)


METRICS: dict[str, Metric] = {
    "energy_in_box": Metric(
        1, lambda e: metrics.energy_in_box(e.heatmap, e.region), "share of the map in the boxes", boxes=True
    ),
    "iou": Metric(
        1,
        lambda e: metrics.iou(e.heatmap, e.region),
        "overlap of the map above a fifth of its maximum with the boxes",
        boxes=True,
    ),
    "pxap": Metric(
        1, lambda e: metrics.pxap(e.heatmap, e.masks), "average precision of the pixels against the boxes", boxes=True
    ),
    "max_box_acc": Metric(
        1,
        _ious("largest"),
        "share of photos whose box is found at the best threshold",
        boxes=True,
        join=metrics.max_box_acc,
    ),
    "max_box_acc_v2": Metric(
        1,
        _ious("all"),
        "max_box_acc with boxes around every part, over three bounds",
        boxes=True,
        join=lambda ious: metrics.max_box_acc(ious, at=(0.3, 0.5, 0.7)),
    ),
    "pointing_game": Metric(
        1, lambda e: metrics.pointing_game(e.heatmap, e.region), "whether the maximum lies in a box", boxes=True
    ),
    "average_drop": Metric(-1, lambda e: metrics.average_drop(e.before, e.after), "probability lost through the mask"),
    "average_increase": Metric(
        1, lambda e: metrics.average_increase(e.before, e.after), "whether the mask raises the probability"
    ),
    "average_gain": Metric(1, lambda e: metrics.average_gain(e.before, e.after), "probability won through the mask"),
    "deletion": Metric(-1, _auc(metrics.deletion), "area under the probability, most relevant pixels removed first"),
    "insertion": Metric(
        1, _auc(metrics.insertion), "area under the probability, most relevant pixels brought back first"
    ),
    "pixel_flipping": Metric(1, _flipping, "area over the probability, squares of 9 x 9 removed"),
    "road_combined": Metric(
        1,
        lambda e: e.road,
        "probability without the least less without the most relevant pixels, which neighbors fill in",
    ),
    "infidelity": Metric(-1, _infidelity, "how badly the map predicts what noise does to the probability"),
    "max_sensitivity": Metric(-1, _sensitivity, "how far noise moves the map", again=6),
    "randomization": Metric(-1, _randomization, "rank correlation with maps of networks drawn anew", again=1 + REDRAWN),
    "coherency": Metric(1, lambda e: e.coherency, "correlation with the map of the masked photo", again=1),
    "complexity": Metric(-1, lambda e: metrics.complexity(e.heatmap), "mean of the map"),
    "adcc": Metric(
        1,
        lambda e: metrics.adcc(e.coherency, metrics.complexity(e.heatmap), metrics.average_drop(e.before, e.after)),
        "harmonic mean of coherency, 1 - complexity, 1 - drop",
        again=1,
    ),
    "arcc": Metric(
        1,
        lambda e: metrics.arcc(e.coherency, metrics.complexity(e.heatmap), e.road),
        "harmonic mean of coherency, 1 - complexity, ROAD",
        again=1,
    ),
    "entropy": Metric(0, lambda e: metrics.entropy(e.heatmap), "spread of the map over pixels, in nats"),
    "sparseness": Metric(0, lambda e: metrics.sparseness(e.heatmap), "Gini index of the map"),
}
"""The metrics that a run measures, in the order of the columns."""
