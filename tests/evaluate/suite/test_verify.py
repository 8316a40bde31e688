"""`verify` passes a submission, and names what changed in it."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camfn._shared.errors import UsageError
from camfn._shared.given import named_object
from camfn.evaluate import Suite, truth, verify
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


def test_a_changed_line_of_the_table_is_found(copied: Path) -> None:
    """The table that people read must be the database's, in any order of its lines."""
    file = copied / "rows.csv"
    head, *lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([head, *reversed(lines)]) + "\n", encoding="utf-8")
    assert verify(copied, network=False)[0].problems == []
    lines[2] = lines[2].replace("0.", "0.9", 1)
    file.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    (problem,) = verify(copied, network=False)[0].problems
    assert problem.startswith("rows.csv is not what results.sqlite holds, line 4 first")


def test_a_changed_mean_and_a_map_of_no_row_are_found(copied: Path) -> None:
    """The mean is what rows.csv shows; the numbers behind it may be right."""
    with sqlite3.connect(copied / "results.sqlite") as connection:
        connection.execute(
            """UPDATE rows SET "values" = '{"gridpg": 0.99, "gridpg_native": 0.25}' WHERE photo = ? AND method = ?""",
            [b"gridpg/000", b"eigen_cam"],
        )
    shutil.copy(next((copied / "maps").glob("gridpg-000.eigen_cam*")), copied / "maps" / "gridpg-000.mine.npy")
    (copied / "rows.csv").unlink()
    (found,) = verify(copied, network=False)
    assert any("eigen_cam: gridpg is not the mean of the row's numbers" in problem for problem in found.problems)
    assert "maps: 1 files belong to no row, such as gridpg-000.mine.npy" in found.problems


def test_rows_without_numbers_are_counted(copied: Path) -> None:
    """Who takes the numbers of a bad row away cannot pass in silence."""
    before = verify(copied, network=False)[0].without
    with sqlite3.connect(copied / "results.sqlite") as connection:
        connection.execute(
            "UPDATE rows SET vectors = '{}' WHERE photo = ? AND method = ?", [b"gridpg/000", b"grad_cam"]
        )
    assert verify(copied, network=False)[0].without == before + 1


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


NETS = '''"""A detector of one's own, with what reads it, and a method and a metric."""
import torch
from camfn.targets import BoxHead
from camfn.zoo import of


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 4, 1), torch.nn.ReLU())
        self.out = torch.nn.Conv2d(8, 6, 1)

    def forward(self, images):
        found = self.out(self.body(images)).flatten(2).transpose(1, 2)
        corners = torch.arange(16.0) * 4
        places = torch.cartesian_prod(corners, corners).flip(1)
        boxes = torch.cat([places, places + 24], 1) + found[..., :4]
        return {"boxes": boxes, "scores": found[..., 4:].sigmoid()}


def detector():
    return of(Net().eval(), input_size=64, mean=0.5, std=0.25, classes=["cat", "dog"])


HEAD = BoxHead(lambda out: out["boxes"], lambda out: out["scores"])


def peak(heatmap):
    return heatmap.max() - heatmap.mean()


peak.better = "higher"
'''


def test_a_detector_of_ones_own_is_measured_and_verified(tmp_path: Path, photo: Path) -> None:
    file = tmp_path / "nets.py"
    file.write_text(NETS)
    table = tmp_path / "photos.csv"
    table.write_text(f"path,class,x0,y0,x1,y1\n{photo},cat,4,4,40,40\n")
    head = named_object(f"{file}:HEAD", "--head")
    few = Suite(tracks=("single",), measured=1)
    (store,) = truth(
        f"{file}:detector", "grad_cam", tmp_path / "out", photos=table, suite=few, layers="body", head=head
    )
    assert not any(row.problem for row in store.rows)
    (found,) = verify(store.folder, photos=table, head=head)
    assert found.problems == []
    assert found.numbers > 0
    (without,) = verify(store.folder, photos=table)
    assert [problem.partition("give the same by ")[2] for problem in without.problems] == [
        "--head file.py:NAME, or head in Python"
    ]
    assert verify(store.folder, photos=table, network=False)[0].problems == []
    (bare,) = truth(f"{file}:detector", "grad_cam", tmp_path / "bare", photos=table, suite=few, layers="body")
    assert "give a targets.BoxHead: --head file.py:NAME, or head in Python" in bare.rows[0].problem
    with pytest.raises(UsageError, match="other settings"):
        truth(f"{file}:detector", "grad_cam", store.folder.parent, photos=table, suite=few, layers="body")
    with pytest.raises(UsageError, match=r"head: expected a targets.BoxHead"):
        truth(
            f"{file}:detector",
            "grad_cam",
            tmp_path / "no",
            photos=table,
            suite=few,
            head=named_object(f"{file}:Net", ""),
        )


def test_a_metric_of_ones_own_is_verified(tmp_path: Path) -> None:
    file = tmp_path / "nets.py"
    file.write_text(NETS)
    few = Suite(tracks=("grade",), scenes=1, graded=1, levels=(0.0, 1.0))
    (store,) = truth("tiny:cnn", "grad_cam", tmp_path / "out", suite=few, metrics=[f"{file}:peak"])
    assert verify(store.folder)[0].problems == []
    file.write_text(NETS.replace("- heatmap.mean()", "+ 1"))
    problems = verify(store.folder)[0].problems
    assert problems
    assert all("peak" in problem for problem in problems)


def test_what_is_wrong_with_a_picture_is_said(tmp_path: Path, photo: Path) -> None:
    (tmp_path / "no such class").mkdir()
    shutil.copy(photo, tmp_path / "no such class")
    with pytest.raises(UsageError, match=r"no picture can be measured.*no such class"):
        truth("tiny:cnn", "grad_cam", tmp_path / "out", photos=tmp_path, suite=Suite(tracks=("single",)))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo of noise."""
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return path


def test_a_run_without_the_masks_of_scenes_lacks_no_pictures(tmp_path: Path) -> None:
    few = Suite(tracks=("single",), scenes=12, measured=2, cells=2)
    (store,) = truth("tiny:cnn", "grad_cam", tmp_path, suite=few)
    (found,) = verify(store.folder)
    assert not found.problems
