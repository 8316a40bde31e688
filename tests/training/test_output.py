"""Files and TensorBoard."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from camfn import image, tiny
from camfn._shared.errors import CamfnError
from camfn.methods import eigen_cam
from camfn.training import MapRecorder

WORLD = tiny.scenes(2, digits=1, generator=torch.Generator().manual_seed(1))
DIGITS = WORLD.labels[:, 0]


def recorded(out: Any, steps: int = 3, **options: Any) -> MapRecorder:
    recorder = MapRecorder(WORLD.images, "body", target=DIGITS, every=1, out=out, names=["a cat", "dog"], **options)
    for step in range(steps):
        recorder(tiny.load("cnn"), step)
    return recorder


@pytest.mark.parametrize("as_text", [True, False])
def test_a_folder_has_a_strip_a_photo_and_the_numbers(as_text: bool, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "maps"
    recorder = recorded(str(folder) if as_text else folder)
    assert sorted(file.name for file in folder.iterdir()) == ["a cat.png", "dog.png", "maps.csv"]
    lines = list(csv.DictReader((folder / "maps.csv").read_text().splitlines()))
    assert [(int(line["step"]), line["photo"]) for line in lines] == [(r.step, r.photo) for r in recorder.records]
    assert [line["correlation"] for line in lines] == ["", "", "1", "1", "1", "1"]
    assert [float(line["score"]) for line in lines] == pytest.approx([r.score for r in recorder.records], rel=1e-5)
    assert image.read(folder / "dog.png").shape[-1] > 4 * 168


def test_a_strip_has_so_many_columns(tmp_path: Path) -> None:
    recorded(tmp_path / "three", 6, columns=3)
    recorded(tmp_path / "six", 6, columns=6)
    three, six = (image.read(tmp_path / name / "dog.png").shape[-1] for name in ("three", "six"))
    assert three < six


def test_a_disk_that_fails_is_a_warning_and_the_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = recorded(tmp_path / "out", 1)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("camfn.training._output.write_whole", full)
    with pytest.warns(UserWarning, match=r"MapRecorder: cannot write to .*: No space left on device"):
        assert len(recorder(tiny.load("cnn"), 1)) == 2


def test_a_folder_that_cannot_be_made_is_refused_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CamfnError, match="cannot make the folder"):
        recorded(tmp_path / "file" / "out", 0)


def test_tensorboard_gets_strips_and_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install 'camfn[training]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        recorder = recorded(writer)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["camfn/a cat", "camfn/dog"]
    assert [each.step for each in events.Images("camfn/dog")] == [0, 1, 2]
    scores = [each.value for each in events.Scalars("camfn/dog/score")]
    assert scores == pytest.approx([r.score for r in recorder.records if r.photo == "dog"])
    assert [each.step for each in events.Scalars("camfn/dog/correlation")] == [1, 2]


class FullWriter:
    """A writer whose disk is full."""

    def add_image(self, *_: Any) -> None:
        raise OSError(28, "No space left on device")

    add_scalar = add_image


def test_a_writer_that_fails_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="the writer cannot write: No space left on device"):
        assert len(recorded(FullWriter(), 1).records) == 2


def steps_of(folder: Path) -> list[int]:
    return [int(line["step"]) for line in csv.DictReader((folder / "maps.csv").read_text().splitlines())]


def test_a_training_that_is_resumed_keeps_what_came_before(tmp_path: Path) -> None:
    recorded(tmp_path, 3)
    before = (tmp_path / "dog.png").read_bytes()
    again = MapRecorder(WORLD.images, "body", target=DIGITS, every=1, out=tmp_path, names=["a cat", "dog"])
    for step in (2, 3):
        again(tiny.load("cnn"), step)
    assert steps_of(tmp_path) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert (tmp_path / "dog-to-1.png").read_bytes() == before
    assert (tmp_path / "dog.png").read_bytes() != before
    recorded(tmp_path, 1)
    assert steps_of(tmp_path) == [0, 0]


def test_a_second_recorder_in_a_folder_is_told(tmp_path: Path) -> None:
    first, second = (
        MapRecorder(WORLD.images, layer, target=DIGITS, every=1, out=tmp_path, method=eigen_cam)
        for layer in ("body", "body.4")
    )
    first(tiny.load("cnn"), 0)
    second(tiny.load("cnn"), 1)
    with pytest.warns(UserWarning, match="another recorder writes to .* folder of its own"):
        first(tiny.load("cnn"), 2)


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "step,photo,score,correlation\nmany,a,1,\n"])
def test_a_table_of_others_is_not_replaced(text: str, tmp_path: Path) -> None:
    (tmp_path / "maps.csv").write_text(text)
    with pytest.raises(CamfnError, match="is no table of a MapRecorder"):
        recorded(tmp_path, 0)
    assert (tmp_path / "maps.csv").read_text() == text


def test_a_folder_that_vanished_is_made_again(tmp_path: Path) -> None:
    recorder = recorded(tmp_path / "out", 1)
    shutil.rmtree(tmp_path / "out")
    recorder(tiny.load("cnn"), 1)
    assert steps_of(tmp_path / "out") == [0, 0, 1, 1]
