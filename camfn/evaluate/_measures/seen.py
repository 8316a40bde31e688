"""One photo as a model sees it, and what all methods share of it."""

# tested in tests/evaluate/measures/test_memo.py

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ... import metrics
from ..._photos.classes import columns_of
from ...metrics import boxes_in_pixels
from ...targets import class_probability, pin
from ...zoo import Loaded
from .._inputs.photos import Photo, boxes_in_view
from .._inputs.protocol import Protocol
from .._inputs.target import choice_of
from .cost import flops_of
from .memo import Captures, Scores, Shared


class Seen:
    """A photo before a model: one forward chooses the target, and everything else is run when a method asks for it.

    Args:
        photo: the photo, for its name, class and boxes.
        picture: its pixels.
        loaded: the model, on the device.
        protocol: the settings of the measurement.
        device: where the model is.
        shared: what all photos of the model share.

    Attributes:
        images: (1, C, H, W), as the model takes them.
        boxes: (n, 4), x0, y0, x1, y1 in pixels of the images.
        score: the target, after its choices.
        index: the class; None for a target without one.
        probability: the model's probability of the class, or None.
        outputs: what the model returned of the photo.
        one_forward: operations of one forward.
        captures: captures of layers for the target.
    """

    def __init__(
        self,
        photo: Photo,
        picture: Image.Image,
        loaded: Loaded,
        protocol: Protocol,
        device: torch.device | str,
        shared: Shared,
    ) -> None:
        self.photo, self.picture, self.loaded = photo, picture, loaded
        self.model, self.protocol, self.device, self.shared = loaded.model, protocol, device, shared
        # convolutions on the CPU are faster on channels-last memory
        self.images = loaded.preprocess(picture)[None].to(device, memory_format=torch.channels_last)
        size = tuple(self.images.shape[2:])
        fractions = boxes_in_view(photo.boxes, picture.size, loaded.view)
        self.boxes = boxes_in_pixels(torch.tensor(fractions).reshape(-1, 4), size).to(device)
        choice = choice_of(photo, loaded, protocol)
        with torch.no_grad():
            outputs, self.one_forward = flops_of(lambda: loaded.model(self.images))
        (picked,) = choice.pick(outputs)
        self.outputs = outputs
        self.score = pin(picked.score, outputs)
        self.index = None if picked.classes is None else int(picked.classes[0])
        plain = choice.form not in ("higher", "lower")
        self.probability: float | None = None
        if self.index is not None and plain and columns_of(outputs).shape[1] > 1:
            self.probability = class_probability(self.index)(outputs)[0].item()
        self.captures = Captures(self.model, self.score)

    @cached_property
    def black(self) -> Tensor:
        """A black photo after the preprocessing, (1, C, H, W)."""
        return self.loaded.preprocess(Image.new("RGB", self.picture.size))[None].to(self.device)

    @cached_property
    def scores(self) -> Scores:
        """What the metrics score images by: the probability of the class, or the target itself."""
        measured: Any = self.score if self.probability is None else class_probability(self.index or 0)
        scores = Scores(metrics.scores_of(self.model, self.images, measured), self.images, self.shared)
        with torch.no_grad():
            scores.note(self.images, measured(self.outputs))
        return scores
