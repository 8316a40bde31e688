"""The vocabulary: what a capture returns, what a target is, what a method looks like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from torch import Tensor

Inputs: TypeAlias = "Tensor | tuple[Any, ...] | list[Any] | dict[str, Any]"
"""What a model is called with: one tensor, positional arguments, or keyword arguments."""

ScoreFn: TypeAlias = Callable[[Any], Tensor]
"""Model outputs to one number a sample, shape (B,)."""

Target: TypeAlias = "int | Tensor | ScoreFn | Sequence[int | ScoreFn] | None"
"""What to explain: the top class, one class, a class a sample, or any function of the outputs."""

Tail: TypeAlias = Callable[[Tensor], Any]
"""The network after the cut: activations to outputs (or, inside a method, to scores)."""

Select: TypeAlias = "int | str | Callable[[Any], Tensor]"
"""Which tensor of a layer's tuple or dict is meant: an index, a key, or a function."""


class Captured(NamedTuple):
    """The two sides of a cut, and what the model returned.

    Attributes:
        activations: (B, C, *spatial), the layer's output before anything later could overwrite it.
        grads: same shape, the derivative of each sample's score with respect to its activations.
        outputs: exactly what the model returned.
    """

    activations: Tensor
    grads: Tensor
    outputs: Any


class Layout(NamedTuple):
    """A pair of inverse functions between a layer's own shape and (B, C, *spatial).

    Attributes:
        to_map: raw activations (or gradients) to a map.
        from_map: a map, and the raw activations it stands for, back to the raw shape.
    """

    to_map: Callable[[Tensor], Tensor]
    from_map: Callable[[Tensor, Tensor], Tensor]


class Reading(NamedTuple):
    """How a layer's output may be read as a map.

    Attributes:
        name: "channels first", "channels last", "tokens" or "windows".
        spatial: the map's spatial shape.
        channels: C.
        prefix: number of tokens with no place that come first.
        layout: what makes the output a map; None where it is one already.
        reason: the reading in words, and the facts it rests on.
        call: the layout as it is written in a call.
    """

    name: str
    spatial: tuple[int, ...]
    channels: int
    prefix: int
    layout: Layout | None
    reason: str
    call: str


AnyLayout: TypeAlias = "Layout | Literal['auto'] | None"
"""A layout, "auto" to find it, or None where a layer's output is (B, C, *spatial) already."""


Call: TypeAlias = "int | Literal['all']"
"""Which run of a layer that runs several times in one forward: by index, or all of them."""


class Method(Protocol):
    """A class activation map method: arithmetic on what a cut gives, and nothing else.

    A method that needs no gradient gives `grads` a default, and is then run without a backward.
    A method that perturbs asks, by keyword, for `tail` (activations -> (B,) scores),
    `forward` (inputs -> (B,) scores) or `inputs`.
    """

    def __call__(self, activations: Tensor, grads: Tensor, outputs: Any = None, /, **context: Any) -> Tensor:
        """Return the raw map, (B, *spatial)."""
        ...
