"""Lists in words: commas and spaces, options, quotes and brackets."""

from __future__ import annotations

from pathlib import Path

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


def test_a_file_with_spaces_in_its_path_needs_no_quotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "odd dir ü"
    folder.mkdir()
    (folder / "my file.py").touch()
    words = "fem, odd dir ü/my file.py:cam:k=2, eigen_cam grad_cam"
    assert split_list(words, "methods") == ["fem", "odd dir ü/my file.py:cam:k=2", "eigen_cam", "grad_cam"]
    assert split_list(f"{folder}/my file.py:cam", "methods") == [f"{folder}/my file.py:cam"]
    assert split_list("no file.py:cam", "methods") == ["no", "file.py:cam"]
    assert split_list(f"{'x' * 5000} a.py:cam", "methods")[1] == "a.py:cam"
