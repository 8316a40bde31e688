"""Records and files of a map: lines that no two runs tear, commands that make a map again, formats, the check."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

from camfn import check, explainer, image, methods, tiny
from camfn._shared.errors import UsageError
from camfn._shared.files import hash_of_file
from camfn.cli._app import app
from camfn.cli._files.outputs import Outputs, pick_outputs, write_map
from camfn.cli._files.records import append_line, hash_of_weights, read_lines

MODEL = ("--model", "tiny:cnn", "--device", "cpu")


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("photos") / "two digits.png"
    image.save(tiny.scenes(1, generator=torch.Generator().manual_seed(3)).images[0], file)
    return file


def lines(out: Path) -> list[dict[str, Any]]:
    return read_lines(out / "explanations.jsonl")


# ------------------------------------------------------------------------------------------------ the lines


def _append_many(file: Path, number: int) -> None:
    for i in range(40):
        append_line(file, {"run": number, "i": i, "text": "x" * 20_000})


def test_runs_at_once_tear_no_line(tmp_path: Path) -> None:
    file = tmp_path / "explanations.jsonl"
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=_append_many, args=(file, number)) for number in range(4)]
    for one in runs:
        one.start()
    for one in runs:
        one.join()
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(found) == 160
    assert {(line["run"], line["i"]) for line in found} == {(n, i) for n in range(4) for i in range(40)}


def test_an_unfinished_line_spoils_no_other(tmp_path: Path) -> None:
    file = tmp_path / "a" / "explanations.jsonl"
    append_line(file, {"i": 0})
    file.write_bytes(file.read_bytes() + b'{"i": 1, "na')
    append_line(file, {"i": 2})
    assert [line["i"] for line in read_lines(file)] == [0, 2]


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "explanations.jsonl"
    append_line(file, {"i": 0})

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        append_line(file, {"i": 1})
    assert file.read_text() == '{"i": 0}\n'


def test_a_number_that_json_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        append_line(tmp_path / "explanations.jsonl", {"score": float("nan")})
    assert not (tmp_path / "explanations.jsonl").exists()


def test_names_with_any_letter_stay_on_one_line(tmp_path: Path) -> None:
    file, name = tmp_path / "explanations.jsonl", "a\n\u2028\x85\udcff.png"
    append_line(file, {"photo": name})
    assert file.read_bytes().count(b"\n") == 1
    assert len(file.read_text().splitlines()) == 1
    assert read_lines(file) == [{"photo": name}]


def test_the_same_weights_have_the_same_hash() -> None:
    first, second = tiny.load("cnn"), tiny.load("cnn")
    assert hash_of_weights(first) == hash_of_weights(second)
    with torch.no_grad():
        next(second.parameters()).view(-1)[0] += 1e-6
    assert hash_of_weights(first) != hash_of_weights(second)
    assert hash_of_weights(nn.Linear(2, 3).bfloat16()) is not None
    assert hash_of_weights(nn.Linear(2, 3, device="meta")) is None


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_of_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_of_file(tmp_path / "b") is None
    os.mkfifo(tmp_path / "pipe")
    assert hash_of_file(tmp_path / "pipe") is None


# ------------------------------------------------------------------------------------------------ of a command


def test_one_folder_takes_many_runs(photo: Path, tmp_path: Path) -> None:
    for method in ("grad_cam", "layer_cam", "eigen_cam"):
        assert run("explain", photo, *MODEL, "--method", method, "--out", tmp_path).exit_code == 0
    assert run("guided", photo, *MODEL, "--method", "guided_backprop", "--out", tmp_path).exit_code == 0
    assert run("explain", photo, *MODEL, "--target", "top:3", "--out", tmp_path).exit_code == 0
    assert [line["method"] for line in lines(tmp_path)] == [
        "grad_cam",
        "layer_cam",
        "eigen_cam",
        "guided_backprop",
        *["grad_cam"] * 3,
    ]


def test_a_line_says_how_its_map_was_made(photo: Path, tmp_path: Path) -> None:
    assert run("explain", photo, *MODEL, "--target", "top:2", "--out", tmp_path, "--force").exit_code == 0
    first, second = lines(tmp_path)
    assert first["schema"] == 1
    assert (first["photo"], first["photo_sha256"]) == (str(photo), hash_of_file(photo))
    assert first["weights_sha256"] == hash_of_weights(tiny.load("cnn"))
    assert {"camfn", "torch", "numpy"} <= set(first["versions"])
    assert first["layer"]["name"].startswith("body")
    assert first["layer"]["layout"] == "none"
    assert first["layer"]["layout_reason"]
    assert (first["target"], first["index"] != second["index"]) == ("top:2", True)
    assert first["problem"] is None
    assert set(first["files"]) == {"two digits.grad_cam.top1.npy", "two digits.grad_cam.top1.png"}
    assert set(first) == set(second)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--target", "3", "--method", "score_cam", "--no-overlay", "--format", "npy,png"),
        ("--augment", "--layers", "body.3, body.4", "--fuse", "max", "--colormap", "seismic"),
    ],
)
def test_the_command_makes_the_map_again(photo: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    assert run("explain", photo, *MODEL, *options, "--out", tmp_path / "a b").exit_code == 0
    (before,) = lines(tmp_path / "a b")
    raw = (tmp_path / "a b" / before["map"]).read_bytes()
    words = shlex.split(before["command"])
    assert words[:2] == ["camfn", "explain"]
    for name in before["files"]:
        (tmp_path / "a b" / name).unlink()
    assert run(*words[1:]).exit_code == 0
    _, after = lines(tmp_path / "a b")
    assert (tmp_path / "a b" / after["map"]).read_bytes() == raw
    assert after == before | {"time": after["time"]}


@pytest.mark.parametrize("command", ["explain", "guided", "factorize", "compare"])
def test_of_several_frames_the_first_is_said(photo: Path, tmp_path: Path, command: str) -> None:
    several = tmp_path / "several.gif"
    with Image.open(photo) as first:
        first.save(several, save_all=True, append_images=[first.rotate(90), first.rotate(180)])
    out = tmp_path / ("out.png" if command == "compare" else "out")
    done = run(command, photo, several, *MODEL, "--out", out)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("several.gif, frame 1 of 3") == 1
    assert done.stdout.count("--frame N takes another") == 1
    chosen = run(command, several, *MODEL, "--out", out, "--frame", 2, "--force")
    assert "several.gif, frame 2 of 3" in chosen.stdout
    assert "takes another" not in chosen.stdout
    if command in ("explain", "guided"):
        assert [line["read"]["frame"] for line in lines(out)] == [1, 1, 2]
        assert [line["read"]["frames"] for line in lines(out)] == [1, 3, 3]
    if command == "factorize":
        (read,) = (each["read"] for each in json.loads((out / "concepts.json").read_text())["photos"])
        assert read == {"frame": 2, "frames": 3, "window": None, "window_reason": None}


@pytest.mark.parametrize("command", ["evaluate", "tune"])
def test_evaluate_and_tune_say_which_frame_they_read(photo: Path, tmp_path: Path, command: str) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'camfn[evaluate]'")
    folder = tmp_path / "photos"
    folder.mkdir()
    with Image.open(photo) as first:
        for name in ("a.gif", "b.gif"):
            first.save(folder / name, save_all=True, append_images=[first.rotate(90), first.rotate(180)])
    words = {
        "evaluate": ("--models", "tiny:cnn", "--metrics", "complexity", "--by", "complexity"),
        "tune": ("--model", "tiny:cnn", "--metric", "complexity"),
    }[command]
    asked = [command, folder, *words, "--methods", "fem", "--target", "top", "--device", "cpu", "--out"]
    done = run(*asked, tmp_path / "out")
    assert done.stdout.count("a.gif, frame 1 of 3") == done.stdout.count("b.gif, frame 1 of 3") == 1, done.output
    assert done.stdout.count("--frame N takes another") == 1
    chosen = run(*asked, tmp_path / "other", "--frame", 2)
    assert "a.gif, frame 2 of 3" in chosen.stdout
    assert "takes another" not in chosen.stdout


def test_what_is_no_photo_has_a_line_too(photo: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no photo")
    assert run("explain", photo, bad, *MODEL, "--out", tmp_path / "out").exit_code == 1
    good, line = lines(tmp_path / "out")
    assert good["problem"] is None
    assert "bad.png" in line["problem"]
    assert (line["map"], line["files"], line["index"]) == (None, [], None)
    assert line["photo_sha256"] == hash_of_file(bad)


def test_a_record_that_cannot_be_written_is_refused_before_any_work(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "explanations.jsonl").mkdir()
    result = run("explain", photo, *MODEL, "--out", tmp_path)
    assert result.exit_code == 2
    assert "explanations.jsonl" in result.stderr


# ------------------------------------------------------------------------------------------------ formats


def test_every_format_holds_the_map(photo: Path, tmp_path: Path) -> None:
    options = (*MODEL, "--target", "4", "--format", "npy npz,tiff,png", "--out", tmp_path)
    assert run("explain", photo, *options).exit_code == 0
    (line,) = lines(tmp_path)
    stem = tmp_path / "two digits.grad_cam.4"
    raw = np.load(f"{stem}.npy")
    with np.load(f"{stem}.npz") as held:
        assert np.array_equal(held["cam"], raw)
        assert (int(held["index"]), float(held["score"])) == (4, line["score"])
    large = image.upsample(torch.from_numpy(raw)[None], (64, 64))
    with Image.open(f"{stem}.tiff") as picture:
        assert picture.mode == "F"
        np.testing.assert_allclose(np.asarray(picture), large[0].numpy(), rtol=1e-6)
    with Image.open(f"{stem}.map.png") as picture:
        gray = np.asarray(picture).astype(np.float64) / 65535
    np.testing.assert_allclose(gray, image.normalize(large)[0].numpy(), atol=1e-5)
    assert sorted(line["files"]) == sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".jsonl")


def test_without_overlay(photo: Path, tmp_path: Path) -> None:
    result = run("explain", photo, *MODEL, "--no-overlay", "--format", "tiff", "--out", tmp_path)
    assert result.exit_code == 0
    assert "grad_cam.tiff" in result.stdout
    (line,) = lines(tmp_path)
    assert (line["map"], line["overlay"]) == ("two digits.grad_cam.tiff", None)


@pytest.mark.parametrize("text", ["jpg", "npy,exe", "", "NPY"])
def test_other_formats_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="format"):
        pick_outputs(text, True)


def test_each_format_is_kept_without_force(photo: Path, tmp_path: Path) -> None:
    for ending in ("npz", "tiff", "map.png", "png"):
        file = tmp_path / f"two digits.grad_cam.{ending}"
        file.write_bytes(b"mine")
        result = run("explain", photo, *MODEL, "--format", "npz,tiff,png", "--out", tmp_path)
        assert (result.exit_code, file.read_bytes()) == (2, b"mine")
        file.unlink()


def test_a_picture_of_gradients_and_a_map_of_nothing(tmp_path: Path) -> None:
    gradient = torch.randn(3, 8, 8)
    outputs = Outputs(("npy", "tiff", "png"), overlay=False)
    facts = {"problem": None, "index": 1, "name": None, "score": 2.0}
    files = write_map(outputs, tmp_path / "a.x", gradient, (8, 8), lambda: gradient, facts)
    with Image.open(tmp_path / "a.x.tiff") as picture:
        assert getattr(picture, "n_frames", 0) == 3
    assert files["map"] == "a.x.npy"
    nothing = write_map(
        Outputs(("png",)), tmp_path / "b.x", torch.zeros(2, 2), (8, 8), lambda: gradient, {"problem": "zero"}
    )
    assert nothing == {"map": None, "overlay": None, "files": []}


# ------------------------------------------------------------------------------------------------ the check


def test_the_check_stands_beside_the_map_and_in_the_record(photo: Path, tmp_path: Path) -> None:
    result = run("explain", photo, *MODEL, "--layer", "body", "--check", "--target", "top:2", "--out", tmp_path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("check: at most 15 maps and 41 forwards")
    assert result.stdout.count("in words") == 2
    with Image.open(photo) as opened:
        pixels = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)[None] / 255
    explain = explainer(methods.grad_cam, tiny.load("cnn"), "body")
    for line in lines(tmp_path):
        expected = check(explain, pixels, line["index"]).record()
        assert [one["verdict"] for one in line["check"]["lines"]] == [one["verdict"] for one in expected]
        for one, other in zip(line["check"]["lines"], expected, strict=True):
            assert one["value"] == pytest.approx(other["value"], rel=1e-3, abs=1e-3)
        assert (line["check"]["maps"], line["check"]["forwards"]) == (15, 41)


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "cam"),
        ("--method", "eigen_cam"),
        ("--method", "full_grad"),
        ("--model", "tiny:vit", "--method", "attention_rollout"),
        ("--model", "tiny:detector", "--task", "detect", "--target", "top:1"),
        ("--augment", "--layers", "body.3,body.4"),
    ],
    ids=" ".join,
)
def test_the_check_of_every_kind(photo: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    result = run("explain", photo, *MODEL, *options, "--check", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    (line,) = lines(tmp_path)
    verdicts = {one["name"]: one["verdict"] for one in line["check"]["lines"]}
    assert verdicts["same call"] == "good"
    if "eigen_cam" in options:
        assert verdicts["other class"] == "bad"
    if "cam" in options:
        assert verdicts["other class"] != "bad"


def test_a_map_that_shows_nothing_is_not_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "black.png"
    Image.new("RGB", (64, 64)).save(file)
    monkeypatch.setattr("camfn._cut.explainer.capture_each", _DeadCapture)
    result = run("explain", file, *MODEL, "--layer", "body", "--check", "--out", tmp_path / "out")
    assert result.exit_code == 1
    (line,) = lines(tmp_path / "out")
    assert "check" not in line
    assert line["problem"]


class _DeadCapture:
    """Captures activations of zero."""

    def __init__(self, model: nn.Module, *_: Any, **__: Any) -> None:
        self.model = model

    def __call__(self, inputs: Any, scores: Any) -> Any:
        outputs = self.model(inputs)
        scores(outputs)
        return torch.zeros(1, 4, 16, 16), torch.zeros(1, 1, 4, 16, 16), outputs
