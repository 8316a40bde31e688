"""Maps of words equal the equations on what a plain hook and autograd give, word by word."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import CamfnError, attention, methods, words
from camfn.words._maps.layers import maps_of, named_layer
from camfn.words._prompt.answer import generated
from camfn.words._prompt.spans import pieces
from tests.nets.multimodal import Case, every_case, load


def hooked(case: Case, layer: str, ids: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    """Activations of a layer, their gradients for each token of an answer, and its log-probabilities, by autograd."""
    model: Any = case.model
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    kept: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(
        lambda module, args, output: kept.append(output if isinstance(output, Tensor) else output[0]), prepend=True
    )
    logits = model(**words.forced(model, case.inputs, ids)).logits[0].log_softmax(-1)
    hook.remove()
    start = case.inputs["input_ids"].shape[1] - 1
    scores = torch.stack([logits[start + k, one] for k, one in enumerate(ids.tolist())])
    grads = [torch.autograd.grad(score, kept[0], retain_graph=True)[0] for score in scores]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return kept[0].detach(), grads, scores.detach()


def maps_by_hand(activations: Tensor, grads: list[Tensor], span: words.Span, method: str) -> Tensor:
    """Grad-CAM, LayerCAM or HiResCAM over the places of one span, in float64, place by place, without outer ReLU."""
    places = [activations[0, at].double() for at in span.positions.tolist()]
    maps = []
    for grad in grads:
        each = [grad[0, at].double() for at in span.positions.tolist()]
        if method == "grad_cam":
            weights = sum(each) / len(each)
            values = [(weights * place).sum() for place in places]
        elif method == "hires_cam":
            values = [(g * place).sum() for g, place in zip(each, places)]
        else:
            values = [(g.relu() * place).sum() for g, place in zip(each, places)]
        maps.append(torch.stack(values).reshape(span.grid))
    return torch.stack(maps).float()


@every_case
def test_grad_cam_of_words_at_a_layer_of_the_language_model_is_the_equation(name: str) -> None:
    case = load(name)
    ids = generated(case.model, case.inputs, 3)
    layer = str(named_layer(case.model, "language"))
    found = words.explain(case.model, case.inputs, ids, method="grad_cam", layer="language", tiles=case.tiles)
    activations, grads, scores = hooked(case, layer, ids)
    torch.testing.assert_close(found.log_probabilities, scores, atol=1e-5, rtol=1e-5)
    for span, maps in zip(found.spans, found.maps, strict=True):
        expected = maps_by_hand(activations, grads, span, "grad_cam")
        torch.testing.assert_close(maps, expected, atol=1e-5 * float(expected.abs().max()) + 1e-9, rtol=1e-3)


@pytest.mark.parametrize("method", ["hires_cam", "layer_cam"])
@pytest.mark.parametrize("name", ["llava, two pictures", "pixtral", "qwen2_vl"])
def test_other_methods_are_their_equations(name: str, method: str) -> None:
    case = load(name)
    ids = generated(case.model, case.inputs, 2)
    layer = str(named_layer(case.model, "language"))
    found = words.explain(case.model, case.inputs, ids, method=method, layer=layer, tiles=case.tiles)
    activations, grads, _ = hooked(case, layer, ids)
    for span, maps in zip(found.spans, found.maps, strict=True):
        expected = maps_by_hand(activations, grads, span, method)
        torch.testing.assert_close(maps, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("llava", "tower"), ("llava", "projector"), ("qwen2_5_vl", "tower"), ("smolvlm, tiles", "tower")],
)
def test_gradients_of_towers_are_those_of_a_plain_hook(name: str, layer: str) -> None:
    case = load(name)
    ids = generated(case.model, case.inputs, 2)
    dotted = str(named_layer(case.model, layer))
    kept: list[Tensor] = []

    def sums(activations: Tensor, grads: Tensor, outputs: Any = None) -> Tensor:
        kept.append(grads)
        return grads.sum(1)

    words.explain(case.model, case.inputs, ids, method=sums, layer=layer, tiles=case.tiles)
    _, grads, _ = hooked(case, dotted, ids)
    found = pieces(case.model, case.inputs, case.tiles)
    to_maps = maps_of(case.model, dotted, found, case.inputs, grads[0].shape)
    expected = [to_maps(row)[n] for n in range(len(found)) for row in grads]
    for one, other in zip(kept, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_other_pictures_and_text_do_not_enter_the_weights() -> None:
    case = load("llava, two pictures")
    found = words.explain(case.model, case.inputs, 2, method="grad_cam", layer="language")
    alone = words.explain(
        case.model, case.inputs, found.ids, method="grad_cam", layer="language", spans=found.spans[1:]
    )
    assert torch.equal(alone.maps[0], found.maps[1])


def test_results_keep_no_graph() -> None:
    case = load("llava")
    for parameter in case.model.parameters():
        parameter.requires_grad_(True)
    for method in ("tam", "grad_cam", *attention.METHODS):
        found = words.explain(case.model, case.inputs, [5, 6], method=method)
        kept = [*found.maps, found.log_probabilities, *([] if found.scale is None else [found.scale])]
        assert not any(one.requires_grad for one in kept), method
    dropped, carried = words.drops(case.model, case.inputs, [5, 6]), words.carried(case.model, case.inputs, [5, 6])
    assert not any(one.requires_grad for one in (*dropped.maps, dropped.log_probabilities, *carried))


def test_tokens_joined_to_words_have_the_map_of_their_sum() -> None:
    case = load("qwen2_vl")
    ids = generated(case.model, case.inputs, 3)
    joined = words.explain(case.model, case.inputs, ids, method="hires_cam", groups=[[0], [1, 2]])
    each = words.explain(case.model, case.inputs, ids, method="hires_cam")
    assert joined.maps[0].shape[0] == 2
    torch.testing.assert_close(joined.maps[0][1], each.maps[0][1] + each.maps[0][2])
    assert torch.equal(joined.log_probabilities, each.log_probabilities)


def test_the_order_of_the_inputs_does_not_matter() -> None:
    for name in ("llava_next", "qwen2_vl", "internvl, tiles"):
        case = load(name)
        for layer in ("tower", "language"):
            one = words.explain(case.model, case.inputs, 2, method="grad_cam", layer=layer, tiles=case.tiles)
            turned = dict(reversed(list(case.inputs.items())))
            other = words.explain(case.model, turned, 2, method="grad_cam", layer=layer, tiles=case.tiles)
            assert all(torch.equal(a, b) for a, b in zip(one.maps, other.maps, strict=True))


def test_logits_of_the_answer_alone_are_made() -> None:
    case = load("llava")
    widths: list[int] = []
    model: Any = case.model
    model.lm_head.register_forward_hook(lambda module, args, output: widths.append(output.shape[1]))
    words.explain(model, case.inputs, [5, 6], method="grad_cam", layer="language")
    assert widths == [2]


def test_a_function_of_ones_own_is_a_method_and_others_are_refused() -> None:
    case = load("gemma3")

    def norms(activations: Tensor, grads: Tensor, outputs: Any = None) -> Tensor:
        return grads.square().sum(1)

    assert words.explain(case.model, case.inputs, 1, method=norms).maps[0].shape == (1, 2, 2)
    for method in ("ablation_cam", "score_cam", "cam", "full_grad", methods.random_cam, "rise"):
        with pytest.raises(CamfnError, match=r"words\.explain: .* needs more"):
            words.explain(case.model, case.inputs, 1, method=method)
    with pytest.raises(CamfnError, match="Did you mean"):
        words.explain(case.model, case.inputs, 1, method="gradcam")


@pytest.mark.parametrize("groups", [[], [[]], [[0], [3]], [[-1]], [[0, 0]], [[0.5]], [["a"]], [0, 1], "ab", 3])
def test_groups_are_checked(groups: Any) -> None:
    case = load("llava")
    with pytest.raises(CamfnError, match="groups: expected the tokens of each word, each once, from 0 to 2"):
        words.explain(case.model, case.inputs, [5, 6, 7], groups=groups)


def test_spans_of_the_caller_are_checked() -> None:
    case = load("llava")
    wrong = [
        words.Span(0, "image", torch.arange(4), (2, 3)),
        words.Span(0, "image", torch.arange(400, 404), (2, 2)),
        words.Span(0, "image", [0, 1], (1, 2)),  # type: ignore[arg-type]
        words.Span(0, "image", torch.tensor([0.0, 1.0]), (1, 2)),
        words.Span(0, "image", torch.zeros(0, dtype=torch.long), (0, 1)),
        words.Span(0, "image", torch.zeros(2, dtype=torch.long), (1, 2)),
        "image",
    ]
    for span in wrong:
        with pytest.raises(CamfnError, match="spans: expected"):
            words.explain(case.model, case.inputs, [5], spans=[span])  # type: ignore[list-item]
    with pytest.raises(CamfnError, match="at least one"):
        words.explain(case.model, case.inputs, [5], spans=[])


def test_what_cannot_be_a_method_a_layer_or_an_answer_is_refused() -> None:
    case = load("llava")

    def one(activations: Tensor) -> Tensor:
        return activations

    wrong: list[tuple[Any, str]] = [
        (lambda activations, grads, outputs: activations, "returned a tensor"),
        (lambda activations, grads, outputs: None, "returned a NoneType"),
        (one, "expected a function"),
    ]
    for method, text in wrong:
        with pytest.raises(CamfnError, match=text):
            words.explain(case.model, case.inputs, [5], method=method)
    with pytest.raises(CamfnError, match="layer '' returns"):
        words.explain(case.model, case.inputs, [5], method="grad_cam", layer="")
    for tiles in (3, [(1,)], [(0, 2)], [(1.5, 1)], ["ab"]):
        with pytest.raises(CamfnError, match="tiles: expected"):
            words.explain(case.model, case.inputs, [5], tiles=tiles)  # type: ignore[arg-type]
    for question in (["a"], [17.5], [[17]]):
        with pytest.raises(CamfnError, match="question: expected"):
            words.explain(case.model, case.inputs, [5], question=question)  # type: ignore[arg-type]
    with pytest.raises(CamfnError, match="vocabulary, from 0 to 119, got 120"):
        words.explain(case.model, case.inputs, [5, 120])


@pytest.mark.parametrize("method", ["tam", "grad_cam", "raw_attention", "le_grad"])
def test_logits_of_nan_are_refused(method: str) -> None:
    case = load("llava")
    inputs = {**case.inputs, "pixel_values": case.inputs["pixel_values"] * float("nan")}
    for call in (
        lambda: words.explain(case.model, inputs, [5], method=method),
        lambda: words.carried(case.model, inputs, [5]),
    ):
        with pytest.raises(CamfnError, match="are NaN"):
            call()


def test_inference_mode_changes_nothing() -> None:
    case = load("llava")
    for method in ("tam", "grad_cam", "gradient_rollout", "le_grad"):
        expected = words.explain(case.model, case.inputs, [5, 6], method=method).maps[0]
        with torch.inference_mode():
            ids = torch.tensor([5, 6])
            found = words.explain(case.model, case.inputs, ids, method=method).maps[0]
        assert torch.equal(found, expected), method


def test_options_of_a_run_among_the_inputs_change_nothing() -> None:
    case = load("llava")
    expected = words.explain(case.model, case.inputs, 2)
    found = words.explain(case.model, {**case.inputs, "return_dict": False, "output_attentions": True}, 2)
    assert torch.equal(found.maps[0], expected.maps[0])


def test_a_wrapped_model_is_its_own() -> None:
    case = load("llava")
    wrapped = torch.nn.DataParallel(case.model)
    assert torch.equal(
        words.spans(wrapped, case.inputs)[0].positions, words.spans(case.model, case.inputs)[0].positions
    )
    with pytest.raises(CamfnError, match="the id of a picture"):
        words.forced(wrapped, case.inputs, [98])
    hidden = words.hide(wrapped, case.inputs, [torch.ones(2, 2, dtype=torch.bool)])
    assert not torch.equal(hidden["pixel_values"], case.inputs["pixel_values"])


def test_two_runs_are_not_compared_in_training_mode() -> None:
    case = load("llava")
    case.model.train()
    halves = torch.tensor([[[True, False]], [[False, True]]])
    for call in (
        lambda: words.explain(case.model, case.inputs, [5]),
        lambda: words.explain(case.model, case.inputs, 2, method="layer_cam"),
        lambda: words.carried(case.model, case.inputs, [5]),
        lambda: words.drops(case.model, case.inputs, [5]),
        lambda: words.region_curves(case.model, case.inputs, [5], halves, torch.rand(4, 4)),
    ):
        with pytest.raises(CamfnError, match="in training mode"):
            call()
    assert case.model.training
