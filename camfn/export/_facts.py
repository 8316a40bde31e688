"""What an exported file says of itself."""

# tested in tests/export/test_onnx.py

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

from .._shared.value import shown
from ._check import Compared
from ._plan import Plan


def facts(
    what: Plan,
    checked: Compared,
    model: str | None,
    classes: list[str] | None,
    preprocessing: Any,
) -> dict[str, Any]:
    """Return what a file says of itself, as JSON can hold it."""
    explain = what.explain
    layers = getattr(explain, "layers", None) or getattr(explain, "layer", None)
    return {
        "camfn": version("camfn"),
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
        "classes": classes,
        "preprocessing": _numbers(preprocessing),
        "verified": checked._asdict(),
    }


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
    return None if value is None else value if isinstance(value, str) else shown(value)
