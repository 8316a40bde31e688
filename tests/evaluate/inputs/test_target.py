"""Targets of an evaluation in words, in which `label` stands for the photo's class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from camfn._photos.classes import ClassChoice
from camfn._shared.errors import UsageError
from camfn.evaluate import Photo, Protocol
from camfn.evaluate._inputs.target import choice_of
from camfn.zoo import Loaded

NAMES = ["rust", "scab", "night owl", "label", "top"]


def choice(target: str, label: str | None = "scab", classes: list[str] | None = NAMES) -> ClassChoice:
    loaded = Loaded(nn.Identity(), lambda photo: torch.zeros(3, 2, 2), lambda photo: photo, classes, "net")
    return choice_of(Photo("a", Path("a.png"), label, ()), loaded, Protocol(target=target))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("label", ClassChoice(1)),
        ("contrast:label", ClassChoice(1, form="contrast")),
        ("contrast:label,rust", ClassChoice(1, form="contrast", others=(0,))),
        ("probability: label", ClassChoice(1, form="probability")),
        ("label+rust", ClassChoice(1, form="several", others=(0,))),
        ("class:label", ClassChoice(3)),
        ("rust", ClassChoice(0)),
        ("top:1", ClassChoice(None)),
        ("lower:2", ClassChoice(2, form="lower")),
    ],
)
def test_words(target: str, expected: ClassChoice) -> None:
    assert choice(target) == expected


def test_labels_are_names_and_no_words() -> None:
    assert choice("label", "top") == ClassChoice(4)
    assert choice("label", "night_owl") == ClassChoice(2)
    assert choice("label", "3", None) == ClassChoice(3)


@pytest.mark.parametrize(
    ("target", "label", "message"),
    [("label", None, "its class is not known"), ("top:2", "scab", "one target of each photo"),
     ("label", "mildew", "no class 'mildew'"), ("contrast:label,scab", "scab", "each class once"),
     ("text:a {label}", "scab", "does not compare images with texts")],
)  # fmt: skip
def test_refused(target: str, label: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choice(target, label)
