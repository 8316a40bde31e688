"""`%load_ext camfn.image`: a notebook draws the tensors that are maps or pictures, where it would print numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._shared.checks import describe, is_concrete
from .._shared.errors import ArgumentTypeError
from .._shared.seen import png, sheet

_MOST = 16
"""Maps or pictures of one tensor that are drawn; and how many stand in a row."""

_ROW = 4
_LEAST = 4
"""Sides of a map that is drawn: a smaller tensor is as well read as numbers."""


def load_ipython_extension(ipython: Any) -> None:
    """Let a notebook draw maps and pictures: what `%load_ext camfn.image` calls.

    From then on a cell that ends in a tensor shows, in the place of its numbers:

    * pictures (3, H, W) or (B, 3, H, W), in [0, 1] or uint8, as they are;
    * maps (h, w), (B, h, w) and, of volumes, the slice in the middle of (B, d, h, w), each on its own scale: white is
      zero, red is above it and blue below, gray is NaN.

    Others are printed as before; so are tensors with a side under 4, and what is no floating-point number. Three maps
    in [0, 1] look like one picture. `%unload_ext camfn.image` takes it back.

    Args:
        ipython: the shell.

    Raises:
        CamfnError: it is no shell of IPython.

    Example:
        >>> from types import SimpleNamespace
        >>> from IPython.core.formatters import DisplayFormatter
        >>> shell = SimpleNamespace(display_formatter=DisplayFormatter())
        >>> load_ipython_extension(shell)
        >>> sorted(shell.display_formatter.format(torch.randn(2, 7, 7))[0])
        ['image/png', 'text/plain']
    """
    _pngs("load", ipython).for_type(Tensor, drawn)


def unload_ipython_extension(ipython: Any) -> None:
    """Let a notebook print tensors again: what `%unload_ext camfn.image` calls.

    Args:
        ipython: the shell.

    Raises:
        CamfnError: it is no shell of IPython.

    Example:
        >>> from types import SimpleNamespace
        >>> from IPython.core.formatters import DisplayFormatter
        >>> shell = SimpleNamespace(display_formatter=DisplayFormatter())
        >>> unload_ipython_extension(shell)
        >>> sorted(shell.display_formatter.format(torch.randn(2, 7, 7))[0])
        ['text/plain']
    """
    _pngs("unload", ipython).pop(Tensor, None)


def _pngs(what: str, shell: Any) -> Any:
    """Return the shell's formatter of PNGs; refuse what is no shell."""
    found = getattr(getattr(shell, "display_formatter", None), "formatters", None)
    if not isinstance(found, Mapping):
        raise ArgumentTypeError(
            f"{what}_ipython_extension: ipython: expected IPython's shell, got {describe(shell)}: type "
            f"%{what}_ext camfn.image in a notebook"
        )
    return found["image/png"]


def drawn(tensor: Tensor) -> bytes | None:
    """Draw a tensor that is a picture or a map as PNG; None for another one."""
    if (
        not tensor.numel()
        or tensor.layout != torch.strided
        or not is_concrete(tensor)
        or min(tensor.shape[-2:]) < _LEAST
    ):
        return None
    plain = tensor.detach().cpu()
    if plain.ndim in (3, 4) and plain.shape[-3] == 3 and _in_unit(plain):
        return _pictures(plain if plain.ndim == 4 else plain[None])
    if plain.ndim not in (2, 3, 4) or not plain.is_floating_point():
        return None
    if plain.ndim == 4:
        plain = plain[:, plain.shape[1] // 2]
    maps = list(plain[None] if plain.ndim == 2 else plain)[:_MOST]
    return sheet([maps[at : at + _ROW] for at in range(0, len(maps), _ROW)], 224 if len(maps) <= _ROW else 112)


def _in_unit(plain: Tensor) -> bool:
    """Whether numbers are those of a picture."""
    if plain.dtype == torch.uint8:
        return True
    return plain.is_floating_point() and float(plain.min()) >= 0 and float(plain.max()) <= 1


def _pictures(pictures: Tensor) -> bytes:
    """Put pictures (B, 3, H, W) beside each other as PNG."""
    shown = pictures[:_MOST]
    if shown.dtype != torch.uint8:
        shown = (shown.double() * 255).round().byte()
    rows = [torch.cat(list(shown[at : at + _ROW]), 2) for at in range(0, len(shown), _ROW)]
    width = max(row.shape[2] for row in rows)
    filled = [torch.nn.functional.pad(row, (0, width - row.shape[2]), value=255) for row in rows]
    return png(torch.cat(filled, 1).permute(1, 2, 0))
