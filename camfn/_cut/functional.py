"""Parameters as an argument: what explains a model, as a function of the model's parameters too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._shared.checks import shapes_agree, tensor
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.spelling import near
from .._shared.value import Value, frozen
from .graft import bare, with_tensors
from .layouts import share_verdicts
from .traced import traced_with


def functional(explain: Callable[..., Any]) -> tuple[dict[str, Tensor], pure]:
    """Make the parameters of the model an argument of what explains it.

    `pure(params, inputs, target)` is `explain(inputs, target)` of the model with these parameters. It may be vmapped
    over stacked parameters, as an ensemble's (`torch.func.stack_module_state`), differentiated in them if `explain` was
    made with `differentiable=True`, and compiled.

    Args:
        explain: an `explainer`, `capture`, `observe`, `resume` or the tail it gives, a method of a network or of
            attention, or a transformation of these.

    Returns:
        The parameters of the model by their names, detached; and the function.

    Raises:
        TypeError: not one of these.
        CamfnError: it explains several models.

    Example:
        >>> import torch
        >>> from camfn import explainer
        >>> from camfn.methods import grad_cam
        >>> from torch import nn
        >>> nets = [nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)) for _ in range(3)]
        >>> params, pure = functional(explainer(grad_cam, nets[0], "0"))
        >>> stacked, buffers = torch.func.stack_module_state(nets)
        >>> torch.vmap(pure, in_dims=(0, None, None))(stacked, torch.ones(2, 3, 8, 8), 4).shape
        torch.Size([3, 2, 6, 6])
    """
    model = _model_of(explain)
    return {name: parameter.detach() for name, parameter in bare(model).named_parameters()}, pure(explain)


@frozen
class pure(Value):
    """What `functional` returns: call it with the parameters, then with what the explanation is called with.

    The parameters are a dict by name, as of `model.named_parameters()`. It may leave some out, which then are the
    model's, and may hold buffers too.
    """

    explain: Callable[..., Any]

    def __call__(self, params: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """Explain the model with these parameters in the place of its own."""
        model = _model_of(self.explain)
        if torch.compiler.is_compiling():
            with traced_with(bare(model), params):
                return self.explain(*args, **kwargs)
        _check_names(params, bare(model))
        changed = with_tensors(bare(model), params)
        share_verdicts(bare(model), changed)
        explain: Any = _with_model(self.explain, model, changed)
        return explain(*args, **kwargs)


def _model_of(explain: Any) -> nn.Module:
    """Return the one model that a value explains."""
    if not isinstance(explain, Value):
        raise ArgumentTypeError(
            "functional: expected what explains a model, as camfn.explainer(camfn.methods.grad_cam, model, layer); "
            f"got a {type(explain).__name__}"
        )
    models = {id(model): model for model in _models_in(explain)}
    if len(models) != 1:
        raise CamfnError(f"functional: expected an explanation of one model, this one is of {len(models)}: {explain!r}")
    return next(iter(models.values()))


def _models_in(value: Any) -> list[nn.Module]:
    if isinstance(value, nn.Module):
        return [value]
    return [model for part in _parts(value) for model in _models_in(part)]


def _parts(value: Any) -> list[Any]:
    """Return what a value, a sequence or a partial is made of."""
    if isinstance(value, Value):
        return [getattr(value, name) for name in _fields(value)]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    return list(value) if isinstance(value, (list, tuple)) else []


def _with_model(value: Any, old: nn.Module, new: nn.Module) -> Any:
    """Return the value with another model in the place of one."""
    if value is old:
        return new
    if not any(model is old for model in _models_in(value)):
        return value

    def swapped(part: Any) -> Any:
        return _with_model(part, old, new)

    if isinstance(value, Value):
        return _replaced(value, {name: swapped(getattr(value, name)) for name in _fields(value)})
    if isinstance(value, partial):
        bound = {name: swapped(part) for name, part in value.keywords.items()}
        return partial(swapped(value.func), *map(swapped, value.args), **bound)
    return type(value)(map(swapped, value))


def _replaced(value: Any, parts: Mapping[str, Any]) -> Any:
    return replace(value, **parts)


def _fields(value: Any) -> list[str]:
    return [field.name for field in fields(value) if field.init]


def _check_names(params: Mapping[str, Tensor], model: nn.Module) -> None:
    """Refuse what is no dict of tensors by the names of the model's parameters and buffers."""
    if not isinstance(params, Mapping):
        raise ArgumentTypeError(f"params: expected a dict of tensors by name, got a {type(params).__name__}")
    known = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers()])
    unknown = next((name for name in params if name not in known), None)
    if unknown is not None:
        raise CamfnError(f"params: the model has no parameter or buffer {unknown!r}. {near(unknown, sorted(known))}")
    for name, given in params.items():
        tensor(f"params: {name}", given)
        shapes_agree(f"params: {name}", given.shape, known[name].shape)
