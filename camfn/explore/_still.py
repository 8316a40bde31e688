"""A still picture of a page's first photo: targets by methods, for viewers in which no script runs."""

# tested in tests/explore/test_page.py

from __future__ import annotations

import torch
from torch import Tensor

from .. import image
from ._grid import Grid, MapOrReason

_TARGETS, _METHODS, _SIDE = 4, 5, 160
"""Rows and columns of the picture at most, and the longer side of a cell in pixels."""


def still(explored: Grid) -> bytes:
    """Draw the first photo's first targets by the first methods at the layer that the page starts with, as PNG."""
    photo, methods = explored.photos[0], explored.methods[:_METHODS]
    middle = len(photo.picture) // 2
    flat = photo.picture[middle][None] if photo.is_volume else photo.picture
    small = _fitted(flat.detach().float().cpu().expand(3, -1, -1))
    cells, captions = [], []
    for target, rows in zip(photo.targets[:_TARGETS], photo.maps):
        for method, row in zip(methods, rows):
            cells.append(_laid(small, row[explored.start], photo.is_volume))
            captions.append(f"{target.label}: {method.id}")
    return image.to_bytes(image.montage(cells, captions, columns=len(methods), caption_size=12))


def _fitted(picture: Tensor) -> Tensor:
    """Bring the longer side of a picture to that of a cell."""
    share = _SIDE / max(picture.shape[1:])
    size = [max(round(length * share), 1) for length in picture.shape[1:]]
    return torch.nn.functional.interpolate(picture[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)


def _laid(photo: Tensor, cam: MapOrReason, is_volume: bool) -> Tensor:
    """Lay a map over the photo; where there is none the photo is gray."""
    if isinstance(cam, str) or not bool(cam.isfinite().all()):
        return photo.mean(0, keepdim=True).expand_as(photo)
    flat = cam[len(cam) // 2] if is_volume else cam
    return image.overlay(photo, image.normalize(flat.detach().float().cpu()[None]))[0]
