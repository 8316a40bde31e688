"""Models that compare images with texts (CLIP, SigLIP of Hugging Face): the image tower, and texts as embeddings."""

# tested in tests/photos/test_texts.py

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._shared.errors import LoadError


class ImageTower(nn.Module):
    """The image side of a CLIP-like model; calling it gives `{"image_embeds": (B, D)}`, as `targets.similarity` reads.

    Args:
        model: the whole model of transformers, with `get_image_features` and `get_text_features`.
        tokenizer: its tokenizer, texts to tensors of tokens.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Embed images, (B, 3, H, W)."""
        model: Any = self.model
        return {"image_embeds": _embeddings(model.get_image_features(pixel_values=pixel_values))}

    @torch.no_grad()
    def embed(self, words: str) -> Tensor:
        """Embed one text, (D,), as the model was trained to read it.

        Raises:
            LoadError: the text is longer than the model reads.
        """
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
        kept = {key: value.to(device) for key, value in tokens.items() if key in ("input_ids", "attention_mask")}
        return _embeddings(model.get_text_features(**kept))[0]


def is_image_text(config: Any) -> bool:
    """Whether a configuration of transformers is of a model with an embedding of images and one of texts."""
    classifies = any("ForImageClassification" in name for name in config.architectures or ())
    return config.model_type in _TYPES and not classifies


_TYPES = ("clip", "siglip", "altclip", "chinese_clip", "align", "metaclip_2")


def _embeddings(found: Any) -> Tensor:
    """Return the embeddings, (B, D): transformers 5 returns them as the pooled output."""
    tensor = found if isinstance(found, Tensor) else found.pooler_output
    assert isinstance(tensor, Tensor)
    return tensor
