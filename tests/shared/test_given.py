"""Functions that a user names: what is found, and what is said where nothing is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from camfn._shared.errors import LoadError, UsageError
from camfn._shared.given import is_given, named_object, raised_by_given


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_the_forms() -> None:
    for text in ("a.py:f", "/x/y z.py:f", "C:/x/a.py:f", "a.b:f", "a:f", "../a.py:F"):
        assert is_given(text), text
    for text in ("a.py", "f", "a:", ":f", "a b:f", "a:f=1", "a:1", "timm:resnet10t.c3_in1k", "", "a.:f", "a.py:f.g"):
        assert not is_given(text), text


def test_a_function_of_a_file_with_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_mine.py").write_text("VALUE = 3\n")
    file = tmp_path / "my net.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom neighbour_of_mine import VALUE\n\n\n"
        "@dataclass\nclass Pair:\n    a: int\n"
        "\n\ndef build():\n    import neighbour_of_mine\n    return Pair(VALUE)\n"
    )
    build = named_object(f"{file}:build", "--model")
    assert build().a == 3
    assert named_object(f"{file}:build", "--model") is build
    file.write_text("def build():\n    return 'another'\n")
    assert named_object(f"{file}:build", "--model")() == "another"


def test_a_function_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_of_camfn").mkdir()
    (tmp_path / "mine_of_camfn" / "nets.py").write_text("def build():\n    return 5\n")
    monkeypatch.chdir(tmp_path)
    assert named_object("mine_of_camfn.nets:build", "--model")() == 5


@pytest.mark.parametrize(
    ("code", "name", "words"),
    [
        ("def build(): ...", "biuld", r"has no 'biuld'\. Did you mean 'build'\?"),
        ("1 / 0", "f", r"ZeroDivisionError: division by zero \(.*mine.py, line 1\)"),
        ("x = (", "f", r"SyntaxError: '\(' was never closed \(.*mine.py, line 1\)"),
        ("import nothing_of_this_name", "f", "No module named 'nothing_of_this_name'"),
        ("raise SystemExit('usage: mine.py')", "f", "SystemExit: usage"),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, code: str, name: str, words: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(code + "\n")
    with pytest.raises(LoadError, match=words) as caught:
        named_object(f"{file}:{name}", "--model", error=LoadError)
    assert "\n" not in str(caught.value)
    assert "--model" in str(caught.value)


def test_no_file_and_no_module() -> None:
    with pytest.raises(UsageError, match=r"there is no file absent\.py"):
        named_object("absent.py:f", "--method")
    with pytest.raises(UsageError, match="No module named 'absent_of_camfn'"):
        named_object("absent_of_camfn.deep:f", "--method")
    with pytest.raises(UsageError, match=r"expected file.py:function or package.module:function"):
        named_object("grad_cam", "--method")


def test_an_error_is_laid_to_the_code_that_called_the_library(tmp_path: Path) -> None:
    """What torch raises inside a user's function is the user's; what camfn raises is not, nor is a stranger's."""
    file = tmp_path / "lib.py"
    file.write_text(
        "import torch\nfrom camfn._shared.given import named_object\n\n"
        "def own():\n    return torch.ones(2) @ torch.ones(3)\n\n"
        "def through():\n    return named_object(3, '')\n"
    )
    own, through = (named_object(f"{file}:{name}", "method") for name in ("own", "through"))
    with pytest.raises(RuntimeError) as raised:
        own()
    assert raised_by_given(raised.value) == f"{file.resolve()}, line 5, in own"
    with pytest.raises(AttributeError) as raised_inside:
        through()
    assert raised_by_given(raised_inside.value) is None
    assert raised_by_given(RuntimeError("never raised")) is None
