"""Which of several inputs a layout is read from: the one that the layer's own part of the model reads, or the named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import (
    CamfnError,
    CaptureError,
    capture,
    capture_each,
    capture_many,
    explainer,
    layers,
    layout,
    network,
    observe,
    resume,
    transforms,
)
from camfn.attention import METHODS, attention_explainer
from camfn.layout import tokens
from camfn.methods import ablation_cam, grad_cam, score_cam
from tests.nets.small import images, seeded


class Tower(nn.Module):
    """A transformer of one block."""

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(channels, 8, patch, patch)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.block(self.patch(x).flatten(2).mT))
        return out


class Two(nn.Module):
    """Two towers on two images, and their tokens one after the other."""

    def __init__(self, channels: tuple[int, int], patches: tuple[int, int]) -> None:
        super().__init__()
        self.near, self.far = map(Tower, channels, patches)
        self.mix, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, near: Tensor, pair: list[Tensor]) -> Tensor:
        tokens = self.mix(torch.cat([self.near(near), self.far(pair[1])], 1))
        out: Tensor = self.head(tokens.mean(1))
        return out


# 16 tokens of both towers, on grids of another shape
OTHER = seeded(lambda: Two((3, 1), (8, 4))).double()
X = (images(2, 3, 32, 32, dtype=torch.float64), [torch.arange(2), images(2, 1, 8, 32, seed=1, dtype=torch.float64)])
ALIKE = seeded(lambda: Two((3, 3), (8, 4))).double()
Y = (X[0], [torch.arange(2), images(2, 3, 8, 32, seed=1, dtype=torch.float64)])
FAR = (1, 1)


def maps(model: nn.Module, layer: str, x: Any, **which: Any) -> dict[str, Callable[[], Any]]:
    """Return what reads a layout, each as a function that gives its spatial shape."""
    return {
        "observe": lambda: observe(model, layer, **which)(x)[0].shape[2:],
        "capture": lambda: capture(model, layer, **which)(x, 1).grads.shape[2:],
        "capture_many": lambda: capture_many(model, [layer], **which)(x, 1)[layer].grads.shape[2:],
        "capture_each": lambda: capture_each(model, layer, **which)(x, [1, 2]).grads.shape[3:],
        "resume": lambda: _replayed(model, layer, x, **which),
        "grad_cam": lambda: explainer(grad_cam, model, layer, **which)(x, 1).shape[1:],
        "ablation_cam": lambda: explainer(ablation_cam, model, layer, **which)(x, 1).shape[1:],
        "fuse": lambda: transforms.fuse(grad_cam, model, [layer], **which)(x, 1).shape[1:],
        "find": lambda: layout.find(model, layer, x, **which).spatial,
        "suggest": lambda: {s.name: s.spatial for s in layers.suggest(model, x, 1, **which)}[layer.split(".")[0]],
        "gradient_rollout": lambda: _rollout(model, layer, x, **which),
        "prefix": lambda: _rollout(model, layer, x, prefix=0, **which),
    }


def _rollout(model: nn.Module, layer: str, x: Any, **options: Any) -> torch.Size:
    return attention_explainer(METHODS["gradient_rollout"], model, layer.split(".")[0], **options)(x, 1).shape[1:]


def _replayed(model: nn.Module, layer: str, x: Any, **which: Any) -> torch.Size:
    """Give the tail the activations that the layer had; return their spatial shape."""
    activations, outputs = observe(model, layer, **which)(x)
    torch.testing.assert_close(resume(model, layer, **which)(x)(activations), outputs)
    return activations.shape[2:]


READERS = tuple(maps(OTHER, "far.norm", X))


@pytest.mark.parametrize("reader", [one for one in READERS if one != "prefix"])
def test_the_tower_of_a_layer_tells_which_image_it_reads(reader: str) -> None:
    assert tuple(maps(OTHER, "far.norm", X)[reader]()) == (2, 8)
    assert tuple(maps(OTHER, "near.norm", X)[reader]()) == (4, 4)


@pytest.mark.parametrize("reader", [one for one in READERS if one != "suggest"])
def test_where_towers_take_images_alike_the_error_lists_them(reader: str) -> None:
    listed = r"images=0 of shape \(2, 3, 32, 32\); images=\(1, 1\) of shape \(2, 3, 8, 32\)"
    for layer in ("far.norm", "near.norm"):
        with pytest.raises(CaptureError, match=listed):
            maps(ALIKE, layer, Y)[reader]()


@pytest.mark.parametrize("which", [FAR, lambda inputs: inputs[1][1]], ids=["path", "function"])
@pytest.mark.parametrize("reader", [one for one in READERS if one != "prefix"])
def test_the_image_that_is_named(reader: str, which: Any) -> None:
    assert tuple(maps(ALIKE, "far.norm", Y, images=which)[reader]()) == (2, 8)
    assert tuple(maps(ALIKE, "near.norm", Y, images=0)[reader]()) == (4, 4)


def test_an_image_that_the_tower_does_not_read_gives_no_layout() -> None:
    """It may be perturbed all the same."""
    with pytest.raises(CaptureError, match=r"another for images=0 than .* images=\(1, 1\) of shape \(2, 1, 8, 32\)"):
        explainer(score_cam, OTHER, "far.norm", images=0)(X, 1)
    cam = explainer(score_cam, OTHER, "far.norm", images=0, layout=tokens((2, 8), prefix=0))(X, 1)
    assert cam.shape == (2, 2, 8)
    # a convolution says itself what its output is
    assert explainer(score_cam, OTHER, "far.patch", images=0)(X, 1).shape == (2, 2, 8)


def test_layers_that_no_image_decides_ask_for_none() -> None:
    for layer in ("far.patch", "near.patch"):
        assert capture(ALIKE, layer)(Y, 1).grads.ndim == 4
    assert capture(ALIKE, "mix", layout=None)(Y, 1).grads.shape == (2, 32, 8)


@pytest.mark.parametrize("which", [True, 1.5, [0], (), ("pixels", 0.5), torch.tensor(1)], ids=repr)
def test_what_names_no_input_is_refused_ahead_of_any_forward(which: Any) -> None:
    makers: list[Callable[[], Any]] = [
        lambda: observe(ALIKE, "mix", images=which),
        lambda: capture_each(ALIKE, "mix", images=which),
        lambda: resume(ALIKE, "mix", images=which),
        lambda: explainer(grad_cam, ALIKE, "mix", images=which),
        lambda: transforms.fuse(grad_cam, ALIKE, ["mix"], images=which),
        lambda: attention_explainer(METHODS["le_grad"], ALIKE, images=which),
        lambda: layout.find(ALIKE, "mix", Y, images=which),
        lambda: layers.suggest(ALIKE, Y, images=which),
        lambda: network.guided_grad_cam(ALIKE, "mix", images=which),
    ]
    for make in makers:
        with pytest.raises(CamfnError, match="images: expected an index, a key, a path of these such as"):
            make()


def test_a_name_that_no_input_has_is_refused_whatever_the_layout() -> None:
    for how in ("auto", None, tokens((2, 8), prefix=0)):
        with pytest.raises(CamfnError, match="images='depth' is no floating-point tensor of the inputs"):
            capture(OTHER, "far.norm", layout=how, images="depth")(X, 1)
