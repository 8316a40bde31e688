"""Checks of photos and maps before they are drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from .._shared.checks import is_at_hand, is_concrete
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.maps import widen

_LOWEST, _HIGHEST = -1 / 510, 1 + 1 / 510
"""How far beyond [0, 1] a number may lie: half a step of 8 bits, which no picture shows."""


def as_float(x: Tensor, name: str) -> Tensor:
    """Return `x` in the type to compute in: its own, or float32 for the half types."""
    if not isinstance(x, Tensor):
        raise ArgumentTypeError(
            f"{name}: expected a tensor, got {type(x).__name__}; torch.as_tensor makes one of an array"
        )
    if not x.is_floating_point():
        raise ArgumentTypeError(f"{name}: expected a floating-point tensor, got {x.dtype}; pass {_bare(name)}.float()")
    return widen(x)


def _bare(name: str) -> str:
    """Return the argument in a name such as "iou: heatmap"."""
    return name.rsplit(" ", maxsplit=1)[-1]


def as_maps(maps: Tensor, name: str, *, spatial: int | None = None, waits: bool = True) -> Tensor:
    """Check finite (B, *S) maps (of `spatial` dimensions if given), and return them in the type to compute in.

    Without `waits` an accelerator goes on with its work: a sample that is not finite becomes NaN there, not an error.
    """
    work = as_float(maps, name)
    if work.ndim < 2 or spatial not in (None, work.ndim - 1):
        expected = "(B, H, W)" if spatial == 2 else "(B, *spatial)"
        raise CamfnError(
            f"{name}: expected shape {expected}, got {tuple(maps.shape)}; for a single map: {_bare(name)}[None]"
        )
    if any(size == 0 for size in work.shape[1:]):
        raise CamfnError(f"{name}: expected maps with at least one position, got {tuple(maps.shape)}")
    if not waits and not is_at_hand(work):
        return only_where(work.isfinite(), work)
    require_finite(work, name)
    return work


def only_where(right: Tensor, x: Tensor) -> Tensor:
    """Return the samples of `x` (B, ...) for which all of `right` is true, and NaN for the others: a check unread."""
    return torch.where(right.flatten(1).all(1).reshape(-1, *(1,) * (x.ndim - 1)), x, torch.nan)


def require_finite(maps: Tensor, name: str) -> None:
    """Refuse NaN and infinity in (B, *S) maps and name the samples that hold them."""
    # a finite sum proves that all numbers are finite, and is far cheaper than isfinite
    if not is_concrete(maps) or bool(maps.sum().isfinite()) or bool(torch.isfinite(maps).all()):
        return
    short = _bare(name)
    bad = torch.nonzero(~torch.isfinite(maps).flatten(1).all(1)).flatten().tolist()
    raise CamfnError(
        f"{name}: expected finite numbers, but it holds NaN or infinity in {len(bad)} of {len(maps)} samples: "
        f"{', '.join(map(str, bad[:8]))}{', ...' if len(bad) > 8 else ''}. "
        f"Keep the others with {short}[torch.isfinite({short}).flatten(1).all(1)]."
    )


def within_unit(x: Tensor) -> bool:
    """Say whether all values lie in [0, 1], up to half a step of 8 bits, which no picture shows; False for NaN."""
    if not is_concrete(x) or x.numel() == 0:
        return True
    low, high = torch.aminmax(x.detach())
    return bool((low >= _LOWEST) & (high <= _HIGHEST))


def clamped(x: Tensor) -> Tensor | None:
    """Clamp (B, ...) values to [0, 1]; None where some lie further outside than `within_unit` allows.

    Where reading them would wait, or they cannot be read, the samples that they belong to become NaN.
    """
    if is_at_hand(x):
        return x.clamp(0, 1) if within_unit(x) else None
    return only_where((x >= _LOWEST) & (x <= _HIGHEST), x.clamp(0, 1))


def as_photo(photo: Tensor, name: str, *, batched: bool = False) -> Tensor:
    """Check a (3, H, W) photo, or (B, 3, H, W) where `batched`, and return it as floats in [0, 1]."""
    if not isinstance(photo, Tensor):
        raise ArgumentTypeError(
            f"{name}: expected a tensor, got {type(photo).__name__}; "
            "for an (H, W, 3) array or PIL image: torch.as_tensor(numpy.array(image)).permute(2, 0, 1)"
        )
    if photo.ndim not in ((3, 4) if batched else (3,)) or photo.shape[-3] != 3:
        expected = "(3, H, W) or (B, 3, H, W)" if batched else "(3, H, W)"
        raise CamfnError(f"{name}: expected shape {expected}, got {tuple(photo.shape)}{_shape_advice(photo, name)}")
    if 0 in photo.shape:
        raise CamfnError(f"{name}: expected at least one pixel, got shape {tuple(photo.shape)}")
    if photo.dtype == torch.uint8:
        return photo / 255
    work = as_float(photo, name)
    clean = clamped(work if batched and work.ndim == 4 else work[None])
    if clean is not None:
        return clean.reshape(work.shape)
    low, high = work.min().item(), work.max().item()
    if low >= 0 and 2 < high <= 255:
        advice = f"It looks like 0 to 255 in floating point: pass {name} / 255."
    else:
        advice = (
            "It looks normalized with a mean and a standard deviation: pass the photo as it was before, or undo it, "
            f"{name} * std + mean. If a resize overshot: {name}.clamp(0, 1)."
        )
    raise CamfnError(f"{name}: expected values in [0, 1] (or uint8), got {low:.4g} to {high:.4g}. {advice}")


def _shape_advice(photo: Tensor, name: str) -> str:
    """Return the call that corrects the shape of a photo, if the shape is a common one."""
    if photo.ndim < 3:
        return f"; one gray channel: {name}.expand(3, -1, -1)" if photo.ndim == 2 else ""
    if photo.shape[-3] != 3 and photo.shape[-1] == 3:
        return f"; channels last: {name}.movedim(-1, -3)"
    if photo.shape[-3] == 3:
        return f"; one of a batch: {name}[0]"
    if photo.shape[-3] == 1:
        return f"; one gray channel: {name}.repeat_interleave(3, -3)"
    if photo.shape[-3] == 4:
        return f"; without its alpha channel: {name}[..., :3, :, :]"
    return ""
