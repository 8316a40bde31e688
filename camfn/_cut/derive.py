"""The derivation core: run a network with zeros added to some of its tensors, and differentiate the score in them.

`capture`, `capture_each`, the capture of attention and the methods of a whole network all stand on this file: a level
of differentiation (`at_own_level`), and the derivative itself (`derive`, `gradients`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import nullcontext
from copy import copy
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import vjp
from torch.utils import _pytree as pytree

from .._shared.devices import brought
from .._shared.errors import CaptureError, DerivativeError
from .._shared.levels import inside_transform, refuses_levels, writes_graph
from .._shared.pullback import naming_refusals
from .layer_checks import refuse_quantized_cut

Result = TypeVar("Result")
Zero: TypeAlias = Callable[[Hashable, Tensor], Tensor]
"""Takes a key and a tensor of the network; returns the zero to add to that tensor, of its shape."""


Missing: TypeAlias = Callable[[Sequence[Any]], None]
"""Takes the keys of zeros that have no gradient; raises, or lets the gradient be zero."""

IMAGE = "the image"
"""Stands for the image among the keys of zeros."""


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
    missing: Missing | None = None,
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
        missing: called with the keys of the zeros (`IMAGE` for the image) that the graph of the score does not reach;
            it raises, or their gradients are zero. The compiler does not call it.
        of: the network, which an error about quantized modules names.
        create_graph: keep the graph of the derivative.
    """
    if torch.compiler.is_compiling():
        # the compiler does not trace autograd.grad
        return _pull_back(run, score, image, tapped, chosen)
    with naming_refusals():
        return _derive(run, score, image, tapped, chosen, missing, of, create_graph)


def _derive(
    run: Callable[[Tensor | None, Zero], tuple[Any, Any]],
    score: Callable[[Any, Any], Tensor],
    image: Tensor | None,
    tapped: bool,
    chosen: Callable[[Iterable[Any]], Sequence[Any]],
    missing: Missing | None,
    of: nn.Module | None,
    create_graph: bool,
) -> Derivation:
    """Do as `derive` does, outside of the compiler."""
    if not tapped:
        # a pullback needs no first run to find the shapes of zeros, and can itself be differentiated
        try:
            return _pull_back(run, score, image, tapped, chosen, missing)
        except RuntimeError as error:
            if not _refuses_levels(error):
                raise

    absent: list[Any] = []

    def differentiated(run: Callable[[Zero], tuple[Any, Any]], make: Zero, image: Tensor | None) -> Derivation:
        absent.clear()
        zeros: dict[Any, Tensor] = {}

        def zero(key: Hashable, x: Tensor) -> Tensor:
            zeros[key] = make(key, x)
            return zeros[key]

        outputs, kept = run(zero)
        scores = score(outputs, kept)
        keys = chosen(zeros)
        wanted = [zeros[key] for key in keys] + ([] if image is None else [image])
        grads = gradients(scores, wanted, of=of, create_graph=create_graph, missing=absent.extend)
        absent[:] = [[*keys, IMAGE][i] for i in absent]
        return Derivation(outputs, scores, dict(zip(keys, grads)), None if image is None else grads[-1], kept)

    def compute(seed: Tensor, image: Tensor | None = None) -> Derivation:
        return differentiated(lambda zero: run(image, zero), lambda key, x: expanded(seed, x), image)

    found = None
    if image is None and not create_graph and not inside_transform():
        found = _from_the_cut(lambda zero: run(None, zero), differentiated)
    lost = list(absent)
    if found is None or lost:
        # a module that restores the mode it found may have lost what a level keeps
        try:
            found = at_own_level(compute, image, create_graph=create_graph)
        except RuntimeError:
            if found is None:
                raise
            absent[:] = lost
    if absent and missing is not None:
        missing(absent)
    return found


def _from_the_cut(
    run: Callable[[Zero], tuple[Any, Any]],
    differentiated: Callable[[Callable[[Zero], tuple[Any, Any]], Zero, Tensor | None], Derivation],
) -> Derivation | None:
    """Run what comes before the first zero without a graph, and what follows with one: no level is needed.

    The zeros switch the gradient on. If a module around the layer switched it off again, as `no_grad` does at its end,
    or the layer ran in a fused kernel, which a graph prevents, the result is None. So it is if the network writes what
    follows the layer into a view that was made before it.
    """
    began, lost = False, False

    def make(key: Hashable, x: Tensor) -> Tensor:
        nonlocal began, lost
        lost |= began and not torch.is_grad_enabled()
        began = True
        torch.set_grad_enabled(True)
        return x.detach().new_zeros(()).requires_grad_().expand_as(x)

    def watched(zero: Zero) -> tuple[Any, Any]:
        try:
            found = run(zero)
        except DerivativeError:
            raise
        except CaptureError as error:
            raise _Lost from error
        if lost or not torch.is_grad_enabled():
            raise _Lost
        return found

    try:
        with torch.no_grad():
            derivation = differentiated(watched, make, None)
    except _Lost:
        return None
    except RuntimeError as error:
        if "view was created in no_grad mode" not in str(error):
            raise
        return None
    tensors, rebuild = tensors_of(derivation)
    again: Derivation = rebuild([tensor.detach() for tensor in tensors])
    return again


class _Lost(Exception):
    """The gradient does not lead from the score to the cut as the run was done."""


def expanded(seed: Tensor, like: Tensor) -> Tensor:
    """Expand the scalar of `at_own_level` to a zero of the shape and dtype of a tensor."""
    with torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext():
        return brought(seed, like).expand_as(like)


def at_own_level(compute: Callable[..., Result], image: Tensor | None = None, *, create_graph: bool = False) -> Result:
    """Run `compute(seed)`, or `compute(seed, image)`, at a level of differentiation of its own.

    `vjp` opens the level in the scalar zero `seed`, for the shapes of the zeros are known only once the network has
    run; `compute` expands `seed` (`expanded`) and calls `gradients` inside the level. Only tensors may leave a level:
    `at_own_level` takes those of the result out of the level and puts them back.
    """
    rebuilds: list[Callable[[list[Tensor]], Any]] = []

    def inside(seed: Tensor, *images: Tensor) -> tuple[Tensor, list[Tensor]]:
        tensors, rebuild = tensors_of(compute(seed, *images))
        rebuilds.append(rebuild)
        return seed, tensors

    images = () if image is None else (image,)
    seed = torch.zeros((), device=None if image is None else image.device)
    tensors: list[Tensor] | None = None
    if not writes_graph():
        try:
            tensors = cast(Any, vjp(inside, seed, *images, has_aux=True))[-1]
        except RuntimeError as error:
            if not _refuses_levels(error):
                raise
    if tensors is None:
        with torch.enable_grad():
            tensors = inside(seed.requires_grad_(), *(x.detach().requires_grad_() for x in images))[1]
        if not create_graph:
            tensors = [tensor.detach() for tensor in tensors]
    result: Result = rebuilds[-1](tensors)
    return result


def _refuses_levels(error: RuntimeError) -> bool:
    """Whether a level of torch.func was refused, where plain autograd works; inside a transform that is an error."""
    if not refuses_levels(error):
        return False
    if inside_transform():
        raise CaptureError(
            "the network does what torch.func and vmap refuse: an autograd function without setup_context, a custom "
            "operator, a full backward hook, a checkpoint, retain_grad or requires_grad_. Outside of transforms it "
            "works: call capture_each for several targets, and loop over the rest"
        ) from error
    return True


def _pull_back(
    run: Callable[[Tensor | None, Zero], tuple[Any, Any]],
    score: Callable[[Any, Any], Tensor],
    image: Tensor | None,
    tapped: bool,
    chosen: Callable[[Iterable[Any]], Sequence[Any]],
    missing: Missing | None = None,
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
    connected: list[bool] = []

    def scores_of(deltas: list[Tensor], *images: Tensor) -> tuple[Tensor, list[Tensor]]:
        outputs, kept = run(images[0] if images else None, lambda key, x: deltas[places[key]])
        tensors, rebuild = tensors_of((outputs, kept))
        rebuilds.append(rebuild)
        scores = score(outputs, kept)
        connected.append(scores.requires_grad)
        return scores, tensors

    images = () if image is None else (image,)
    pulled: Any = vjp(scores_of, zeros, *images, has_aux=True)
    scores, pullback, tensors = pulled
    if missing is not None and not connected[-1]:
        missing([*chosen(places), IMAGE])
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
    missing: Callable[[list[int]], None] | None = None,
) -> list[Tensor]:
    """Derivatives of the sum of the scores in tensors; refused if `of` is quantized.

    Where the graph of the scores does not reach a tensor, `missing` is called with its place among `deltas`. It raises,
    or the derivative is zero.
    """
    found: Sequence[Tensor | None] = [None] * len(deltas)
    if scores.requires_grad:
        options: dict[str, bool] = {"create_graph": create_graph, "retain_graph": create_graph or retain_graph}
        try:
            found = torch.autograd.grad(scores, deltas, torch.ones_like(scores), allow_unused=True, **options)
        except RuntimeError as error:
            if "use_reentrant" not in str(error):
                raise
            raise CaptureError(
                "the model checkpoints with use_reentrant=True, through which torch.autograd.grad cannot go: call "
                "torch.utils.checkpoint.checkpoint with use_reentrant=False, or leave it out for the explanation"
            ) from error
    if of is not None:
        refuse_quantized_cut(found, of)
    places = [i for i, grad in enumerate(found) if grad is None]
    if places and missing is not None:
        missing(places)
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
