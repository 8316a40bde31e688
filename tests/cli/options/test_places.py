"""Every command refuses a place that it cannot write to, before any work, in one line."""

from __future__ import annotations

import errno
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from camfn import zoo
from camfn._shared.errors import UsageError
from camfn._shared.files import check_place
from camfn.cli._app import app
from camfn.cli._options.spellings import PLACES

from ..made import scenes_in

READ = {"photos", "photo", "file", "files", "folder", "network", "runtime", "weights", "like", "font"}
"""Parameters that may name files, which the commands read; `export` checks its files by `check_file`."""


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def commands(group: Any, *before: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        yield from commands(command, *before, name) if hasattr(command, "commands") else [((*before, name), command)]


PLACED = [
    (words, parameter.name)
    for words, command in commands(typer.main.get_command(app))
    for parameter in command.params
    if parameter.name in PLACES
]


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be loaded."""

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(zoo, "load", load)


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize(("words", "option"), PLACED, ids=str)
def test_a_command_refuses_it_before_any_work(words: tuple[str, ...], option: str, tmp_path: Path) -> None:
    photos = scenes_in(tmp_path / "photos", 1)
    (tmp_path / "file").write_text("")
    alone: dict[str, list[object]] = {"table": [], "export": [], "suite": [tmp_path]}
    asked = alone.get(words[0], [photos / "0.png"])
    asked += {"concepts": ["--class", "0"], "words": ["--model", "a", "--ask", "?"]}.get(words[0], [])
    place = tmp_path / "file" / "deep" / "er.png"
    result = run(*words, *asked, f"--{option}", place)
    assert result.exit_code == 2, result.output
    assert result.stderr == f"camfn: --{option} {place}: cannot write to {tmp_path / 'file'}: it is no folder; " + (
        f"choose another --{option}\n"
    )


def test_every_option_that_names_what_is_written_is_known() -> None:
    """An option of type Path is in `PLACES`, or of what a command reads."""
    found = set()
    for _, command in commands(typer.main.get_command(app)):
        hints = inspect.signature(command.callback).parameters
        found |= {name for name, hint in hints.items() if "Path" in str(hint.annotation)}
    assert {"out", "page", "latex", "bib"} < found
    assert found - READ <= set(PLACES)


@pytest.mark.parametrize("place", ["new", "new/deep/name.png", "there", "there/name.png"])
def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path: Path, place: str) -> None:
    (tmp_path / "there").mkdir()
    check_place(tmp_path / place, "--out")
    check_place(tmp_path / place, "--out", folder=True)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_names_are_as_long_as_the_disk_takes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--out .*: cannot write to .*: file name too long; choose another --out"):
        check_place(tmp_path / f"{'n' * 250}.png", "--out")


def test_a_link_to_nothing_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    with pytest.raises(UsageError, match="it is no folder"):
        check_place(tmp_path / "link", "--out", folder=True)
    check_place(tmp_path / "link", "--out")


def test_a_pipe_is_left_to_the_command() -> None:
    check_place(Path("/dev/stdout"), "--latex")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """What the system says when it tries, whoever asks: root may write to any folder but not to any disk."""

    def refuse(path: Any, *_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(UsageError, match=rf"cannot write to {tmp_path}: {os.strerror(code).lower()}; choose another"):
        check_place(tmp_path / "a", "--out")
