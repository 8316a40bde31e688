from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from camfn import CamfnError, explainer, export, methods
from camfn.export import _onnx

from .nets import photos, small


def test_one_file_gives_prediction_and_map(tmp_path: Path) -> None:
    net, file = small(), tmp_path / "net.onnx"
    explain = explainer(methods.layer_cam, net, "stem")
    stages: list[str] = []
    found = export.onnx(
        explain, photos(), file, heatmap=(16, 16), model="small", classes=list("abcdefg"), progress=stages.append
    )
    assert stages == ["tracing", "exporting", "converting to ONNX", "checking"]
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    session = onnxruntime.InferenceSession(str(file))
    facts = json.loads(session.get_modelmeta().custom_metadata_map["camfn"])
    assert facts == json.loads(json.dumps(found))
    assert (facts["model"], facts["layer"], facts["method"], facts["target"]) == ("small", "stem", "layer_cam", "input")
    assert facts["verified"]["batches"] == [3, 1]
    assert max(facts["verified"]["differences"].values()) < 1e-4
    assert [value.shape[0] for value in (*session.get_inputs(), *session.get_outputs())] == [
        "batch",
        "targets",
        *["batch"] * 3,
    ]
    images = photos(4)
    logits, cam, heatmap = session.run(None, {"images": images.numpy(), "target": np.array([2])})
    np.testing.assert_allclose(logits, net(images).detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(cam, explain(images, 2).numpy(), rtol=1e-4, atol=1e-6)
    assert heatmap.shape == (4, 16, 16)


@pytest.mark.parametrize("asked", [[7, 0], [-2, 0], [0, 2**40], [-(2**40)]])
def test_a_class_that_the_outputs_lack_is_an_error_of_the_runtime(tmp_path: Path, asked: list[int]) -> None:
    file = tmp_path / "net.onnx"
    export.onnx(explainer(methods.grad_cam, small(), "last"), photos(), file)
    session = onnxruntime.InferenceSession(str(file))
    with pytest.raises(Exception, match="out of data bounds"):
        session.run(None, {"images": photos(2).numpy(), "target": np.array(asked)})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"classes": ["a"]}, "expected 7 names, one for each logit; got 1"),
        ({"classes": dict.fromkeys("abcdefg")}, "a list of names by index"),
        ({"classes": [1] * 7}, "expected names, got 1"),
        ({"preprocessing": object()}, "as JSON"),
        ({"model": 3}, "expected its name"),
        ({"target": [1, 2]}, r"\[1, 2\], fixes their number: pass batch='fixed'"),
    ],
)
def test_what_a_file_cannot_say_of_itself_is_refused_before_any_work(
    tmp_path: Path, given: dict[str, Any], words: str
) -> None:
    stages: list[str] = []
    explain = explainer(methods.grad_cam, small(), "last")
    with pytest.raises(CamfnError, match=words):
        export.onnx(explain, photos(), tmp_path / "net.onnx", progress=stages.append, **given)
    assert stages == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_on_which_nothing_can_be_checked_are_refused(tmp_path: Path, value: float) -> None:
    images = photos()
    images[1, 0, 3, 3] = value
    with pytest.raises(CamfnError, match="without NaN and infinity"):
        export.onnx(explainer(methods.grad_cam, small(), "last"), images, tmp_path / "net.onnx")


def test_a_network_of_one_logit_exports(tmp_path: Path) -> None:
    net = torch.nn.Sequential(small(), torch.nn.Linear(7, 1)).eval()
    explain = explainer(methods.grad_cam, net, "0.last")
    found = export.onnx(explain, photos(), tmp_path / "net.onnx", classes=["ripe"])
    assert max(found["verified"]["differences"].values()) < 1e-4


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    file = tmp_path / "net.onnx"
    file.write_text("before")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CamfnError, match=r"net\.onnx cannot be written: No space left on device"):
        export.onnx(explainer(methods.grad_cam, small(), "last"), photos(), file)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("net.onnx", "before")]


def test_a_file_that_disagrees_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*given: Any) -> Any:
        proto = right(*given)
        for node in proto.graph.node:
            if node.op_type == "Relu":
                node.op_type = "Tanh"
        return proto

    right = _onnx.converted
    monkeypatch.setattr(_onnx, "converted", wrong)
    with pytest.raises(CamfnError, match=r"off the eager explainer's, .*: nothing was written"):
        export.onnx(explainer(methods.grad_cam, small(), "stem"), photos(), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "words"), [("net.pt2", r"ends in \.onnx"), ("none/net.onnx", "no folder"), ("folder.onnx", "is a folder")]
)
def test_a_path_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(CamfnError, match=words):
        export.onnx(explainer(methods.grad_cam, small(), "last"), torch.zeros(1), tmp_path / name)


def test_weights_that_one_file_has_no_room_for_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_onnx, "_LARGEST", 1000)
    with pytest.raises(CamfnError, match=r"GB of weights, and one ONNX file holds 2 GB: take export\.program"):
        export.onnx(explainer(methods.grad_cam, small(), "last"), photos(), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_clamping_to_a_whole_number_and_a_fraction_is_in_the_file_and_what_onnx_lacks_is_named(tmp_path: Path) -> None:
    class Between(nn.Module):
        def __init__(self, between: Any) -> None:
            super().__init__()
            self.first, self.last, self.between = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 5), between

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            value: torch.Tensor = self.last(self.between(self.first(x)).flatten(1))
            return value

    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    clamped = explainer(methods.hires_cam, Between(lambda y: y.clamp(0, 0.5)).eval(), "first")
    assert export.onnx(clamped, images, tmp_path / "net.onnx")["batch"] == "dynamic"
    median = explainer(methods.hires_cam, Between(lambda y: y - y.median(-1, True)[0]).eval(), "first")
    with pytest.raises(CamfnError, match=r"ONNX cannot express.*aten\.median"):
        export.onnx(median, images, tmp_path / "net.onnx")
