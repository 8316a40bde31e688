"""Folded batches: frames and tiles, their places, what is no part of the map, and networks that fold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, explainer, observe, resume
from camfn.layout import channels_last, frames, tiles, tokens
from camfn.methods import ablation_cam, grad_cam
from tests.nets.small import images, seeded


class Video(nn.Module):
    """A 2-D network on frames, whose features are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, 2), nn.Linear(4, 5)

    def forward(self, video: Tensor) -> Tensor:
        features = self.conv(video.flatten(0, 1)).relu()
        y: Tensor = self.head(features.mean((2, 3)).unflatten(0, video.shape[:2]).mean(1))
        return y


def test_frames_are_in_order() -> None:
    raw = torch.arange(6.0)[:, None, None, None].expand(6, 2, 3, 4)
    cam = frames(3).to_map(raw)
    assert cam.shape == (2, 2, 3, 3, 4)
    assert cam[1, 0, :, 0, 0].tolist() == [3, 4, 5]


def test_a_map_of_a_video() -> None:
    model, video = seeded(Video), images(2, 4, 3, 9, 11)
    whole = explainer(grad_cam, model, "conv", layout=frames(4))(video, 1)
    assert whole.shape == (2, 4, 4, 5)
    one = explainer(grad_cam, model, "conv", layout=frames(4))(video[1:], 1)
    assert torch.allclose(whole[1:], one, atol=1e-6)
    assert explainer(ablation_cam, model, "conv", layout=frames(4))(video, 1).shape == (2, 4, 4, 5)
    tail = resume(model, "conv", layout=frames(4))(video)
    activations, _ = observe(model, "conv", layout=frames(4))(video)
    assert torch.allclose(tail(activations), model(video), atol=1e-6)


def test_tiles_are_put_together() -> None:
    """A picture cut into tiles comes back as it was."""
    picture = images(2, 3, 4, 9)
    cut = picture.reshape(2, 3, 2, 2, 3, 3).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    assert torch.equal(tiles(2, 3).to_map(cut), picture)
    assert torch.equal(tiles(2, 3).from_map(picture, cut), cut)


def test_a_view_of_the_whole_is_kept() -> None:
    layout, raw = tiles(1, 2, before=1, after=1), images(8, 3, 2, 2)
    back = layout.from_map(torch.zeros(2, 3, 2, 4), raw)
    assert torch.equal(back[[0, 3, 4, 7]], raw[[0, 3, 4, 7]])
    assert not back[[1, 2, 5, 6]].any()


def test_tokens_of_tiles() -> None:
    layout, raw = tiles(2, 2, after=1, each=tokens((2, 3))), images(5, 7, 4)
    cam = layout.to_map(raw)
    assert torch.equal(cam[0, :, 2:, :3], tokens((2, 3)).to_map(raw[2:3])[0])
    assert torch.equal(layout.from_map(cam, raw), raw)


@pytest.mark.parametrize(
    ("layout", "shape", "words"),
    [
        (frames(3), (4, 2, 5, 5), r"frames\(3\) stands for \(B \* 3, C, \*spatial\); the layer gives \(4, 2, 5, 5\)"),
        (tiles(2, 2), (6, 2, 5, 5), r"tiles\(2, 2\) stands for 4 images a sample, \(B \* 4, C, height, width\)"),
        (tiles(2), (2, 2, 5, 5), r"\(B \* 2, C, length\)"),
        (tiles(2, 2, each=channels_last()), (4, 5, 5), "stands for 4 images a sample"),
    ],
)
def test_what_does_not_fit_is_refused(layout: frames | tiles, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(CamfnError, match=words):
        layout.to_map(images(*shape))


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="frames: count: expected a whole number"):
        frames(2.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"each: expected the layout of one of them"):
        frames(2, each=(2, 2))  # type: ignore[arg-type]
    with pytest.raises(CamfnError, match="tiles: rows: expected a whole number from 1"):
        tiles(0, 2)
    with pytest.raises(CamfnError, match="cols beside planes"):
        tiles(2, planes=2)


@pytest.mark.parametrize("layout", [frames(2), tiles(2, 2, before=1), frames(5, each=channels_last())])
def test_in_compiled_code(layout: frames | tiles) -> None:
    raw = images(10, 3, 2, 4)
    there = torch.compile(lambda x: layout.from_map(layout.to_map(x) * 2, x), backend="eager", fullgraph=True)
    assert torch.equal(there(raw), layout.from_map(layout.to_map(raw) * 2, raw))
