"""A page, and a view in notebooks, of many maps: classes, methods and layers of photos, one choice away.

`collect` computes the maps, `page` writes them as one HTML file, `widget` shows them in Jupyter.
"""

from ._collect import collect as collect
from ._explored import Explored as Explored
from ._grid import ShownLayer as ShownLayer
from ._grid import ShownMethod as ShownMethod
from ._grid import ShownPhoto as ShownPhoto
from ._grid import ShownTarget as ShownTarget
from ._page import page as page
from ._widget import widget as widget

__all__ = ["Explored", "ShownLayer", "ShownMethod", "ShownPhoto", "ShownTarget", "collect", "page", "widget"]
