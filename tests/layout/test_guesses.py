"""Layouts that the places settle: of videos, spectrograms, folded frames, tokens among the patches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CaptureError, capture, explainer
from camfn.layout import channels_last, find, frames, spans, tokens
from camfn.methods import grad_cam
from tests.nets.small import images, seeded, unchanged

TINY = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}


def hugging_face(kind: str, **config: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = {**TINY, "image_size": 32, **config}
    model: nn.Module = getattr(transformers, kind)(getattr(transformers, config.pop("of"))(**config))
    return model.eval()


def block(model: nn.Module) -> str:
    return next(
        str(name) for name, _ in model.named_modules() if name.rpartition(".")[::2][1] == "1" and "layer" in name
    )


@pytest.mark.parametrize(
    ("kind", "config", "layout"),
    [
        ("VivitModel", {"of": "VivitConfig", "num_frames": 4, "tubelet_size": [2, 8, 8]}, tokens((2, 4, 4))),
        (
            "VideoMAEModel",
            {"of": "VideoMAEConfig", "num_frames": 4, "tubelet_size": 2, "patch_size": 8},
            tokens((2, 4, 4), prefix=0),
        ),
        (
            "TimesformerModel",
            {"of": "TimesformerConfig", "num_frames": 4, "patch_size": 8},
            spans([range(1 + t, 65, 4) for t in range(4)], (4, 4, 4)),
        ),
    ],
)
def test_videos_with_time_first(kind: str, config: dict[str, Any], layout: Any) -> None:
    model = seeded(lambda: hugging_face(kind, **config))
    inputs = {"pixel_values": images(2, 4, 3, 32, 32)}
    with unchanged(model):
        found = find(model, block(model), inputs)
    assert found.layout == layout
    assert "along axes (1, 3, 4)" in found.reason


def test_a_spectrogram_without_channels() -> None:
    model = seeded(lambda: hugging_face("ASTModel", of="ASTConfig", max_length=64, num_mel_bins=48, patch_size=16))
    found = find(model, block(model), {"input_values": images(2, 64, 48)})
    assert found.layout == tokens((4, 5), prefix=2)
    assert "along axes (2, 1)" in found.reason


def test_detection_tokens_are_no_patches() -> None:
    model = seeded(
        lambda: hugging_face("YolosModel", of="YolosConfig", image_size=[32, 48], num_detection_tokens=5, patch_size=8)
    )
    assert find(model, block(model), images(2, 3, 32, 48)).layout == tokens((4, 6), suffix=5)


def test_volumes_of_other_strides() -> None:
    """Video Swin: strides of 2 in time and 4 in space, in windows of three dimensions."""
    swin = pytest.importorskip("torchvision").models.video.swin_transformer.SwinTransformer3d
    model = seeded(lambda: swin([2, 4, 4], 12, [2, 2], [2, 2], [2, 4, 4], num_classes=5).eval())
    x = images(1, 3, 4, 32, 32)
    assert find(model, "features.0", x).layout == channels_last()
    assert find(model, "features.2.1.attn", x).spatial == (2, 4, 4)
    assert explainer(grad_cam, model, "features.2")(x, 1).shape == (1, 2, 4, 4)


class Tokens(nn.Module):
    """Two blocks over patches and four other tokens, which stand where they are put."""

    def __init__(self, where: str, name: str = "own") -> None:
        super().__init__()
        self.embed, self.where, self.name = nn.Conv2d(3, 16, 4, 4), where, name
        self.register_parameter(name, nn.Parameter(torch.randn(1, 4, 16)))
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True) for _ in range(2))
        self.head = nn.Linear(16, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image).flatten(2).mT
        at = {"behind": x.shape[1], "middle": x.shape[1] // 2, "before": 0}[self.where]
        x = torch.cat([x[:, :at], self.get_parameter(self.name).expand(len(x), -1, -1), x[:, at:]], 1)
        for one in self.blocks:
            x = one(x)
        y: Tensor = self.head(x.mean(1))
        return y


@pytest.mark.parametrize(
    ("where", "layout"),
    [
        ("behind", tokens((4, 6), prefix=0, suffix=4)),
        ("middle", spans([range(12), range(16, 28)], (4, 6))),
        ("before", tokens((4, 6), prefix=4)),
    ],
)
@pytest.mark.parametrize("name", ["own", "reg_tokens"])
def test_tokens_among_the_patches(where: str, layout: Any, name: str) -> None:
    """Of a name that says nothing, or that says only how many there are."""
    model, x = seeded(lambda: Tokens(where, name)), images(2, 3, 16, 24)
    assert find(model, "blocks.1", x).layout == layout
    assert capture(model, "blocks.0")(x, 1).activations.shape == (2, 16, 4, 6)


class Folded(nn.Module):
    """A network on frames, with convolutions or tokens, and a step over the frames' features."""

    def __init__(self, patches: bool, time_first: bool) -> None:
        super().__init__()
        self.time_first, self.over = time_first, nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
        self.net: nn.Module = Tokens("before") if patches else nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU())
        self.widen, self.head = nn.Linear(5, 16), nn.Linear(16, 5)

    def forward(self, video: Tensor) -> Tensor:
        video = video if self.time_first else video.transpose(1, 2)
        each = self.net(video.flatten(0, 1))
        each = self.widen(each) if each.ndim == 2 else each.mean((2, 3))
        y: Tensor = self.head(self.over(each.unflatten(0, video.shape[:2])).mean(1))
        return y


@pytest.mark.parametrize("time_first", [True, False])
def test_frames_in_the_batch(time_first: bool) -> None:
    video = images(2, 4, 3, 16, 24) if time_first else images(2, 3, 4, 16, 24)
    model = seeded(lambda: Folded(False, time_first))
    assert find(model, "net.1", video).layout == frames(4)
    assert explainer(grad_cam, model, "net.1")(video, 1).shape == (2, 4, 4, 6)
    model = seeded(lambda: Folded(True, time_first))
    assert find(model, "net.blocks.0", video).layout == frames(4, each=tokens((4, 6), prefix=4))


def test_instances_are_no_grid() -> None:
    """A bag of four instances, whose features could be read as a grid of (1, 2, 2)."""
    model, bags = seeded(lambda: Folded(False, True)), images(2, 4, 3, 16, 24)
    assert find(model, "over", bags).layout == tokens((4, 1, 1), prefix=0)


def test_batches_that_are_folded_say_what_to_pass() -> None:
    model = seeded(lambda: Folded(False, True)).to("meta")
    with pytest.raises(CaptureError, match=r"pass layout=camfn.layout.frames\(4\)"):
        find(model, "net.1", images(2, 4, 3, 16, 24).to("meta"))
    tiled = nn.Sequential(nn.Unflatten(3, (2, 8)), Tiled(), nn.Conv2d(3, 4, 3, 2), nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(
        CaptureError, match=r"layout=camfn.layout.tiles\(rows, cols\) or layout=camfn.layout.frames\(2\)"
    ):
        find(tiled, "2", images(2, 3, 3, 16))


class Tiled(nn.Module):
    """Puts the tiles of (B, C, H, n, W) into the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(3, 1).flatten(0, 1)
