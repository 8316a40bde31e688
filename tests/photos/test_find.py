"""Photos that a user names: folders, patterns, lists, and what is missing."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from camfn._photos.find import find_photos
from camfn._shared.errors import MissingPackageError, UsageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.png", "a.JPG", "deep/er/c.tif", "deep/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*words: str) -> list[str]:
    return [str(path) for path in find_photos(words).photos]


def test_folders_and_patterns(folder: Path) -> None:
    assert names(".") == ["IM0001", "a.JPG", "b.png", "deep/d.png", "deep/er/c.tif"]
    assert names("deep", "b.png", "deep") == ["deep/d.png", "deep/er/c.tif", "b.png"]
    assert names("*.png") == ["b.png"]
    assert names("**/*.png") == ["b.png", "deep/d.png"]
    (folder / "x[1].png").write_bytes(b"")
    assert names("x[1].png") == ["x[1].png"]
    for words in (["*.gif"], ["empty"], []):
        (folder / "empty").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match="no photo"):
            find_photos(words)


def test_lists(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("b.png\r\n\na.JPG\n"))
    assert names("-") == ["b.png", "a.JPG"]
    (folder / "deep" / "list.csv").write_text("class,path\nx,d.png\ny,er/c.tif\ny,d.png\n")
    assert names("deep/list.csv") == ["deep/d.png", "deep/er/c.tif"]
    (folder / "wrong.csv").write_text("file,class\nd.png,x\n")
    (folder / "latin.csv").write_bytes(b"path\n\xff\xfe.png\n")
    for name in ("wrong.csv", "latin.csv"):
        with pytest.raises(UsageError, match=name):
            find_photos([name])


def test_what_is_missing_is_known_before_anything_runs(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no photo absent\.png"):
        find_photos(["absent.png"])
    found = find_photos(["b.png", "absent.png"])
    assert [str(path) for path in found.photos] == ["b.png", "absent.png"]
    assert found.problems == ["cannot read the photo absent.png: No such file or directory"]
    os.mkfifo("pipe.png")
    Path("loop.png").symlink_to("loop.png")
    assert find_photos(["pipe.png", "loop.png", "b.png", "x" * 300]).problems == []


def test_dicom_without_pydicom_is_said_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "scan.dcm").write_bytes(b"")
    monkeypatch.setattr("camfn._photos.find.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"camfn\[medical\]"):
        find_photos(["scan.dcm"])
