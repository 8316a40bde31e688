"""A submission is recomputed from its maps: the id, the data, every number, and whether rows were left out."""

# tested in tests/evaluate/suite/test_verify.py

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._shared.errors import CamfnError, UsageError
from ..._shared.seen import facts_table
from ...targets import Head
from ...zoo import Loaded, load
from .._inputs.cases import Case, method_and_options, method_of
from .._inputs.photos import Photo
from .._measures.core import failed
from .._measures.memo import Shared
from .._measures.metrics import METRICS
from .._measures.row import Row
from .._runs.work import Loader
from .._store.export import ROWS, table
from .._store.store import MAPS, Store
from .costs import Costs
from .explain import CONTROLS
from .grade import Grade
from .maker import Maker, with_values
from .measures import MEASURES, SHARED
from .plan import one_forward, prepared, weights_digest, works_of
from .protocol import TRACKS, is_grade
from .records import other_ids, other_records, settings_of, unreadable
from .regions import OWN
from .sources import Source
from .suite import source_of
from .units import Picture

TOLERANCE = 1e-4
"""How far a number may be off: another machine rounds otherwise."""


class Verified(NamedTuple):
    """What `verify` found.

    Attributes:
        folder: of the submission.
        ids: of its protocols.
        numbers: how many numbers were recomputed.
        rows: how many rows these were of.
        skipped: rows whose numbers the network would have to make again, and was not asked for.
        problems: what is wrong; empty if all is well.
        without: rows that have no numbers, such as those of a photo that cannot be read: nothing shows that they could
            not have any.
    """

    folder: Path
    ids: list[str]
    numbers: int
    rows: int
    skipped: int
    problems: list[str]
    without: int = 0

    def _repr_html_(self) -> str:
        """Show what was found in a notebook."""
        facts = {"folder": str(self.folder), "numbers": f"{self.numbers} of {self.rows} rows, recomputed"}
        facts |= {"ids": ", ".join(self.ids)}
        facts |= {"skipped": f"{self.skipped} rows, for the network to make again"} if self.skipped else {}
        facts |= {"without": f"{self.without} rows have no numbers"} if self.without else {}
        facts |= {"problems": "; ".join(self.problems) or "none"}
        return facts_table(facts)


def verify(
    folder: str | os.PathLike[str],
    *,
    photos: str | Path | Sequence[Photo] | None = None,
    network: bool = True,
    head: Head | None = None,
    loader: Loader = load,
) -> list[Verified]:
    """Recompute a submission of the suite from its maps.

    The id of each protocol is the hash of its record; the pictures must be those of the record; each number is measured
    again on the stored map; and each method must have all rows that the protocol asks of it.

    Args:
        folder: of one model, or the folder of several.
        photos: where the photos are, as for `truth`, if they are neither scenes nor the built-in ones.
        network: also make the numbers for which the network runs, and compare its weights with those of the record.
        head: as for `truth`, of a detector of yours.
        loader: as for `truth`.

    Returns:
        What was found, for each model.

    Raises:
        UsageError: there is no submission.

    Example:
        >>> import tempfile
        >>> from camfn.evaluate import Suite, truth
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = truth("tiny:cnn", "grad_cam", folder, suite=Suite(tracks=("tiny",), scenes=2))
        ...     (found,) = verify(folder, network=False)
        >>> found.problems, found.numbers
        ([], 12)
    """
    place = Path(folder)
    folders = [place] if (place / "results.sqlite").is_file() else sorted(place.glob("*/"))
    stores = [Store(each) for each in folders if (each / "results.sqlite").is_file()]
    stores = [store for store in stores if "protocols" in store.header]
    if not stores:
        raise UsageError(f"no submission of the suite in {place}: expected the folder of camfn evaluate --suite truth")
    return [_verified(store, photos, network, head, loader) for store in stores]


def _verified(
    store: Store, photos: str | Path | Sequence[Photo] | None, network: bool, head: Head | None, loader: Loader
) -> Verified:
    """Verify one folder."""
    protocols = store.header["protocols"]
    ids = [each["id"] for each in protocols.values()]
    problems = unreadable(protocols)
    suite, apart = (None, list[str]()) if problems else settings_of(store)
    if suite is None:
        return Verified(store.folder, ids, 0, 0, 0, [*problems, *apart])
    problems += [*other_ids(protocols), *apart]
    record = protocols["grid"]["record"]
    spec = record["model"]["spec"]
    given = "tiny" if record["source"]["kind"] == "scenes" else photos or "builtin"
    source = source_of(spec, given, suite, head)
    problems += _differing(source.record(), record["source"])
    if network and head is None and store.header.get("head"):
        problems.append(
            f"{spec}: the run read this detector by a BoxHead of its own: give the same by --head file.py:NAME, or "
            "head in Python"
        )
    loaded = None
    try:
        loaded = loader(spec) if network else None
    except CamfnError as error:
        problems.append(f"{spec}: {error}")
    if loaded is not None:
        weights = weights_digest(loaded.model)
        if weights != record["model"]["weights"]:
            problems.append(
                f"{spec}: the weights are not those of the record: {weights[:8]} and not "
                f"{record['model']['weights'][:8]}"
            )
    if problems:
        return Verified(store.folder, ids, 0, 0, 0, problems)
    grids = record["grids"]
    graded = {name for row in store.rows if is_grade(row.photo) for name in row.vectors}
    own = sorted(graded - set(METRICS) - set(MEASURES))
    metrics = (*(name for name in METRICS if name in graded), *own)
    maker = Maker(
        suite,
        source,
        tuple(map(tuple, grids["cells"])),
        grids["labels"],
        tuple(grids["size"]),
        grids["scale"],
        0,
        metrics,
        any(row.photo.partition("/")[0] in ("gridpg", "parts", "questions", "grade", "partial") for row in store.rows),
        _kinds(store, source, loaded),
        not any(row.photo.startswith("dipart/") for row in store.rows),
    )
    if loaded is not None and grids["cells"]:
        dealt, made = prepared(spec, loaded, source, suite)
        maker = replace(maker, undivided=dealt.undivided, one_forward=dealt.one_forward)
        problems += other_records(made, protocols)
    elif loaded is not None:
        maker = replace(maker, one_forward=one_forward(source, loaded))
    numbers, rows, skipped, wrong = _numbers(store, maker, loaded)
    problems += [*wrong, *_missing(store, maker), *_other_table(store), *_other_maps(store)]
    without = sum(not row.vectors for row in store.rows)
    return Verified(store.folder, ids, numbers, rows, skipped, problems, without)


def _kinds(store: Store, source: Source, loaded: Loaded | None) -> tuple[str, ...]:
    """Return the pictures whose groups are asked about; without the network, those that the rows have."""
    names = dict.fromkeys(row.photo.partition("/")[2] for row in store.rows if row.photo.startswith("groupings/"))
    return tuple(names) if loaded is None or not names else tuple(source.kinds(loaded))


def _differing(now: dict[str, Any], said: dict[str, Any]) -> list[str]:
    """Name the photos that are not those of the record."""
    if now == said:
        return []
    ours, theirs = now.get("manifest"), said.get("manifest")
    if ours is None or theirs is None:
        return [f"the pictures are others: the record says {said}, and here they are {now}"]
    names = sorted(name for name in set(ours) | set(theirs) if ours.get(name) != theirs.get(name))
    return [f"{len(names)} photos are not those of the record, such as {names[0]}: give their folder by --photos"]


def _numbers(store: Store, maker: Maker, loaded: Loaded | None) -> tuple[int, int, int, list[str]]:
    """Measure every stored map again: numbers and rows that were compared, rows that were not, and what differs."""
    numbers, rows, skipped, wrong = 0, 0, 0, list[str]()
    shared, units, costs = Shared(), dict[str, Any](), Costs()
    spec = store.header["protocols"]["grid"]["record"]["model"]["spec"]
    # a grade measures more than the tracks of the run
    measured = {name for row in store.rows if not is_grade(row.photo) for name in row.vectors}
    for row in store.rows:
        # a row may have numbers beside the error of a metric
        if not row.vectors:
            continue
        wrong += [*_other_means(row), *_other_names(row, spec)]
        try:
            if row.photo not in units:
                units = {row.photo: maker.unit(row.photo, loaded, "cpu", shared)}
            found = _again(units[row.photo], row, store, loaded is not None)
        except Exception as error:  # no such pictures, or a map of another shape
            wrong.append(f"{row.photo} {row.case}: {failed(row, error).problem}")
            continue
        if found is None:
            skipped += 1
            continue
        rows += 1
        if loaded is not None:
            wrong += costs.wrong(units[row.photo], row, _case_of(row))
        wrong += _of_nothing(row, found, loaded is not None)
        for name, vector in found.items():
            numbers += len(vector)
            said = row.vectors.get(name)
            if said is None and (name not in measured or is_grade(row.photo)):
                continue  # a track, or a metric, that this run did not ask for
            if said is None or len(said) != len(vector) or not _close(vector.tolist(), said):
                shown = [round(value, 4) for value in vector.tolist()[:4]]
                wrong.append(
                    f"{row.photo} {row.case}: {name} of the stored map is {shown}, and the row says "
                    f"{said and [round(value, 4) for value in said[:4]]}"
                )
    return numbers, rows, skipped, wrong


def _other_names(row: Row, spec: str) -> list[str]:
    """Say so if the model, the method or the layer that tables print is not that of the row's case."""
    layer = _case_of(row).layer
    # methods of a whole network have no layer
    at_layer = not row.layer or layer in ("auto", row.layer)
    if row.model == spec and row.case == f"{spec} {layer} {row.method}" and at_layer:
        return []
    return [f"{row.photo} {row.case}: the row says {row.model} {row.layer} {row.method}"]


def _of_nothing(row: Row, found: dict[str, Tensor], network: bool) -> list[str]:
    """Name the numbers of a row that nothing measures on these pictures."""
    of_network = () if network else ("single", "groups", "ceiling")
    later = {name for name, measure in MEASURES.items() if measure.track in of_network}
    names = [name for name in row.vectors if name not in found and name.removesuffix(SHARED) not in later]
    return [f"{row.photo} {row.case}: nothing measures its {', '.join(sorted(names))}"] if names else []


def _other_means(row: Row) -> list[str]:
    """Name the values of a row, which rows.csv shows, that are not the means of its numbers."""
    means = with_values(
        row._replace(values={}), {name: torch.tensor(each) for name, each in row.vectors.items()}
    ).values
    names = [name for name in {*means, *row.values} if not _close([means.get(name, nan)], [row.values.get(name, nan)])]
    return [f"{row.photo} {row.case}: {name} is not the mean of the row's numbers" for name in sorted(names)]


def _again(unit: Any, row: Row, store: Store, network: bool) -> dict[str, Tensor] | None:
    """Measure the map of a row again; None where this takes the network and there is none."""
    kind = row.photo.partition("/")[0]
    of_masks = kind == "picture" and isinstance(unit, Picture)
    if not network and kind not in ("gridpg", "dipart", "difull", "twin") and not of_masks:
        return None
    if row.method in CONTROLS and not network and of_masks:
        return None
    maps = store.cam(row)
    if maps is None:
        if row.method not in CONTROLS:
            raise UsageError("there is no map of this row")
        maps = unit.explain(Case(row.model, "auto", row.method)).maps
    if isinstance(unit, Grade):
        unit.case = Case(row.model, "auto", row.method)
    if of_masks and not network:
        found: dict[str, Tensor] = unit.of_masks(maps)
        return found or None
    measured: dict[str, Tensor] = unit.measure(maps)
    return measured


def _close(ours: list[float], theirs: list[float]) -> bool:
    return all(
        abs(a - b) <= TOLERANCE * max(1.0, abs(b)) or (a != a and b != b) for a, b in zip(ours, theirs, strict=True)
    )


def _other_table(store: Store) -> list[str]:
    """Say so if rows.csv is not what the database holds."""
    file = store.folder / ROWS
    if not file.is_file():
        return []
    said = file.read_text(encoding="utf-8").splitlines()
    rows = table(store.rows, list(store.header["protocol"]["metrics"])).encode("utf-8", "backslashreplace").decode()
    if sorted(said) == sorted(rows.splitlines()):
        return []
    line = next((n for n, text in enumerate(said, 1) if text not in set(rows.splitlines())), len(said))
    return [
        f"{ROWS} is not what results.sqlite holds, line {line} first: camfn evaluate writes it anew in the same folder"
    ]


def _other_maps(store: Store) -> list[str]:
    """Say so if there are maps that no row has: nothing measures them."""
    own = {row.map for row in store.rows}
    beside = sorted(path.name for path in (store.folder / MAPS).glob("*.npy") if path.name not in own)
    return [f"{MAPS}: {len(beside)} files belong to no row, such as {beside[0]}"] if beside else []


def _missing(store: Store, maker: Maker) -> list[str]:
    """Name the methods that lack rows which the protocol asks of them."""
    rows = [row for row in store.rows if row.case]
    if not rows:
        return ["there are no rows"]
    # the map that is graded is a method of the others only where it has their rows
    cases = _cases([row for row in rows if not is_grade(row.photo)] or rows)
    if not cases:
        return ["there are no rows of methods"]
    unknown = {case: why for case in cases if (why := _unknown(case))}
    listed = [case for case in cases if case not in unknown]
    problems = [f"{case}: which rows the protocol asks for cannot be said: {why}" for case, why in unknown.items()]
    if not listed:
        return problems
    tracks = {_tracks_of(row.photo.partition("/")[0]) for row in rows}
    present = set(store.by_key)
    lacking: dict[str, int] = {}
    # more pictures have masks than have parts removed: a run without the first track has fewer rows
    measured = {MEASURES[name].track for row in rows for name in row.vectors if name in MEASURES}
    asked = tuple(track for track in TRACKS if track in measured or track != "tiny")
    maker = replace(maker, suite=replace(maker.suite, tracks=asked))
    for work in works_of(maker, listed, {}, retry=True):
        if _tracks_of(work.photo.name.partition("/")[0]) not in tracks:
            continue
        for case in work.cases:
            if (work.photo.name, str(case)) not in present:
                lacking[str(case)] = lacking.get(str(case), 0) + 1
    missing = [f"{case}: {count} rows that the protocol asks for are missing" for case, count in lacking.items()]
    return [*problems, *missing]


def _unknown(case: Case) -> str:
    """Say why the method of a case is not at hand; empty if it is."""
    try:
        method_of(case, torch.Generator())
    except CamfnError as error:
        return str(error)
    return ""


def _tracks_of(kind: str) -> str:
    """Return the part of a run that a unit belongs to."""
    return "grid" if kind in ("gridpg", "dipart", "difull", "twin") else kind


def _cases(rows: Sequence[Row]) -> list[Case]:
    """Read the cases of rows back from their words."""
    found = [_case_of(row) for row in rows]
    return list(dict.fromkeys(case for case in found if case.method not in CONTROLS))


def _case_of(row: Row) -> Case:
    """Read the case of a row back from its words."""
    layer = row.case[len(row.model) + 1 :].partition(" ")[0]
    method, options = method_and_options(row.method)
    return Case(row.model, layer, method, options, OWN.get(method))
