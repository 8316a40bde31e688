"""Random numbers of a function: drawn from the generator of the caller, or given by the caller; never global state."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import ArgumentTypeError, CamfnError


def one_source(
    function: str,
    generator: torch.Generator | None,
    given: Tensor | None,
    *,
    name: str = "noise",
    arguments: str | None = None,
) -> torch.Generator | Tensor:
    """Return the generator or the given tensor; refuse both and neither.

    Args:
        function: name of the function that wants random numbers, for the error.
        generator: the generator that the caller passed, or None.
        given: the tensor that the caller passed in place of a generator, or None.
        name: name of the argument that `given` is.
        arguments: the arguments before the generator in the call that the error shows; None shows a
            `functools.partial` of the function.

    Returns:
        The one of the two that is not None.

    Raises:
        CamfnError: both are given, or neither.

    Example:
        >>> one_source("smooth", None, torch.ones(2))
        tensor([1., 1.])
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ArgumentTypeError(
            f"{function}: generator: expected a torch.Generator, got a {type(generator).__name__}; for example "
            "generator=torch.Generator().manual_seed(0)"
        )
    if given is not None and not (isinstance(given, Tensor) and given.is_floating_point()):
        got = given.dtype if isinstance(given, Tensor) else f"a {type(given).__name__}"
        raise ArgumentTypeError(f"{function}: {name}: expected a floating-point tensor, got {got}; pass {name}.float()")
    if given is not None and generator is None:
        return given
    if generator is not None and given is None:
        return generator
    seeded = "generator=torch.Generator().manual_seed(0)"
    call = f"functools.partial({function}, {seeded})" if arguments is None else f"{function}({arguments}, {seeded})"
    raise CamfnError(
        f"{function}: expected one of generator and {name}, got {'neither' if given is None else 'both'}. "
        f"For example {call}"
    )


def draw_normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw standard normal numbers on the generator's device, in float32 whatever the numbers are used for."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32)


def draw_uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw uniform numbers in [0, 1) on the generator's device, in float32 whatever the numbers are used for."""
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32)
