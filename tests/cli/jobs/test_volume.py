"""`camfn explain` of volumes: maps, slices, a figure, a check, and what it refuses before it builds the network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer", reason="needs typer: pip install 'camfn[cli]'")
pytest.importorskip("nibabel", reason="needs nibabel: pip install 'camfn[medical]'")

import nibabel
from PIL import Image
from typer.testing import CliRunner

from camfn.cli._app import app

CODE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool3d(2))
    return nn.Sequential(body, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3))

def prepare(values):
    return torch.from_numpy(values.transpose(2, 1, 0).copy())[None] / 100
"""


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Write a volume of noise, and a network of volumes beside it."""
    (tmp_path / "net.py").write_text(CODE)
    values = np.random.default_rng(0).normal(size=(20, 24, 16)).astype(np.float32) * 50
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def explain(scan: Path, *more: str, preprocess: bool = True) -> tuple[int, str, str]:
    net = scan.parent / "net.py"
    words = ["explain", str(scan), "--model", f"{net}:build", "--out", str(scan.parent / "out")]
    words += ["--preprocess", f"{net}:prepare"] if preprocess else []
    done = CliRunner().invoke(app, [*words, *more])
    return done.exit_code, done.stdout, done.stderr


def test_a_map_and_a_montage_of_slices(scan: Path) -> None:
    code, _, said = explain(scan, "--target", "1", "--method", "hires_cam", "--colormap", "seismic")
    assert code == 0, said
    assert np.load(scan.parent / "out" / "scan.nii.hires_cam.1.npy").shape == (16, 24, 20)
    with Image.open(scan.parent / "out" / "scan.nii.hires_cam.1.png") as montage:
        assert montage.size[0] > 60
    line = json.loads((scan.parent / "out" / "explanations.jsonl").read_text())
    assert line["read"] is None
    assert len(line["top"]) == 3


def test_the_check_and_the_figure(scan: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'camfn[figure]'")
    figure = scan.parent / "figure.png"
    code, said, error = explain(scan, "--check", "--figure", str(figure), "--colormap", "seismic")
    assert code == 0, error
    assert "other class" in said
    line = json.loads((scan.parent / "out" / "explanations.jsonl").read_text())
    asked = {each["name"]: each for each in line["check"]["lines"]}
    assert {"other class", "new head", "kept", "removed"} <= {name for name, each in asked.items() if each["sentence"]}
    assert line["check"]["forwards"] == 41
    with Image.open(figure) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > pixels.shape[0]
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--format", "npy,png"], "--format takes npy and npz"),
        (["--task", "detect"], "leave --task out"),
        (["--window", "auto"], "leave --window and --frame out"),
        (["--frame", "2"], "leave --window and --frame out"),
    ],
)
def test_what_is_for_photos_is_refused_before_the_network_is_built(scan: Path, more: list[str], said: str) -> None:
    (scan.parent / "net.py").write_text("raise SystemError('built')")
    code, out, error = explain(scan, *more)
    assert (code, out) == (2, "")
    assert said in error


def test_a_preprocessing_is_asked_for(scan: Path) -> None:
    code, out, error = explain(scan, preprocess=False)
    assert (code, out) == (2, "")
    assert "takes volumes: give --preprocess" in error


def test_a_network_of_photos_takes_no_volume(scan: Path) -> None:
    words = ["explain", str(scan), "--model", "tiny:cnn", "--out", str(scan.parent / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "tiny:cnn takes photos: give a network of volumes" in done.stderr


def test_a_network_of_volumes_takes_no_photo(scan: Path) -> None:
    photo = scan.parent / "photo.png"
    Image.new("RGB", (20, 20)).save(photo)
    (scan.parent / "net.py").write_text(CODE.replace("values.transpose(2, 1, 0).copy()", "numpy.array(values)"))
    with (scan.parent / "net.py").open("a") as code:
        code.write("import numpy\n")
    done, _, said = explain(photo)
    assert done == 2
    assert "a network of volumes takes them from files in NIfTI" in said
