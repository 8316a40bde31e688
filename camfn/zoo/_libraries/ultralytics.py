"""Builder: a network of Ultralytics, of a file that YOLO saved or of a configuration, offline, no pickled code run."""

# tested in tests/zoo/libraries/test_detectors.py

from __future__ import annotations

import ast
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..._shared.errors import LoadError
from ..._shared.optional import extra
from .._given.request import Given, Request
from .._photo.letterbox import Letterbox
from .._photo.recipe import Recipe
from .._photo.view import center_view, whole
from .._weights.fetch import reason

_SIDE = 640
"""Of the input, where a file says no other."""


class Logits(nn.Module):
    """A classifier of Ultralytics that returns its logits alone, which in evaluation come second."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Classify images, (B, K)."""
        outputs = self.net(x)
        logits: Tensor = outputs[1] if isinstance(outputs, (list, tuple)) else outputs
        return logits


def of_ultralytics(name: str, request: Request) -> Given:
    """Build a network by the path of a file that YOLO saved, or the name or the path of a configuration.

    Raises:
        LoadError: ultralytics is missing, the file would have to run code, or there is no such file.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in (".pt", ".yaml", ".yml"):
        raise LoadError(f"yolo:{name}: expected a file that YOLO saved, yolo:best.pt, or a configuration, yolo11n.yaml")
    if suffix == ".pt":
        _refuse_path(name)
        if not request.pretrained:
            raise LoadError(f"yolo:{name} has its own weights: leave --weights out, or name a configuration (.yaml)")
    with _package():
        net, side = _of_file(name, request.trust) if suffix == ".pt" else _of_configuration(name)
    given = _given(net.eval().requires_grad_(False), side, request)
    if request.classes not in (None, given.number):
        raise LoadError(f"yolo:{name} has {given.number} classes, expected {request.classes}: give the .pt itself")
    return given._replace(weights="of the file" if suffix == ".pt" else "random")


def _refuse_path(name: str) -> None:
    """Refuse what the package would not take for a file on this machine, and fetch."""
    if not Path(name).is_file():
        raise LoadError(
            f"yolo:{name}: there is no such file, and camfn fetches none: download it, for example by "
            f"YOLO({Path(name).name!r}) in Python, and give its path"
        )
    resolved = str(Path(name).resolve())
    if "'" in resolved or resolved != resolved.strip():
        raise LoadError(f"yolo:{name}: Ultralytics cannot read a path with quotes or spaces at its end: rename it")


@contextmanager
def _package() -> Iterator[None]:
    """Import ultralytics, and keep it from fetching, installing, and writing into the user's settings."""
    folder = Path(tempfile.gettempdir()) / f"camfn-ultralytics-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    wanted = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
    wanted |= {"YOLO_CONFIG_DIR": os.environ.get("YOLO_CONFIG_DIR", str(folder))}
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        with extra("ultralytics", "this model", name="ultralytics", error=LoadError):
            import_module("ultralytics.nn.tasks")
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _of_file(name: str, trust: bool) -> tuple[Any, int]:
    """Load the network of a file that YOLO saved, and the side that it was trained at.

    Raises:
        LoadError: the file holds more than the classes that Ultralytics' own files hold, or no network.
    """
    tasks = import_module("ultralytics.nn.tasks")
    safe = getattr(tasks, "_SafeLoad", None)
    path = Path(name).resolve()
    if not trust and not getattr(safe, "SUPPORTED", False):
        raise LoadError(
            f"yolo:{name} is a pickled model, and this version of ultralytics or torch reads it by running the code in "
            "it: install ultralytics 8.4 or newer with torch 2.6 or newer; or --trust, if you trust who made the file"
        )
    try:
        if trust:
            content = torch.load(path, map_location="cpu", weights_only=False)
        else:
            content, _ = tasks.torch_safe_load(str(path), safe_only=True)
    except Exception as error:
        why = reason(error).replace("ERROR ❌️ ", "")
        instead = "" if trust else "; nothing in it was run. If you trust who made the file: --trust"
        raise LoadError(f"yolo:{name} is no file that YOLO saved, or a damaged one ({why}){instead}") from error
    net = (content.get("ema") or content.get("model")) if isinstance(content, dict) else None
    if not isinstance(net, tasks.BaseModel):
        raise LoadError(f"yolo:{name} holds no network of Ultralytics: give a file that YOLO(...).save(...) wrote")
    for module in net.modules():
        if isinstance(module, nn.Upsample) and not hasattr(module, "recompute_scale_factor"):
            module.recompute_scale_factor = None
    side = (content.get("train_args") or {}).get("imgsz", _SIDE)
    return net.float(), max(side) if isinstance(side, (list, tuple)) else int(side)


def _of_configuration(name: str) -> tuple[Any, int]:
    """Build a network with random weights."""
    package = import_module("ultralytics")
    if "://" in name or ":" in name:
        raise LoadError(f"yolo:{name}: expected a configuration on this machine, as yolo:yolo11n.yaml")
    tasks = import_module("ultralytics.nn.tasks")
    try:
        content = tasks.yaml_model_load(name)
    except Exception as error:
        raise LoadError(f"yolo:{name}: Ultralytics has no such configuration ({reason(error)})") from error
    _refuse_code(name, content)
    try:
        picks = "RTDETRDecoder" in str(content.get("head", ""))
        holder = package.RTDETR(name) if picks else package.YOLO(name)
    except Exception as error:
        raise LoadError(f"yolo:{name}: Ultralytics cannot build it: {reason(error)}") from error
    return holder.model, 224 if "Classify" in _heads(holder.model) else _SIDE


def _refuse_code(name: str, content: Any) -> None:
    """Refuse a configuration whose activation, which the package evaluates, is more than a class of torch.nn."""
    text = content.get("activation") if isinstance(content, dict) else None
    if text is None:
        return
    try:
        node = ast.parse(str(text).strip(), mode="eval").body
        assert isinstance(node, ast.Call)
        for value in (*node.args, *(keyword.value for keyword in node.keywords)):
            ast.literal_eval(value)
        plain = ast.unparse(node.func).removeprefix("torch.").removeprefix("nn.")
        known = plain.isidentifier() and isinstance(getattr(nn, plain, None), type)
    except (SyntaxError, ValueError, AssertionError):
        known = False
    if not known:
        raise LoadError(f"yolo:{name}: its activation is code, {str(text)!r:.60}: expected as nn.SiLU() or nn.ReLU()")


def _heads(net: Any) -> set[str]:
    return {base.__name__ for base in type(net.model[-1]).__mro__}


def _given(net: Any, side: int, request: Request) -> Given:
    """Put a network together with Ultralytics' preprocessing and its class names."""
    named = net.names if isinstance(net.names, dict) else dict(enumerate(net.names))
    names = [str(named[index]) for index in range(len(named))] if set(named) == set(range(len(named))) else None
    kinds = _heads(net)
    size = request.size or (side, side)
    if "Classify" in kinds:
        recipe = Recipe(size, min(size), (0.0,) * 3, (1.0,) * 3)
        view = partial(center_view, resize=recipe.resized, crop=size)
        return Given(Logits(net), recipe, view, names, len(named), recipe, "Ultralytics'", sized=True)
    if getattr(net, "end2end", False) and getattr(net.model[-1], "cv2", None) is not None:
        net.end2end = False  # as `predict()` does without nms=False
    stride = max(int(net.stride.max()), 32)
    large = tuple(-(-length // stride) * stride for length in size)
    fit = Letterbox((large[0], large[1]), stride, "RTDETRDecoder" in kinds)
    return Given(net, fit, whole, names, len(named), None, f"{fit}, Ultralytics'", sized=True)
