"""Detectors that read words (Grounding DINO, OWL-ViT of Hugging Face), asked for names of things."""

# tested in tests/zoo/libraries/test_prompts.py

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor, nn

from ..._shared.errors import LoadError
from ..._shared.value import Value, frozen
from .._given.loaded import Loaded
from .._photo.letterbox import Frame

FAMILIES = ("owlvit", "owlv2", "grounding-dino", "mm-grounding-dino")
"""Model types whose words are known to be read."""


class WordDetector(nn.Module):
    """A detector that reads words, asked for some things; calling it with images alone gives what the model gives.

    Args:
        model: the whole model of transformers.
        tokenizer: of the model.
        names: what to look for, a class each; without any it must be `asked` before it runs.
        template: the words for each name, in the place of {}.

    Raises:
        LoadError: a name that the model cannot read as one.

    Attributes:
        places: of each name, the places of its tokens in the text; None where each name is a text of its own.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, names: Sequence[str] = (), template: str = "{}") -> None:
        super().__init__()
        self.model, self.tokenizer, self.names = model, tokenizer, tuple(names)
        phrases = [template.replace("{}", name).strip() for name in names]
        tokens, self.places = _tokens(model, tokenizer, phrases) if phrases else ({}, None)
        for key, value in tokens.items():
            self.register_buffer(f"words_{key}", value, persistent=False)
        self.keys = tuple(tokens)

    def forward(self, pixel_values: Tensor) -> Any:
        """Detect in images, (B, 3, H, W)."""
        if not self.names:
            raise LoadError(f"this detector reads words, and got none: {ASK}")
        words = {key: getattr(self, f"words_{key}").repeat(len(pixel_values), 1) for key in self.keys}
        return self.model(pixel_values=pixel_values, **words)


ASK = (
    "name the things to look for, in --classes names.txt or --target 'text:a cat. a dog' of camfn explain --task "
    "detect, or in Python by zoo.load(NAME, classes=['a cat', 'a dog'])"
)
"""How a user names what a detector looks for."""


def asked(loaded: Loaded, names: Sequence[str], template: str = "{}") -> Loaded:
    """Ask a loaded detector that reads words for things.

    Raises:
        LoadError: a name that the model cannot read as one, or names twice.
    """
    model = loaded.model
    assert isinstance(model, WordDetector)
    if len(set(names)) < len(names):
        raise LoadError(f"expected each name once, got {', '.join(names)}")
    named = WordDetector(model.model, model.tokenizer, names, template).eval()
    about = loaded.about | {"classes": f"{len(names)} in words, {template!r} of each"}
    return loaded._replace(model=named, classes=list(names), about=about)


def _tokens(model: Any, tokenizer: Any, phrases: list[str]) -> tuple[dict[str, Tensor], list[list[int]] | None]:
    """Return the tokens of phrases, and the places of each in one row; None where each is a row of its own."""
    if model.config.model_type.startswith("owl"):
        return _rows(model, tokenizer, phrases), None
    text = " ".join(f"{phrase.lower()}." for phrase in phrases)
    tokens = dict(tokenizer([text], return_tensors="pt", return_token_type_ids=True))
    ids = tokens["input_ids"][0].tolist()
    ends = {*tokenizer.convert_tokens_to_ids([".", "?"]), *tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    places: list[list[int]] = [[]]
    for place, token in enumerate(ids):
        if token not in ends:
            places[-1].append(place)
        elif places[-1]:
            places.append([])
    places = [one for one in places if one]
    if len(places) != len(phrases):
        raise LoadError(f"{text!r} reads as {len(places)} phrases, expected {len(phrases)}: no . or ? in a name")
    if len(ids) > model.config.max_text_len:
        raise LoadError(f"{text!r} has {len(ids)} tokens, and the model reads {model.config.max_text_len}")
    return {key: tokens[key] for key in ("input_ids", "attention_mask", "token_type_ids")}, places


def _rows(model: Any, tokenizer: Any, phrases: list[str]) -> dict[str, Tensor]:
    """Return the tokens of phrases, a row each, padded as OWL-ViT was trained."""
    length = int(model.config.text_config.max_position_embeddings)
    tokens = tokenizer(phrases, return_tensors="pt", padding="max_length", max_length=length)
    if tokens["input_ids"].shape[1] > length:
        long = max(phrases, key=len)
        raise LoadError(f"{long!r} has more tokens than the {length} that the model reads: say it in fewer words")
    return {key: tokens[key] for key in ("input_ids", "attention_mask")}


@frozen
class Squared(Value):
    """OWLv2's preprocessing: a photo is padded to a square, right and below, and resized.

    Attributes:
        processor: of transformers.
    """

    processor: Any

    def __call__(self, photo: Image.Image) -> Tensor:
        pixels: Tensor = self.processor(photo, return_tensors="pt")["pixel_values"][0]
        return pixels

    def frame(self, photo: Image.Image) -> Frame:
        """Return where a photo lies in the input."""
        height, width = int(self.processor.size["height"]), int(self.processor.size["width"])
        longest = max(photo.size)
        inner = max(round(height * photo.height / longest), 1), max(round(width * photo.width / longest), 1)
        return Frame((height, width), (0, 0, *inner), (photo.height, photo.width))
