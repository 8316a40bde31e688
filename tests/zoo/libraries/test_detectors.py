"""`yolo:` and `rfdetr:`, where the packages are installed: loaded offline, and no code in a file is run."""

from __future__ import annotations

import os
import pickle
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from camfn import CamfnError, capture, capture_levels, zoo
from camfn.cli._files.records import read_lines
from camfn.methods import odam
from camfn.targets import box_score, detections, head_for
from camfn.zoo import LoadError
from tests.cli.jobs.test_task import run
from tests.nets.yolos import photos, ultralytics, yolo


def needs(package: str) -> Any:
    return pytest.importorskip(package)


def test_a_missing_package_is_named_with_its_extra() -> None:
    for spec, package in (("yolo:yolo11n.yaml", "ultralytics"), ("rfdetr:nano", "rfdetr")):
        if find_spec(package) is None:
            with pytest.raises(LoadError, match=rf"camfn\[{package}\]"):
                zoo.load(spec, weights="none")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("yolo:nothere.pt", "no such file, and camfn fetches none"),
        ("yolo:best.onnx", "expected a file that YOLO saved"),
        ("rfdetr:huge", "expected one of rfdetr:nano"),
        ("rfdetr:nano", "camfn fetches no weights"),
    ],
)
def test_words_are_refused_before_a_package_is_asked(spec: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        zoo.load(spec)


@pytest.fixture
def best(tmp_path: Path) -> Path:
    """A file that YOLO saved."""
    needs("ultralytics")
    holder = yolo("yolo11n.yaml")
    holder.model.names = {i: ("person", "bicycle", "car")[i] if i < 3 else f"thing {i}" for i in range(80)}
    holder.save(str(tmp_path / "best.pt"))
    return tmp_path / "best.pt"


@pytest.fixture
def street(tmp_path: Path) -> Path:
    Image.fromarray(photos()[0]).save(tmp_path / "street.png")
    return tmp_path / "street.png"


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
def test_a_file_that_yolo_saved_is_the_network(best: Path, street: Path) -> None:
    settings = {key: os.environ.get(key) for key in ("YOLO_OFFLINE", "YOLO_AUTOINSTALL", "YOLO_CONFIG_DIR")}
    loaded = zoo.load(f"yolo:{best}", input_size=160)
    assert {key: os.environ.get(key) for key in settings} == settings
    assert loaded.classes is not None
    assert loaded.classes[:4] == ["person", "bicycle", "car", "thing 3"]
    assert loaded.about["weights"] == "of the file"
    assert not loaded.model.training
    own = yolo("yolo11n.yaml")
    own.predict(str(street), imgsz=160, verbose=False, save=False)
    import cv2

    wanted = own.predictor.preprocess([cv2.imread(str(street))]).clone()
    with Image.open(street) as photo:
        given = loaded.preprocess(photo)
    assert torch.equal(given, wanted[0])  # to the last bit
    with torch.no_grad():
        mine, theirs = loaded.model(wanted)[0], own.model(wanted)[0]
    torch.testing.assert_close(mine, theirs, rtol=0.02, atol=1.0)  # a file holds halves


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("inside", [False, True])
def test_one_command_one_folder(best: Path, street: Path, tmp_path: Path, inside: bool) -> None:
    out = tmp_path / "out"
    options = ["--task", "detect", "--method", "odam", "--target", "top:10", "--input-size", "160", "--out", out]
    result = run(street, "--model", f"yolo:{best}", *options, *(["--rescale", "inside"] if inside else []))
    assert result.exit_code == 0, result.output
    rows = read_lines(out / "explanations.jsonl")
    holder = ultralytics().YOLO(str(best))
    (shown,) = holder.predict(str(street), imgsz=160, verbose=False, save=False)
    assert len(rows) == 10
    for row, box, score, label in zip(rows, shown.boxes.xyxy, shown.boxes.conf, shown.boxes.cls, strict=False):
        torch.testing.assert_close(torch.tensor(row["box"]), box, rtol=1e-2, atol=1.5)  # fused, and not
        assert abs(row["score"] - float(score)) < 0.01
        assert row["name"] == shown.names[int(label)]
        assert np.load(out / row["map"]).shape == (106, 160)  # the letterbox is undone
    with Image.open(out / "street.odam.png") as picture:
        assert picture.width >= 640


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "config", ["yolo11n-seg.yaml", "yolov8n-pose.yaml", "yolo11n-obb.yaml", "yolo26n.yaml", "rtdetr-l.yaml"]
)
def test_segment_pose_obb_and_end_to_end_networks_are_explained(config: str, street: Path, tmp_path: Path) -> None:
    needs("ultralytics")
    file, out = tmp_path / "mine.pt", tmp_path / "out"
    yolo(config).save(str(file))
    result = run(street, "--model", f"yolo:{file}", "--task", "detect", "--method", "odam", "--target", "top:3",
                 "--input-size", "160", "--out", out)  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = read_lines(out / "explanations.jsonl")
    assert len(rows) == 3
    assert all("corners" in row for row in rows) == ("obb" in config)


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
def test_a_classifier_is_explained_as_any(street: Path, tmp_path: Path) -> None:
    needs("ultralytics")
    file, out = tmp_path / "cls.pt", tmp_path / "out"
    yolo("yolo11n-cls.yaml").save(str(file))
    result = run(street, "--model", f"yolo:{file}", "--input-size", "64", "--target", "top:2", "--out", out)
    assert result.exit_code == 0, result.output
    assert len(read_lines(out / "explanations.jsonl")) == 2


class Evil:
    """What a pickle would run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
def test_a_malicious_file_is_refused_and_nothing_is_run(best: Path, street: Path, tmp_path: Path) -> None:
    mark = tmp_path / "owned"
    whole, inner = tmp_path / "whole.pt", tmp_path / "inner.pt"
    torch.save({"model": Evil(mark)}, whole)
    content = torch.load(best, weights_only=False)
    content["train_args"] = {"imgsz": Evil(mark)}  # a true network, and a command beside it
    torch.save(content, inner)
    bare = tmp_path / "bare.pt"
    bare.write_bytes(pickle.dumps(Evil(mark)))
    empty = tmp_path / "empty.pt"
    empty.write_bytes(b"")
    cut = tmp_path / "cut.pt"
    cut.write_bytes(best.read_bytes()[:2000])
    archive = tmp_path / "archive.pt"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("data.pkl", pickle.dumps(Evil(mark)))
    for file in (whole, inner, bare, empty, cut, archive):
        with pytest.raises(LoadError, match="nothing in it was run"):
            zoo.load(f"yolo:{file}")
        result = run(street, "--model", f"yolo:{file}", "--task", "detect", "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert "--trust" in " ".join(result.output.split())
        assert not mark.exists()
    assert not (tmp_path / "out").exists()
    state = tmp_path / "state.pt"
    torch.save({"a": torch.ones(2)}, state)
    with pytest.raises(LoadError, match="holds no network"):
        zoo.load(f"yolo:{state}")
    assert zoo.load(f"yolo:{best}", trust=True).about["weights"] == "of the file"


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
def test_a_package_without_safe_loading_is_refused_unless_trusted(best: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics.nn import tasks

    monkeypatch.setattr(tasks._SafeLoad, "SUPPORTED", False)
    with pytest.raises(LoadError, match="--trust, if you trust"):
        zoo.load(f"yolo:{best}")
    assert zoo.load(f"yolo:{best}", trust=True).model is not None


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "code", ["__import__('os').system('touch owned')", "open('owned', 'w')", "nn.SiLU(open('owned', 'w'))", "print"]
)
def test_code_in_a_configuration_is_refused(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("ultralytics")
    monkeypatch.chdir(tmp_path)
    from ultralytics.utils import ROOT

    text = (ROOT / "cfg/models/11/yolo11.yaml").read_text()
    (tmp_path / "yolo11n.yaml").write_text(f"activation: {code}\n{text}")
    with pytest.raises(LoadError, match="activation is code"):
        zoo.load("yolo:yolo11n.yaml")
    assert not (tmp_path / "owned").exists()
    (tmp_path / "yolo11n.yaml").write_text(f"activation: nn.ReLU()\n{text}")
    assert any(isinstance(module, torch.nn.ReLU) for module in zoo.load("yolo:yolo11n.yaml").model.modules())


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
def test_a_configuration_has_random_weights_always_the_same() -> None:
    needs("ultralytics")
    state = torch.get_rng_state()
    one, other = (zoo.load("yolo:yolo11n.yaml").model.state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(state, torch.get_rng_state())
    assert zoo.load("yolo:yolo11n.yaml").about["weights"] == "random"
    with pytest.raises(LoadError, match="no such configuration"):
        zoo.load("yolo:nothere.yaml")
    with pytest.raises(CamfnError, match="class names"):
        zoo.load("yolo:yolo11n.yaml", classes=["a", "b"])


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
def test_rfdetr_is_built_with_random_weights_or_a_file(street: Path, tmp_path: Path) -> None:
    needs("rfdetr")
    loaded = zoo.load("rfdetr:nano", weights="none")
    assert loaded.classes is not None
    assert loaded.classes[1] == "person"
    state = {key: value + 0.01 for key, value in loaded.model.state_dict().items() if value.is_floating_point()}
    rest = {key: value for key, value in loaded.model.state_dict().items() if key not in state}
    torch.save({"model": state | rest, "args": {"resolution": 384}}, tmp_path / "mine.pth")
    mine = zoo.load("rfdetr:nano", weights=tmp_path / "mine.pth")
    key = "class_embed.weight"
    torch.testing.assert_close(mine.model.state_dict()[key], state[key])
    with Image.open(street) as photo:
        assert loaded.preprocess(photo).shape == (3, 384, 384)
        pixels = loaded.preprocess(photo)[None]
    head = head_for(loaded.model)
    (name,) = head.layers
    each = capture_levels(loaded.model, [name])(pixels, [box_score(n, 1, head=head) for n in (0, 4)])[name]

    def grads_of(n: torch.Tensor) -> torch.Tensor:
        return capture(loaded.model, name)(pixels, box_score(n, torch.tensor([1]), head=head)).grads

    torch.testing.assert_close(torch.vmap(grads_of)(torch.tensor([[0], [4]])), each.grads, rtol=1e-3, atol=1e-7)


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
def test_rfdetr_is_explained_from_a_shell(street: Path, tmp_path: Path) -> None:
    needs("rfdetr")
    net = zoo.load("rfdetr:nano", weights="none").model
    state = net.state_dict()
    state["class_embed.bias"] = state["class_embed.bias"] + 5  # so that some boxes pass the threshold
    torch.save({"model": state, "args": {"resolution": 384}}, tmp_path / "mine.pth")
    out = tmp_path / "out"
    done = run(street, "--task", "detect", "--model", "rfdetr:nano", "--weights", tmp_path / "mine.pth", "--method",
               "odam", "--target", "top:4", "--out", out)  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = read_lines(out / "explanations.jsonl")
    assert len(rows) == 4
    loaded = zoo.load("rfdetr:nano", weights=tmp_path / "mine.pth")
    head = head_for(loaded.model)
    with Image.open(street) as photo:
        size, pixels = photo.size, loaded.preprocess(photo.convert("RGB"))[None]
    (found,) = detections(head, loaded.model(pixels))
    limit = torch.tensor([*size, *size])
    for n, row in enumerate(rows):
        assert row["index"] == int(found.labels[n])
        want = torch.minimum((found.boxes[n] * limit).clamp(min=0), limit.float())
        torch.testing.assert_close(torch.tensor(row["box"]), want, rtol=1e-3, atol=0.1)
        score = box_score(int(found.candidates[n]), row["index"], head=head)
        (one,) = capture_levels(loaded.model, head.layers)(pixels, [score]).values()
        cam = odam(one.activations, one.grads[0])[0].numpy()
        np.testing.assert_allclose(np.load(out / row["map"]), cam, rtol=1e-3, atol=1e-6 * np.abs(cam).max() + 1e-12)
