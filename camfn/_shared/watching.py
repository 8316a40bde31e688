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
        writes: whether an operation wrote what comes from it to memory from before the run, which a network then keeps.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads = self.draws = self.writes = False
        self._from: set[int] = set()
        self._made: set[int] = set()
        self._note(x, self._from)
        self._note(x, self._made)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_address(leaf) for leaf in pytree.tree_leaves((args, kwargs)) if _is_strided(leaf)}
        comes_from_it = bool(given & self._from)
        written = [arg for arg, said in zip(args, func._schema.arguments) if said.is_write and _is_strided(arg)]
        self.writes |= comes_from_it and any(_address(x) not in self._made for x in written)
        out = func(*args, **(kwargs or {}))
        # attention bears the tag whether it drops out or not
        self.draws |= torch.Tag.nondeterministic_seeded in func.tags and "attention" not in str(func)
        self.reads |= comes_from_it and torch.Tag.data_dependent_output in func.tags
        for leaf in filter(_is_strided, pytree.tree_leaves(out)):
            if _address(leaf) not in given:
                self._note(leaf, self._made)
            # an operation in place returns what it wrote to
            if comes_from_it:
                self._note(leaf, self._from)
        return out

    def _note(self, x: Tensor, among: set[int]) -> None:
        """Note the memory of a tensor until it is freed."""
        storage = x.untyped_storage()
        if storage._cdata not in among:
            among.add(storage._cdata)
            # the finalizer need not run when the interpreter exits
            weakref.finalize(storage, among.discard, storage._cdata).atexit = False


def _address(x: Tensor) -> int:
    """Return the address of the memory of a tensor, which its views share."""
    return int(x.untyped_storage()._cdata)


def _is_strided(leaf: Any) -> bool:
    """Whether a value is a dense tensor, which has a memory of its own."""
    return isinstance(leaf, Tensor) and leaf.layout is torch.strided
