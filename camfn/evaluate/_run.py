"""A run over many photos and cases: plan the missing rows, check them, and make one row at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from PIL import Image

from .._shared.errors import PhotoError, UsageError
from ..zoo import load
from ._cases import BASELINES, Case, method_of
from ._core import Row, evaluate_photo, layer_of
from ._own import measured
from ._photos import Photo
from ._protocol import Protocol
from ._ray import distributed
from ._store import Store, header_of
from ._target import choice_of
from ._work import Loader, Models, Work, plan

Progress = Callable[[int, int], None]


def run(
    photos: Sequence[Photo],
    cases: Sequence[Case],
    out: str | os.PathLike[str],
    *,
    protocol: Protocol | None = None,
    loader: Loader = load,
    device: str = "cpu",
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Store:
    """Evaluate cases on photos, and write each row to the disk before the next one begins.

    On the folder of an earlier run, `run` adds the missing rows: after a kill, or with more photos or cases. It records
    a photo that it cannot read, and skips this photo from then on.

    Args:
        photos: from `read_photos`.
        cases: from `cases`.
        out: the folder of results.
        protocol: the settings of the measurement; all runs on a folder have the same.
        loader: a function of a model's name that returns a `zoo.Loaded`, as `zoo.load` does.
        device: where to run; with Ray each worker takes one device of this kind.
        engine: "local", or "ray" for Ray Data, with rows equal to those of the local one.
        workers: number of workers with Ray; by default one for each GPU, or one on the CPU.
        force: delete the results in the folder first.
        progress: called with (rows done, rows to do) after each row.

    Returns:
        The folder, with the rows of this run and of earlier ones.

    Raises:
        UsageError: a class, a layer or a method does not fit; before the first explanation.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from camfn.evaluate import cases, read_photos
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (64, 64), "red").save(f"{folder}/cat.png")
        ...     listed = cases(["net"], ["grad_cam"])
        ...     weightless = lambda name: load("torchvision:resnet18", weights="none")
        ...     protocol = Protocol(metrics=("complexity",), target="top")
        ...     store = run(read_photos(folder), listed, f"{folder}/out", protocol=protocol, loader=weightless)
        >>> [row.case for row in store.rows]
        ['net auto grad_cam', 'net auto center', 'net auto random']
    """
    protocol = protocol or Protocol()
    if not photos or not cases:
        raise UsageError("nothing to evaluate: expected at least one photo and one case")
    measured(protocol)
    store = Store(out, header_of(protocol, device, loader), force=force)
    works = plan(photos, cases, store.done)
    total = sum(len(work.cases) for work in works)
    if not works:
        return store
    models = Models(loader, device)
    check(photos, works, models, protocol)
    with store.writing(force=force):
        finished = 0
        for row in _rows(works, models, protocol, engine, workers):
            store.append(row)
            finished += 1 if row.case else len(next(work for work in works if work.photo.name == row.photo).cases)
            if progress:
                progress(min(finished, total), total)
    return store


def check(photos: Sequence[Photo], works: Sequence[Work], models: Models, protocol: Protocol) -> None:
    """Refuse two photos of one name, a class that a model lacks, and a layer or method that does not fit the model.

    Raises:
        UsageError: names the photo or the case.
    """
    if len({photo.name for photo in photos}) < len(photos):
        raise UsageError("two photos have one name; results are stored by the name of the photo")
    for model in dict.fromkeys(work.model for work in works):
        loaded = models(model)
        of_model = [work for work in works if work.model == model]
        for work in of_model:
            choice_of(work.photo, loaded, protocol)
        picture = next(filter(None, (_read_or_none(work.photo) for work in of_model)), None)
        if picture is None:
            continue
        images = loaded.preprocess(picture)[None].to(models.device)
        for case in dict.fromkeys(case for work in of_model for case in work.cases):
            if case.method not in BASELINES:
                try:
                    layer_of(case, method_of(case, torch.Generator()), loaded.model, images, models.layers)
                except ValueError as error:
                    raise UsageError(f"{case}: {error}") from error


def _read_or_none(photo: Photo) -> Image.Image | None:
    """Read a photo; None if that fails."""
    try:
        return photo.read()
    except PhotoError:
        return None


def _rows(works: Sequence[Work], models: Models, protocol: Protocol, engine: str, workers: int | None) -> Iterator[Row]:
    """Make the rows by one of the two engines."""
    if engine == "ray":
        yield from distributed(works, models.loader, protocol, models.device, workers)
        return
    unreadable: set[str] = set()
    for work in works:
        if work.photo.name in unreadable:
            continue
        loaded = models(work.model)
        for row in evaluate_photo(work.photo, work.cases, loaded, protocol, device=models.device, layers=models.layers):
            if not row.case:
                unreadable.add(row.photo)
            yield row
