"""T7: whether a metric orders maps that get worse step by step: replaced by their shuffle, or with values moved."""

# tested in tests/evaluate/suite/test_laws.py

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ...image import normalize
from ...metrics import spearman
from .._inputs.cases import Case
from .._inputs.photos import Photo
from .._inputs.protocol import Protocol
from .._measures.core import failed, settle
from .._measures.memo import Scores
from .._measures.metrics import Explanation, Metric
from .._measures.own import metrics_of
from .._measures.row import Row
from .._measures.seen import Seen
from .asked import Asked
from .degrade import Degrade, blended, permuted
from .explain import CONTROLS, Explained, Explainer, control
from .measures import MEASURES, Tables, tiny_measures
from .sources import Photos

UNGRADED = ("max_box_acc", "max_box_acc_v2")
"""Metrics of a set of photos, which have no number of one map."""

_STEP, _NOISE, _NOISY, _ROAD = 0.2, 10, 2, (0.3, 0.6)
"""Settings of metrics while they are graded: fewer steps and samples than a table takes."""


class Grade:
    """One picture, and a map at several levels of shuffling.

    Args:
        context: what all units have in common.
        name: grade/ and the name of the picture.
        metrics: words of the metrics; None for all of `METRICS`.
    """

    def __init__(self, context: Any, name: str, metrics: tuple[Any, ...] | None) -> None:
        self.context, self.name = context, name.partition("/")[2]
        suite = context.suite
        self.protocol = Protocol(
            metrics,
            step=_STEP,
            infidelity_samples=_NOISE,
            sensitivity_samples=_NOISY,
            road_shares=_ROAD,
            seed=suite.seed,
            chunk_size=suite.chunk_size,
        )
        self.metrics = {name: each for name, each in metrics_of(self.protocol).items() if name not in UNGRADED}
        self.problems: dict[str, Row] = {}

    @cached_property
    def asked(self) -> Asked:
        """The picture, and the first of its classes."""
        asked: Asked = self.context.source.picture(self.name, self.context.model, 1)
        removed = asked.removed.to(self.context.device) if isinstance(asked.removed, Tensor) else asked.removed
        return asked._replace(images=asked.images.to(self.context.device), removed=removed)

    @cached_property
    def tables(self) -> Tables:
        """What the suite's own measures share; both ways of making a map worse take one ceiling of the picture."""
        context = self.context
        return Tables(context.model.model, self.asked, context.suite, self.name, context.shared.ceilings)

    @cached_property
    def seen(self) -> Seen:
        """The picture as the metrics of an evaluation see it."""
        source, loaded, device = self.context.source, self.context.model, self.context.device
        if isinstance(source, Photos):
            photo = source.photo(self.name)
            return Seen(photo, photo.read(), loaded, self.protocol, device, self.context.shared)
        dummy, image, size = Image.new("RGB", (1, 1)), self.asked.images[0].cpu(), self.asked.images.shape[2:]
        black = torch.zeros_like(image)
        prepared = loaded._replace(
            preprocess=lambda photo: image if photo is dummy else black, view=lambda photo: photo
        )
        photo = Photo(self.name, Path(), "0")
        seen = Seen(photo, dummy, prepared, self.protocol, device, self.context.shared)
        seen.boxes = _box_of(self.asked.own, size).to(device)
        seen.score, seen.index = self.asked.explained, int(self.asked.names[0])
        vars(seen)["scores"] = Scores(self.asked.score(self.context.model.model), self.asked.images)
        return seen

    def explain(self, case: Case) -> Explained:
        """Make the map that is shuffled: of a method, or a control."""
        self.case = case
        if case.method in CONTROLS:
            return Explained(scaled(control(case.method, self.asked, self.context.suite, self.name)))
        model = self.context.model.model
        found = self._explainer(model, self.asked)(case)
        return found._replace(maps=scaled(found.maps))

    def measure(self, maps: Tensor) -> dict[str, Tensor]:
        """Return each metric at each level; a metric that has no number at some level has none."""
        self.problems.clear()
        found: dict[str, list[float]] = {}
        for level in self.context.suite.levels:
            for name, value in self._at(maps, self.worse(maps[0].numel(), level)).items():
                found.setdefault(name, []).append(value)
        whole = {name: values for name, values in found.items() if len(values) == len(self.context.suite.levels)}
        vectors = {name: torch.tensor(values, dtype=torch.float64) for name, values in whole.items()}
        for name, vector in vectors.items():
            if not bool(vector.isfinite().all()):
                words = "gives no finite number at some level of the shuffle, and has no grade"
                self.problems[name] = Row(self.name, problem=words)
        return {name: vector for name, vector in vectors.items() if name not in self.problems}

    def said(self, row: Row) -> Row:
        """Write to a row why metrics have no number: the error of one leaves the others theirs."""
        found = self.problems.values()
        kinds = {each.kind for each in found}
        return row._replace(
            problem=" ".join(f"{name}: {each.problem}" for name, each in self.problems.items()),
            kind="accident" if "accident" in kinds else "refusal" if "refusal" in kinds else "",
            traceback="\n".join(each.traceback for each in found if each.traceback),
        )

    def worse(self, count: int, level: float) -> Degrade:
        """Return what makes maps of so many values worse: the same permutation at each level."""
        return blended(count, level, self.context.suite.generator(self.name, "shuffle"))

    def _at(self, maps: Tensor, worse: Degrade) -> dict[str, float]:
        """Measure a map made worse; explanations made again are made worse in the same way."""
        cam = worse(maps).to(self.asked.images)
        vectors = self.tables.measures(cam, ("single", "groups", "ceiling"))
        if self.asked.own is not None and self.asked.other is not None:
            vectors |= tiny_measures(cam.cpu(), self.asked.own, self.asked.other)
        found = {name: float(vector[0]) for name, vector in vectors.items() if name in MEASURES}
        explanation = Explanation(self.seen, cam, lambda model, images: worse(self._again(model, images, maps)))
        for name, metric in self.metrics.items():
            number = self._number(name, metric, explanation)
            if number is not None:
                found[name] = number
        return found

    def _number(self, name: str, metric: Metric, explanation: Explanation) -> float | None:
        """Measure one number; None for a metric that fails, which the row says once."""
        if name in self.problems or (metric.boxes and not len(explanation.boxes)):
            return None
        try:
            measured = metric.measure(explanation)
        except Exception as error:
            settle(self.context.device, error)
            self.problems[name] = failed(Row(self.name), error)
            return None
        return float(measured[0] if isinstance(measured, tuple) else measured)

    def _again(self, model: nn.Module, images: Tensor, maps: Tensor) -> Tensor:
        """Explain other images, or another model, in the same way, without the shuffle."""
        if self.case.method in CONTROLS:
            return maps.to(images)
        asked = self.asked._replace(images=images)
        return scaled(self._explainer(model, asked).maps(self.case)).to(images)

    def _explainer(self, model: nn.Module, asked: Asked) -> Explainer:
        context = self.context
        return Explainer(model, asked, context.suite, self.name, context.shared.layers, context.one_forward)


class Partial(Grade):
    """The same by F-Fidelity's degradation: a share of the map's values change places among themselves."""

    def worse(self, count: int, level: float) -> Degrade:
        """Return what makes maps of so many values worse: another draw at each level, as in the authors' code."""
        return permuted(count, level, self.context.suite.generator(self.name, "partial", repr(level)))


def scaled(maps: Tensor) -> Tensor:
    """Clip and scale a map, as the metrics of an evaluation take it, before it is shuffled."""
    return pooled(normalize(maps))


def pooled(maps: Tensor, most: int = 32) -> Tensor:
    """Reduce a map of the picture's size: a shuffle of single pixels would vanish when the map is smoothed."""
    factor = max(1, max(maps.shape[1:]) // most)
    return nn.functional.avg_pool2d(maps[:, None], factor)[:, 0] if factor > 1 else maps


def order_of(values: Sequence[float], better: int) -> float:
    """Return how well a metric orders levels of noise: 1 if each level is worse than the one before, 0 for a constant.

    Args:
        values: of the metric, level by level.
        better: 1 if higher is better, -1 if lower is; 0 counts as 1.

    Example:
        >>> order_of([3.0, 2.0, 1.0], 1), order_of([3.0, 2.0, 1.0], -1), order_of([1.0, 1.0, 1.0], 1)
        (1.0, -1.0, 0.0)
    """
    return orders_of(torch.tensor([list(values)], dtype=torch.float64), better)[0]


def orders_of(values: Tensor, better: int) -> list[float]:
    """Return `order_of` of each row, (N, levels): many draws of photos are ranked at once."""
    worse = -(better or 1) * values
    constant = (worse == worse[:, :1]).all(1).tolist()
    found = spearman(torch.arange(worse.shape[1], dtype=torch.float64).expand_as(worse), worse).tolist()
    return [0.0 if same else round(one, 9) for same, one in zip(constant, found, strict=True)]


def _box_of(own: Tensor | None, size: torch.Size) -> Tensor:
    """Return the box around the mask of the own object, (1, 4), or (0, 4)."""
    if own is None:
        return torch.zeros(0, 4)
    rows, columns = own[0].nonzero().T
    return torch.tensor([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], dtype=torch.float32)
