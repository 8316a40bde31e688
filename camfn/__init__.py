"""Class activation maps as pure functions over `torch.func`.

A network is cut at a layer: `capture(model, layer)(inputs, target)` gives the layer's activations, the gradient of the
score with respect to them, and the outputs. A method is arithmetic on the three: `grad_cam(*captured)`.

The names of this module and the other public modules, `camfn.methods`, `camfn.layout` and so on, are loaded when they
are first used; so `camfn --help` needs no torch.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from ._check.check import check as check
    from ._check.result import Checked as Checked
    from ._cut.capture import capture as capture
    from ._cut.capture import capture_many as capture_many
    from ._cut.capture import observe as observe
    from ._cut.diagnose import diagnose as diagnose
    from ._cut.each import capture_each as capture_each
    from ._cut.each import capture_levels as capture_levels
    from ._cut.explainer import explainer as explainer
    from ._cut.functional import functional as functional
    from ._cut.prepared import prepare as prepare
    from ._cut.resume import resume as resume
    from ._shared.errors import CamfnError as CamfnError
    from ._shared.errors import CaptureError as CaptureError
    from ._shared.vocabulary import Captured as Captured
    from ._shared.vocabulary import Inputs as Inputs
    from ._shared.vocabulary import Layout as Layout
    from ._shared.vocabulary import LayoutPair as LayoutPair
    from ._shared.vocabulary import Method as Method
    from ._shared.vocabulary import Target as Target

_PLACES = {
    "Checked": "_check.result", "check": "_check.check",
    "capture": "_cut.capture", "capture_many": "_cut.capture", "observe": "_cut.capture",
    "diagnose": "_cut.diagnose", "capture_each": "_cut.each", "capture_levels": "_cut.each",
    "explainer": "_cut.explainer", "functional": "_cut.functional", "prepare": "_cut.prepared", "resume": "_cut.resume",
    "CamfnError": "_shared.errors", "CaptureError": "_shared.errors", "Captured": "_shared.vocabulary",
    "Inputs": "_shared.vocabulary", "Layout": "_shared.vocabulary", "LayoutPair": "_shared.vocabulary",
    "Method": "_shared.vocabulary", "Target": "_shared.vocabulary",
}  # fmt: skip
_MODULES = (
    "adapters", "attention", "catalogue", "evaluate", "explore", "export", "factorize", "image", "layers", "layout",
    "methods", "metrics", "network", "targets", "tiny", "training", "transforms", "words", "zoo",
)  # fmt: skip


def __getattr__(name: str) -> _Any:
    """Load a public name or module when it is first used, and keep it."""
    if name in _MODULES:
        return _import_module(f"{__name__}.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names and modules, loaded or not."""
    return sorted({*globals(), *_PLACES, *_MODULES})
