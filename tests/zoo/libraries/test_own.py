"""Models of one's own: heads, prefixes, functions, exported programs, preprocessing; and what is refused, by name."""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

pytest.importorskip("timm", reason="needs timm: pip install 'camfn[cli]'")
pytest.importorskip("torchvision", reason="needs torchvision: pip install 'camfn[cli]'")

from camfn._shared.errors import LoadError
from camfn.zoo import load, of
from camfn.zoo._photo.recipe import Recipe
from camfn.zoo._weights.state import read_states

timm: Any = pytest.importorskip("timm")
torchvision: Any = pytest.importorskip("torchvision")
transforms: Any = torchvision.transforms

PHOTO = Image.effect_noise((120, 90), 60).convert("RGB")


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("_camfn_given"):
            del sys.modules[name]


def fine_tuned(name: str, number: int = 3) -> nn.Module:
    torch.manual_seed(1)
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=number)
    return model.eval()


def saved(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


def same(model: nn.Module, other: nn.Module) -> None:
    ours, theirs = model.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


# ------------------------------------------------------------------------------------------------- heads and prefixes


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "mobilenet_v3_small",
        "squeezenet1_1",
        "densenet121",
        "convnext_tiny",
        "shufflenet_v2_x0_5",
        "regnet_y_400mf",
    ],
)
@pytest.mark.parametrize("number", [1, 3])
def test_the_head_that_the_weights_have(name: str, number: int, tmp_path: Path) -> None:
    model = fine_tuned(name, number)
    path = saved(model.state_dict(), tmp_path / "x.pth")
    loaded = load(f"torchvision:{name}", weights=path)
    same(loaded.model, model)
    assert loaded.classes is None
    assert str(number) in loaded.about["head"]
    image = loaded.preprocess(PHOTO)[None]
    assert torch.equal(loaded.model(image), model(image))


@pytest.mark.parametrize(
    "name", ["resnet10t", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "mobilenetv3_small_050"]
)
def test_heads_of_timm_and_gray_images(name: str, tmp_path: Path) -> None:
    model = timm.create_model(name, num_classes=4, in_chans=1).eval()
    path = saved({"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "x.ckpt")
    loaded = load(f"timm:{name}", weights=path, classes=["a", "b", "c", "d"])
    same(loaded.model, model)
    assert loaded.classes == ["a", "b", "c", "d"]
    assert loaded.preprocess(PHOTO).shape[0] == 1
    assert loaded.model(loaded.preprocess(PHOTO)[None]).shape == (1, 4)


def test_a_gray_network_of_torchvision(tmp_path: Path) -> None:
    model = fine_tuned("resnet18", 2)
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    loaded = load("torchvision:resnet18", weights=saved(model.state_dict(), tmp_path / "x.pth"), mean=0.5, std=0.25)
    same(loaded.model, model)
    assert loaded.preprocess(Image.new("RGB", (300, 300), "white")).flatten().tolist() == [2.0] * 224**2


@pytest.mark.parametrize("name", ["fcn_resnet50", "fasterrcnn_mobilenet_v3_large_fpn", "ssdlite320_mobilenet_v3_large"])
def test_heads_of_detectors_and_segmenters(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"aux_loss": True} if name.startswith("fcn") else {}
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=5, **options)
    loaded = load(f"torchvision:{name}", weights=saved(model.state_dict(), tmp_path / "x.pth"))
    same(loaded.model, model)


def test_heads_of_hugging_face(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "base")
    transformers.ViTImageProcessor().save_pretrained(tmp_path / "base")
    config.num_labels = 7
    model = transformers.ViTForImageClassification(config)
    loaded = load(f"hf:{tmp_path / 'base'}", weights=saved(model.state_dict(), tmp_path / "x.pth"))
    same(loaded.model, model)
    other = load(f"hf:{tmp_path / 'base'}", weights="none", mean=0.1, std=0.2)
    assert "0.1" in other.about["photos"]


@pytest.mark.parametrize(
    "prefix", ["model.", "net.", "module.", "backbone.", "_orig_mod.", "model._orig_mod.", "a.b.c.d."]
)
@pytest.mark.parametrize("place", ["", "state_dict", "model", "ema", "model_ema", "model_state_dict", "anything"])
def test_any_common_prefix_in_any_place(prefix: str, place: str, tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=2)
    state: Any = {prefix + key: value for key, value in model.state_dict().items()}
    content = {place: state, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}} if place else state
    loaded = load("timm:test_resnet", weights=saved(content, tmp_path / "x.pth"))
    same(loaded.model, model)


def test_a_compiled_part_and_a_wrapped_one(tmp_path: Path) -> None:
    model = fine_tuned("resnet18")
    state = {key.replace("layer1.", "layer1._orig_mod."): value for key, value in model.state_dict().items()}
    same(load("torchvision:resnet18", weights=saved(state, tmp_path / "x.pth")).model, model)
    average = torch.optim.swa_utils.AveragedModel(model)
    same(load("torchvision:resnet18", weights=saved(average.state_dict(), tmp_path / "y.pth")).model, model)


def test_what_the_training_left_beside_the_network(tmp_path: Path) -> None:
    model = fine_tuned("resnet18")
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    beside = {"criterion.weight": torch.ones(3), "train_acc.total": torch.tensor(1)}
    args = argparse.Namespace(lr=0.1, path=Path("x"))
    loaded = load(
        "torchvision:resnet18", weights=saved({"state_dict": state | beside, "args": args}, tmp_path / "x.ckpt")
    )
    same(loaded.model, model)
    assert "2 tensors beside" in loaded.about["weights"]
    head = {"head.weight": torch.ones(3, 3), "head.bias": torch.ones(3)}
    with pytest.raises(LoadError, match=r"2 unexpected \(as head\.weight\)"):
        load("torchvision:resnet18", weights=saved(state | head, tmp_path / "y.ckpt"))


def test_averages_come_last_and_are_said(tmp_path: Path) -> None:
    one, two = fine_tuned("resnet18"), fine_tuned("resnet18")
    nn.init.ones_(two.get_parameter("fc.weight"))
    path = saved({"model_ema": two.state_dict(), "model": one.state_dict()}, tmp_path / "x.pth")
    loaded = load("torchvision:resnet18", weights=path)
    same(loaded.model, one)
    assert "model_ema" in loaded.about["weights"]
    same(load("torchvision:resnet18", weights=f"{path}:model_ema").model, two)
    with pytest.raises(LoadError, match=r"no state dict at 'mode': it has model_ema, model"):
        load("torchvision:resnet18", weights=f"{path}:mode")
    students = {f"{who}.{key}": value for who in ("student", "teacher") for key, value in one.state_dict().items()}
    with pytest.raises(LoadError, match=r"2 times, under 'student\.' and 'teacher\.'"):
        load("torchvision:resnet18", weights=saved(students, tmp_path / "y.pth"))


def test_a_head_behind_dropout(tmp_path: Path) -> None:
    model = fine_tuned("resnet18")
    model.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 3)).eval()
    loaded = load("torchvision:resnet18", weights=saved(model.state_dict(), tmp_path / "x.pth"))
    image = loaded.preprocess(PHOTO)[None]
    assert torch.equal(loaded.model(image), model(image))
    assert "dropout" in loaded.about["weights"]
    model = fine_tuned("mobilenet_v2")
    model.classifier = nn.Linear(1280, 3)
    loaded = load("torchvision:mobilenet_v2", weights=saved(model.state_dict(), tmp_path / "y.pth"))
    image = loaded.preprocess(PHOTO)[None]
    assert torch.equal(loaded.model(image), model(image))


def test_a_head_that_cannot_be_guessed_is_refused(tmp_path: Path) -> None:
    model = fine_tuned("resnet18")
    model.fc = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 3))
    with pytest.raises(LoadError, match=r"If its fc was changed.*--model file\.py:function --weights PATH"):
        load("torchvision:resnet18", weights=saved(model.state_dict(), tmp_path / "x.pth"))
    model = fine_tuned("convnext_tiny")
    model.classifier = nn.Linear(768, 3)  # where LayerNorm was
    with pytest.raises(LoadError, match="missing"):
        load("torchvision:convnext_tiny", weights=saved(model.state_dict(), tmp_path / "y.pth"))
    body = {f"backbone.{key}": value for key, value in fine_tuned("resnet18").state_dict().items() if "fc" not in key}
    split = body | {"head.weight": torch.ones(3, 512), "head.bias": torch.ones(3)}
    with pytest.raises(LoadError, match=r"2 unexpected \(as head\.weight\)\. If its fc was changed"):
        load("torchvision:resnet18", weights=saved(split, tmp_path / "s.pth"))
    with pytest.raises(LoadError, match=r"missing.*Are they of another network\?"):
        load("torchvision:resnet50", weights=saved(fine_tuned("resnet18").state_dict(), tmp_path / "z.pth"))
    with pytest.raises(LoadError, match=r"They hold no fc, as those of a backbone do"):
        load("torchvision:resnet18", weights=saved(body, tmp_path / "b.pth"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: dict(enumerate(s.values())), "names its tensors by numbers"),
        (lambda s: {"state_dict": dict(enumerate(s.values()))}, "names its tensors by numbers"),
        (lambda s: s | {"fc.weight": s["fc.weight"].to("meta")}, "fc.weight, which is on the meta device"),
        (lambda s: s | {"fc.weight": s["fc.weight"].to_sparse()}, r"fc\.weight .* is sparse"),
        (lambda s: s | {"fc.weight": s["fc.weight"].to(torch.int8)}, r"fc\.weight .* is of torch\.int8"),
        (lambda s: s | {"fc.weight": s["fc.weight"].to(torch.complex64)}, "complex64"),
        (lambda s: s | {"fc.weight": 3}, "missing"),
        (lambda s: {}, "not a state dict"),
        (lambda s: list(s.values()), "not a state dict"),
        (lambda s: torch.zeros(3), "not a state dict"),
        (lambda s: fine_tuned("resnet18"), r"pickled model \(torch.*torch\.export\.save"),
    ],
)
def test_weights_that_are_none(change: Callable[[Any], Any], words: str, tmp_path: Path) -> None:
    path = saved(change(fine_tuned("resnet18").state_dict()), tmp_path / "x.pth")
    with pytest.raises(LoadError, match=words) as caught:
        load("torchvision:resnet18", weights=path)
    assert "\n" not in str(caught.value)


def test_a_pickle_never_runs(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))  # a function of pytest pickles otherwise from version to version

    state = fine_tuned("resnet18").state_dict()
    for content in ({"state_dict": state, "hyper": Payload()}, Payload(), [Payload()]):
        path = saved(content, tmp_path / "x.pth")
        with pytest.raises(LoadError, match=r"more than tensors|pickled model|not a state dict"):
            load("torchvision:resnet18", weights=path)
        assert not (tmp_path / "ran").exists()


def test_programs_are_no_weights(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3)).eval()
    with torch.no_grad():
        traced = torch.jit.trace(net, torch.rand(1, 3, 8, 8))  # type: ignore[no-untyped-call]
    traced.save(tmp_path / "x.pt")
    with pytest.raises(LoadError, match="TorchScript"):
        load("torchvision:resnet18", weights=tmp_path / "x.pt")
    torch.export.save(torch.export.export(net, (torch.rand(1, 3, 8, 8),)), tmp_path / "x.pt2")
    with pytest.raises(LoadError, match="give it as --model"):
        load("torchvision:resnet18", weights=tmp_path / "x.pt2")
    for name in ("x.pth", "x.ckpt", "x.onnx", "x.safetensors"):
        (tmp_path / name).touch()
        with pytest.raises(LoadError, match=r"torch\.export\.save"):
            load(str(tmp_path / name))


@pytest.mark.parametrize("suffix", [".pt2", ".aot.pt2", ".onnx", ".pth", ".pt", ".ckpt", ".safetensors"])
def test_a_missing_file_is_called_missing(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(LoadError, match=r"there is no file \S+/mine\S+$"):
        load(str(tmp_path / f"mine{suffix}"))
    (tmp_path / f"mime{suffix}").touch()
    with pytest.raises(LoadError, match=rf"there is no file .*\. Did you mean \S+/mime\{suffix}\?"):
        load(str(tmp_path / f"mine{suffix}"))
    (tmp_path / f"mine{suffix}").mkdir()
    with pytest.raises(LoadError, match="is a folder, expected a file"):
        load(str(tmp_path / f"mine{suffix}"))


# -------------------------------------------------------------------------------------------------------- class names


def test_class_names_of_every_form(tmp_path: Path) -> None:
    names = ["good", "rust", "scab"]
    forms = {
        "a.txt": "good\nrust\nscab\n",
        "b.txt": "\ufeffgood\r\nrust\r\nscab\r\n\r\n",
        "c.json": json.dumps(names),
        "d.json": json.dumps({"2": "scab", "0": "good", "1": "rust"}),
        "e.json": json.dumps({"rust": 1, "good": 0, "scab": 2}),
    }
    for name, text in forms.items():
        (tmp_path / name).write_bytes(text.encode())
        assert load("torchvision:resnet18", weights="none", classes=tmp_path / name).classes == names
    (tmp_path / "f.json").write_text('{"good": 0, "scab": 2}')
    (tmp_path / "g.txt").write_text("good\n\nscab")
    (tmp_path / "h.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "i.txt").write_text("")
    for name in ("f.json", "g.txt", "h.txt", "i.txt", "absent.txt", "/dev/zero"):
        with pytest.raises(LoadError, match=name):
            load("torchvision:resnet18", weights="none", classes=tmp_path / name)
    path = saved(fine_tuned("resnet18", 4).state_dict(), tmp_path / "x.pth")
    with pytest.raises(LoadError, match=r"3 class names, and torchvision:resnet18 has 4 classes"):
        load("torchvision:resnet18", weights=path, classes=names)


# ------------------------------------------------------------------------------------------------ how photos are read


@pytest.mark.parametrize("size", [(451, 300), (300, 451), (120, 90), (64, 512), (224, 224), (20, 30)])
@pytest.mark.parametrize("resize", [256, (240, 260), 224, 100])
def test_a_recipe_is_torchvision_s(size: tuple[int, int], resize: Any) -> None:
    photo = Image.effect_noise(size, 60).convert("RGB")
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    recipe = Recipe((224, 192), resize, mean, std, "bicubic")
    steps = [
        transforms.Resize(resize, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop((224, 192)),
        transforms.ToTensor(),
        transforms.Normalize(mean, std),
    ]
    torch.testing.assert_close(recipe(photo), transforms.Compose(steps)(photo), rtol=0, atol=1e-6)


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "timm:resnet10t", "timm:vit_tiny_patch16_224", "lite0"])
def test_numbers_of_the_library_are_the_library_s(spec: str) -> None:
    loaded = load(spec, weights="none")
    same_numbers = load(
        spec, weights="none", input_size=(loaded.preprocess(PHOTO).shape[1], loaded.preprocess(PHOTO).shape[2])
    )
    torch.testing.assert_close(same_numbers.preprocess(PHOTO), loaded.preprocess(PHOTO), rtol=0, atol=1e-6)
    assert same_numbers.view(PHOTO).size == loaded.view(PHOTO).size


def test_the_size_of_a_transformer(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=64).eval()
    path = saved(model.state_dict(), tmp_path / "x.pth")
    same(load("timm:vit_tiny_patch16_224", weights=path, input_size=64).model, model)
    with pytest.raises(LoadError, match="--input-size"):
        load("timm:vit_tiny_patch16_224", weights=path)
    with pytest.raises(LoadError, match="does not take a photo as"):
        load("timm:resnet10t", weights="none", preprocess=lambda photo: torch.zeros(5, 8, 8))


STEPS: dict[str, list[Any]] = {
    "squash": [transforms.Resize((60, 50)), transforms.ToTensor()],
    "crop": [transforms.Resize(70), transforms.CenterCrop(64), transforms.ToTensor()],
    "corner": [transforms.Lambda(lambda photo: photo.crop((10, 20, 80, 85))), transforms.ToTensor()],
    "score": [
        transforms.Resize(64),
        transforms.CenterCrop(64),
        transforms.ToTensor(),
        lambda x: (x - x.mean()) / x.std(),
    ],
    "gray": [transforms.Grayscale(), transforms.Resize((64, 64)), transforms.ToTensor()],
}


@pytest.mark.parametrize("name", STEPS)
def test_what_a_preprocessing_keeps_is_found(name: str) -> None:
    process = transforms.Compose(STEPS[name])
    net = nn.Sequential(nn.Conv2d(1 if name == "gray" else 3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    loaded = of(net, preprocess=process)
    photo = Image.effect_noise((131, 97), 60).convert("RGB")
    boxes = {"squash": (0, 0, 131, 97), "gray": (0, 0, 131, 97), "corner": (10, 20, 80, 85)}
    box = boxes.get(name) or ((21, 4, 110, 93) if name == "crop" else (17, 0, 114, 97))
    expected, got = photo.crop(box), loaded.view(photo)
    assert abs(got.width - expected.width) <= 1
    assert abs(got.height - expected.height) <= 1
    if got.size == expected.size:
        assert got.tobytes() == expected.tobytes() or name in ("crop", "score")


def test_a_preprocessing_without_a_hash() -> None:
    class Process:
        def __eq__(self, other: object) -> bool:
            return True

        def __call__(self, photo: Image.Image) -> Tensor:
            tensor: Tensor = transforms.ToTensor()(photo.resize((20, 20)))
            return tensor

    net = nn.Sequential(nn.Conv2d(3, 2, 3)).eval()
    assert of(net, preprocess=Process()).view(PHOTO).size == PHOTO.size


def test_a_preprocessing_that_is_no_crop_is_refused_or_says_its_view() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3)).eval()
    for steps in (
        [transforms.Resize(32), transforms.RandomHorizontalFlip(1.0), transforms.ToTensor()],
        [transforms.Resize(32), transforms.Pad(9, fill=99), transforms.ToTensor()],
        [transforms.ToTensor(), transforms.RandomErasing(p=1.0)],
        [transforms.ToTensor(), lambda x: x * 0],
    ):
        with pytest.raises(LoadError, match="preproc"):
            of(net, preprocess=transforms.Compose(steps)).view(PHOTO)

    def whole_photo(photo: Image.Image) -> Tensor:
        return torch.zeros(3, 8, 8)

    vars(whole_photo)["view"] = lambda photo: photo
    assert of(net, preprocess=whole_photo).view(PHOTO) is PHOTO
    wrongs: list[Any] = [lambda photo: photo, lambda photo: torch.zeros(1, 3, 8, 8), lambda photo: 1 / 0]
    for wrong in wrongs:
        with pytest.raises(LoadError, match="preprocess"):
            of(net, preprocess=wrong).preprocess(PHOTO)


def test_what_is_not_known_is_asked_for() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with pytest.raises(LoadError, match=r"give --input-size, --mean, --std \(as"):
        of(net)
    with pytest.raises(LoadError, match=r"give --mean, --std"):
        of(net, input_size=32)
    loaded = of(net, input_size=(32, 48), mean="imagenet", std=0.5)
    assert loaded.preprocess(PHOTO).shape == (1, 32, 48)
    assert loaded.model is net
    for wrong in ({"mean": (0.1, 0.2)}, {"std": 0}, {"mean": float("nan")}, {"input_size": 0}, {"resize": "x"}):
        with pytest.raises(LoadError):
            of(net, **({"input_size": 32, "mean": 0, "std": 1} | wrong))
    with pytest.raises(LoadError, match="training mode"):
        of(net.train(), input_size=32, mean=0, std=1)
    known = timm.create_model("resnet10t").eval()
    assert torch.equal(of(known).preprocess(PHOTO), load("timm:resnet10t", weights="none").preprocess(PHOTO))


# ------------------------------------------------------------------------------------------- functions and programs

CODE = """
import torch
from torch import nn
from torchvision import transforms

prepare = transforms.Compose([transforms.Resize((40, 40)), transforms.ToTensor()])

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(*build())

def whole():
    from camfn.zoo import of
    return of(build().eval(), input_size=24, mean=0.5, std=0.5, classes=["no", "yes"])

def number():
    return 3

def broken():
    return 1 / 0
"""


def test_a_function_builds_the_model(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(CODE)
    loaded = load(f"{file}:build", preprocess=f"{file}:prepare", classes=["no", "yes"])
    assert not loaded.model.training
    assert loaded.preprocess(PHOTO).shape == (3, 40, 40)
    assert loaded.view(PHOTO).size == PHOTO.size
    state = {f"net.{key}": value + 1 for key, value in loaded.model.state_dict().items()}
    path = saved(state, tmp_path / "x.ckpt")
    filled = load(f"{file}:Net", weights=path, input_size=24, mean=0.5, std=0.5)
    assert torch.equal(filled.model.state_dict()["4.bias"], loaded.model.state_dict()["4.bias"] + 1)
    assert load(f"{file}:whole").classes == ["no", "yes"]
    assert load(f"{file}:whole", input_size=32).preprocess(PHOTO).shape == (3, 32, 32)
    same(load(f"{file}:build", preprocess=f"{file}:prepare").model, loaded.model)
    for name, words in {
        "number": "returned int",
        "broken": "ZeroDivisionError",
        "absent": "Did you mean|It has",
    }.items():
        with pytest.raises(LoadError, match=words):
            load(f"{file}:{name}")
    with pytest.raises(LoadError, match="3 class names"):
        load(f"{file}:build", preprocess=f"{file}:prepare", classes=["a", "b", "c"])
    with pytest.raises(LoadError, match="5 numbers, and the network takes 3 channels"):
        load(f"{file}:build", input_size=24, mean=(0.5,) * 5, std=1)


class Little(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.drop(self.features(x).mean((2, 3))))
        return scores


@pytest.mark.parametrize("batch", [None, 1])
def test_an_exported_program_is_cut_exactly(batch: int | None, tmp_path: Path) -> None:
    import camfn
    from camfn.methods import grad_cam

    net = Little().eval()
    shapes = {"x": {0: torch.export.Dim("b")}} if batch is None else None
    images = torch.rand(2 if batch is None else 1, 3, 32, 32)
    torch.export.save(torch.export.export(net, (images,), dynamic_shapes=shapes), tmp_path / "x.pt2")
    loaded = load(str(tmp_path / "x.pt2"), mean=0, std=1, classes=["a", "b", "c"])
    assert loaded.batch == batch
    assert loaded.preprocess(PHOTO).shape == (3, 32, 32)
    ours = camfn.explainer(grad_cam, loaded.model, "features.2")(images, 1)
    assert torch.equal(ours, camfn.explainer(grad_cam, net, "features.2")(images, 1))


def test_an_exported_program_runs_nothing(tmp_path: Path) -> None:
    images = torch.rand(2, 3, 32, 32)
    net = Little()
    torch.export.save(torch.export.export(net.train(), (images,)), tmp_path / "train.pt2")
    with pytest.raises(LoadError, match="training mode"):
        load(str(tmp_path / "train.pt2"), mean=0, std=1)
    good = tmp_path / "good.pt2"
    shapes = {"x": {0: torch.export.Dim("b")}}
    torch.export.save(torch.export.export(net.eval(), (images,), dynamic_shapes=shapes), good)
    load(str(good), mean=0, std=1)
    marker = tmp_path / "ran"
    evil = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    program = ("model.json", "exported_program.json")  # of torch before 2.9
    changes: dict[str, Callable[[str, bytes], bytes]] = {
        "shape": lambda name, data: (
            data.replace(b"Symbol('s", b"Symbol(str(" + b"1" + b") + 's") if name.endswith(program) else data
        ),
        "code": lambda name, data: (
            json.dumps(_put(json.loads(data), evil)).encode() if name.endswith(program) else data
        ),
        "call": lambda name, data: (
            data.replace(b"torch.ops.aten.relu.default", b"torch.hub.load") if name.endswith("json") else data
        ),
        "pickle": lambda name, data: _pickled(marker) if "_inputs" in name else data,
    }
    for kind, change in changes.items():
        path = tmp_path / f"{kind}.pt2"
        with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w") as goal:
            for name in source.namelist():
                goal.writestr(name, change(name, source.read(name)))
        with pytest.raises(LoadError, match=r"arithmetic|no operator|pickled objects"):
            load(str(path), mean=0, std=1)
    assert not marker.exists()
    for name, content in {"text.pt2": b"hello", "empty.pt2": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LoadError, match="no exported program"):
            load(str(tmp_path / name))


def _put(content: Any, text: str) -> Any:
    if isinstance(content, dict):
        return {key: text if key == "expr_str" else _put(value, text) for key, value in content.items()}
    return [_put(value, text) for value in content] if isinstance(content, list) else content


def _pickled(marker: Path) -> bytes:
    import io

    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (marker,))

    buffer = io.BytesIO()
    torch.save((Touch(),), buffer)
    return buffer.getvalue()


def test_every_state_dict_of_a_file_is_read(tmp_path: Path) -> None:
    path = saved({"a": {"w": torch.zeros(1)}, "b": {"c": {"w": torch.zeros(1)}}}, tmp_path / "x.pth")
    assert set(read_states(path)) == {"a", "b.c"}
