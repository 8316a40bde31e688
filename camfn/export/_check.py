"""Nothing is handed out that was not run: fresh images, in other numbers, against the eager explainer."""

# tested in tests/export/test_program.py

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._shared.errors import CamfnError
from ._plan import Plan

TOLERANCE = 1e-4
"""Largest difference of an output or a map, relative to its largest value."""


class Compared(NamedTuple):
    """How an exported form agrees with the eager explainer.

    Attributes:
        batches: numbers of images that were run.
        differences: by output, the largest difference relative to the largest value.
        against: "eager", or "float64" where eager's own rounding was too large to compare with.
    """

    batches: list[int]
    differences: dict[str, float]
    against: str


def compared(what: Plan, run: Callable[..., Sequence[Any]]) -> Compared:
    """Run an exported form on fresh images and compare all outputs.

    Raises:
        CamfnError: an output differs by more than rounding.
    """
    batches = [3, 1] if what.dynamic else [len(what.images)]
    worst: dict[str, float] = dict.fromkeys(what.names, 0.0)
    against, shows = "eager", False
    for count in batches:
        given = fresh(what, count)
        with torch.no_grad():
            found = [torch.as_tensor(value) for value in run(*given)]
            expected = what.run(None, *given)
        shows |= bool(expected[1].isfinite().logical_and(expected[1] != 0).any())
        off = dict(zip(what.names, map(relative, found, expected)))
        if max(off.values()) > TOLERANCE:
            _refuse_change(what, given, expected)
            off = _against_double(what, given, found, expected, off)
            against = "float64"
        worst = {name: max(worst[name], off[name]) for name in what.names}
    if not shows:
        raise CamfnError(
            "export: the map is zero or NaN everywhere on all images that were tried: nothing can be compared, and "
            "the file would show nothing. Take another layer (camfn.layers.suggest), or give photos as inputs"
        )
    return Compared(batches, worst, against)


def _refuse_change(what: Plan, given: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Refuse an explainer that gives other numbers when it runs again on the same images.

    Raises:
        CamfnError: names the first output that changes.
    """
    with torch.no_grad():
        again = what.run(None, *given)
    changed = next((n for n, one, two in zip(what.names, again, expected) if relative(one, two) > TOLERANCE), None)
    if changed is not None:
        raise CamfnError(
            f"export: the output {changed!r} changes when the model runs again on the same images: it draws random "
            "numbers (as torch.nn.functional.dropout without training=self.training), or keeps a state, and a file "
            "does neither. Take that out of the model"
        )


def fresh(what: Plan, count: int) -> tuple[Tensor, ...]:
    """Make images that the trace did not see, of the kind of those given: turned, shifted and with noise."""
    generator = torch.Generator().manual_seed(count)
    rows = what.images[torch.arange(count) % len(what.images)].flip(-1).roll(3, -2)
    spread = what.images.std() if what.images.numel() > 1 else torch.ones(())
    images = rows + 0.1 * torch.where(spread > 0, spread, 1.0) * torch.randn(rows.shape, generator=generator)
    if not what.asks:
        return (images,)
    asked = torch.arange(count) % ((what.classes or count) + 1) - 1  # the top class, and the first ones
    return images, asked


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest value; infinity where one is not finite and the other is."""
    if found.shape != expected.shape:
        return float("inf")
    one, other = found.double(), expected.double()
    if not torch.equal(one.isfinite(), other.isfinite()):
        return float("inf")
    one, other = one.nan_to_num(0.0, 0.0, 0.0), other.nan_to_num(0.0, 0.0, 0.0)
    scale = float(other.abs().max()) if other.numel() else 0.0
    off = float((one - other).abs().max()) if one.numel() else 0.0
    return off / scale if scale else off


def _against_double(
    what: Plan, given: tuple[Tensor, ...], found: list[Tensor], expected: tuple[Tensor, ...], off: dict[str, float]
) -> dict[str, float]:
    """Compare with float64, where deep chains round: the file may be off as far as eager is, and no further.

    Raises:
        CamfnError: it is off further.
    """
    model = copy.deepcopy(what.model).double()
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        exact = what._replace(model=model).run(state, given[0].double(), *given[1:])
    errors = {}
    for name, one, eager, true in zip(what.names, found, expected, exact):
        errors[name] = relative(one, true)
        allowed = max(TOLERANCE, 4 * relative(eager, true))
        if not errors[name] <= min(allowed, 0.1):
            raise CamfnError(
                f"export: the output {name!r} is {off[name]:.1e} of its largest value off the eager explainer's, "
                f"and by {errors[name]:.1e} from float64, where eager differs by {relative(eager, true):.1e}: nothing "
                "was written. Another layer or method may agree; batch='fixed' if the network mixes images"
            )
    return errors
