"""Which frame of files with several a run reads."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from PIL import Image

from camfn._photos.read import ReadAs
from camfn.evaluate import Photo
from camfn.evaluate._inputs.frames import frames_of

SHADES = [Image.new("RGB", (32, 32), (shade, 80, 80)) for shade in (10, 120, 230)]


def drawn(folder: Path, name: str, frames: int) -> Photo:
    if frames > 1:
        SHADES[0].save(folder / name, save_all=True, append_images=SHADES[1:frames])
    else:
        SHADES[0].save(folder / name)
    return Photo(name, folder / name)


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.webp", "a.png"])
def test_files_of_several_frames_are_named_with_the_frame(name: str, tmp_path: Path) -> None:
    photo = drawn(tmp_path, name, 3)
    assert frames_of([photo]) == [f"{name}, frame 1 of 3"]
    assert frames_of([photo._replace(read_as=ReadAs(frame=2))]) == [f"{name}, frame 2 of 3"]
    assert frames_of([drawn(tmp_path, f"one-{name}", 1)]) == []


def test_a_file_in_an_archive_is_named_too(tmp_path: Path) -> None:
    drawn(tmp_path, "a.gif", 2)
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(tmp_path / "a.gif", "in/a.gif")
    assert frames_of([Photo("in/a.gif", tmp_path / "all.tar", member="in/a.gif")]) == ["in/a.gif, frame 1 of 2"]


def test_what_cannot_be_read_has_no_line(tmp_path: Path) -> None:
    (tmp_path / "broken.gif").write_bytes(b"GIF89a no photo")
    lost = [Photo(name, tmp_path / name) for name in ("broken.gif", "lost.tif", "lost.jpg", "lost.dcm")]
    few = drawn(tmp_path, "few.gif", 2)._replace(read_as=ReadAs(frame=9))
    assert frames_of([*lost, few]) == []
