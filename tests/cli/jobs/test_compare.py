"""The grid of photos and methods: its rows, its captions, the columns that are joined."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner, Result

from camfn import image
from camfn.cli._app import app
from camfn.cli._commands import pictures
from camfn.cli._jobs.compare import Shown, _said, joined
from camfn.evaluate import Photo, Protocol, Row, cases, evaluate_photo, rank
from camfn.zoo import load

from ..made import scenes_in

MODEL = ("--model", "tiny:cnn", "--layer", "body")


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, words)])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return scenes_in(tmp_path / "photos", 3)


@pytest.fixture
def captions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The captions of the last montage."""
    drawn: list[str] = []
    montage = image.montage

    def kept(pictures: Any, texts: list[str], **options: Any) -> Tensor:
        drawn[:] = texts
        return montage(pictures, texts, **options)

    monkeypatch.setattr(image, "montage", kept)
    return drawn


def test_a_row_for_each_photo_and_a_column_for_each_method(photos: Path, tmp_path: Path, captions: list[str]) -> None:
    out = tmp_path / "grid.png"
    result = run(photos, *MODEL, "--methods", "grad_cam,layer_cam,eigen_cam", "--out", out)
    assert result.exit_code == 0, result.output
    assert captions[::4] == ["0.png", "1.png", "2.png"]
    assert [text.partition("\n")[0] for text in captions[4:8]] == ["1.png", "grad_cam", "layer_cam", "eigen_cam"]
    assert [text.partition("\n")[2] for text in captions[3::4]] == ["no class"] * 3
    assert len({text.partition("\n")[2] for text in captions[1::4]}) > 1
    with Image.open(out) as picture:
        assert picture.size[0] > 4 * 128  # small photos are as wide as their captions


def test_methods_that_are_equal_by_algebra_share_a_panel(photos: Path, tmp_path: Path, captions: list[str]) -> None:
    methods = "grad_cam,hires_cam,cam,layer_cam,xgrad_cam"
    result = run(photos / "0.png", *MODEL, "--methods", methods, "--out", tmp_path / "grid.png")
    assert result.exit_code == 0, result.output
    assert [text.partition("\n")[0] for text in captions] == [
        "photo",
        "grad_cam = hires_cam = cam = xgrad_cam",
        "layer_cam",
    ]
    assert "grad_cam, hires_cam, cam and xgrad_cam share a panel" in result.stdout


def test_equal_columns_are_equal_for_every_photo() -> None:
    first, second = torch.rand(4, 4), torch.rand(4, 4)
    shown = [Shown(first, "cat", None), Shown(second, "cat", None)]
    twice = [one._replace(cam=2 * one.cam) for one in shown]
    assert joined({"a": shown, "b": twice}) == [["a", "b"]]
    assert joined({"a": shown, "b": [twice[0], Shown(second.flip(0), "cat", None)]}) == [["a"], ["b"]]
    assert joined({"a": shown, "b": [one._replace(label="no class") for one in shown]}) == [["a"], ["b"]]
    assert joined({"a": shown, "b": [one._replace(problem="zero") for one in shown]}) == [["a"], ["b"]]
    assert joined({"a": shown, "b": [one._replace(cam=torch.rand(2, 2)) for one in shown]}) == [["a"], ["b"]]
    # a negative part that the picture does not show, unless it keeps the sign
    one, other = Shown(torch.tensor([[1.0, -1.0]]), "cat", None), Shown(torch.tensor([[1.0, -0.5]]), "cat", None)
    assert joined({"a": [one], "b": [other]}) == [["a", "b"]]
    assert joined({"a": [one], "b": [other]}, signed=True) == [["a"], ["b"]]
    assert "positive parts" in _said(["a", "b"], {"a": [one], "b": [other]})
    assert "positive parts" not in _said(["a", "b"], {"a": shown, "b": twice})


def test_a_photo_that_cannot_be_read_is_left_out(photos: Path, tmp_path: Path, captions: list[str]) -> None:
    (photos / "bad.png").write_bytes(b"no photo")
    result = run(photos, *MODEL, "--methods", "grad_cam", "--out", tmp_path / "grid.png")
    assert result.exit_code == 1
    assert "bad.png" in result.stderr
    assert captions[::2] == ["0.png", "1.png", "2.png"]
    result = run(photos / "bad.png", *MODEL, "--out", tmp_path / "other.png")
    assert result.exit_code == 2


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the figures of a run were made of."""
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'camfn[figure]'")
    made: list[dict[str, Any]] = []
    figure = image.figure

    def kept(photos: Any, maps: Any, columns: Any, rows: Any, **options: Any) -> image.Figure:
        made.append({"photos": photos, "maps": maps, "columns": columns, "rows": rows, **options})
        return figure(photos, maps, columns, rows, **options)

    monkeypatch.setattr(image, "figure", kept)
    return made


@pytest.mark.parametrize("ending", ["pdf", "svg"])
def test_a_figure_for_a_paper(photos: Path, tmp_path: Path, figures: list[dict[str, Any]], ending: str) -> None:
    out = tmp_path / f"figure.{ending}"
    words = (photos, *MODEL, "--methods", "grad_cam,hires_cam,layer_cam,fem", "--out", out)
    result = run(*words)
    assert result.exit_code == 0, result.output
    first = out.read_bytes()
    assert first.startswith({"pdf": b"%PDF", "svg": b"<?xml"}[ending])
    (made,) = figures
    assert made["columns"] == ["grad_cam = hires_cam", "layer_cam", "fem (no class)"]
    assert [len(row) for row in made["maps"]] == [3, 3, 3]
    assert (made["width"], made["signed"], made["scale"]) == (3.25, False, "each")
    assert not set(made["rows"]) & {"0.png", "1.png", "2.png", "no class"}  # the classes
    assert run(*words).exit_code == 2
    assert run(*words, "--force").exit_code == 0
    assert out.read_bytes() == first


def test_the_options_of_a_figure(photos: Path, tmp_path: Path, figures: list[dict[str, Any]]) -> None:
    words = (photos, *MODEL, "--methods", "fem", "--out", tmp_path / "a.pdf", "--scale", "column")
    result = run(*words, "--width", "2.5", "--colormap", "seismic", "--alpha", "0.6")
    assert result.exit_code == 0, result.output
    (made,) = figures
    assert (made["width"], made["signed"], made["scale"], made["alpha"]) == (2.5, True, "column", 0.6)
    assert made["rows"] == ["0.png", "1.png", "2.png"]  # no class is explained
    for extra, message in (
        (("--out", tmp_path / "b.png", "--width", "3"), "are of a figure"),
        (("--out", tmp_path / "b.png", "--scale", "all"), "are of a figure"),
        (("--out", tmp_path / "b.eps"), ".pdf, .svg"),
        (("--out", tmp_path / "b.pdf", "--width", "1"), "fewer columns"),
    ):
        refused = run(photos, *MODEL, "--methods", "fem", *extra)
        assert refused.exit_code == 2
        assert message in refused.stderr


def test_matplotlib_is_missed_before_any_work(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run(photos, *MODEL, "--out", tmp_path / "a.pdf")
    assert result.exit_code == 2
    assert "camfn[figure]" in result.stderr


def test_a_table_measures_the_maps_of_the_picture(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "bad.png").write_bytes(b"no photo")
    monkeypatch.chdir(tmp_path)
    words = (photos, *MODEL, "--methods", "grad_cam, hires_cam, fem, score_cam:top_k=0.2", "--out", "a.png")
    result = run(*words, "--latex", "t.tex", "--markdown", "t.md", "--by", "deletion")
    assert result.exit_code == 1, result.output
    assert result.stderr.count("bad.png") == 1
    assert result.stdout.endswith("t.tex\nt.md\n")
    assert "best first by deletion (lower is better)" in result.stdout
    assert "not told apart from the best" in result.stdout
    latex, markdown = Path("t.tex").read_text(), Path("t.md").read_text()
    assert "grad\\_cam @ body & " in latex
    assert "adcc" in latex
    assert r"\usepackage{booktabs,graphicx}" in latex

    # the same numbers as of `camfn evaluate`
    listed = [Photo(str(path), path) for path in sorted(photos.glob("[0-9].png"))]
    protocol = Protocol(metrics=("deletion", "insertion"), target="top")
    loaded = load("tiny:cnn")
    of_model = cases(["tiny:cnn"], ["grad_cam", "score_cam:top_k=0.2"], ["body"])
    rows = [row for photo in listed for row in evaluate_photo(photo, of_model, loaded, protocol)]
    for standing in rank(rows, "tiny:cnn", by="deletion"):
        name = standing.method.replace("_", r"\_")
        (line,) = [line for line in markdown.splitlines() if line.strip("| *").startswith(name)]
        assert f"{standing.estimates['deletion'].value:.3f}" in line
        assert f"{standing.estimates['insertion'].value:.3f}" in line


def test_what_is_drawn_at_two_layers_is_measured_there(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer of attention and another; the rows name the layers that the comparison chose for its picture."""
    kept: list[Row] = []

    def keep(rows: list[Row], *_: Any, **__: Any) -> tuple[list[Path], int]:
        kept.extend(rows)
        return [], 0

    monkeypatch.setattr(pictures, "show_tables", keep)
    words = ("--model", "tiny:vit", "--methods", "grad_cam, gradient_rollout, raw_attention, fem")
    result = run(photos / "0.png", *words, "--by", "insertion", "--out", tmp_path / "a.png")
    assert result.exit_code == 0, result.output
    said = [line.split()[1].rstrip(":") for line in result.stdout.splitlines() if line.startswith("layer ")]
    assert {row.layer for row in kept if row.layer} == set(said)


def test_a_comparison_without_a_table_measures_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "show_tables", None)
    assert run(photos, *MODEL, "--methods", "fem", "--out", tmp_path / "a.png").exit_code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--by", "iou"), "cannot rank by 'iou'"),
        (("--by", "entropy"), "cannot rank by 'entropy'"),
        (("--latex", "nowhere/t.tex"), "--latex nowhere/t.tex: expected a file in a folder that exists"),
        (("--markdown", "."), "--markdown .: expected a file"),
    ],
)
def test_a_table_that_cannot_be_is_refused_before_a_photo_is_read(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    result = run(tmp_path / "nothing.png", *MODEL, "--out", tmp_path / "a.png", *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "nothing.png" not in result.stderr
