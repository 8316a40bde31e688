"""What a few forwards tell: which attentions run, which of their tokens see the image, which tokens the outputs read.

NaN spreads to whatever depends on it. So a token comes from the image exactly if NaN in the image makes it NaN.
"""

# tested in tests/attention/test_places.py

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._cut.random_state import same_draws
from .._layout.facts import tower
from .._layout.readings import images_among
from .._shared.checks import is_concrete
from .._shared.inputs import Images, images_of, tensors_in
from .._shared.vocabulary import Inputs
from ._forward import forward
from ._watch import Site

Result = TypeVar("Result")
Mask = tuple[tuple[bool, ...], ...]
"""Of each token of each sample, whether it is NaN: (B, N)."""


class Seen(NamedTuple):
    """What a forward tells of one attention.

    Attributes:
        name: dotted name of the module in which it ran.
        tower: dotted name of the tower that it is a part of.
        is_global: whether it has a row for each sample, and no windows.
        queries: number of queries.
        keys: number of keys.
        width: number of channels of a key.
        is_piece: whether it takes a piece of the queries and keys that others take pieces of, as where the patches of
            several images are packed into one sequence.
    """

    name: str
    tower: str
    is_global: bool
    queries: int
    keys: int
    width: int
    is_piece: bool


def _seen(site: Site, path: str, sizes: Sequence[int]) -> Seen:
    rows = site.q.shape[0]
    # a dimension more counts windows; without an image, nothing tells windows from samples
    fits = any((site.q.ndim == 4 and rows == n) or (site.q.ndim == 3 and rows % n == 0) for n in sizes)
    is_global = site.q.ndim in (2, 3, 4) and (fits or not sizes)
    heads = site.k.shape[1] if site.k.ndim > 3 else 1
    return Seen(site.name, path, is_global, site.q.shape[-2], site.k.shape[-2], heads * site.k.shape[-1], False)


def _storage(site: Site) -> tuple[str, int, int]:
    """Return what the attentions on pieces of the same queries and keys have in common."""
    if is_concrete(site.q) and is_concrete(site.k):
        with suppress(RuntimeError, NotImplementedError):  # a storage without an address
            return site.name, site.q.untyped_storage().data_ptr(), site.k.untyped_storage().data_ptr()
    return site.name, id(site), 0


class Sight(NamedTuple):
    """Which tokens see the image, and which a part of it.

    Attributes:
        whole: which tokens depend on the image.
        part: which depend on the part of it that is the first half along the first dimension, and the first third
            along each other.
        was_mixed: whether an attention of another tower over the image ran before.
    """

    whole: Mask
    part: Mask
    was_mixed: bool


_UNPLACED = 8
"""States of tokens are as many as the attention's, or fewer by their class tokens and registers."""


class Looker:
    """Looks at a network on some inputs. It keeps what it finds for the model, its settings and the shapes of inputs.

    Attributes:
        model: the network.
        inputs: of the network.
        may_look: whether Python may read what the network computes: outside of `vmap` over images or parameters, and of
            traces.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self.model, self.inputs = model, inputs
        self.may_look = all(map(is_concrete, [*tensors_in(_plain(inputs)), *model.parameters()]))
        self._settings = _settings(model), _shapes(inputs)
        self._known = _known.setdefault(model, {})

    @cached_property
    def _numbers(self) -> Hashable:
        """The numbers of the whole-number inputs, such as texts: where the image stands may depend on them."""
        return _numbers(self.inputs)

    def _remembered(self, key: Hashable, look: Callable[[], Result]) -> Result:
        """Return what `look` found before for this key, or let it look."""
        full = (self._settings, key)
        if full not in self._known:
            found = look()
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[full] = found
            return found
        result: Result = self._known[full]
        return result

    def survey(self) -> tuple[Seen, ...]:
        """Run the network once, and list its attentions."""

        def look() -> tuple[Seen, ...]:
            images = images_among(self.inputs)
            sizes = [image.shape[0] for image in images]
            # under vmap the fused kernel has no rule, and is written out
            _, sites = _run(self.model, () if self.may_look else None, self.inputs)
            held = Counter(map(_storage, sites))
            return tuple(
                _seen(site, tower(self.model, site.name, images), sizes)._replace(is_piece=held[_storage(site)] > 1)
                for site in sites
            )

        return self._remembered(("survey",), look)

    def sights(
        self, which: Images | None, seen: Sequence[Seen], needed: Sequence[tuple[int, bool]]
    ) -> dict[tuple[int, bool], Sight]:
        """Look at some attentions with the image, and then a part of it, blanked.

        Args:
            which: the image, where it is named.
            seen: all attentions.
            needed: places among them, each with whether to look at its queries or at its keys.

        Returns:
            What was seen at each; nothing where no value can be read, or no input is an image.
        """
        images = _blankable(self.inputs, which)
        if not needed or not images or not self.may_look:
            return {}

        def look() -> dict[tuple[int, bool], Sight]:
            end = max(place for place, _ in needed)
            whole, part = (
                _first_attentions(self.model, _blanked(self.inputs, images, box), end) for box in (False, True)
            )
            touched = [bool(site.q.isnan().any()) for site in whole]
            batch = images[0].shape[0]
            return {
                (place, queries): Sight(
                    _mask(whole[place], queries, batch),
                    _mask(part[place], queries, batch),
                    any(touched[i] and seen[i].tower != seen[place].tower for i in range(place)),
                )
                for place, queries in needed
            }

        places = tuple(
            index for index, leaf in enumerate(pytree.tree_leaves(_plain(self.inputs))) if _among(leaf, images)
        )
        key = ("sights", self._numbers, places, tuple(needed))
        return self._remembered(key, look)

    def outputs_read(
        self,
        seen: Sequence[Seen],
        place: int,
        tokens: Sequence[int] | None = None,
        *,
        pooled: bool = False,
    ) -> bool:
        """Whether the outputs of the network depend on some tokens of what an attention returns.

        Args:
            seen: all attentions.
            place: of the attention, among them.
            tokens: the tokens; None for all.
            pooled: whether to look at those outputs alone that have no place for each token.
        """
        name, count = seen[place].name, seen[place].queries

        def look() -> bool:
            ended = 0

            def zero(x: Tensor) -> Tensor:
                added = torch.zeros_like(x)
                if ended == place:  # the probabilities of this attention, ahead of its end
                    rows = range(x.shape[-2]) if tokens is None else tokens
                    added.index_fill_(-2, torch.tensor(list(rows), device=x.device), torch.nan)
                return added

            def count_up(sites: list[Site]) -> None:
                nonlocal ended
                ended = len(sites)

            outputs, _ = _run(self.model, (name,), self.inputs, zero, count_up)
            leaves = [leaf for leaf in tensors_in(outputs) if leaf.is_floating_point()]
            if pooled:
                leaves = [leaf for leaf in leaves if not any(0 <= count - n <= _UNPLACED for n in leaf.shape[1:-1])]
            return any(bool(leaf.isnan().any()) for leaf in leaves)

        key = ("read", self._numbers, place, None if tokens is None else tuple(tokens), pooled)
        return self._remembered(key, look)


def _first_attentions(model: nn.Module, inputs: Inputs, end: int) -> list[Site]:
    """Run the network until its attention number `end` has ended; return the attentions so far."""
    found: list[Site] = []

    def ended(sites: list[Site]) -> None:
        if len(sites) > end:
            found.extend(sites)
            raise _Enough

    with suppress(_Enough):
        _run(model, (), inputs, ended=ended)
    return found


def _run(model: nn.Module, *args: Any, **options: Any) -> tuple[Any, list[Site]]:
    """Run `forward` in evaluation mode, without a graph, and without taking random numbers from the process."""
    tensors = [x for x in tensors_in(_plain(args[1])) if x.device.type != "cpu"]
    with torch.no_grad(), same_draws(tensors[0].device if tensors else torch.device("cpu"))():
        return forward(model, *args, **options, evaluate=True)


class _Enough(BaseException):
    """The network has run as far as it is needed; no network catches this as an error of its own."""


def _mask(site: Site, queries: bool, batch: int) -> Mask:
    """Tell which queries or keys are NaN, of each sample."""
    x = (site.q if queries else site.k).isnan().any(-1)
    tokens = x.shape[-1]
    x = x.reshape(1 if x.numel() // tokens % batch else batch, -1, tokens)
    rows: list[list[bool]] = x.any(1).tolist()
    return tuple(map(tuple, rows))


def _blankable(inputs: Inputs, which: Images | None) -> list[Tensor]:
    """Return the inputs to blank: the one that is named, or all images, or without an image all floating tensors."""
    if which is not None:
        return [images_of(inputs, which)[0]]
    leaves = [leaf for leaf in pytree.tree_leaves(_plain(inputs)) if isinstance(leaf, Tensor) and leaf.ndim > 1]
    leaves = [leaf for leaf in leaves if leaf.is_floating_point()]
    return next((kept for least in (4, 3, 2) if (kept := [leaf for leaf in leaves if leaf.ndim >= least])), [])


def _blanked(inputs: Inputs, images: Sequence[Tensor], part: bool) -> Any:
    """Return the inputs with NaN in the images, or in a part of them."""

    def change(leaf: Any) -> Any:
        if not _among(leaf, images):
            return leaf
        changed = leaf.detach().clone()
        box = changed
        if part:
            for i in range(min(2, leaf.ndim - 1), leaf.ndim):
                box = box.narrow(i, 0, part_of(leaf.shape[i], i == 2))
        box.fill_(torch.nan)
        return changed

    return pytree.tree_map(change, _plain(inputs))


def part_of(length: int, is_first: bool) -> int:
    """Return how much of a dimension of the image is blanked, where a part of it is."""
    return max(length // 2 if is_first else length // 3, 1)


def _among(leaf: Any, images: Sequence[Tensor]) -> bool:
    return any(leaf is image for image in images)


def _plain(inputs: Any) -> Any:
    return dict(inputs) if isinstance(inputs, Mapping) else inputs


_known: WeakKeyDictionary[nn.Module, dict[Hashable, Any]] = WeakKeyDictionary()
_MOST_KNOWN = 256


def _settings(model: nn.Module) -> int:
    """Return a number that is another one once a setting of the model, or one of its modules, is another one."""
    config = getattr(model, "config", None)
    holders = [vars(module) for module in model.modules()] + [vars(config) if hasattr(config, "__dict__") else {}]
    plain = (str, int, float, bool, type(None))
    return hash(
        (
            tuple(map(id, model.modules())),
            tuple((key, item) for held in holders for key, item in held.items() if isinstance(item, plain)),
        )
    )


def _shapes(inputs: Inputs) -> Hashable:
    """Return the shapes of the tensors among the inputs, the other inputs, and the structure of them all."""
    leaves, spec = pytree.tree_flatten(_plain(inputs))
    told = ((tuple(leaf.shape), leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves)
    return str(spec), tuple(told)


def _numbers(inputs: Inputs) -> Hashable:
    """Return the numbers of the whole-number inputs, such as texts: where the image stands may depend on them."""
    whole = [leaf for leaf in tensors_in(_plain(inputs)) if not leaf.is_floating_point()]
    return tuple(tuple(leaf.flatten().tolist()) if is_concrete(leaf) else id(leaf) for leaf in whole)
