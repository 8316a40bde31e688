"""A page is written: a folder or one file, whole, and nothing else is overwritten. `test_browser` opens it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from camfn import CamfnError
from camfn.export import _page, page
from camfn.image import colorize

from .handmade import NAMES, handmade, network
from .stand_in import CONTENTS, stand_in

VOID = {"meta", "link", "input", "br", "img"}


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for onnxruntime-web."""
    return stand_in(tmp_path / "runtime", tmp_path, monkeypatch)


class Reader(HTMLParser):
    """The elements of a page; fails where one is not closed, and where an id is there twice."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self.open
        ids = [about["id"] for _, about in self.found if "id" in about]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def policy(self) -> str:
        [policy] = [about["content"] for _, about in self.found if about.get("http-equiv") == "Content-Security-Policy"]
        return policy or ""


def test_a_folder_is_written(tmp_path: Path, runtime: Path) -> None:
    files = [handmade(tmp_path / f"{k}.onnx", network(k)) for k in range(2)]
    place = page(tmp_path / "site", files, runtime=runtime)
    html = Reader((place / "index.html").read_text())
    linked = {about["src"] for tag, about in html.found if tag == "script"} | {"style.css"}
    rest = {"index.html", "page.json", "weights.bin", "networks/0.onnx", "networks/1.onnx"} | {
        f"ort/{f}" for f in CONTENTS
    }
    written = {file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file()}
    assert written == linked | rest
    assert (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self'"
        in html.policy()
    )
    told = json.loads((place / "page.json").read_text())
    assert told["classes"] == [NAMES]  # once, for both
    assert [each["classes"] for each in told["networks"]] == [0, 0]
    loaded = [place / "weights.bin", *place.glob("networks/*"), place / "ort" / "ort-wasm-simd-threaded.wasm"]
    assert told["bytes"] == sum(file.stat().st_size for file in loaded)


def test_one_file_holds_everything(tmp_path: Path, runtime: Path) -> None:
    place = page(tmp_path / "one.html", [handmade(tmp_path / "a.onnx")], runtime=runtime)
    folder = page(tmp_path / "site", [tmp_path / "a.onnx"], runtime=runtime)
    text = place.read_text()
    html = Reader(text)
    assert not [
        about
        for tag, about in html.found
        if tag in ("script", "link") and (about.get("src") or about.get("href", "data:,") != "data:,")
    ]
    for name, packed in re.findall(r'<script type="text/plain" id="file:([^"]+)">([^<]+)</script>', text):
        assert gzip.decompress(base64.b64decode(packed)) == (folder / name).read_bytes()
    [style], [script] = (
        re.findall(r"<style>(.*?)</style>", text, re.S),
        re.findall(r"<script>(.*?)</script>", text, re.S),
    )
    for inline in (style, script):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'" in html.policy()
    assert "connect-src 'none'" in html.policy()


def test_what_is_too_long_for_one_file_is_refused(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_page, "_LONGEST", 3000)
    with pytest.raises(CamfnError, match=r"more than a browser holds as one text.*write a folder instead"):
        page(tmp_path / "one.html", [handmade(tmp_path / "a.onnx")], runtime=runtime)
    assert not (tmp_path / "one.html").exists()


def test_every_control_of_the_page_has_a_name() -> None:
    html = Reader(_page._text("index.html"))
    labels = {about["for"] for tag, about in html.found if tag == "label" and "for" in about}
    text = _page._text("index.html")
    for tag, about in html.found:
        if tag in ("input", "select"):
            wrapped = re.search(rf'<label[^>]*><input[^>]*id="{about["id"]}"', text)
            assert about["id"] in labels or "aria-label" in about or wrapped, about


def test_every_element_that_the_code_names_is_there() -> None:
    ids = {about.get("id") for _, about in Reader(_page._text("index.html")).found}
    code = "".join(_page._text(f"{name}.js") for name in _page.SCRIPTS)
    named = set(re.findall(r'\$\("(\w+)"\)', code)) | set(
        re.findall(r'for \(const id of \["(\w+)", "(\w+)", "(\w+)"\]', code)[0]
    )
    assert named <= ids
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", code)
    assert not re.search(r"https?://(?!ns\.adobe\.com/xap/1\.0/)", code)


def test_a_page_of_before_is_renewed_and_nothing_else(tmp_path: Path, runtime: Path) -> None:
    files = [handmade(tmp_path / f"{k}.onnx", network(k)) for k in range(2)]
    page(tmp_path / "site", files, runtime=runtime)
    (tmp_path / "site" / "mine.txt").write_text("mine")
    page(tmp_path / "site", files[:1], runtime=runtime)
    assert [file.name for file in (tmp_path / "site" / "networks").iterdir()] == ["0.onnx"]
    assert (tmp_path / "site" / "mine.txt").exists()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("full", "holds other files"),
        ("a.onnx", "is a file"),
        ("no/site", "there is no folder"),
        ("full.html", "is a folder"),
    ],
)
def test_a_place_that_holds_something_else_is_refused(tmp_path: Path, runtime: Path, path: str, said: str) -> None:
    file = handmade(tmp_path / "a.onnx")
    for name in ("full", "full.html"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
    with pytest.raises(CamfnError, match=said):
        page(tmp_path / path, [file], runtime=runtime)
    assert [each.name for each in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_a_list_of_files_is_expected(tmp_path: Path, runtime: Path) -> None:
    given: list[Any] = [[], str(handmade(tmp_path / "a.onnx"))]
    for files in given:
        with pytest.raises(CamfnError, match="expected a list of ONNX files"):
            page(tmp_path / "site", files, runtime=runtime)


def test_the_page_has_the_colors_of_camfn() -> None:
    import torch

    for name, colors in _page._colors().items():
        mine = torch.tensor(colors).T / 255
        steps = torch.linspace(0, 1, 64).reshape(1, 1, 64)
        torch.testing.assert_close(mine, colorize(steps, name)[0, :, 0], rtol=0, atol=1e-6)
