"""Builder: a detector of the package rfdetr."""

# tested in tests/zoo/libraries/test_detectors.py

from __future__ import annotations

import warnings
from importlib import import_module

from ..._shared.errors import LoadError
from ..._shared.optional import extra
from .._given.request import Given, Request
from .._photo.recipe import IMAGENET, Recipe
from .._photo.view import whole
from .._weights.fetch import reason

_SIZES = ("nano", "small", "medium", "base", "large")


def of_rfdetr(name: str, request: Request) -> Given:
    """Build an RF-DETR by its size; its weights are a file of the user's, or random.

    Raises:
        LoadError: rfdetr is missing, there is no such size, or weights would have to be fetched.
    """
    if name.lower() not in _SIZES:
        raise LoadError(f"rfdetr:{name}: expected one of {', '.join(f'rfdetr:{size}' for size in _SIZES)}")
    if request.pretrained:
        raise LoadError(
            f"rfdetr:{name}: camfn fetches no weights of rfdetr: give the file as --weights rf-detr-{name}.pth, or "
            "take random ones with --weights none"
        )
    with extra("rfdetr", "this model", name="rfdetr", error=LoadError):
        package = import_module("rfdetr")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the weights are random, as the user chose
            holder = getattr(package, f"RFDETR{name.capitalize()}")(pretrain_weights=None, device="cpu")
    except Exception as error:
        raise LoadError(f"rfdetr:{name}: rfdetr cannot build it: {reason(error)}") from error
    net = holder.model.model.eval().requires_grad_(False)
    if getattr(net.transformer, "_cuda_graph_spatial_shapes", {}) is None:
        # the same sizes, made in a way that torch.func takes
        net.transformer._cuda_graph_spatial_shapes = {}
    count = net.class_embed.out_features
    if request.classes is not None and request.classes != count:
        net.reinitialize_detection_head(request.classes)
        count = request.classes
    side = int(holder.model.resolution)
    size = request.size or (side, side)
    recipe = Recipe(size, size, *IMAGENET)
    given = _names(count)
    return Given(net, recipe, whole, given, count, recipe, "of rfdetr", sized=True)


def _names(count: int) -> list[str] | None:
    """Return the names of COCO's categories by their numbers, if there are as many classes."""
    known = import_module("rfdetr.assets.coco_classes").COCO_CLASSES
    if count != max(known) + 1:
        return None
    return [str(known.get(index, f"class {index}")) for index in range(count)]
