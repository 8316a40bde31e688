"""All maps from few forwards: each is that of the method's own explainer; else a reason stands in its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, capture, explainer, tiny
from camfn.catalogue import METHODS, find
from camfn.explore import Explored, collect
from camfn.methods import cam, fem, grad_cam, random_cam
from camfn.targets import contrast

from .made import scenes, volumes

CHEAP = [row.name for row in METHODS if row.kind == "layer" and not row.perturbs]


@contextmanager
def counted(model: nn.Module) -> Iterator[list[int]]:
    """Count the samples of each forward."""
    sizes: list[int] = []

    def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        sizes.append(len(given[0]))

    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    handle = first.register_forward_pre_hook(hook)
    yield sizes
    handle.remove()


def tensor(found: Explored, photo: int, target: int, method: str, layer: int) -> Tensor:
    place = [each.id for each in found.methods].index(method)
    one = found.photos[photo].maps[target][place][layer]
    assert isinstance(one, Tensor), one
    return one


@pytest.mark.parametrize("name", [name for name in CHEAP if name not in ("cam", "tam", "random_cam")])
def test_each_map_is_that_of_its_explainer(name: str) -> None:
    model, images = tiny.load("cnn"), scenes(2)
    layers = ["body.2", "body"] if "body.2" in dict(model.named_modules()) else ["body"]
    found = collect(model, images, {"three": 3, "apart": contrast(7, 1)}, methods=[name], layers=layers)
    for photo in range(2):
        targets: list[Any] = [3, contrast(7, 1)]
        for place, target in enumerate(targets):
            for level, layer in enumerate(layers):
                expected = explainer(find(name).function, model, layer)(images[photo : photo + 1], target)[0]
                torch.testing.assert_close(tensor(found, photo, place, name, level), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["ablation_cam", "recipro_cam", "fd_cam", "score_cam"])
def test_a_method_that_perturbs_is_run_by_itself(name: str) -> None:
    model, images = tiny.load("cnn"), scenes(1)
    found = collect(model, images, [3, 7], methods=["grad_cam", name], layers="body")
    for place, target in enumerate((3, 7)):
        expected = explainer(find(name).function, model, "body")(images, target)[0]
        torch.testing.assert_close(tensor(found, 0, place, name, 0), expected, rtol=1e-4, atol=1e-6)


def test_all_cheap_methods_share_one_forward_of_each_input() -> None:
    model, images = tiny.load("cnn"), scenes(2)
    with counted(model) as sizes:
        alone = collect(model, images, [3], methods=["grad_cam"], layers="body")
        few = len(sizes)
        many = collect(model, images, [3, 7, 1], methods=CHEAP, layers="body")
    # beside the layout of the layer, which is found for both
    assert len(sizes) - few == few
    assert torch.equal(tensor(alone, 1, 0, "grad_cam", 0), tensor(many, 1, 0, "grad_cam", 0))


def test_the_model_and_the_global_generator_are_left_as_they_are() -> None:
    model, images = tiny.load("cnn"), scenes(1)
    before, state = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    first = collect(model, images, [3], methods=[random_cam, "grad_cam"], layers="body")
    second = collect(model, images, [3], methods=[random_cam, "grad_cam"], layers="body")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(tensor(first, 0, 0, "random_cam", 0), tensor(second, 0, 0, "random_cam", 0))
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_what_a_method_asks_for_is_told() -> None:
    found = collect(
        tiny.load("cnn"), scenes(1), [3, None], methods=["grad_cam", "fem"], layers="body", classes=list("0123456789")
    )
    assert [each.asks for each in found.methods] == [True, False]
    assert found.methods[0].note.startswith("Grad-CAM")
    assert found.photos[0].targets[0].label == "3"
    assert found.photos[0].targets[1].label.startswith("top: ")
    assert tensor(found, 0, 0, "fem", 0) is tensor(found, 0, 1, "fem", 0)


def test_layers_of_different_depth_stand_in_the_order_of_the_network() -> None:
    model = tiny.load("cnn")
    found = collect(model, scenes(1), [3], methods=["grad_cam"], layers="auto:3")
    names, ended = [layer.id for layer in found.layers], []
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: ended.append(name))
    model(scenes(1))
    assert ended == names
    best = collect(model, scenes(1), [3], methods=["grad_cam"], layers="auto")
    assert found.layers[found.start].id == best.layers[0].id
    assert len({layer.id for layer in found.layers}) == len(found.layers)


def test_a_method_that_fails_at_one_layer_says_why_there() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    ).eval()
    inputs = torch.rand(1, 3, 12, 12)
    found = collect(model, inputs, [1], methods=[cam, grad_cam], layers=["0", "3"])
    first, last = found.photos[0].maps[0][0]
    assert isinstance(first, str)
    assert isinstance(last, Tensor)
    torch.testing.assert_close(last, explainer(cam, model, "3")(inputs, 1)[0])
    with pytest.raises(CamfnError):
        collect(model, inputs, [1], methods=[cam], layers=["0"])
    kept = collect(model, inputs, [1], methods="cheap", layers=["0"])
    assert isinstance(kept.photos[0].maps[0][0][0], str)


def test_volumes_have_slices() -> None:
    model, inputs = volumes(), torch.rand(2, 1, 6, 8, 10)
    found = collect(model, inputs, [0, 2], methods=["grad_cam", "fem"], layers=["3"])
    assert found.photos[1].is_volume
    assert found.photos[1].picture.shape == (6, 8, 10)
    expected = explainer(grad_cam, model, "3")(inputs[1:], 2)[0]
    torch.testing.assert_close(tensor(found, 1, 1, "grad_cam", 0), expected)
    torch.testing.assert_close(tensor(found, 1, 0, "fem", 0), explainer(fem, model, "3")(inputs[1:], 0)[0])


def test_maps_that_are_not_finite_are_told() -> None:
    def broken(activations: Tensor, grads: Tensor) -> Tensor:
        return activations.mean(1) / 0

    found = collect(tiny.load("cnn"), scenes(1), [3], methods=[broken], layers="body")
    assert found.photos[0].maps[0][0][0] == "the map holds values that are not finite"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": torch.ones(2, 8)}, "expected inputs"),
        ({"inputs": torch.ones(0, 3, 32, 32)}, "expected inputs"),
        ({"targets": []}, "at least one target"),
        ({"targets": 3}, "a list or a dict"),
        ({"targets": [99]}, "99"),
        ({"methods": []}, "at least one method"),
        ({"methods": ["grad_camm"]}, "grad_cam"),
        ({"methods": ["full_grad"]}, "of the whole network"),
        ({"methods": ["le_grad"]}, "on attention"),
        ({"methods": [3]}, "names of methods or functions"),
        ({"layers": "auto:0"}, "auto:K"),
        ({"layers": "auto:many"}, "auto:K"),
        ({"layers": ["nowhere"]}, "nowhere"),
        ({"names": ["one", "two"]}, "a name for each"),
        ({"pictures": torch.rand(3, 3, 8, 8)}, "a picture for each"),
        ({"pictures": torch.full((1, 3, 8, 8), 255.0)}, "in \\[0, 1\\]"),
        ({"targets": {f"t{k}": 3 for k in range(700)}, "layers": "auto:3"}, "take at most 666 targets"),
    ],
)
def test_what_a_page_cannot_show_is_refused(change: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"inputs": scenes(1), "targets": [3], "methods": ["grad_cam"], "layers": "body"}
    given |= change
    with pytest.raises(CamfnError, match=words):
        collect(tiny.load("cnn"), given.pop("inputs"), given.pop("targets"), **given)


def test_too_many_maps_are_refused_before_any_forward() -> None:
    model = tiny.load("cnn")
    with counted(model) as sizes, pytest.raises(CamfnError, match="more than the 2000 that a page holds"):
        collect(model, scenes(50), list(range(10)), methods=CHEAP)
    assert sizes == []


def test_a_map_is_the_arithmetic_of_what_capture_gives() -> None:
    model, images = tiny.load("cnn"), scenes(1)
    found = collect(model, images, [3], methods=["grad_cam"], layers="body")
    torch.testing.assert_close(tensor(found, 0, 0, "grad_cam", 0), grad_cam(*capture(model, "body")(images, 3))[0])


def test_a_network_whose_head_is_zero_has_maps_of_zero() -> None:
    torch.manual_seed(0)
    head = nn.Linear(6, 3)
    nn.init.zeros_(head.weight)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()
    found = collect(model, torch.rand(1, 3, 12, 12), [1], methods=["grad_cam", "fem"], layers="auto:2")
    assert not tensor(found, 0, 0, "grad_cam", 0).any()
    assert tensor(found, 0, 0, "fem", 0).any()
