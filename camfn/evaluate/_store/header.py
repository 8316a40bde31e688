"""What all rows of a folder have in common: protocol, versions, device, threads, what the loader says of the model."""

# tested in tests/evaluate/store/test_store.py

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..._shared.files import hash_of_file
from ..._shared.versions import versions
from .._inputs.protocol import Protocol
from .._measures.own import measured

RENAMED = {"noise_samples": "infidelity_samples", "noise_maps": "sensitivity_samples"}
"""Options of a protocol that earlier versions called otherwise."""


def header_of(protocol: Protocol, device: str, loader: Callable[..., Any] | None = None) -> dict[str, Any]:
    """Make the header of a folder: protocol, versions, device, threads, what the loader says of the model."""
    record = asdict(protocol) | {"metrics": measured(protocol)}
    header = {"protocol": record, "versions": versions(), "device": device, "threads": torch.get_num_threads()}
    return header | {"model": _said_of_models(loader)}


def difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Name the first setting in which a header differs from that of a folder, with both values; None if none does.

    An option that the folder does not know is newer than the folder, whose rows were measured with its default. So is
    a measure of a suite: the folder's rows lack its column.
    """
    now, before = json.loads(json.dumps(now)), current(before)
    if "protocols" in now and "protocols" in before:
        known = before["protocol"]["metrics"]
        now["protocol"]["metrics"] = [name for name in now["protocol"]["metrics"] if name in known]
    for key, value in now.items():
        if before.get(key, {}) != value:
            return _difference(key, before.get(key), value)
    return None


def current(header: dict[str, Any]) -> dict[str, Any]:
    """Write the header of an earlier version as this one writes it; that of a suite is as its version wrote it."""
    if "protocols" in header:
        return header
    known = json.loads(json.dumps(asdict(Protocol())))
    protocol = {RENAMED.get(name, name): value for name, value in header.get("protocol", {}).items()}
    return {"model": {}} | header | {"protocol": known | protocol}


def _said_of_models(loader: Callable[..., Any] | None) -> dict[str, str]:
    """List the options of a loader, and what its weights are: others under the same name are another model."""
    if not isinstance(loader, partial):
        return {}
    said = {key: getattr(value, "__qualname__", None) or str(value) for key, value in loader.keywords.items()}
    text = said.get("weights", "")
    file = Path(text) if Path(text).is_file() else Path(text.rpartition(":")[0])
    if digest := hash_of_file(file):
        said["weights"] += f", sha256 {digest[:16]}"
    return said


def _difference(key: str, before: Any, now: Any) -> str:
    """Name the first setting that differs, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in now:
            if before.get(name) != now[name]:
                return _difference(name, before.get(name), now[name])
    return f"{key} was {json.dumps(before)}, now it is {json.dumps(now)}"
