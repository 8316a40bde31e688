"""The maps of a page as one value, which a notebook shows."""

# tested in tests/explore/test_page.py

from __future__ import annotations

from dataclasses import dataclass

from ._grid import Grid
from ._page import framed
from ._still import still


@dataclass(frozen=True, eq=False, repr=False)
class Explored(Grid):
    """Maps of photos by targets, methods and layers: what `page` writes, and `widget` and a notebook show.

    Attributes:
        photos: each with its own targets.
        methods: of all photos.
        layers: of all photos, in the order of the network.
        start: index of the layer that the page shows first.

    Raises:
        CamfnError: a photo has no target or not one map for each target, method and layer; or there are more than 2000
            maps.

    Example:
        >>> import torch
        >>> from camfn.explore import Explored, ShownLayer, ShownMethod, ShownPhoto, ShownTarget
        >>> maps = (((torch.rand(2, 2),),),)  # one target, one method, one layer
        >>> photo = ShownPhoto("cat.png", torch.rand(3, 8, 8), (ShownTarget("281", "tabby"),), maps)
        >>> Explored((photo,), (ShownMethod("mine"),), (ShownLayer("layer4"),))
        Explored(1 photos, 1 targets, 1 methods, 1 layers)
    """

    def _repr_html_(self) -> str:
        """Show the maps in a notebook, in a frame; nothing is computed."""
        return framed(self)

    def _repr_png_(self) -> bytes:
        """Draw a part of the maps where no script runs: of the first photo at the layer the page starts with."""
        return still(self)
