"""A run of the suite: a folder for each model, which resumes, and which others can verify."""

# tested in tests/evaluate/suite/test_run.py

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from ..._shared.checks import describe
from ..._shared.errors import UsageError
from ..._shared.lists import split_list
from ..._shared.versions import versions
from ...targets import Head
from ...zoo import load
from .._inputs.photos import Photo, builtin_photos, read_photos
from .._inputs.protocol import Protocol
from .._measures.own import metrics_of
from .._runs.ray import ray_or_refused
from .._runs.run import Engine, Progress, make
from .._runs.work import Loader, Models
from .._store.store import Store
from .._tables.records import file_names
from .exact import exact
from .maker import Maker
from .measures import MEASURES
from .plan import cases_of, prepared, works_of
from .protocol import Suite
from .scenes import Scenes
from .shown import Submissions
from .sources import Photos, Source

Methods = str | Callable[..., Any] | Iterable[str | Callable[..., Any]]


def truth(
    models: str | Iterable[str],
    methods: Methods = "cheap",
    out: str | os.PathLike[str] = "truth",
    *,
    photos: str | Path | Sequence[Photo] | None = None,
    suite: Suite | None = None,
    layers: str | Iterable[str] = ("auto",),
    metrics: Sequence[Any] | None = None,
    head: Head | None = None,
    loader: Loader = load,
    device: str = "cpu",
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    force: bool = False,
    retry: bool = False,
    fail_fast: bool = False,
    progress: Progress | None = None,
) -> Submissions:
    """Run the suite "truth": tracks where the right answer of a map is known, and a grade for every metric.

    Each model has a folder of its own in `out`, which is a submission: `verify` recomputes its numbers from its maps. A
    run on the folder of an earlier one adds the missing rows.

    Args:
        models: names of models, as `zoo.load` takes them; a list, or words separated by commas.
        methods: as for `cases`; "pictures" stands for all methods that give a picture, whose channels are summed.
        out: the folder.
        photos: "tiny" for scenes of the tiny world, "builtin", a folder of CLASS/PHOTO, or another source of
            `read_photos`; None takes scenes for models of the tiny world, and the built-in photos for others.
        suite: settings; the defaults are version 1 of the protocol.
        layers: dotted names, or "auto".
        metrics: metrics to grade, as for `Protocol`; None for all.
        head: functions that read the boxes of a detector of yours.
        loader: a function of a model's name that returns a `zoo.Loaded`, as `zoo.load` does.
        device: where to run.
        engine: "local", or "ray" for Ray.
        workers: number of workers.
        force: delete the results in the folders first.
        retry: try rows with a problem again.
        fail_fast: stop at the first row with a problem.
        progress: called with (rows done, rows to do) of one model after each row.

    Returns:
        The folder of each model; a notebook shows their tables.

    Raises:
        UsageError: before the first explanation, what cannot be run.

    Example:
        >>> import tempfile
        >>> few = Suite(tracks=("tiny",), scenes=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (store,) = truth("tiny:cnn", "grad_cam", folder, suite=few)
        >>> store.header["protocols"]["tiny"]["id"].partition("#")[0], round(store.rows[0].values["own_share"])
        ('camfn-truth/1:tiny@tiny:cnn', 1)
    """
    names = split_list(models, "models") if isinstance(models, str) else list(models)
    wanted = split_list(layers, "layers") if isinstance(layers, str) else list(layers)
    suite = suite or Suite()
    # an unknown one would be an accident in every row
    metrics_of(Protocol(metrics=None if metrics is None else tuple(metrics)))
    if engine == "ray":
        ray_or_refused()
    folders = file_names(names)
    stores = Submissions()
    for name in names:
        held = Models(loader, device)
        loaded = held(name)
        source = source_of(name, photos, suite, head)
        listed = cases_of(name, methods, wanted)
        if not listed:
            raise UsageError("nothing to evaluate: expected at least one method")
        with exact():
            maker, protocols = prepared(name, loaded, source, suite, None if metrics is None else tuple(metrics))
        if not works_of(maker, listed, {}, retry=True):
            raise UsageError(
                f"{name}: the tracks {', '.join(suite.tracks)} measure nothing on these pictures: tiny takes scenes of "
                "the tiny world (models tiny:NAME, no photos); grid, contrast and grade take classifiers; "
                "single, groups and ceiling take all"
            )
        header = header_of(protocols, suite, device, head)
        store = Store(Path(out) / folders[name], header, force=force)
        if not works_of(maker, listed, store.by_key, retry=retry) and not of_no_unit(maker, store):
            stores.append(store)
            continue
        with store.writing(force=force):
            for key in of_no_unit(maker, store):
                store.remove(key)
            # another run may have made rows before this one had the lock
            works = works_of(maker, listed, store.by_key, retry=retry)
            order = {
                (work.photo.name, str(case)): (i, k)
                for i, work in enumerate(works_of(maker, listed, {}, retry=True))
                for k, case in enumerate(work.cases)
            }
            places = {key: place for place, key in enumerate(sorted(order, key=lambda key: order[key]))}
            try:
                make(works, held, maker, store, Engine(engine, workers), fail_fast, progress)
            finally:
                store.arrange(places)
        stores.append(store)
    return stores


def of_no_unit(maker: Maker, store: Store) -> list[tuple[str, str]]:
    """List rows that an earlier version made of a setting which these pictures do not have."""
    return [row.key for row in store.rows if maker.undivided and row.photo.startswith("dipart/")]


def header_of(protocols: dict[str, Any], suite: Suite, device: str, head: Head | None = None) -> dict[str, Any]:
    """Write what all rows of a folder have in common."""
    header: dict[str, Any] = {"protocol": {"metrics": list(MEASURES), "seed": suite.seed}, "protocols": protocols}
    header["head"] = {} if head is None else {"of your own": True}
    return header | {"versions": versions(), "device": device, "threads": torch.get_num_threads()}


def source_of(name: str, photos: str | Path | Sequence[Photo] | None, suite: Suite, head: Head | None) -> Source:
    """Return the pictures that a model is measured on.

    Raises:
        UsageError: what was given as a head has no functions that read boxes and scores, or no photo has a class.
    """
    if head is not None and not all(callable(getattr(head, part, None)) for part in ("boxes_of", "scores_of")):
        raise UsageError(f"head: expected a targets.BoxHead, got {describe(head)}")
    if photos is None:
        photos = "tiny" if name.startswith("tiny:") else "builtin"
    if isinstance(photos, str) and photos == "tiny":
        return Scenes(suite, head)
    if isinstance(photos, str) and photos == "builtin":
        # no boxes are needed here, so that the four photos without good ones take part
        return Photos(suite, tuple(builtin_photos(skipped=True)), head)
    listed = read_photos(photos) if isinstance(photos, (str, Path)) else list(photos)
    if not any(photo.label is not None for photo in listed):
        raise UsageError(f"{photos}: the suite asks for the class of each photo: put photos in CLASS/PHOTO")
    return Photos(suite, tuple(listed), head)
