"""What a user asks of the command line, in words, checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import attention, image, methods, network
from ._check import layer_name
from ._fuse import matching
from ._names import synonyms
from .zoo import Loaded

RECORD = "explanations.json"
PICTURES = tuple(name for name in network.__all__ if not name.endswith("full_grad"))
"""Methods of a whole network whose result has the channels of the image; that of the others is a map."""
PERTURBING = {"tail", "forward", "inputs"}
"""Keywords of the methods that run the network again."""


class UsageError(ValueError):
    """Something was asked for that cannot be done; the message is one line and says what can."""


class Wanted(NamedTuple):
    """Classes to explain for each photo.

    Attributes:
        chosen: one class for all photos, or None for the best of each.
        best: how many of the best.
    """

    chosen: int | None
    best: int = 1

    @property
    def suffixes(self) -> list[str]:
        """Tell the files of the classes apart; known before any forward, so that existing files can be."""
        if self.chosen is not None:
            return [f".{self.chosen}"]
        return [""] if self.best == 1 else [f".top{rank}" for rank in range(1, self.best + 1)]


class Plan(NamedTuple):
    """A photo and the files to be made of it, without their ending: one a class."""

    photo: Path
    bases: list[Path]


def named_methods() -> dict[str, Callable[..., Any]]:
    """List the methods on a layer, then those on attention, then those of a whole network, maps ahead of pictures."""
    on_layers = {name: getattr(methods, name) for name in methods.__all__}
    return on_layers | dict(attention.METHODS) | {name: getattr(network, name) for name in network.__all__}


def pick_method(name: str, seed: int) -> Callable[..., Any]:
    """Find a method that gives maps by name; one that draws gets its generator."""
    if name in PICTURES:
        raise UsageError(f"{name} gives a picture, no map: camfn guided --method {name}")
    known = named_methods()
    if name not in known:
        near = _near(name, [other for other in known if other not in PICTURES])
        raise UsageError(f"no method {name!r}. {near} All of them: camfn methods")
    return _seeded(known[name], seed)


def pick_picture(name: str, seed: int) -> Callable[..., Any]:
    """Find a method whose result has the channels of the image; one that draws gets its generator."""
    known = named_methods()
    if name not in PICTURES:
        found = f"{name} gives a map: camfn explain --method {name}." if name in known else f"no method {name!r}."
        raise UsageError(f"{found} Of pictures there are {', '.join(PICTURES)}")
    return _seeded(known[name], seed)


def of_network(method: Callable[..., Any]) -> bool:
    """Whether a method is of a whole network, and takes the model."""
    return getattr(method, "func", method) in [getattr(network, name) for name in network.__all__]


def takes_layer(method: Callable[..., Any]) -> bool:
    """Whether a method is taken at a layer, or at attention."""
    return not of_network(method) or "layer" in signature(method).parameters


def refuse_layer(method: Callable[..., Any], name: str, layer: str) -> None:
    """Refuse a layer for a method that has none."""
    if layer != "auto" and not takes_layer(method):
        raise UsageError(f"{name} is of the whole network and takes no layer: leave --layer out")


def refuse_task(task: str, like: Path | None, method: Callable[..., Any], changed: bool) -> None:
    """Refuse what the other tasks do not have."""
    if (task == "similar") != (like is not None):
        raise UsageError("--task similar needs --like PHOTO, the photo to be like; other tasks take none")
    if like is not None and not like.is_file():
        raise UsageError(f"there is no photo {like} to be like")
    on_layer = getattr(method, "func", method) in [getattr(methods, name) for name in methods.__all__]
    if task != "classify" and (changed or not on_layer or getattr(method, "__name__", "") == "cam"):
        raise UsageError(f"--task {task} takes a method on one layer, without transformations, such as --method odam")


def _seeded(method: Callable[..., Any], seed: int) -> Callable[..., Any]:
    if "generator" in signature(method).parameters:
        return partial(method, generator=torch.Generator().manual_seed(seed))
    return method


def pick_device(name: str) -> torch.device:
    """Find a device that can be used here."""
    kind, _, number = name.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind not in there or (number and not number.isdecimal()):
        raise UsageError(f"no device {name!r}: expected cpu, cuda, mps or auto")
    if int(number or 0) >= there[kind]:
        raise UsageError(f"the device {name} cannot be used on this machine: take --device cpu or --device auto")
    return torch.device(f"{kind}:{number}" if number else kind)


def pick_colormap(name: str) -> None:
    """See that there is such a colormap."""
    image.colorize(torch.zeros(1, 1, 1), name)


def pick_target(text: str, loaded: Loaded) -> Wanted:
    """Understand a class index, a class name, `top` or `top:3`."""
    count = class_count(loaded)
    word, _, number = text.partition(":")
    if word == "top":
        if number and not (number.isdecimal() and int(number)):
            raise UsageError(f"target {text!r}: expected top or top:K, as top:3")
        if count is not None and int(number or 1) > count:
            raise UsageError(f"target {text!r}: {loaded.name} has {count} classes")
        return Wanted(None, int(number or 1))
    if text.removeprefix("-").isdecimal():
        index = int(text)
        if index < 0 or (count is not None and index >= count):
            known = f"{count} classes, 0 to {count - 1}" if count else "classes from 0"
            raise UsageError(f"class {index} is out of range: {loaded.name} has {known}")
        return Wanted(index)
    if loaded.classes is None:
        raise UsageError(f"the class names of {loaded.name} are not known: give an index, top or top:3, not {text!r}")
    return Wanted(_class_named(text, loaded.classes))


def class_count(loaded: Loaded) -> int | None:
    """Count the classes of a model, where that can be told without running it."""
    if loaded.classes is not None:
        return len(loaded.classes)
    count = getattr(loaded.model, "num_classes", None)
    if count == 0:
        raise UsageError(f"{loaded.name} has no classes: it ends in features, without a classifier")
    return count if isinstance(count, int) else None


def pick_layer(model: nn.Module, name: str) -> str | None:
    """Check the name of a layer; None stands for `auto`."""
    return None if name == "auto" else layer_name(model, name)


def pick_layers(model: nn.Module, names: str) -> tuple[str, ...]:
    """Check names and patterns of several layers, separated by commas."""
    given = tuple(filter(None, (name.strip() for name in names.split(","))))
    return tuple(matching(model, given))


def pick_methods(names: str, seed: int) -> dict[str, Callable[..., Tensor]]:
    """Find methods by name, separated by commas; `all`; or `cheap`, those that ask nothing more of the network."""
    if names in ("all", "cheap"):
        every = {name: pick_method(name, seed) for name in methods.__all__}
        return {name: m for name, m in every.items() if names == "all" or not PERTURBING & set(signature(m).parameters)}
    given = list(dict.fromkeys(filter(None, (name.strip() for name in names.split(",")))))
    if not given:
        raise UsageError("methods: expected all, cheap, or names separated by commas, as grad_cam,layer_cam")
    return {name: pick_method(name, seed) for name in given}


def plan(
    photos: Sequence[Path], out: Path, method: str, wanted: Wanted, force: bool, record: str = RECORD
) -> list[Plan]:
    """Choose the files to write, and see that they may be written.

    A photo's files are named after its stem. Where several photos have one stem, in any case of letters, the later ones
    are numbered: cat, cat-2, cat-3.
    """
    plans = [
        Plan(photo, [out / f"{stem}.{method}{suffix}" for suffix in wanted.suffixes])
        for photo, stem in zip(photos, _unique(photo.stem for photo in photos), strict=True)
    ]
    files = [with_ending(base, end) for item in plans for base in item.bases for end in ("png", "npy")] + [out / record]
    inputs = {photo.resolve() for photo in photos}
    for file in files:
        if file.resolve() in inputs:
            raise UsageError(f"the output {file} would replace a photo given: choose another --out")
        if os.path.lexists(file) and not force:
            raise UsageError(f"{file} exists already: give --force to replace it, or choose another --out")
    _may_hold_files(out)
    return plans


def writable(file: Path, force: bool) -> None:
    """See that one picture may be written."""
    if file.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"--out {file}: expected a name in .png or .jpg")
    if os.path.lexists(file) and not force:
        raise UsageError(f"{file} exists already: give --force to replace it, or choose another --out")
    _may_hold_files(file.parent)


def _may_hold_files(out: Path) -> None:
    folder = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write to {out}: {folder} is not a folder that may be written to")


def with_ending(base: Path, end: str) -> Path:
    """Append an ending; `Path.with_suffix` would replace the method's name."""
    return base.with_name(f"{base.name}.{end}")


def _unique(stems: Iterable[str]) -> list[str]:
    taken: set[str] = set()
    names = []
    for stem in stems:
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _class_named(text: str, classes: list[str]) -> int:
    """Find a class by its name, then without regard to case, then by its other names."""
    exact = [i for i, name in enumerate(classes) if name == text]
    if len(exact) == 1:
        return exact[0]
    word = text.casefold()
    others = synonyms(classes)
    found = [i for i, name in enumerate(classes) if name.casefold() == word]
    found = found or [i for i, names in enumerate(others) if word in (name.casefold() for name in names)]
    if len(found) == 1:
        return found[0]
    if found:
        places = " or ".join(f"{i} ({', '.join(others[i]) or classes[i]})" for i in found)
        raise UsageError(f"several classes are called {text!r}: give an index, {places}")
    names = dict.fromkeys([*classes, *(name for names in others for name in names)])
    raise UsageError(f"no class {text!r}. {_near(text, list(names))} An index, top or top:3 will do as well")


def _near(text: str, names: Sequence[str]) -> str:
    """Name the nearest of `names`: those that have the text as a word, then by spelling."""
    word = text.casefold()
    folded = {name.casefold(): name for name in names}
    within = [name for key, name in folded.items() if word in key.replace("_", " ").split()]
    spelled = [folded[match] for match in get_close_matches(word, folded, n=3)]
    close = list(dict.fromkeys([*within[:3], *spelled]))[:4]
    return f"Did you mean {' or '.join(map(repr, close))}?" if close else f"There are {', '.join(names[:5])} and more."
