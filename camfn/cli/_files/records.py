"""The record of what the commands write: a folder has one `explanations.jsonl`, and each map is one line of it.

docs/records.md is the schema.
"""

# tested in tests/cli/files/test_records.py

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Iterator
from datetime import datetime, timezone
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import torch
import typer
from torch import Tensor, nn

Record = dict[str, Any]
SCHEMA = 1
"""Version of the lines; it rises when a key changes its meaning or goes."""

RECORD = "explanations.jsonl"


def append_line(file: Path, record: Record) -> None:
    """Append one record as one line, whole or not at all, and wait until it is on the disk.

    The line is written under a lock of the file, so that two runs may write to one folder at once. A line that a killed
    run left unfinished stays by itself; the new one begins behind it.
    """
    line = (json.dumps(record, allow_nan=False) + "\n").encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b", buffering=0) as stream, _locked(stream):
        end = stream.seek(0, os.SEEK_END)
        if end:
            stream.seek(end - 1)
            line = line if stream.read(1) == b"\n" else b"\n" + line
        try:
            left = memoryview(line)
            while left:
                left = left[stream.write(left) :]
            os.fsync(stream.fileno())
        except OSError:
            stream.truncate(end)  # as on a full disk
            raise


@contextlib.contextmanager
def _locked(stream: BinaryIO) -> Iterator[None]:
    """Hold the lock of an open file, where the system has one; it ends with the file, also when a run is killed."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(stream, fcntl.LOCK_EX)
    yield


def read_lines(file: Path) -> list[Record]:
    """Read the whole lines of a record; an unfinished one is left out."""
    found = []
    for line in file.read_bytes().split(b"\n"):
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def hash_of_weights(model: nn.Module) -> str | None:
    """Return the sha256 of the names, types, shapes and bytes of all parameters and buffers that a model saves.

    The same weights have the same hash, whatever file they came from. None for weights that have no bytes to read.
    """
    digest = sha256()
    try:
        for name, value in sorted(model.state_dict().items()):
            if isinstance(value, Tensor):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
                plain = (value.int_repr() if value.is_quantized else value).detach().cpu().contiguous().reshape(-1)
                digest.update(plain.view(torch.uint8).numpy().data)
    except (RuntimeError, NotImplementedError, TypeError):
        return None
    return digest.hexdigest()


def command_again(context: typer.Context, photo: str) -> str:
    """Write the command that is running as a line for a shell that makes the maps of this photo again.

    It has the options that were given, in their long form. `--force` is left out, so that the line replaces nothing.
    """
    words = ["camfn", context.info_name or ""]
    for parameter in context.command.params:
        name = parameter.name or ""
        given = getattr(context.get_parameter_source(name), "name", "DEFAULT")
        if parameter.param_type_name == "option" and name != "force" and not given.startswith("DEFAULT"):
            words += _option(parameter, context.params[name])
    return shlex.join([*words, *(["--"] if photo.startswith("-") else []), photo])


def _option(option: Any, value: Any) -> list[str]:
    """Write an option and its value as words of a command."""
    if option.is_flag:
        return [(option.opts if value else option.secondary_opts)[0]]
    values = value if isinstance(value, (list, tuple)) else [value]
    return [word for one in values for word in (option.opts[0], str(one.value if isinstance(one, Enum) else one))]
