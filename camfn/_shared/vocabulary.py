"""The types that all of camfn shares: the result of a capture, a target, a layout, a method."""

# tested in tests/cut/test_capture.py

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, cast, runtime_checkable

from torch import Tensor

from .seen import record_sheet, record_table
from .value import Value, frozen

Inputs: TypeAlias = "Tensor | tuple[Any, ...] | list[Any] | dict[str, Any]"
"""The arguments of a model: one tensor, positional arguments, or keyword arguments."""

ScoreFn: TypeAlias = Callable[[Any], Tensor]
"""A function from a model's outputs to one number a sample, shape (B,)."""

Target: TypeAlias = "int | Tensor | ScoreFn | Sequence[int | ScoreFn] | None"
"""The score to explain: of the top class, of one class, of a class a sample, or any function of the outputs."""

Tail: TypeAlias = Callable[[Tensor], Any]
"""The network after the cut, a function from activations to outputs (or, inside a method, to scores)."""

Select: TypeAlias = "int | str | Callable[[Any], Tensor]"
"""Which tensor of a layer's tuple or dict to take: an index, a key, or a function."""


class Captured(NamedTuple):
    """The activations at a layer, their gradients, and the model's outputs.

    Attributes:
        activations: (B, C, *spatial), the layer's output before anything later could overwrite it.
        grads: same shape, the derivative of each sample's score with respect to its activations.
        outputs: the model's outputs, unchanged.
    """

    activations: Tensor
    grads: Tensor
    outputs: Any

    def _repr_html_(self) -> str:
        """Show shapes, ranges and small pictures in a notebook instead of all numbers."""
        return record_table(self._asdict(), ("activations", "grads"))

    def _repr_png_(self) -> bytes | None:
        """Draw the mean over channels of activations and gradients, a row each; None without maps."""
        return record_sheet(self.activations, self.grads)


def without_grads(activations: Tensor, outputs: Any) -> Captured:
    """Return what a method that takes no gradient reads: `grads` is None, which the type of `Captured` leaves out."""
    return Captured(activations, cast("Tensor", None), outputs)


@runtime_checkable
class LayoutPair(Protocol):
    """What a layout is: two inverse functions between a layer's own shape and (B, C, *spatial)."""

    @property
    def to_map(self) -> Callable[[Tensor], Tensor]:
        """Function from a layer's output (or its gradient) to a map."""

    @property
    def from_map(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Function from a map, and the layer's output it was made from, to the shape of that output."""


@frozen
class Layout(Value):
    """A layout of your own, of two inverse functions between a layer's own shape and (B, C, *spatial).

    Args:
        to_map: function from a layer's output (or its gradient) to a map.
        from_map: function from a map, and the layer's output it was made from, to the shape of that output.
    """

    to_map: Callable[[Tensor], Tensor]
    from_map: Callable[[Tensor, Tensor], Tensor]


class Reading(NamedTuple):
    """How a layer's output may be read as a map.

    Attributes:
        name: "channels first", "channels last", "tokens", "windows" or "frames".
        spatial: the map's spatial shape.
        channels: number of the map's channels.
        prefix: number of tokens before the patches that stand for no place in the image.
        layout: the layout that makes the output a map; None where the output is a map already.
        reason: the reading in words, and the facts that support it.
        call: the argument that asks for this layout, as text.
    """

    name: str
    spatial: tuple[int, ...]
    channels: int
    prefix: int
    layout: LayoutPair | None
    reason: str
    call: str


AnyLayout: TypeAlias = "LayoutPair | Literal['auto'] | None"
"""A layout, "auto" to find one, or None where a layer's output is (B, C, *spatial) already."""


Call: TypeAlias = "int | Literal['all']"
"""Which run to take of a layer that runs several times in one forward: an index, or all of them."""


class Method(Protocol):
    """A class activation map method: arithmetic on activations and gradients.

    A method that needs no gradient gives `grads` a default; the explainer then runs no backward.
    A method that perturbs has keyword parameters for `tail` (activations -> (B,) scores),
    `forward` (inputs -> (B,) scores) or `inputs`, and the explainer passes them.
    """

    def __call__(self, activations: Tensor, grads: Tensor, outputs: Any = None, /, **context: Any) -> Tensor:
        """Return the raw map, (B, *spatial)."""
        ...
