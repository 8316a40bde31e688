"""The suite on the command line: a third party's submission is made, verified, and shown."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from camfn.cli._app import app

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
    out, tex, bib, board = (tmp_path / name for name in ("out", "a.tex", "a.bib", "board.csv"))
    options = ["--models", "tiny:cnn", "--scenes", "2", "--grids", "1", "--out", str(out)]
    methods = f"cheap, {tmp_path / 'mine.py'}:mine"
    metrics = f"complexity, {tmp_path / 'mine.py'}:peak"
    run = ["evaluate", "--suite", "truth", *options, "--methods", methods, "--metrics", metrics]
    code, text = invoke(*run, "--latex", str(tex), "--bib", str(bib))
    assert code == 0, text
    assert "hires_cam" in text
    assert "mine.py:mine" in text
    assert "peak" in text
    assert tex.read_text().count("tabular") == 14
    assert "rao2022better" in bib.read_text()
    code, text = invoke("suite", "verify", str(out))
    assert code == 0, text
    assert "verified" in text
    assert "NOT" not in text
    code, text = invoke("suite", "table", str(out), "--board", str(board), "--plain")
    assert code == 0, text
    assert "camfn-truth/1:grid2x2@tiny:cnn#" in board.read_text()


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
    for words in ([*run, "--latex"], [*run, "--bib"], [*table, "--latex"], [*table, "--bib"], [*table, "--board"]):
        for path in (tmp_path, tmp_path / "none" / "a.txt"):
            code, text = invoke(*words, str(path))
            assert code == 2, text
            assert "expected a file in a folder" in " ".join(text.split())
    code, text = invoke(*table, "--board", str(tmp_path / "other.csv"))
    assert (code, "is no leaderboard" in " ".join(text.split())) == (2, True)
    assert not (tmp_path / "out").exists()
