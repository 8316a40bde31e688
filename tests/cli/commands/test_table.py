"""A new user's story from a shell: a method of one's own beside eight others on twenty photos, to a LaTeX table."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("typer", reason="needs typer: pip install 'camfn[cli]'")
pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'camfn[evaluate]'")

from typer.testing import CliRunner

from camfn import evaluate, image, tiny
from camfn.cli._app import app
from camfn.cli._terminal.tables import sentence_of
from camfn.evaluate import Difference, Store
from tests.evaluate.tables.test_grid import check_latex

from ..test_stories import shell

MINE = '''
def squared_cam(activations, grads, outputs=None, *, power=2):
    """Grad-CAM of squared products."""
    return (grads * activations).clamp(min=0).pow(power).sum(1)


def spread(heatmap):
    """Share of the image above half of the largest value."""
    return (heatmap > 0.5).float().mean()
'''
OTHERS = "grad_cam,layer_cam,grad_cam_plusplus,xgrad_cam,eigen_cam,eigen_grad_cam,fem,score_cam:top_k=0.1"
COMMAND = (
    f"camfn evaluate photos.csv --models tiny:cnn --methods mine.py:squared_cam,{OTHERS} "
    "--metrics energy_in_box,iou,average_drop,mine.py:spread:better=lower --out results --device cpu"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty photos with the box of one digit, and a file of one's own."""
    made = tmp_path_factory.mktemp("a user's work")
    found = tiny.scenes(20, generator=torch.Generator().manual_seed(3))
    lines = ["path,class,x0,y0,x1,y1"]
    for i in range(20):
        image.save(found.images[i], made / f"{i:02}.png")
        box = found.boxes[i, 0].tolist()
        lines.append(",".join(map(str, [f"{i:02}.png", int(found.labels[i, 0]), *box])))
    (made / "photos.csv").write_text("\n".join(lines) + "\n")
    (made / "mine.py").write_text(MINE)
    return made


@pytest.fixture(scope="module")
def done(made: Path) -> subprocess.CompletedProcess[str]:
    """The story: the command that the user typed."""
    return shell(made, f"{COMMAND} --against mine.py:squared_cam --latex table.tex --markdown t.md --ranks ranks.pdf")


@pytest.fixture
def folder(made: Path, done: subprocess.CompletedProcess[str]) -> Path:
    """The folder after the command."""
    assert done.returncode == 0
    return made


def test_a_method_of_ones_own_beside_eight_others_to_a_latex_table(
    folder: Path, done: subprocess.CompletedProcess[str]
) -> None:
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "tiny:cnn: 20 photos, best first by energy_in_box (higher is better)"
    assert max(map(len, lines)) <= 100
    names = ["squared_cam", *OTHERS.split(","), "center", "random"]
    assert all(sum(line.startswith(f"{name} ") for line in lines) == 2 for name in names if name != "squared_cam")
    ranked = [line for line in lines[2:20] if line.startswith(tuple(f"{name} " for name in names))]
    assert len(ranked) == 11
    assert ranked[0].split()[1].endswith("*+")
    assert "tiny:cnn: squared_cam against the others by energy_in_box, photo by photo" in lines
    # what is printed is what stands in the LaTeX and Markdown tables
    latex = (folder / "table.tex").read_text()
    check_latex(latex)
    assert latex.count(r"\begin{table}") == 2
    assert r"\usepackage{booktabs,graphicx}" in latex
    assert all(name.replace("_", r"\_") in latex for name in [*names, "spread"])
    assert ranked[0].split()[1].strip("*=+-") in latex
    assert (folder / "t.md").read_text().count("\n| ") >= 2 + 11 + 10
    assert (folder / "ranks.pdf").read_bytes().startswith(b"%PDF")


def test_again_it_prints_without_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = (folder / "results" / "report.html").stat().st_mtime_ns

    def refuse(name: str) -> None:
        raise AssertionError(name)

    for function in (evaluate.run, evaluate.write_report):
        monkeypatch.setattr(function, "__kwdefaults__", {**(function.__kwdefaults__ or {}), "loader": refuse})
    monkeypatch.chdir(folder)
    again = CliRunner().invoke(app, COMMAND.split()[1:])
    assert (again.exit_code, again.stderr) == (0, "")
    assert "best first by energy_in_box" in again.stdout
    assert (folder / "results" / "report.html").stat().st_mtime_ns == report


def test_results_are_read_without_running(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (folder / "results").iterdir())
    monkeypatch.chdir(folder)
    words = "table results --by iou --wide --against grad_cam --ranks ranks.svg"
    done = CliRunner().invoke(app, words.split())
    assert (done.exit_code, done.stderr) == (0, "")
    assert "best first by iou" in done.stdout
    assert "seconds" in done.stdout
    assert "<svg" in (folder / "ranks.svg").read_text()
    after = sorted((path.name, path.stat().st_mtime_ns) for path in (folder / "results").iterdir())
    assert after == before
    assert len(Store(folder / "results").rows) == 20 * 11


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("table nowhere", "no results in nowhere"),
        ("table results --against grad_cams", "no method 'grad_cams'"),
        ("table results --by beauty", "cannot rank by 'beauty'"),
        ("table results --latex lost/table.tex", "--latex lost/table.tex: expected a file in a folder that exists"),
        ("table results --latex results", "expected a file in a folder"),
        ("table results --ranks ranks.gif", "expected a file that ends in .pdf, .svg or .png"),
        (COMMAND.partition(" ")[2] + " --against fems", "no method 'fems'"),
        (COMMAND.partition(" ")[2] + " --markdown lost/t.md", "expected a file in a folder"),
    ],
)
def test_refused_in_one_line(folder: Path, words: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code in (1, 2)
    assert done.stderr.startswith("camfn: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (
            (0.1, -0.053, 0.307, 0.04, 0.04, 10),
            "not told apart from center: the difference is -0.053 to +0.307, p 0.04",
        ),
        ((0.1, 0.053, 0.307, 0.01, 0.02, 10), "better than center by 0.053 to 0.307, p 0.02"),
        ((-0.1, -0.307, -0.053, 0.01, 0.02, 10), "worse than center by 0.053 to 0.307, p 0.02"),
        ((0.1, 0.053, 0.307, None, None, 10), "better than center by 0.053 to 0.307"),
        ((0.1, 0.053, 0.307, 0.06, 0.06, 5), "not told apart from center: the difference is +0.053 to +0.307, p 0.06"),
    ],
)
def test_what_tune_says_of_a_difference(numbers: tuple[Any, ...], said: str) -> None:
    assert sentence_of(Difference("net auto a", "net auto center", *numbers), "center") == said
