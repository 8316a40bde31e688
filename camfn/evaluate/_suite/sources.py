"""Where the pictures come from: scenes of the tiny world, or photos with their classes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..._photos.names import class_of_photo
from ..._shared.errors import CamfnError, UsageError
from ...metrics import box_masks, boxes_in_pixels
from ...targets import Head
from ...zoo import Loaded
from .._inputs.photos import Photo, boxes_in_view
from .asked import Asked, Weighted, head_of, one_hot, scores_for, softmaxed
from .protocol import Suite


class Cell(NamedTuple):
    """A picture that may enter a grid: its name, its class, its pixels as the model takes them, (C, H, W)."""

    name: str
    label: int
    image: Tensor


class Source(Protocol):
    """What the tracks need of data."""

    def record(self) -> dict[str, Any]:
        """Say what the data are, for the hash of a protocol."""

    def pictures(self) -> list[str]:
        """List the names of single pictures."""

    def blocks(self, most: int | None = None) -> list[str]:
        """List the names under which the first pictures are measured: several at once where they are small."""

    def clusters(self, block: str) -> list[str]:
        """List the pictures of a block, or of one picture."""

    def cells(self, loaded: Loaded) -> list[Cell]:
        """List what may enter a grid, before the network runs."""

    def cell(self, name: str, loaded: Loaded) -> Cell:
        """Return one of the cells."""

    def probabilities(self, outputs: Any) -> Tensor:
        """Read probabilities from the outputs of a classifier, (B, K)."""

    def picture(self, name: str, loaded: Loaded, most: int = 2) -> Asked:
        """Ask for the classes of one picture or block, at most so many of each."""

    def truth(self, name: str) -> tuple[Tensor, Tensor] | None:
        """Return the pixels of the own object and of the others, for each class of each picture, or None."""

    def questions(self, name: str, loaded: Loaded) -> Asked:
        """Ask of each picture why one class and not another, and why a class of a group."""

    def kinds(self, loaded: Loaded) -> list[str]:
        """List the names of the pictures whose groups of classes are known."""

    def groupings(self, name: str, loaded: Loaded) -> Asked:
        """Ask of each picture why a class and not the others of its group, and why one group and not another."""


class Photos(NamedTuple):
    """Photos with their classes, and boxes where they are known.

    Attributes:
        suite: settings.
        photos: the photos.
        head: of a detector.
    """

    suite: Suite
    photos: Sequence[Photo]
    head: Head | None = None

    def record(self) -> dict[str, Any]:
        """List the sha256 of each photo's pixels."""
        manifest = {photo.name: [photo.label, _pixels(photo)] for photo in self.photos}
        return {"kind": "photos", "manifest": manifest, "removed": "0 after normalization"}

    def pictures(self) -> list[str]:
        """Return the names of the photos."""
        return [photo.name for photo in self.photos]

    def blocks(self, most: int | None = None) -> list[str]:
        """Return the names of the first photos: each is measured by itself."""
        return self.pictures()[:most]

    def clusters(self, block: str) -> list[str]:
        """Return the photo."""
        return [block]

    def cells(self, loaded: Loaded) -> list[Cell]:
        """Return all photos whose class the model has."""
        found = []
        for photo in self.photos:
            # unreadable, or of a class that this model does not have: its own row says so
            with suppress(CamfnError):
                found.append(self.cell(photo.name, loaded))
        return found

    def cell(self, name: str, loaded: Loaded) -> Cell:
        """Return a photo as the model takes it."""
        photo = self.photo(name)
        return Cell(name, _label(photo, loaded), loaded.preprocess(photo.read()))

    def probabilities(self, outputs: Any) -> Tensor:
        """Read the softmax of the classes."""
        return softmaxed(outputs)

    def picture(self, name: str, loaded: Loaded, most: int = 2) -> Asked:
        """Ask for the class of a photo; of a detector, for the box of the photo."""
        photo = self.photo(name)
        picture = photo.read()
        images = loaded.preprocess(picture)[None]
        labels = torch.tensor([_label(photo, loaded)])
        fractions = boxes_in_view(photo.boxes, picture.size, loaded.view)
        size = tuple(images.shape[2:])
        boxes = boxes_in_pixels(torch.tensor(fractions).reshape(-1, 4), size)
        own = box_masks([boxes], size) if len(boxes) else None
        head = head_of(loaded, self.head)
        explained, measured = scores_for(loaded, labels, boxes[:1] if len(boxes) else None, own, head, exclusive=True)
        return Asked(images, explained, measured, [str(photo.label)], [name], own)

    def truth(self, name: str) -> None:
        """Return None: a box is not the pixels of an object, and no other object is known."""
        return

    def questions(self, name: str, loaded: Loaded) -> Asked:
        """Ask why the class and not the next likely one and, where its group is known, why the group."""
        asked, found = self._seen(name, loaded)
        label, count = _label(self.photo(name), loaded), len(found)
        rival = int(found.index_fill(0, torch.tensor([label]), -1.0).argmax())
        contrast = one_hot(torch.tensor([label]), count) - one_hot(torch.tensor([rival]), count)
        questions = [(f"contrast: {label} not {rival}", contrast, contrast)]
        group = group_of(label, count)
        if group is not None:
            inside = _inside(group, count)
            questions.append((f"group: {_said(group)}", inside / len(group), inside))
        return _asked(asked.images, questions, name)

    def kinds(self, loaded: Loaded) -> list[str]:
        """Return the names of the photos whose class has a kind, such as dogs."""
        if head_of(loaded, self.head) is not None:
            return []
        found, count = [], None
        for name in self.blocks(self.suite.measured):
            # unreadable, or of a class that this model does not have: the row of its questions says so
            with suppress(CamfnError):
                label = _label(self.photo(name), loaded)
                count = len(self._seen(name, loaded)[1]) if count is None else count
                found += [name] if group_of(label, count) is not None else []
        return found

    def groupings(self, name: str, loaded: Loaded) -> Asked:
        """Ask why the class and not the others of its kind, and why the kind and not the next likely one.

        The probability of a kind is the sum over its classes, which exclude each other; its logit is their mean.
        """
        asked, found = self._seen(name, loaded)
        label, count = _label(self.photo(name), loaded), len(found)
        group = group_of(label, count)
        if group is None:
            raise UsageError(f"{name}: class {label} is of no kind that camfn knows")
        inside, one = _inside(group, count), one_hot(torch.tensor([label]), count)
        others = inside - one
        rival = max(_rivals(group), key=lambda each: float(found[each.start : each.stop].sum()))
        outside = _inside(rival, count)
        questions = [
            (f"class_group: {label} not the others of {_said(group)}", one - others / others.sum(), one - others),
            (
                f"two_groups: {_said(group)} not {_said(rival)}",
                inside / len(group) - outside / len(rival),
                inside - outside,
            ),
        ]
        return _asked(asked.images, questions, name)

    def _seen(self, name: str, loaded: Loaded) -> tuple[Asked, Tensor]:
        """Return a photo, and the probability of each class, (K,)."""
        asked = self.picture(name, loaded)
        if head_of(loaded, self.head) is not None:
            raise UsageError(f"{loaded.name}: the questions why one class and not another are asked of classifiers")
        device = next(loaded.model.parameters(), asked.images).device
        with torch.no_grad():
            return asked, softmaxed(loaded.model(asked.images.to(device)))[0].cpu()

    def photo(self, name: str) -> Photo:
        """Return a photo by its name."""
        return next(photo for photo in self.photos if photo.name == name)


_GROUPS = (
    range(7),
    range(7, 25),
    range(52, 69),
    range(80, 101),
    range(127, 147),
    range(151, 269),
    range(269, 276),
    range(281, 286),
    range(286, 294),
    range(294, 298),
    range(300, 327),
    range(365, 385),
)
"""Classes of ImageNet that are kinds of one thing: fish, birds (three times), snakes, dogs, wild dogs, domestic cats,
wild cats, bears, insects, apes and monkeys."""


def group_of(label: int, count: int) -> range | None:
    """Return the classes of ImageNet that are of one kind with a class; None for other classes and other models.

    Example:
        >>> group_of(285, 1000), group_of(285, 10), group_of(999, 1000)
        (range(281, 286), None, None)
    """
    return next((group for group in _GROUPS if label in group), None) if count == 1000 else None


_ONE_KIND = {group: index for index, group in enumerate(_GROUPS)} | dict.fromkeys(
    (range(7, 25), range(80, 101), range(127, 147)), -1
)
"""The kind of each range: birds are three ranges."""


def _rivals(group: range) -> list[range]:
    """List the ranges that are another kind."""
    return [other for other in _GROUPS if _ONE_KIND[other] != _ONE_KIND[group]]


def _inside(group: range, count: int) -> Tensor:
    """Return 1 for the classes of a range, (1, K)."""
    weights = torch.zeros(1, count)
    weights[:, group.start : group.stop] = 1.0
    return weights


def _said(group: range) -> str:
    return f"{group.start} to {group.stop - 1}"


def _asked(image: Tensor, questions: Sequence[tuple[str, Tensor, Tensor]], name: str) -> Asked:
    """Ask questions of one photo: the name of each, its weights of the logits, and of the probabilities."""
    names, explained, measured = zip(*questions, strict=True)
    scores = Weighted(torch.cat(explained)), Weighted(torch.cat(measured), softmaxed)
    images = image.expand(len(names), -1, -1, -1).contiguous()
    return Asked(images, *scores, list(names), [name] * len(names))


def _label(photo: Photo, loaded: Loaded) -> int:
    """Return the index of a photo's class."""
    if photo.label is None:
        raise UsageError(f"{photo.name}: its class is not known: put photos in CLASS/PHOTO")
    return class_of_photo(photo.label, loaded)


def _pixels(photo: Photo) -> str:
    """Return the sha256 of a photo's decoded pixels; why it cannot be read, if it cannot."""
    try:
        picture = photo.read()
    except CamfnError as error:
        return f"unreadable: {type(error).__name__}"
    return sha256(f"{picture.size} {picture.mode} ".encode() + picture.tobytes()).hexdigest()
