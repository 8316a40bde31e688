"""Decide whether a function is affine in its argument, by watching the operations that it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ..._shared.pullback import pullback

_SAME = {
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "_reshape_alias",
    "_to_copy",
    "_unsafe_view",
    "alias",
    "as_strided",
    "as_strided_",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "clone",
    "constant_pad_nd",
    "copy_",
    "cumsum",
    "diagonal",
    "expand",
    "flip",
    "gather",
    "index",
    "index_select",
    "mean",
    "narrow",
    "neg",
    "neg_",
    "permute",
    "pixel_shuffle",
    "pixel_unshuffle",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "repeat",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    "roll",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "sum",
    "t",
    "transpose",
    "unbind",
    "unfold",
    "unsqueeze",
    "unsqueeze_",
    "squeeze_",
    "upsample_bilinear2d",
    "upsample_linear1d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "upsample_trilinear3d",
    "upsample_bicubic2d",
    "view",
    "view_copy",
    "add",
    "add_",
    "sub",
    "sub_",
    "rsub",
    "cat",
    "stack",
}
"""Operations that are linear in all their tensors together, indices apart."""

_PRODUCTS: dict[str, tuple[int, int]] = {
    "mul": (0, 1),
    "mul_": (0, 1),
    "mm": (0, 1),
    "bmm": (0, 1),
    "mv": (0, 1),
    "dot": (0, 1),
    "convolution": (0, 1),
    "addmm": (1, 2),
    "addmv": (1, 2),
    "baddbmm": (1, 2),
}
"""Operations that multiply the two arguments at these places, and add any other: linear in each of the two alone."""

_BLANK = {"empty_like", "full_like", "new_empty", "new_full", "new_ones", "new_zeros", "ones_like", "zeros_like"}
"""Operations that read the shape of their argument, and none of its values."""

_FIRST = ("div", "div_", "masked_fill", "masked_fill_", "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm")
"""Operations that are affine in their first argument alone."""

_TRAINING = 5
"""Place of the training flag among the arguments of a batch norm."""


def affine_at(function: Callable[[Tensor], Any], x: Tensor) -> tuple[Any, bool]:
    """Run a function on `x`, and return whether every operation that it applied to `x` is affine.

    Every operation on a tensor that depends on `x` must be in the tables above. No values are compared: a
    ReLU that switches at none of the compared values would pass. A function that branches on the values of a tensor
    that depends on `x` is not affine. A detach or a mean over the batch is not detected; the caller must check.

    Args:
        function: takes `x`, and returns anything.
        x: the tensor to run the function on; not inside a transform of `torch.func`.

    Returns:
        `function(x)`, and whether the function is certainly affine.

    Example:
        >>> affine_at(lambda x: 3 * x.sum() + 1, torch.ones(2))
        (tensor(7.), True)
        >>> affine_at(lambda x: x.relu().sum(), torch.ones(2))
        (tensor(2.), False)
    """
    with _Following(x) as following:
        value = function(x)
    return value, following.affine


class _Following(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the tensors that depend on `x`, by the storage they live in, and checks each operation on them."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.affine = True
        # the tensors are kept alive, since another tensor may take the address of a freed storage
        self.made = {_memory(x): x}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.affine:
            return out
        if any(leaf.layout is not torch.strided for leaf in _tensors((args, kwargs, out))):
            self.affine = False
        elif self.any((args, kwargs)) and func.overloadpacket.__name__ not in _BLANK:
            self.affine = not self.any(kwargs) and self.allowed(func, args) and _is_floating(out)
            self.made.update((_memory(leaf), leaf) for leaf in _tensors(out))
        return out

    def any(self, values: Any) -> bool:
        """Whether a tensor among the values depends on `x`."""
        return any(_memory(leaf) in self.made for leaf in _tensors(values))

    def allowed(self, func: Any, args: Any) -> bool:
        """Whether an operation is affine in its arguments that depend on `x`."""
        name = func.overloadpacket.__name__
        if name in _SAME:
            return True
        if name in _PRODUCTS:
            return not all(self.any(args[place]) for place in _PRODUCTS[name])
        if name.endswith("batch_norm") and args[_TRAINING]:
            return False
        if name == "where":
            return not self.any(args[:1])
        return name in _FIRST and not self.any(args[1:]) and not _rounds(func)


def _rounds(func: Any) -> bool:
    """Whether the operation is a division with a rounding mode."""
    return "mode" in func._overloadname


def _is_floating(out: Any) -> bool:
    """Whether all tensors of a result are floating point: a cast to integers is no linear map."""
    return all(leaf.is_floating_point() for leaf in _tensors(out) if leaf.numel())


def _tensors(values: Any) -> list[Tensor]:
    """Return the tensors of a tree."""
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def _memory(x: Tensor) -> int:
    """Return the address of a tensor's storage."""
    return int(x.untyped_storage()._cdata)


def gradient_of(tail: Callable[[Tensor], Tensor], activations: Tensor) -> Tensor:
    """Return the derivative of the scores of a tail with respect to the activations, (B, C, *S)."""
    score, pull = pullback(tail, activations)
    return pull(torch.ones_like(score))
