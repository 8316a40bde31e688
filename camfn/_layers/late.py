"""Readings of a network's last layers that no fact supports: those whose places see their own parts of the image."""

# tested in tests/test_layers.py

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .._cut.layouts import clearest
from .._cut.places import places_seen
from .._cut.trial import Laid
from .._layout.guesses import guesses
from .._shared.vocabulary import Reading

_LAST = 32
"""`late_readings` tries so many of the last layers."""


def late_readings(
    model: nn.Module,
    outputs: Mapping[str, Tensor],
    inputs: Any,
    images: Sequence[Tensor],
    known: Mapping[str, Tensor] | None = None,
) -> dict[str, Reading]:
    """Find the one reading of each of the last layers, where any guess has places that see their own parts.

    Args:
        model: holds the layers.
        outputs: of layers without a reading, by name, in the order of computation.
        inputs: arguments of the model.
        images: the tensors among the inputs that may be the image.
        known: as for `places_seen`.
    """
    last = dict([*outputs.items()][-_LAST:])
    asked = {
        name: [guess for image in images for guess in guesses(model, name, output.shape, image.shape)]
        for name, output in last.items()
    }
    laid = {
        name: [Laid(guess.reading.layout, guess.axes, strict=True) for guess in each]
        for name, each in asked.items()
        if each
    }
    seen = places_seen(model, laid, inputs, images, known=known) if laid else {}
    right = {name: clearest([guess.reading for guess in asked[name]], seen[name]) for name in laid}
    return {name: found[0] for name, found in right.items() if len(found) == 1}
