"""The answer that is explained is the one that the model generates, and its scores are those of generation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from camfn import CamfnError, words
from camfn.words._prompt.answer import answered, generated
from tests.nets.multimodal import every_case, load


@every_case
@pytest.mark.parametrize(
    "method", ["grad_cam", *(pytest.param(name, marks=pytest.mark.sweep) for name in ("tam", "raw_attention"))]
)
def test_scores_of_one_forward_are_those_of_generation(name: str, method: str) -> None:
    case = load(name)
    model: Any = case.model
    banned = [
        one for one in (98, 97) if one in (model.config.image_token_id, getattr(model.config, "video_token_id", 0))
    ]
    said = copy.deepcopy(model).generate(
        **case.inputs, max_new_tokens=4, do_sample=False, suppress_tokens=banned, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    new = said.sequences[0, case.inputs["input_ids"].shape[1] :]
    assert generated(model, case.inputs, 4).tolist() == new.tolist()
    logits = torch.stack(said.logits, 1)[0].log_softmax(-1)
    expected = logits[torch.arange(4), new]
    found = words.explain(model, case.inputs, new, method=method, tiles=case.tiles).log_probabilities
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_nothing_is_left_in_the_model() -> None:
    case = load("qwen2_vl")  # whose forward notes positions of text
    before = {name: dict(module.__dict__) for name, module in case.model.named_modules()}
    state = torch.random.get_rng_state()
    words.explain(case.model, case.inputs, 2, method="grad_cam")
    words.explain(case.model, case.inputs, 2)
    assert torch.equal(torch.random.get_rng_state(), state)
    after = {name: dict(module.__dict__) for name, module in case.model.named_modules()}
    assert before.keys() == after.keys()
    for name, held in before.items():
        assert all(after[name][key] is value for key, value in held.items())
        assert held.keys() == after[name].keys()


def test_the_end_of_an_answer_is_left_out() -> None:
    case = load("llava")
    model: Any = case.model
    said = generated(model, case.inputs, 6).tolist()
    end = next(i for i, one in enumerate(said) if one != said[0])
    model.generation_config.eos_token_id = [said[end]]
    assert generated(model, case.inputs, 6).tolist() == said[:end]
    model.generation_config.eos_token_id = said[0]
    with pytest.raises(CamfnError, match="ends its answer at once"):
        generated(model, case.inputs, 4)


def test_a_number_of_words_is_at_least_one() -> None:
    case = load("llava")
    for words_said in (0, -1):
        with pytest.raises(CamfnError, match="number of words"):
            answered(case.model, case.inputs, words_said)
    with pytest.raises(CamfnError, match="ids of one answer"):
        answered(case.model, case.inputs, True)


def test_a_model_that_does_not_generate_asks_for_ids() -> None:
    with pytest.raises(CamfnError, match="does not generate: pass the ids of the answer in place of 3"):
        answered(nn.Linear(2, 2), load("llava").inputs, 3)


def test_one_answer_is_explained_and_no_option_of_generate_is_an_input() -> None:
    case = load("llava")
    model: Any = case.model
    both = torch.tensor([[5, 6], [7, 8]])  # as num_return_sequences=2 gives them
    for call in (words.forced, words.explain, words.carried, words.drops):
        with pytest.raises(CamfnError, match=r"got 2, as generate\(num_return_sequences=2\).*ids\[n, P:\]"):
            call(model, case.inputs, both)
    model.generation_config.num_return_sequences = 2
    assert generated(model, case.inputs, 2).shape == (2,)
    assert model.generation_config.num_return_sequences == 2
    for option in ("num_return_sequences", "max_new_tokens", "temperature"):
        with pytest.raises(CamfnError, match=f"{option} is no input but an option of generate"):
            words.explain(model, {**case.inputs, option: 2}, 2)
