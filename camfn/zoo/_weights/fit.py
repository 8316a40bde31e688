"""Weights fitted to a network: names without their common prefix, the head that they have, and what does not fit."""

# tested in tests/zoo/libraries/test_own.py

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..._shared.errors import LoadError
from .state import State, is_averaged

_WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
_BESIDE = re.compile(
    r"(^|[._])(loss|criterion|metrics?|acc|accuracy|auroc|f1|n_averaged|class_weights|pos_weight)", re.I
)
"""Names of what stands in a training module beside its network."""


class Fitted(NamedTuple):
    """Weights under the names of a network.

    Attributes:
        state: the tensors.
        rest: names of tensors in the file that are not in the network.
        said: what was done to the names, in words.
    """

    state: State
    rest: list[str]
    said: list[str]


class Shape(NamedTuple):
    """What a network has to be built with, so that weights fit: None for the library's own default."""

    classes: int | None = None
    channels: int | None = None


def fit(model: nn.Module, states: Mapping[str, State], source: str) -> Fitted:
    """Take the state dict with the most names of a network, and take off the prefix that they have in common.

    Raises:
        LoadError: two different prefixes fit equally well, or tensors that are no weights.
    """
    own = model.state_dict()
    found = [(place, *_prefix(own, state)) for place, state in ((p, _unwrapped(s)) for p, s in states.items())]
    place, prefix, state, count = max(found, key=lambda each: each[3])  # the first of equals
    others = [other for other, *_, fits in found if fits == count and other != place]
    said = [f"{place} of the checkpoint"] if place else []
    if others:
        said.append(f"not {' or '.join(others)}, which it holds too ({source}:{others[0]} takes it)")
    if prefix:
        said.append(f"names without {prefix!r}")
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    inside, renamed = _renamed(model, inside)
    rest = [key for key in state if not key.startswith(prefix) and not _is_beside(key, own)]
    left = [key for key in state if not key.startswith(prefix) and key not in rest]
    if left:
        said.append(f"{len(left)} tensors beside the network left out (as {left[0]})")
    _check_tensors(own, inside, source)
    return Fitted(inside, rest, said + renamed)


def _unwrapped(state: State) -> State:
    """Take out of names what compilers and samplers of memory put into them."""
    return {_WRAPPERS.sub("", key).removeprefix("."): value for key, value in state.items()}


def _prefix(own: Mapping[str, Tensor], state: State) -> tuple[str, State, int]:
    """Find the prefix under which most names of a network are, and count them; averages of weights come last."""
    counts = Counter(
        key[: len(key) - len(end)]
        for key in state
        for end in (key.split(".", i)[-1] for i in range(key.count(".") + 1))
        if end in own
    )
    if not counts:
        return "", state, 0
    most = max(counts.values())
    best = sorted((prefix for prefix, count in counts.items() if count == most), key=lambda p: (is_averaged(p), len(p)))
    rivals = [prefix for prefix in best if is_averaged(prefix) == is_averaged(best[0]) and most == len(own)]
    if len(rivals) > 1 and "" not in rivals:
        raise LoadError(
            f"the weights hold this network {len(rivals)} times, under {' and '.join(map(repr, rivals))}: keep one, as "
            f"in torch.save({{key: value for key, value in state.items() if key.startswith({rivals[0]!r})}}, 'one.pth')"
        )
    return best[0], state, most


def _is_beside(key: str, own: Mapping[str, Tensor]) -> bool:
    """Say whether a tensor outside of the network is no part of what the network computes."""
    return bool(_BESIDE.search(key)) or (is_averaged(key) and any(key.endswith(f".{name}") for name in own))


def _renamed(model: nn.Module, state: State) -> tuple[State, list[str]]:
    """Give a linear head the name that it has in the network, where dropout or the like stands around one of the two.

    People replace `fc` by `Sequential(Dropout(), Linear())`, whose layer is fc.1, or the other way around. The names
    are exchanged only where one layer with weights stands for one.
    """
    missing = {key.rpartition(".")[0] for key in model.state_dict() if key not in state}
    extra = {key.rpartition(".")[0] for key in state if key not in model.state_dict()}
    if len(missing) != 1 or len(extra) != 1:
        return state, []
    mine, given = missing.pop(), extra.pop()
    outer, inner = sorted((mine, given), key=len)
    alone = inner == outer or inner.startswith(f"{outer}.")
    if not alone or not isinstance(model.get_submodule(mine), nn.Linear):
        return state, []
    if given == outer and not _only_drops(model.get_submodule(outer), model.get_submodule(mine)):
        return state, []
    moved = {f"{mine}.{key.rpartition('.')[2]}" if key.startswith(f"{given}.") else key: v for key, v in state.items()}
    said = f"{given} of the weights is the network's {mine}"
    if given != outer:
        said += f"; what else was in {outer} has no weights, and is taken for dropout"
    return moved, [said]


def _only_drops(block: nn.Module, head: nn.Module) -> bool:
    """Say whether nothing in a block but its head changes a value in evaluation."""
    parts = [module for module in block.modules() if not list(module.children()) and module is not head]
    return all(isinstance(module, (nn.Dropout, nn.Identity)) for module in parts)


def _check_tensors(own: Mapping[str, Tensor], state: State, source: str) -> None:
    """Refuse tensors that hold no numbers, or numbers of another kind."""
    for key, value in state.items():
        if value.is_meta:
            raise LoadError(
                f"the weights {source} have no numbers for {key}, which is on the meta device: save them anew"
            )
        if value.layout is not torch.strided:
            raise LoadError(f"{key} of the weights {source} is sparse: save it as {key}.to_dense()")
        if value.is_quantized or (key in own and _kind(value) != _kind(own[key]) and own[key].ndim):
            what = "quantized" if value.is_quantized else f"of {value.dtype}"
            raise LoadError(
                f"{key} of the weights {source} is {what}, this network's is of {own[key].dtype}"
                if key in own
                else f"{key} of the weights {source} is {what}: save the weights as floats"
            )


def _kind(tensor: Tensor) -> str:
    return "complex" if tensor.is_complex() else "float" if tensor.is_floating_point() else "int"


def shape_of(model: nn.Module, state: Mapping[str, Tensor], classes: int | None) -> Shape:
    """Read from weights how many classes, and channels of the image, a network was built with.

    Args:
        model: the network with the library's own number of classes.
        state: the weights under the network's names.
        classes: the library's own number of classes; None if it is not known.
    """
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    changed = [(own[key], tuple(value.shape)) for key, value in state.items() if key in own and value.shape != own[key]]
    alike = [(mine, given) for mine, given in changed if len(mine) == len(given) > 0]
    heads = {given[0] * (classes or 0) / mine[0] for mine, given in alike if mine[1:] == given[1:]}
    first = {
        given[1]
        for mine, given in alike
        if len(mine) > 2 and mine[1] == 3 and mine[:1] + mine[2:] == given[:1] + given[2:]
    }
    count = heads.pop() if len(heads) == 1 else 0.0
    return Shape(int(count) if count >= 1 and count == int(count) else None, first.pop() if len(first) == 1 else None)


def fill(model: nn.Module, fitted: Fitted, source: str) -> None:
    """Load weights that must fit exactly.

    Raises:
        LoadError: counts the names that are missing, unexpected, or of another shape, with an example of each.
    """
    own, state = model.state_dict(), fitted.state
    reshaped = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if reshaped:
        missing, unexpected = [key for key in own if key not in state], [key for key in state if key not in own]
    else:
        if not hasattr(state, "_metadata"):
            # versions of the modules, which safetensors does not keep and MNASNet insists on
            state = OrderedDict(state)
            state._metadata = own._metadata  # type: ignore[attr-defined]
        missing, unexpected = model.load_state_dict(state, strict=False)
        # older than torch 0.4.1; only training reads it
        missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    misfits = {"missing": missing, "unexpected": unexpected + fitted.rest, "of another shape": reshaped}
    if any(misfits.values()):
        counts = ", ".join(f"{len(keys)} {what} (as {keys[0]})" for what, keys in misfits.items() if keys)
        advice = _advice(missing, misfits["unexpected"], reshaped)
        raise LoadError(f"the weights {source} do not fit this {type(model).__name__}: {counts}{advice}")


def _advice(missing: list[str], unexpected: list[str], reshaped: list[str]) -> str:
    """Say what to do about weights that do not fit."""
    if any("pos_embed" in text or "position" in text for text in reshaped):
        return ". If they were trained at another size of image, give --input-size"
    modules = {name.rpartition(".")[0] for name in missing}
    changed = {name.partition(".")[0] for name in missing} & {name.partition(".")[0] for name in unexpected}
    if not unexpected and len(modules) == 1:
        return (
            f". They hold no {min(modules)}, as those of a backbone do: without it there is no score to explain. Give "
            "the weights of the whole network, or build the model in a function of yours: --model file.py:function"
        )
    if not (unexpected and (changed or len(modules) == 1)):
        return (
            ". Are they of another network? --model must name the one that was trained, or build it: file.py:function"
        )
    return (
        f". If its {min(changed or modules)} was changed, build the model in a function of yours: --model "
        "file.py:function --weights PATH"
    )
