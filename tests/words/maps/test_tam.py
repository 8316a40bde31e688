"""TAM of words equals a hand-written version on the logits of all positions, raw and filtered."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, CaptureError, methods, words
from camfn.words._maps.tam import class_scores
from tests.nets.multimodal import Case, every_case, load
from tests.oracles import methods as filters
from tests.oracles import words as oracle


def by_hand(case: Case, ids: Tensor, asked: list[int] | None = None) -> tuple[list[Tensor], Tensor]:
    """Raw maps of each span, and the joint ranges."""
    model: Any = case.model
    spans = words.spans(model, case.inputs, tiles=case.tiles)
    with torch.no_grad():
        logits = model(**words.forced(model, case.inputs, ids)).logits[0]
    prompt = case.inputs["input_ids"][0].tolist()
    places = [at for span in spans for at in span.positions.tolist()]
    question = list(range(max(places) + 1, len(prompt))) if asked is None else asked
    maps, ranges = oracle.tam(logits, prompt, ids.tolist(), places, question)
    counts = [len(span.positions) for span in spans]
    each = torch.split(torch.tensor(maps, dtype=torch.float64), counts, 1)
    return [one.reshape(len(ids), *span.grid) for one, span in zip(each, spans)], torch.tensor(ranges)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), atol=2e-5, rtol=1e-3)


@every_case
def test_tam_is_the_equation(name: str) -> None:
    case = load(name)
    ids = words.explain(case.model, case.inputs, 4, tiles=case.tiles).ids
    raw = words.explain(case.model, case.inputs, ids, method=partial(methods.tam, filtered=False), tiles=case.tiles)
    filtered = words.explain(case.model, case.inputs, ids, tiles=case.tiles)
    expected, ranges = by_hand(case, ids)
    assert raw.scale is not None
    close(raw.scale, ranges)
    for found, smooth, maps in zip(raw.maps, filtered.maps, expected, strict=True):
        close(found, maps)
        height, width = maps.shape[-2:]
        for frame, own in zip(found.double().reshape(-1, height, width), smooth.reshape(-1, height, width)):
            torch.testing.assert_close(
                own.double(), torch.tensor(filters.rank_gaussian(frame.tolist())).double(), atol=1e-5, rtol=1e-3
            )


def test_words_that_come_again_are_not_explained_away() -> None:
    case = load("llava")
    ids = torch.tensor([5, 9, 5, 9, 6])  # words of the prompt among them
    found = words.explain(case.model, case.inputs, ids, method=partial(methods.tam, filtered=False))
    close(found.maps[0], by_hand(case, ids)[0][0])


def test_the_question_may_be_said() -> None:
    case = load("qwen2_vl")
    ids = torch.tensor([5, 9])
    end = case.inputs["input_ids"].shape[1]
    raw = partial(methods.tam, filtered=False)
    for question in ([end - 3, end - 2], range(end - 3, end - 1), slice(end - 3, -1)):
        found = words.explain(case.model, case.inputs, ids, method=raw, question=question)
        close(found.maps[0], by_hand(case, ids, [end - 3, end - 2])[0][0])
    none = words.explain(case.model, case.inputs, ids, method=raw, question=[])
    close(none.maps[0], by_hand(case, ids, [])[0][0])


def test_the_map_of_a_first_word_without_a_question_is_cam() -> None:
    case = load("llava")
    raw = partial(methods.tam, filtered=False)
    found = words.explain(case.model, case.inputs, [9], method=raw, question=[])
    model: Any = case.model
    kept: list[Tensor] = []
    hook = model.model.language_model.norm.register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.no_grad():
        model(**words.forced(model, case.inputs, [9]))
    hook.remove()
    states = kept[0][:, found.spans[0].positions].mT.reshape(1, -1, 4, 4)
    torch.testing.assert_close(found.maps[0], methods.cam(states, weights=model.lm_head.weight[9]).relu())


def test_a_word_of_several_tokens_has_the_maximum_of_their_maps() -> None:
    case = load("llava")
    raw = partial(methods.tam, filtered=False)
    each = words.explain(case.model, case.inputs, [5, 9, 6], method=raw)
    joined = words.explain(case.model, case.inputs, [5, 9, 6], method=raw, groups=[[0], [1, 2]])
    assert torch.equal(joined.maps[0], torch.stack([each.maps[0][0], each.maps[0][1:].amax(0)]))


def test_other_heads_give_the_scores_of_some_words_too() -> None:
    linear = nn.Linear(8, 50)
    states, classes = torch.randn(150, 8), torch.tensor([3, 49, 3])
    expected = class_scores(linear, states, classes)
    torch.testing.assert_close(class_scores(nn.Sequential(linear), states, classes), expected)


def test_no_logits_of_the_vocabulary_are_made_at_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    case = load("llava")
    model: Any = case.model
    rows: list[int] = []
    run = nn.Linear.forward

    def counted(self: nn.Linear, x: Tensor) -> Tensor:
        if self.weight is model.lm_head.weight:
            rows.append(x.shape[-2])
        return run(self, x)

    monkeypatch.setattr(nn.Linear, "forward", counted)
    words.explain(model, case.inputs, [5, 6])
    assert rows
    assert max(rows) <= 2


@pytest.mark.parametrize("question", [[0], [3], [500], slice(0, 4)])
def test_a_question_stands_behind_the_pictures(question: Any) -> None:
    case = load("llava")
    with pytest.raises(CamfnError, match="question: expected positions behind the last picture"):
        words.explain(case.model, case.inputs, [5], question=question)


def test_what_tam_does_not_read_is_refused() -> None:
    case = load("llava")
    with pytest.raises(CamfnError, match="leave out layer="):
        words.explain(case.model, case.inputs, [5], layer="projector")
    with pytest.raises(CamfnError, match="question= is of tam"):
        words.explain(case.model, case.inputs, [5], method="grad_cam", question=[20])
    with pytest.raises(CamfnError, match="bind filtered= alone"):
        words.explain(case.model, case.inputs, [5], method=partial(methods.tam, weights=torch.ones(32)))
    with pytest.raises(CamfnError, match="expected positions of the prompt"):
        words.explain(case.model, case.inputs, [5], question="why")  # type: ignore[arg-type]


def test_a_head_that_is_not_the_models_is_refused() -> None:
    case = load("llava")
    model: Any = case.model
    inner = model.lm_head.forward
    model.lm_head.register_forward_hook(lambda module, args, output: output.flip(-1) if output.ndim == 3 else None)
    assert inner is not None
    with pytest.raises(CaptureError, match="does not give its logits from the states"):
        words.explain(model, case.inputs, [5])


def test_scores_of_tam_are_not_negative_and_a_scale_scales_its_map() -> None:
    drawn = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    given: dict[str, Any] = {"weights": torch.tensor([1.0, -0.5, 2.0]), "likeness": torch.tensor([[1.0, 3.0]])}
    with pytest.raises(CamfnError, match="likeness: expected scores of 0 or more"):
        methods.tam(drawn[:1], context=drawn[1:3, 0][None], **{**given, "likeness": torch.tensor([[1.0, -3.0]])})
    expected = methods.tam(drawn[:1], context=drawn[1:3, 0][None], **given)
    for scale in (1e-30, 1e30):
        found = methods.tam(scale * drawn[:1], context=scale * drawn[1:3, 0][None], **given)
        torch.testing.assert_close(found / scale, expected, atol=1e-5, rtol=1e-4)


def test_a_head_that_is_more_than_its_weights_is_run() -> None:
    """An offloaded head has weights on meta, from which scores are nonsense; a hook may change what a head says."""
    accelerate = pytest.importorskip("accelerate")
    case, hooked = load("llava"), load("llava")
    expected = words.explain(case.model, case.inputs, [7, 8, 9]).maps[0]
    hooked.model.get_submodule("lm_head").register_forward_hook(lambda module, args, output: -output)
    head = case.model.get_submodule("lm_head")
    states, classes = torch.rand(5, 32), torch.tensor([7, 8])
    torch.testing.assert_close(
        class_scores(hooked.model.get_submodule("lm_head"), states, classes), -head(states)[:, classes]
    )
    offloaded = accelerate.cpu_offload(load("llava").model, execution_device="cpu")
    torch.testing.assert_close(words.explain(offloaded, case.inputs, [7, 8, 9]).maps[0], expected)
