"""Maps drawn in colors, alone or over a photo, a volume or a series."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .._shared.checks import number, one_of, same_device, tensor, whole
from .._shared.devices import brought
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.maps import safe_divide
from ._checks import as_float, as_maps, as_photo, clamped
from ._scale import peer_postprocess, upsample

_ZERO = {"seismic": 0.5}
"""The position of the neutral color in a colormap; 0 in all others."""


def colorize(heatmap: Tensor, colormap: str = "turbo") -> Tensor:
    """Color heatmaps, linearly between the 64 colors of a colormap of kornia.

    Args:
        heatmap: (B, H, W) in [0, 1], as `normalize` makes it.
        colormap: "turbo", "viridis", "jet", ...; "seismic" (blue, white, red) for maps normalized with `signed=True`.

    Returns:
        (B, 3, H, W), RGB in [0, 1], device and dtype of `heatmap`.

    Raises:
        CamfnError: an unknown colormap, naming those there are; a heatmap outside [0, 1], or with NaN (samples named).

    Example:
        >>> import torch
        >>> from camfn.image import colorize
        >>> colorize(torch.rand(2, 7, 7), "viridis").shape
        torch.Size([2, 3, 7, 7])
    """
    return _paint(_heatmap(heatmap), _colors(colormap)).to(heatmap.dtype)


def stops(colormap: str) -> Tensor:
    """Return 64 colors of a colormap, (64, 3) in 0..255, between which a page interpolates as `colorize` does."""
    return colorize(torch.linspace(0, 1, 64).reshape(1, 1, 64), colormap)[0, :, 0].T * 255


def relief(gradient: Tensor, *, quantile: float = 0.99) -> Tensor:
    """Draw gradients in the image as a picture that is gray where they are zero, lighter above, darker below.

    `(1 + g / s) / 2`, channel by channel, clipped to [0, 1], with s the quantile of `|g|` over a sample's channels and
    positions: a few large values would leave the rest gray otherwise. Gradients of zeros give gray.

    Args:
        gradient: (B, 3, H, W), as `camfn.network.guided_backprop` gives them.
        quantile: the share of values that are not clipped, 0 to 1; 1 clips nothing.

    Returns:
        (B, 3, H, W), RGB in [0, 1], device and dtype of `gradient`.

    Raises:
        CamfnError: another shape, NaN or infinity, or a quantile outside [0, 1].

    Example:
        >>> import torch
        >>> from camfn.image import relief
        >>> relief(torch.tensor([-2.0, 0.0, 1.0]).reshape(1, 3, 1, 1), quantile=1.0).flatten()
        tensor([0.0000, 0.5000, 0.7500])
    """
    work = as_maps(gradient, "gradient", waits=False)
    if work.ndim != 4 or work.shape[1] != 3:
        raise CamfnError(f"gradient: expected shape (B, 3, H, W), got {tuple(gradient.shape)}")
    number("relief: quantile", quantile, "[0, 1]")
    sizes = work.abs().flatten(1)
    # torch.quantile refuses more than 2^24 values
    rank = max(1, round(quantile * sizes.shape[1]))
    scale = sizes.kthvalue(rank, 1).values.reshape(-1, 1, 1, 1)
    scale = torch.where(scale > 0, scale, sizes.amax(1).reshape(-1, 1, 1, 1))
    return (0.5 + 0.5 * safe_divide(work, scale)).clamp(0, 1).to(gradient.dtype)


def overlay(
    photo: Tensor,
    heatmap: Tensor,
    *,
    alpha: float = 0.5,
    colormap: str | None = None,
    like: Literal["grad-cam"] | None = None,
) -> Tensor:
    """Lay heatmaps over photos, the more opaque the further from their zero.

    The opacity rises linearly from nothing at zero to `alpha` at half the range and stays there, so that the photo is
    unchanged where the heatmap is zero, and colors can be compared where the heatmap is strong. Zero is 0, or 0.5 under
    "seismic".

    Args:
        photo: (B, 3, H, W), or one (3, H, W) for all heatmaps; RGB, float in [0, 1] or uint8.
        heatmap: (B, h, w) in [0, 1], as `normalize` makes it, of any size; it is upsampled to the photo.
        alpha: opacity of strong colors, 0 to 1.
        colormap: as in `colorize`, "turbo" by default; "seismic" for maps normalized with `signed=True`.
        like: "grad-cam" draws the picture of pytorch-grad-cam 1.5.7, `show_cam_on_image(..., use_rgb=True)`, in its
            eight bits: the map as `peer_postprocess` makes it, so a raw one will do; OpenCV's jet, mixed evenly over
            the whole photo (`alpha` is one less their `image_weight`); then divided by the largest value.

    Returns:
        (B, 3, H, W), RGB in [0, 1], device and dtype of `photo` (float32 for uint8).

    Raises:
        CamfnError: a photo outside [0, 1], such as one normalized for a model; other batch sizes; a colormap beside
            `like`; as in `colorize`.

    Example:
        >>> import torch
        >>> from camfn.image import overlay
        >>> overlay(torch.rand(3, 240, 320), torch.rand(5, 7, 7)).shape
        torch.Size([5, 3, 240, 320])
    """
    photos = as_photo(photo, "photo", batched=True)
    photos = photos if photos.ndim == 4 else photos[None]
    if like is not None:
        one_of("overlay: like", like, ["grad-cam"])
        if colormap is not None:
            raise CamfnError(f"overlay: like='grad-cam' draws in jet: leave out colormap={colormap!r}, or like")
    work = _heatmap(heatmap) if like is None else as_maps(heatmap, "heatmap", spatial=2, waits=False)
    if photos.shape[0] not in (1, work.shape[0]):
        raise CamfnError(f"overlay: expected one photo, or one a heatmap, got {len(photos)} for {len(work)} heatmaps")
    number("overlay: alpha", alpha, "[0, 1]", "An opacity")
    same_device("overlay: heatmap", work, photos, "photo")
    if like is not None:
        mixed = _as_grad_cam_draws(photos, peer_postprocess(work, photos.shape[-2:]).to(photos.dtype), alpha)
        return mixed.to(photo.dtype) if photo.is_floating_point() else mixed
    heat = upsample(work, photos.shape[-2:]).to(photos.dtype)
    colormap = "turbo" if colormap is None else colormap
    colors = _colors(colormap)
    zero = _ZERO.get(colormap, 0.0)
    strength = (heat - zero).abs() / max(zero, 1 - zero)
    opacity = alpha * (2 * strength).clamp(max=1)
    blend = torch.lerp(photos, _paint(heat, colors), opacity[:, None])
    return blend.to(photo.dtype) if photo.is_floating_point() else blend


def _as_grad_cam_draws(photos: Tensor, heat: Tensor, alpha: float) -> Tensor:
    """Mix photos (B, 3, H, W) and the jet of heat (B, H, W) in [0, 1], in the steps of pytorch-grad-cam."""
    level = (255 * heat).floor() / 255
    # OpenCV's jet: a tent for each color, from 0 to 1 in a quarter of the range
    tents = [torch.minimum(4 * level - low, high - 4 * level) for low, high in ((1.5, 4.5), (0.5, 3.5), (-0.5, 2.5))]
    jet = (255 * torch.stack(tents, 1).clamp(0, 1)).round() / 255
    mixed = torch.lerp(photos, jet, alpha)
    return (255 * safe_divide(mixed, mixed.amax((1, 2, 3), keepdim=True))).floor() / 255


def slices(
    volume: Tensor, heatmap: Tensor, *, axis: int = 0, count: int = 9, alpha: float = 0.5, colormap: str = "turbo"
) -> Tensor:
    """Cut a volume, or a video along its time, into slices, each with its part of the heatmap laid over it.

    `montage(slices(volume, heatmap))` is one picture of them.

    Args:
        volume: (D, H, W) gray or (3, D, H, W) RGB, float in [0, 1] or uint8.
        heatmap: (d, h, w) in [0, 1], as `normalize` makes it, of any size; it is upsampled to the volume.
        axis: along which to cut: 0 the depth, 1 the height, 2 the width.
        count: how many slices, evenly spread from the first to the last; all of them where there are fewer.
        alpha: as in `overlay`.
        colormap: as in `overlay`.

    Returns:
        (count, 3, *S), the slices in order, S the two dimensions that are left, in the type to compute in.

    Raises:
        CamfnError: shapes, an axis or a count that do not fit; as in `overlay`.

    Example:
        >>> import torch
        >>> from camfn.image import slices
        >>> slices(torch.rand(16, 20, 24), torch.rand(4, 5, 6), count=4).shape
        torch.Size([4, 3, 20, 24])
    """
    tensor("slices: volume", volume)
    tensor("slices: heatmap", heatmap)
    as_float(heatmap, "slices: heatmap")
    whole("slices: axis", axis, 0)
    whole("slices: count", count)
    if volume.ndim not in (3, 4) or (volume.ndim == 4 and volume.shape[0] != 3) or heatmap.ndim != 3:
        raise CamfnError(
            f"slices: expected a volume (D, H, W) or (3, D, H, W) and a heatmap (d, h, w), got {tuple(volume.shape)} "
            f"and {tuple(heatmap.shape)}; one of a batch: volume[0], heatmap[0]"
        )
    if not volume.is_floating_point() and volume.dtype != torch.uint8:
        raise ArgumentTypeError(f"slices: volume: expected floats in [0, 1] or uint8, got {volume.dtype}")
    if 0 in heatmap.shape or 0 in volume.shape:
        raise CamfnError(f"slices: expected a volume and a heatmap, none of them empty, got {tuple(heatmap.shape)}")
    if axis > 2:
        raise CamfnError(f"slices: expected axis 0, 1 or 2 got {axis}")
    colored = volume if volume.ndim == 4 else volume.expand(3, *volume.shape)
    size = colored.shape[1:]
    place = slice_numbers(size[axis], count).to(volume.device, non_blocking=True)
    heat = upsample(heatmap[None], size)[0].index_select(axis, place).movedim(axis, 0)
    photos = colored.index_select(axis + 1, place).movedim(axis + 1, 0)
    return overlay(photos, heat, alpha=alpha, colormap=colormap)


def slice_numbers(length: int, count: int) -> Tensor:
    """Return the numbers of `count` slices, evenly spread from the first of `length` to the last, from 0."""
    return torch.linspace(0, length - 1, min(count, length)).round().long()


def curve(series: Tensor, heatmap: Tensor, *, height: int = 120, colormap: str = "turbo", alpha: float = 0.5) -> Tensor:
    """Draw a series as a black line on white, on a background that `overlay` colors.

    Args:
        series: (L,), or (channels, L), one curve below the other; each is scaled to its own height.
        heatmap: (l,) in [0, 1], as `normalize` makes it, of any length; it is upsampled to the series.
        height: of each curve in pixels; a sample is one pixel wide.
        colormap: as in `overlay`.
        alpha: as in `overlay`.

    Returns:
        (3, channels * height, L) in [0, 1], in the type to compute in.

    Raises:
        CamfnError: other shapes, or a height below 2; as in `overlay`.

    Example:
        >>> import torch
        >>> from camfn.image import curve
        >>> curve(torch.arange(300) / 20, torch.rand(10)).shape
        torch.Size([3, 120, 300])
    """
    tensor("curve: series", series)
    tensor("curve: heatmap", heatmap)
    as_float(heatmap, "curve: heatmap")
    whole("curve: height", height, 2)
    if series.ndim not in (1, 2) or heatmap.ndim != 1 or height < 2:
        raise CamfnError(
            f"curve: expected a series (L,) or (channels, L), a heatmap (l,) and a height of at least 2, got "
            f"{tuple(series.shape)}, {tuple(heatmap.shape)} and {height}"
        )
    if 0 in heatmap.shape:
        raise CamfnError(f"curve: heatmap: expected at least one value, got shape {tuple(heatmap.shape)}")
    rows = as_maps(series if series.ndim == 2 else series[None], "series", waits=False).detach()
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    level = (height - 1) * (1 - safe_divide(rows - low, high - low))
    # each column spans from its own sample to halfway to its neighbors
    before = torch.cat([level[:, :1], level[:, :-1]], 1)
    after = torch.cat([level[:, 1:], level[:, -1:]], 1)
    ends = torch.stack([level, (level + before) / 2, (level + after) / 2])
    pixel = torch.arange(height, device=rows.device)[:, None]
    ink = (pixel >= ends.amin(0)[:, None].floor()) & (pixel <= ends.amax(0)[:, None].ceil())
    paper = (~ink).to(rows).flatten(0, 1).expand(3, -1, -1)
    heat = upsample(heatmap[None], (rows.shape[1],))[0]
    tinted = overlay(torch.ones_like(paper), heat.expand(paper.shape[1], -1)[None], alpha=alpha, colormap=colormap)[0]
    return tinted * paper


def _heatmap(heatmap: Tensor) -> Tensor:
    """Check a (B, H, W) heatmap in [0, 1] and return it in the type to compute in."""
    work = as_maps(heatmap, "heatmap", spatial=2, waits=False)
    clean = clamped(work)
    if clean is None:
        low, high = work.min().item(), work.max().item()
        raise CamfnError(
            f"heatmap: expected values in [0, 1], got {low:.4g} to {high:.4g}; pass normalize(cam), "
            "or normalize(cam, signed=True) to keep the sign"
        )
    return clean


def _paint(heatmap: Tensor, colors: Tensor) -> Tensor:
    """Color (B, H, W) in [0, 1] as (B, 3, H, W)."""
    colors = brought(colors, heatmap)
    last = len(colors) - 1
    place = heatmap * last
    below = place.floor().long().clamp(0, last - 1)
    rgb = torch.lerp(colors[below], colors[below + 1], (place - below)[..., None])
    return rgb.movedim(-1, 1)


def _colors(colormap: str) -> Tensor:
    """Return the (64, 3) colors of a colormap."""
    from kornia.color import ColorMap, ColorMapType

    names: list[str] = ColorMapType.list()
    if not isinstance(colormap, str) or colormap not in names:
        raise CamfnError(f"no colormap {colormap!r}: pass one of {', '.join(names)}")
    colors: Tensor = ColorMap(colormap, num_colors=64).colors
    return colors.T
