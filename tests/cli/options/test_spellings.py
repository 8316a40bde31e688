"""Both spellings of the options for one or several things, in every command."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("typer", reason="needs typer: pip install 'camfn[cli]'")

import typer
from PIL import Image
from typer.testing import CliRunner

from camfn.cli._app import app
from camfn.cli._options.spellings import WORDS, respelled

COMMANDS = dict(typer.main.get_command(app).commands.items())  # type: ignore[attr-defined]


def options_of(name: str) -> set[str]:
    return {option for parameter in COMMANDS[name].params for option in parameter.opts}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_has_one_spelling_and_takes_both(name: str) -> None:
    known = options_of(name)
    for word in WORDS:
        one, several = f"--{word}", f"--{word}s"
        if {one, several} <= known:
            assert respelled([one, "a", several, "b"], known) == [one, "a", several, "b"]
        elif {one, several} & known:
            (own,) = {one, several} & known
            assert respelled([one, "a", f"{several}=b"], known) == [own, "a", f"{own}=b"]
        else:
            assert respelled([one, several], known) == [one, several]


def test_help_shows_one_spelling() -> None:
    text = CliRunner().invoke(app, ["explain", "--help"], env={"COLUMNS": "200"}).stdout
    assert "--method " in text
    assert "--methods" not in text


def test_from_a_shell(tmp_path: Path) -> None:
    Image.effect_noise((40, 40), 90).convert("RGB").save(tmp_path / "a.png")
    words = ["explain", f"{tmp_path}/a.png", "--models", "tiny:cnn", "--methods=eigen_cam", "--formats", "npy"]
    done = CliRunner().invoke(app, [*words, "--out", f"{tmp_path}/out"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "a.eigen_cam.npy").exists()
    other = ["compare", f"{tmp_path}/a.png", "--model", "tiny:cnn", "--method", "fem,eigen_cam", "--targets", "3"]
    assert CliRunner().invoke(app, [*other, "--out", f"{tmp_path}/c.png"]).exit_code == 0
    refused = CliRunner().invoke(app, ["tune", "--by", "no_such", "--method", "fem", "--out", f"{tmp_path}/t"])
    assert refused.exit_code == 2
    assert "no_such" in refused.stderr
