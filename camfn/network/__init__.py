"""Methods of a whole network: `method(model, ...)` gives `explain(inputs, target) -> map`, as `camfn.explainer` does.

`__all__` names the methods; `camfn.catalogue` says of each what it returns and whether it draws.
"""

from __future__ import annotations

from ._expected import expected_gradients as expected_gradients
from ._full import FullGradients as FullGradients
from ._full import full_grad as full_grad
from ._full import full_gradients as full_gradients
from ._full import simple_full_grad as simple_full_grad
from ._full import smooth_full_grad as smooth_full_grad
from ._guided import deconvnet as deconvnet
from ._guided import guided_backprop as guided_backprop
from ._guided import guided_grad_cam as guided_grad_cam
from ._guided import unguided as unguided
from ._input import input_gradient as input_gradient
from ._input import integrated_gradients as integrated_gradients
from ._input import smooth_grad as smooth_grad
from ._paths import guided_ig as guided_ig
from ._paths import idgi as idgi
from ._smooth import smooth_grad_cam_plusplus as smooth_grad_cam_plusplus

__all__ = [  # noqa: RUF022  maps first, then pictures with the channels of the image
    "full_grad",
    "simple_full_grad",
    "smooth_full_grad",
    "smooth_grad_cam_plusplus",
    "input_gradient",
    "smooth_grad",
    "integrated_gradients",
    "idgi",
    "guided_ig",
    "expected_gradients",
    "guided_backprop",
    "deconvnet",
    "guided_grad_cam",
]
