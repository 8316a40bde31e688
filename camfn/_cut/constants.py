"""A model whose parameters ask for no gradient, which a backward to a layer needs none of."""

# tested in tests/cut/test_constants.py

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from .._shared.errors import CamfnError
from .graft import with_others

Result = TypeVar("Result")


class _Constant(nn.Parameter):
    """A parameter that autograd takes as a constant, and that answers the network's code as the one it stands for.

    Its `requires_grad` reads True: torch's attention, and code of users, takes another road where it is False.
    """

    @property
    def requires_grad(self) -> bool:
        return True

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        """Leave autograd as it is: a network that thaws its weights in its forward changes no gradient at a layer."""


def _constant(parameter: nn.Parameter) -> Tensor:
    """Return a parameter with the numbers and the attributes of another, outside of autograd."""
    with torch.inference_mode(False):
        found = torch.Tensor._make_subclass(_Constant, parameter.detach(), False)
    found.__dict__.update(parameter.__dict__)
    return found


def with_constants(model: nn.Module) -> nn.Module:
    """Copy a model so that autograd takes its parameters as constants.

    Autograd then records nothing before the first leaf of its own, and keeps no input of a product for the gradient of
    a weight. Modules without such a parameter are the model's own, and so are parts that are TorchScript.
    """
    if torch.compiler.is_compiling():
        return model
    scripted = {
        id(p) for part in model.modules() if isinstance(part, torch.jit.ScriptModule) for p in part.parameters()
    }
    # not by the model's own `named_parameters`, which classes override
    held = [p for module in model.modules() for _, p in nn.Module.named_parameters(module, recurse=False)]
    # a subclass may hold more than its numbers
    plain = [p for p in held if type(p) is nn.Parameter and p.requires_grad and id(p) not in scripted]
    return with_others(model, {id(p): _constant(p) for p in plain})


def on_constants(model: nn.Module, run: Callable[[nn.Module], Result]) -> Result:
    """Call `run(model)` on a copy whose parameters are constants; on the model, where its forward fails on the copy.

    It fails where the forward asks autograd for what is no longer there: a hook on an activation, `retain_grad`, a
    derivative in a weight, the `id` of a parameter.
    """
    try:
        return run(with_constants(model))
    except CamfnError:
        raise
    except Exception:
        return run(model)
