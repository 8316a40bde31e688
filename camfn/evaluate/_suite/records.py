"""What the records of a submission say, and whether they hold together."""

# tested in tests/evaluate/suite/test_verify.py

from __future__ import annotations

from typing import Any

from .._store.store import Store
from .protocol import TRACKS, VERSION, Suite, id_of, record_of
from .tables import suite_of

DATA = ("source", "model", "preprocessing", "rng", "grids")
"""Fields of a record that are of the pictures and the model."""


def unreadable(protocols: dict[str, Any]) -> list[str]:
    """Say why records cannot be verified at all: tracks that are not there, or a protocol of another version."""
    apart = sorted(set(TRACKS) ^ set(protocols))
    if apart:
        return [f"the records are not those of the tracks {', '.join(TRACKS)}: {', '.join(apart)}"]
    found = []
    for track, each in protocols.items():
        said = (each["record"].get("suite"), each["record"].get("version"))
        if said != ("truth", VERSION):
            found.append(
                f"{track}: the protocol is {said[0]}, version {said[1]}, and this camfn verifies truth, version "
                f"{VERSION}: take the camfn that run.json names"
            )
    return found


def other_ids(protocols: dict[str, Any]) -> list[str]:
    """Name the tracks whose id is not that of their record."""
    return [
        f"{track}: the id {each['id']} is not that of its record, {id_of(each['record'])}"
        for track, each in protocols.items()
        if id_of(each["record"]) != each["id"]
    ]


def settings_of(store: Store) -> tuple[Suite | None, list[str]]:
    """Read the settings of a folder, and name the tracks whose record says other ones, or other pictures or models."""
    protocols = store.header["protocols"]
    try:
        suite = suite_of(store.header)
    except (TypeError, ValueError) as error:
        return None, [f"the records have settings that the suite does not: {error}"]
    record = protocols["grid"]["record"]
    data = {name: record[name] for name in DATA if name in record}
    return suite, [
        f"{track}: the record has another {_first(expected, protocols[track]['record'])} than those of the other tracks"
        for track in TRACKS
        if (expected := record_of(suite, track, data)) != protocols[track]["record"]
    ]


def other_records(made: dict[str, Any], said: dict[str, Any]) -> list[str]:
    """Name what the protocol of these pictures and this network has otherwise than the records say."""
    ours, theirs = made["grid"]["record"], said["grid"]["record"]
    now, then = (each["model"].get("trained_further") for each in (ours, theirs))
    other = f"{theirs['model']['spec']}: trained_further is {now!r}, and the record says {then!r}"
    return [other] * bool(now != then) + [
        f"{theirs['model']['spec']}: the {name} are not those that the protocol makes"
        for name in ("grids", "preprocessing")
        if ours.get(name) != theirs.get(name)
    ]


def _first(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Name the first field in which two records differ."""
    return next(name for name in sorted({*one, *other}) if one.get(name) != other.get(name))
