"""A submission is verified, and what was changed is found."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from camfn.evaluate import verify
from camfn.evaluate._store import database


@pytest.fixture
def copied(submission: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(submission, tmp_path / "copy"))


def test_a_submission_is_recomputed_from_its_maps(submission: Path) -> None:
    (found,) = verify(submission)
    assert found.problems == []
    assert found.skipped == 0
    assert found.numbers > 300
    (without,) = verify(submission, network=False)
    assert without.problems == []
    assert 0 < without.numbers < found.numbers
    assert without.skipped > 0


def test_a_changed_map_is_found(copied: Path) -> None:
    file = next((copied / "maps").glob("gridpg-000.eigen_cam*"))
    np.save(file, np.load(file)[:, ::-1].copy())
    (found,) = verify(copied, network=False)
    assert any("gridpg of the stored map is" in problem for problem in found.problems)


def test_a_changed_number_a_lost_row_and_a_changed_record_are_found(copied: Path) -> None:
    with sqlite3.connect(copied / "results.sqlite") as connection:
        (text,) = connection.execute("SELECT vectors FROM rows WHERE photo = ?", [b"gridpg/000"]).fetchone()
        connection.execute("UPDATE rows SET vectors = ? WHERE photo = ?", [text.replace("0.", "0.9"), b"gridpg/000"])
        connection.execute("DELETE FROM rows WHERE photo = ? AND method = ?", [b"gridpg/001", b"grad_cam"])
    (found,) = verify(copied, network=False)
    assert any("and the row says" in problem for problem in found.problems)
    assert any("grad_cam: 1 rows that the protocol asks for are missing" in problem for problem in found.problems)
    with database.opened(copied / "results.sqlite") as connection:
        (text,) = connection.execute("SELECT content FROM header WHERE name = 'protocols'").fetchone()
        changed = text.replace('"orders": 2', '"orders": 3')
        assert changed != text
        connection.execute("UPDATE header SET content = ? WHERE name = 'protocols'", [changed])
    (found,) = verify(copied, network=False)
    assert found.problems[0].startswith("ceiling: the id camfn-truth/1:ceiling4x4@tiny:cnn#")


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no submission of the suite"):
        verify(tmp_path)
