"""What an exported file says of itself."""

# tested in tests/export/test_onnx.py

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from functools import partial
from typing import Any

from torch import Tensor

from .._shared.checks import describe
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.value import shown
from .._shared.versions import own_version
from ._plan import Plan


def facts(
    what: Plan, model: str | None = None, classes: Sequence[str] | None = None, preprocessing: Any = None
) -> dict[str, Any]:
    """Return what a file says of itself, as JSON can hold it, before it is made and checked.

    Raises:
        CamfnError: class names that are not the model's, or what JSON cannot hold.
    """
    if model is not None and not isinstance(model, str):
        raise ArgumentTypeError(f"export: model: expected its name, got {describe(model)}")
    explain = what.explain
    layers = getattr(explain, "layers", None) or getattr(explain, "layer", None)
    found = {
        "camfn": own_version(),
        "model": model or type(what.model).__name__,
        "layer": list(layers) if isinstance(layers, (tuple, list)) else layers,
        "layout": _words(getattr(explain, "layout", None)),
        "method": _method(explain),
        "explain": repr(explain),
        "target": "input" if what.asks else _words(what.target),
        "size": list(what.images.shape[1:]),
        "batch": "dynamic" if what.dynamic else len(what.images),
        "outputs": list(what.names),
        "heatmap": None if what.heatmap is None else list(what.heatmap),
        "classes": _class_names(classes, what.classes),
        "preprocessing": _numbers(preprocessing),
    }
    try:
        json.dumps(found)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(
            "export: model, classes and preprocessing go into the file as JSON: expected words, numbers, lists and "
            f"dicts of them; {error}"
        ) from error
    return found


def _class_names(classes: Any, count: int | None) -> list[str] | None:
    """Return the names of the classes as a list, one for each logit."""
    if classes is None:
        return None
    if isinstance(classes, (str, dict)) or not isinstance(classes, Sequence):
        raise ArgumentTypeError(f"export: classes: expected a list of names by index, got {describe(classes)}")
    names = list(classes)
    odd = next((name for name in names if not isinstance(name, str)), None)
    if odd is not None:
        raise ArgumentTypeError(f"export: classes: expected names, got {odd!r:.60}")
    if count is not None and len(names) != count:
        raise CamfnError(f"export: classes: expected {count} names, one for each logit; got {len(names)}")
    return names


def differences_of(verified: dict[str, Any]) -> str:
    """Say how far each output was off: "logits 2.3e-07, cam 1.1e-06"."""
    return ", ".join(f"{name} {value:.1e}" for name, value in verified["differences"].items())


def _method(explain: Any) -> str:
    """Return the name of the method, or of the function that explains."""
    method = getattr(explain, "method", explain)
    while isinstance(method, partial):
        method = method.func
    return str(getattr(method, "__name__", type(method).__name__))


def _numbers(preprocessing: Any) -> Any:
    """Return how photos are prepared as JSON can hold it."""
    given = is_dataclass(preprocessing) and not isinstance(preprocessing, type)
    return asdict(preprocessing) if given else preprocessing


def _words(value: Any) -> str | None:
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    return None if value is None else value if isinstance(value, str) else shown(value)
