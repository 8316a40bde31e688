"""What a run of the suite makes for one model: units, cases, the grids, and the record behind each id."""

# tested in tests/evaluate/suite/test_run.py

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..._photos.methods import GROUPS, PICTURES, function_of, read_methods
from ..._photos.options import options_of
from ..._shared.checks import describe
from ..._shared.errors import CamfnError, UsageError
from ..._shared.lists import split_list
from ...zoo import Loaded
from .._inputs.cases import BASELINES, Case, cases, method_of
from .._inputs.photos import Photo
from .._measures.cost import flops_of
from .._measures.row import Row
from .._runs.work import Work
from .._runs.work import plan as due
from .asked import head_of, is_tiny
from .cells import Part, works_on_heads
from .explain import CONTROLS, is_arithmetic
from .grids import deal
from .maker import Maker
from .protocol import TRACKS, Suite, id_of, record_of
from .regions import own_methods
from .scenes import Scenes
from .sources import Cell, Source

GRADED = "grad_cam"
"""The method whose map is shuffled."""

CENTERED = "rise:centered=True,samples=200"
"""RISE with its mean taken off is a row of `everything`: few raw masks are noise in a share of mass."""

CAPPED_PICTURES = {"guided_ig": "steps=50", "smooth_grad": "samples=25", "expected_gradients": "samples=32"}
"""Options of `everything` for the pictures that cost most."""


def cases_of(
    model: str, methods: str | Callable[..., Any] | Iterable[str | Callable[..., Any]], layers: Iterable[str]
) -> list[Case]:
    """Cross methods and layers for one model; methods that give a picture are rows too, summed over channels.

    Args:
        model: its name.
        methods: as for `cases`, and "pictures" for all that give a picture, "everything" for these and "capped".
        layers: dotted names, or "auto".
    """
    given: list[Any] = (
        split_list(methods, "methods")
        if isinstance(methods, str)
        else methods
        if isinstance(methods, list)
        else [methods]
        if callable(methods)
        else list(methods)
    )
    found: list[Case] = []
    for word in given:
        if word in ("pictures", "everything"):
            capped = CAPPED_PICTURES if word == "everything" else {}
            pictures = [f"{name}:{capped[name]}" if name in capped else name for name in PICTURES]
            beside: list[Any] = ["capped", CENTERED, *own_methods()] if word == "everything" else []
            found += cases_of(model, [*beside, *pictures], layers)
        elif isinstance(word, str) and word not in GROUPS and word.partition(":")[0] in PICTURES:
            found += [Case(model, "auto", each.name, each.options) for each in read_methods(word)]
        else:
            found += [case for case in cases([model], [word], list(layers)) if case.method not in BASELINES]
    return list(dict.fromkeys(found))


def controls(model: str) -> list[Case]:
    """Return the rows that every table has."""
    return [Case(model, "auto", name) for name in CONTROLS]


def works_of(
    maker: Maker, listed: Sequence[Case], rows: Mapping[tuple[str, str], Row], *, retry: bool, graded: bool = True
) -> list[Work]:
    """List the units that are due, with the cases that each takes.

    Methods that run the network many times come behind all others: a run that is cut off has whole tables of the rest.
    """
    model = listed[0].model
    cheap = [case for case in listed if not runs_often(case)]
    costly = [case for case in listed if runs_often(case)]
    works: list[Work] = []
    for some, own in ((cheap, controls(model)), (costly, [])):
        for names, taken in _units(maker, some, own, model) if some or own else ():
            units = [Photo(name, Path()) for name in names]
            if units and taken:
                works += due(units, taken, rows, retry=retry)
    return works


def _units(
    maker: Maker, listed: Sequence[Case], rows: Sequence[Case], model: str
) -> Iterable[tuple[list[str], list[Case]]]:
    """Yield names of units with the cases that they take, each unit once; the grades where there are `rows`."""
    suite, source, tracks = maker.suite, maker.source, maker.suite.tracks
    if "grid" in tracks and maker.grids:
        cost = {case: _grids_of(case, suite) for case in listed}
        for i in range(suite.grids):
            yield [f"gridpg/{i:03}"], [*(case for case in listed if i < cost[case]), *rows]
        arithmetic = [case for case in listed if is_arithmetic(_function(case))]
        stitched = range(min(suite.stitched, suite.grids))
        on_heads = [case for case in listed if works_on_heads(_function(case))]
        for setting in ("difull", "twin") if maker.undivided else ("dipart", "difull", "twin"):
            for i in stitched:
                also = [case for case in on_heads if setting == "difull" and i < cost[case]]
                yield [f"{setting}/{i:03}"], [*arithmetic, *also, *rows]
    removing = {"single", "groups", "ceiling"} & set(tracks)
    some = source.blocks(suite.measured)
    shown = source.blocks() if "tiny" in tracks and isinstance(source, Scenes) else some if removing else []
    # where no pixels are known to be the object's, there is no row of them
    boxed = {photo.name for photo in getattr(source, "photos", ()) if photo.boxes}
    blind = rows if isinstance(source, Scenes) else [row for row in rows if row.method not in ("truth", "both")]
    for name in shown:
        own = [row for row in rows if row.method == "truth"] if name in boxed else []
        yield [f"picture/{name}"], [*listed, *own, *blind]
    if not maker.classifies:
        return
    if "tiny" in tracks and isinstance(source, Scenes):
        yield [f"parts/{name}" for name in source.parts()], [*listed, *rows]
    if "contrast" in tracks:
        few: Sequence[str] = some if isinstance(source, Scenes) else some[: suite.costly_questions]
        often = [case for case in listed if runs_often(case)]
        others = [case for case in listed if case not in often]
        for name in some:
            yield [f"questions/{name}"], [*others, *(often if name in few else []), *blind]
        # after the questions: rows that an earlier version made keep their place
        few = maker.kinds if isinstance(source, Scenes) else maker.kinds[: suite.costly_questions]
        for name in maker.kinds:
            yield [f"groupings/{name}"], [*others, *(often if name in few else []), *blind]
    if "grade" in tracks and rows:
        bases = [Case(model, "auto", GRADED), *([Case(model, "auto", "truth")] if isinstance(source, Scenes) else [])]
        pictures = source.pictures()[: suite.graded]
        # after the shuffle: rows that an earlier version made keep their place
        for kind, names in {"grade": pictures, "partial": pictures, **_regraded(maker)}.items():
            # the map of a method decides what is gray
            yield [f"{kind}/{name}" for name in names], bases if kind == "grade" else bases[:1]


def _regraded(maker: Maker) -> dict[str, list[str]]:
    """Return the units of tracks whose measures are graded, by kind."""
    suite, source, found = maker.suite, maker.source, dict[str, list[str]]()
    if "grid" in suite.tracks and maker.grids:
        found["gridpg"] = [f"{i:03}" for i in range(suite.grids)]
    if "tiny" in suite.tracks and isinstance(source, Scenes):
        found["parts"] = [one for block in source.parts() for one in source.clusters(block)]
    if "contrast" in suite.tracks:
        found["questions"] = [one for block in source.blocks(suite.measured) for one in source.clusters(block)]
        found["groupings"] = [one for block in maker.kinds for one in source.clusters(block)]
    return {f"grade_{kind}": names[: suite.graded] for kind, names in found.items()}


def _grids_of(case: Case, suite: Suite) -> int:
    """Return how many grids a case takes: a method that runs the network many times takes few."""
    if is_arithmetic(_function(case)):
        return suite.grids
    return suite.costly if runs_often(case) else suite.stitched


def runs_often(case: Case) -> bool:
    """Whether a method runs the network many times: on perturbed images, on draws, or along a path."""
    if is_arithmetic(_function(case)):
        return False
    return case.info.perturbs or case.info.draws or "steps" in options_of(case.function or function_of(case.method))


def _function(case: Case) -> Callable[..., Any]:
    return method_of(case, torch.Generator())


def prepared(
    spec: str,
    loaded: Loaded,
    source: Source,
    suite: Suite,
    metrics: tuple[Any, ...] | None = None,
) -> tuple[Maker, dict[str, Any]]:
    """Ask the network which pictures it sees rightly, deal the grids, and write the record of each track.

    Returns:
        What makes rows, and the protocols: track to its id and its record.
    """
    right = _for_grids(loaded, source, suite) if makes_grids(loaded, source) else None
    grids: list[list[str]] = []
    labels: dict[str, int] = {}
    size, scale = (0, 0), 1.0
    if right is not None:
        grids = deal([(cell.name, cell.label) for cell in right], suite.grids, suite.side, suite.generator("grids"))
        used = {name for grid in grids for name in grid}
        labels = {cell.name: cell.label for cell in right if cell.name in used}
        image = right[0].image
        height, width = image.shape[1:]
        scale = 1.0 if takes_larger(loaded.model, image, suite.side) else 1 / suite.side
        size = (round(height * suite.side * scale), round(width * suite.side * scale))
    one = one_forward(source, loaded)
    classifies = makes_grids(loaded, source)
    kinds = tuple(source.kinds(loaded)) if classifies and "contrast" in suite.tracks else ()
    maker = Maker(suite, source, tuple(map(tuple, grids)), labels, size, scale, one, metrics, classifies, kinds)
    if "grid" in suite.tracks and grids:
        device = str(next(loaded.model.parameters(), torch.empty(0)).device)
        whole = scale == 1 and Part(maker.context(loaded, device), "dipart/000").divides()
        maker = replace(maker, undivided=not whole)
    data = {
        "source": source.record(),
        "model": {"spec": spec, "weights": weights_digest(loaded.model), **_further(loaded)},
        "preprocessing": _preparation(loaded),
        "rng": "torch CPU mt19937, per use",
        "grids": {"cells": grids, "labels": labels, "size": list(size), "scale": scale},
    }
    records = {track: record_of(suite, track, data) for track in TRACKS}
    return maker, {track: {"id": id_of(record), "record": record} for track, record in records.items()}


def _for_grids(loaded: Loaded, source: Source, suite: Suite) -> list[Cell] | None:
    """Return the pictures that grids are dealt from; None where the track is not asked for and there are too few.

    Grids belong to the ids of a folder, which takes tracks one after the other.
    """
    asked = "grid" in suite.tracks
    cells = source.cells(loaded)
    if not cells:
        return None
    try:
        right = rightly_seen(cells, loaded.model, source, suite.sure)
    except UsageError:
        if asked:
            raise
        return None
    return right if asked or len({cell.label for cell in right}) >= suite.side**2 else None


def makes_grids(loaded: Loaded, source: Source) -> bool:
    """Whether grids are dealt: of classifiers."""
    return head_of(loaded, getattr(source, "head", None)) is None and not is_tiny(loaded, "segmenter")


def rightly_seen(cells: Sequence[Cell], model: nn.Module, source: Source, sure: float) -> list[Cell]:
    """Return the pictures that the network sees rightly, and with at least this probability."""
    found = []
    device = next(model.parameters(), torch.empty(0)).device
    for start in range(0, len(cells), 16):
        some = cells[start : start + 16]
        with torch.no_grad():
            given = source.probabilities(model(torch.stack([cell.image for cell in some]).to(device))).cpu()
        top, best = given.max(1)
        found += [
            cell
            for cell, probability, label in zip(some, top.tolist(), best.tolist(), strict=True)
            if label == cell.label and probability >= sure
        ]
    return found


def takes_larger(model: nn.Module, image: Tensor, side: int) -> bool:
    """Try whether a network takes a picture of `side` times its size, as those with a global pooling do."""
    device = next(model.parameters(), torch.empty(0)).device
    height, width = image.shape[1:]
    try:
        with torch.no_grad():
            given, larger = (
                model(torch.zeros(1, image.shape[0], height * times, width * times, device=device))
                for times in (1, side)
            )
    except Exception:
        return False
    return isinstance(given, Tensor) and isinstance(larger, Tensor) and given.shape == larger.shape


def weights_digest(model: nn.Module) -> str:
    """Return the sha256 of the parameters and buffers in float32, by name."""
    digest = sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            plain = value.detach().cpu()
            plain = plain.float() if plain.is_floating_point() else plain
            digest.update(f"{name} {tuple(plain.shape)} ".encode() + plain.contiguous().numpy().tobytes())
    return digest.hexdigest()


def one_forward(source: Source, loaded: Loaded) -> int:
    """Count the operations of one forward of the first picture that can be asked about.

    Raises:
        UsageError: there is none; it says what is wrong with the first.
    """
    first: Exception | None = None
    device = next(loaded.model.parameters(), torch.empty(0)).device
    for name in source.pictures():
        try:
            images = source.picture(name, loaded, 1).images.to(device)
        except Exception as error:
            first = first or error
            continue
        with torch.no_grad():
            return flops_of(partial(loaded.model, images[:1]))[1]
    why = "there are none: expected a folder of CLASS/PHOTO.jpg" if first is None else str(first)
    if not isinstance(first, (CamfnError, type(None))):
        why = f"{type(first).__name__}: {first}"
    raise UsageError(f"{loaded.name}: no picture can be measured: {why}")


def _further(loaded: Loaded) -> dict[str, str]:
    """Read how a network was trained further on pictures without one cell; no field where it was not.

    Raises:
        UsageError: its attribute says it in no words.
    """
    said = getattr(loaded.model, "trained_further", None)
    if said is None:
        return {}
    if not isinstance(said, str) or not said.strip():
        raise UsageError(
            f'{loaded.name}: trained_further: expected words, as in model.trained_further = "150 steps; half of each '
            f'batch lost one cell of 4 x 4", got {describe(said)}: a network that was not has no such attribute'
        )
    return {"trained_further": said}


def _preparation(loaded: Loaded) -> dict[str, Any]:
    """Write how a photo becomes the model's input: in numbers, or in words."""
    recipe = loaded.recipe
    if recipe is None:
        return {"said": loaded.about.get("photos", "a function of the user's own")}
    return {"recipe": repr(recipe)}
