"""Tokens as words, and the tiles that a processor makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from camfn import CamfnError, words
from tests.nets.multimodal import _pictures, load


class Spelled:
    """A tokenizer that spells each id by its text; of bytes that are no letter yet, by a sign."""

    def __init__(self, *texts: str | bytes) -> None:
        self.texts = [text if isinstance(text, bytes) else text.encode() for text in texts]

    def decode(self, ids: list[int]) -> str:
        return b"".join(self.texts[one] for one in ids).decode(errors="replace")


@pytest.mark.parametrize(
    ("texts", "expected", "groups"),
    [
        (("A", " rocket", " ship"), ["A", "rocket", "ship"], [[0], [1], [2]]),
        (("A", " ro", "cket", "."), ["A", "rocket", "."], [[0], [1, 2], [3]]),
        (("(", "a", ")", " b"), ["(", "a", ")", "b"], [[0], [1], [2], [3]]),
        (("don", "'", "t", " twenty", "-", "one"), ["don't", "twenty-one"], [[0, 1, 2], [3, 4, 5]]),
        (("猫", "が", "いる"), ["猫", "が", "いる"], [[0], [1], [2]]),
        ((" caf", b"\xc3", b"\xa9", "s"), ["cafés"], [[0, 1, 2, 3]]),
        (("a", "\n", "b"), ["a", "␣", "b"], [[0], [1], [2]]),
        (("3", ".", "5"), ["3", ".", "5"], [[0], [1], [2]]),
        ((" ", "猫", " ", "кот", " a"), ["猫", "кот", "a"], [[0, 1], [2, 3], [4]]),
        (("", "猫", "\n", "\n", " a"), ["猫", "␣", "␣", "a"], [[0, 1], [2], [3], [4]]),
    ],
)
def test_tokens_are_joined_to_words(texts: Any, expected: list[str], groups: list[list[int]]) -> None:
    assert words.grouped(Spelled(*texts), list(range(len(texts)))) == (expected, groups)


def test_special_tokens_are_words_by_themselves() -> None:
    class Special(Spelled):
        all_special_ids = (1, 2)

    texts = ("cat", "<|im_end|>", "</s>", "s")
    assert words.grouped(Special(*texts), [0, 1, 2, 3]) == (list(texts), [[0], [1], [2], [3]])


def test_a_tokenizer_that_cleans_up_spells_as_it_is() -> None:
    class Cleaning(Spelled):
        clean_up_tokenization_spaces = True

        def decode(self, ids: list[int], clean_up_tokenization_spaces: bool = True) -> str:
            text = super().decode(ids)
            return text.replace(" n't", "n't").replace(" .", ".") if clean_up_tokenization_spaces else text

    assert words.grouped(Cleaning("is", " n", "'t", " ."), [0, 1, 2, 3])[0] == ["is", "n't", "."]


def test_a_spelling_that_changes_what_was_before_loses_no_text() -> None:
    class Joining(Spelled):
        def decode(self, ids: list[int]) -> str:
            return super().decode(ids).replace("e b", "e-b")

    assert words.grouped(Joining("we", " ", "be"), [0, 1, 2])[0] == ["we", "-be"]


def test_a_processor_holds_its_tokenizer() -> None:
    class Processor:
        tokenizer = Spelled("a", " b")

    assert words.grouped(Processor(), torch.tensor([0, 1]))[0] == ["a", "b"]


def test_what_spells_nothing_is_refused() -> None:
    with pytest.raises(CamfnError, match="expected a tokenizer"):
        words.grouped(nn.Linear(2, 2), [1])
    with pytest.raises(CamfnError, match="at least one"):
        words.grouped(Spelled("a"), [])


def test_tiles_are_those_that_the_processor_makes() -> None:
    import transformers

    own = transformers.GotOcr2ImageProcessor(
        size={"height": 64, "width": 64}, crop_to_patches=True, min_patches=1, max_patches=6
    )
    run = _pictures(
        "GotOcr2ImageProcessor", size={"height": 64, "width": 64}, crop_to_patches=True, min_patches=1, max_patches=6
    )
    for size in [(64, 64), (100, 300), (300, 100), (200, 310), (50, 60)]:
        ((rows, columns),) = words.tiles(own, [size])
        count = len(run([torch.zeros(*size, 3, dtype=torch.uint8).numpy()])["pixel_values"])
        assert count == (rows * columns + 1 if rows * columns > 1 else 1)
    case = load("internvl, tiles")
    assert words.tiles(own, case.sizes) == case.tiles


def test_other_processors_make_no_such_tiles() -> None:
    import transformers

    with pytest.raises(CamfnError, match="processor of an InternVL"):
        words.tiles(transformers.CLIPImageProcessor(), [(4, 4)])


@pytest.mark.parametrize("ids", ["ab", 3, [0.5], torch.tensor([[1, 2]])])
def test_ids_of_another_kind_are_refused(ids: Any) -> None:
    with pytest.raises(CamfnError, match="expected the ids of one answer"):
        words.grouped(Spelled(*"abcd"), ids)
