"""Targets in words: the grammar, names that look like it, and the scores that are picked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, targets
from camfn._photos.classes import ClassChoice
from camfn._photos.names import class_of_photo
from camfn._photos.words import pick_detections, pick_target, refuse_words
from camfn._shared.errors import UsageError
from camfn.zoo import Loaded

PLANTS = ["rust", "scab", "healthy", "top", "a, b", "a", "b", "C++", "contrast:rust", "Leaf", "7", "rust+scab"]


def loaded(classes: list[str] | None = PLANTS) -> Loaded:
    return Loaded(nn.Identity(), lambda photo: torch.zeros(3, 2, 2), lambda photo: photo, classes, "net")


@pytest.mark.parametrize(
    ("words", "choice"),
    [
        ("rust", ClassChoice(0)),
        (" leaf ", ClassChoice(9)),
        ("1", ClassChoice(1)),
        ("index:1", ClassChoice(1)),
        ("class:top", ClassChoice(3)),
        ("'top'", ClassChoice(3)),
        ("7", ClassChoice(7)),  # a number is an index
        ("class:7", ClassChoice(10)),
        ("top:1", ClassChoice(None)),
        ("top:3", ClassChoice(None, 3)),
        ("contrast:scab", ClassChoice(1, form="contrast")),
        ("contrast:scab,healthy", ClassChoice(1, form="contrast", others=(2,))),
        ("contrast: scab , 2,class:top", ClassChoice(1, form="contrast", others=(2, 3))),
        ('contrast:"a, b",a', ClassChoice(4, form="contrast", others=(5,))),
        ("contrast:top:2", ClassChoice(None, 2, form="contrast")),
        ("probability:scab", ClassChoice(1, form="probability")),
        ("rest:index:0", ClassChoice(0, form="rest")),
        ("lower:2", ClassChoice(2, form="lower")),
        ("higher:scab", ClassChoice(1, form="higher")),
        ("lower:", ClassChoice(None, form="lower")),
        ("scab+healthy", ClassChoice(1, form="several", others=(2,))),
        ("scab + 'top' + 0", ClassChoice(1, form="several", others=(3, 0))),
        ("C++", ClassChoice(7)),
        ("a, b", ClassChoice(4)),
    ],
)
def test_words(words: str, choice: ClassChoice) -> None:
    assert pick_target(words, loaded()) == choice


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("top", "give --target class:top for the class of that name, or --target top:1"),
        ("rust+scab", """give --target class:rust.scab for the class of that name, or --target '"rust"."scab"'"""),
        (
            "contrast:rust",
            """give --target class:contrast:rust for the class of that name, or --target 'contrast:"rust"'""",
        ),
        (
            "contrast:a, b,scab",
            """--target 'contrast:"a, b",scab' for .*, or --target 'contrast:"a","b","scab"'""",
        ),
        ("rust+scab+healthy", """give --target '"rust.scab".healthy' for the class of that name"""),
        (
            "contrast:a, b",
            """--target 'contrast:"a, b"' for the class of that name, or --target 'contrast:"a","b"'""",
        ),
        ("probability:top", "is the name of a class, and more"),
        ("", "no class ''|an empty name"),
        ("top:0", "expected top or top:K"),
        ("top:", "expected top or top:K"),
        ("top:99", "net has 12 classes"),
        ("12", "class 12 is out of range"),
        ("-1", "out of range"),
        ("index:x", "expected a whole number"),
        ("scab+", "an empty name"),
        ("scab+scab", "each label once"),
        ("contrast:scab,scab", "each class once"),
        ("contrast:scab,", "an empty name"),
        ("ruts", "Did you mean 'rust'"),
        ("class:12", "no class '12'"),
        ("'rust", "a quote is open"),
        ("text:", "expected words"),
        ("text:a dog", "does not compare images with texts"),
    ],
)
def test_refused(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pick_target(words, loaded())


ODD = ["salt, coarse", "sugar", "a:b", "x+y", "O'Brien", '6" pipe', "'quoted'", "top:2", "probability:sugar"]


@pytest.mark.parametrize("name", ODD)
def test_each_odd_name_can_be_meant(name: str) -> None:
    index, net = ODD.index(name), loaded(ODD)
    assert pick_target(f"class:{name}", net) == ClassChoice(index)
    quoted = f'"{name}"' if '"' not in name else f"'{name}'"
    assert pick_target(quoted, net) == ClassChoice(index)
    assert pick_target(f"contrast:{quoted}", net) == ClassChoice(index, form="contrast")
    assert pick_target(f"probability:{quoted}", net) == ClassChoice(index, form="probability")
    if name != "sugar":
        assert pick_target(f"contrast:sugar,{quoted}", net) == ClassChoice(1, form="contrast", others=(index,))
        assert pick_target(f"{quoted}+sugar", net) == ClassChoice(index, form="several", others=(1,))


@pytest.mark.parametrize(
    ("words", "works"),
    [
        ("contrast:salt, coarse,sugar", 'contrast:"salt, coarse",sugar'),
        ("contrast:sugar,SALT, COARSE", 'contrast:sugar,"salt, coarse"'),
        ("sugar+x+y", 'sugar+"x+y"'),
        ("contrast:'quoted' thing,sugar", None),
        ("sugar+'quoted'", None),
    ],
)
def test_an_odd_name_in_a_list_is_given_with_its_quotes(words: str, works: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        pick_target(words, loaded(ODD))
    if works is not None:
        assert f"--target '{works}'" in str(caught.value)
        pick_target(works, loaded(ODD))


def test_no_target_is_the_best_class_whatever_classes_are_called() -> None:
    assert pick_target(None, loaded()) == ClassChoice(None)


@pytest.mark.parametrize("words", ["ruts", "contrast:", "top:99", "top", "rust+scab", "12", "", "text:"])
def test_names_that_are_known_are_asked_before_the_model_is_loaded(words: str) -> None:
    with pytest.raises(UsageError):
        refuse_words(words, "net", PLANTS)


@pytest.mark.parametrize("words", ["contrast:", "top:x", "top:0", "text: ", "", "rest:"])
def test_what_is_no_target_is_refused_before_the_model_is_loaded(words: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        refuse_words(words, "net", None)


@pytest.mark.parametrize(
    "words", [None, "top", "top:3", "tabby", "a+b", "contrast:x, y", "lower:", "higher:2", "text:a dog"]
)
def test_what_may_be_a_target_is_left_to_the_model(words: str | None) -> None:
    refuse_words(words, "net", None)


def test_without_names_there_are_indices() -> None:
    assert pick_target("contrast:3,1", loaded(None)) == ClassChoice(3, form="contrast", others=(1,))
    with pytest.raises(UsageError, match="class names of net are not known"):
        pick_target("rust", loaded(None))


LOGITS = torch.tensor([[1.0, 4.0, 3.0, -1.0], [2.0, 0.5, -3.0, 2.5]], requires_grad=True)


@pytest.mark.parametrize(
    ("choice", "target"),
    [
        (ClassChoice(2), targets.class_score(2)),
        (ClassChoice(None), targets.class_score(None)),
        (ClassChoice(2, form="probability"), targets.class_probability(2)),
        (ClassChoice(None, form="rest"), targets.rest(None)),
        (ClassChoice(2, form="contrast"), targets.contrast(2)),
        (ClassChoice(2, form="contrast", others=(0, 3)), targets.contrast(2, [0, 3])),
        (ClassChoice(2, form="lower"), targets.regression(2, sign=-1)),
        (ClassChoice(2, form="higher"), targets.regression(2)),
        (ClassChoice(2, form="several", others=(0,)), targets.several([2, 0])),
    ],
)
def test_the_score_is_the_target_of_the_library(choice: ClassChoice, target: Any) -> None:
    (picked,) = choice.pick(LOGITS)
    assert torch.equal(picked.score(LOGITS), target(LOGITS))


def test_the_best_classes_each_have_a_target() -> None:
    first, second = ClassChoice(None, 2, form="contrast").pick({"logits": LOGITS})
    assert first.classes is not None
    assert (first.classes.tolist(), second.classes.tolist()) == ([1, 3], [2, 0])  # type: ignore[union-attr]
    assert torch.equal(second.score(LOGITS), targets.contrast(torch.tensor([2, 0]))(LOGITS))


@pytest.mark.parametrize("numbers", [torch.tensor([3.0, -1.0]), torch.tensor([[3.0], [-1.0]])])
def test_one_number_a_photo(numbers: Tensor) -> None:
    for choice, sign in (
        (ClassChoice(0), 1),
        (ClassChoice(None, form="higher"), 1),
        (ClassChoice(0, form="lower"), -1),
    ):
        assert choice.pick(numbers)[0].score(numbers).tolist() == [3 * sign, -sign]
    for form in ("score", "contrast", "probability"):
        with pytest.raises(UsageError, match=r"one number a photo.*--target higher: "):
            ClassChoice(None, form=form).pick(numbers)


def test_outputs_that_are_no_logits_are_refused() -> None:
    with pytest.raises(UsageError, match="--task"):
        ClassChoice(None).pick(torch.zeros(1, 2, 3, 3))
    with pytest.raises(UsageError, match="say which, as in lower:0"):
        ClassChoice(None, form="lower").pick(LOGITS)
    with pytest.raises(UsageError, match="4 classes, 0 to 3"):
        ClassChoice(1, form="contrast", others=(4,)).pick(LOGITS)


@pytest.mark.parametrize(
    ("choice", "suffixes", "label"),
    [
        (ClassChoice(1), [".1"], "scab"),
        (ClassChoice(None), [""], "scab"),
        (ClassChoice(None, 2), [".top1", ".top2"], "scab"),
        (ClassChoice(1, form="contrast"), [".contrast.1"], "scab against the likest"),
        (ClassChoice(1, form="contrast", others=(0, 2)), [".contrast.1-0-2"], "scab against rust and healthy"),
        (ClassChoice(None, 2, form="rest"), [".rest.top1", ".rest.top2"], "ReST of scab"),
        (ClassChoice(1, form="lower"), [".lower.1"], "less scab"),
        (ClassChoice(1, form="several", others=(0,)), [".1+0"], "scab + rust"),
        (ClassChoice(None, form="text", text="a Photo/of: it"), [".text-a-photo-of-it"], "a Photo/of: it"),
    ],
)
def test_files_and_captions(choice: ClassChoice, suffixes: list[str], label: str) -> None:
    assert choice.suffixes == suffixes
    assert choice.label(1, PLANTS) == label


def test_the_record_of_a_target() -> None:
    logits = torch.tensor([1.0, 2.0])
    assert ClassChoice(1).record(1, 2.0, logits, ["a", "b"])["probability"] == pytest.approx(
        float(logits.softmax(0)[1])
    )
    assert ClassChoice(0).record(0, 2.0, logits[:1], None) == {
        "index": 0,
        "name": None,
        "score": 2.0,
        "probability": None,
    }
    assert set(ClassChoice(1).record(None, None, logits, ["a", "b"]).values()) == {None}
    assert ClassChoice(1).record(1, float("inf"), logits, None)["score"] is None


def test_folders_are_named_by_classes() -> None:
    assert class_of_photo("top", loaded()) == 3
    assert class_of_photo("3", loaded()) == 3
    assert class_of_photo("night_owl", loaded(["night owl"])) == 0
    with pytest.raises(UsageError, match="the index of a class and the name of class 10"):
        class_of_photo("7", loaded())
    with pytest.raises(CamfnError, match="out of range"):
        class_of_photo("99", loaded())


def test_a_class_called_as_a_rank_leaves_a_way_to_both() -> None:
    named = loaded(["top:3", "b", "c"])
    for pick in (pick_target, pick_detections):
        with pytest.raises(UsageError, match=r"--target class:top:3 .* --target 'top: 3'"):
            pick("top:3", named)
        assert pick("class:top:3", named).chosen == 0
        assert pick("top: 3", named).best == 3
