"""Checks of the options of the commands, before any forward runs."""

# tested in tests/cli/test_cli.py

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import image
from .._cut.layer_checks import layer_name
from .._shared.errors import UsageError
from ..catalogue import info_of
from ..transforms._fuse import matching


def refuse_layer(method: Callable[..., Any], name: str, layer: str) -> None:
    """Raise an error if a user names a layer and the method takes none."""
    if layer != "auto" and not info_of(method).takes_layer:
        raise UsageError(f"{name} is of the whole network and takes no layer: leave --layer out")


def refuse_task(task: str, like: Path | None, method: Callable[..., Any], changed: bool) -> None:
    """Raise an error if the options do not fit the task."""
    if (task == "similar") != (like is not None):
        raise UsageError("--task similar needs --like PHOTO, the photo to be like; other tasks take none")
    if like is not None and not like.is_file():
        raise UsageError(f"there is no photo {like} to be like")
    info = info_of(method)
    if task != "classify" and (changed or info.kind != "layer" or "head" in info.needs):
        raise UsageError(f"--task {task} takes a method on one layer, without transformations, such as --method odam")


def pick_device(name: str) -> torch.device:
    """Find the device with this name, or the best one for "auto"; raise an error if this machine lacks it."""
    kind, _, number = name.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind not in counts or (number and not number.isdecimal()):
        raise UsageError(f"no device {name!r}: expected cpu, cuda, mps or auto")
    if int(number or 0) >= counts[kind]:
        raise UsageError(f"the device {name} cannot be used on this machine: take --device cpu or --device auto")
    return torch.device(f"{kind}:{number}" if number else kind)


def pick_colormap(name: str) -> None:
    """Check that the colormap exists."""
    image.colorize(torch.zeros(1, 1, 1), name)


def pick_layer(model: nn.Module, name: str) -> str | None:
    """Check that the model has this layer; return None for "auto"."""
    return None if name == "auto" else layer_name(model, name)


def pick_layers(model: nn.Module, names: str) -> tuple[str, ...]:
    """Check names and patterns of several layers, separated by commas, and return the names of the layers."""
    given = tuple(filter(None, (name.strip() for name in names.split(","))))
    return tuple(matching(model, given))
