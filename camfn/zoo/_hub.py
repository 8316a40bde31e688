"""Image classifiers of Hugging Face: the model, its processor as a function of one photo, and its view."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from ._weights import fetching, library, reachable

_INSTEAD = (
    "give a repository that is in the cache of the Hub, or a folder that save_pretrained wrote, as hf:FOLDER; even "
    "random weights need its config.json"
)


def classifier(name: str, pretrained: bool) -> tuple[nn.Module, Any, list[str] | None]:
    """Load a classifier by the name of its repository, or of a folder that `save_pretrained` wrote.

    Returns:
        The model, with its own weights or random ones, its image processor, and its class names.

    Raises:
        LoadError: transformers is missing, or the files of the repository cannot be read or fetched.
    """
    transformers = library("transformers", extra_name="hf")
    local = Path(name).is_dir()
    if not local:
        reachable(f"hf:{name}", _source(name), _INSTEAD)
    with fetching(f"hf:{name}", _INSTEAD):
        config = transformers.AutoConfig.from_pretrained(name)
        processor = transformers.AutoImageProcessor.from_pretrained(name)
        build = transformers.AutoModelForImageClassification
        model = build.from_pretrained(name) if pretrained else build.from_config(config)
    labels = [config.id2label[i] for i in range(config.num_labels)]
    unnamed = all(label == f"LABEL_{i}" for i, label in enumerate(labels))
    return model, processor, None if unnamed else labels


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
