"""A run over many photos and cases: what is left to do, checked and done, one row at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from PIL import Image

from .._photos.layer import Layer
from .._shared.errors import PhotoError, UsageError
from ..zoo import load
from ._cases import BASELINES, Case, method_of
from ._core import Row, class_of, evaluate_photo, layer_of
from ._measures import measured
from ._photos import Photo
from ._protocol import Protocol
from ._ray import distributed
from ._store import Store, header_of
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
    """Evaluate cases on photos, and keep each row as soon as there is one.

    Run again on the same folder, it does what is missing: after it was killed, or with more photos or cases. A photo
    that cannot be read is recorded, and skipped from then on.

    Args:
        photos: from `read_photos`.
        cases: from `cases`.
        out: the folder of results.
        protocol: how it is measured; it must be the same for all runs on a folder.
        loader: a model's name to what `zoo.load` returns.
        device: where to run; with Ray each worker takes one device of this kind.
        engine: "local", or "ray" for Ray Data, with rows equal to those of the local one.
        workers: how many, with Ray: by default one a GPU, or one on the CPU.
        force: throw away what is there.
        progress: told (rows done, rows to do) after each.

    Returns:
        The folder's rows, those of earlier runs included.

    Raises:
        UsageError: before any long work, for what cannot be done.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from camfn.evaluate import cases, read_photos
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (64, 64), "red").save(f"{folder}/cat.png")
        ...     asked = cases(["net"], ["grad_cam"])
        ...     weightless = lambda name: load("torchvision:resnet18", weights="none")
        ...     protocol = Protocol(metrics=("complexity",), target="top")
        ...     store = run(read_photos(folder), asked, f"{folder}/out", protocol=protocol, loader=weightless)
        >>> [row.case for row in store.rows]
        ['net auto grad_cam', 'net auto center', 'net auto random']
    """
    protocol = protocol or Protocol()
    if not photos or not cases:
        raise UsageError("nothing to evaluate: expected at least one photo and one case")
    measured(protocol)
    store = Store(out, header_of(protocol, device), force=force)
    done = store.done
    left = plan(photos, cases, done)
    total = sum(len(work.cases) for work in left)
    if not left:
        return store
    models = Models(loader, device)
    check(photos, left, models, protocol)
    with store.writing(force=force):
        finished = 0
        for row in _rows(left, models, protocol, engine, workers):
            store.append(row)
            finished += 1 if row.case else len(next(w for w in left if w.photo.name == row.photo).cases)
            if progress:
                progress(min(finished, total), total)
    return store


def check(photos: Sequence[Photo], left: Sequence[Work], models: Models, protocol: Protocol) -> None:
    """Refuse what cannot be done: a class that a model lacks, a layer, a method that does not fit it.

    Raises:
        UsageError: names the photo or the case.
    """
    if len({photo.name for photo in photos}) < len(photos):
        raise UsageError("two photos have one name, under which results are kept")
    for model in dict.fromkeys(work.model for work in left):
        loaded = models(model)
        mine = [work for work in left if work.model == model]
        for work in mine:
            class_of(work.photo, loaded, protocol)
        picture = next(filter(None, (_readable(work.photo) for work in mine)), None)
        if picture is None:
            continue
        images = loaded.preprocess(picture)[None].to(models.device)
        known: dict[tuple[str, bool], Layer] = {}
        for case in dict.fromkeys(case for work in mine for case in work.cases):
            if case.method not in BASELINES:
                try:
                    layer_of(case, method_of(case, torch.Generator()), loaded.model, images, known)
                except ValueError as error:
                    raise UsageError(f"{case}: {error}") from error


def _readable(photo: Photo) -> Image.Image | None:
    try:
        return photo.read()
    except PhotoError:
        return None


def _rows(left: Sequence[Work], models: Models, protocol: Protocol, engine: str, workers: int | None) -> Iterator[Row]:
    if engine == "ray":
        yield from distributed(left, models.loader, protocol, models.device, workers)
        return
    unreadable: set[str] = set()
    for work in left:
        if work.photo.name in unreadable:
            continue
        for row in evaluate_photo(work.photo, work.cases, models(work.model), protocol, device=models.device):
            if not row.case:
                unreadable.add(row.photo)
            yield row
