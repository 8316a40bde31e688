"""Exit codes of the command line: 2 for a refusal of camfn, 70 for every other exception."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from camfn import CamfnError, CaptureError
from camfn._shared.errors import ArgumentTypeError, LoadError, MissingPackageError, PhotoError, UsageError
from camfn.cli import main
from camfn.cli._app import app
from camfn.cli._terminal.terminal import refusals


def ended_with(error: BaseException, env: dict[str, str] | None = None) -> Result:
    """Run a command whose body raises an exception."""
    command = typer.Typer(pretty_exceptions_enable=False)

    @command.command()
    def body() -> None:
        with refusals():
            raise error

    return CliRunner().invoke(command, [], env={"CAMFN_TRACEBACK": None, **(env or {})})


@pytest.mark.parametrize(
    "kind",
    [
        CamfnError,
        CaptureError,
        LoadError,
        PhotoError,
        UsageError,
        ArgumentTypeError,
        MissingPackageError,
    ],
)
def test_a_refusal_is_one_line_and_exit_code_2(kind: Callable[[str], Exception]) -> None:
    result = ended_with(kind("no layer 'a'.\n  Take 'b'"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "camfn: no layer 'a'. Take 'b'\n"


@pytest.mark.parametrize(
    "error", [ValueError("first line\nsecond"), RuntimeError("first line"), OSError("first line"), KeyError("first")]
)
def test_any_other_exception_is_exit_code_70(error: Exception) -> None:
    result = ended_with(error)
    assert (result.exit_code, result.stdout) == (70, "")
    assert result.stderr.startswith("camfn: a bug of camfn, or an accident")
    assert result.stderr.count("\n") == 1
    for words in (type(error).__name__, "first", "CAMFN_TRACEBACK=1"):
        assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert "second" not in result.stderr


def test_an_exception_without_a_message_is_named() -> None:
    assert "AssertionError. Set" in ended_with(AssertionError()).stderr


def test_the_traceback_is_printed_on_demand() -> None:
    result = ended_with(RuntimeError("broken"), {"CAMFN_TRACEBACK": "1"})
    assert result.exit_code == 70
    assert "Traceback (most recent call last)" in result.stderr
    assert "raise error" in result.stderr
    assert "Traceback" not in ended_with(RuntimeError("broken"), {"CAMFN_TRACEBACK": "0"}).stderr
    assert "Traceback" not in ended_with(CamfnError("refused"), {"CAMFN_TRACEBACK": "1"}).stderr


def test_an_interruption_and_an_exit_keep_their_codes() -> None:
    assert ended_with(KeyboardInterrupt()).exit_code == 130
    assert ended_with(typer.Exit(1)).exit_code == 1
    assert ended_with(typer.BadParameter("no")).exit_code == 2


def test_a_command_ends_with_70_where_a_library_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("a library's own")

    monkeypatch.setattr("camfn.zoo.load", broken)
    (tmp_path / "a.png").touch()
    result = CliRunner().invoke(app, ["explain", str(tmp_path / "a.png"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 70
    assert "ValueError: a library's own" in result.stderr


@pytest.mark.parametrize("option", ["--method", "--preprocess"])
def test_an_error_in_a_function_of_ones_own_is_not_a_bug_of_camfn(option: str, tmp_path: Path) -> None:
    """The message names the file, the line and the function, whichever option named the function."""
    file = tmp_path / "mine.py"
    file.write_text(
        "def cam(activations, grads, outputs):\n    raise KeyError('oops')\n\n"
        "def prepare(photo):\n    raise KeyError('oops')\nprepare.view = lambda photo: photo\n"
    )
    photo = tmp_path / "a.png"
    Image.new("RGB", (40, 40), "teal").save(photo)
    name = {"--method": "cam", "--preprocess": "prepare"}[option]
    words = ["explain", str(photo), "--model", "tiny:cnn", "--out", str(tmp_path / "out"), option, f"{file}:{name}"]
    result = CliRunner().invoke(app, words)
    assert f"{file}, line {2 if name == 'cam' else 5}" in result.stderr
    assert "bug of camfn" not in result.stderr


def test_main_reports_what_happens_outside_of_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("at the start")

    monkeypatch.setattr("camfn.cli._app.app", broken)
    monkeypatch.setattr(sys, "argv", ["camfn", "methods"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 70
    assert "RuntimeError: at the start" in capsys.readouterr().err


def test_a_mistake_in_ones_own_code_is_laid_there(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text("def lost(activations, grads, *, forward):\n    return forward(activations)\n")
    Image.new("RGB", (70, 70)).save(tmp_path / "photo.png")
    words = ["explain", str(tmp_path / "photo.png"), "--model", "tiny:cnn", "--method", f"{code}:lost"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert done.exit_code == 70
    assert f"a mistake in your code ({code}, line 2, in lost)" in done.stderr
