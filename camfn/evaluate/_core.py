"""The pure core: explain one photo in several ways and measure each, without writing to the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from .. import diagnose
from .._photos.classes import columns_of
from .._photos.explain import Changes, captured_or_map, compose
from .._photos.layer import Layer, choose_layer
from .._shared.errors import PhotoError
from .._shared.given import raised_by_given
from .._shared.vocabulary import ScoreFn, Target
from ..catalogue import info_of
from ..metrics import boxes_in_pixels
from ..targets import class_probability, pin
from ..zoo import Loaded
from ._cases import BASELINES, Case, center, method_of
from ._cost import flops_of
from ._measures import Explanation
from ._own import metrics_of
from ._photos import Photo, boxes_in_view
from ._protocol import Protocol
from ._target import choice_of
from ._work import Layers


class Row(NamedTuple):
    """The numbers of one photo and one case; a photo that cannot be read has one row without a case.

    Attributes:
        photo: name of the photo.
        case: `str(Case)`; empty for a photo that cannot be read.
        layer: name of the layer that the method explains.
        target: index of the class that the method explains.
        probability: the model's probability of that class.
        forwards: operations of the explanation over those of one forward; 1 is one forward.
        seconds: time of the explanation.
        problem: why numbers are missing, or why the map shows nothing; empty if all is well.
        values: metric to number, without the metrics that could not be measured.
        vectors: metric to the vector behind its number: curves, and the IoUs of MaxBoxAcc.
        cam: the raw map, (h, w), or None.
    """

    photo: str
    case: str = ""
    layer: str = ""
    target: int | None = None
    probability: float | None = None
    forwards: float | None = None
    seconds: float | None = None
    problem: str = ""
    values: dict[str, float] = {}  # noqa: RUF012  never written to
    vectors: dict[str, list[float]] = {}  # noqa: RUF012
    cam: Tensor | None = None


def evaluate_photo(
    photo: Photo,
    cases: Sequence[Case],
    loaded: Loaded,
    protocol: Protocol,
    *,
    device: torch.device | str = "cpu",
    layers: Layers | None = None,
) -> Iterator[Row]:
    """Explain one photo in several ways, and measure each; a row depends on the arguments alone.

    `evaluate_photo` stores a ValueError or a RuntimeError of a method or a metric in the row's `problem`; any other
    error stops the run.

    Args:
        photo: a photo with its class, unless `protocol.target` is "top"; its boxes may be unknown.
        cases: cases of one model, `loaded`.
        loaded: from `zoo.load`, on the device.
        protocol: the settings of the measurement.
        device: where to run.
        layers: layers of this model found for earlier photos; new ones are added.

    Yields:
        A row for each case, in order; for a photo that cannot be read, one without a case.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from camfn.zoo import load
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "cat.png"
        ...     Image.new("RGB", (64, 64), "red").save(path)
        ...     photo = Photo("cat", path, "281", ((0.25, 0.25, 0.75, 0.75),))
        ...     loaded = load("torchvision:resnet18", weights="none")
        ...     case = Case("torchvision:resnet18", "layer4", "grad_cam")
        ...     rows = list(evaluate_photo(photo, [case], loaded, Protocol(metrics=("energy_in_box",))))
        >>> list(rows[0].values), round(rows[0].forwards)
        (['energy_in_box'], 1)
    """
    try:
        picture = photo.read()
    except PhotoError as error:
        yield Row(photo.name, problem=_line(error))
        return
    # convolutions on the CPU are faster on channels-last memory
    images = loaded.preprocess(picture)[None].to(device, memory_format=torch.channels_last)
    black = loaded.preprocess(Image.new("RGB", picture.size))[None].to(device)
    size = tuple(images.shape[2:])
    fractions = boxes_in_view(photo.boxes, picture.size, loaded.view)
    boxes = boxes_in_pixels(torch.tensor(fractions).reshape(-1, 4), size).to(device)
    choice = choice_of(photo, loaded, protocol)
    with torch.no_grad():
        outputs, one_forward = flops_of(lambda: loaded.model(images))
    (picked,) = choice.pick(outputs)
    score = pin(picked.score, outputs)
    index = None if picked.classes is None else int(picked.classes[0])
    with_class = index is not None and columns_of(outputs).shape[1] > 1 and choice.form not in ("higher", "lower")
    probability = class_probability(index)(outputs)[0].item() if with_class else None
    layers = {} if layers is None else layers
    for case in cases:
        row = Row(photo.name, str(case), target=index, probability=probability)
        try:
            photo_run = _PhotoRun(case, loaded.model, images, score, protocol, photo.name, layers)
            if case.method in BASELINES:
                row = row._replace(layer="", forwards=0.0, seconds=0.0, cam=photo_run.baseline()[0].cpu())
            else:
                row = _explained(row, photo_run, one_forward)
        except (ValueError, RuntimeError) as error:
            yield row._replace(problem=_said(error))
            continue
        has_map = row.cam is not None and bool(row.cam.isfinite().all())
        measured_score = index if with_class and index is not None else score
        yield _measured(row, photo_run, measured_score, black, boxes) if has_map else row


def layer_of(
    case: Case,
    method: Callable[..., Tensor],
    model: nn.Module,
    images: Tensor,
    known: Layers | None = None,
    target: Target = None,
) -> Layer | None:
    """Choose the layer of a case; None for a method of the whole network.

    Args:
        case: a case whose method is not a baseline.
        method: its function.
        model: its model.
        images: images of the shape that the model is run on. The layer is found on noise of this shape, so that it does
            not depend on the photo.
        known: layers of this model chosen before; new ones are added.
        target: what a suggested layer is to depend on; None for the top class.

    Raises:
        UsageError: there is no such layer, or it gives no map.
    """
    info = info_of(method)
    if not info.takes_layer:
        return None
    known = {} if known is None else known
    key = (case.layer, info.kind == "attention", images.shape)
    if key not in known:
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).to(images)
        known[key] = choose_layer(model, noise, None if case.layer == "auto" else case.layer, method, target)
    return known[key]


class _PhotoRun:
    """One case on one photo, as a function of a model and images."""

    def __init__(
        self,
        case: Case,
        model: nn.Module,
        images: Tensor,
        score: ScoreFn,
        protocol: Protocol,
        name: str,
        layers: Layers,
    ) -> None:
        self.case = case
        self.model = model
        self.images = images
        self.score = score
        self.protocol = protocol
        self.name = name
        if case.method not in BASELINES:
            self.layer = layer_of(case, self.method(), model, images, layers, score)

    def method(self) -> Callable[..., Tensor]:
        """Return the method with a new generator, so that each explanation of this photo draws the same numbers."""
        return method_of(self.case, self.protocol.generator(self.name, str(self.case)))

    def baseline(self) -> Tensor:
        """Return the map of the center or the random baseline, (1, h, w)."""
        height, width = self.images.shape[2:]
        if self.case.method == "center":
            return center(height, width).to(self.images)
        return torch.rand(
            1, -(-height // 32), -(-width // 32), generator=self.protocol.generator(self.name, "random")
        ).to(self.images)

    def explain(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return the raw map of the images by this case."""
        return self.explain_and_diagnose(model, images)[0]

    def explain_and_diagnose(self, model: nn.Module, images: Tensor) -> tuple[Tensor, list[str | None]]:
        """Return the raw map, and for each image why its map shows nothing, or None."""
        if self.case.method in BASELINES:
            return self.baseline(), [None]
        chunk = self.protocol.chunk_size
        explain, captured = compose(self.method(), model, self.layer, Changes(), chunk, None)
        cam = explain(images, self.score)
        return cam, diagnose(captured_or_map(captured, cam), cam)


def _explained(row: Row, photo_run: _PhotoRun, one_forward: int) -> Row:
    """Explain the photo, and add the map, its cost and its problem to the row."""
    started = perf_counter()
    (cam, problems), count = flops_of(lambda: photo_run.explain_and_diagnose(photo_run.model, photo_run.images))
    if cam.is_cuda:
        torch.cuda.synchronize(cam.device)
    seconds = perf_counter() - started
    return row._replace(
        layer=photo_run.layer.name if photo_run.layer else "",
        forwards=count / one_forward if one_forward else None,
        seconds=seconds,
        problem=_line(problems[0] or ""),
        cam=cam[0].detach().float().cpu(),
    )


def _measured(row: Row, photo_run: _PhotoRun, target: int | ScoreFn, black: Tensor, boxes: Tensor) -> Row:
    """Add the metrics to the row; the error of a metric goes into `problem`, and the other metrics stay."""
    assert row.cam is not None
    protocol, problems = photo_run.protocol, [row.problem] if row.problem else []
    values: dict[str, float] = {}
    vectors: dict[str, list[float]] = {}
    explanation = Explanation(
        photo_run.model,
        photo_run.images,
        row.cam[None].to(photo_run.images),
        target,
        photo_run.explain,
        black,
        boxes,
        protocol,
        row.photo,
    )
    for name, metric in metrics_of(protocol).items():
        if (metric.boxes and not len(boxes)) or metric.again * (row.forwards or 0) > protocol.budget:
            continue
        try:
            measurement = metric.measure(explanation)
        except (ValueError, RuntimeError) as error:
            problems.append(f"{name}: {_said(error)}")
            continue
        if isinstance(measurement, tuple):
            number, vector = measurement
            vectors[name] = vector.tolist()
        else:
            number = measurement
        values[name] = number.item()
    return row._replace(values=values, vectors=vectors, problem=" ".join(problems))


def _said(error: Exception) -> str:
    """Write an error as one line, with the place where a function of the user's own raised it."""
    place = raised_by_given(error)
    return _line(error) if place is None else _line(f"{type(error).__name__}: {error} ({place})")


def _line(words: object) -> str:
    """Write an error or a problem as one line."""
    return " ".join(str(words).split())
