"""Names of the ImageNet classes, without a download."""

# tested in tests/zoo/load/test_load.py

from __future__ import annotations

from .._weights.fetch import library


def imagenet_classes() -> list[str]:
    """Return the names of the 1000 classes, by index.

    Example:
        >>> imagenet_classes()[281]
        'tabby'
    """
    return list(library("torchvision").models.ResNet18_Weights.DEFAULT.meta["categories"])


def synonyms(classes: list[str]) -> list[list[str]]:
    """Return the names that WordNet has for each class if the classes are ImageNet's 1000; otherwise empty lists.

    Example:
        >>> synonyms(imagenet_classes())[281]
        ['tabby', 'tabby cat']
    """
    if classes != imagenet_classes():
        return [[] for _ in classes]
    descriptions = library("timm").data.ImageNetInfo().label_descriptions()
    return [description.split(", ") for description in descriptions]
