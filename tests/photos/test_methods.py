"""Methods in words: options, groups, and functions of one's own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import methods
from camfn._photos.classes import ClassChoice
from camfn._photos.explain import explain_batch
from camfn._photos.layer import choose_layer
from camfn._photos.methods import MethodWords, from_groups, label_of, pick_method, pick_methods, read_methods, words_of
from camfn._shared.errors import UsageError
from camfn.catalogue import METHODS, info_of

MINE = """
import torch

def squared(activations, grads, outputs=None, *, power: int = 2):
    return (grads * activations).pow(power).sum(1)

def occluded(activations, grads=None, outputs=None, *, tail):
    return tail(activations)[:, None, None] * activations.mean(1)

def masked(activations, grads=None, *, forward, inputs):
    return forward(inputs)[:, None, None] + activations.sum(1)

def drawn(activations, *, generator):
    return torch.rand(activations[:, 0].shape, generator=generator)

def by_rows(activations, *, weights):
    return (activations * weights[:, :, None, None]).sum(1)

def rolled(records, scale=2.0):
    return records[0].probabilities.mean(1)[:, 0, 1:] * scale

def whole(model):
    return lambda inputs, target=None: inputs.mean(1)

def many(activations, grads):
    return activations

def stuck(activations, *, masks):
    return activations

number = 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(MINE)
    return f"{tmp_path}/mine.py"


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("grad_cam_plusplus:normalized=true", {"normalized": True}),
        ("grad_cam_plusplus:normalized=False", {"normalized": False}),
        ("score_cam:top_k=0.1,form=softmax", {"top_k": 0.1, "form": "softmax"}),
        ("score_cam:top_k=none", {"top_k": None}),
        ('kpca_cam: kernel="rbf" , gamma = 2', {"kernel": "rbf", "gamma": 2}),
        ("fem:k=1", {"k": 1}),
    ],
)
def test_options(words: str, options: dict[str, Any]) -> None:
    bound: Any = pick_method(words, 0)
    assert bound.keywords == options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("gradcam", "Did you mean 'grad_cam'"),
        ("grad_cam:top_k=1", "it has none"),
        ("score_cam:top=1", r"has no option 'top=1': its options are form.*Write score_cam:form=VALUE"),
        ("score_cam:0.1", "has no option '0.1'"),
        ("score_cam:top_k=0.1,top_k=0.2", "twice"),
        ("score_cam:top_k=0.1|0.2", "one value for each option"),
        ("score_cam:top_k=many", "expected a number or none"),
        ("score_cam:form=relu", "expected softmax or score"),
        ("grad_cam_plusplus:normalized=1", "expected true or false"),
        ("rise:samples=2.5", "expected an integer"),
        ("cheap", "expected one method"),
        ("guided_backprop", "camfn guided"),
        ("no_such_module:f", "No module named 'no_such_module'"),
    ],
)
def test_refused(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pick_method(words, 0)


def test_groups_are_one_meaning() -> None:
    maps = [row.name for row in METHODS if row.gives == "map" and row.kind != "attention"]
    assert [method.name for method in read_methods("all")] == maps == [method.name for method in read_methods("capped")]
    assert set(pick_methods("attention, fem", 0)) == {row.name for row in METHODS if row.kind == "attention"} | {"fem"}
    chosen = pick_methods("cheap score_cam:top_k=0.1|0.2,grad_cam", 0)
    assert {"score_cam:top_k=0.1", "score_cam:top_k=0.2", "cam"} <= set(chosen)
    assert from_groups("cheap, grad_cam") == set(pick_methods("cheap", 0)) - {"grad_cam"}
    with pytest.raises(UsageError, match="gives a picture"):
        pick_methods("deconvnet", 0)


NET = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
INPUTS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "needs", "explains_class"),
    [
        ("squared", {"gradients"}, True),
        ("occluded", {"tail"}, True),
        ("masked", {"forward"}, True),
        ("drawn", set(), False),
        ("by_rows", {"head"}, True),
    ],
)
def test_the_signature_says_what_a_function_asks_for(
    mine: str, name: str, needs: set[str], explains_class: bool
) -> None:
    method = pick_method(f"{mine}:{name}", 3)
    info = info_of(method)
    assert (info.name, info.kind, info.explains_class) == (name, "layer", explains_class)
    assert set(info.needs) == needs
    assert info.draws == (name == "drawn")
    layer = choose_layer(NET, INPUTS, "0", method)
    for photo in explain_batch(method, NET, layer, INPUTS, ClassChoice(None, 2 if explains_class else 1)):
        assert all(cam.shape == (6, 6) and cam.isfinite().all() for cam in photo.cams)
        assert (photo.scores[0] is None) == (not explains_class) == (photo.classes[0] is None)


def test_rows_of_the_head_are_those_of_cam(mine: str) -> None:
    layer = choose_layer(NET, INPUTS, "0")
    ours = explain_batch(pick_method(f"{mine}:by_rows", 0), NET, layer, INPUTS, ClassChoice(None, 3))
    for one, other in zip(ours, explain_batch(methods.cam, NET, layer, INPUTS, ClassChoice(None, 3)), strict=True):
        torch.testing.assert_close(torch.stack(one.cams), torch.stack(other.cams))


def test_functions_of_attention_and_of_a_network(mine: str) -> None:
    assert info_of(pick_method(f"{mine}:rolled:scale=3.0", 0)).kind == "attention"
    whole = pick_method(f"{mine}:whole", 0)
    assert (info_of(whole).kind, info_of(whole).takes_layer) == ("network", False)
    (photo, _) = explain_batch(whole, NET, None, INPUTS, ClassChoice(1))
    assert torch.equal(photo.cams[0], INPUTS[0].mean(0))


def test_functions_that_are_no_methods_are_refused(mine: str) -> None:
    for words, message in (
        (f"{mine}:number", "expected a function"),
        (f"{mine}:stuck", "it needs masks"),
        (f"{mine}:squared:power=two", "power=two: expected an integer"),
        (f"{mine}:squared:cube=2", "its options are power"),
    ):
        with pytest.raises(UsageError, match=message):
            pick_method(words, 0)
    layer = choose_layer(NET, INPUTS, "0")
    with pytest.raises(UsageError, match=r"expected the raw map of each photo, floats of shape \(2, h, w\)"):
        explain_batch(pick_method(f"{mine}:many", 0), NET, layer, INPUTS, ClassChoice(1))


BY_NAME = """
import torch

def tail_by_place(activations, tail):
    assert callable(tail)
    return activations.mean(1)

def rows_by_place(activations, weights):
    return torch.einsum("bchw,bc->bhw", activations, weights)

def inputs_by_place(activations, grads, inputs):
    assert inputs.shape[1] == 3
    return (activations * grads).sum(1)

def drawn_by_place(activations, generator):
    return torch.rand(activations[:, 0].shape, generator=generator)

def inputs_alone(*, inputs):
    return inputs.mean(1)

def asks(activations, grads, *, gain: float):
    return gain * (activations * grads).sum(1)

def late(activations, tail, grads):
    return activations.mean(1)

def takes_six(activations, grads, outputs, d, e, f):
    return activations.mean(1)

def takes_nothing():
    return torch.zeros(2, 6, 6)

def named(activations, *, grads):
    return (activations * grads).sum(1)

def no_explainer(model):
    return 3

def at_once(model, images, target):
    return images.mean(1)

def without_target(model):
    return lambda inputs: inputs.mean(1)

def no_map(model):
    return lambda inputs, target=None: inputs
"""


@pytest.fixture
def by_name(tmp_path: Path) -> str:
    file = tmp_path / "by_name.py"
    file.write_text(BY_NAME)
    return str(file)


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        ("tail_by_place", {"tail"}),
        ("rows_by_place", {"head"}),
        ("inputs_by_place", {"gradients", "forward"}),
        ("drawn_by_place", set()),
        ("inputs_alone", {"forward"}),
        ("asks:gain=2", {"gradients"}),
    ],
)
def test_what_is_given_by_name_needs_no_star(by_name: str, words: str, needs: set[str]) -> None:
    method = pick_method(f"{by_name}:{words}", 3)
    assert set(info_of(method).needs) == needs
    layer = choose_layer(NET, INPUTS, "0", method)
    assert len(explain_batch(method, NET, layer, INPUTS, ClassChoice(1))) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("asks", r"it needs gain, which no run binds: write .*:asks:gain=VALUE"),
        ("late", "late takes grads behind tail: activations, grads and outputs come first"),
        ("takes_nothing", "takes_nothing takes nothing by position"),
        ("takes_six", "takes_six takes d, e, f by position behind the first three"),
        ("named", r"write def named\(activations, grads, outputs\)"),
    ],
)
def test_signatures_that_nothing_fills_are_refused(by_name: str, words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pick_method(f"{by_name}:{words}", 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("no_explainer", "expected an explainer, a function"),
        (
            "at_once",
            r"takes \(model, images, target\), and camfn gives it model alone: expected a",
        ),
        ("without_target", r"a function \(inputs\) for the model: expected an explainer"),
        ("no_map", r"expected the raw map of each photo, floats of shape \(2, h, w\)"),
    ],
)
def test_what_is_no_explainer_is_refused(by_name: str, words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        explain_batch(pick_method(f"{by_name}:{words}", 0), NET, None, INPUTS, ClassChoice(1))


def test_names_of_files(mine: str) -> None:
    assert label_of("grad_cam") == "grad_cam"
    assert label_of(f"{mine}:squared:power=3") == "squared-power=3"
    assert label_of("score_cam:form='softmax',top_k=0.1") == "score_cam-form=softmax,top_k=0.1"


def test_functions_as_words() -> None:
    def own(activations: Tensor, grads: Tensor, *, k: float = 1.0) -> Tensor:
        return (k * activations * grads).sum(1)

    assert words_of(methods.grad_cam) == MethodWords("grad_cam")
    assert (
        str(words_of(partial(partial(methods.score_cam, top_k=0.1), form="score")))
        == "score_cam:form='score',top_k=0.1"
    )
    assert str(words_of(partial(own, k=2.0))) == "own:k=2.0"
    for function, message in (
        (lambda activations, grads: grads.sum(1), "a name of its own"),
        (partial(methods.rise, masks=torch.ones(1)), "masks cannot be written"),
        (partial(methods.rise, generator=torch.Generator()), "generator cannot be written"),
    ):
        with pytest.raises(UsageError, match=message):
            words_of(function)


def test_a_file_without_a_function_is_told_what_is_missing() -> None:
    """A file is no misspelt method."""
    with pytest.raises(UsageError, match=r"say which function of the file, as in net/mine\.py:my_cam"):
        pick_method("net/mine.py", 0)


def test_several_methods_where_one_is_expected() -> None:
    """A list is no misspelt method either."""
    with pytest.raises(
        UsageError, match="'fem, layer_cam' are several methods, and one is expected here: camfn compare"
    ):
        pick_method("fem, layer_cam", 0)
