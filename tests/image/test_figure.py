"""Figures for papers: what a color stands for, the bytes of the files, the words, and what is refused."""

from __future__ import annotations

import re
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'camfn[figure]'")

import matplotlib

from camfn import CamfnError, image
from camfn.image._layout import Look, _mixed
from camfn.image._words import POINT, breadth, broken, unknown

from .common import rand, randn

NAMES = ["Grad-CAM", "LayerCAM"]


def drawn(**changes: Any) -> image.Figure:
    given: dict[str, Any] = {
        "photos": rand(2, 3, 20, 30),
        "maps": randn(2, 2, 4, 6),
        "columns": NAMES,
        "rows": ["cat", "dog"],
    }
    return image.figure(**(given | changes))


def texts(figure: image.Figure) -> list[str]:
    """All words of a figure."""
    axes = figure.drawn.axes
    ticks = [label.get_text() for place in axes for label in place.get_yticklabels() if place.axison]
    return [
        text.get_text() for text in [*figure.drawn.texts, *(text for place in axes for text in place.texts)]
    ] + ticks


def cells(figure: image.Figure) -> list[Tensor]:
    """The pixels of each cell, (3, H, W) in [0, 1], row by row, without the bar."""
    pictures = [place.images[0].get_array() for place in figure.drawn.axes[:-1]]
    return [torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255 for pixels in pictures]


def test_a_row_a_photo_a_column_a_method_and_one_bar() -> None:
    figure = drawn()
    assert len(figure.drawn.axes) == 2 * 3 + 1
    assert texts(figure) == ["photo", "Grad-CAM", "LayerCAM", "cat", "dog", texts(figure)[5], "0", "1"]
    assert figure.drawn.get_figwidth() == pytest.approx(3.25)
    assert len(texts(drawn(rows=None))) == 6


@pytest.mark.parametrize("signed", [False, True])
def test_a_color_stands_for_a_number_alone(signed: bool) -> None:
    """Over one gray photo, equal shares have equal colors whatever the photo's color; zero leaves the photo."""
    gray = torch.full((3, 4, 6), 0.5)
    raw = torch.linspace(-1.0 if signed else 0.0, 1.0, 24).reshape(4, 6)
    figure = image.figure([gray], [[raw, 8 * raw]], NAMES, signed=signed)
    _, one, other = cells(figure)
    assert torch.equal(one, other)
    ground = torch.full((3, *one.shape[1:]), 0.35 + 0.65 * 0.5)
    values = torch.nn.functional.interpolate(raw[None, None].double(), one.shape[1:], mode="bilinear")[0, 0]
    colors = matplotlib.colormaps["RdBu_r" if signed else "inferno"]
    for y, x in ((0, 0), (one.shape[1] // 2, one.shape[2] // 3), (one.shape[1] - 1, one.shape[2] - 1)):
        value = float(values[y, x])
        opacity = 0.8 * min(1.0, 2 * abs(value))
        color = torch.tensor(colors((1 + value) / 2 if signed else value)[:3])
        expected = (1 - opacity) * ground[:, y, x] + opacity * color
        torch.testing.assert_close(one[:, y, x], expected, atol=4e-3, rtol=0, check_dtype=False)


def test_the_strongest_color_stands_for_the_scale() -> None:
    raw = torch.tensor([[[1.0], [2.0]], [[4.0], [8.0]]])[..., None]  # two photos, two methods, one value each
    tops: dict[Any, list[float]] = {
        "each": [1, 1, 1, 1],
        "row": [1 / 2, 1, 1 / 2, 1],
        "column": [1 / 4, 1 / 4, 1, 1],
        "all": [1 / 8, 1 / 4, 1 / 2, 1],
        16.0: [1 / 16, 1 / 8, 1 / 4, 1 / 2],
    }
    for scale, shares in tops.items():
        found = cells(drawn(photos=torch.zeros(2, 3, 4, 4), maps=raw, scale=scale))
        for cell, share in zip([found[i] for i in (1, 2, 4, 5)], shares):
            look = Look(False, "each", "inferno", 0.8)
            expected = _mixed(torch.full((3, 1, 1), 0.35), torch.full((1, 1), share, dtype=torch.float64), look)
            torch.testing.assert_close(cell[:, 0, 0], expected[:, 0, 0], atol=4e-3, rtol=0)
    assert texts(drawn(maps=raw, scale="all"))[-2:] == ["0", "8"]
    assert "value" in " ".join(texts(drawn(maps=raw, scale="all")))
    assert texts(drawn(maps=-raw, scale="all", signed=True))[-3:] == ["\N{MINUS SIGN}8", "0", "8"]
    assert "column's max" in " ".join(texts(drawn(maps=raw, scale="column")))


def test_a_cell_says_why_it_shows_nothing() -> None:
    maps = [[None, torch.zeros(2, 2)], [-torch.ones(2, 2), torch.ones(1, 2, 2)]]
    words = texts(drawn(maps=maps))
    assert [word for word in words if word in ("no map", "all zero", "nothing\nabove 0")] == [
        "no map",
        "all zero",
        "nothing\nabove 0",
    ]
    assert "nothing\nabove 0" not in texts(drawn(maps=maps, signed=True))


@pytest.mark.parametrize("kind", ["pdf", "svg", "png"])
def test_the_same_figure_is_the_same_bytes(kind: str, tmp_path: Path) -> None:
    first, second = drawn(), drawn()
    first.save(tmp_path / f"a.{kind}")
    image.save(second, tmp_path / f"b.{kind}")
    data = (tmp_path / f"a.{kind}").read_bytes()
    assert data == (tmp_path / f"b.{kind}").read_bytes() == first.to_bytes(kind.upper())
    assert not re.search(rb"CreationDate|<dc:date|tIME", data)
    assert data.startswith({"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}[kind])


def test_the_fonts_of_a_pdf_are_embedded_and_its_words_are_words() -> None:
    data = drawn().to_bytes("pdf")
    assert b"/FontFile2" in data
    assert b"/Type3" not in data
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL)
    page = b"".join(zlib.decompress(one) for one in streams if one[:1] == b"x")
    assert page.count(b" Tf") >= 5  # words set in a font


def test_settings_of_the_user_stay_and_threads_do_not_meet() -> None:
    before = dict(matplotlib.rcParams)
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: drawn().to_bytes("svg"), range(8)))
    assert len(found) == 1
    assert dict(matplotlib.rcParams) == before


def test_names_are_no_formulas_and_break_where_they_are_too_wide() -> None:
    hostile = "$\\frac{1}$ <b>&amp;"
    figure = drawn(columns=[hostile, "a_very_long_name_of_a_method"], rows=["two words", "d" * 60])
    assert "".join(texts(figure)).replace(" ", "").count("\\frac{1}$") == 1
    assert figure.to_bytes("svg")
    for text in ("grad_cam_plusplus", "one two three four", "d" * 40, ""):
        lines = broken(text, 0.5, 7)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
        assert all(breadth(line, 7) <= 0.5 for line in lines)
    assert breadth("m" * 10, 7) == pytest.approx(10 * breadth("m", 7), rel=0.05)
    assert POINT == 1 / 72


def test_letters_of_another_font_are_found() -> None:
    assert unknown(["grad_cam", "éàß Ωж \u2212", "two\nlines"]) == ""
    assert unknown(["a\u732b", "\u732b\ud55c"]) == "\u732b\ud55c"


@pytest.mark.parametrize("size", [(20, 30), (300, 3), (3, 300), (1, 1), (700, 900)])
def test_photos_of_any_shape(size: tuple[int, int]) -> None:
    figure = image.figure([rand(3, *size)], [[randn(4, 5)]], ["x"])
    width, height = figure.drawn.get_size_inches()
    assert 0.5 < height < 4
    assert width == pytest.approx(3.25)
    assert max(max(cell.shape) for cell in cells(figure)) <= 1000


def test_boxes_are_drawn_in_the_pixels_of_the_photo() -> None:
    figure = drawn(boxes=[torch.tensor([[3.0, 4.0, 12.0, 9.0]]), None])
    places = figure.drawn.axes
    assert [len(place.patches) for place in places[:-1]] == [2, 2, 2, 0, 0, 0]
    assert places[0].patches[0].get_bbox().bounds == (3, 4, 9, 5)
    assert places[0].get_xlim() == (0, 30)


def test_photos_of_any_kind_and_a_notebook(tmp_path: Path) -> None:
    photo = rand(3, 8, 8)
    image.save(photo, tmp_path / "a.png")
    array = image.to_numpy(photo)
    kinds: list[Any] = [array, image.to_pil(photo), tmp_path / "a.png", image.to_bytes(photo)]
    figure = image.figure(kinds, [[randn(2, 2)]] * 4, ["x"])
    first, *others = cells(figure)[::2]
    assert all(torch.equal(first, other) for other in others)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert image.to_pil(figure).width == image.read(figure.to_bytes("png")).shape[2] == round(3.25 * 300)
    assert image.to_bytes(figure, "pdf") == figure.to_bytes()


NAN = torch.tensor([[1.0, float("nan")]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": [[NAN, NAN], [NAN, NAN]]}, r"Grad-CAM: maps\[0\]\[0\]: .*NaN or infinity"),
        ({"maps": randn(2, 3, 4, 4)}, "a list of 2 maps"),
        ({"maps": randn(3, 2, 4, 4)}, "got 3 lists"),
        ({"maps": randn(2, 4, 4)}, "a list of 2 maps"),
        ({"maps": [[randn(4, 4)], [randn(4, 4), randn(4, 4)]]}, r"maps\[0\]"),
        ({"maps": [[randn(2, 4, 4)] * 2] * 2}, r"maps\[0\]\[0\].*image\.slices"),
        ({"maps": [[randn(4)] * 2] * 2}, r"a map \(h, w\)"),
        ({"maps": [[torch.ones(2, 2, dtype=torch.long)] * 2] * 2}, "floating-point"),
        ({"maps": [[np.ones((2, 2))] * 2] * 2}, "as_tensor"),
        ({"maps": [[None] * 2] * 2}, "no map at all"),
        ({"photos": rand(3, 8, 8)}, r"one: \[photo\]"),
        ({"photos": [rand(3, 8, 8), 255 * rand(3, 8, 8)]}, r"photos\[1\].*picture / 255"),
        ({"photos": []}, "at least one picture"),
        ({"columns": "ab"}, "columns: expected a list of texts"),
        ({"columns": []}, "at least one name"),
        ({"rows": ["cat", "\u732b"]}, "no letter for '\u732b'.*rcParams"),
        ({"columns": ["a\x07", "b"]}, "no letter for"),
        ({"rows": ["one"]}, "one name for each of 2 photos"),
        ({"width": 0}, "width"),
        ({"width": 1.0}, "width=6.75, or fewer columns"),
        ({"alpha": 2}, "alpha"),
        ({"scale": "some"}, "'each', 'row', 'column', 'all'"),
        ({"scale": -1.0}, "a number above 0"),
        ({"scale": True}, "a number above 0"),
        ({"scale": 0.001}, "beyond the scale of 0.001"),
        ({"signed": "yes"}, "signed"),
        ({"colormap": "no such"}, "colormap"),
        ({"boxes": ["abcd", None]}, "boxes: expected numbers"),
        ({"maps": torch.empty(2, 2, 4, 4, device="meta")}, "numbers that can be read"),
        ({"photos": torch.empty(2, 3, 4, 4, device="meta")}, r"photos\[0\].*numbers that can be read"),
        ({"maps": [[torch.ones(2, 2).to_sparse()] * 2] * 2}, "sparse"),
        ({"maps": torch.ones(2, 2, 4, 4, dtype=torch.complex64)}, r"pass maps\[0\]\[0\]\.float"),
        ({"boxes": [None]}, "each of 2 photos"),
        ({"boxes": [torch.tensor([[3.0, 0.0, 1.0, 2.0]]), None]}, r"boxes\[0\].*x0 <= x1"),
        ({"maps": image.normalize(randn(4, 4, 4)).reshape(2, 2, 4, 4), "scale": "all"}, "pass the raw maps"),
        ({"maps": image.normalize(randn(4, 4, 4)).reshape(2, 2, 4, 4), "scale": "column"}, "stretched to"),
    ],
)
def test_what_cannot_be_right_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CamfnError, match=message):
        drawn(**changes)


def test_other_files_are_refused_and_a_missing_matplotlib_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(CamfnError, match=r"\.pdf, \.svg or \.png"):
        drawn().save(tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"image.figure needs matplotlib: pip install 'camfn\[figure\]'"):
        drawn()
