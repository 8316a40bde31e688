"""`camfn evaluate` and `camfn tune` (camfn/cli/_commands/evaluate.py), which print what `camfn.evaluate` finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer", reason="needs typer: pip install 'camfn[cli]'")
pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'camfn[evaluate]'")
from typer.testing import CliRunner

from camfn import evaluate as ev
from camfn.cli._app import app
from camfn.evaluate import Photo, run
from tests.evaluate.common import load_net


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr("camfn.evaluate._runs.run.load", load_net)
    monkeypatch.setattr("camfn.evaluate.run.__kwdefaults__", {**(run.__kwdefaults__ or {}), "loader": load_net})
    report = ev.write_report
    monkeypatch.setattr(
        "camfn.evaluate.write_report.__kwdefaults__", {**(report.__kwdefaults__ or {}), "loader": load_net}
    )
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_evaluate_prints_a_table_and_writes_a_report(
    command: Callable[..., Any], photos: list[Photo], tmp_path: Path
) -> None:
    words: list[object] = ["evaluate", tmp_path / "photos.csv", "--models", "net", "--methods", "grad_cam layer_cam"]
    words += ["--layers", "last", "--metrics", "energy_in_box deletion", "--step", "0.25", "--device", "cpu"]
    words += ["--out", tmp_path / "out"]
    result = command(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    assert all(
        word in result.stdout for word in ("grad_cam @ last", "center", "random", "report.html", "energy_in_box")
    )
    again = command(*words)
    assert again.exit_code == 0
    assert again.stdout == result.stdout


def test_evaluate_ends_with_one_for_a_corrupt_photo(
    command: Callable[..., Any], photos: list[Photo], tmp_path: Path
) -> None:
    photos[0].path.write_text("no image")
    result = command(
        "evaluate", tmp_path / "photos.csv", "--models", "net", "--methods", "grad_cam", "--layers", "last",
        "--metrics", "complexity", "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "cannot read the photo" in result.stderr


def test_evaluate_refuses_in_one_line(command: Callable[..., Any], tmp_path: Path) -> None:
    for words in (
        ("evaluate", tmp_path / "lost"),
        ("evaluate", "builtin", "--metrics", "beauty"),
        ("evaluate", "builtin", "--by", "entropy"),
        ("tune", tmp_path / "lost"),
    ):
        result = command(*words, "--out", tmp_path / "out")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("camfn: ")
        assert result.stderr.count("\n") == 1


def test_tune_says_what_the_choice_does_elsewhere(
    command: Callable[..., Any], photos: list[Photo], tmp_path: Path
) -> None:
    result = command(
        "tune", tmp_path / "photos.csv", "--model", "net", "--methods", "grad_cam eigen_cam",
        "--layers", "last features", "--out", tmp_path / "out", "--latex", tmp_path / "t.tex",
        "--markdown", tmp_path / "t.md",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "best: net" in result.stdout
    assert "on 2 photos held out: energy_in_box" in result.stdout
    assert result.stdout.endswith(f"{tmp_path / 't.tex'}\n{tmp_path / 't.md'}\n")
    assert (tmp_path / "t.tex").read_text().count(r"\begin{table}") == 2
    markdown = (tmp_path / "t.md").read_text()
    assert "photo by photo, on the photos held out." in markdown
    assert "| *center* |" in markdown


def test_tune_refuses_a_file_in_no_folder(command: Callable[..., Any], photos: list[Photo], tmp_path: Path) -> None:
    result = command("tune", tmp_path / "photos.csv", "--latex", tmp_path / "no" / "t.tex", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "--latex" in result.stderr
