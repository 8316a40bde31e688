"""Methods on attention, word by word, equal eager attention's matrices and plain autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from camfn import CamfnError, CaptureError, attention, words
from camfn.words._maps.layers import decoder_name
from tests.nets.multimodal import Case, load
from tests.oracles import words as oracle

NAMES = (
    "llava",
    "qwen2_vl, two pictures",
    "paligemma",
    "gemma3",
    "smolvlm, tiles",
    "mistral3",
    "llava_next, two sizes",
)
every_name = pytest.mark.parametrize(
    "name", [*NAMES[:4], *(pytest.param(name, marks=pytest.mark.sweep) for name in NAMES[4:])]
)
IDS = torch.tensor([5, 9, 6])


class Eager:
    """An answer forced through a model whose attention is written out."""

    def __init__(self, case: Case) -> None:
        self.model = cast(Any, case.model)
        self.model.set_attn_implementation("eager")
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)
        self.start = case.inputs["input_ids"].shape[1] - 1
        self.decoder = cast(Any, self.model.get_submodule(decoder_name(self.model)))
        self.tokens: list[Tensor] = []
        hooks = [
            block.register_forward_hook(
                lambda module, args, output: self.tokens.append(output if isinstance(output, Tensor) else output[0])
            )
            for block in self.decoder.layers
        ]
        outputs = self.model(**words.forced(self.model, case.inputs, IDS), output_attentions=True)
        for hook in hooks:
            hook.remove()
        self.attention: Sequence[Tensor] = outputs.attentions
        self.scores = self.said(outputs.logits[0, self.start : self.start + len(IDS)])

    def said(self, logits: Tensor) -> Tensor:
        found: Tensor = logits.log_softmax(-1)[torch.arange(len(IDS)), IDS]
        return found


def flat(case: Case, found: words.Explained) -> Tensor:
    return torch.cat([maps.flatten(1) for maps in found.maps], 1)


def places(found: words.Explained) -> Tensor:
    return torch.cat([span.positions for span in found.spans])


def explained(case: Case, method: str, **options: Any) -> words.Explained:
    return words.explain(case.model, case.inputs, IDS, method=method, tiles=case.tiles, **options)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), atol=1e-5 * float(expected.abs().max()), rtol=1e-3)


@every_name
def test_raw_attention_is_the_row_of_the_token_that_predicts_the_word(name: str) -> None:
    case = load(name)
    found = explained(case, "raw_attention")
    first = explained(case, "raw_attention", layer=f"{decoder_name(case.model)}.layers.0")
    eager = Eager(load(name))
    for one, layer in ((found, -1), (first, 0)):
        rows = eager.attention[layer][0].mean(0)[eager.start : eager.start + len(IDS)]
        close(flat(case, one), rows[:, places(found)].detach())
    torch.testing.assert_close(found.log_probabilities, eager.scores.detach(), atol=1e-4, rtol=1e-4)


@every_name
def test_gradient_rollout_is_the_row_of_the_decoder_form(name: str) -> None:
    case = load(name)
    found = explained(case, "gradient_rollout")
    eager = Eager(load(name))
    for k in range(len(IDS)):
        grads = torch.autograd.grad(eager.scores[k], eager.attention, retain_graph=True)
        row = oracle.decoder_relevance([a.detach() for a in eager.attention], grads, eager.start + k)
        close(flat(case, found)[k], row[places(found)])


@every_name
def test_le_grad_is_each_layers_own_score_and_one_backward_gives_all_words(name: str) -> None:
    case = load(name)
    found = explained(case, "le_grad")
    eager = Eager(load(name))
    for k in range(len(IDS)):
        query, total = eager.start + k, torch.zeros(len(places(found)), dtype=torch.float64)
        for tokens, a in zip(eager.tokens, eager.attention, strict=True):
            score = eager.model.get_output_embeddings()(eager.decoder.norm(tokens))[0, query].log_softmax(-1)[IDS[k]]
            (grad,) = torch.autograd.grad(score, a, retain_graph=True)
            total += grad[0].double().clamp(min=0).mean(0)[query, places(found)] / len(eager.attention)
        close(flat(case, found)[k], total)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl, two pictures"])
@pytest.mark.parametrize("method", ["grad_eclip", "attention_rollout"])
def test_other_methods_are_those_of_whole_records(name: str, method: str) -> None:
    case = load(name)
    found = explained(case, method)
    full = words.forced(case.model, case.inputs, IDS)
    start = case.inputs["input_ids"].shape[1] - 1
    layers = f"{decoder_name(case.model)}.layers.3" if method == "grad_eclip" else decoder_name(case.model)
    for k, word in enumerate(IDS.tolist()):

        def score(outputs: Any, k: int = k, word: int = word) -> Tensor:
            found: Tensor = outputs.logits[:, start + k].log_softmax(-1)[:, word]
            return found

        records = attention.capture_attention(case.model, layers)(full, score).records
        run = attention.METHODS[method]
        close(flat(case, found)[k], run(records, positions=places(found), query=start + k)[0])


def test_words_of_several_tokens_sum_gradients_and_average_attention() -> None:
    case = load("llava")
    for method in ("gradient_rollout", "le_grad", "grad_eclip", "raw_attention"):
        each = explained(case, method).maps[0]
        joined = explained(case, method, groups=[[0], [1, 2]]).maps[0]
        both = each[1] + each[2]
        torch.testing.assert_close(joined, torch.stack([each[0], both / 2 if method == "raw_attention" else both]))


@pytest.mark.parametrize("layer", ["tower", "projector", "model.vision_tower", "model.language_model.layers.9"])
def test_attention_is_that_of_the_language_model(layer: str) -> None:
    case = load("llava")
    with pytest.raises(CamfnError, match=r"that of the language model|has no layer|no attention"):
        explained(case, "raw_attention", layer=layer)


def test_a_pattern_names_blocks() -> None:
    case = load("llava")
    some = explained(case, "le_grad", layer="model.language_model.layers.[01]")
    assert not torch.equal(some.maps[0], explained(case, "le_grad").maps[0])
    with pytest.raises(CaptureError):
        explained(case, "le_grad", layer="model.language_model.rotary_emb")
