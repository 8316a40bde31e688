"""Layouts that are found where a network cuts its map up or turns it around: MaxViT, MobileViT, mixers, CLIP, Hiera.

Truth is another tensor of the same forward: the map before it was cut, and what a layer that looks at one place alone
makes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camfn import CaptureError, capture, explainer, resume
from camfn.layers import suggest
from camfn.layout import find
from camfn.methods import grad_cam
from tests.nets.small import images, seeded, unchanged

Seen = dict[str, Tensor]


def timm_maxvit(block: str = "M", **options: Any) -> nn.Module:
    from timm.models import maxxvit

    attention = maxxvit.MaxxVitTransformerCfg(dim_head=4, partition_ratio=16, **options)
    config = maxxvit.MaxxVitCfg((8, 16), (1, 1), (block, block), 8, transformer_cfg=attention)
    net: nn.Module = maxxvit.MaxxVit(config, img_size=(64, 96), num_classes=5)
    return net


def torchvision_maxvit() -> nn.Module:
    from torchvision.models import MaxVit

    sizes = {"block_channels": [8, 16], "block_layers": [1, 1], "head_dim": 4, "stochastic_depth_prob": 0.0}
    net: nn.Module = MaxVit((64, 64), stem_channels=8, partition_size=2, num_classes=5, **sizes)
    return net


def timm_net(name: str, **options: Any) -> nn.Module:
    import timm

    net: nn.Module = timm.create_model(name, num_classes=5, **options)
    return net


def hugging_face(name: str, **options: Any) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{name}Config")(num_labels=5, **options)
    net: nn.Module = getattr(transformers, f"{name}ForImageClassification")(config)
    return net


mobilevit = partial(
    hugging_face, "MobileViT", image_size=64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 64]
)
mobilevit_v2 = partial(hugging_face, "MobileViTV2", image_size=64, width_multiplier=0.5)
hiera = partial(timm_net, "hiera_tiny_224", img_size=(64, 96), stages=(1, 1, 2, 1), embed_dim=16, num_heads=1)
hiera_hf = partial(
    hugging_face, "Hiera", image_size=[64, 96], embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]
)


class TokensFirst(nn.Module):
    """A class token and patches, (tokens, B, C) in the blocks, as CLIP has it."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 4, 4)
        self.class_embedding = nn.Parameter(images(1, width)[0])
        self.ln_pre = nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(width, 2, 16, 0.0, norm_first=True) for _ in "ab"))
        self.head = nn.Linear(width, 5)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.conv1(image).flatten(2).mT
        tokens = self.ln_pre(torch.cat([self.class_embedding.expand(len(image), 1, -1), patches], 1))
        y: Tensor = self.head(self.blocks(tokens.transpose(0, 1)).transpose(0, 1)[:, 0])
        return y


class Case(NamedTuple):
    """A layer that holds a map in pieces, and the map.

    Attributes:
        make: the network.
        size: of the image.
        layer: whose layout is to be found.
        words: of the reason.
        truth: the map, from the outputs of all modules.
    """

    make: Callable[[], nn.Module]
    size: tuple[int, int]
    layer: str
    words: str
    truth: Callable[[nn.Module, Seen], Tensor]


def of(before: str, layer: str, axis: int = -1) -> Callable[[nn.Module, Seen], Tensor]:
    """What a layer that looks at single places makes of a map whose channels are on this axis."""

    def truth(model: nn.Module, seen: Seen) -> Tensor:
        y: Tensor = model.get_submodule(layer)(seen[before])
        return y.movedim(axis, 1)

    return truth


def normed(before: str, layer: str, size: tuple[int, int] | None = None) -> Callable[[nn.Module, Seen], Tensor]:
    """A layer norm over the channels of a map, resized first where MobileViT does so."""

    def truth(model: nn.Module, seen: Seen) -> Tensor:
        x = seen[before]
        x = functional.interpolate(x, size, mode="bilinear") if size else x
        y: Tensor = model.get_submodule(layer)(x.movedim(1, -1))
        return y.movedim(-1, 1)

    return truth


def same(before: str, rows: int | None = None, columns: int | None = None) -> Callable[[nn.Module, Seen], Tensor]:
    return lambda model, seen: seen[before][..., :rows, :columns]


def mixed(block: str) -> Callable[[nn.Module, Seen], Tensor]:
    """What a mixer adds to its tokens: (B, N, C) as it goes into the second norm, less what went into the block."""

    def truth(model: nn.Module, seen: Seen) -> Tensor:
        added = seen[f"{block}.norm2 in"] - seen[f"{block}.norm1 in"]
        return added.mT.reshape(len(added), -1, 4, 6)

    return truth


def rerolled(model: nn.Module, seen: Seen, block: str, stage: int) -> Tensor:
    reroll: Any = model.reroll if hasattr(model, "reroll") else model.hiera.encoder.reroll  # type: ignore[union-attr]
    y: Tensor = reroll(seen[block], stage)
    return y.movedim(-1, 1)


def clip_norm(model: nn.Module, seen: Seen) -> Tensor:
    y: Tensor = model.get_submodule("blocks.0.norm1")(seen["ln_pre"])
    return y[:, 1:].mT.reshape(len(y), -1, 3, 5)


BLOCK, STAGE = "stages.0.blocks.0", "blocks.0.layers.0.layers"
TALL, SQUARE, EVEN = (64, 96), (64, 64), (96, 160)
MV, HF = "stages.{}.1", "mobilevit.encoder.layer.{}"
HF2 = "mobilevitv2.encoder.layer.{}"
CASES = {
    "timm MaxViT, blocks": Case(
        timm_maxvit, TALL, f"{BLOCK}.attn_block.attn.qkv", "16 windows of (4, 6) of a grid of (16, 24)",
        of(f"{BLOCK}.attn_block.norm1", f"{BLOCK}.attn_block.attn.qkv"),
    ),
    "timm MaxViT, grid": Case(
        timm_maxvit, TALL, f"{BLOCK}.attn_grid.attn.qkv", "16 dilated windows of (4, 6) of a grid of (16, 24)",
        of(f"{BLOCK}.attn_grid.norm1", f"{BLOCK}.attn_grid.attn.qkv"),
    ),
    "timm MaxViT, grid of stage 2": Case(
        timm_maxvit, TALL, "stages.1.blocks.0.attn_grid.attn.qkv", "4 dilated windows of (4, 6) of a grid of (8, 12)",
        of("stages.1.blocks.0.attn_grid.norm1", "stages.1.blocks.0.attn_grid.attn.qkv"),
    ),
    "timm MaxViT, blocks, channels first": Case(
        partial(timm_maxvit, use_nchw_attn=True), TALL, f"{BLOCK}.attn_block.attn.qkv", "16 windows of (4, 6)",
        of(f"{BLOCK}.attn_block.norm1", f"{BLOCK}.attn_block.attn.qkv", 1),
    ),
    "timm MaxViT, grid, channels first": Case(
        partial(timm_maxvit, use_nchw_attn=True), TALL, f"{BLOCK}.attn_grid.attn.qkv", "16 dilated windows of (4, 6)",
        of(f"{BLOCK}.attn_grid.norm1", f"{BLOCK}.attn_grid.attn.qkv", 1),
    ),
    "timm MaxViT, both at once, blocks": Case(
        partial(timm_maxvit, "PM"), TALL, f"{BLOCK}.attn.attn_block.qkv", "16 windows of (4, 6)",
        of(f"{BLOCK}.attn.norm1", f"{BLOCK}.attn.attn_block.qkv"),
    ),
    "timm MaxViT, both at once, grid": Case(
        partial(timm_maxvit, "PM"), TALL, f"{BLOCK}.attn.attn_grid.qkv", "16 dilated windows of (4, 6)",
        of(f"{BLOCK}.attn.norm1", f"{BLOCK}.attn.attn_grid.qkv"),
    ),
    "torchvision MaxViT, blocks": Case(
        torchvision_maxvit, SQUARE, f"{STAGE}.window_attention.attn_layer.0", "64 windows of (2, 2)",
        normed(f"{STAGE}.MBconv", f"{STAGE}.window_attention.attn_layer.0"),
    ),
    "torchvision MaxViT, grid": Case(
        torchvision_maxvit, SQUARE, f"{STAGE}.grid_attention.attn_layer.0", "64 dilated windows of (2, 2)",
        normed(f"{STAGE}.window_attention", f"{STAGE}.grid_attention.attn_layer.0"),
    ),
    "torchvision MaxViT, cut": Case(
        torchvision_maxvit, SQUARE, f"{STAGE}.grid_attention.partition_op", "4 windows of (8, 8)",
        same(f"{STAGE}.window_attention"),
    ),
    "torchvision MaxViT, swapped": Case(
        torchvision_maxvit, SQUARE, f"{STAGE}.grid_attention.partition_swap", "64 dilated windows of (2, 2)",
        same(f"{STAGE}.window_attention"),
    ),
    "torchvision MaxViT, swapped back": Case(
        torchvision_maxvit, SQUARE, f"{STAGE}.grid_attention.departition_swap", "4 windows of (8, 8)",
        same(f"{STAGE}.grid_attention"),
    ),
    "timm MobileViT": Case(
        partial(timm_net, "mobilevit_xxs"), EVEN, f"{MV.format(2)}.transformer.0.norm1",
        "4 dilated windows of (6, 10) of a grid of (12, 20)",
        normed(f"{MV.format(2)}.conv_1x1", f"{MV.format(2)}.transformer.0.norm1"),
    ),
    "timm MobileViT, resized": Case(
        partial(timm_net, "mobilevit_xxs"), EVEN, f"{MV.format(4)}.transformer.0.norm1", "of a grid of (4, 6)",
        normed(f"{MV.format(4)}.conv_1x1", f"{MV.format(4)}.transformer.0.norm1", (4, 6)),
    ),
    "Hugging Face MobileViT": Case(
        mobilevit, EVEN, f"{HF.format(3)}.transformer.layer.0.layernorm_before", "(3, 5) of a grid of (6, 10)",
        normed(f"{HF.format(3)}.conv_1x1", f"{HF.format(3)}.transformer.layer.0.layernorm_before"),
    ),
    "timm MobileViT v2": Case(
        partial(timm_net, "mobilevitv2_050"), EVEN, f"{MV.format(3)}.transformer.0.norm1", "of a grid of (6, 10)",
        of(f"{MV.format(3)}.conv_1x1", f"{MV.format(3)}.transformer.0.norm1", 1),
    ),
    "Hugging Face MobileViT v2": Case(
        mobilevit_v2, EVEN, f"{HF2.format(2)}.transformer.layer.0.layernorm_before", "of a grid of (12, 20)",
        of(f"{HF2.format(2)}.conv_1x1", f"{HF2.format(2)}.transformer.layer.0.layernorm_before", 1),
    ),
    "Hugging Face MobileViT v2, cut off": Case(
        mobilevit_v2, EVEN, f"{HF2.format(4)}.layernorm", "(1, 2) of a grid of (2, 4)",
        lambda model, seen: functional.fold(
            seen[f"{HF2.format(4)}.layernorm"].flatten(1, 2), (2, 4), (2, 2), stride=(2, 2)
        ),
    ),
    "MLP-Mixer": Case(
        partial(timm_net, "mixer_s16_224", img_size=TALL), TALL, "blocks.3.mlp_tokens.fc2",
        "tokens behind the channels, 0 before a grid of (4, 6)", mixed("blocks.3"),
    ),
    "gated mixer": Case(
        partial(timm_net, "gmixer_12_224", img_size=TALL), TALL, "blocks.0.mlp_tokens",
        "tokens behind the channels, 0 before a grid of (4, 6)", mixed("blocks.0"),
    ),
    "tokens first": Case(
        TokensFirst, (12, 20), "blocks.0.norm1", "tokens before the batch, 1 before a grid of (3, 5)", clip_norm
    ),
    "Hiera": Case(
        hiera, TALL, "blocks.0", "(16, 24), in the order of the strides ((2, 2), (2, 2), (2, 2))",
        partial(rerolled, block="blocks.0", stage=0),
    ),
    "Hiera, later": Case(
        hiera, TALL, "blocks.2", "(4, 6), in the order of the strides ((2, 2),)",
        partial(rerolled, block="blocks.2", stage=2),
    ),
    "Hiera, last": Case(
        hiera, TALL, "blocks.4", "(2, 3), row by row", partial(rerolled, block="blocks.4", stage=4)
    ),
    "Hugging Face Hiera": Case(
        hiera_hf, TALL, "hiera.encoder.stages.1.layers.0.mlp.fc2",
        "(8, 12), in the order of the strides ((2, 2), (2, 2))",
        partial(rerolled, block="hiera.encoder.stages.1.layers.0.mlp.fc2", stage=1),
    ),
}  # fmt: skip


def run(model: nn.Module, x: Tensor) -> Seen:
    """Outputs of all modules by name, and inputs by name and "in"."""
    seen: Seen = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor):
                seen[name] = output
            if args and isinstance(args[0], Tensor):
                seen[f"{name} in"] = args[0]

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_cut_map_is_the_map_before_it_was_cut(case: Case, batch: int) -> None:
    model, x = seeded(case.make), images(batch, 3, *case.size)
    with unchanged(model):
        seen = run(model, x)
        found = find(model, case.layer, x)
    assert case.words in found.reason
    raw, layout = seen[case.layer], found.layout
    assert layout is not None
    with torch.no_grad():
        truth = case.truth(model, seen)
    assert truth.shape == (batch, found.channels, *found.spatial)
    torch.testing.assert_close(layout.to_map(raw), truth)
    assert torch.equal(layout.from_map(layout.to_map(raw), raw), raw)
    assert (
        eval(found.call.removeprefix("layout="), {"camfn": __import__("camfn")}).to_map(raw).equal(layout.to_map(raw))
    )


def with_a_head(make: Callable[[], nn.Module]) -> nn.Module:
    """Linear layers of zeros, as some networks begin with, drawn."""
    model = make()
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)
    return model


@pytest.mark.parametrize("name", ["timm MaxViT, grid", "torchvision MaxViT, grid", "Hugging Face MobileViT",
                                  "timm MobileViT v2", "MLP-Mixer", "tokens first", "Hiera"])  # fmt: skip
def test_a_cut_map_is_captured_and_run_on(name: str) -> None:
    case = CASES[name]
    model, x = seeded(partial(with_a_head, case.make)).requires_grad_(False), images(2, 3, *case.size)

    def score(outputs: Any) -> Tensor:
        y: Tensor = outputs if isinstance(outputs, Tensor) else outputs["logits"]
        return y[:, 1]

    layout = find(model, case.layer, x).layout
    assert layout is not None
    with unchanged(model):
        laid, raw = (capture(model, case.layer, layout=kind)(x, score) for kind in ("auto", None))
        assert torch.equal(laid.grads, layout.to_map(raw.grads))
        assert laid.grads.any()
        tail = resume(model, case.layer, layout="auto")(x)
        torch.testing.assert_close(score(tail(laid.activations)), score(laid.outputs))
        rows = torch.stack([laid.activations, 0.5 * laid.activations])
        loop = torch.stack([score(tail(row)) for row in rows])
        torch.testing.assert_close(torch.vmap(lambda row: score(tail(row)))(rows), loop)
        cams = explainer(grad_cam, model, case.layer)(x, score)
    assert torch.equal(cams, grad_cam(laid.activations, laid.grads))


def test_images_as_many_as_tokens() -> None:
    """Square in batch and tokens: with attention over (tokens, B, C) in the network the places tell which it is."""
    model, x = seeded(TokensFirst), images(16, 3, 12, 20)
    assert "batch_first=False" in find(model, "blocks.0.norm1", x).call
    assert find(seeded(Mixer), "norm", images(15, 3, 12, 20)).layout is not None


class Mixer(nn.Module):
    """One mixing of tokens, whose hidden layer may be as wide as there are tokens."""

    def __init__(self, width: int = 8, hidden: int = 15) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, width, 4, 4), nn.LayerNorm(width)
        self.mix = nn.Sequential(nn.Linear(15, hidden), nn.GELU(), nn.Linear(hidden, 15))
        self.head = nn.Linear(width, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image).flatten(2).mT
        y: Tensor = self.head((x + self.mix(self.norm(x).mT).mT).mean(1))
        return y


@pytest.mark.parametrize(
    ("width", "hidden", "layer", "words"),
    [
        (8, 20, "mix.2", "see their own part"),
        (8, 20, "mix", "see their own part"),
        (8, 20, "mix.1", "no map of a 12 x 20 image"),
        (8, 15, "mix.1", "in 2 ways: tokens behind the channels.*15 features that are mixed from the tokens"),
        (15, 20, "mix.2", r"tokens, 0 before a grid.*tokens\(\(3, 5\), prefix=0, channels_first=True\)"),
    ],
)
def test_tokens_behind_the_channels(width: int, hidden: int, layer: str, words: str) -> None:
    model, x = seeded(partial(Mixer, width, hidden)), images(2, 3, 12, 20)
    with pytest.raises(CaptureError, match=words):
        find(model, layer, x)
    assert find(model, "norm", x).spatial == (3, 5)


def test_suggested_among_tokens_before_the_batch() -> None:
    """The first norm of the last block, as in any vision transformer with a class token."""
    first = suggest(seeded(TokensFirst), images(2, 3, 12, 20))[0]
    assert (first.name, first.spatial, first.depends) == ("blocks.1.norm1", (3, 5), True)
    assert "tokens before the batch, 1 before" in first.reason


def test_attention_matrices_in_pieces_are_no_map() -> None:
    """(B 4, heads, N, N), with as many heads as there are pieces."""
    model, x = seeded(mobilevit), images(2, 3, *EVEN)
    with pytest.raises(CaptureError, match=r"\(8, 4, 60, 60\), in which no map"):
        find(model, f"{HF.format(2)}.transformer.layer.0.attention.attention.dropout", x)


def test_states_are_no_places() -> None:
    """EfficientViM works on 49 states, which are not a grid of 7 x 7."""
    model, x = seeded(partial(timm_net, "efficientvim_m1")), images(2, 3, 128, 128)
    found = find(model, "stages.0.blocks.0.mixer.BCdt_proj", x)
    assert (found.spatial, found.channels) == ((8, 8), 147)
    for layer in ("stages.0.blocks.0.mixer.hz_proj", "norm.0"):
        with pytest.raises(CaptureError, match="no map of a 128 x 128 image"):
            find(model, layer, x)


@pytest.mark.parametrize(
    ("make", "size", "layer", "block"),
    [
        (partial(timm_net, "samvit_base_patch16_224", img_size=64, depth=1), (64, 64), "blocks.0.attn", "blocks.0"),
        (partial(timm_net, "samvit_base_patch16_224", img_size=64, depth=1), (64, 64), "blocks.0.ls1", "blocks.0"),
        (partial(timm_net, "tiny_vit_5m_224"), (112, 112), "stages.3.blocks.0.attn.qkv", "stages.3.blocks.0"),
    ],
)
def test_a_map_padded_to_one_window_is_no_map_of_the_image(
    make: Callable[[], nn.Module], size: tuple[int, int], layer: str, block: str
) -> None:
    """4 x 4 places and zeros around them, in a window of 14 x 14 or 7 x 7."""
    model, x = seeded(make), images(2, 3, *size)
    with pytest.raises(CaptureError, match="no map of a"):
        find(model, layer, x)
    assert find(model, block, x).spatial == (4, 4)
