"""Layouts that are found: on families of networks, held to where a marked patch of the image shows; and refusals."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CaptureError, LayoutPair, capture, explainer, observe, resume
from camfn.layers import suggest
from camfn.layout import find
from camfn.methods import ablation_cam, grad_cam
from tests.nets.small import Net, images, seeded, unchanged
from tests.nets.zoo import Member, build, members

MIXED = re.compile("att(n|ention)|ls1|layer_scale1")
SAMPLE = 6
"""How many layers of a family are marked."""


def marked(
    model: nn.Module, layer: str, layout: LayoutPair | None, inputs: Any, key: str, grid: tuple[int, ...]
) -> Any:
    """Change the image in the part that one cell of the grid stands for; return the cell, and where the map changed."""
    image = inputs[key] if key else inputs
    cell = grid[0] // 4, (3 * grid[1]) // 4
    rows, columns = (
        slice(place * length // cells, (place + 1) * length // cells)
        for place, length, cells in zip(cell, image.shape[2:], grid)
    )
    changed = image.clone()
    changed[:, :, rows, columns] += 2 * images(*changed[:, :, rows, columns].shape, seed=3)
    see = observe(model, layer, layout=layout)
    before, after = (see({key: x} if key else x)[0] for x in (image, changed))
    change = (after - before).square().sum((0, 1))
    return cell, divmod(int(change.argmax()), change.shape[1]), change


@pytest.mark.parametrize("member", members("layout"))
def test_a_marked_patch_shows_where_it_is(member: Member) -> None:
    """At layers over the first half of the network, where attention and convolutions have not carried it away."""
    model, inputs, key = build(member)
    candidates = list(reversed(suggest(model, inputs)))
    # what attention gives, before it is added to what it was given, comes from everywhere
    local = [s for s in candidates if min(s.spatial) > 1 and not MIXED.search(s.name)]
    candidates = local[: max(len(local) // 2, 2)]
    step = max(len(candidates) // SAMPLE, 1)
    # large kernels of random weights have their largest entry off the center
    kernel = max(
        (max(m.kernel_size) for m in model.modules() if isinstance(m, nn.Conv2d) and m.stride == (1, 1)), default=1
    )
    seen = 0
    with unchanged(model):
        for suggestion in candidates[::step]:
            found = find(model, suggestion.name, inputs)
            assert found.spatial == suggestion.spatial
            cell, peak, change = marked(model, suggestion.name, found.layout, inputs, key, found.spatial)
            if not change.any():
                continue  # a norm that begins at zero, as Swin v2 has
            reach = 1 if max(found.spatial) < 8 else 2 if max(found.spatial) < 12 else 4
            reach = max(reach, kernel // 2 + 1) if kernel > 3 else reach
            if 1 < reach >= min(found.spatial) / 2:
                continue  # anywhere would do
            assert max(abs(a - b) for a, b in zip(cell, peak)) <= reach, (suggestion, cell, peak)
            seen += 1
    assert seen >= 2


# --------------------------------------------------------------------------------------------------------------- facts


class Transformer(nn.Module):
    """Patches behind tokens of any name and number, two blocks, a norm, a head that reads them all."""

    def __init__(self, width: int = 8, patch: int = 4, **counts: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        for name, count in counts.items():
            self.register_parameter(name, nn.Parameter(images(1, count, width)))
        self.names = tuple(counts)
        self.blocks = nn.Sequential(Mixing(width), Mixing(width))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.embed(image).flatten(2).mT
        first = [getattr(self, name).expand(len(image), -1, -1) for name in self.names if "detection" not in name]
        last = [getattr(self, name).expand(len(image), -1, -1) for name in self.names if "detection" in name]
        y: Tensor = self.head(self.norm(self.blocks(torch.cat([*first, patches, *last], 1))).square().mean(1))
        return y


class Mixing(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.act, self.down = nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norm(x).mean(1, keepdim=True)
        y: Tensor = x + self.down(self.act(self.up(x)))
        return y


@pytest.mark.parametrize(
    ("counts", "prefix", "words"),
    [
        ({}, 0, "the grid of embed"),
        ({"cls_token": 1}, 1, "cls_token"),
        ({"cls_token": 1, "dist_token": 1}, 2, "cls_token, dist_token"),
        ({"class_token": 1, "register_tokens": 4}, 5, "class_token, register_tokens"),
        ({"cls_token": 1, "detection_tokens": 10}, 1, "10 after it"),
        ({"latent": 3}, 3, "tokens less the grid of embed"),
    ],
    ids=str,
)
def test_tokens_without_a_place_are_counted(counts: dict[str, int], prefix: int, words: str) -> None:
    model, x = seeded(lambda: Transformer(**counts)), images(2, 3, 12, 20)
    found = find(model, "blocks.0", x)
    assert (found.name, found.spatial, found.prefix, found.channels) == ("tokens", (3, 5), prefix, 8)
    assert words in found.reason
    cell, peak, _ = marked(model, "blocks.0", found.layout, x, "", (3, 5))
    assert cell == peak
    assert find(model, "blocks.0.act", x).spatial == (3, 5)
    assert find(model, "embed", x).name == "channels first"


def test_a_class_token_alone_has_no_place() -> None:
    class Last(Transformer):
        def forward(self, image: Tensor) -> Tensor:
            patches = self.embed(image).flatten(2).mT
            tokens = torch.cat([self.get_parameter("cls_token").expand(len(image), -1, -1), patches], 1)
            y: Tensor = self.head(self.norm(self.blocks(tokens)[:, :1])[:, 0])
            return y

    with pytest.raises(CaptureError, match=r"gives shape \(2, 1, 8\), in which no map"):
        find(seeded(lambda: Last(cls_token=1)), "norm", images(2, 3, 12, 20))


def test_auto_is_what_is_found() -> None:
    model, x = seeded(lambda: Transformer(cls_token=1)), images(2, 3, 12, 20)
    layout = find(model, "blocks.0", x).layout
    assert layout is not None
    captured = capture(model, "blocks.0", layout="auto")(x, 1)
    for got, want in zip(captured, capture(model, "blocks.0", layout=layout)(x, 1)):
        assert torch.equal(got, want)
    assert torch.equal(observe(model, "blocks.0", layout="auto")(x)[0], captured.activations)
    tail = resume(model, "blocks.0", layout="auto")(x)
    torch.testing.assert_close(tail(captured.activations), captured.outputs)
    for method in (grad_cam, ablation_cam):
        auto = explainer(method, model, "blocks.0")(x, 1)
        assert torch.equal(auto, explainer(method, model, "blocks.0", layout=layout)(x, 1))
        assert auto.shape == (2, 3, 5)
    run = capture(model, "blocks.0", layout="auto")
    assert torch.vmap(lambda t: run(x, t).grads)(torch.arange(5)).shape == (5, 2, 8, 3, 5)


class Boundaries(nn.Module):
    """Maps whose channels come first or last, in numbers that look alike."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.first, self.norm, self.last = nn.Identity(), nn.LayerNorm(width), nn.Identity()
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x))
        y: Tensor = self.head(self.last(self.norm(x.movedim(1, -1))).mean((1, 2)))
        return y


def test_as_many_channels_as_rows() -> None:
    model, x = seeded(lambda: Boundaries(8)), images(2, 3, 8, 8)
    assert find(model, "stem", x).name == "channels first"
    assert find(model, "norm", x).name == "channels last"
    for layer, name in (("first", "channels first"), ("last", "channels last")):
        assert find(model, layer, x).name == name  # as the places tell
    listed = r"read in 2 ways: channels first: layout=None; or channels last: layout=camfn.layout.channels_last\(\)"
    with pytest.raises(CaptureError, match=listed):
        explainer(grad_cam, copy.deepcopy(model).to("meta"), "first")(x.to("meta"))
    assert find(seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())), "1", x).name == "channels first"


@pytest.mark.parametrize(("size", "layer", "name"), [((8, 12), "last", "channels last"), ((8, 12), "first", "")])
def test_a_grid_that_is_not_square(size: tuple[int, int], layer: str, name: str) -> None:
    found = find(seeded(lambda: Boundaries(16)), layer, images(2, 3, *size))
    assert (found.name, found.spatial) == (name or "channels first", size)


def test_channels_and_places_the_other_way_round() -> None:
    """A layer of the embedding's width, in a network that may mix tokens as an MLP-Mixer does."""
    model, x = seeded(lambda: Transformer(15)), images(2, 3, 12, 20)
    assert find(model, "blocks.0.up", x).channels == 30  # as the places tell
    with pytest.raises(CaptureError, match=r"in 2 ways: tokens, 0 before.*the other way round"):
        find(copy.deepcopy(model).to("meta"), "blocks.0.up", x.to("meta"))
    assert find(model, "norm", x).spatial == (3, 5)


class Matrices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.drop = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Dropout()
        self.text = nn.Embedding(9, 8)

    def forward(self, image: Tensor, words: Tensor | None = None) -> Tensor:
        x = self.norm(self.embed(image).flatten(2).mT)
        heads = self.drop((x @ x.mT).softmax(-1)[:, None].expand(-1, 2, -1, -1))
        y = (heads.mean(1) @ x).mean(1)
        scored: Tensor = y if words is None else y + self.text(words).mean(1)
        return scored


def test_an_attention_matrix_is_no_map() -> None:
    with pytest.raises(CaptureError, match=r"'drop' gives shape \(1, 2, 16, 16\), in which no map of a 16 x 16 image"):
        find(seeded(Matrices), "drop", images(1, 3, 16, 16))


def test_words_are_no_places() -> None:
    inputs = images(1, 3, 16, 16), torch.arange(16)[None] % 9
    with pytest.raises(CaptureError, match="the 16 tokens of the text, which have no place"):
        find(seeded(Matrices), "text", inputs)


@pytest.mark.parametrize("shift", [0, 2])
def test_windows_of_swin(shift: int) -> None:
    """Inside the attention of timm's and transformers' Swin, with and without a shift."""
    import timm

    options = {"img_size": (32, 48), "window_size": 4, "embed_dim": 12, "depths": (2,), "num_heads": (2,)}
    model = seeded(partial(timm.models.swin_transformer.SwinTransformer, patch_size=4, num_classes=5, **options))
    layer, x = f"layers.0.blocks.{shift // 2}.attn.proj", images(2, 3, 32, 48)
    found = find(model, layer, x)
    assert (found.name, found.spatial) == ("windows", (8, 12))
    block = model.get_submodule(f"layers.0.blocks.{shift // 2}")
    whole: list[Tensor] = []
    attend: Callable[[Tensor], Tensor] = block._attn  # type: ignore[assignment]
    with torch.no_grad():
        handle = block.norm1.register_forward_hook(lambda m, args, out: whole.append(attend(out)))  # type: ignore[union-attr]
        model(x)
        handle.remove()
    assert f"shifted by ({shift}, {shift})" in found.reason
    torch.testing.assert_close(observe(model, layer, layout="auto")(x)[0], whole[0].movedim(-1, 1))


def test_windows_of_an_unknown_kind() -> None:
    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(2, 3).permute(0, 2, 3, 4, 1).flatten(0, 1)

    with pytest.raises(CaptureError, match=r"its first dimension is not the batch, 2.*layout.windows\(grid, window\)"):
        find(nn.Sequential(nn.Conv2d(3, 4, 1), Cut()), "1", images(2, 3, 8, 8))


def test_without_an_image() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4))
    with pytest.raises(CaptureError, match="cannot be found without an image"):
        find(model, "1", torch.arange(6)[None])


def test_a_plain_network_costs_no_further_forward() -> None:
    net, x, calls = seeded(Net), images(2, 3, 8, 8), []
    net.register_forward_hook(lambda *args: calls.append(1))
    explainer(grad_cam, net, "blocks.1")(x, 1)
    assert len(calls) == 1
