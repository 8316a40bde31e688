"""Read a prompt: one sequence of ids with its pictures, as a processor of transformers returns it."""

# tested in tests/words/prompt/test_prompt.py

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..._cut.graft import bare
from ..._shared.checks import describe
from ..._shared.errors import ArgumentTypeError, CamfnError

CALL = 'processor(text=prompt, images=[photo], return_tensors="pt")'
"""The call that makes the inputs of one prompt."""

_PER_TOKEN: dict[str, int] = {
    "attention_mask": 1,
    "mm_token_type_ids": 0,
    "token_type_ids": 0,
    "image_embeds_position_mask": 0,
}
"""Inputs with a number for each token, and the number of a token of the answer."""

OF_A_RUN = ("use_cache", "logits_to_keep", "return_dict", "output_attentions", "output_hidden_states", "labels")
"""Options of a run, and labels of no token, which say nothing of the prompt."""

_NO_LABEL = -100

_HINDER = ("inputs_embeds", "position_ids", "past_key_values", "cache_position", "cache")
"""Inputs that speak of the prompt's tokens in other ways, and would not fit a longer sequence."""


def prompt_ids(name: str, inputs: Any) -> Tensor:
    """Return the ids of the prompt, (P,); refuse inputs of which it is not certain where a picture stands."""
    if not isinstance(inputs, Mapping):
        raise ArgumentTypeError(f"{name}: inputs: expected a dict, as {CALL} returns it; got {describe(inputs)}")
    hindering = [key for key in _HINDER if inputs.get(key) is not None]
    if hindering:
        raise CamfnError(
            f"{name}: inputs: {hindering[0]} hides which token is a picture's, or fits the prompt alone: pass what "
            f"{CALL} returns, with input_ids and without {hindering[0]}"
        )
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point():
        raise CamfnError(f"{name}: inputs: expected input_ids (1, P), got {describe(ids)}: pass what {CALL} returns")
    if ids.shape[0] != 1:
        raise CamfnError(
            f"{name}: inputs: expected one prompt, input_ids (1, P), got {tuple(ids.shape)}: prompts of a batch have "
            f"pictures at different places. Call {CALL} for each prompt, and {name} for each result"
        )
    _check_beside(name, inputs, ids)
    return ids[0]


def _check_beside(name: str, inputs: Mapping[str, Any], ids: Tensor) -> None:
    """Refuse padding, and numbers beside the tokens that no family is known to have."""
    mask = inputs.get("attention_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape != ids.shape or not bool((mask == 1).all())):
        raise CamfnError(
            f"{name}: inputs: attention_mask leaves tokens out, or is not (1, {ids.shape[1]}): a prompt with padding "
            f"has its pictures elsewhere. Call {CALL} for this prompt alone, without padding="
        )
    labels = inputs.get("labels")
    # PaliGemma's processor returns labels always: of no token, where the prompt holds no answer
    if labels is not None and not bool((torch.as_tensor(labels) == _NO_LABEL).all()):
        raise CamfnError(
            f"{name}: inputs: labels are of training, and say that the prompt holds an answer: pass what {CALL} "
            "returns, without suffix= and labels, and hand the answer over as words"
        )
    for key, value in inputs.items():
        if key in _PER_TOKEN and value is not None and not isinstance(value, Tensor):
            raise CamfnError(f"{name}: inputs: {key}: expected a tensor {tuple(ids.shape)}, got {describe(value)}")
        if key in ("input_ids", *OF_A_RUN) or not isinstance(value, Tensor) or value.is_floating_point():
            continue
        beside = value.ndim == 2 and tuple(value.shape) == tuple(ids.shape)
        if beside and key not in _PER_TOKEN and ids.shape[1] > 3:
            raise CamfnError(
                f"{name}: inputs: {key} has a number for each token of the prompt, of which {name} does not know the "
                f"number of a token of the answer: pass what {CALL} returns, without {key}"
            )
        if key in _PER_TOKEN and not beside:
            raise CamfnError(f"{name}: inputs: {key}: expected {tuple(ids.shape)}, got {tuple(value.shape)}")


def forced(model: nn.Module, inputs: Mapping[str, Any], generated: Any) -> dict[str, Any]:
    """Append an answer to a prompt, so that one forward scores each of its tokens (teacher forcing).

    Token k of the answer is scored by `log_softmax(logits[0, P - 1 + k])[id_k]`, with P tokens in the prompt. What has
    a number for each token grows with it: the attention mask, the types of tokens of Qwen-VL, Gemma 3 and PaliGemma.
    PaliGemma reads a prompt in both directions and an answer in one; its types of tokens say where the answer begins.

    Args:
        model: a model of transformers for images and text; the function does not run it.
        inputs: of one prompt, as the model's processor returns them.
        generated: ids of the answer alone, (K,) or (1, K), a tensor or a list, such as
            `model.generate(**inputs)[:, P:]`.

    Returns:
        The inputs of one forward on prompt and answer, `use_cache=False` among them.

    Raises:
        CamfnError: several prompts, padding, or `inputs_embeds`; no answer, one that starts with the prompt, or one
            with the id of a picture.

    Example:
        >>> class Plain(torch.nn.Module):
        ...     config = None
        >>> inputs = {"input_ids": torch.tensor([[1, 5, 6]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
        >>> longer = forced(Plain(), inputs, [8, 9])
        >>> longer["input_ids"].tolist(), longer["attention_mask"].tolist()
        ([[1, 5, 6, 8, 9]], [[1, 1, 1, 1, 1]])
    """
    prompt = prompt_ids("words.forced", inputs)
    new = answer_ids(model, prompt, generated)[None]
    longer: dict[str, Any] = {"input_ids": torch.cat([inputs["input_ids"], new.to(inputs["input_ids"])], 1)}
    kind = getattr(getattr(bare(model), "config", None), "model_type", None)
    for key, value in inputs.items():
        if key in _PER_TOKEN and value is not None:
            # the answer of PaliGemma is read in one direction
            fill = 1 if (kind, key) == ("paligemma", "token_type_ids") else _PER_TOKEN[key]
            longer[key] = torch.cat([value, torch.full_like(new, fill).to(value)], 1)
        elif key not in ("input_ids", *OF_A_RUN):
            longer[key] = value
    if kind == "paligemma" and "token_type_ids" not in longer:
        longer["token_type_ids"] = torch.cat([torch.zeros_like(prompt)[None], torch.ones_like(new)], 1)
    return {**longer, "use_cache": False}


def answer_ids(model: nn.Module, prompt: Tensor, generated: Any) -> Tensor:
    """Return the ids of an answer, (K,), on the device of the prompt; refuse what is none."""
    try:
        ids = torch.as_tensor(generated)
    except (TypeError, ValueError, RuntimeError):
        ids = torch.empty(0)
    if ids.ndim == 2 and ids.shape[0] == 1:
        ids = ids[0]
    if ids.ndim == 2 and ids.shape[0] > 1 and ids.shape[1]:
        raise CamfnError(
            f"words: expected the ids of one answer, got {ids.shape[0]}, as generate(num_return_sequences="
            f"{ids.shape[0]}) returns them: explain each by a call of its own, with ids[n, P:]"
        )
    if ids.ndim != 1 or not ids.numel() or ids.dtype not in (torch.int64, torch.int32):
        raise CamfnError(
            f"words: expected the ids of one answer, (K,) or (1, K), at least one, got {describe(generated)}: pass "
            "model.generate(**inputs)[:, P:], where P = inputs['input_ids'].shape[1]"
        )
    ids = ids.to(prompt)
    if len(ids) > len(prompt) and torch.equal(ids[: len(prompt)], prompt):
        raise CamfnError(
            f"words: the ids start with the {len(prompt)} tokens of the prompt: pass those of the answer alone, "
            f"ids[:, {len(prompt)}:]"
        )
    count = _vocabulary(model)
    out = [int(one) for one in ids if int(one) < 0 or (count is not None and int(one) >= count)]
    if out:
        known = "from 0" if count is None else f"of the model's vocabulary, from 0 to {count - 1}"
        raise CamfnError(f"words: expected ids {known}, got {out[0]}")
    held = placeholders(model)
    stray = [int(one) for one in ids if int(one) in held]
    if stray:
        raise CamfnError(
            f"words: the answer holds {stray[0]}, the id of a picture, for which there is no picture: generate with "
            f"suppress_tokens={sorted(held)}"
        )
    return ids


def _vocabulary(model: nn.Module) -> int | None:
    """Return how many words the model can both read and say, where it tells."""
    sizes: list[int] = []
    for name in ("get_input_embeddings", "get_output_embeddings"):
        get: Any = getattr(bare(model), name, None)
        weight = getattr(get() if callable(get) else None, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 2:
            sizes.append(weight.shape[0])
    return min(sizes, default=None)


def placeholders(model: nn.Module) -> set[int]:
    """Return the ids that stand for places of pictures and videos."""
    config = getattr(bare(model), "config", None)
    found = (getattr(config, key, None) for key in ("image_token_id", "video_token_id"))
    return {int(one) for one in found if one is not None}
