"""The linear head behind a layer, found by its law: the mean of the map and the bias are the logits."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._shared.checks import is_concrete
from .._shared.errors import CaptureError
from .._shared.vocabulary import ScoreFn
from ..targets._score import named_output
from .derive import tensors_of


class Head(NamedTuple):
    """The linear head that makes logits of the mean of a layer's map.

    Attributes:
        name: dotted name of the module.
        weight: (K, C), a row for each class.
        bias: (K,), or None.
    """

    name: str
    weight: Tensor
    bias: Tensor | None

    def __call__(self, activations: Tensor) -> Tensor:
        """Compute the logits, (B, K), of activations (B, C, *S) in float32 or wider."""
        mean = activations.flatten(2).mean(2, dtype=torch.promote_types(activations.dtype, torch.float32))
        bias = 0 if self.bias is None else self.bias
        return mean @ self.weight.to(mean).T + bias


def find_head(model: nn.Module, layer: str, activations: Tensor, outputs: Any, method: Any = "cam") -> Head:
    """Find the linear layer, or convolution with a kernel of one, that makes the logits of the mean of a map.

    Args:
        model: the network.
        layer: name of the layer, for the messages.
        activations: (B, C, *S), the layer's.
        outputs: the network's, for the same inputs; logits (B, K) or (B,).
        method: what asks for the head, a function or its name, for the messages.

    Raises:
        CaptureError: none does, as the network computes something else between the layer and the logits; or several do.
    """
    name = _spelled(method)
    logits = _logits_among(outputs, layer, name)
    rows = logits[:, None] if logits.ndim == 1 else logits
    channels, classes = activations.shape[1], rows.shape[1]
    candidates = [head for head in _linear_parts(model) if tuple(head.weight.shape) == (classes, channels)]
    if not candidates:
        raise CaptureError(
            _no_cam(
                name, layer, f"no linear layer or 1 x 1 convolution leads from {channels} channels to {classes} outputs"
            )
        )
    if any(head.weight.is_meta for head in candidates):
        raise CaptureError(
            f"{name} reads the rows of {candidates[-1].name!r}, which is offloaded and not at hand: load the model "
            "without offloading, or take grad_cam, which reads no weights"
        )
    if not is_concrete(activations) or not is_concrete(rows):
        raise CaptureError(
            f"{name} finds its head by comparing numbers, and there are none here (vmap, fake tensors): bind the "
            f"rows, functools.partial({name}, weights=model.{candidates[-1].name}.weight[281])"
        )
    fits = [head for head in candidates if not _far(head, activations, rows).any()]
    if not fits:
        raise CaptureError(_no_cam(name, layer, _difference(candidates[-1], activations, rows)))
    if any(not torch.equal(head.weight, fits[0].weight) for head in fits[1:]):
        names = " and ".join(repr(head.name) for head in fits)
        raise CaptureError(
            f"{name}: {names} both make the logits of these images, so that the head is not clear. Bind its rows: "
            f"functools.partial({name}, weights=model.{fits[-1].name}.weight[281])"
        )
    return fits[0]


def head_rows(head: Head, score: ScoreFn, outputs: Any) -> Tensor:
    """Return the row that a score reads, (B, C): of a class, its row; of others, rows weighed by the derivative."""
    logits = _logits_among(outputs, head.name)
    tensors, rebuild = tensors_of(outputs)
    place = next(i for i, tensor in enumerate(tensors) if tensor is logits)

    def scores(y: Tensor) -> Tensor:
        return score(rebuild([*tensors[:place], y, *tensors[place + 1 :]]))

    slope: Tensor = torch.func.grad(lambda y: scores(y).sum())(logits)
    return slope.reshape(len(slope), -1).to(head.weight.dtype) @ head.weight


def _logits_among(outputs: Any, place: str, name: str = "cam") -> Tensor:
    """Find the logits, (B, K) or (B,), in the outputs."""
    logits = named_output(outputs, "logits")
    if isinstance(logits, Tensor) and logits.ndim in (1, 2):
        return logits
    raise CaptureError(_no_cam(name, place, "the network returns no logits, (B, K)"))


def _linear_parts(model: nn.Module) -> Iterator[Head]:
    """Yield the linear layers, and the convolutions with a kernel of one."""
    for name, module in model.named_modules():
        convolves = isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and module.groups == 1
        if isinstance(module, nn.Linear) or (convolves and set(module.kernel_size) == {1}):
            yield Head(name, module.weight.flatten(1), module.bias)


def _far(head: Head, activations: Tensor, logits: Tensor) -> Tensor:
    """Whether the head's logits are others, (B, K), beyond the rounding of the dtype."""
    tolerance = max(1e-3, 8 * torch.finfo(logits.dtype).eps)
    given = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    with torch.no_grad():
        distance = (head(activations) - given).abs()
    return ~(distance <= tolerance * given.abs().amax(1, keepdim=True))


def _difference(head: Head, activations: Tensor, logits: Tensor) -> str:
    """Say by how much a head misses the logits."""
    i, k = _far(head, activations, logits).nonzero()[0].tolist()
    with torch.no_grad():
        mean = float(head(activations)[i, k])
    return f"the map's mean and the bias of {head.name!r} make {mean:.4g}, the logit is {float(logits[i, k]):.4g}"


def _spelled(method: Any) -> str:
    """Name a method of the head: a function, with options bound to it or not, or its name."""
    while isinstance(method, partial):
        method = method.func
    return method if isinstance(method, str) else str(getattr(method, "__name__", "cam"))


def _no_cam(name: str, layer: str, reason: str) -> str:
    """Write the message that a method of the rows of a head is not defined at a layer."""
    return (
        f"{name} needs global pooling followed by one linear layer right after the chosen layer, {layer!r}; here "
        f"{reason}. grad_cam works everywhere"
    )
