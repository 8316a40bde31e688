"""Right derivatives of BatchNorm and InstanceNorm for one image, where PyTorch's are wrong.

On the CPU the backward of `batch_norm` reads the gradient by the strides of the input if the batch has one image and
either of the two is laid out like tokens, `(1, H W, C)` seen as `(1, C, H, W)`. The input gradient is then off by more
than its own size. `instance_norm` calls the same kernel with a batch of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .._shared.levels import levels_of

NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
"""Modules whose backward is `batch_norm`'s."""

_FORWARDS = tuple(kind.forward for kind in NORMS)


def is_plain_norm(module: nn.Module) -> bool:
    """Whether a module is a norm whose forward is PyTorch's own, so that `arithmetic` answers as it does."""
    return isinstance(module, NORMS) and type(module).forward in _FORWARDS and "forward" not in module.__dict__


def mend_backward(tensors: list[Tensor]) -> None:
    """Let each `batch_norm` in the graph of these tensors get its gradient in a layout that its kernel reads rightly.

    The values of the gradients stay. It does not touch a graph on a CUDA device, whose kernels are right.
    """
    seen: set[Any] = set()
    waiting = [node for tensor in tensors if tensor.device.type != "cuda" for node in _graphs(tensor)]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if "BatchNorm" in node.name() and "camfn" not in node.metadata:
            node.metadata["camfn"] = True
            node.register_prehook(_laid_for(node))
        waiting.extend(following for following, _ in node.next_functions if following is not None)


def _graphs(tensor: Tensor) -> Iterator[Any]:
    """Yield the last node of each graph that a tensor is in: one for each level of `torch.func`."""
    return (x.grad_fn for x in levels_of(tensor) if x.grad_fn is not None)


def _laid_for(node: Any) -> Any:
    """Return the hook that lays out the gradient before this `batch_norm` node gets it."""
    saved = getattr(node, "_raw_saved_input", None)

    def lay(grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...] | None:
        grad = grads[0]
        if grad is None or grad.ndim < 3 or grad.shape[0] != 1 or torch._C._functorch.is_batchedtensor(grad):
            return None
        # the saved input is a tensor, or what a hook of saved tensors, as of checkpoints, made of it
        given = getattr(saved, "data", None)
        return (_laid_out(grad, isinstance(given, Tensor) and _is_contiguous(given)), *grads[1:])

    return lay


def _is_contiguous(x: Tensor) -> bool:
    # vmap does not tell; the kernel that it takes is right
    return not torch._C._functorch.is_batchedtensor(x) and x.is_contiguous()


def _laid_out(grad: Tensor, contiguous: bool) -> Tensor:
    """Lay a gradient out as the input is if that is contiguous, and else channels last.

    `clone` also gives the batch of one its usual stride; `contiguous` would not, and the kernel looks at that stride.
    """
    if contiguous:
        return grad if grad.is_contiguous() else grad.clone(memory_format=torch.contiguous_format)
    return grad.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)


def arithmetic(norm: Any, x: Tensor) -> Tensor:
    """What BatchNorm or InstanceNorm returns, in operations whose derivatives do not depend on strides."""
    shape, own = (1, -1, *[1] * (x.ndim - 2)), isinstance(norm, nn.modules.instancenorm._InstanceNorm)
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    if norm.running_mean is not None and not norm.training:
        mean, var = norm.running_mean.view(shape), norm.running_var.view(shape)
    else:
        axes = tuple(range(2, x.ndim)) if own else (0, *range(2, x.ndim))
        mean, var = wide.mean(axes, keepdim=True), wide.var(axes, correction=0, keepdim=True)
    out = (wide - mean) * (var + norm.eps).rsqrt()
    if norm.weight is not None:
        out = out * norm.weight.view(shape)
    if norm.bias is not None:
        out = out + norm.bias.view(shape)
    return torch.as_tensor(out.to(x.dtype))
