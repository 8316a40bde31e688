"""`near`: which names are close to one that does not exist."""

from __future__ import annotations

from camfn._shared.spelling import near


def test_names_that_end_alike_come_first() -> None:
    assert near("conv", ["conf", "pair.conv"]) == "Did you mean 'pair.conv' or 'conf'?"


def test_names_that_have_the_text_as_a_word_come_before_those_spelled_like_it() -> None:
    assert (
        near("cat", ["cart", "tiger cat", "wild_cat"], words=True)
        == "Did you mean 'tiger cat' or 'wild_cat' or 'cart'?"
    )


def test_the_case_of_letters_does_not_count() -> None:
    assert near("TABYB", ["Tabby"]) == "Did you mean 'Tabby'?"


def test_at_most_four_names_each_once() -> None:
    names = [f"a.{i}.bn" for i in range(9)]
    assert near("bn", names).count(" or ") == 2
    assert near("a.1.bm", [*names, "a.1.bm.bn"]).count("'a.1.bn'") == 1


def test_without_a_close_name_the_first_are_named() -> None:
    assert near("zzz", ["", "stem", "body"]) == "It has 'stem', 'body'."
    assert near("zzz", [str(i) for i in range(10)]).endswith("'7' ....")
    assert near("zzz", ["stem"], instead="See the list.") == "See the list."


def test_a_name_is_written_as_asked() -> None:
    specs = {"resnet18": "torchvision:resnet18"}
    assert near("resnet19", specs, show=specs.__getitem__) == "Did you mean torchvision:resnet18?"
