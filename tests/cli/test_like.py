"""`camfn explain --like grad-cam`: the pictures of pytorch-grad-cam, or an error before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from camfn import image, zoo
from camfn.cli._app import app

from .made import scenes_in


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["explain", *map(str, words)])


@pytest.mark.parametrize("alpha", [0.5, 0.3])
def test_the_picture_is_that_of_pytorch_grad_cam(tmp_path: Path, alpha: float) -> None:
    peer = pytest.importorskip("pytorch_grad_cam.utils.image")
    photos = scenes_in(tmp_path / "photos", 2)
    done = run(photos, "--model", "tiny:cnn", "--out", tmp_path, "--like", "grad-cam", "--alpha", alpha)
    assert done.exit_code == 0, done.output
    view = zoo.load("tiny:cnn").view
    for name in ("0", "1"):
        with Image.open(photos / f"{name}.png") as photo:
            seen = np.asarray(view(photo.convert("RGB")), np.float32) / 255
        cam = np.maximum(np.load(tmp_path / f"{name}.grad_cam.npy"), 0)[None]
        heat = peer.scale_cam_image(peer.scale_cam_image(cam, seen.shape[1::-1]))[0]  # of a layer, then of their mean
        expected = peer.show_cam_on_image(seen, heat, use_rgb=True, image_weight=1 - alpha)
        found = image.to_numpy(tmp_path / f"{name}.grad_cam.png")
        off = np.abs(found.astype(int) - expected.astype(int))
        assert int(off.max()) <= 2


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--colormap", "jet"), "leave out --colormap jet"),
        (("--figure", "a.pdf"), "leave --figure out"),
        (("--task", "detect"), "no detections"),
        (("--method", "guided_backprop"), "camfn guided"),
        (("--no-overlay",), "leave out --no-overlay"),
        (("--task", "similar"), "there is no photo grad-cam"),
    ],
)
def test_what_has_no_such_picture_is_refused(tmp_path: Path, words: tuple[str, ...], part: str) -> None:
    photos = scenes_in(tmp_path / "photos", 1)
    model = "tiny:detector" if "detect" in words else "tiny:cnn"
    done = run(photos, "--model", model, "--out", tmp_path, "--like", "grad-cam", *words)
    assert done.exit_code == 2, done.output
    assert part in " ".join(done.output.split())
    assert not list(tmp_path.glob("*.png"))


def test_another_look_is_refused(tmp_path: Path) -> None:
    done = run(scenes_in(tmp_path / "photos", 1), "--model", "tiny:cnn", "--out", tmp_path, "--like", "captum")
    assert done.exit_code == 2
    assert "--like grad-cam" in " ".join(done.output.split())
