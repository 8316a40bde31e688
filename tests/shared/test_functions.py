"""Functions in words: files and modules, imported once, and what cannot be imported refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from camfn._shared.errors import LoadError, UsageError
from camfn._shared.functions import function_named, names_function


def test_a_function_of_a_file_and_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "helper_of_mine.py").write_text("K = 3\n")
    (tmp_path / "my methods.py").write_text("from helper_of_mine import K\ndef double(x):\n    return 2 * x + K\n")
    path = list(sys.path)
    found = function_named(f"{tmp_path}/my methods.py:double")
    assert found(2) == 7
    assert function_named(f"{tmp_path}/my methods.py:double") is found  # one import, one function
    monkeypatch.chdir(tmp_path)
    (tmp_path / "module_of_mine.py").write_text("def half(x):\n    return x / 2\n")
    assert function_named("module_of_mine:half")(4) == 2
    assert function_named("os.path:join")("a", "b")
    assert sys.path == path


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def f():\n    return 1\n")
    first = function_named(f"{file}:f")
    file.write_text("def f():\n    return 2\n")
    assert (first(), function_named(f"{file}:f")()) == (1, 2)


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        (None, "mine.py:f", "cannot read the file"),
        ("", "mine.py:f", "has no 'f'"),
        ("def full(): ...", "mine.py:fulll", "Did you mean 'full'"),
        ("f = 3", "mine.py:f", "expected a function, and f is of type int"),
        ("def f(:", "mine.py:f", "SyntaxError in line 1"),
        ("x = 1\nx.nothing", "mine.py:f", "AttributeError in line 2 of mine.py"),
        ("import no_such_package", "mine.py:f", "No module named 'no_such_package'"),
        ("", "no_such_package.part:f", "No module named 'no_such_package'"),
        ("", "mine.py:", "expected file.py:name"),
        ("", "mine.py:a b", "expected file.py:name"),
    ],
)
def test_what_cannot_be_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, words: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "mine.py").write_text(content)
    with pytest.raises(UsageError, match=message):
        function_named(words)
    with pytest.raises(LoadError, match=message):
        function_named(words, what="model", error=LoadError)


@pytest.mark.parametrize("words", ["grad_cam", "score_cam:top_k=0.1", "contrast:", ":f", "hf:a/b", "a b:f"])
def test_other_words_name_no_function(words: str) -> None:
    assert not names_function(words)
