"""Models by name, of a user's own, and any module, each with its preprocessing, class names and view of a photo."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..._shared.errors import LoadError
from ..._shared.files import no_file
from ..._shared.given import is_given
from ..._shared.spelling import near
from .._given.loaded import Loaded
from .._given.request import Build, Given, Request
from .._libraries.hub import of_hugging_face
from .._libraries.libraries import LITE, lite, of_timm, of_tiny, of_torchvision
from .._libraries.own import FILES, count_classes, facts_of, of_file, of_function, of_program, takes_volumes
from .._libraries.prompts import WordDetector
from .._libraries.prompts import asked as ask
from .._libraries.rfdetr import of_rfdetr
from .._libraries.texts import ImageTower, checked_template, zero_shot
from .._libraries.ultralytics import of_ultralytics
from .._names.classes import Names, class_names
from .._weights import fit
from .._weights.fetch import library
from .._weights.state import State, read_states
from .preparation import Length, Numbers, Preparation, prepare, read_preparation

_BUILDERS: dict[str, Build] = {
    "lite0": partial(lite, "lite0"),
    "lite2": partial(lite, "lite2"),
    "torchvision": of_torchvision,
    "timm": of_timm,
    "hf": of_hugging_face,
    "tiny": of_tiny,
    "yolo": of_ultralytics,
    "rfdetr": of_rfdetr,
}


def load(
    spec: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    classes: Names | None = None,
    input_size: Length | None = None,
    resize: Length | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    preprocess: Callable[[Any], Tensor] | str | None = None,
    template: str | None = None,
    trust: bool = False,
) -> Loaded:
    """Load a model by name, or one of your own.

    Args:
        spec: "lite0", "lite2", "torchvision:NAME", "timm:NAME", "hf:NAME", "tiny:NAME", "yolo:FILE.pt",
            "yolo:CONFIG.yaml" or "rfdetr:SIZE"; or "file.py:function" or "package.module:function", which takes no
            arguments and returns a module (or a `Loaded`, by `of`); or the path of an exported program (.pt2), which
            `load` reads without running code.
        weights: None for the library's own default weights (downloaded once, by that library); "none" for random ones,
            always the same, the global generator untouched; or the path of a local checkpoint (.pth, .ckpt,
            .safetensors). A prefix that all names have is taken off, and a network of a library gets the number of
            classes, and of the image's channels, that the weights have. "x.ckpt:model_ema" takes one of several.
        classes: class names by index, or a file of them: one a line, or JSON. Of a model that compares images with
            texts (CLIP, SigLIP) they make its classes; of a detector that reads words, what it looks for.
        input_size: side, or height and width, of the model's input in pixels.
        resize: the length of the photo's shorter side before the center crop, or height and width, out of proportion.
        mean: of the photos, one number for each channel, of values in 0..1; or "imagenet".
        std: their deviation.
        preprocess: instead of these numbers: a function of an RGB photo to (C, H, W), or "file.py:function". The part
            of a photo that it keeps is found by trying it out; if it does more than resize and crop, give it an
            attribute `view`, a function of a photo to that part.
        template: of a model that compares images with texts, with `classes`: the text of a class, its name in the place
            of {}; by default "a photo of a {}". Of a detector that reads words the name itself.
        trust: run the code that a pickled model holds. Without it a .pt of Ultralytics is read by its known classes
            alone, and `load` refuses any other.

    Returns:
        The model in evaluation mode, its preprocessing, its view of a photo, and its class names. What is not given is
        the library's own: torchvision's weights, timm's `pretrained_cfg`, the processor of Hugging Face.

    Raises:
        LoadError: an unknown model, a missing package, weights that cannot be fetched or do not fit; says what to do.

    Example:
        >>> from PIL import Image
        >>> loaded = load("torchvision:resnet18", weights="none")
        >>> photo = Image.new("RGB", (512, 384))
        >>> loaded.preprocess(photo).shape, loaded.view(photo).size, loaded.classes[281]
        (torch.Size([3, 224, 224]), (336, 336), 'tabby')
        >>> mine = load("torchvision:resnet18", weights="none", classes=["good", "rust", "scab"], input_size=320)
        >>> mine.preprocess(photo).shape, mine.about["photos"][:41]
        (torch.Size([3, 320, 320]), 'shorter side to 366, center 320 x 320, me')
    """
    build, name = _builder(spec)
    names = None if classes is None else class_names(classes)
    asked = read_preparation(preprocess, input_size, resize, mean, std)
    text = checked_template(template, names)
    path = None if weights is None or weights == "none" else os.fspath(weights)
    states = {} if path is None else read_states(path)
    auxiliary = any(".aux" in f".{key}".lower() for state in states.values() for key in state) if states else None
    drawn = len(names) if weights == "none" and names is not None else None
    request = Request(weights is None, auxiliary, drawn, size=asked.size, trust=trust)
    with _private_rng():
        given = build(name, request)
        given, about = _filled(partial(build, name), request, given, states, path or "")
    if build in (of_function, of_program) and path is None:
        about["weights"] = "as the model has them"
    elif path is None:
        about["weights"] = given.weights or ("random" if weights == "none" else "the library's own")
    tried = build in (of_function, of_program) or asked.function is not None or asked.size is not None
    given.model.eval()
    if isinstance(given.model, ImageTower) and names is not None:
        given = given._replace(model=zero_shot(given.model, names, text).eval(), number=len(names))
        about["classes"] = f"{len(names)} zero-shot classes, {text!r} of each name"
    elif isinstance(given.model, WordDetector):
        found = _finished(given, about, asked, None, spec, tried=False)
        return found if names is None else ask(found, names, template or "{}")
    elif template is not None:
        raise LoadError(f"template {template!r}: {spec} does not compare images with texts, and has classes of its own")
    return _finished(given, about, asked, names, spec, tried=tried)


def of(
    model: nn.Module,
    *,
    preprocess: Callable[[Any], Tensor] | str | None = None,
    classes: Names | None = None,
    input_size: Length | None = None,
    resize: Length | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    name: str | None = None,
) -> Loaded:
    """Make of any module what the commands, `evaluate` and `tune` work on.

    Args:
        model: a network in evaluation mode, which takes (B, C, H, W).
        preprocess: a function of an RGB photo to (C, H, W), or "file.py:function"; as in `load`.
        classes: class names by index, or a file of them.
        input_size: side, or height and width, of the model's input in pixels.
        resize: the length of the photo's shorter side before the center crop (by default the input's shorter side), or
            height and width, out of proportion.
        mean: of the photos, one number for each channel, of values in 0..1; or "imagenet".
        std: their deviation.
        name: what messages and records call the model; by default the name of its class.

    Returns:
        The model itself, with its preprocessing, view and class names. A network of timm knows its own preprocessing.

    Raises:
        LoadError: the preprocessing is not known, or the model is in training mode.

    Example:
        >>> from PIL import Image
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> loaded = of(net, input_size=64, mean=0.5, std=0.25, classes=["healthy", "ill"])
        >>> loaded.preprocess(Image.new("RGB", (100, 80))).shape, loaded.view(Image.new("RGB", (100, 80))).size
        (torch.Size([1, 64, 64]), (80, 80))
    """
    if not isinstance(model, nn.Module):
        raise LoadError(f"expected an nn.Module, got {type(model).__name__}: zoo.load(NAME) loads a model by name")
    if model.training:
        raise LoadError(f"this {type(model).__name__} is in training mode: call model.eval() first")
    names = None if classes is None else class_names(classes)
    asked = read_preparation(preprocess, input_size, resize, mean, std)
    return _finished(facts_of(model), {}, asked, names, name or type(model).__name__, tried=False)


def _builder(spec: str) -> tuple[Build, str]:
    """Find the function that builds a model, and the name that it takes.

    Raises:
        LoadError: names no model.
    """
    kind, _, name = spec.partition(":")
    if kind in _BUILDERS and (kind in LITE) != bool(name):
        return _BUILDERS[kind], name
    if spec.lower().endswith((".pt2", *FILES)) and not Path(spec).is_file() and not Path(kind).is_file():
        raise LoadError(f"--model: {no_file(Path(spec))}")
    if spec.lower().endswith(".pt2"):
        return of_program, spec
    if kind not in _BUILDERS and is_given(spec) and (not kind.isidentifier() or _is_module(kind)):
        return of_function, spec
    if spec.lower().endswith(FILES):
        raise of_file(spec)
    expected = (
        "expected lite0, lite2, torchvision:NAME, timm:NAME, hf:NAME, tiny:NAME, yolo:FILE.pt, rfdetr:SIZE, "
        "file.py:function, package.module:function or an exported program, FILE.pt2"
    )
    raise LoadError(f"unknown model {spec!r}: {expected}. {_near_spec(spec)}")


def _is_module(name: str) -> bool:
    """Say whether there is a module of this name, in a package or in the working folder."""
    return find_spec(name) is not None or Path(f"{name}.py").is_file() or Path(name).is_dir()


def _filled(
    build: Callable[[Request], Given], request: Request, given: Given, states: Mapping[str, State], source: str
) -> tuple[Given, dict[str, str]]:
    """Fill weights into a network, which is built anew if they have another number of classes or channels."""
    if not states:
        return given, {}
    fitted = fit.fit(given.model, states, source)
    shape = fit.shape_of(given.model, fitted.state, given.number)
    about = {}
    if shape != fit.Shape():
        given = build(request._replace(classes=shape.classes, channels=shape.channels))
        given = given._replace(channels=shape.channels or given.channels)
        fitted = fit.fit(given.model, states, source)
        if shape.classes is not None:
            given = given._replace(classes=None, number=shape.classes)
            about["head"] = f"{shape.classes} class{'es' * (shape.classes > 1)}, as the weights have them"
    fit.fill(given.model, fitted, source)
    return given, about | {"weights": "; ".join([source, *fitted.said])}


def _finished(
    given: Given, about: dict[str, str], asked: Preparation, names: list[str] | None, name: str, *, tried: bool
) -> Loaded:
    """Put model, preprocessing and names together, and check that they belong together.

    Raises:
        LoadError: another number of names than classes, or the model does not take what the preprocessing gives.
    """
    volumes = takes_volumes(given.model)
    if volumes and asked.function is None and given.preprocess is None:
        raise LoadError(
            f"{name} takes volumes: give --preprocess file.py:function, of an array (X, Y, Z) to a tensor (C, D, H, W)"
        )
    prepared = prepare(given, asked, given.channels, name)
    about = about | {"photos": prepared.about}
    if names is not None:
        about = {"classes": f"{len(names)} names of the user's"} | about
    loaded = Loaded(
        given.model,
        prepared.preprocess,
        prepared.view,
        given.classes if names is None else names,
        name,
        about,
        given.batch,
        prepared.recipe,
    )
    count = count_classes(loaded) if tried and not volumes else given.number
    known = loaded.classes
    if count is not None and known is not None and len(known) != count:
        if names is not None:
            raise LoadError(f"there are {len(names)} class names, and {name} has {count} classes")
        loaded = loaded._replace(classes=None)
    return loaded


def _near_spec(spec: str) -> str:
    """Say which models have a name like that of `spec`."""
    torchvision, timm = library("torchvision"), library("timm")
    specs = {model: f"timm:{model}" for model in timm.list_models()}
    specs |= {model: f"torchvision:{model}" for model in torchvision.models.list_models(module=torchvision.models)}
    specs |= {kind: kind for kind in LITE}
    name = spec.rpartition(":")[2]
    return near(name, specs, show=specs.__getitem__, instead="For example: torchvision:resnet50")


@contextmanager
def _private_rng() -> Iterator[None]:
    """Initialize from a fixed seed, and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the generators of every accelerator
        torch.default_generator.manual_seed(0)
        yield
