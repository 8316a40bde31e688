"""A run over many photos and cases: plan the missing rows, check them, and make one row at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..._photos.classes import first_score
from ..._shared.errors import CamfnError, StoppedError, UsageError
from ..._shared.vocabulary import ScoreFn
from ...zoo import Loaded, load
from .._inputs.cases import BASELINES, Case, method_of
from .._inputs.photos import Photo
from .._inputs.protocol import Protocol
from .._inputs.target import choice_of
from .._measures.core import layer_of
from .._measures.own import metrics_of
from .._measures.row import Row
from .._store.store import Store, header_of
from .begun import Begun
from .needed import require
from .pool import shared_out
from .process import ProcessHand
from .ray import RayHand, ray_or_refused, workers_of
from .work import Loader, Makes, Models, Work, plan
from .worker import Worker

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
    retry: bool = False,
    fail_fast: bool = False,
    progress: Progress | None = None,
) -> Store:
    """Evaluate cases on photos, and write each row to the disk before the next one begins.

    On the folder of an earlier run, `run` adds the missing rows: after a kill, or with more photos or cases. A row that
    an accident spoiled (memory that ran out, a lost worker, an error that is no `CamfnError`) is tried again, three
    times in all. A refusal, and a photo that cannot be read, are recorded and not tried again.

    Args:
        photos: from `read_photos`.
        cases: from `cases`.
        out: the folder of results.
        protocol: the settings of the measurement; all runs on a folder have the same.
        loader: a function of a model's name that returns a `zoo.Loaded`, as `zoo.load` does.
        device: where to run; "cuda" has a process for each GPU of this machine, and with Ray an actor for each of the
            cluster.
        engine: "local", or "ray" for Ray, with rows equal to those of the local one.
        workers: number of workers; by default one for each GPU, or one on the CPU, which is then this process. In
            several, a script needs `if __name__ == "__main__":`, as `multiprocessing` does.
        force: delete the results in the folder first.
        retry: try every row with a problem again, refusals, unreadable photos and three accidents too.
        fail_fast: stop at the first row with a refusal or an accident; the row is kept.
        progress: called with (rows done, rows to do) after each row.

    Returns:
        The folder, with the rows of this run and of earlier ones.

    Raises:
        UsageError: before the first explanation: the model has none of the classes, or a layer or a method does not
            fit the model.
        StoppedError: the disk is full, the folder is gone, a device failed, or `fail_fast` met a problem.

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
    if len({photo.name for photo in photos}) < len(photos):
        raise UsageError("two photos have one name: rename one, for `run` stores results by the name of the photo")
    if {"max_box_acc", "max_box_acc_v2"} & set(metrics_of(protocol)):
        require("scipy", "max_box_acc", "the parts of a map")
    if engine == "ray":
        ray_or_refused()
    store = Store(out, header_of(protocol, device, loader), force=force)
    if not (works := plan(photos, cases, store.by_key, retry=retry)):
        return store
    models = Models(loader, device)
    check(works, models, protocol)
    order = {(photo.name, str(case)): i for i, (photo, case) in enumerate(_in_order(photos, cases))}
    order = {(photo.name, ""): order[photo.name, str(cases[0])] for photo in photos} | order
    with store.writing(force=force):
        # another run may have made rows before this one had the lock
        works = plan(photos, cases, store.by_key, retry=retry)
        try:
            make(works, models, protocol, store, Engine(engine, workers), fail_fast, progress)
        finally:
            store.arrange(order)
    return store


class Engine(NamedTuple):
    """What runs the work: "local" or "ray", and the number of workers, or None."""

    name: str
    workers: int | None


def _in_order(photos: Sequence[Photo], cases: Sequence[Case]) -> Iterator[tuple[Photo, Case]]:
    """Yield all photos and cases in the order of a run: one model after the other."""
    for work in plan(photos, cases, {}):
        for case in work.cases:
            yield work.photo, case


def make(
    works: list[Work],
    models: Models,
    protocol: Protocol | Makes,
    store: Store,
    engine: Engine,
    fail_fast: bool,
    progress: Progress | None,
) -> None:
    """Make the rows that are due, and write each."""
    total, finished, unreadable = sum(len(work.cases) for work in works), 0, set[str]()
    for row in _rows(works, models, protocol, store, engine):
        if not row.case and row.photo in unreadable:
            continue  # two workers met it at the same time
        store.append(row)
        if not row.case:
            unreadable.add(row.photo)
        finished += 1 if row.case else sum(len(work.cases) for work in works if work.photo.name == row.photo)
        if progress:
            progress(min(finished, total), total)
        if fail_fast and row.kind:
            what = ", ".join(filter(None, [row.photo, row.case]))
            raise StoppedError(f"stopped at the first problem, as asked: {what}: {row.problem}")


def check(works: Sequence[Work], models: Models, protocol: Protocol) -> None:
    """Refuse what no row can be made of: classes that a model lacks, and a layer or method that does not fit the model.

    A class that a model lacks refuses its own rows alone, if other photos have one that it knows.

    Raises:
        UsageError: names the photo or the case.
    """
    for model in dict.fromkeys(work.model for work in works):
        loaded = models(model)
        of_model = [work for work in works if work.model == model]
        refused = [_refusal(work.photo, loaded, protocol) for work in of_model]
        if refused[0] is not None and None not in refused:
            raise refused[0]
        known = [work.photo for work, why in zip(of_model, refused, strict=True) if why is None]
        tried = ((photo, _images_of(photo, loaded, models.device)) for photo in known)
        photo, images = next(((photo, found) for photo, found in tried if found is not None), (None, None))
        if photo is None or images is None:
            continue
        target = first_score(choice_of(photo, loaded, protocol))
        for case in dict.fromkeys(case for work in of_model for case in work.cases):
            if case.method not in BASELINES:
                _check_layer(case, loaded, images, models, target)


def _refusal(photo: Photo, loaded: Loaded, protocol: Protocol) -> CamfnError | None:
    """Say why a model cannot explain the target of a photo; None if it can."""
    try:
        choice_of(photo, loaded, protocol)
    except CamfnError as error:
        return error
    return None


def _check_layer(case: Case, loaded: Loaded, images: Tensor, models: Models, target: ScoreFn) -> None:
    """Find the layer of a case; the rows record an accident here."""
    try:
        layer_of(case, method_of(case, torch.Generator()), loaded.model, images, models.shared.layers, target)
    except CamfnError as error:
        raise UsageError(f"{case}: {error}") from error
    except Exception:
        return


def _images_of(photo: Photo, loaded: Loaded, device: str) -> Tensor | None:
    """Read a photo as the model takes it; None if that fails, which its rows record."""
    try:
        return loaded.preprocess(photo.read())[None].to(device)
    except Exception:
        return None


def _rows(works: list[Work], models: Models, protocol: Protocol | Makes, store: Store, engine: Engine) -> Iterator[Row]:
    """Make the rows: in this process, or in workers."""
    loader, device = models.loader, models.device
    if engine.name == "ray":
        number = engine.workers or workers_of(device)
        models.forget()
        yield from shared_out(works, lambda place: RayHand(loader, protocol, device), number)
        return
    devices = devices_of(device)
    number = engine.workers or len(devices)
    if number == 1:
        yield from _rows_here(works, models, protocol, store)
        return
    models.forget()
    threads = torch.get_num_threads()
    places = [devices[place % len(devices)] for place in range(number)]
    yield from shared_out(works, lambda place: ProcessHand(loader, protocol, places[place], threads), number)


def devices_of(device: str) -> list[str]:
    """List the devices that workers share: of "cuda" all GPUs of this machine, otherwise the device itself.

    Example:
        >>> devices_of("cpu"), devices_of("cuda:1")
        (['cpu'], ['cuda:1'])
    """
    count = torch.cuda.device_count() if device == "cuda" else 0
    return [f"cuda:{place}" for place in range(count)] if count > 1 else [device]


def _rows_here(works: list[Work], models: Models, protocol: Protocol | Makes, store: Store) -> Iterator[Row]:
    """Make the rows in this process, and those in which processes died at the end, in a process of their own."""
    begun, worker, unreadable = Begun(store.folder), Worker(models, protocol), set[str]()
    suspects: list[Work] = []
    try:
        for work in works:
            suspect = tuple(case for case in work.cases if begun.is_suspect((work.photo.name, str(case))))
            suspects += [Work(work.photo, (case,)) for case in suspect]
            rest = Work(work.photo, tuple(case for case in work.cases if case not in suspect))
            if rest.cases and work.photo.name not in unreadable:
                yield from _noted(rest, begun, worker, unreadable)
    finally:
        begun.leave()
    suspects = [work for work in suspects if work.photo.name not in unreadable]
    if suspects:
        models.forget()
        threads = torch.get_num_threads()
        hire = lambda place: ProcessHand(models.loader, protocol, models.device, threads)  # noqa: E731
        for row in shared_out(suspects, hire, 1):
            begun.deaths.pop(row.key, None)
            yield row
        begun.leave()


def _noted(work: Work, begun: Begun, worker: Worker, unreadable: set[str]) -> Iterator[Row]:
    """Make the rows of one piece of work, and note each as it begins."""
    photo = work.photo.name
    begun.begin(photo, str(work.cases[0]))
    for i, row in enumerate(worker.rows(work), 1):
        if not row.case:
            unreadable.add(row.photo)
        yield row
        if i < len(work.cases):
            begun.begin(photo, str(work.cases[i]))
    begun.leave()
