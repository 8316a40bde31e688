"""Lists in words: commas and spaces, options, quotes and brackets."""

from __future__ import annotations

import pytest

from camfn._shared.errors import UsageError
from camfn._shared.lists import split_list


@pytest.mark.parametrize(
    ("words", "items"),
    [
        ("a,b", ["a", "b"]),
        (" a , b ,", ["a", "b"]),
        ("a b", ["a", "b"]),
        ("a,\n b,a", ["a", "b"]),
        ("rise:samples=8,cells=(3,4) fem", ["rise:samples=8,cells=(3,4)", "fem"]),
        ("rise:samples=8 , cells=3", ["rise:samples=8,cells=3"]),
        ("score_cam:top_k=0.1|0.2, fem", ["score_cam:top_k=0.1|0.2", "fem"]),
        ("m.py:f:by='a, b',k=1,fem", ["m.py:f:by='a, b',k=1", "fem"]),
        ("'my file.py:f', \"x,y\"", ["my file.py:f", "x,y"]),
        ("cook's,b", ["cook's", "b"]),
    ],
)
def test_items(words: str, items: list[str]) -> None:
    assert split_list(words, "methods") == items


@pytest.mark.parametrize(
    ("words", "message"),
    [("", "separated by commas"), (" , ", "separated"), ("'a", "a quote"), ("a:k=(1,2", "a bracket")],
)
def test_refused(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split_list(words, "methods")
