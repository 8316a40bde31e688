"""The run behind `camfn words`: a model and its processor, the prompt, the maps and the picture."""

# tested in tests/cli/commands/test_words.py

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ... import words
from ..._photos.read import read_photo
from ..._shared.checks import number
from ..._shared.errors import LoadError, UsageError
from ..._shared.files import write_whole
from ...image import read
from ...words._maps.explain import method_of
from ...words._prompt.answer import answered
from ...zoo._libraries.hub import loaded_for_text, view
from ...zoo._weights.fetch import reason
from .._files.fonts import font_for, missing_of
from .._files.outputs import write_picture


@dataclass(frozen=True)
class WordsJob:
    """What one call of the command asks for."""

    model: str
    ask: str
    method: str
    layer: str | None
    count: int
    answer: str | None
    least: float
    font: Path | None
    device: torch.device

    def run(self, path: Path, out: Path, maps: Path | None) -> Iterator[str]:
        """Explain the words of a photo; give the lines to print."""
        self._check()
        photo = read_photo(path).convert("RGB")
        if not self.model.startswith("hf:"):
            raise UsageError(f"--model {self.model}: expected hf:FOLDER or hf:NAME of a model for images and text")
        model, processor = loaded_for_text(self.model.removeprefix("hf:"))
        model.to(self.device)
        inputs = _inputs(processor, photo, self.ask)
        inputs = {key: value.to(self.device) if hasattr(value, "to") else value for key, value in inputs.items()}
        tiles = None
        if getattr(model.config, "model_type", "") == "internvl":
            tiles = words.tiles(processor, [(photo.height, photo.width)])
        words.spans(model, inputs, tiles=tiles)  # what has no map is refused before the model says anything
        ids = self.count if self.answer is None else _tokens(processor, self.answer)
        said = answered(model, inputs, ids)
        texts, groups = words.grouped(processor, said)
        options: dict[str, Any] = {"groups": groups, "tiles": tiles}
        if self.layer is not None:
            options["layer"] = self.layer
        if self.method == "drops":
            found = words.drops(model, inputs, said, **options)
        else:
            found = words.explain(model, inputs, said, method=self.method, **options)
        carried = words.carried(model, inputs, said, groups=groups, tiles=tiles, least=self.least)
        shown = read(_seen(processor, photo))
        font, lacking = (str(self.font), missing_of(self.font, texts)) if self.font else font_for(texts)
        write_picture(out, words.draw(found, shown, texts, carried=carried, font=font))
        if maps is not None:
            write_whole(maps, partial(_write, found, carried, texts))
        yield f"answer: {' '.join(texts)}"
        for k, text in enumerate(texts):
            note = "" if bool(carried.read[k]) else "  not read from the photo"
            yield f"{text:<16} log p changes by {float(carried.gains[k]):+.2f} with the photo{note}"
        if lacking:
            yield f"the picture shows boxes in the place of {lacking[:20]!r}: give a font with these letters by --font"
        yield f"picture: {out}"

    def _check(self) -> None:
        """Refuse what no model could do, before one is read."""
        if self.method != "drops":
            method_of(self.method)
        number("--least", self.least, "[-1, 1]")
        if self.font is not None:
            missing_of(self.font, "")


def _inputs(processor: Any, photo: Image.Image, ask: str) -> dict[str, Any]:
    """Make the inputs of one prompt, by the chat template where the processor has one."""
    own = getattr(processor, "image_token", None)
    if isinstance(own, str) and own and own in ask:
        raise UsageError(
            f"--ask: {own!r} stands for a photo, and the prompt has that of this photo already: leave it out"
        )
    options: dict[str, Any] = {}
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": ask}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        first = getattr(processor.tokenizer, "bos_token", None)
        if first and prompt.startswith(first):
            # the template has the token that begins a text, and the tokenizer would put it there once more
            options["add_special_tokens"] = False
    elif type(processor).__name__ == "PaliGemmaProcessor":
        prompt = f"{own}{ask}"  # its task prefix, as "caption en", stands directly behind the picture
    else:
        prompt = f"{own}\n{ask}" if isinstance(own, str) else ask
    try:
        return dict(processor(text=prompt, images=[photo], return_tensors="pt", **options))
    except Exception as error:
        # whatever a processor raises, of a photo of one pixel an IndexError: it is its answer to this photo
        raise LoadError(
            f"the model's processor, {type(processor).__name__}, makes no input of this photo of {photo.width} x "
            f"{photo.height} pixels and --ask {ask!r}: {reason(error)}"
        ) from error


def _tokens(processor: Any, answer: str) -> list[int]:
    ids = processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UsageError("--answer: expected words")
    return [int(one) for one in ids]


def _seen(processor: Any, photo: Image.Image) -> Image.Image:
    """Return the part of a photo that the processor keeps."""
    own = processor.image_processor
    if getattr(own, "do_center_crop", False) and not getattr(own, "image_grid_pinpoints", None):
        return view(photo, processor=own)
    if getattr(own, "do_pad", False) and type(own).__name__.startswith("LlavaImageProcessor"):
        raise LoadError("this processor pads photos to a square: pass a square photo, or set do_pad to false in it")
    return photo


def _write(found: words.Explained, carried: words.Carried, texts: list[str], path: Path) -> None:
    """Write the maps of each span, and the numbers of each word."""
    maps: dict[str, Any] = {f"maps_{n}": one.cpu().float().numpy() for n, one in enumerate(found.maps)}
    parts = [f"picture {span.image}: {span.part}" for span in found.spans]
    beside = {key: value.cpu().numpy() for key, value in carried._asdict().items()}
    said = {"ids": found.ids.cpu().numpy(), "log_probabilities": found.log_probabilities.cpu().float().numpy()}
    np.savez(path, allow_pickle=False, words=np.array(texts), parts=np.array(parts), **maps, **beside, **said)
