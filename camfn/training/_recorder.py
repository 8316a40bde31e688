"""Maps of fixed photos, each so many steps of a training, from one forward that changes nothing of it."""

# tested in tests/training/test_recorder.py

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import index
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from .. import LayoutPair, capture, layout, observe
from .._cut.graft import bare, evaluating
from .._cut.signature import read_signature
from .._shared.checks import describe, function, tensor, whole
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.vocabulary import Captured, Target, without_grads
from ..methods import grad_cam
from ..targets import as_score
from ._apart import apart, is_first_process, refuse_sharded
from ._output import output_of
from ._record import Record
from ._strip import caption_of, picture_of, shown, strip_of, thinned

_BYTES = 200
"""Of a name of a file, which may have 255 with its ending, and with that of an unfinished one."""

_CONSTANT = 1e-6
"""A map whose values differ by no more than this share of the largest is constant but for rounding."""


class MapRecorder:
    """Map a few fixed photos each so many steps of a training, and keep a strip of each photo.

    A call costs one forward of the photos, the backward of what follows the layer, and the pictures; the first one
    also finds the layer's layout, which may cost some more. It runs private copies of the modules in evaluation
    mode: the model's modes, gradients and buffers, the random generators, and autocast's cache stay as they were,
    so that a training with it ends in the same bits as one without. It takes the model out of `torch.compile`,
    `DataParallel` and `DistributedDataParallel`; of several processes the first maps alone. Your own hooks on the
    modules run with it.

    Args:
        images: (B, C, H, W), the fixed photos as the model takes them; they follow the model to its device.
        layer: the dotted name of the layer, as `camfn.capture` takes it, within the model that `of` returns.
        method: of activations, gradients and outputs, such as `grad_cam`; not one that runs the network again.
        target: what is explained: a class, a class a photo, a function of the outputs; None for each photo's top class
            of the step, which may change between steps.
        every: steps between records; the first call records too.
        out: a folder for NAME.png and maps.csv, or a `torch.utils.tensorboard.SummaryWriter`; None for neither. In the
            folder of a training that is resumed, maps.csv keeps the steps before the first record, and the strips so
            far become NAME-to-STEP.png. Each recorder needs a folder of its own.
        photos: (B, 3, H, W) in [0, 1] or uint8, to draw on; by default the images, stretched to [0, 1].
        names: a name for each photo; by default photo-0, photo-1, ...
        columns: most maps in a strip: the first, the last, and of those between the most even ones. Where a training
            goes back to an earlier step, the maps from that step on leave the strip; `records` keeps all.
        of: takes the part to map of the model that the training hands over, as `lambda module: module.net` of a
            LightningModule.

    Attributes:
        records: all `Record`s so far.

    Raises:
        CamfnError: images, names or a method that do not fit; with the first record, a layer that the model lacks.

    Example:
        >>> from camfn import tiny
        >>> net, world = tiny.load("cnn").train(), tiny.scenes(2, generator=torch.Generator().manual_seed(0))
        >>> optimizer = torch.optim.SGD(net.parameters(), 0.01)
        >>> recorder = MapRecorder(world.images, "body", target=world.labels[:, 0], every=2)
        >>> for step in range(5):
        ...     _ = recorder(net, step)
        ...     loss = torch.nn.functional.cross_entropy(net(world.images), world.labels[:, 0])
        ...     optimizer.zero_grad(), loss.backward(), optimizer.step()
        (None, None, None)
        (None, None, None)
        (None, None, None)
        (None, None, None)
        (None, None, None)
        >>> [record.step for record in recorder.records], net.training
        ([0, 0, 2, 2, 4, 4], True)
    """

    def __init__(
        self,
        images: Tensor,
        layer: str,
        *,
        method: Callable[..., Tensor] = grad_cam,
        target: Target = None,
        every: int = 100,
        out: str | os.PathLike[str] | Any | None = None,
        photos: Tensor | None = None,
        names: Sequence[str] | None = None,
        columns: int = 8,
        of: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        if not isinstance(images, Tensor) or images.ndim != 4 or not len(images) or not images.is_floating_point():
            raise ArgumentTypeError(
                f"MapRecorder: images: expected floats (B, C, H, W) of at least one photo, got {describe(images)}"
                + (f" of {images.dtype}" if isinstance(images, Tensor) else "")
            )
        _finite("images", images)
        whole("MapRecorder: every", every)
        whole("MapRecorder: columns", columns, 2)
        self.needs = read_signature(method)
        if self.needs.context or self.needs.over_images:
            raise CamfnError(
                f"MapRecorder: method: expected one of activations, gradients and outputs, such as grad_cam; "
                f"{getattr(method, '__name__', 'it')} runs the network again, or reads its weights"
            )
        self.images = images.detach().clone()
        self.layer, self.method, self.target, self.every, self.columns, self.of = (
            layer,
            method,
            target,
            every,
            columns,
            of,
        )
        self.names = _names(names, len(images))
        if of is not None:
            function("MapRecorder: of", of, "from the model to the part to map, as lambda module: module.net")
        self.photos = shown(self.images if photos is None else _photos(photos, len(images)))
        self.output = output_of(os.fspath(out) if isinstance(out, os.PathLike) else out)
        self.records: list[Record] = []
        self._free = Lock()
        self._reading: list[LayoutPair | None] = []
        self._pictures: list[dict[int, tuple[Tensor, str]]] = [{} for _ in self.names]

    def __call__(self, model: nn.Module, step: int) -> list[Record]:
        """Record if a step is due: the first call, each step that `every` divides, and the first one past such a step.

        Steps may come by more than one, as with several optimizers in Lightning. A step that is there is not due.
        """
        step = _step(step)
        return self.record(model, step) if not self.records or self._is_due(step, self.records[-1].step) else []

    def _is_due(self, step: int, last: int) -> bool:
        """Whether a step other than the last record's is a multiple of `every`, or one lies between."""
        return step != last and (step % self.every == 0 or step // self.every != last // self.every)

    def record(self, model: nn.Module, step: int) -> list[Record]:
        """Map the photos now, whatever the step; return their records, none in other processes than the first."""
        step = _step(step)
        if not is_first_process():
            return []
        with self._alone():
            return self._record(model, step)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Refuse a second thread in the midst of a record, whose maps it would take for the ones before its own."""
        if not self._free.acquire(blocking=False):
            raise CamfnError(
                "MapRecorder: two threads record at once: give each training a recorder and a folder of its own"
            )
        try:
            yield
        finally:
            self._free.release()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the lock, which cannot be copied or sent to another process."""
        return {key: value for key, value in vars(self).items() if key != "_free"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a lock of its own."""
        vars(self).update(state, _free=Lock())

    def _record(self, model: nn.Module, step: int) -> list[Record]:
        """Map the photos in this thread."""
        cams, scores = self._mapped(model)
        before = self.records[-len(self.names) :]
        moved = _correlations([record.cam for record in before], cams) if before else [None] * len(cams)
        found = [Record(step, *each) for each in zip(self.names, scores, moved, cams, strict=True)]
        self.records += found
        self._draw(found, step)
        return found

    def lightning(self) -> Any:
        """Return a callback for Lightning's `Trainer(callbacks=[...])`, which records after batches.

        Raises:
            MissingPackageError: neither lightning nor pytorch_lightning is installed.
        """
        from ._callbacks import lightning_callback

        return lightning_callback(self)

    def hugging_face(self) -> Any:
        """Return a callback for `transformers.Trainer(callbacks=[...])`, which records after steps.

        Raises:
            MissingPackageError: transformers is not installed.
        """
        from ._callbacks import hugging_face_callback

        return hugging_face_callback(self)

    def _mapped(self, model: nn.Module) -> tuple[list[Tensor], list[float]]:
        """Return the raw maps and the scores of the photos, from one forward beside the training."""
        refuse_sharded(_module("model", model))
        part = _module("model", model) if self.of is None else _module("of", self.of(_module("model", model)))
        if any(x.is_meta for x in part.parameters()):
            raise CamfnError("MapRecorder: the model is on the device 'meta', without weights: record once it has some")
        like = next((x for x in part.parameters() if x.is_floating_point()), self.images)
        with apart(like.device):
            private = evaluating(part)
            images = self.images.to(like.device, like.dtype)
            target = self.target.to(like.device) if isinstance(self.target, Tensor) else self.target
            if not self._reading:
                # once, for the private copy of the next record is another module
                self._reading.append(layout.find(private, self.layer, images[:1]).layout)
            captured = self._captured(private, images, target)
            with torch.no_grad():
                cam = self.method(*captured[: self.needs.positional])
                scores = as_score(target)(captured.outputs).float().tolist()
        if not isinstance(cam, Tensor) or cam.ndim != 3 or len(cam) != len(self.images):
            raise CamfnError(
                f"MapRecorder: method: expected maps (B, h, w) of {len(self.images)} photos, got {describe(cam)}"
            )
        return list(cam.detach().float().cpu()), scores

    def _captured(self, model: nn.Module, images: Tensor, target: Target) -> Captured:
        """Run the copy once."""
        (reading,) = self._reading
        if self.needs.gradients:
            return capture(model, self.layer, layout=reading)(images, target)
        activations, outputs = observe(model, self.layer, layout=reading)(images)
        return without_grads(activations, outputs)

    def _draw(self, found: Sequence[Record], step: int) -> None:
        """Draw the maps of a step, and write the strips with them."""
        if self.output is None:
            return
        for photo, pictures, record in zip(self.photos, self._pictures, found, strict=True):
            # a training that went back to a checkpoint, or began anew, takes these steps again
            for again in [other for other in pictures if other >= step]:
                del pictures[again]
            caption = caption_of(step, record.correlation, record.cam)
            pictures[step] = picture_of(photo, record.cam), caption
            kept = thinned(list(pictures), self.columns)
            for gone in set(pictures) - set(kept):
                del pictures[gone]
        strips = {
            name: strip_of(photo, name, *zip(*pictures.values()))
            for name, photo, pictures in zip(self.names, self.photos, self._pictures, strict=True)
        }
        self.output.write(strips, self.records, step)


def _step(step: Any) -> int:
    """Return the number of a step; refuse anything else, which `every` would not divide."""
    try:
        return index(step)
    except TypeError:
        raise ArgumentTypeError(f"MapRecorder: step: expected a whole number, got {describe(step)}") from None


def _finite(name: str, x: Tensor) -> None:
    """Refuse numbers that no picture has."""
    if x.is_meta or not bool(x.isfinite().all()):
        raise CamfnError(f"MapRecorder: {name}: expected finite numbers, got NaN, infinity or a tensor without data")


def _photos(photos: Tensor, count: int) -> Tensor:
    """Check the photos to draw on; bytes become shares."""
    tensor("MapRecorder: photos", photos)
    if photos.ndim != 4 or 0 in photos.shape[1:]:
        raise CamfnError(f"MapRecorder: photos: expected (B, 3, H, W), got {describe(photos)}")
    if len(photos) != count:
        raise CamfnError(f"MapRecorder: photos: expected {count}, one for each image, got {len(photos)}")
    _finite("photos", photos)
    return photos / 255 if photos.dtype == torch.uint8 else photos


def _module(name: str, given: Any) -> nn.Module:
    """Take a module out of what wraps it; refuse anything else."""
    if not isinstance(given, nn.Module):
        raise ArgumentTypeError(f"MapRecorder: {name}: expected a torch.nn.Module, got {describe(given)}")
    return bare(given)


def _names(names: Sequence[str] | None, count: int) -> list[str]:
    """Return the names of the photos, which become names of files."""
    if names is not None and not (isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)):
        raise ArgumentTypeError(f"MapRecorder: names: expected a list of words, one a photo, got {describe(names)}")
    found = [f"photo-{i}" for i in range(count)] if names is None else list(names)
    if len(found) != count or len({unicodedata.normalize("NFC", name).casefold() for name in found}) != count:
        raise CamfnError(f"MapRecorder: names: expected {count} different names, got {found}")
    bad = [name for name in found if not _is_name_of_file(name)]
    if bad:
        raise CamfnError(
            f"MapRecorder: names: expected letters, digits, '_', '-', '+', ' ' and '.', up to 100, no '.' or ' ' at "
            f"either end, and none of Windows' devices, such as con and aux, got {bad[0]!r}"
        )
    return found


def _is_name_of_file(name: str) -> bool:
    """Whether NAME.png is a file on any system."""
    if not re.fullmatch(r"[\w.+ -]{1,100}", name) or name != name.strip(". ") or len(name.encode()) > _BYTES:
        return False
    return not re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)( *\..*)?", name.casefold())


def _correlations(before: Sequence[Tensor], now: Sequence[Tensor]) -> list[float]:
    """Correlate each map with the one before; NaN where one is constant or not finite."""
    found = []
    for pair in zip(before, now, strict=True):
        rows = [cam.double().flatten() for cam in pair]
        fits = all(map(_varies, rows)) and len(rows[0]) == len(rows[1])
        found.append(torch.corrcoef(torch.stack(rows))[0, 1].item() if fits else math.nan)
    return found


def _varies(row: Tensor) -> bool:
    """Whether a map is finite, and not constant."""
    return bool(row.isfinite().all() and row.max() - row.min() > _CONSTANT * row.abs().max())
