"""Values: what is called later prints like its call, compares by what it holds, pickles, copies and is replaced."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from camfn import (
    CamfnError,
    Checked,
    Layout,
    capture,
    capture_each,
    capture_levels,
    capture_many,
    explainer,
    network,
    observe,
    resume,
    transforms,
)
from camfn._shared.value import Value
from camfn.adapters import LayerAttribution, quantus_explain
from camfn.attention import (
    attention_explainer,
    attention_rollout,
    capture_attention,
    gradient_rollout,
    le_grad,
    observe_attention,
)
from camfn.layout import channels_last, frames, packed, spans, tiles, tokens, unrolled, windows
from camfn.methods import ablation_cam, grad_cam, score_cam
from camfn.targets import (
    BoxHead,
    Score,
    as_score,
    binary_score,
    box_score,
    candidates_head,
    class_log_probability,
    class_probability,
    class_score,
    contrast,
    detection_similarity,
    detr_head,
    known_head,
    mask_score,
    overlap_score,
    pin,
    regression,
    rest,
    several,
    similarity,
    token_log_probability,
    torchvision_head,
    yolo_head,
)
from tests.nets.small import images
from tests.nets.transformer import Transformer, transformer

MODULES = ("camfn", "targets", "layout", "adapters", "attention", "transforms", "network", "factorize", "image")


def corners_of(outputs: Tensor) -> Tensor:
    return outputs[..., :4]


def scores_of(outputs: Tensor) -> Tensor:
    return outputs[..., 4:7]


def objectness_of(outputs: Tensor) -> Tensor:
    return outputs[..., 7]


HEAD = BoxHead(corners_of, scores_of, objectness_of)
"""Reads outputs (B, N, 8): corners, three classes, objectness."""


class Net(nn.Module):
    """A convolution and a linear head whose outputs have any shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Linear(6 * 36, int(torch.tensor(shape).prod()))
        self.shape = shape
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.conv(x).relu().flatten(1))
        return y.unflatten(1, self.shape) if len(self.shape) > 1 else y  # type: ignore[no-untyped-call]


class Detector(Net):
    """Ten boxes within 4 by 4."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        center, half = y[..., :2].sigmoid() * 4, y[..., 2:4].sigmoid() * 1.5
        return torch.cat([center - half, center + half, y[..., 4:].sigmoid()], -1)


CLASSES, DENSE, TEXT, BOXED = Net(5), Net(4, 3, 3), Net(4, 6), Detector(10, 8)
TRANSFORMER = transformer()

EACH = torch.arange(4)
BOXES = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [0.5, 0, 4, 3], [1, 2, 3, 4]])
UNEVEN = torch.tensor([-1.0, 0.0, 0.5, 2.0])

# the text of a value, how to make it, and another value of its class
VALUES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "class_score(3)": (lambda: class_score(3), lambda: class_score([3, 3])),
    "class_score()": (lambda: class_score(None), lambda: class_score(0)),
    "class_probability((2, 0))": (lambda: class_probability([2, 0]), lambda: class_probability([0, 2])),
    "class_log_probability(tensor([1, 2]))": (
        lambda: class_log_probability(torch.tensor([1, 2])),
        lambda: class_log_probability(torch.tensor([1, 3])),
    ),
    "rest(1)": (lambda: rest(1), lambda: rest()),
    "binary_score(False)": (lambda: binary_score(positive=False), lambda: binary_score()),
    "contrast(0, (1, 2), gamma=0.5)": (lambda: contrast(0, [1, 2], gamma=0.5), lambda: contrast(0, [1, 2])),
    "contrast(count=2, weighted=True)": (lambda: contrast(count=2, weighted=True), lambda: contrast(count=2)),
    "class_score(3) - 0.5 * class_score(4)": (
        lambda: class_score(3) - 0.5 * class_score(4),
        lambda: class_score(3) - 0.6 * class_score(4),
    ),
    "-(class_score(1) + class_score(2))": (
        lambda: -(class_score(1) + class_score(2)),
        lambda: -(class_score(1) + class_score(3)),
    ),
    "(2 * class_probability(1)).log()": (
        lambda: (2 * class_probability(1)).log(),
        lambda: class_probability(1).log(),
    ),
    "as_score([class_score(1), rest(2)])": (
        lambda: as_score([1, rest(2)]),
        lambda: as_score([2, rest(2)]),
    ),
    "Score(partial(sum, dim=1))": (lambda: Score(partial(torch.sum, dim=1)), lambda: Score(torch.sum)),
    "mask_score(2, 'predicted')": (lambda: mask_score(2, "predicted"), lambda: mask_score(2)),
    "mask_score(region=<tensor (3, 3)>)": (
        lambda: mask_score(region=torch.eye(3)),
        lambda: mask_score(region=torch.zeros(3, 3)),
    ),
    "similarity(tensor([0., 1.]))": (
        lambda: similarity(torch.tensor([0.0, 1.0])),
        lambda: similarity(torch.tensor([0.0, 1.0], dtype=torch.float64)),
    ),
    "regression(1, sign=-1)": (lambda: regression(1, sign=-1), lambda: regression(1)),
    "several((0, 2))": (lambda: several([0, 2]), lambda: several()),
    "several(threshold=0.5)": (lambda: several(threshold=0.5), lambda: several()),
    "token_log_probability((1, 2), position=-1)": (
        lambda: token_log_probability([1, 2], position=-1),
        lambda: token_log_probability([1, 2]),
    ),
    "box_score((0, 0, 2, 3), 1, head=detr_head(), part='width')": (
        lambda: box_score([0, 0, 2, 3], 1, head=detr_head(), part="width"),
        lambda: box_score([0, 0, 2, 3], 1, head=detr_head()),
    ),
    "overlap_score(2, head=torchvision_head(), size=(4, 4))": (
        lambda: overlap_score(2, head=torchvision_head(), size=(4, 4)),
        lambda: overlap_score(2, head=torchvision_head()),
    ),
    "detection_similarity(tensor([0., 0., 1., 1.]), head=torchvision_head(4))": (
        lambda: detection_similarity(torch.tensor([0.0, 0, 1, 1]), head=torchvision_head(4)),
        lambda: detection_similarity(torch.tensor([0.0, 0, 1, 1]), head=torchvision_head(5)),
    ),
    "BoxHead(corners_of, scores_of, fixed=False)": (
        lambda: BoxHead(corners_of, scores_of, fixed=False),
        lambda: BoxHead(corners_of, scores_of),
    ),
    "torchvision_head(4)": (lambda: torchvision_head(4), lambda: torchvision_head()),
    "detr_head()": (lambda: detr_head(), lambda: torchvision_head()),
    "detr_head('sigmoid', fixed=True, count=5, phrases=((1, 2), (4,)))": (
        lambda: detr_head("sigmoid", fixed=True, count=5, phrases=[[1, 2], [4]]),
        lambda: detr_head("softmax", fixed=True, count=5),
    ),
    "yolo_head(strides=(8, 16))": (lambda: yolo_head(strides=[8, 16]), lambda: yolo_head()),
    "known_head(detr_head('softmax'), 'a DETR', layers=('a',), best=100)": (
        lambda: known_head(detr_head("softmax"), "a DETR", layers=("a",), best=100),
        lambda: known_head(detr_head("softmax"), "a DETR"),
    ),
    "candidates_head()": (lambda: candidates_head(), lambda: torchvision_head()),
    "tokens((14, 14), prefix=0)": (lambda: tokens([14, 14], prefix=0), lambda: tokens((14, 14))),
    "unrolled((4, 4), ((2, 2),))": (lambda: unrolled([4, 4], [[2, 2]]), lambda: unrolled((4, 4), [(4, 4)])),
    "channels_last()": (lambda: channels_last(), lambda: tokens((2, 2))),
    "frames(4)": (lambda: frames(4), lambda: frames(4, each=channels_last())),
    "tiles(2, 3, after=1)": (lambda: tiles(2, 3, after=1), lambda: tiles(2, 3)),
    "packed(((1, 4, 6),), 2, order='rows')": (
        lambda: packed([[1, 4, 6]], 2, order="rows"),
        lambda: packed([[1, 4, 6]], 2),
    ),
    "spans((range(0, 4), range(5, 9)), (2, 4))": (
        lambda: spans([0, 1, 2, 3, range(5, 9)], [2, 4]),
        lambda: spans([range(8)], [2, 4]),
    ),
    "windows((14, 14), (7, 7), shift=(3, 3))": (
        lambda: windows((14, 14), (7, 7), shift=(3, 3)),
        lambda: windows((14, 14), (7, 7)),
    ),
    "observe_attention(Transformer, ('blocks.1.attn',))": (
        lambda: observe_attention(TRANSFORMER, TRANSFORMER.get_submodule("blocks.1.attn")),
        lambda: observe_attention(TRANSFORMER),
    ),
    "capture_attention(Transformer, scores='layers')": (
        lambda: capture_attention(TRANSFORMER, scores="layers"),
        lambda: capture_attention(transformer(), scores="layers"),
    ),
    "attention_explainer(le_grad, Transformer, ('blocks.1', 'blocks.2'), grid=(3, 4))": (
        lambda: attention_explainer(le_grad, TRANSFORMER, ["blocks.1", TRANSFORMER.blocks[2]], grid=[3, 4]),
        lambda: attention_explainer(le_grad, TRANSFORMER, ["blocks.1", "blocks.2"]),
    ),
    "attention_explainer(partial(attention_rollout, how='max'), Transformer, query=None, differentiable=True)": (
        lambda: attention_explainer(
            partial(attention_rollout, how="max"), TRANSFORMER, query=None, differentiable=True
        ),
        lambda: attention_explainer(
            partial(attention_rollout, how="min"), TRANSFORMER, query=None, differentiable=True
        ),
    ),
    "quantus_explain(grad_cam, '0', signed=True, layout=None)": (
        lambda: quantus_explain(grad_cam, "0", signed=True, layout=None),
        lambda: quantus_explain(grad_cam, "0", signed=True, layout="auto"),
    ),
    "LayerAttribution(grad_cam, Net, 'conv', differentiable=True)": (
        lambda: LayerAttribution(grad_cam, CLASSES, CLASSES.conv, differentiable=True),
        lambda: LayerAttribution(grad_cam, CLASSES, "conv"),
    ),
    "Augmentation(flip(-1), flip(-1), flip(-1))": (lambda: transforms.flip(), lambda: transforms.flip(-2)),
    "augment(class_score(1), 'flips', images='rgb')": (
        lambda: transforms.augment(class_score(1), "flips", images="rgb"),
        lambda: transforms.augment(class_score(1), "flips"),
    ),
    "smooth(class_score(1), 4, noise=tensor([0., 1.]))": (
        lambda: transforms.smooth(class_score(1), 4, noise=torch.tensor([0.0, 1])),
        lambda: transforms.smooth(class_score(1), 4, noise=torch.tensor([1.0, 1])),
    ),
    "windows(class_score(1), (8, 9), overlap=0.5, weights='gaussian')": (
        lambda: transforms.windows(class_score(1), [8, 9], overlap=0.5, weights="gaussian"),
        lambda: transforms.windows(class_score(1), [8, 9], overlap=0.5),
    ),
    "eigen_smooth(grad_cam, centered=True)": (
        lambda: transforms.eigen_smooth(grad_cam, centered=True),
        lambda: transforms.eigen_smooth(grad_cam),
    ),
    "fuse(grad_cam, Net, ['conv'], how='max')": (
        lambda: transforms.fuse(grad_cam, CLASSES, ["conv"], how="max"),
        lambda: transforms.fuse(grad_cam, CLASSES, ["conv"]),
    ),
    "multi_scale(grad_cam, Net, 'conv', [4, 6], agree=False)": (
        lambda: transforms.multi_scale(grad_cam, CLASSES, "conv", [4, 6], agree=False),
        lambda: transforms.multi_scale(grad_cam, CLASSES, "conv", [4], agree=False),
    ),
    "path_integral(grad_cam, Net, 'conv', space='inputs', steps=3)": (
        lambda: transforms.path_integral(grad_cam, CLASSES, "conv", space="inputs", steps=3),
        lambda: transforms.path_integral(grad_cam, CLASSES, "conv", space="activations", steps=3),
    ),
    "guided_grad_cam(Net, 'conv', layout=None)": (
        lambda: network.guided_grad_cam(CLASSES, "conv", layout=None),
        lambda: network.guided_grad_cam(CLASSES, "conv"),
    ),
    "observe(Net, 'conv', layout=None)": (
        lambda: observe(CLASSES, CLASSES.conv, layout=None),
        lambda: observe(CLASSES, "conv"),
    ),
    "capture(Net, 'conv', call=-1, unused='zeros')": (
        lambda: capture(CLASSES, "conv", call=-1, unused="zeros"),
        lambda: capture(CLASSES, "conv", call=-1),
    ),
    "capture_many(Net, ('conv', 'head'), differentiable=True)": (
        lambda: capture_many(CLASSES, ["conv", CLASSES.head], differentiable=True),
        lambda: capture_many(CLASSES, ["conv"], differentiable=True),
    ),
    "capture_levels(Net, ('conv',), select=0)": (
        lambda: capture_levels(CLASSES, ["conv"], select=0),
        lambda: capture_levels(CLASSES, ["conv"], select=1),
    ),
    "capture_each(Net, 'conv', select=0)": (
        lambda: capture_each(CLASSES, "conv", select=0),
        lambda: capture_each(CLASSES, "conv", select=1),
    ),
    "resume(Net, 'conv', layout=channels_last())": (
        lambda: resume(CLASSES, "conv", layout=channels_last()),
        lambda: resume(CLASSES, "conv"),
    ),
    "explainer(partial(score_cam, top_k=4), Net, 'conv', images='rgb', chunk_size=8, has_aux=True)": (
        lambda: explainer(partial(score_cam, top_k=4), CLASSES, "conv", images="rgb", chunk_size=8, has_aux=True),
        lambda: explainer(partial(score_cam, top_k=5), CLASSES, "conv", images="rgb", chunk_size=8, has_aux=True),
    ),
    "unguided(Net)": (lambda: network.unguided(CLASSES), lambda: network.unguided(TRANSFORMER)),
    "Layout(neg, add)": (lambda: Layout(torch.neg, torch.add), lambda: Layout(torch.neg, torch.sub)),
}
for _name in [
    "input_gradient",
    "integrated_gradients",
    "idgi",
    "guided_ig",
    "guided_backprop",
    "deconvnet",
    "full_gradients",
    "full_grad",
    "simple_full_grad",
]:
    VALUES[f"{_name}(Net, images=0)"] = (
        partial(getattr(network, _name), CLASSES, images=0),
        partial(getattr(network, _name), CLASSES),
    )
for _name in ("smooth_grad", "smooth_full_grad"):
    VALUES[f"{_name}(Net, samples=2, noise=tensor([1., 1.]))"] = (
        partial(getattr(network, _name), CLASSES, samples=2, noise=torch.ones(2)),
        partial(getattr(network, _name), CLASSES, samples=2, noise=torch.zeros(2)),
    )
VALUES["expected_gradients(Net, references=0.5, uniform=tensor([[0.5000, 0.5000]]))"] = (
    lambda: network.expected_gradients(CLASSES, references=0.5, uniform=torch.full((1, 2), 0.5)),
    lambda: network.expected_gradients(CLASSES, references=0.4, uniform=torch.full((1, 2), 0.5)),
)
VALUES["smooth_grad_cam_plusplus(Net, 'conv', samples=2, noise=tensor([1., 1.]))"] = (
    lambda: network.smooth_grad_cam_plusplus(CLASSES, "conv", samples=2, noise=torch.ones(2)),
    lambda: network.smooth_grad_cam_plusplus(CLASSES, "conv", samples=2, noise=torch.zeros(2)),
)
_ZERO = torch.zeros(1)
_CHECKED: dict[str, Any] = {
    "cam": _ZERO,
    "score": _ZERO,
    "classes": None,
    "runner_up": None,
    "head": None,
    "again": _ZERO,
    "other_class": None,
    "redrawn": None,
    "noisy": _ZERO,
    "kept": None,
    "removed": None,
    "border": _ZERO,
    "together": _ZERO,
    "marked": _ZERO,
    "blank": _ZERO,
    "share": 0.2,
    "maps": 15,
    "forwards": 41,
    "missing": {},
}
VALUES[
    "Checked(tensor([0.]), tensor([0.]), None, None, None, tensor([0.]), None, None, tensor([0.]), None, None, "
    "tensor([0.]), tensor([0.]), tensor([0.]), tensor([0.]), 0.2, 15, 41, {})"
] = (partial(Checked, **_CHECKED), partial(Checked, **_CHECKED | {"maps": 14}))
every_value = pytest.mark.parametrize("text", VALUES)


def public() -> dict[str, Any]:
    """The public names of the packages that return something to call."""
    modules = [importlib.import_module("camfn" if name == "camfn" else f"camfn.{name}") for name in MODULES]
    return {
        key: value
        for module in modules
        for key, value in ((key, getattr(module, key)) for key in dir(module))
        if not key.startswith("_") and str(getattr(value, "__module__", "")).startswith("camfn")
    }


def test_every_public_value_is_in_the_table() -> None:
    classes = {key for key, value in public().items() if inspect.isclass(value) and issubclass(value, Value)}
    abstract = {"Arithmetic", "Value", "OnNetwork"}
    assert classes - abstract <= {type(make()).__name__ for make, _ in VALUES.values()}


def test_no_public_function_returns_a_closure() -> None:
    returned = {
        key: str(value.__annotations__.get("return")) for key, value in public().items() if inspect.isfunction(value)
    }
    closures = {key for key, text in returned.items() if "Callable" in text or text in ("Explain", "ScoreFn", "Tail")}
    closures -= {"as_score", "pin", "moved"}  # which hand on the function that they are given
    assert not closures


# ------------------------------------------------------------------------------------------------------ every value


@every_value
def test_it_prints_like_its_call(text: str) -> None:
    assert repr(VALUES[text][0]()) == text


@every_value
def test_it_compares_by_what_it_holds(text: str) -> None:
    make, other = VALUES[text]
    assert make() == make()
    assert hash(make()) == hash(make())
    assert make() != other()
    assert len({make(), make(), other()}) == 2


@every_value
def test_it_is_pickled_and_copied(text: str) -> None:
    value = VALUES[text][0]()
    again = pickle.loads(pickle.dumps(value)), copy.deepcopy(value)
    assert copy.copy(value) == value
    assert all(repr(one) == repr(value) for one in again)
    # a copy has a module of its own, so it is another value
    assert all((one == value) is not holds_model(value) for one in again)


@every_value
def test_it_is_replaced_and_frozen(text: str) -> None:
    value = VALUES[text][0]()
    assert replace(value) == value
    with pytest.raises(AttributeError):
        value.another = 1


def holds_model(value: Any) -> bool:
    """Whether a value holds a module, which a copy does not share."""
    return any(isinstance(item, nn.Module) for item in vars(value).values())


CALLS: list[Callable[[Any], Any]] = [
    lambda net: attention_explainer(gradient_rollout, net),
    lambda net: attention_explainer(le_grad, net, "blocks.1", readout=net.readout),
    lambda net: attention_explainer(attention_rollout, net, net.blocks[0]),
    lambda net: explainer(grad_cam, net, net.blocks[1]),
    lambda net: explainer(ablation_cam, net, "blocks.1"),
    lambda net: transforms.fuse(grad_cam, net, ["blocks.1", net.blocks[2]]),
    lambda net: transforms.smooth(explainer(grad_cam, net, "blocks.1"), 2, std=0.0, noise=torch.zeros(2, 2, 3, 12, 16)),
]
"""Makes something of a transformer that is called with images and a class."""


class Held(nn.Module):
    """A module that holds an explainer of its own network."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        super().__init__()
        self.net = WithReadout()
        self.explain = make(self.net)


class WithReadout(Transformer):
    def readout(self, tokens: Tensor) -> Any:
        return self.head(self.norm(tokens)[:, 0])


@pytest.mark.parametrize("make", CALLS)
def test_a_copy_of_a_module_explains_the_copy(make: Any) -> None:
    held, x = Held(make).double().eval(), images(2, 3, 12, 16, dtype=torch.float64)
    copied = copy.deepcopy(held)
    before = held.explain(x, 1)
    assert torch.equal(copied.explain(x, 1), before)
    assert getattr(copied.explain, "explain", copied.explain).model is copied.net
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(0.3 * images(*parameter.shape, dtype=torch.float64))
    assert torch.equal(held.explain(x, 1), before)
    changed = copied.explain(x, 1)
    assert torch.equal(changed, make(copied.net)(x, 1))
    assert not torch.allclose(changed, before)


class Whole(Net):
    """A network that holds what explains itself."""

    def __init__(self, make: Callable[[nn.Module], Any]) -> None:
        super().__init__(5)
        self.explain = make(self)


@pytest.mark.parametrize(
    "make",
    [
        lambda net: explainer(grad_cam, net, net.conv),
        lambda net: transforms.fuse(grad_cam, net, ["conv"]),
        lambda net: transforms.augment(explainer(grad_cam, net, "conv"), "flips"),
        network.full_grad,
        lambda net: network.smooth_grad(net, samples=2, noise=torch.ones(2, 2, 3, 6, 6)),
        lambda net: network.guided_grad_cam(net, "conv"),
        lambda net: network.smooth_grad_cam_plusplus(net, "conv", samples=2, noise=torch.ones(2, 2, 3, 6, 6)),
        lambda net: LayerAttribution(grad_cam, net, "conv").attribute,
    ],
)
def test_a_module_that_explains_itself_is_copied_and_pickled(make: Any) -> None:
    net, x = Whole(make).eval(), IMAGES.float()
    again = copy.deepcopy(net)
    assert torch.equal(again.explain(x, 1), net.explain(x, 1))
    again.conv.weight.data.neg_()
    assert not torch.allclose(again.explain(x, 1), net.explain(x, 1))
    assert torch.equal(again.explain(x, 1), make(again)(x, 1))
    assert torch.equal(pickle.loads(pickle.dumps(net.explain))(x, 1), net.explain(x, 1))


def test_a_replaced_model_is_explained_at_the_same_layers() -> None:
    one, other, x = TRANSFORMER, transformer(pool="mean"), images(2, 3, 12, 16, dtype=torch.float64)
    explain = attention_explainer(le_grad, one, one.blocks[1])
    found = replace(explain, model=other)(x, 1)
    assert torch.equal(found, attention_explainer(le_grad, other, "blocks.1")(x, 1))
    forward_only = replace(explain, method=attention_rollout)
    assert torch.equal(forward_only(x), attention_explainer(attention_rollout, one, "blocks.1")(x))


@pytest.mark.parametrize(
    ("value", "change"),
    [
        (capture_attention(TRANSFORMER), {"scores": "both"}),
        (capture_attention(TRANSFORMER), {"layers": []}),
        (observe_attention(TRANSFORMER, "blocks.0"), {"model": nn.Linear(1, 1)}),
        (attention_explainer(le_grad, TRANSFORMER), {"layers": "blocks.7"}),
        (attention_explainer(le_grad, TRANSFORMER), {"method": "le_grad"}),
        (class_score(1), {"classes": 0.5}),
        (contrast(0, 1), {"gamma": float("nan")}),
        (contrast(0, 1), {"against": 0}),
        (mask_score(0), {"region": "some"}),
        (regression(1), {"sign": 2}),
        (box_score(0, head=HEAD), {"part": "depth"}),
        (box_score(0, head=HEAD, part="objectness"), {"head": torchvision_head()}),
        (overlap_score(0, head=HEAD), {"size": (1, 2, 3)}),
        (tokens((2, 2), channels_first=True), {"batch_first": False}),
        (unrolled((4, 4), [(2, 2)]), {"grid": (5, 4)}),
    ],
)
def test_a_replaced_field_is_checked(value: Any, change: dict[str, Any]) -> None:
    with pytest.raises(CamfnError):
        replace(value, **change)


# ------------------------------------------------------------------------------------------------- targets are trees


IMAGES = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

# a network, and four targets as one: each of its tensors has a first dimension of four
STACKS: list[tuple[nn.Module, Any]] = [
    (CLASSES, class_score(EACH)),
    (CLASSES, class_score(torch.tensor([[0, 1], [2, 3], [4, 0], [1, 1]]))),
    (CLASSES, class_probability(EACH)),
    (CLASSES, class_log_probability(EACH)),
    (CLASSES, rest(EACH)),
    (CLASSES, contrast(EACH, EACH[:, None] + 1)),
    (CLASSES, contrast(1, gamma=UNEVEN, weighted=True)),
    (CLASSES, class_score(EACH) - UNEVEN * class_score(EACH + 1)),
    (CLASSES, (2 * class_probability(EACH)).log()),
    (CLASSES, as_score([class_score(EACH), 1])),
    (CLASSES, similarity(torch.randn(4, 5, generator=torch.Generator().manual_seed(2)))),
    (CLASSES, regression(EACH)),
    (CLASSES, several(torch.stack([EACH, EACH + 1], 1))),
    (CLASSES, several(torch.rand(4, 2, 5, generator=torch.Generator().manual_seed(3)) > 0.5)),
    (CLASSES, several(threshold=UNEVEN)),
    (Net(1), binary_score() * UNEVEN),
    (DENSE, mask_score(EACH)),
    (DENSE, mask_score(EACH, "predicted")),
    (DENSE, mask_score(region=torch.rand(4, 3, 3, generator=torch.Generator().manual_seed(4)))),
    (DENSE, mask_score(EACH, torch.rand(4, 2, 6, 6, generator=torch.Generator().manual_seed(5)) > 0.5)),
    (TEXT, token_log_probability(torch.tensor([[0, 1, 2, 3], [5, 4, 3, 2], [1, -100, 2, 3], [0, 0, 0, 0]]))),
    (TEXT, token_log_probability([1, 2, 3, 0], position=EACH - 2)),
    (BOXED, box_score(EACH, head=HEAD)),
    (BOXED, box_score(BOXES, EACH % 3, head=HEAD)),
    (BOXED, box_score(BOXES, head=HEAD, part="width")),
    (BOXED, box_score(EACH, head=HEAD, part="objectness")),
    (BOXED, overlap_score(BOXES, head=HEAD)),
    (BOXED, overlap_score(EACH, 1, head=HEAD)),
    (BOXED, detection_similarity(BOXES, EACH % 3, head=HEAD)),
    (BOXED, detection_similarity(EACH, probabilities=BOXES[:, :3], head=HEAD)),
]
every_stack = pytest.mark.parametrize(("net", "stack"), STACKS, ids=[repr(stack) for _, stack in STACKS])


def taken(stack: Any, i: int) -> Any:
    """Take one target out of four."""
    return pytree.tree_map(lambda tensor: tensor[i], stack)


@every_stack
def test_vmap_goes_over_a_target(net: nn.Module, stack: Any) -> None:
    explain = explainer(grad_cam, copy.deepcopy(net).double().eval(), "conv")
    cams = torch.vmap(lambda target: explain(IMAGES, target))(stack)
    loop = torch.stack([explain(IMAGES, taken(stack, i)) for i in range(4)])
    torch.testing.assert_close(cams, loop, rtol=1e-10, atol=1e-12)
    assert not torch.equal(loop[0], loop[1])


@every_stack
def test_a_target_keeps_the_graph(net: nn.Module, stack: Any) -> None:
    outputs = copy.deepcopy(net).double()(IMAGES).detach()
    target = taken(stack, 2)
    if getattr(target, "weighted", False):
        target = replace(target, weighted=False)  # the weights are constants, which finite differences do not know
    torch.autograd.gradcheck(target, outputs.requires_grad_())


@every_stack
def test_a_target_is_traced_by_the_compiler(net: nn.Module, stack: Any) -> None:
    outputs, target = net(IMAGES.float()).detach(), taken(stack, 1)
    for function in (lambda y, t: t(y), lambda y, t: pin(t, y)(y), lambda y, t: (t + 2 * t)(y)):
        torch._dynamo.reset()
        compiled = torch.compile(function, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(outputs, target), function(outputs, target))


@pytest.mark.parametrize("make", [class_score, lambda c: class_score(c) - 0.5 * contrast(c), mask_score])
def test_vmap_goes_over_the_index_in_compiled_code(make: Any) -> None:
    outputs = (DENSE if make is mask_score else CLASSES)(IMAGES.float()).detach()
    index = torch.arange(4)

    def all_scores(y: Tensor, target: Any) -> Any:
        return torch.vmap(lambda one: one(y))(target)

    compiled = torch.compile(all_scores, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(outputs, make(index)), torch.stack([make(i)(outputs) for i in range(4)]))


def test_the_leaves_are_moved_and_cast_as_a_tree() -> None:
    target = box_score(BOXES[:1], EACH[:1], head=HEAD) - 2 * similarity(BOXES[0])
    double = pytree.tree_map_only(Tensor, lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, target)
    assert double == box_score(BOXES[:1].double(), EACH[:1], head=HEAD) - 2 * similarity(BOXES[0].double())
    assert [leaf.device.type for leaf in pytree.tree_leaves(pytree.tree_map(lambda leaf: leaf.to("meta"), target))] == [
        "meta"
    ] * 3


def test_a_tree_of_anything_flattens_alike() -> None:
    target = class_score(EACH) - 0.5 * similarity(BOXES)
    leaves, spec = pytree.tree_flatten(target)
    axes = pytree.tree_unflatten([0, None], spec)
    assert pytree.tree_leaves(axes) == [0, None]
    pairs = pytree.tree_unflatten([(1, 2), {"a": leaves[1]}], spec)
    assert pytree.tree_structure(pairs).num_leaves == 3
    with_axes = torch.vmap(lambda t, y: t(y), in_dims=(0, None))
    got = with_axes(target, torch.eye(4))
    assert torch.equal(got, torch.stack([taken(target, i)(torch.eye(4)) for i in range(4)]))
