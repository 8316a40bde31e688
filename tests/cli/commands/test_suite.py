"""The suite on the command line: a third party's submission is made, verified, and shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from camfn.cli._app import app
from camfn.cli._commands.suite import _Lines, print_grid
from camfn.evaluate._tables.grid import Cell, Grid

MINE = '''"""A third party's method and metric."""


def mine(activations, grads, outputs=None):
    """HiResCAM, by another hand."""
    return (grads * activations).sum(1)


def peak(heatmap):
    """Share of the greatest tenth."""
    flat = heatmap.flatten().sort().values
    return flat[-len(flat) // 10 :].sum() / flat.sum()


peak.better = "higher"
'''


def invoke(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


def test_the_quick_start_and_a_third_partys_submission(tmp_path: Path) -> None:
    """The quick start of the docs with few scenes, and a method and a metric of one's own beside it."""
    (tmp_path / "mine.py").write_text(MINE)
    out, tex, markdown, bib, board = (tmp_path / name for name in ("out", "a.tex", "a.md", "a.bib", "board.csv"))
    options = ["--models", "tiny:cnn", "--scenes", "2", "--grids", "1", "--out", str(out)]
    methods = f"cheap, {tmp_path / 'mine.py'}:mine"
    metrics = f"complexity, {tmp_path / 'mine.py'}:peak"
    run = ["evaluate", "--suite", "truth", *options, "--methods", methods, "--metrics", metrics]
    code, text = invoke(*run, "--latex", str(tex), "--bib", str(bib))
    assert code == 0, text
    assert "hires_cam" in text
    assert "mine.py:mine" in text
    assert "peak" in text
    assert tex.read_text().count("tabular") == 16
    assert "graphicx,xcolor}" in tex.read_text()
    assert "rao2022better" in bib.read_text()
    code, text = invoke("suite", "verify", str(out))
    assert code == 0, text
    assert "verified" in text
    assert "NOT" not in text
    said = ["--by", "somebody", "--date", "2026-01-01", "--commit", "0123abc"]
    code, text = invoke(
        "suite", "table", str(out), "--board", str(board), *said, "--plain", "--markdown", str(markdown)
    )
    assert code == 0, text
    assert markdown.read_text().count("\n|---") == 8
    assert "camfn-truth/1:grid2x2@tiny:cnn#" in board.read_text()
    assert ",0123abc,somebody,2026-01-01," in board.read_text()
    assert invoke("suite", "table", str(out), "--by", "somebody")[0] == 2


def test_options_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    code, text = invoke("evaluate", "--suite", "truth", "--target", "top", "--out", str(tmp_path))
    assert code == 2
    assert "frozen protocol" in text
    code, text = invoke("evaluate", "--tracks", "grid", "--out", str(tmp_path))
    assert code == 2
    assert "add --suite truth" in text
    code, text = invoke("evaluate", "--suite", "lies", "--out", str(tmp_path))
    assert code == 2
    assert "one suite, truth" in text
    code, text = invoke("suite", "table", str(tmp_path))
    assert code == 2
    assert "no run of the suite" in text


def test_files_that_cannot_be_written_are_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("path,class\na,cat\n")
    run = ["evaluate", "--suite", "truth", "--models", "tiny:cnn", "--out", str(tmp_path / "out")]
    table = ["suite", "table", str(tmp_path)]
    for words in ([*run, "--latex"], [*run, "--bib"], [*table, "--markdown"], [*table, "--bib"], [*table, "--board"]):
        for path in (tmp_path, tmp_path / "none" / "a.txt"):
            code, text = invoke(*words, str(path))
            assert code == 2, text
            assert "expected a file in a folder" in " ".join(text.split())
    code, text = invoke(*table, "--board", str(tmp_path / "other.csv"))
    assert (code, "is no leaderboard" in " ".join(text.split())) == (2, True)
    assert not (tmp_path / "out").exists()


def test_gray_is_dim_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    print_grid(
        Grid("a", [("method", ""), ("(x)", "")], [[Cell("cam"), Cell(".5", gray=True)]], [False], [], "tab:a", [1])
    )
    text = capsys.readouterr().out
    assert "\x1b[2m  (x)\x1b[0m" in text
    assert "\x1b[2m   .5\x1b[0m" in text
    assert "\x1b[2mcam" not in text


def test_a_map_of_nan_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def nan(activations):\n    return activations.sum(1) * float('nan')\n")
    words = ["--models", "tiny:cnn", "--tracks", "single", "--scenes", "1", "--out", str(tmp_path / "out")]
    code, text = invoke("evaluate", "--suite", "truth", "--methods", f"grad_cam, {tmp_path / 'bad.py'}:nan", *words)
    assert code == 1, text
    assert "values that are not finite" in text


def test_a_log_says_how_far_a_run_is(capsys: pytest.CaptureFixture[str]) -> None:
    often, seldom = _Lines("lite0", every=0), _Lines("lite2")
    for done in (1, 2):
        often(done, 9)
        seldom(done, 9)
    assert capsys.readouterr().err.splitlines() == ["lite0: 1 of 9 rows", "lite0: 2 of 9 rows"]


def test_tables_of_a_folder_that_cannot_be_written_to_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The submission of another may lie on a disk that takes no writes."""
    from camfn.evaluate import Suite, truth

    truth("tiny:cnn", "grad_cam", tmp_path, suite=Suite(tracks=("tiny",), scenes=1))

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("camfn.evaluate._suite.board.write_file", refuse)
    monkeypatch.setattr("camfn.evaluate._suite.report.write_file", refuse)
    code, text = invoke("suite", "table", str(tmp_path))
    assert code == 0, text
    assert "own_share" in text
    assert "leaderboard.csv is not written: Read-only file system" in text
    assert "report.html is not written: Read-only file system" in text
