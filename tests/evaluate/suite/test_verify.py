"""`verify` passes a submission, and names what changed in it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camfn._shared.errors import UsageError
from camfn._shared.given import named_object
from camfn.evaluate import Suite, truth, verify
from camfn.evaluate._store import database
from camfn.evaluate._suite.protocol import id_of


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


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A submission of few rows: one scene, with masks and single deletion, graded."""
    folder = tmp_path_factory.mktemp("small")
    suite = Suite(tracks=("single", "grade"), scenes=1, graded=1, orders=1, subsets=2, levels=(0.0, 1.0))
    truth("tiny:cnn", "grad_cam", folder, suite=suite, metrics=["complexity"])
    return folder / "tiny-cnn"


@pytest.fixture
def changed(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "copy"))


def change(folder: Path, words: str, *values: object) -> None:
    """Change rows of grad_cam that are of single deletion, in the database and in rows.csv."""
    with sqlite3.connect(folder / "results.sqlite") as connection:
        done = connection.execute(
            f"UPDATE rows SET {words} WHERE method = ? AND CAST(photo AS TEXT) LIKE 'picture/%'", [*values, b"grad_cam"]
        )
        assert done.rowcount == 1
    (folder / "rows.csv").unlink()


def test_a_grade_asks_for_no_tracks_beside_it(small: Path) -> None:
    """The grade measures by the masks too, and the row of the picture was not asked for them."""
    (found,) = verify(small)
    assert found.problems == []
    assert found.skipped == 0


def test_numbers_stay_checked_beside_a_problem(copied: Path) -> None:
    """The tables read the numbers of a row whatever its kind is."""
    with sqlite3.connect(copied / "results.sqlite") as connection:
        (text,) = connection.execute("SELECT vectors FROM rows WHERE photo = ?", [b"gridpg/000"]).fetchone()
        connection.execute(
            "UPDATE rows SET vectors = ?, kind = 'refusal' WHERE photo = ?", [text.replace("0.", "0.9"), b"gridpg/000"]
        )
    assert any("and the row says" in problem for problem in verify(copied, network=False)[0].problems)


def test_numbers_that_nothing_measures_are_found(copied: Path) -> None:
    """A number under the name of another track's measure would enter its table."""
    with sqlite3.connect(copied / "results.sqlite") as connection:
        connection.execute(
            """UPDATE rows SET vectors = '{"gridpg": [1.0]}', "values" = '{"gridpg": 1.0}' WHERE photo = ?""",
            [b"twin/000"],
        )
    problems = verify(copied, network=False)[0].problems
    assert any(problem.endswith("nothing measures its gridpg") for problem in problems)


@pytest.mark.parametrize(
    ("words", "value", "said"),
    [
        ("forwards = ?", 0.01, "forwards, and the row says 0.01"),
        ("layer = ?", b"body.0", "the layer is 'body', and the row says 'body.0'"),
    ],
)
def test_a_changed_cost_and_a_changed_layer_are_found(changed: Path, words: str, value: object, said: str) -> None:
    """No map shows them: one explanation of each method is made again."""
    change(changed, words, value)
    (problem,) = verify(changed)[0].problems
    assert problem.startswith("picture/")
    assert problem.endswith(said)


@pytest.mark.parametrize(("words", "value"), [("method = ?", b"superb_cam"), ("model = ?", b"lite0")])
def test_a_changed_name_is_found(changed: Path, words: str, value: object) -> None:
    change(changed, words, value)
    problems = verify(changed, network=False)[0].problems
    assert any("the row says" in problem for problem in problems)


def test_pictures_that_the_protocol_does_not_have_are_named(copied: Path) -> None:
    with sqlite3.connect(copied / "results.sqlite") as connection:
        connection.execute(
            "UPDATE rows SET photo = ? WHERE photo = ? AND method = ?", [b"gridpg/777", b"gridpg/000", b"eigen_cam"]
        )
    problems = verify(copied, network=False)[0].problems
    assert any(problem.startswith("gridpg/777 ") and "IndexError" in problem for problem in problems)


def reworded(folder: Path, edit: Callable[[dict[str, Any]], None]) -> list[str]:
    """Change the records, each id with its record, and verify."""
    with database.opened(folder / "results.sqlite") as connection:
        (text,) = connection.execute("SELECT content FROM header WHERE name = 'protocols'").fetchone()
        protocols = json.loads(text)
        edit(protocols)
        for each in protocols.values():
            each["id"] = id_of(each["record"])
        connection.execute("UPDATE header SET content = ? WHERE name = 'protocols'", [json.dumps(protocols)])
    return verify(folder)[0].problems


def of_every(field: str, value: object) -> Callable[[dict[str, Any]], None]:
    def edit(protocols: dict[str, Any]) -> None:
        for each in protocols.values():
            each["record"][field] = value

    return edit


def of_one(field: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda protocols: protocols["single"]["record"][field].update(value)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (of_every("version", 2), "grid: the protocol is truth, version 2, and this camfn verifies truth, version 1"),
        (of_every("suite", "lies"), "grid: the protocol is lies, version 1"),
        (of_every("preprocessing", {"recipe": "mine"}), "tiny:cnn: the preprocessing are not those that the protocol"),
        (of_every("model", {"spec": "nosuch:net", "weights": ""}), "nosuch:net: "),
        (lambda protocols: protocols.pop("single"), "the records are not those of the tracks grid, tiny, single"),
        (of_one("model", {"weights": "0"}), "single: the record has another model than those of the other tracks"),
        (of_one("parameters", {"seed": 7}), " the record has another parameters than those of the other tracks"),
        (of_one("parameters", {"mine": 7}), "the records have settings that the suite does not: "),
    ],
)
def test_records_that_do_not_hold_together_are_named(
    changed: Path, edit: Callable[[dict[str, Any]], None], said: str
) -> None:
    """Each id is that of its record: what is wrong is between the records, or between them and the network."""
    problems = reworded(changed, edit)
    assert any(said in problem for problem in problems), problems


def test_a_method_that_is_not_at_hand_is_named(changed: Path, tmp_path: Path) -> None:
    """A submission whose file of a method lies elsewhere."""
    case = f"tiny:cnn auto {tmp_path}/gone.py:mine"
    change(changed, 'method = ?, "case" = ?', case.rpartition(" ")[2].encode(), case.encode())
    problems = verify(changed, network=False)[0].problems
    assert any("which rows the protocol asks for cannot be said: method: there is no file" in each for each in problems)
