"""The font of a picture has the letters that it says."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("PIL", reason="needs Pillow: pip install 'camfn[cli]'")
from PIL import ImageFont

from camfn._shared.errors import UsageError
from camfn.cli._files.fonts import font_for, missing, missing_of


def test_pillows_own_font_is_taken_where_it_has_all_letters() -> None:
    assert font_for(["a", "cat (on) a mat."]) == (None, "")


def test_pillows_own_font_lacks_letters_beyond_ascii() -> None:
    assert missing(ImageFont.load_default(16), "aж猫") == "ж猫"


def test_a_font_with_more_of_the_letters_is_taken() -> None:
    path, lacking = font_for(["кот", "naïve"])
    if path is None:
        pytest.skip("this system has no font with these letters")
    assert lacking == "" == missing_of(Path(path), ["кот", "naïve"])


def test_letters_that_no_font_has_are_named() -> None:
    assert font_for(["a\ue123"])[1] == "\ue123"


def test_what_is_no_font_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "font.ttf"
    file.write_text("no font")
    for path in (file, tmp_path / "none.ttf"):
        with pytest.raises(UsageError, match=r"--font .*: expected a TrueType"):
            missing_of(path, [])
