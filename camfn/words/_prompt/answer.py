"""The answer of a model: greedy ids from a private copy, so that the user's model keeps nothing."""

# tested in tests/words/prompt/test_answer.py

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ..._cut.graft import bare, graft
from ..._shared.checks import whole
from ..._shared.errors import ArgumentTypeError, CamfnError
from .prompt import OF_A_RUN, answer_ids, placeholders, prompt_ids


def answered(model: nn.Module, inputs: Mapping[str, Any], words: int | Any) -> Tensor:
    """Return the ids of an answer, (K,): the given ones, or the first `words` that the model says, greedily."""
    prompt = prompt_ids("words", inputs)
    if not isinstance(words, int) or isinstance(words, bool):
        return answer_ids(model, prompt, words)
    whole("words: number of words", words)
    return generated(model, inputs, words)


def generated(model: nn.Module, inputs: Mapping[str, Any], count: int) -> Tensor:
    """Let a private copy of the model answer greedily; it never says the id of a picture. The end token is left out."""
    plain = bare(model)
    # the modules of some families note positions of text while they generate
    copy: Any = graft(plain, {id(module) for module in plain.modules()}).root
    if not hasattr(copy, "generate"):
        raise ArgumentTypeError(
            f"words: {type(plain).__name__} does not generate: pass the ids of the answer in place of {count}"
        )
    own = getattr(plain, "generation_config", None)
    ends = getattr(own, "eos_token_id", None)
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    prompt = inputs["input_ids"]
    pad = getattr(own, "pad_token_id", None)
    options: dict[str, Any] = {"max_new_tokens": count, "do_sample": False, "num_beams": 1}
    options |= {"suppress_tokens": sorted(placeholders(plain)) or None, "eos_token_id": ends or None}
    options |= {"num_return_sequences": 1, "penalty_alpha": None, "stop_strings": None}
    options |= {"pad_token_id": pad if pad is not None else (ends or [0])[0], "return_dict_in_generate": False}
    given = {key: value for key, value in inputs.items() if key not in OF_A_RUN}
    _check_given(given)
    if own is not None:
        # among the model's own defaults, transformers merges these with greedy search, or refuses them beside it
        copy.generation_config = deepcopy(own)
        for option in ("num_return_sequences", "assistant_early_exit", "dola_layers"):
            setattr(copy.generation_config, option, None)
    with torch.inference_mode(False), torch.no_grad():
        ids = copy.generate(**given, **options)[0]
    new: Tensor = ids[prompt.shape[1] :] if len(ids) > prompt.shape[1] else ids
    while len(new) and int(new[-1]) in ends:
        new = new[:-1]
    if not len(new):
        raise CamfnError("words: the model ends its answer at once: pass the ids of the words to explain")
    return new


def _check_given(given: Mapping[str, Any]) -> None:
    """Refuse options of `generate` among the inputs, such as num_return_sequences: the answer is one, and greedy."""
    from transformers import GenerationConfig

    stray = sorted(given.keys() & GenerationConfig().to_dict().keys())
    if stray:
        raise CamfnError(
            f"words: inputs: {', '.join(stray)} is no input but an option of generate, and the answer of words is the "
            "greedy one: leave it out, or generate with it, and pass the ids of one answer in place of the number"
        )
