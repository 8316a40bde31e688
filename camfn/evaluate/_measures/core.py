"""The pure core: explain one photo in several ways and measure each, without writing to the disk."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter

import torch
from torch import Tensor, nn

from ... import Captured, diagnose
from ..._cut.signature import read_signature
from ..._photos.explain import Changes, captured_or_map, check_map, compose
from ..._photos.layer import Layer, choose_layer
from ..._shared.errors import CamfnError, PhotoError, StoppedError
from ..._shared.given import raised_by_given
from ..._shared.rows import readable
from ..._shared.vocabulary import Target
from ...catalogue import METHODS, info_of
from ...zoo import Loaded
from .._inputs.cases import BASELINES, Case, center, method_of
from .._inputs.photos import Photo
from .._inputs.protocol import Protocol
from .cost import flops_of
from .memo import Layers, Shared, Taken, noise_like
from .metrics import Explanation, Metric
from .own import metrics_of
from .row import Row
from .seen import Seen


def evaluate_photo(
    photo: Photo,
    cases: Sequence[Case],
    loaded: Loaded,
    protocol: Protocol,
    *,
    device: torch.device | str = "cpu",
    shared: Shared | None = None,
) -> Iterator[Row]:
    """Explain one photo in several ways, and measure each; a row depends on the arguments alone.

    The error of a photo, a method or a metric is the `problem` of its row, and the next row goes on: a `CamfnError` is
    a refusal, any other error an accident with its traceback. Work that does not look at the map is done once for all
    cases: one forward chooses the target, one run captures a layer for all methods of activations and gradients, and
    the same perturbed images are scored once.

    Args:
        photo: a photo with its class, unless `protocol.target` is "top"; its boxes may be unknown.
        cases: cases of one model, `loaded`.
        loaded: from `zoo.load`, on the device.
        protocol: the settings of the measurement.
        device: where to run.
        shared: what photos of this model share, such as its layers; one `Shared()` for all calls.

    Yields:
        A row for each case, in order; for a photo that cannot be read, one without a case.

    Raises:
        StoppedError: the device itself has failed, so that no further row can be measured.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
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
    shared = shared or Shared()
    measures = metrics_of(protocol)
    try:
        picture = photo.read()
    except PhotoError as error:
        yield failed(Row(photo.name), error)
        return
    seen: Seen | None = None
    failure: Exception | None = None
    try:
        seen = Seen(photo, picture, loaded, protocol, device, shared)
    except Exception as error:
        settle(device, error)
        failure = error
    for case in cases:
        row = Row(photo.name, str(case), model=case.model, method=case.name)
        if seen is None:
            assert failure is not None
            yield failed(row, failure)
            continue
        row = row._replace(target=seen.index, probability=seen.probability)
        try:
            explained = _Explained(case, seen, shared.layers)
            row = explained.row(row)
        except Exception as error:
            settle(device, error)
            yield failed(row, error)
            continue
        has_map = row.cam is not None and bool(row.cam.isfinite().all())
        yield _measured(row, explained, measures) if has_map else row


def failed(row: Row, error: BaseException) -> Row:
    """Say in a row why it has no numbers: a refusal of camfn, or an accident with its traceback."""
    if not _is_accident(error):
        return row._replace(kind="refusal", problem=_line(error))
    told = "".join(traceback.format_exception(error))
    return row._replace(kind="accident", problem=_said(error), traceback=told)


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
        known[key] = choose_layer(
            model, noise_like(images), None if case.layer == "auto" else case.layer, method, target
        )
    return known[key]


class _Explained:
    """One case on one photo, as a function of a model and images."""

    def __init__(self, case: Case, seen: Seen, layers: Layers) -> None:
        self.case, self.seen, self.protocol = case, seen, seen.protocol
        self.layer: Layer | None = None
        self.shares = self.gradient = False
        if case.method in BASELINES:
            return
        method = self.method()
        self.layer = layer_of(case, method, seen.model, seen.images, layers, seen.score)
        info = info_of(method)
        if info.kind == "layer":
            needs = read_signature(method)
            # a user's own function may write to its arguments
            self.shares = info in METHODS and info.needs <= {"gradients"} and not (needs.context or needs.over_images)
            self.gradient, self.positional = needs.gradients, needs.positional

    def method(self) -> Callable[..., Tensor]:
        """Return the method with a new generator, so that each explanation of this photo draws the same numbers."""
        return method_of(self.case, self.protocol.generator(self.seen.photo.name, str(self.case)))

    def row(self, row: Row) -> Row:
        """Add the map, its cost and its problem to a row."""
        if self.case.method in BASELINES:
            return row._replace(forwards=0.0, seconds=0.0, cam=self.baseline()[0].cpu())
        images = self.seen.images
        # one run for all methods that read the same tensors: the cost of each is what it would be by itself
        taken = None
        if self.layer and self.shares:
            taken = self.seen.captures(self.layer, images, self.gradient, count=True)
        started = perf_counter()
        (cam, problem), count = flops_of(lambda: self._diagnosed(images, taken))
        if cam.is_cuda:
            torch.cuda.synchronize(cam.device)
        seconds, one = perf_counter() - started, self.seen.one_forward
        if taken:
            seconds, count = seconds + taken.seconds, count + taken.flops
        return row._replace(
            layer=self.layer.name if self.layer else "",
            forwards=count / one if one else None,
            seconds=seconds,
            problem=_line(problem or ""),
            cam=cam[0].detach().float().cpu(),
        )

    def baseline(self) -> Tensor:
        """Return the map of the center or the random baseline, (1, h, w)."""
        images = self.seen.images
        height, width = images.shape[2:]
        if self.case.method == "center":
            return center(height, width).to(images)
        generator = self.protocol.generator(self.seen.photo.name, "random")
        return torch.rand(1, -(-height // 32), -(-width // 32), generator=generator).to(images)

    def explain(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return the raw map of the images by this case."""
        if self.case.method in BASELINES:
            return self.baseline()
        if model is self.seen.model and self.layer and self.shares and readable(images):
            own = images is self.seen.images
            return self._of(self.seen.captures(self.layer, images, self.gradient, count=own))
        return self._composed(model, images)[0]

    def _diagnosed(self, images: Tensor, taken: Taken | None) -> tuple[Tensor, str | None]:
        """Return the raw map of the photo, and why it shows nothing, or None."""
        if taken:
            cam, captured = self._of(taken), taken.captured
        else:
            cam, captures = self._composed(self.seen.model, images)
            check_map(cam, 1, captures[-1].activations.ndim - 1 if captures else None)
            captured = captured_or_map(captures, cam)
        return cam, diagnose(captured, cam)[0]

    def _of(self, taken: Taken) -> Tensor:
        """Apply the method to what was captured."""
        with torch.no_grad():
            cam: Tensor = self.method()(*taken.captured[: self.positional])
        return cam

    def _composed(self, model: nn.Module, images: Tensor) -> tuple[Tensor, list[Captured]]:
        """Run the method by itself."""
        explain, captured = compose(self.method(), model, self.layer, Changes(), self.protocol.chunk_size, None)
        return explain(images, self.seen.score), captured


def _measured(row: Row, explained: _Explained, measures: Mapping[str, Metric]) -> Row:
    """Add the metrics to the row; the error of a metric goes into `problem`, and the other metrics stay."""
    assert row.cam is not None
    seen, budget = explained.seen, explained.protocol.budget
    problems = [row.problem] if row.problem else []
    values: dict[str, float] = {}
    vectors: dict[str, list[float]] = {}
    explanation = Explanation(seen, row.cam[None].to(seen.images), explained.explain)
    for name, metric in measures.items():
        if (metric.boxes and not len(seen.boxes)) or metric.again * (row.forwards or 0) > budget:
            continue
        try:
            measurement = metric.measure(explanation)
            number, vector = measurement if isinstance(measurement, tuple) else (measurement, None)
            value = number.item()
            if not math.isfinite(value):
                problems.append(f"{name}: its value is {value}.")
                continue
            if vector is not None:
                vectors[name] = vector.tolist()
            values[name] = value
        except Exception as error:
            settle(seen.device, error)
            told = failed(row, error)
            problems.append(f"{name}: {told.problem}")
            row = row._replace(kind="accident" if "accident" in (row.kind, told.kind) else "refusal")
            row = row._replace(traceback="\n".join(filter(None, [row.traceback, told.traceback])))
    return row._replace(values=values, vectors=vectors, problem=" ".join(problems))


def _is_accident(error: BaseException) -> bool:
    """Whether the same call may well go right another time: it was no refusal, or memory or the system caused it."""
    if not isinstance(error, CamfnError):
        return True
    cause = error.__cause__
    of_system = isinstance(cause, OSError) and cause.errno is not None
    return of_system or isinstance(cause, (MemoryError, torch.OutOfMemoryError))


def settle(device: torch.device | str, error: Exception) -> None:
    """Give memory back after an accident; a GPU that has failed for good ends the run, for it would fail every row."""
    if not str(device).startswith("cuda") or isinstance(error, CamfnError):
        return
    try:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    except RuntimeError as broken:
        raise StoppedError(
            f"the device {device} has failed ({_line(error)}). The rows before are kept, and the same command goes on"
        ) from broken


def _said(error: BaseException) -> str:
    """Write an accident as one line, with the place where a function of the user's own raised it."""
    place = raised_by_given(error)
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return _line(words if place is None else f"{words} ({place})")


def _line(words: object) -> str:
    """Write an error or a problem as one line of bounded length."""
    line = " ".join(str(words).split())
    return line if len(line) <= 600 else f"{line[:600]} ..."
