"""Two new users at a shell: three classes of one's own with 12-bit scans, and a regression of a DICOM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("typer", reason="needs typer: pip install 'camfn[cli]'")
torchvision = pytest.importorskip("torchvision", reason="needs torchvision: pip install 'camfn[cli]'")

CODE = """
import torch
from torch import nn


class Age(nn.Module):
    def __init__(self):
        super().__init__()
        first, second = nn.Conv2d(1, 8, 5, 2), nn.Conv2d(8, 16, 3, 2)
        self.body = nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), second, nn.ReLU())
        self.out = nn.Linear(16, 1)

    def forward(self, x):
        return self.out(self.body(x).mean((2, 3)))[:, 0]
"""


def shell(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Run one line in a shell, as a user types it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    line = line.replace("camfn", f"{sys.executable} -m camfn", 1)
    return subprocess.run(
        line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def scan(seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint16]]:
    """A scan of 12 bits, bright in a place that differs."""
    down, across = np.mgrid[:300, :260]
    noise = np.random.default_rng(seed).normal(0, 60, down.shape)
    bright = 2500 * np.exp(-((down - 80 - 40 * seed) ** 2 + (across - 130) ** 2) / 3000)
    made: np.ndarray[tuple[int, int], np.dtype[np.uint16]] = (1000 + bright + noise).clip(0, 4095).astype(np.uint16)
    return made


def test_three_classes_of_ones_own_and_a_folder_of_scans(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.resnet18(num_classes=3)
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 7, "hyper_parameters": {"lr": 0.1}}, tmp_path / "x.ckpt")
    (tmp_path / "names.txt").write_text("healthy\npneumonia\nother\n")
    (tmp_path / "scans").mkdir()
    for seed in range(3):
        Image.fromarray(scan(seed)).save(tmp_path / "scans" / f"p{seed}.png")
    command = "camfn explain scans --model torchvision:resnet18 --weights x.ckpt --classes names.txt"
    first = shell(tmp_path, f"{command} --out first")
    assert first.returncode == 1  # never a black picture in silence
    assert first.stderr.count("give --window 0,4095") == 3
    assert not list(tmp_path.glob("first/*.png"))
    done = shell(tmp_path, f"{command} --window 0,4095 --target pneumonia --out maps")
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("names without 'model.'", "3 classes, as the weights have them", "pneumonia (1)"):
        assert words in done.stdout
    overlays = sorted(tmp_path.glob("maps/*.png"))
    assert [path.name for path in overlays] == [f"p{seed}.grad_cam.1.png" for seed in range(3)]
    for path in overlays:
        with Image.open(path) as picture:
            assert np.asarray(picture).max() > 150
    wrong = shell(tmp_path, f"{command} --window 0,4095 --target pneumonja --out other")
    assert wrong.returncode == 2
    assert "pneumonia" in wrong.stderr


def test_a_regression_of_a_dicom(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="needs pydicom: pip install 'camfn[medical]'")
    from ..photos.test_medical import dicom

    (tmp_path / "net.py").write_text(CODE)
    names: dict[str, type[nn.Module]] = {}
    exec(CODE, names)
    torch.manual_seed(0)
    torch.save(names["Age"]().state_dict(), tmp_path / "age.pth")
    options = {"RescaleIntercept": -1024, "RescaleSlope": 1, "WindowCenter": 1000, "WindowWidth": 4000}
    dicom(tmp_path / "scan.dcm", scan(1), PhotometricInterpretation="MONOCHROME1", **options)
    model = "--model net.py:Age --weights age.pth --input-size 128 --mean 0.5 --std 0.25"
    done = {
        word: shell(tmp_path, f"camfn explain scan.dcm {model} --target {word}: --out {word}")
        for word in ("higher", "lower")
    }
    assert sorted(each.returncode for each in done.values()) in ([0, 0], [0, 1])  # a map may speak one way only
    good = next(word for word, each in done.items() if each.returncode == 0)
    assert "probability" not in done[good].stdout  # of one number there is none
    (overlay,) = tmp_path.glob(f"{good}/*.png")
    with Image.open(overlay) as picture:
        assert picture.size == pytest.approx((260, 260), abs=2)
    layers = shell(tmp_path, f"camfn layers net.py:Age {model.replace('--model net.py:Age ', '')}")
    assert layers.returncode == 0, layers.stderr
    assert "body" in layers.stdout
    asked = shell(tmp_path, "camfn explain scan.dcm --model net.py:Age --out other")
    assert (asked.returncode, asked.stderr.count("\n")) == (2, 1)
    assert "give --input-size, --mean, --std" in asked.stderr
