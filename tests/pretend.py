"""A pretend accelerator: CPU numbers behind a device of its own, which refuses and waits where CUDA would.

`Pretend()` is a context in which the device can be used. `on` puts tensors there and `moved` a network; `off` takes
them back. The context counts the host's waits: each read of a number, each result whose shape depends on numbers, each
blocking copy between host and device.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

backends: Any = pytest.importorskip("torch.utils.backend_registration")
if not hasattr(backends, "_setup_privateuseone_for_python_backend"):
    pytest.skip("a device in Python needs a newer torch", allow_module_level=True)


class _Backend:
    """What torch asks of the module of a device, which is there in the context alone."""

    used = False

    @staticmethod
    def is_initialized() -> bool:
        return True

    @classmethod
    def is_available(cls) -> bool:
        return cls.used

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        """Numbers are drawn by the CPU."""

    @staticmethod
    def get_rng_state(device: object = None) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8)

    @staticmethod
    def set_rng_state(state: torch.Tensor, device: object = None) -> None:
        """There is no state: torch keeps and restores it where it forks the generators of all devices."""

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


backends._setup_privateuseone_for_python_backend("pretend", backend_module=_Backend())
DEVICE = torch.device("pretend", 0)

waits: Counter[str] = Counter()
"""How often the host would have waited, by the operation."""

_READS = {
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "unique_dim", "_unique2", "unique_consecutive",
    "masked_select", "bincount", "_linalg_eigh", "_linalg_svd", "linalg_eig", "_linalg_check_errors",
}  # fmt: skip
"""Operations that read numbers of the device, or whose shape depends on them."""

_COPIES = {"copy_", "_to_copy", "copy", "_copy_from"}
_TAKES_HOST_INDICES = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class On(Tensor):
    """A tensor on the pretend accelerator; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> On:
        made: On = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> Any:  # type: ignore[override]
        waits["print"] += 1
        return f"On({self.held!r})"

    def tolist(self) -> Any:
        waits["tolist"] += 1
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _dispatch(func, args, kwargs or {})


class Pretend(TorchDispatchMode):
    """The context in which the device can be used; `waits` is empty when it begins."""

    def __enter__(self) -> Pretend:
        waits.clear()
        _Backend.used = True
        # a thread of the device's own would not see the context
        self.threads = torch.autograd.set_multithreading_enabled(False)
        self.threads.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _Backend.used = False
        super().__exit__(kind, value, trace)  # type: ignore[no-untyped-call]
        self.threads.__exit__(kind, value, trace)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


def _dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the numbers, as if it ran on the device."""
    name = func.overloadpacket.__name__
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    here = [leaf for leaf in leaves if isinstance(leaf, On)]
    named = kwargs.get("device")
    there = bool(here) if named is None else torch.device(named).type == "pretend"
    _refuse_two_devices(func, name, args, leaves, here)
    if there and (generator := kwargs.get("generator")) is not None and generator.device.type != "pretend":
        raise RuntimeError(f"Expected a 'pretend' device type for generator but found '{generator.device.type}'")
    _count(name, args, kwargs, here, there)
    inner = {**kwargs, "device": torch.device("cpu")} if named is not None and there else dict(kwargs)
    if name == "_efficientzerotensor" and there:
        # forward mode asks for a zero without memory, which no wrapper can hold
        func = torch.ops.aten.zeros.default
    held_args, held_kwargs = pytree.tree_map_only(On, lambda leaf: leaf.held, (args, inner))
    out = func(*held_args, **held_kwargs)
    if name == "copy_":
        return args[0]
    if not there:
        return out
    written = {id(leaf.held): leaf for leaf in here}
    return pytree.tree_map_only(Tensor, lambda leaf: written[id(leaf)] if id(leaf) in written else On(leaf), out)


def _refuse_two_devices(func: Any, name: str, args: Any, leaves: list[Tensor], here: list[On]) -> None:
    """Refuse what CUDA refuses: a tensor of the host beside one of the device, but for one number, or indices."""
    if not here or len(here) == len(leaves) or name in _COPIES:
        return
    if name in _TAKES_HOST_INDICES and isinstance(args[0], On):
        return
    single = torch.Tag.pointwise in func.tags or name in ("fill_", "masked_fill", "masked_fill_")
    off = [leaf for leaf in leaves if not isinstance(leaf, On) and not (single and not leaf.ndim)]
    if off:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, pretend:0 and cpu! "
            f"({name}, {tuple(off[0].shape)})"
        )


def _count(name: str, args: Any, kwargs: dict[str, Any], here: list[On], there: bool) -> None:
    """Count the waits of an operation."""
    if here and name in _READS:
        waits[name] += 1
    if here and name in _TAKES_HOST_INDICES:
        indices = [index for index in args[1] if index is not None]
        waits[f"{name} by bool"] += any(index.dtype in (torch.bool, torch.uint8) for index in indices)
        waits[f"{name} by host"] += sum(not isinstance(index, On) for index in indices)
    if here and name == "repeat_interleave" and kwargs.get("output_size") is None:
        waits[name] += 1
    if name in ("_to_copy", "copy_", "_copy_from"):
        to, source = (isinstance(args[0], On), args[1]) if name == "copy_" else (there, args[0])
        flag = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        if to != isinstance(source, On) and not flag:
            waits["copy to the device" if to else "copy to the host"] += 1


_LIBRARY = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]


def _empty_strided(size: Any, stride: Any, **options: Any) -> Tensor:
    """Answer `torch.tensor(list, device=...)`, which asks no context."""
    return On(torch.empty_strided(size, stride, dtype=options.get("dtype")))


def _copied(source: Tensor, to: On, non_blocking: bool = False) -> Tensor:
    waits["copy to the device"] += not non_blocking
    to.held.copy_(source)
    return to


_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")  # type: ignore[no-untyped-call]
_LIBRARY.impl("_copy_from", _copied, "PrivateUse1")  # type: ignore[no-untyped-call]
_ANY = torch.library.Library("_", "IMPL")  # type: ignore[no-untyped-call]
_ANY.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")  # type: ignore[no-untyped-call]


def on(value: Any) -> Any:
    """Put the tensors of a tree on the device."""
    return pytree.tree_map_only(Tensor, lambda leaf: On(leaf.detach().clone()), value)


def off(value: Any) -> Any:
    """Return the numbers of a tree's tensors."""
    return pytree.tree_map_only(On, lambda leaf: leaf.held, value)


def each_tensor(module: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a copy of a network with its parameters and buffers changed."""
    module = copy.deepcopy(module)
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                part._parameters[name] = nn.Parameter(change(parameter.detach()), requires_grad=False)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = change(buffer)
    return module


def moved(module: nn.Module) -> nn.Module:
    """Return a copy of a network on the device."""
    return each_tensor(module, lambda value: On(value.clone()))
