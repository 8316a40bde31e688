"""`camfn export FILE`, `camfn verify` and `camfn explain --model FILE.onnx`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from camfn.cli._app import app


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.output


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)).save(file)
    return file


def test_a_program_explains_photos_and_agrees_with_its_model(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = run("export", "net.pt2", "--model", "tiny:cnn", "--method", "layer_cam")
    assert code == 0, said
    code, said = run("explain", "noise.png", "--model", "net.pt2", "--target", "3")
    assert code == 0, said
    code, again = run(
        "explain", "noise.png", "--model", "tiny:cnn", "--method", "layer_cam", "--target", "3", "--out", "eager"
    )
    assert code == 0, again
    eager, found = (np.load(f"{folder}/noise.layer_cam.3.npy") for folder in ("eager", "maps"))
    np.testing.assert_allclose(found, eager, rtol=1e-3, atol=1e-4 * abs(eager).max())
    code, said = run("verify", "net.pt2", "noise.png")
    assert (code, "agree on 1 photo" in said) == (0, True), said
    code, said = run("explain", "noise.png", "--model", "net.pt2", "--target", "7000", "--out", "none")
    assert code != 0, said


OWN = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
"""


def test_verify_prepares_photos_as_the_file_says(tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    weights = "import torch, own; torch.manual_seed(1); torch.save(own.net().state_dict(), 'own.pth')"
    subprocess.run([sys.executable, "-c", weights], check=True)
    own = ("--model", "own.py:net", "--weights", "own.pth")
    code, said = run("export", "net.pt2", *own, "--input-size", "32x24", "--mean", "0.5", "--std", "0.25")
    assert code == 0, said
    code, said = run("verify", "net.pt2", "noise.png", *own[2:])
    assert (code, "own.py:net agree on 1 photo\n" in said) == (0, True), said
    code, said = run("verify", "net.pt2", "noise.png", "--weights", "none")
    assert (code, "differ by more" in said, "give the same here" in said) == (1, True, False), said
    code, said = run("verify", "net.pt2", "noise.png")
    assert (code, "give the same here" in said) == (1, True), said
    code, said = run("verify", "net.pt2", "noise.png", *own[2:], "--mean", "0.5")
    assert (code, "give --input-size, --std" in said) == (2, True), said


def test_a_file_is_written_explains_photos_and_agrees_with_its_model(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = run("export", "net.onnx", "--model", "tiny:cnn", "--heatmap", "32")
    assert code == 0, said
    assert "any number of images" in said
    assert "times the time" in said
    code, said = run("explain", "noise.png", "--model", "net.onnx", "--target", "3")
    assert code == 0, said
    (line,) = map(json.loads, (tmp_path / "maps/explanations.jsonl").read_text().splitlines())
    assert (line["model"], line["method"], line["index"]) == ("net.onnx", "grad_cam", 3)
    assert Path("maps/noise.grad_cam.3.png").is_file()
    code, again = run("explain", "noise.png", "--model", "tiny:cnn", "--target", "3", "--out", "eager")
    assert code == 0, again
    eager, found = (np.load(f"{folder}/noise.grad_cam.3.npy") for folder in ("eager", "maps"))
    np.testing.assert_allclose(found, eager, rtol=1e-3, atol=1e-4 * abs(eager).max())
    code, said = run("explain", "noise.png", "--model", "net.onnx", "--target", "3", "--check", "--out", "checked")
    assert code == 0, said
    code, eager_said = run(
        "explain", "noise.png", "--model", "tiny:cnn", "--target", "3", "--check", "--out", "believed"
    )
    assert code == 0, eager_said
    lines = [
        {line["name"]: line for line in json.loads(Path(f"{folder}/explanations.jsonl").read_text())["check"]["lines"]}
        for folder in ("checked", "believed")
    ]
    assert "a file holds no weights" in lines[0].pop("new head")["sentence"]
    assert set(lines[0]) == set(lines[1]) - {"new head"}
    for name, line in lines[0].items():
        assert line["value"] == pytest.approx(lines[1][name]["value"], abs=0.02), name
    code, said = run("verify", "net.onnx", "noise.png")
    assert code == 0, said
    assert "agree on 1 photo" in said
    assert run("verify", "net.onnx", "noise.png", "--model", "tiny:cnn", "--weights", "none")[0] == 1
    for words, reason in (
        (("--method", "layer_cam"), "gives grad_cam and no other map"),
        (("--layer", "features"), "leave --layer out"),
        (("--mean", "0.5"), "leave --mean out"),
        (("--target", "probability:3"), "explains the logit"),
    ):
        code, said = run("explain", "noise.png", "--model", "net.onnx", *words)
        assert code == 2, said
        assert reason in " ".join(said.split())
    code, said = run("export", "net.onnx", "--model", "tiny:cnn")
    assert (code, "--force" in said) == (2, True)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("net.pth",), ".onnx, .pt2"),
        (("none/net.onnx",), "no folder"),
        (("net.onnx", "--method", "score_cam"), "cannot be in a file"),
        (("net.onnx", "--method", "full_grad"), "of the whole network"),
        (("net.onnx", "--heatmap", "0"), "number of pixels"),
        (("net.onnx", "--target", "top:3", "--model", "tiny:cnn"), "expected input"),
        ((), "what is to be written"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = run("export", *words)
    assert code == 2, said
    assert reason in " ".join(said.split())
    assert not list(tmp_path.iterdir())


def test_a_foreign_file_is_refused(tmp_path: Path, photo: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    code, said = run("explain", str(photo), "--model", str(tmp_path / "bad.onnx"))
    assert code == 2
    assert "cannot read" in " ".join(said.split())


@pytest.mark.parametrize("damaged", ["target", "heatmap"])
def test_verify_asks_for_another_class_and_reads_the_heatmap(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    from camfn.cli._jobs import deployed

    monkeypatch.chdir(tmp_path)
    code, said = run("export", "net.pt2", "--model", "tiny:cnn", "--heatmap", "32")
    assert code == 0, said
    code, said = run("verify", "net.pt2", "noise.png")
    assert code == 0, said
    assert "heatmap of the second class: largest difference" in said
    right = deployed._Program.run

    def wrong(self: Any, names: list[str], feed: dict[str, Any]) -> list[Any]:
        if damaged == "target":
            return right(self, names, feed | {"target": feed["target"] * 0 - 1})
        return [
            np.zeros_like(found) if name == "heatmap" else found for name, found in zip(names, right(self, names, feed))
        ]

    monkeypatch.setattr(deployed._Program, "run", wrong)
    code, said = run("verify", "net.pt2", "noise.png")
    assert code == 1, said
    assert "differ by more than 1e-04" in said
