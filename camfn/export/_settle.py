"""What the numbers of a run decide, decided before the trace, in which there are none."""

# tested in tests/export/test_program.py

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from .._cut.explainer import explainer
from .._shared.errors import CamfnError
from .._shared.maps import spatial_sum, weighted_sum
from ..attention._explainer import attention_explainer, settle
from ..catalogue import info_of
from ..methods import ablation_cam, cam, tam
from ..methods._perturbation.ablation import drops_if_affine

_REASONS = {
    "forward": "it runs the whole network on hundreds of changed images, which one graph cannot hold",
    "draws": "it draws random numbers, so that no two runs of the file would agree",
}


def settled(explain: Any, images: Tensor, target: Any) -> Any:
    """Return the explainer with its decisions made.

    Raises:
        CamfnError: a method that no file can hold.
    """
    method = getattr(explain, "method", None)
    if method is None:
        return explain
    check_method(method)
    if isinstance(explain, explainer):
        # finds the layout, and keeps the verdict for these shapes
        explain(images, target)
        return replace(explain, method=_arithmetic(_in_closed_form(explain, images, target)))
    if isinstance(explain, attention_explainer):
        return settle(explain, images, target)
    return explain


def check_method(method: Callable[..., Any]) -> None:
    """Refuse what needs many forwards of the network, or random numbers."""
    row = info_of(method)
    reason = "forward" if "forward" in row.needs else "draws" if row.draws else None
    if reason:
        raise CamfnError(
            f"export: {row.name} cannot be in a file: {_REASONS[reason]}. Take grad_cam or layer_cam, or run "
            f"{row.name} in Python"
        )


def _in_closed_form(explain: explainer, images: Tensor, target: Any) -> Callable[..., Tensor]:
    """Return the method; `ablation_cam` in closed form if it takes that form here, as the operations of a run show."""
    plain, bound = _unbound(explain.method)
    if plain is not ablation_cam or bound.get("closed_form") is not None:
        return explain.method
    verdicts = []

    def watch(activations: Tensor, grads: Any = None, outputs: Any = None, *, tail: Callable[..., Tensor]) -> Tensor:
        base = torch.as_tensor(bound.get("baseline", 0.0), dtype=activations.dtype, device=activations.device)
        verdicts.append(drops_if_affine(tail, activations, base)[1] is not None)
        return activations.sum(1)

    replace(explain, method=watch)(images, target)
    return partial(explain.method, closed_form=all(verdicts))


def _unbound(method: Callable[..., Tensor]) -> tuple[Any, dict[str, Any]]:
    """Return the function behind `functools.partial`, and the keywords that are bound."""
    bound: dict[str, Any] = {}
    while isinstance(method, partial):
        bound, method = {**method.keywords, **bound}, method.func
    return method, bound


def _arithmetic(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a method in the form that a trace can follow."""
    plain, bound = _unbound(method)
    if plain is cam and "weights" not in bound:
        return cam_by_gradient
    if plain is tam and "weights" not in bound:
        return partial(tam_by_gradient, **bound)
    if "chunk_size" not in bound and "chunk_size" in signature(plain).parameters:
        return partial(method, chunk_size=None)  # one batch of all rows: chunks would each be a copy of the network
    return method


def cam_by_gradient(activations: Tensor, grads: Tensor, outputs: Any = None) -> Tensor:
    """CAM, where the head's rows are the derivative of the logit summed over places: `cam` finds that it is so."""
    return weighted_sum(activations, spatial_sum(grads))


def tam_by_gradient(activations: Tensor, grads: Tensor, outputs: Any = None, *, filtered: bool = True) -> Tensor:
    """TAM of a classifier, with its CAM from the gradient."""
    return tam(cam_by_gradient(activations, grads)[:, None], weights=activations.new_ones(1), filtered=filtered)
