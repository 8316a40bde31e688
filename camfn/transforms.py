"""Maps of several layers, and transformations of methods and of functions `explain(inputs, target) -> cam`."""

from __future__ import annotations

from ._fuse import fuse as fuse
from ._fuse import fuse_maps as fuse_maps
