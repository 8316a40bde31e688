"""Targets against their formulas, their combinations, pinning, and what their errors say."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, capture, targets
from camfn._shared.vocabulary import ScoreFn
from camfn.methods import grad_cam
from camfn.targets import (
    Score,
    as_score,
    binary_score,
    class_log_probability,
    class_probability,
    class_score,
    contrast,
    logits_of,
    pin,
    rest,
)
from tests.nets.small import images, seeded

ROWS = [[2.0, -1.0, 0.5, 3.0, 0.25], [0.1, 0.2, -3.0, -0.4, 0.35], [-1.5, 4.0, 3.5, 1.0, 2.125]]
TOP = [3, 4, 1]
Formula = Callable[[list[float], int], float]


def logits() -> Tensor:
    return torch.tensor(ROWS, dtype=torch.float64)


def close(actual: Tensor, expected: Any) -> None:
    wanted = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=1e-12)


def gradient(target: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    y = y.clone().requires_grad_()
    (grad,) = torch.autograd.grad(target(y).sum(), y)
    return grad


def softmax(row: list[float]) -> list[float]:
    total = math.fsum(map(math.exp, row))
    return [math.exp(value) / total for value in row]


FORMULAS: dict[str, Formula] = {
    "class_score": lambda row, c: row[c],
    "class_probability": lambda row, c: softmax(row)[c],
    "class_log_probability": lambda row, c: math.log(softmax(row)[c]),
    "rest": lambda row, c: row[c] + math.log(softmax(row)[c]),
}
GRADIENTS: dict[str, Callable[[list[float], int, int], float]] = {
    "class_score": lambda row, c, k: float(c == k),
    "class_probability": lambda row, c, k: softmax(row)[c] * ((c == k) - softmax(row)[k]),
    "class_log_probability": lambda row, c, k: (c == k) - softmax(row)[k],
    "rest": lambda row, c, k: 2 * (c == k) - softmax(row)[k],
}
every_formula = pytest.mark.parametrize("name", FORMULAS)
every_way = pytest.mark.parametrize(
    ("classes", "chosen"),
    [
        (None, TOP),
        (2, [2, 2, 2]),
        ([4, 0, 2], [4, 0, 2]),
        ((4, 0, 2), [4, 0, 2]),
        (torch.tensor([4, 0, 2]), [4, 0, 2]),
        (torch.tensor([4, 0, 2], dtype=torch.int32), [4, 0, 2]),
        (torch.tensor(1), [1, 1, 1]),
    ],
    ids=["top", "int", "list", "tuple", "tensor", "int32", "scalar"],
)


def target_of(name: str, classes: Any = None) -> Score:
    made: Score = getattr(targets, name)(classes)
    return made


# ------------------------------------------------------------------------------------------------- one class a sample


@every_formula
@every_way
def test_equals_the_formula(name: str, classes: Any, chosen: list[int]) -> None:
    expected = [FORMULAS[name](row, c) for row, c in zip(ROWS, chosen, strict=True)]
    close(target_of(name, classes)(logits()), expected)


@every_formula
@every_way
def test_gradient_equals_the_closed_form(name: str, classes: Any, chosen: list[int]) -> None:
    expected = [[GRADIENTS[name](row, c, k) for k in range(5)] for row, c in zip(ROWS, chosen, strict=True)]
    close(gradient(target_of(name, classes), logits()), expected)


@pytest.mark.parametrize("name", [*FORMULAS, "contrast"])
def test_sample_does_not_depend_on_its_neighbors(name: str) -> None:
    y, target = logits(), target_of(name)
    assert torch.equal(target(y), torch.cat([target(y[i : i + 1]) for i in range(3)]))
    crossed = torch.func.jacrev(target)(y)
    assert not crossed[~torch.eye(3, dtype=torch.bool)].any()


@pytest.mark.parametrize("name", [*FORMULAS, "contrast"])
def test_vmap_over_classes_equals_the_loop(name: str) -> None:
    y = logits()
    mapped = torch.vmap(lambda c: target_of(name, c)(y))(torch.arange(5))
    close(mapped, torch.stack([target_of(name, c)(y) for c in range(5)]))


@pytest.mark.parametrize("name", [*FORMULAS, "contrast"])
def test_vmap_over_classes_a_sample_equals_the_loop(name: str) -> None:
    y, rows = logits(), torch.tensor([[0, 1, 2], [4, 4, 0]])
    mapped = torch.vmap(lambda row: target_of(name, row)(y))(rows)
    close(mapped, torch.stack([target_of(name, row)(y) for row in rows]))


@pytest.mark.parametrize("shape", [(3,), (3, 1)], ids=str)
def test_binary_score(shape: tuple[int, ...]) -> None:
    values = [0.5, -2.0, 3.0]
    outputs = torch.tensor(values, dtype=torch.float64).reshape(shape)
    close(binary_score()(outputs), values)
    close(binary_score(positive=False)(outputs), [-value for value in values])


# ----------------------------------------------------------------------------------------------------------- contrast


def nearest(row: list[float], c: int, count: int) -> list[int]:
    return sorted((d for d in range(len(row)) if d != c), key=lambda d: abs(row[d] - row[c]))[:count]


def contrast_by_hand(row: list[float], c: int, others: list[int], gamma: float, weighted: bool) -> float:
    p = softmax(row)
    weights = [p[d] if weighted else 1.0 for d in others]
    terms = [w * (row[c] - gamma * row[d]) for w, d in zip(weights, others, strict=True)]
    return math.fsum(terms) / math.fsum(weights)


@every_way
@pytest.mark.parametrize("weighted", [False, True], ids=["mean", "weighted"])
@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_contrast_with_the_nearest_classes(
    classes: Any, chosen: list[int], weighted: bool, gamma: float, count: int
) -> None:
    expected = [
        contrast_by_hand(row, c, nearest(row, c, count), gamma, weighted) for row, c in zip(ROWS, chosen, strict=True)
    ]
    close(contrast(classes, gamma=gamma, count=count, weighted=weighted)(logits()), expected)


@pytest.mark.parametrize("weighted", [False, True], ids=["mean", "weighted"])
@pytest.mark.parametrize(
    ("against", "others"),
    [
        (1, [[1]] * 3),
        (torch.tensor(1), [[1]] * 3),
        ([1, 2], [[1, 2]] * 3),
        (torch.tensor([1, 2]), [[1, 2]] * 3),
        (torch.tensor([[1, 2], [3, 0], [4, 2]]), [[1, 2], [3, 0], [4, 2]]),
    ],
    ids=["int", "scalar", "list", "tensor", "a row a sample"],
)
def test_contrast_with_given_classes(against: Any, others: list[list[int]], weighted: bool) -> None:
    chosen = [3, 4, 1]
    rows = zip(ROWS, chosen, others, strict=True)
    expected = [contrast_by_hand(row, c, ds, 0.7, weighted) for row, c, ds in rows]
    close(contrast(chosen, against, gamma=0.7, weighted=weighted)(logits()), expected)


@pytest.mark.parametrize("weighted", [False, True], ids=["mean", "weighted"])
def test_comparison_weights_are_constants(weighted: bool) -> None:
    """The gradient is 1 at the class and -gamma times its weight at each of the others, nothing more."""
    expected = torch.zeros(3, 5, dtype=torch.float64)
    for i, (row, c) in enumerate(zip(ROWS, TOP, strict=True)):
        others = nearest(row, c, 3)
        weights = [softmax(row)[d] if weighted else 1.0 for d in others]
        expected[i, c] = 1
        for w, d in zip(weights, others, strict=True):
            expected[i, d] = -0.6 * w / math.fsum(weights)
    close(gradient(contrast(gamma=0.6, weighted=weighted), logits()), expected)


@pytest.mark.parametrize("weighted", [False, True], ids=["mean", "weighted"])
def test_without_gamma_the_class_alone_is_explained(weighted: bool) -> None:
    target = contrast(gamma=0, weighted=weighted)
    close(target(logits()), class_score()(logits()))
    close(gradient(target, logits()), gradient(class_score(), logits()))


@pytest.mark.parametrize("weighted", [False, True], ids=["mean", "weighted"])
def test_two_classes_contrast_antisymmetrically(weighted: bool) -> None:
    y = logits()[:, :2]
    close(contrast(0, weighted=weighted)(y), -contrast(1, weighted=weighted)(y))
    close(contrast(0, weighted=weighted)(y), y[:, 0] - y[:, 1])


@pytest.mark.parametrize("weighted", [False, True], ids=["mean", "weighted"])
def test_contrast_does_not_see_what_all_logits_share(weighted: bool) -> None:
    shared = torch.tensor([[0.7], [-2.0], [11.0]], dtype=torch.float64)
    target = contrast(weighted=weighted)
    torch.testing.assert_close(target(logits() + shared), target(logits()), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(target, logits() + shared), gradient(target, logits()), rtol=1e-12, atol=1e-12)


def test_contrast_with_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="contrast needs at least one class"):
        contrast()(logits()[:, :1])
    with pytest.raises(CamfnError, match="count: expected at least one class"):
        contrast(count=0)


@pytest.mark.parametrize("gamma", [math.inf, -math.inf, math.nan])
def test_contrast_of_no_finite_strength_is_refused(gamma: float) -> None:
    with pytest.raises(CamfnError, match="gamma: expected a finite number"):
        contrast(0, 1, gamma=gamma)


@pytest.mark.parametrize(
    ("classes", "against", "message"),
    [
        (0, 0, "among the classes"),
        (2, [1, 2], "among the classes"),
        ([2, 1], torch.tensor([[0, 1], [1, 2]]), "among the classes"),
        (torch.tensor(1), [[0, 2], [1, 2]], "among the classes"),
        (0, [1, 2, 1], "each class once"),
        (None, torch.tensor([[1, 2], [3, 3]]), "each class once"),
    ],
)
def test_a_class_compared_with_itself_or_twice_is_refused(classes: Any, against: Any, message: str) -> None:
    with pytest.raises(CamfnError, match=message):
        contrast(classes, against)(logits()[:2])


@pytest.mark.parametrize("classes", [[False, 0], [0, True], True, 1.0, [0.5], "cat", [None, 1], torch.ones(2)])
@pytest.mark.parametrize("name", ["class_score", "contrast", "several"])
def test_classes_that_are_no_integers_are_refused(name: str, classes: Any) -> None:
    with pytest.raises(CamfnError, match="integers"):
        target_of(name, classes)


def test_a_batch_of_none_has_no_scores() -> None:
    none = torch.empty(0, 4)
    for classes in (None, 1, torch.empty(0, dtype=torch.long)):
        assert class_score(classes)(none).shape == (0,)


@pytest.mark.parametrize(
    "against",
    [
        pytest.param(torch.tensor([[1, 2]])),
        pytest.param(torch.tensor([[1, 2]] * 4)),
        pytest.param([]),
        pytest.param([1.5]),
        -1,
        [0, 5],
    ],
    ids=["too few rows", "too many rows", "nothing", "fraction", "negative", "out of range"],
)
def test_contrast_refuses_what_it_cannot_compare_with(against: Any) -> None:
    with pytest.raises(ValueError, match=r"against|out of range"):
        contrast(0, against)(logits())


# ---------------------------------------------------------------------------------------- contrast through a network


class Pooled(nn.Module):
    """Convolution, ReLU, global average pooling and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(x).mean((2, 3)))
        return y


def pooled() -> Pooled:
    return cast(Pooled, seeded(Pooled, dtype=torch.float64))


def photos() -> Tensor:
    return images(2, 3, 7, 9, dtype=torch.float64)


def class_maps(model: Pooled, x: Tensor) -> Tensor:
    """CAM of every class over the number of positions, (B, K, H, W)."""
    a = model.body(x).detach()
    maps: Tensor = torch.einsum("kc, bchw -> bkhw", model.head.weight.detach(), a) / a[0, 0].numel()
    return maps


@pytest.mark.parametrize("weighted", [False, True], ids=["mean", "weighted"])
def test_grad_cam_of_a_contrast_is_the_contrast_of_cams(weighted: bool) -> None:
    model, x, gamma = pooled(), photos(), 0.6
    y, maps = model(x).detach(), class_maps(model, x)
    expected = []
    for row, cams in zip(y.tolist(), maps, strict=True):
        c = row.index(max(row))
        others = nearest(row, c, 3)
        weights = [softmax(row)[d] if weighted else 1.0 for d in others]
        similar = torch.stack([w * cams[d] for w, d in zip(weights, others, strict=True)]).sum(0) / math.fsum(weights)
        expected.append(cams[c] - gamma * similar)
    target = contrast(gamma=gamma, weighted=weighted)
    close(grad_cam(*capture(model, "body")(x, target)), torch.stack(expected))


@pytest.mark.parametrize("weighted", [False, True], ids=["mean", "weighted"])
def test_contrast_map_does_not_see_a_vector_added_to_every_class(weighted: bool) -> None:
    model, x = pooled(), photos()
    target = contrast(weighted=weighted)
    before = grad_cam(*capture(model, "body")(x, target))
    with torch.no_grad():
        model.head.weight += torch.linspace(-3, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(grad_cam(*capture(model, "body")(x, target)), before, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(grad_cam(*capture(model, "body")(x)), class_maps(pooled(), x)[:, 0])


# ------------------------------------------------------------------------------------------------------- combinations


def first_logit(outputs: Any) -> Tensor:
    first: Tensor = outputs[:, 0]
    return first


A, B = class_score(1), class_probability([4, 0, 2])
COMBINED: dict[str, tuple[Callable[[Any], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "sum": (A + B, lambda a, b: a + b),
    "difference": (A - B, lambda a, b: a - b),
    "multiple": (A * 2.5, lambda a, b: a * 2.5),
    "multiple from the left": (-3 * A, lambda a, b: a * -3),
    "negative": (-A, lambda a, b: -a),
    "logarithm": (B.log(), lambda a, b: b.log()),
    "nested": (0.5 * -(A - 2 * (B + A)), lambda a, b: 0.5 * -(a - 2 * (b + a))),
}


@pytest.mark.parametrize("name", COMBINED)
def test_combinations(name: str) -> None:
    target, formula = COMBINED[name]
    close(target(logits()), formula(A(logits()), B(logits())))
    close(pin(target, logits())(logits()), formula(A(logits()), B(logits())))


def test_combination_with_any_function() -> None:
    y = logits()
    close((A + first_logit)(y), y[:, 1] + y[:, 0])
    close((A - first_logit)(y), y[:, 1] - y[:, 0])


@pytest.mark.parametrize("name", COMBINED)
def test_map_of_a_combination_is_that_of_the_gradients(name: str) -> None:
    """Chain rule: the gradient of the formula in its two targets times the targets' own."""
    target, formula = COMBINED[name]
    y = logits()
    a, b = A(y).requires_grad_(), B(y).requires_grad_()
    by_a, by_b = torch.autograd.grad(formula(a, b).sum(), (a, b), allow_unused=True, materialize_grads=True)
    close(gradient(target, y), by_a[:, None] * gradient(A, y) + by_b[:, None] * gradient(B, y))


def test_probability_is_the_exponential_of_its_logarithm() -> None:
    close(class_probability().log()(logits()), class_log_probability()(logits()))
    close((class_score() + class_log_probability())(logits()), rest()(logits()))
    close((class_score(1) - class_score(2))(logits()), contrast(1, 2)(logits()))


@pytest.mark.parametrize("number", [2, 0.5], ids=str)
def test_adding_a_number_is_refused(number: Any) -> None:
    with pytest.raises(TypeError, match="target"):
        class_score(1) + number
    with pytest.raises(TypeError, match="target"):
        class_score(1) - number


# ------------------------------------------------------------------------------------------------------------ pinning


def perturbed() -> Tensor:
    """Outputs with other top classes, and other classes near them, than `logits()` has."""
    changed = logits().flip(1) * torch.tensor([1.0, -2.0, 0.3, 1.5, -1.0], dtype=torch.float64)
    assert not (changed.argmax(1) == torch.tensor(TOP)).any()
    return changed


NEAREST = [nearest(row, c, 2) for row, c in zip(ROWS, TOP, strict=True)]
PINNED: dict[str, tuple[Any, Any]] = {
    "None": (None, class_score(TOP)),
    "class_score": (class_score(), class_score(TOP)),
    "class_probability": (class_probability(), class_probability(TOP)),
    "class_log_probability": (class_log_probability(), class_log_probability(TOP)),
    "rest": (rest(), rest(TOP)),
    "contrast": (contrast(gamma=0.6, count=2), contrast(TOP, torch.tensor(NEAREST), gamma=0.6)),
    "weighted": (contrast(count=2, weighted=True), contrast(TOP, torch.tensor(NEAREST), weighted=True)),
    "contrast of a class": (
        contrast(0, count=2),
        contrast(0, torch.tensor([nearest(row, 0, 2) for row in ROWS])),
    ),
    "contrast with a class": (contrast(None, 2), contrast(TOP, 2)),
    "sum": (class_score() + contrast(count=2), class_score(TOP) + contrast(TOP, torch.tensor(NEAREST))),
    "sum with a function": (class_score() + first_logit, class_score(TOP) + first_logit),
    "difference": (class_score(2) - rest(), class_score(2) - rest(TOP)),
    "multiple": (2 * class_score(), 2 * class_score(TOP)),
    "negative": (-class_score(), -class_score(TOP)),
    "logarithm": (class_probability().log(), class_probability(TOP).log()),
    "list": ([class_score(), 2, rest()], [class_score(TOP[0]), 2, rest(TOP[2])]),
}


@pytest.mark.parametrize("name", PINNED)
def test_perturbed_outputs_cannot_change_the_question(name: str) -> None:
    free, fixed = PINNED[name]
    pinned = pin(free, logits())
    close(pinned(perturbed()), as_score(fixed)(perturbed()))
    close(pinned(logits()), as_score(free)(logits()))
    assert not torch.allclose(as_score(free)(perturbed()), pinned(perturbed())), "perturbed() does not tell them apart"
    close(pin(pinned, perturbed())(perturbed()), pinned(perturbed()))


@pytest.mark.parametrize(
    "target", [2, torch.tensor([4, 0, 2]), [4, 0, 2], class_score(1), lambda outputs: outputs[:, 0]]
)
def test_pinning_a_fixed_target_changes_nothing(target: Any) -> None:
    assert torch.equal(pin(target, logits())(perturbed()), as_score(target)(perturbed()))


# ------------------------------------------------------------------------------------------------ whatever is a target


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (None, [3.0, 0.35, 4.0]),
        (3, [3.0, -0.4, 1.0]),
        ([4, 0, 2], [0.25, 0.1, 3.5]),
        (torch.tensor([4, 0, 2]), [0.25, 0.1, 3.5]),
        (lambda outputs: outputs.sum(1), [4.75, -2.75, 9.125]),
        ([lambda outputs: outputs[:, 1], lambda outputs: -outputs[:, 0], class_score()], [-1.0, -0.1, 4.0]),
        ([4, lambda outputs: outputs.sum(1), class_score(2)], [0.25, -2.75, 3.5]),
        ((4, lambda outputs: outputs.sum(1), class_score(2)), [0.25, -2.75, 3.5]),
    ],
    ids=["none", "int", "ints", "tensor", "function", "functions", "mixed", "tuple"],
)
def test_whatever_is_a_target(target: Any, expected: list[float]) -> None:
    close(as_score(target)(logits()), expected)


class Named(NamedTuple):
    loss: Tensor | None
    logits: Tensor


class Plain:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


@dataclass
class Registered:
    logits: Tensor
    loss: Tensor | None = None


torch.export.register_dataclass(Registered)


def named(y: Tensor) -> Named:
    return Named(None, y)


def in_dict(y: Tensor) -> dict[str, Tensor | None]:
    return {"loss": None, "logits": y}


def as_ordered(y: Tensor) -> OrderedDict[str, Tensor]:
    return OrderedDict(logits=y)


@pytest.mark.parametrize(
    "wrap",
    [lambda y: y, in_dict, as_ordered, named, Plain, Registered],
    ids=["tensor", "dict", "OrderedDict", "NamedTuple", "object", "registered dataclass"],
)
def test_logits_are_found_in_outputs(wrap: Callable[[Tensor], Any]) -> None:
    assert torch.equal(logits_of(wrap(logits())), logits())
    for target in (None, 1, [4, 0, 2], contrast(), rest()):
        assert torch.equal(as_score(target)(wrap(logits())), as_score(target)(logits()))


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda y: {"logits": y}),
        named,
        Plain,
    ],
    ids=["dict", "NamedTuple", "object"],
)
def test_binary_logit_is_found_in_outputs(wrap: Callable[[Tensor], Any]) -> None:
    close(binary_score()(wrap(logits()[:, :1])), [row[0] for row in ROWS])


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("name", [*FORMULAS, "contrast"])
@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (5, "class 5 is out of range: the model has 5 classes, 0 to 4"),
        (-1, "class -1 is out of range: the model has 5 classes, 0 to 4"),
        ([0, 7, 1], "class 7 is out of range"),
        ([0, 1, -2], "class -2 is out of range"),
        (torch.tensor([0, 5, 1]), "class 5 is out of range"),
        (torch.tensor(-3), "class -3 is out of range"),
        ([0, 1], "classes: expected one for each of the 3 samples, got 2"),
        (torch.tensor([0]), "classes: expected one for each of the 3 samples, got 1"),
        ([], "classes: expected one for each of the 3 samples, got 0"),
        ([0.0, 1.0, 2.0], "classes: expected integers.*got a float"),
        (torch.tensor([True, False, True]), "expected integers.*bool"),
        (torch.tensor([[0, 1, 2]]), r"shape \(\) or \(3,\); got \(1, 3\)"),
    ],
    ids=str,
)
def test_wrong_classes(name: str, classes: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        target_of(name, classes)(logits())


@pytest.mark.parametrize("name", FORMULAS)
def test_a_bool_is_no_class(name: str) -> None:
    with pytest.raises((ValueError, TypeError), match="expected"):
        as_score(target_of(name, True))(logits())


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ((logits(), logits()), r"returned a tuple of 2 \(Tensor, Tensor\).*outputs\[0\]\[:, 281\]"),
        ({"probabilities": logits()}, r"returned a dict with keys \['probabilities'\].*target=lambda"),
        (torch.zeros(2, 5, 4, 4), r"shape \(2, 5, 4, 4\).*outputs\[:, 15\]\.mean\(\(1, 2\)\)"),
        ({"logits": torch.zeros(2, 5, 4, 4)}, "a dict with keys"),
        (torch.zeros(2), r"needs logits of shape \(B, K\).*shape \(2,\)"),
        (3.0, "returned a float"),
    ],
    ids=["tuple", "dict", "segmentation", "segmentation in a dict", "1-D", "number"],
)
@pytest.mark.parametrize("target", [None, 1, [0, 1], contrast(), class_probability()], ids=range(5))
def test_outputs_without_logits(outputs: Any, words: str, target: Any) -> None:
    with pytest.raises(ValueError, match=words):
        as_score(target)(outputs)


@pytest.mark.parametrize(
    "outputs", [logits(), (logits(),), torch.zeros(2, 1, 1), {}], ids=["K", "tuple", "3-D", "dict"]
)
def test_outputs_without_one_logit(outputs: Any) -> None:
    with pytest.raises(ValueError, match=r"binary_score expects one logit a sample.*class_score\(index\)"):
        binary_score()(outputs)


@pytest.mark.parametrize(
    "target", [1.0, "cat", [1.0, 2.0], [None, 1], ["cat"], {"class": 1}, object()], ids=[*map(str, range(7))]
)
def test_what_is_no_target(target: Any) -> None:
    with pytest.raises(TypeError, match=r"target: expected a class index.*None for the top class; got a"):
        as_score(target)


@pytest.mark.parametrize("target", [[0, class_score(1)], [class_score(1)] * 4], ids=["too few", "too many"])
def test_wrong_number_of_targets(target: Any) -> None:
    with pytest.raises(ValueError, match=f"targets: expected one for each of the 3 samples, got {len(target)}"):
        as_score(target)(logits())


# ---------------------------------------------------------------------------------------------------- through capture


@pytest.mark.parametrize(
    "target",
    [
        None,
        1,
        [2, 0],
        torch.tensor([2, 0]),
        contrast(weighted=True),
        lambda outputs: outputs[:, 1] ** 2,
        [class_score(2), lambda outputs: outputs[:, 0]],
        [rest(), 3],
    ],
    ids=range(8),
)
def test_capture_differentiates_the_target(target: Any) -> None:
    model, x = pooled(), photos()
    a = model.body(x).detach().requires_grad_()
    outputs = model.head(a.mean((2, 3)))
    (expected,) = torch.autograd.grad(as_score(target)(outputs).sum(), a)
    close(capture(model, "body")(x, target).grads, expected)


class Wrapping(nn.Module):
    """The same network, with its logits inside something."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.wrap = pooled(), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.net(x))


@pytest.mark.parametrize("target", [None, 1, [2, 0], contrast()], ids=range(4))
@pytest.mark.parametrize(("wrap", "kind"), [(Plain, Plain), (named, Named), (in_dict, dict), (Registered, Registered)])
def test_capture_finds_the_logits(wrap: Callable[[Tensor], Any], kind: type, target: Any) -> None:
    captured = capture(Wrapping(wrap), "net.body")(photos(), target)
    expected = capture(pooled(), "body")(photos(), target)
    assert torch.equal(captured.grads, expected.grads)
    assert type(captured.outputs) is kind
    assert torch.equal(logits_of(captured.outputs), expected.outputs)


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(Plain),
        named,
        in_dict,
        Registered,
    ],
    ids=["object", "NamedTuple", "dict", "registered dataclass"],
)
def test_captured_outputs_keep_no_graph(wrap: Callable[[Tensor], Any]) -> None:
    assert not logits_of(capture(Wrapping(wrap), "net.body")(photos()).outputs).requires_grad


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (lambda outputs: outputs.sum(), r"a tensor of shape \(\)"),
        (lambda outputs: outputs, r"a tensor of shape \(2, 5\)"),
        (lambda outputs: outputs[:, :1], r"a tensor of shape \(2, 1\)"),
        (lambda outputs: torch.cat([outputs, outputs])[:3, 0], r"a tensor of shape \(3,\)"),
        (lambda outputs: outputs.argmax(1), r"a tensor of shape \(2,\) of torch.int64"),
        (lambda outputs: outputs[:, 0] > 0, "of torch.bool"),
        (lambda outputs: 3.0, "a float"),
        (lambda outputs: None, "a NoneType"),
        ([lambda outputs: outputs, lambda outputs: outputs], r"a tensor of shape \(2, 5\)"),
        pytest.param(
            [lambda outputs: outputs[0, 1], lambda outputs: outputs[1, 1]],
            r"a tensor of shape \(\)",
        ),
    ],
    ids=["()", "(B, K)", "(B, 1)", "(B + 1,)", "integers", "bools", "float", "None", "list (B, K)", "list ()"],
)
def test_capture_wants_one_number_a_sample(target: Any, words: str) -> None:
    expected = r"the target must return one floating-point number a sample, shape \(2,\); it returned .*"
    with pytest.raises(ValueError, match=expected + words + r".*target=lambda outputs: outputs\[:, 281\]"):
        capture(pooled(), "body")(photos(), target)


@pytest.mark.parametrize("target", [5, -1, [0, 1, 2], [0.5, 1.5], [0], "cat", [class_score(1)] * 3], ids=range(7))
def test_capture_refuses_a_wrong_target(target: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"out of range|expected"):
        capture(pooled(), "body")(photos(), target)


# ------------------------------------------------------------------------------------------------ targets with places


def masked(mask: Tensor) -> targets.Score:
    return targets.Score(lambda outputs: (outputs * mask).sum(1), moved=lambda move: masked(move(mask)))


def flipped_mask(mask: Tensor) -> Tensor:
    return mask.flip(-1)


def test_places_move_through_sums_multiples_logarithms_and_pinning() -> None:
    outputs, mask = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[1.0, 0.5, 0.0]])
    left, right = masked(mask), masked(mask.flip(-1))
    cases: list[tuple[ScoreFn, ScoreFn]] = [
        (left, right),
        (2 * left, 2 * right),
        (-left, -right),
        (left.log(), right.log()),
        (targets.class_score(None) - left, targets.class_score(2) - right),
        (targets.as_score([left]), targets.as_score([right])),
    ]
    for before, after in cases:
        assert torch.equal(targets.moved(before, flipped_mask)(outputs), after(outputs))
        assert torch.equal(targets.moved(targets.pin(before, outputs), flipped_mask)(outputs), after(outputs))


def test_targets_without_places_stay_as_they_are() -> None:
    plain: list[ScoreFn] = [targets.class_score(1), targets.class_score(1) + targets.rest(2), targets.contrast(0)]
    for score in [*plain, lambda outputs: outputs[:, 0]]:
        assert targets.moved(score, flipped_mask) is score


def test_one_logit_a_sample_has_no_top_class_and_no_softmax() -> None:
    one = torch.tensor([[3.0], [-4.0]])
    torch.testing.assert_close(targets.class_score(0)(one), one[:, 0])
    comparing = [getattr(targets, name) for name in ("class_probability", "class_log_probability", "rest")]
    for target in [targets.class_score(), *(make(0) for make in comparing), *(make() for make in comparing)]:
        with pytest.raises(ValueError, match=r"got one logit a sample, \(2, 1\).*binary_score"):
            target(one)
        with pytest.raises(ValueError, match="binary_score"):
            targets.pin(target, one)(one)
