"""`--figure`: one file of all maps, its bar and its words, and what is refused before any work."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'camfn[figure]'")

from camfn import image, tiny
from camfn.cli._app import app
from camfn.cli._files.figure import ROWS, Panel, page, save_figure


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "photos" / f"{name}.png" for name in ("one", "two $x^2$")]
    files[0].parent.mkdir()
    for file, pixels in zip(files, tiny.scenes(2, generator=torch.Generator().manual_seed(3)).images, strict=True):
        image.save(pixels, file)
    return files


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["explain", *map(str, words), "--model", "tiny:cnn"])


def texts(figure: Any) -> str:
    labels = [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    return "\n".join([*(text.get_text() for text in figure.texts), *labels])


def panel(**changes: Any) -> Panel:
    return Panel(torch.rand(3, 20, 30), torch.tensor([[0.5, -1.0], [2.0, 0.0]]), "grad_cam, cat", "a.png")._replace(
        **changes
    )


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_a_figure_of_each_format(photos: list[Path], tmp_path: Path, ending: str) -> None:
    file = tmp_path / "new" / f"figure.{ending}"
    result = run(*photos, "--out", tmp_path / "maps", "--figure", file, "--target", "top:3")
    assert (result.exit_code, result.stderr) == (0, "")
    assert str(file) in result.stdout
    start = file.read_bytes()
    assert start.startswith({"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}[ending])
    if ending == "pdf":
        assert start.count(b"/Type /Page ") == -(-6 // ROWS)
    before = file.read_bytes()
    assert run(photos[0], "--out", tmp_path / "other", "--figure", file).exit_code == 2
    assert file.read_bytes() == before


def test_the_ends_of_the_bar_have_names() -> None:
    assert "2\nlargest value" in texts(page([panel()], 0.5, "turbo"))
    assert "0 and below" in texts(page([panel()], 0.5, "turbo"))
    assert "0.5\nsmallest value" in texts(page([panel(cam=torch.tensor([[0.5, 1.0]]))], 0.5, "turbo"))
    signed = texts(page([panel()], 0.5, "seismic"))
    assert "2\nspeaks for" in signed
    assert "-2\nspeaks against" in signed
    assert "shows nothing" in texts(page([panel(cam=None)], 0.5, "turbo"))


def test_words_are_no_formulas_and_stay_on_the_page() -> None:
    drawn = texts(page([panel(name="a $b$.png", title="x" * 300)], 0.5, "turbo"))
    assert r"a \$b\$.png" in drawn
    assert max(map(len, drawn.splitlines())) < 120


@pytest.mark.parametrize("size", [(20, 30), (400, 3), (3, 400), (1, 1)])
def test_photos_of_any_shape(size: tuple[int, int], tmp_path: Path) -> None:
    save_figure(tmp_path / "a.png", [panel(view=torch.rand(3, *size))], 0.5, "turbo")
    with Image.open(tmp_path / "a.png") as picture:
        assert max(picture.size) < 2000


def test_what_is_refused_before_any_work(photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(photos[0], "--out", tmp_path / "maps", "--figure", tmp_path / "figure.doc")
    assert result.exit_code == 2
    assert ".pdf, .svg, .png" in result.stderr
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run(photos[0], "--out", tmp_path / "maps", "--figure", tmp_path / "figure.pdf")
    assert result.exit_code == 2
    assert "camfn[figure]" in result.stderr
    assert not (tmp_path / "maps").exists()
