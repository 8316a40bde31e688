"""Models that compare images with texts (CLIP, SigLIP of Hugging Face): the image tower, and texts as embeddings."""

# tested in tests/photos/test_texts.py

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..._shared.errors import LoadError


class ImageTower(nn.Module):
    """The image side of a CLIP-like model; calling it gives `{"image_embeds": (B, D)}`, as `targets.similarity` reads.

    Args:
        model: the whole model of transformers, with `get_image_features` and `get_text_features`.
        tokenizer: its tokenizer, texts to tensors of tokens.
    """

    has_classes = False

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Embed images, (B, 3, H, W)."""
        model: Any = self.model
        return {"image_embeds": _embeddings(model.get_image_features(pixel_values=pixel_values))}

    def embed(self, words: str) -> Tensor:
        """Embed one text, (D,), as the model was trained to read it.

        Raises:
            LoadError: the text is longer than the model reads.
        """
        return self.embed_all([words])[0]

    @torch.no_grad()
    def embed_all(self, texts: Sequence[str]) -> Tensor:
        """Embed texts, (N, D), those of one length at a time, so that none is padded."""
        model: Any = self.model
        tokens = [self._tokens(words) for words in texts]
        found: dict[int, Tensor] = {}
        for length in {each["input_ids"].shape[1] for each in tokens}:
            same = [i for i, each in enumerate(tokens) if each["input_ids"].shape[1] == length]
            for some in (same[start : start + _AT_ONCE] for start in range(0, len(same), _AT_ONCE)):
                batch = {key: torch.cat([tokens[i][key] for i in some]) for key in tokens[some[0]]}
                found |= dict(zip(some, _embeddings(model.get_text_features(**batch)), strict=True))
        return torch.stack([found[i] for i in range(len(texts))])

    def _tokens(self, words: str) -> dict[str, Tensor]:
        """Turn one text into tokens, each tensor (1, length)."""
        model: Any = self.model
        text = model.config.text_config
        length = getattr(text, "max_position_embeddings", None)
        # SigLIP was trained on texts padded to the full length, and reads its last token
        padded = {"padding": "max_length", "max_length": length} if "siglip" in model.config.model_type else {}
        tokens = self.tokenizer([words], return_tensors="pt", **padded)
        if length is not None and tokens["input_ids"].shape[1] > length:
            raise LoadError(
                f"the text {words!r} has {tokens['input_ids'].shape[1]} tokens, and the model reads {length}"
            )
        device = next(model.parameters()).device
        return {key: value.to(device) for key, value in tokens.items() if key in ("input_ids", "attention_mask")}


class ZeroShot(ImageTower):
    """An `ImageTower` whose classes are texts; its logits are the cosines with them, scaled as the model was trained.

    Args:
        tower: the model and its tokenizer.
        texts: one for each class.
    """

    has_classes = True
    texts: Tensor

    def __init__(self, tower: ImageTower, texts: Sequence[str]) -> None:
        super().__init__(tower.model, tower.tokenizer)
        self.register_buffer("texts", nn.functional.normalize(tower.embed_all(texts), dim=-1))

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Return the logits, (B, K), and the embeddings of the images, (B, D)."""
        model: Any = self.model
        embeddings = super().forward(pixel_values)
        cosines = nn.functional.normalize(embeddings["image_embeds"], dim=-1) @ self.texts.T
        temperature = getattr(model, "temperature", None)  # of ALIGN
        logits = cosines * model.logit_scale.exp() if temperature is None else cosines / temperature
        bias = getattr(model, "logit_bias", None)  # of SigLIP
        return {"logits": logits if bias is None else logits + bias, **embeddings}


def zero_shot(tower: ImageTower, names: Sequence[str], template: str) -> ZeroShot:
    """Make classes of their names.

    Args:
        tower: a model that compares images with texts.
        names: of the classes, at least two.
        template: the text of a class, its name in the place of {}.

    Raises:
        LoadError: one name alone, which nothing is compared with.
    """
    if len(names) < 2:
        raise LoadError(f"there is one class name, and nothing to compare it with: give --target 'text:{names[0]}'")
    return ZeroShot(tower, [template.replace("{}", name) for name in names])


def checked_template(template: str | None, names: Iterable[str] | None) -> str:
    """Return the template of zero-shot classes.

    Raises:
        LoadError: a template without {}, or without class names.
    """
    if template is None:
        return TEMPLATE
    if not isinstance(template, str) or template.count("{}") != 1:
        raise LoadError(
            f"template {template!r}: expected a text with one {{}}, the place of a class's name: {TEMPLATE!r}"
        )
    if names is None:
        raise LoadError(f"template {template!r}: there are no names to put into it: give --classes names.txt too")
    return template


def is_image_text(config: Any) -> bool:
    """Whether a configuration of transformers is of a model with an embedding of images and one of texts."""
    classifies = any("ForImageClassification" in name for name in config.architectures or ())
    return config.model_type in _TYPES and not classifies


TEMPLATE = "a photo of a {}"
_AT_ONCE = 64
"""Texts that are embedded at once."""

_TYPES = ("clip", "siglip", "altclip", "chinese_clip", "align", "metaclip_2")


def _embeddings(found: Any) -> Tensor:
    """Return the embeddings, (B, D): transformers 5 returns them as the pooled output."""
    tensor = found if isinstance(found, Tensor) else found.pooler_output
    assert isinstance(tensor, Tensor)
    return tensor
