"""Models of a user's own: a function that builds one, an exported program, any module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..._shared.errors import LoadError, first_line
from ..._shared.given import explained, named_object
from .._given.loaded import Loaded
from .._given.request import Given, Request
from .._photo.recipe import Recipe
from .._weights.exported import load_program
from .._weights.fetch import library
from .._weights.state import OTHERWISE
from .libraries import from_timm

FILES = (".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".onnx", ".h5", ".pkl")


def of_function(spec: str, request: Request) -> Given:
    """Call a user's function file.py:function or package.module:function.

    Raises:
        LoadError: the function raised an error, or gives no model.
    """
    made: Any = named_object(spec, "--model", error=LoadError)
    if not isinstance(made, (nn.Module, Loaded)):
        if not callable(made):
            raise LoadError(f"--model {spec}: expected a function that returns an nn.Module, got {type(made).__name__}")
        with explained(f"--model {spec}", LoadError):
            made = made()
    if isinstance(made, Loaded):
        recipe = made.preprocess if isinstance(made.preprocess, Recipe) else None
        words = made.about.get("photos", "") if recipe is None else "of the function"
        return Given(
            *made[:4], number=len(made.classes) if made.classes else None, recipe=recipe, source=words, batch=made.batch
        )
    if not isinstance(made, nn.Module):
        raise LoadError(
            f"--model {spec} returned {type(made).__name__}: expected an nn.Module, or camfn.zoo.of(model, ...)"
        )
    return facts_of(made)


def of_program(path: str, request: Request) -> Given:
    """Load an exported program; its input says how large an image is, and no more.

    Raises:
        LoadError: the program cannot be read without running code, or takes other inputs.
    """
    model, shape = load_program(Path(path))
    given = facts_of(model)
    if len(shape) == 4 and isinstance(shape[2], int) and isinstance(shape[3], int):
        given = given._replace(size=(shape[2], shape[3]))
    return given._replace(batch=shape[0], channels=shape[1])


def of_file(spec: str) -> LoadError:
    """Say how a file of weights is given."""
    suffix = Path(spec).suffix.lower()
    if suffix == ".onnx":
        return LoadError(
            f"--model {spec}: camfn explain and camfn verify read the ONNX files that camfn export "
            f"wrote, and this command none. Of the PyTorch "
            f"model whose export it is, {OTHERWISE}"
        )
    return LoadError(
        f"--model {spec}: a file of weights goes to --weights {spec}, with --model torchvision:NAME, timm:NAME or "
        f"file.py:function for the network; a pickled model is not read. Of one, {OTHERWISE}"
    )


def facts_of(model: nn.Module) -> Given:
    """Read from a module what it says of itself: timm's networks know their preprocessing, and all their channels."""
    config = getattr(model, "pretrained_cfg", None)
    if isinstance(config, dict) and "mean" in config and "input_size" in config:
        timm = library("timm")
        given = from_timm(timm, model, timm.data.resolve_model_data_config(model), "timm's pretrained_cfg")
        return given._replace(classes=None, channels=channels_of(model))
    count = getattr(model, "num_classes", None)
    return Given(model, None, None, None, count if isinstance(count, int) else None, channels=channels_of(model))


def channels_of(model: nn.Module) -> int | None:
    """Return the channels of the first convolution; None if there is none."""
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    first = next((module for module in model.modules() if isinstance(module, convolutions)), None)
    return None if first is None else first.in_channels


def takes_volumes(model: nn.Module) -> bool:
    """Say whether the first convolution of a model is one of volumes."""
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return isinstance(next((m for m in model.modules() if isinstance(m, convolutions)), None), nn.Conv3d)


def count_classes(loaded: Loaded) -> int | None:
    """Run a model on one photo of noise, and return its number of classes; None if its outputs are no scores.

    Raises:
        LoadError: the model does not take what the preprocessing gives.
    """
    from PIL import Image

    noise = torch.randint(0, 256, (256, 320, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = loaded.preprocess(Image.fromarray(noise.numpy()))[None]
    try:
        with torch.no_grad():
            outputs = loaded.model(image)
    except Exception as error:
        words = first_line(error) or type(error).__name__
        raise LoadError(f"{loaded.name} does not take a photo as {tuple(image.shape)}: {words}") from error
    scores = getattr(outputs, "logits", outputs)
    return scores.shape[1] if isinstance(scores, torch.Tensor) and scores.ndim == 2 else None
