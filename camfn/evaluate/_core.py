"""The pure core: one photo, the ways to explain it, and the numbers. Nothing is written here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from .. import diagnose
from .._photos.classes import pick_target
from .._photos.explain import Changes, captured_or_map, compose
from .._photos.head import check_cam
from .._photos.layer import Layer, choose_layer
from .._shared.errors import PhotoError, UsageError
from ..catalogue import find, info_of
from ..metrics import boxes_in_pixels
from ..targets import logits_of
from ..zoo import Loaded
from ._cases import BASELINES, Case, center, method_of
from ._cost import flops_of, forward_flops
from ._measures import METRICS, Explanation, measured
from ._photos import Photo, boxes_in_view
from ._protocol import Protocol


class Row(NamedTuple):
    """What came of one photo and one case; of a photo that cannot be read, one row without a case.

    Attributes:
        photo: its name.
        case: as `str(Case)`, empty for a photo that cannot be read.
        layer: the layer that was explained.
        target: the class that was explained.
        probability: that the model gives it.
        forwards: operations of the explanation over those of one forward; 1 is one forward.
        seconds: time of the explanation.
        problem: why there are no numbers, or why some are missing, or why the map shows nothing; empty if all is well.
        values: metric to number; what could not be measured is missing.
        vectors: what numbers were made of: curves, and the IoUs of MaxBoxAcc.
        cam: the raw map, (h, w); None where there is none.
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
    photo: Photo, cases: Sequence[Case], loaded: Loaded, protocol: Protocol, *, device: torch.device | str = "cpu"
) -> Iterator[Row]:
    """Explain one photo in several ways, and measure each; a row depends on nothing but the arguments.

    What a method or a metric refuses is told in the row; errors of other kinds are raised.

    Args:
        photo: with its class, unless the protocol takes the model's, and with boxes if it has any.
        cases: of one model, `loaded`.
        loaded: from `zoo.load`, on the device.
        protocol: how it is measured.
        device: where to run.

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
    # channels last in memory, in which convolutions on the CPU are faster
    images = loaded.preprocess(picture)[None].to(device, memory_format=torch.channels_last)
    black = loaded.preprocess(Image.new("RGB", picture.size))[None].to(device)
    size = tuple(images.shape[2:])
    fractions = boxes_in_view(photo.boxes, picture.size, loaded.view)
    boxes = boxes_in_pixels(torch.tensor(fractions).reshape(-1, 4), size).to(device)
    with torch.no_grad():
        logits = logits_of(loaded.model(images)).float()
    index = class_of(photo, loaded, protocol)
    index = int(logits.argmax()) if index is None else index
    unit = forward_flops(loaded.model, images)
    layers: dict[tuple[str, bool], Layer] = {}
    for case in cases:
        row = Row(photo.name, str(case), target=index, probability=logits.softmax(1)[0, index].item())
        try:
            asked = _Asked(case, loaded.model, images, index, protocol, photo.name, layers)
            if case.method in BASELINES:
                row = row._replace(layer="", forwards=0.0, seconds=0.0, cam=asked.baseline()[0].cpu())
            else:
                row = _timed(row, asked, unit, logits)
        except (ValueError, RuntimeError) as error:
            yield row._replace(problem=_line(error))
            continue
        explained = row.cam is not None and bool(row.cam.isfinite().all())
        yield _measured(row, asked, black, boxes) if explained else row


def class_of(photo: Photo, loaded: Loaded, protocol: Protocol) -> int | None:
    """The class to explain; None for the one the model says.

    Raises:
        UsageError: the photo has no class, or the model does not know it.
    """
    if protocol.target == "top":
        return None
    if photo.label is None:
        raise UsageError(f"{photo.name}: its class is not known: put photos in CLASS/PHOTO, or take --target top")
    try:
        return pick_target(photo.label, loaded).chosen
    except UsageError:
        # folders are often named with underscores
        return pick_target(photo.label.replace("_", " "), loaded).chosen


def layer_of(
    case: Case,
    method: Callable[..., Tensor],
    model: nn.Module,
    images: Tensor,
    known: dict[tuple[str, bool], Layer] | None = None,
) -> Layer | None:
    """The layer of a case; None for a method of the whole network.

    Raises:
        UsageError: there is no such layer, or it gives no map.
    """
    info = info_of(method)
    if not info.takes_layer:
        return None
    known = {} if known is None else known
    key = (case.layer, info.kind == "attention")
    if key not in known:
        known[key] = choose_layer(model, images, None if case.layer == "auto" else case.layer, method)
    return known[key]


class _Asked:
    """A case, made into a function of a model and images."""

    def __init__(
        self,
        case: Case,
        model: nn.Module,
        images: Tensor,
        index: int,
        protocol: Protocol,
        name: str,
        layers: dict[tuple[str, bool], Layer],
    ) -> None:
        self.case, self.model, self.images, self.index, self.protocol, self.name = (
            case,
            model,
            images,
            index,
            protocol,
            name,
        )
        if case.method not in BASELINES:
            self.layer = layer_of(case, self.method(), model, images, layers)

    def method(self) -> Callable[..., Tensor]:
        """With a generator that starts anew: what a method draws is the same each time it explains this photo."""
        return method_of(self.case, self.protocol.generator(self.name, str(self.case)))

    def baseline(self) -> Tensor:
        height, width = self.images.shape[2:]
        if self.case.method == "center":
            return center(height, width).to(self.images)
        return torch.rand(
            1, -(-height // 32), -(-width // 32), generator=self.protocol.generator(self.name, "random")
        ).to(self.images)

    def explain(self, model: nn.Module, images: Tensor) -> Tensor:
        return self.explain_watched(model, images)[0]

    def explain_watched(self, model: nn.Module, images: Tensor) -> tuple[Tensor, list[str | None]]:
        """The map, and why it shows nothing."""
        if self.case.method in BASELINES:
            return self.baseline(), [None]
        target = torch.tensor([self.index], device=images.device)
        chunk = self.protocol.chunk_size
        explain, captured = compose(self.method(), model, self.layer, target, Changes(), chunk, None)
        cam = explain(images, target)
        return cam, diagnose(captured_or_map(captured, cam), cam)


def _timed(row: Row, asked: _Asked, unit: int, logits: Tensor) -> Row:
    """Explain, count and time."""
    started = perf_counter()
    (cam, problems), count = flops_of(lambda: asked.explain_watched(asked.model, asked.images))
    if cam.is_cuda:
        torch.cuda.synchronize(cam.device)
    seconds = perf_counter() - started
    if asked.layer is not None and "head" in find(asked.case.method).needs:
        check_cam(asked.model, asked.layer, cam, torch.tensor([asked.index], device=cam.device), logits)
    return row._replace(
        layer=asked.layer.name if asked.layer else "",
        forwards=count / unit if unit else None,
        seconds=seconds,
        problem=_line(problems[0] or ""),
        cam=cam[0].detach().float().cpu(),
    )


def _measured(row: Row, asked: _Asked, black: Tensor, boxes: Tensor) -> Row:
    """Add the metrics; one that refuses is told, and the others stay."""
    assert row.cam is not None
    protocol, problems = asked.protocol, [row.problem] if row.problem else []
    values: dict[str, float] = {}
    vectors: dict[str, list[float]] = {}
    explanation = Explanation(
        asked.model,
        asked.images,
        row.cam[None].to(asked.images),
        asked.index,
        asked.explain,
        black,
        boxes,
        protocol,
        row.photo,
    )
    for name in measured(protocol):
        metric = METRICS[name]
        if (metric.boxes and not len(boxes)) or metric.again * (row.forwards or 0) > protocol.budget:
            continue
        try:
            found = metric.measure(explanation)
        except (ValueError, RuntimeError) as error:
            problems.append(f"{name}: {_line(error)}")
            continue
        if isinstance(found, tuple):
            found, vectors[name] = found[0], found[1].tolist()
        values[name] = found.item()
    return row._replace(values=values, vectors=vectors, problem=" ".join(problems))


def _line(words: object) -> str:
    return " ".join(str(words).split())
