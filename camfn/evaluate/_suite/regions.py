"""A row of `everything`: integrated gradients summed over superpixels, as a map that draws whole parts."""

# tested in tests/evaluate/suite/test_regions.py

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from ...catalogue import find
from ...image import by_region, superpixels


def integrated_gradients_by_region(model: nn.Module, *, steps: int = 32, count: int = 50) -> Callable[..., Tensor]:
    """Explain images by integrated gradients, summed over channels and then over the superpixels of each image.

    XRAI (1906.02825) takes the mean over segmentations at six scales; here one division by SLIC is summed.

    Args:
        model: any module.
        steps: of integrated gradients.
        count: about how many superpixels.

    Returns:
        A function of images (B, C, H, W) and a target that returns (B, H, W), signed.
    """
    gradients = find("integrated_gradients").function(model, steps=steps)

    def explain(images: Tensor, target: Any) -> Tensor:
        maps: Tensor = gradients(images, target).sum(1)
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        photos = ((images - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
        return by_region(maps, superpixels(photos, count=count), how="sum")

    return explain


OWN: dict[str, Callable[..., Any]] = {"integrated_gradients_by_region": integrated_gradients_by_region}
"""Methods that the suite has beside the catalogue, by name."""


def own_methods() -> list[Callable[..., Any]]:
    """Return those of `OWN` whose packages are here: superpixels are those of scikit-image."""
    return list(OWN.values()) if find_spec("skimage") else []
