"""The derivation core: run a network with zeros added to some of its tensors, and differentiate the score in them.

`capture`, `capture_each`, the capture of attention and the methods of a whole network all stand on this file: a graft
whose modules report their outputs (`planter`, `Tapped`), a level of differentiation (`at_own_level`), and the
derivative itself (`derive`, `gradients`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import vjp
from torch.utils import _pytree as pytree

from .._shared.checks import inside_transform
from .._shared.inputs import call, copy_of
from .graft import graft
from .layer_checks import refuse_quantized_cut
from .traced import Traced

Result = TypeVar("Result")
Around: TypeAlias = Callable[[], AbstractContextManager[Any]]
"""Makes the context that a network runs in."""

Leave: TypeAlias = Callable[[str, Any], Any]
"""Takes the name and the output of a tapped module that finished; returns the output that the network goes on with."""

Enter: TypeAlias = Callable[[str, nn.Module, tuple[Any, ...], Mapping[str, Any]], None]
"""Takes the name, the module and the arguments of a tapped module that begins."""

Zero: TypeAlias = Callable[[Hashable, Tensor], Tensor]
"""Takes a key and a tensor of the network; returns the zero to add to that tensor, of its shape."""


class Tapped(Protocol):
    """A model some of whose modules report each of their calls.

    Attributes:
        names: dotted names of the tapped modules, in the order they were given.
        root: the module that runs, which errors name.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def root(self) -> nn.Module: ...

    def run(self, inputs: Any, leave: Leave, enter: Enter | None = None, around: Around = nullcontext) -> Any:
        """Run the model on a copy of the inputs; `enter` needs a `planter` with `enter=True`."""
        ...


def planter(
    model: nn.Module, tapped: Callable[[], Mapping[str, nn.Module]], *, enter: bool = False
) -> Callable[[], Tapped]:
    """Return a function that makes a fresh `Tapped`, so that calls share no state and see the model as it is.

    Args:
        model: the user's; left as it is.
        tapped: returns the modules to tap, by dotted name; called for each graft.
        enter: whether the modules report when they begin, too.
    """

    def plant() -> Tapped:
        return (Traced if torch.compiler.is_compiling() else Grafted)(model, tapped(), enter)

    return plant


class _Slot:
    """Holds the callbacks that the hooks of a graft call; `Grafted.run` sets them for the time of one run."""

    leave: Leave
    enter: Enter


class Grafted:
    """A graft whose hooks report: they read a layer's output before the user's hooks do."""

    def __init__(self, model: nn.Module, modules: Mapping[str, nn.Module], enter: bool) -> None:
        self.slot = slot = _Slot()
        self.names = tuple(modules)
        self.graft = graft(model, {id(module) for module in modules.values()})
        self.root = self.graft.root
        for name, module in modules.items():
            own = self.graft.owned[id(module)]
            if enter:
                own.register_forward_pre_hook(_entering(name, slot), with_kwargs=True)
            own.register_forward_hook(_leaving(name, slot), prepend=True)

    def run(self, inputs: Any, leave: Leave, enter: Enter | None = None, around: Around = nullcontext) -> Any:
        self.slot.leave = leave
        if enter is not None:
            self.slot.enter = enter
        with around():
            outputs = call(self.graft, copy_of(inputs))
        del self.slot.leave
        if enter is not None:
            del self.slot.enter
        return outputs


def _entering(name: str, slot: _Slot) -> Callable[[nn.Module, Any, Any], None]:
    return lambda module, args, kwargs: slot.enter(name, module, args, kwargs)


def _leaving(name: str, slot: _Slot) -> Callable[[nn.Module, Any, Any], Any]:
    return lambda module, args, output: slot.leave(name, output)


class Derivation(NamedTuple):
    """One forward and one backward.

    Attributes:
        outputs: what the model returned.
        scores: (B,).
        grads: the derivative of each sample's score in each zero that was chosen, by its key.
        image_grad: the derivative in the image; None where no image was given.
        kept: what the run kept beside the outputs.
    """

    outputs: Any
    scores: Tensor
    grads: dict[Any, Tensor]
    image_grad: Tensor | None
    kept: Any


def derive(
    run: Callable[[Tensor | None, Zero], tuple[Any, Any]],
    score: Callable[[Any, Any], Tensor],
    *,
    image: Tensor | None = None,
    tapped: bool = True,
    chosen: Callable[[Iterable[Any]], Sequence[Any]] = list,
    of: nn.Module | None = None,
    create_graph: bool = False,
) -> Derivation:
    """Differentiate the score in zeros that a run adds to the network's tensors, and in the image.

    Args:
        run: takes the image and `zero`; runs the network, adds `zero(key, x)` to each tensor `x` of interest, and
            returns the outputs and whatever else it kept.
        score: takes the two that `run` returned; returns (B,).
        image: differentiated too, if it is given.
        tapped: whether `run` asks for zeros at all.
        chosen: takes the keys of all zeros and returns those to differentiate in.
        of: the network, which an error about quantized modules names.
        create_graph: keep the graph of the derivative.
    """
    if torch.compiler.is_compiling():
        # the compiler does not trace autograd.grad
        return _pull_back(run, score, image, tapped, chosen)
    if not tapped:
        # a pullback needs no first run to find the shapes of zeros, and can itself be differentiated
        try:
            return _pull_back(run, score, image, tapped, chosen)
        except RuntimeError as error:
            if not _refuses_levels(error):
                raise

    def compute(seed: Tensor, image: Tensor | None = None) -> Derivation:
        zeros: dict[Any, Tensor] = {}

        def zero(key: Hashable, x: Tensor) -> Tensor:
            zeros[key] = expanded(seed, x)
            return zeros[key]

        outputs, kept = run(image, zero)
        scores = score(outputs, kept)
        keys = chosen(zeros)
        wanted = [zeros[key] for key in keys] + ([] if image is None else [image])
        grads = gradients(scores, wanted, of=of, create_graph=create_graph)
        return Derivation(outputs, scores, dict(zip(keys, grads)), None if image is None else grads[-1], kept)

    return at_own_level(compute, image, create_graph=create_graph)


def expanded(seed: Tensor, like: Tensor) -> Tensor:
    """Expand the scalar of `at_own_level` to a zero of the shape and dtype of a tensor."""
    return seed.to(like).expand_as(like)


def at_own_level(compute: Callable[..., Result], image: Tensor | None = None, *, create_graph: bool = False) -> Result:
    """Run `compute(seed)`, or `compute(seed, image)`, at a level of differentiation of its own.

    `vjp` opens the level in the scalar zero `seed`, for the shapes of the zeros are known only once the network has
    run; `compute` expands `seed` (`expanded`) and calls `gradients` inside the level. Only tensors may leave a level:
    those of the result are taken out of it and put back.
    """
    rebuilds: list[Callable[[list[Tensor]], Any]] = []

    def inside(seed: Tensor, *images: Tensor) -> tuple[Tensor, list[Tensor]]:
        tensors, rebuild = tensors_of(compute(seed, *images))
        rebuilds.append(rebuild)
        return seed, tensors

    images = () if image is None else (image,)
    seed = torch.zeros((), device=None if image is None else image.device)
    try:
        tensors: list[Tensor] = cast(Any, vjp(inside, seed, *images, has_aux=True))[-1]
    except RuntimeError as error:
        if not _refuses_levels(error):
            raise
        with torch.enable_grad():
            tensors = inside(seed.requires_grad_(), *(x.detach().requires_grad_() for x in images))[1]
        if not create_graph:
            tensors = [tensor.detach() for tensor in tensors]
    result: Result = rebuilds[-1](tensors)
    return result


def _refuses_levels(error: RuntimeError) -> bool:
    """Whether a custom operator (torchvision's roi_align) refused a level of torch.func; plain autograd then works."""
    return "setup_context" in str(error) and not inside_transform()


def _pull_back(
    run: Callable[[Tensor | None, Zero], tuple[Any, Any]],
    score: Callable[[Any, Any], Tensor],
    image: Tensor | None,
    tapped: bool,
    chosen: Callable[[Iterable[Any]], Sequence[Any]],
) -> Derivation:
    """Do the same by a pullback, which can be compiled; a first run finds the shapes, dead code once it is compiled."""
    places: dict[Any, int] = {}
    zeros: list[Tensor] = []

    def first(key: Hashable, x: Tensor) -> Tensor:
        places[key] = len(zeros)
        zeros.append(torch.zeros(x.shape, dtype=x.dtype, device=x.device))
        return zeros[-1]

    if tapped:
        run(image, first)
    rebuilds: list[Callable[[list[Tensor]], Any]] = []

    def scores_of(deltas: list[Tensor], *images: Tensor) -> tuple[Tensor, list[Tensor]]:
        outputs, kept = run(images[0] if images else None, lambda key, x: deltas[places[key]])
        tensors, rebuild = tensors_of((outputs, kept))
        rebuilds.append(rebuild)
        return score(outputs, kept), tensors

    images = () if image is None else (image,)
    pulled: Any = vjp(scores_of, zeros, *images, has_aux=True)
    scores, pullback, tensors = pulled
    grads, *image_grads = pullback(torch.ones_like(scores))
    outputs, kept = rebuilds[-1](tensors)
    by_key = {key: grads[places[key]] for key in chosen(places)}
    return Derivation(outputs, scores, by_key, image_grads[0] if image_grads else None, kept)


def gradients(
    scores: Tensor,
    deltas: Sequence[Tensor],
    *,
    of: nn.Module | None = None,
    create_graph: bool = False,
    retain_graph: bool = False,
) -> list[Tensor]:
    """Derivatives of the sum of the scores, zero where they do not depend on a delta; refused if `of` is quantized."""
    found: Sequence[Tensor | None] = [None] * len(deltas)
    if scores.requires_grad:
        options: dict[str, bool] = {"create_graph": create_graph, "retain_graph": create_graph or retain_graph}
        found = torch.autograd.grad(scores, deltas, torch.ones_like(scores), allow_unused=True, **options)
    if of is not None:
        refuse_quantized_cut(found, of)
    return [torch.zeros_like(delta) if grad is None else grad for grad, delta in zip(found, deltas)]


def tensors_of(outputs: Any) -> tuple[list[Tensor], Callable[[list[Tensor]], Any]]:
    """Take the tensors out of a model's outputs, since only they may leave a `vjp`; and put them back.

    An object of a class that pytrees do not know is a leaf: its attributes are looked at, and it comes back as a copy.
    """
    leaves, spec = pytree.tree_flatten(outputs)
    places: list[tuple[int, str | None]] = []
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            places.append((i, None))
        else:
            held = getattr(leaf, "__dict__", {})
            places.extend((i, key) for key, value in held.items() if isinstance(value, Tensor))

    def rebuild(tensors: list[Tensor]) -> Any:
        holders = {i for i, key in places if key is not None}
        again = [copy(leaf) if i in holders else leaf for i, leaf in enumerate(leaves)]
        for (i, key), tensor in zip(places, tensors):
            if key is None:
                again[i] = tensor
            else:
                vars(again[i])[key] = tensor
        return pytree.tree_unflatten(again, spec)

    return [leaves[i] if key is None else vars(leaves[i])[key] for i, key in places], rebuild
