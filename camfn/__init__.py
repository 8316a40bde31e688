"""Class activation maps as pure functions over `torch.func`.

A network is cut at a layer: `capture(model, layer)(inputs, target)` gives the layer's activations, the gradient of the
score with respect to them, and the outputs. A method is arithmetic on the three: `grad_cam(*captured)`.
"""

from ._capture import capture as capture
from ._capture import capture_many as capture_many
from ._capture import observe as observe
from ._check import CaptureError as CaptureError
from ._diagnose import diagnose as diagnose
from ._each import capture_each as capture_each
from ._explain import explainer as explainer
from ._resume import resume as resume
from ._types import Captured as Captured
from ._types import Inputs as Inputs
from ._types import Layout as Layout
from ._types import Method as Method
from ._types import Target as Target
