"""Classifiers and detectors of Hugging Face: the model, its processor as a function of one photo, and its view."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ..._shared.errors import LoadError
from .._given.request import Given, Request
from .._photo.recipe import Recipe
from .._photo.view import center_view, whole
from .._weights.fetch import fetching, library, reachable
from .prompts import FAMILIES, Squared, WordDetector
from .texts import ImageTower, is_image_text

_INSTEAD = (
    "give a repository that is in the cache of the Hub, or a folder that save_pretrained wrote, as hf:FOLDER; even "
    "random weights need its config.json"
)


def of_hugging_face(name: str, request: Request) -> Given:
    """Build a classifier or a detector by the name of its repository, or of a folder that `save_pretrained` wrote.

    Raises:
        LoadError: transformers is missing, or the files of the repository cannot be read or fetched.
    """
    transformers = library("transformers", extra_name="hf")
    local = Path(name).is_dir()
    if not local:
        reachable(f"hf:{name}", _source(name), _INSTEAD)
    with fetching(f"hf:{name}", _INSTEAD):
        config = transformers.AutoConfig.from_pretrained(name)
        _change(config, request)
        processor = transformers.AutoImageProcessor.from_pretrained(name)
        if is_image_text(config):
            return _image_tower(transformers, name, config, processor, request)
        if type(config) in transformers.AutoModelForZeroShotObjectDetection._model_mapping:
            return _word_detector(transformers, name, config, processor, request)
        detects = type(config) in transformers.AutoModelForObjectDetection._model_mapping
        build = transformers.AutoModelForObjectDetection if detects else transformers.AutoModelForImageClassification
        model = build.from_pretrained(name) if request.pretrained else build.from_config(config)
    labels = [config.id2label[i] for i in range(config.num_labels)]
    unnamed = all(label == f"LABEL_{i}" for i, label in enumerate(labels))
    source = f"the image processor of {name}"
    names = None if unnamed else labels
    if detects:
        return Given(model, preprocess(_unpadded(processor, name)), whole, names, config.num_labels, None, source)
    given = preprocess(processor), partial(view, processor=processor)
    return Given(model, *given, names, config.num_labels, _recipe(processor), source)


def loaded_for_text(name: str) -> tuple[Any, Any]:
    """Return a model that reads images and says text, in evaluation mode, and its processor; no pickle is read.

    Raises:
        LoadError: transformers is missing, the files cannot be read or fetched, or the model says no text.
    """
    transformers = library("transformers", extra_name="hf")
    if not Path(name).is_dir():
        if name.count("/") > 1 or name.startswith((".", "/", "~")):
            raise LoadError(
                f"hf:{name}: no such folder: give one that save_pretrained wrote, or the name of a repository"
            )
        reachable(f"hf:{name}", _source(name), _INSTEAD)
    with fetching(f"hf:{name}", _INSTEAD):
        config = transformers.AutoConfig.from_pretrained(name)
        if type(config) not in transformers.AutoModelForImageTextToText._model_mapping:
            raise LoadError(f"hf:{name} is a {config.model_type}, which says no words of an image")
        processor = transformers.AutoProcessor.from_pretrained(name)
        model = transformers.AutoModelForImageTextToText.from_pretrained(name, use_safetensors=True)
    return model.eval(), processor


def _unpadded(processor: Any, name: str) -> Any:
    """Refuse the processor of a detector that pads one photo, so that the photo would not fill the input."""
    if getattr(processor, "do_pad", False) and getattr(processor, "pad_size", None):
        raise LoadError(f"hf:{name}: its processor pads each photo to {processor.pad_size}: set pad_size to null in it")
    return processor


def _image_tower(transformers: Any, name: str, config: Any, processor: Any, request: Request) -> Given:
    """Build the image side of a model that compares images with texts."""
    build = transformers.AutoModel
    model = build.from_pretrained(name) if request.pretrained else build.from_config(config)
    tower = ImageTower(model, transformers.AutoTokenizer.from_pretrained(name))
    given = preprocess(processor), partial(view, processor=processor)
    return Given(tower, *given, None, None, _recipe(processor), f"the image processor of {name}")


def _word_detector(transformers: Any, name: str, config: Any, processor: Any, request: Request) -> Given:
    """Build a detector that reads words; `asked` names the things later."""
    if config.model_type not in FAMILIES:
        raise LoadError(
            f"hf:{name}: how a {config.model_type} reads words is not known: wrap it in a function of images, as "
            "file.py:function, and give it its head as an attribute box_head"
        )
    build = transformers.AutoModelForZeroShotObjectDetection
    model = build.from_pretrained(name) if request.pretrained else build.from_config(config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    squared = config.model_type == "owlv2" and processor.do_pad
    given = Squared(processor) if squared else preprocess(_unpadded(processor, name))
    return Given(WordDetector(model, tokenizer), given, whole, None, None, None, f"the image processor of {name}")


def _change(config: Any, request: Request) -> None:
    """Write what is asked for into a configuration."""
    if request.classes is not None:
        config.num_labels = request.classes
    if request.channels is not None:
        config.num_channels = request.channels
    if request.size is not None and hasattr(config, "image_size") and not request.pretrained:
        config.image_size = request.size[0] if request.size[0] == request.size[1] else request.size


def _recipe(processor: Any) -> Recipe | None:
    """Return a processor in numbers; None if it does more than resize, crop, mean and deviation."""
    facts = processor.to_dict()
    size, crop = facts.get("size") or {}, facts.get("crop_size") or {}
    plain = facts.get("do_resize") and facts.get("do_rescale", True) and not facts.get("do_pad")
    if not plain or abs(facts.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9 or facts.get("crop_pct"):
        return None
    if "shortest_edge" in size and not facts.get("do_center_crop"):
        return None
    shape = (crop["height"], crop["width"]) if facts.get("do_center_crop") else (size["height"], size["width"])
    resize = size["shortest_edge"] if "shortest_edge" in size else (size["height"], size["width"])
    normal = facts.get("do_normalize", True)
    mean, std = (tuple(facts["image_mean"]), tuple(facts["image_std"])) if normal else ((0.0,) * 3, (1.0,) * 3)
    filters = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
    return Recipe(shape, resize, mean, std, filters.get(int(facts.get("resample", 2)), "bilinear"))


def _source(name: str) -> str | None:
    """Return the address that the library will fetch the files from; None if they are on this machine."""
    from huggingface_hub import constants, try_to_load_from_cache

    held = isinstance(try_to_load_from_cache(name, "config.json"), str)
    return None if held or constants.HF_HUB_OFFLINE else str(constants.ENDPOINT)


def preprocess(processor: Any) -> Callable[[Image.Image], Tensor]:
    """Make a function from one photo to (3, H, W) of a processor of batches."""

    def process(photo: Image.Image) -> Tensor:
        pixels: Tensor = processor(photo, return_tensors="pt")["pixel_values"][0]
        return pixels

    return process


def view(photo: Image.Image, *, processor: Any) -> Image.Image:
    """Cut out the part of a photo that a processor keeps."""
    whole, crop = resized(processor, (photo.height, photo.width))
    return center_view(photo, resize=lambda image: image.resize(whole[::-1]), crop=crop)


def resized(processor: Any, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return two sizes (height, width): that of a photo after the processor's resize, and that of its crop."""
    wanted = processor.size
    edge, share = wanted["shortest_edge"], getattr(processor, "crop_pct", None)
    if edge is None:
        whole = wanted["height"], wanted["width"]
    elif share is not None and edge >= 384:
        whole = edge, edge  # ConvNeXt's processor squashes large images, and crops small ones
    else:
        whole = _shortest(size, int(edge / (share or 1)))
    if share is not None and edge is not None:
        return whole, (edge, edge)
    if getattr(processor, "do_center_crop", None):
        return whole, (processor.crop_size["height"], processor.crop_size["width"])
    return whole, whole


def _shortest(size: tuple[int, int], edge: int) -> tuple[int, int]:
    """Scale (height, width), sides in proportion, so that the shorter side is `edge`."""
    height, width = size
    short = min(size)
    return int(edge * height / short), int(edge * width / short)
