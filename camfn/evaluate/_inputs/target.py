"""What a run explains of each photo: the words of the protocol, in which `label` stands for the photo's class."""

# tested in tests/evaluate/inputs/test_target.py

from __future__ import annotations

import re

from ..._photos.classes import ClassChoice
from ..._photos.names import class_of_photo
from ..._photos.words import pick_target
from ..._shared.errors import UsageError
from ...zoo import Loaded
from .photos import Photo
from .protocol import Protocol

_LABEL = re.compile(r"(^|(?<!class):|[,+])(\s*)label(\s*)(?=$|[,+])")


def choice_of(photo: Photo, loaded: Loaded, protocol: Protocol) -> ClassChoice:
    """Read the target of a protocol for one photo.

    Raises:
        UsageError: the photo has no class and the target asks for it, or the model does not know the target.
    """
    words = protocol.target.strip()
    of_text = words.startswith("text:")
    if (of_text and "{label}" in words) or (not of_text and _LABEL.search(words)):
        if photo.label is None:
            raise UsageError(f"{photo.name}: its class is not known: put photos in CLASS/PHOTO, or take --target top")
        if of_text:
            words = words.replace("{label}", photo.label.replace("_", " "))
        else:
            index = class_of_photo(photo.label, loaded)
            words = _LABEL.sub(rf"\g<1>index:{index}", words)
    choice = pick_target(words, loaded)
    if choice.best > 1:
        raise UsageError(f"target {protocol.target!r}: an evaluation explains one target of each photo, as in top")
    return choice
