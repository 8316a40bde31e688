"""Watch a run of a network: whether Python reads a number that comes from its input, and whether any are drawn."""

# tested in tests/shared/test_engines.py

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows a tensor through a run.

    Where several batches run as one, what Python does with a number that comes from them, such as `if mask.any()`, it
    does for all of them; and no trial need show it. Reads without an operation, by `tolist` and `numpy`, are not seen.

    Args:
        x: the tensor.

    Attributes:
        reads: whether Python read a number that comes from it.
        draws: whether an operation drew random numbers.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads = self.draws = False
        self._from: set[int] = set()
        self._follow(x)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        comes_from_it = any(map(self._is_followed, pytree.tree_leaves((args, kwargs))))
        out = func(*args, **(kwargs or {}))
        # attention bears the tag whether it drops out or not
        self.draws |= torch.Tag.nondeterministic_seeded in func.tags and "attention" not in str(func)
        if comes_from_it:
            self.reads |= torch.Tag.data_dependent_output in func.tags
            # an operation in place returns what it wrote to
            for leaf in pytree.tree_leaves(out):
                self._follow(leaf)
        return out

    def _is_followed(self, leaf: Any) -> bool:
        return _is_strided(leaf) and leaf.untyped_storage()._cdata in self._from

    def _follow(self, leaf: Any) -> None:
        """Follow a tensor until its memory is freed."""
        if _is_strided(leaf) and not self._is_followed(leaf):
            storage = leaf.untyped_storage()
            self._from.add(storage._cdata)
            # the finalizer need not run when the interpreter exits
            weakref.finalize(storage, self._from.discard, storage._cdata).atexit = False


def _is_strided(leaf: Any) -> bool:
    """Whether a value is a dense tensor, which has a memory of its own."""
    return isinstance(leaf, Tensor) and leaf.layout is torch.strided
