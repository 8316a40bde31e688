"""The same viewer as a widget of Jupyter, by anywidget."""

from __future__ import annotations

from typing import Any

from .._shared.optional import extra
from ._data import data_of
from ._grid import Grid
from ._page import part


def widget(explored: Grid) -> Any:
    """Show maps in a notebook as a widget, whose attributes follow what the user chooses.

    Args:
        explored: the maps, of `collect`.

    Returns:
        A widget of anywidget. Its attributes `photo`, `target`, `method`, `layer` and `slice` follow what the user
        chooses; set one of them to show another map.

    Raises:
        MissingPackageError: anywidget is not installed (extra `notebook`).

    Example:
        >>> import torch, camfn.explore
        >>> from camfn import tiny
        >>> scene = tiny.scenes(1, generator=torch.Generator().manual_seed(0)).images
        >>> found = camfn.explore.collect(tiny.load("cnn"), scene, [3, 7], methods=["grad_cam"], layers="body")
        >>> shown = camfn.explore.widget(found)  # doctest: +SKIP
        >>> shown.target = "class 7"  # doctest: +SKIP
    """
    with extra("anywidget", "camfn.explore.widget", name="notebook"):
        import anywidget
        import traitlets

    data = data_of(explored)
    first = data["photos"][0]

    class Explore(anywidget.AnyWidget):
        """The viewer, with what is chosen as attributes."""

        _esm = part("viewer.js")
        _css = part("viewer.css")
        data = traitlets.Dict().tag(sync=True)
        photo = traitlets.Unicode(first["id"]).tag(sync=True)
        target = traitlets.Unicode(first["targets"][0]["id"]).tag(sync=True)
        method = traitlets.Unicode(explored.methods[0].id).tag(sync=True)
        layer = traitlets.Unicode(explored.layers[explored.start].id).tag(sync=True)
        slice = traitlets.Int(len(first["slices"]) // 2).tag(sync=True)
        colors = traitlets.Unicode("turbo").tag(sync=True)

    return Explore(data=data)
