"""Methods of a whole network: `method(model, ...)` gives `explain(inputs, target) -> map`, as `camfn.explainer` does.

`__all__` is the registry: the command line, the contract tests and the docs check read it.
"""

from __future__ import annotations

from ._full import FullGradients as FullGradients
from ._full import full_grad as full_grad
from ._full import full_gradients as full_gradients
from ._full import simple_full_grad as simple_full_grad
from ._full import smooth_full_grad as smooth_full_grad

__all__ = ["full_grad", "simple_full_grad", "smooth_full_grad"]
