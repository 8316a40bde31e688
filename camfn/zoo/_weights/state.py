"""State dicts from local files: tensors by name, and no code is run."""

# tested in tests/zoo/libraries/test_own.py

from __future__ import annotations

import os
import pickle
import threading
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._shared.errors import LoadError
from .fetch import INSTEAD, reason

State = dict[str, Tensor]
SAVE = "save model.state_dict() and give that"
OTHERWISE = (
    "save torch.save(model.state_dict(), 'weights.pth') and give --model NAME --weights weights.pth; or save "
    "torch.export.save(torch.export.export(model, (inputs,)), 'model.pt2') and give --model model.pt2"
)
_LOCK = threading.Lock()
_DEPTH = 3
_PLAIN = ("", "state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")


def read_states(path: str | os.PathLike[str]) -> dict[str, State]:
    """Read every state dict that a file holds, by the dotted place in the file; "" is the file itself.

    Args:
        path: a .safetensors file, or a file of `torch.save`, which is read with `weights_only=True`. FILE:PLACE names
            one of several state dicts of a checkpoint, as in x.ckpt:model_ema.

    Returns:
        The state dicts, those that most likely are the trained network first.

    Raises:
        LoadError: no such file, or it holds no state dict.
    """
    file, place = _split(os.fspath(path))
    if not file.is_file():
        raise LoadError(f"no weights at {os.fspath(path)}: {INSTEAD}")
    content, foreign = _read(file)
    states = dict(sorted(_states(content), key=lambda each: _rank(each[0])))
    if not states:
        if _has_numbers(content):
            raise LoadError(f"{file} names its tensors by numbers, and a state dict by the names of the layers: {SAVE}")
        if foreign:
            raise LoadError(
                f"{file} holds a pickled model ({foreign[0]}), which only its own code can read: {OTHERWISE}"
            )
        raise LoadError(f"{file} is not a state dict: {SAVE}")
    if place is not None:
        states = {key: state for key, state in states.items() if key == place}
        if not states:
            held = ", ".join(key or "the file itself" for key in dict(_states(content)))
            raise LoadError(f"{file} has no state dict at {place!r}: it has {held}")
    return states


def _has_numbers(content: Any, depth: int = _DEPTH) -> bool:
    """Say whether tensors stand under numbers somewhere in a nested dict."""
    if not isinstance(content, dict):
        return False
    here = any(isinstance(key, int) and isinstance(value, Tensor) for key, value in content.items())
    return here or (depth > 0 and any(_has_numbers(value, depth - 1) for value in content.values()))


def _split(text: str) -> tuple[Path, str | None]:
    """Split FILE:PLACE where there is a file of that name."""
    before, colon, place = text.rpartition(":")
    if colon and not Path(text).is_file() and Path(before).is_file():
        return Path(before), place
    return Path(text), None


def _read(file: Path) -> tuple[Any, list[str]]:
    """Read a file, and list the classes in it that are neither tensors nor plain values."""
    with file.open("rb") as opened:
        head = opened.read(16)
    safe = file.suffix == ".safetensors" or head[8:9] == b"{"
    try:
        names = _names(file) if not safe and zipfile.is_zipfile(file) else []
        _refuse_programs(file, names)
        if safe:
            from safetensors.torch import load_file

            return load_file(file), []
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(file) if names else []
        # names of classes that only describe the training, such as argparse.Namespace, stand for nothing here
        with _LOCK, torch.serialization.safe_globals([(_Nothing, name) for name in foreign]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch speaks of sparse tensors, which are refused below
            return torch.load(file, map_location="cpu", weights_only=True), sorted(foreign)
    except LoadError:
        raise
    except pickle.UnpicklingError as error:
        raise LoadError(f"{file} holds more than tensors, or no tensors: {OTHERWISE}") from error
    except Exception as error:
        # safetensors and torch.load each have errors of their own for a damaged file
        raise LoadError(f"cannot read the weights {file}: {reason(error)}") from error


def _refuse_programs(file: Path, names: list[str]) -> None:
    """Refuse an archive that holds a program and no state dict."""
    if any(name.endswith("constants.pkl") for name in names):
        raise LoadError(f"{file} is a TorchScript program. Of the model that it was made of, {OTHERWISE}")
    if any("/models/" in name or name == "serialized_exported_program.json" for name in names):
        raise LoadError(f"{file} is an exported program: give it as --model {file}, without --weights")


def _names(file: Path) -> list[str]:
    """List the members of an archive."""
    with zipfile.ZipFile(file) as archive:
        return archive.namelist()


class _Nothing:
    """What stands in the place of every object of a foreign class: an empty dict, which runs nothing."""

    def __new__(cls, *_: Any, **__: Any) -> OrderedDict[str, Any]:  # type: ignore[misc]
        return OrderedDict()


def _states(content: Any, place: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, State]]:
    """Yield the dicts of tensors in a nested dict, with their places."""
    if not isinstance(content, dict):
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for key, value in content.items():
        if depth and isinstance(key, str) and key not in ("optimizer", "optimizer_states", "lr_schedulers"):
            yield from _states(value, f"{place}.{key}" if place else key, depth - 1)


def _rank(place: str) -> tuple[bool, int]:
    """Order places: averaged weights last, then in the order of `_PLAIN`."""
    words = place.split(".")
    known = [_PLAIN.index(word) if word in _PLAIN else len(_PLAIN) for word in words]
    return is_averaged(place), max(known)


def is_averaged(name: str) -> bool:
    """Say whether a name is that of a running average of the weights."""
    return any(word in name.lower() for word in ("ema", "averag", "swa"))
