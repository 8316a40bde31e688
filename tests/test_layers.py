"""Suggestions on families of networks: the layer, its layout, a map that is not blank, and the reason."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from camfn import CaptureError, capture, explainer
from camfn.layers import suggest
from camfn.layout import channels_last
from camfn.methods import grad_cam
from camfn.targets import class_score
from tests.nets.foreign import FOREIGN
from tests.nets.hugging_face import OTHERS
from tests.nets.made import Made
from tests.nets.small import Net, Shared, images, seeded, unchanged

FIRST, LAST = "channels first", "channels last"


class Family(NamedTuple):
    """A network, and what must be suggested for it."""

    model: str
    name: str
    channels: int
    words: str
    size: tuple[int, int] = (64, 96)
    spatial: tuple[int, int] = (2, 3)
    options: tuple[tuple[str, Any], ...] = ()
    later: str | None = None

    def __str__(self) -> str:
        return "-".join([self.model, *(f"{key}={value}" for key, value in self.options)])


def behind(prefix: int, spatial: tuple[int, int]) -> str:
    return f"tokens, {prefix} before a grid of {spatial}"


def vision_transformer(model: str, prefix: int, channels: int, **options: Any) -> Family:
    """A transformer of timm with a class token: its last block's patches reach the score through attention alone."""
    size, spatial = options.pop("img_size", (64, 96)), (4, 6)
    words = behind(prefix, spatial)
    found = (("img_size", size), *options.items())
    return Family(model, "blocks.11.norm1", channels, words, size, spatial, found, later="norm")


QUICK = [
    Family("torchvision:resnet18", "layer4", 512, FIRST),
    Family("torchvision:vgg11", "features.19", 512, FIRST, spatial=(4, 6)),
    Family("torchvision:densenet121", "features", 1024, FIRST),
    Family("torchvision:squeezenet1_1", "features", 512, FIRST, spatial=(3, 5)),
    Family("torchvision:mobilenet_v3_small", "features", 576, FIRST),
    Family("torchvision:efficientnet_b0", "features", 1280, FIRST),
    Family("torchvision:convnext_tiny", "features", 768, FIRST),
    Family("torchvision:swin_t", "norm", 768, LAST),
    Family(
        "torchvision:vit_b_16",
        "encoder.layers.encoder_layer_11.ln_1",
        768,
        behind(1, (4, 4)),
        (64, 64),
        (4, 4),
        (("image_size", 64),),
        later="encoder",
    ),
    Family("timm:swin_tiny_patch4_window7_224", "norm", 768, LAST, options=(("img_size", (64, 96)),)),
    Family("timm:tf_efficientnet_lite0", "bn2", 1280, FIRST),
    vision_transformer("timm:vit_tiny_patch16_224", 1, 192),
    vision_transformer("timm:deit_tiny_distilled_patch16_224", 2, 192),
    vision_transformer("timm:vit_small_patch14_reg4_dinov2", 5, 384, img_size=(56, 84)),
    Family(
        "timm:vit_tiny_patch16_224",
        "blocks",
        192,
        behind(0, (4, 6)),
        spatial=(4, 6),
        options=(("img_size", (64, 96)), ("global_pool", "avg"), ("class_token", False)),
    ),
]
THOROUGH = [
    Family("torchvision:alexnet", "features.11", 256, FIRST, (96, 128), (5, 7)),
    Family("torchvision:vgg16_bn", "features.42", 512, FIRST, spatial=(4, 6)),
    Family("torchvision:resnet50", "layer4", 2048, FIRST),
    Family("torchvision:resnext50_32x4d", "layer4", 2048, FIRST),
    Family("torchvision:inception_v3", "Mixed_7c", 2048, FIRST, (192, 256), (4, 6), (("init_weights", False),)),
    Family("torchvision:googlenet", "inception5b", 1024, FIRST, options=(("init_weights", False),)),
    Family("torchvision:mnasnet0_5", "layers", 1280, FIRST),
    Family("torchvision:mobilenet_v2", "features", 1280, FIRST),
    Family("torchvision:regnet_y_400mf", "trunk_output", 440, FIRST),
    Family("torchvision:shufflenet_v2_x0_5", "conv5", 1024, FIRST),
    Family("torchvision:swin_v2_t", "norm", 768, LAST),
    Family("torchvision:maxvit_t", "blocks.3", 512, FIRST, (224, 224), (7, 7)),
    Family(
        "torchvision:vit_b_16",
        "encoder.layers.encoder_layer_11.ln_1",
        768,
        behind(1, (14, 14)),
        (224, 224),
        (14, 14),
        later="encoder",
    ),
    Family("timm:swin_tiny_patch4_window7_224", "norm", 768, LAST, (224, 448), (7, 14), (("img_size", (224, 448)),)),
    Family(
        "timm:vit_tiny_patch16_224",
        "blocks",
        192,
        behind(1, (4, 6)),
        spatial=(4, 6),
        options=(("img_size", (64, 96)), ("global_pool", "avg")),
    ),
    vision_transformer("timm:vit_small_patch14_dinov2", 1, 384, img_size=(56, 84)),
    Family(
        "timm:beit_base_patch16_224",
        "blocks.11",
        768,
        behind(1, (14, 14)),
        (224, 224),
        (14, 14),
    ),
    Family("timm:convnext_atto", "stages", 320, FIRST),
    Family("timm:dla34", "level5", 512, FIRST),
    Family("timm:mobileone_s0", "stages", 1024, FIRST),
    Family("timm:fastvit_t8", "final_conv", 768, FIRST),
    Family("timm:mobilevit_xxs", "final_conv", 320, FIRST),
    Family("timm:poolformer_s12", "stages", 512, FIRST),
    Family("timm:pvt_v2_b0", "stages", 256, FIRST),
    Family("timm:maxvit_tiny_rw_224", "norm", 512, FIRST, (224, 224), (7, 7)),
    Family(
        "timm:xcit_nano_12_p16_224", "cls_attn_blocks.1.norm1", 128, behind(1, (4, 6)), spatial=(4, 6), later="norm"
    ),
    Family("timm:resnet10t", "layer4", 512, FIRST),
]


def case(family: Family, *marks: pytest.MarkDecorator) -> Any:
    return pytest.param(family, id=str(family), marks=marks)


every_family = pytest.mark.parametrize(
    "family", [*map(case, QUICK), *(case(family, pytest.mark.sweep) for family in THOROUGH)]
)


def head_of(model: nn.Module, name: str) -> nn.Linear:
    head = model.get_submodule(name)
    assert isinstance(head, nn.Linear)
    return head


def built(family: Family) -> nn.Module:
    """A network with random weights, and a head that is not zero."""
    library, name = family.model.split(":")
    options = dict(family.options)

    def build() -> nn.Module:
        model: nn.Module
        if library == "timm":
            import timm

            model = timm.create_model(name, pretrained=False, **options)
        else:
            import torchvision

            model = torchvision.models.get_model(name, weights=None, **options)
            if name.startswith("vit"):
                nn.init.normal_(head_of(model, "heads.head").weight)  # torchvision's are zero
        return model

    return seeded(build)


@every_family
def test_families(family: Family) -> None:
    model, x = built(family), images(2, 3, *family.size)
    with unchanged(model):
        found = suggest(model, x)
    first = found[0]
    assert (first.name, first.spatial, first.channels) == (family.name, family.spatial, family.channels)
    assert first.depends
    assert family.words in first.reason
    if family.later is None:
        assert first.reason.startswith("the last layer with a grid, just before pooling")
    else:
        assert first.reason.startswith("the last layer whose places the score depends on; it no longer does at ")
        assert f" at {family.later} (" in first.reason
        behind = next(other for other in found if other.name == family.later)
        assert not behind.depends
    captured = capture(model, first.name, layout=first.layout)(x)
    assert captured.activations.shape == (2, family.channels, *family.spatial)
    cam = grad_cam(*captured)
    assert cam.shape == (2, *family.spatial)
    assert cam.isfinite().all()
    assert cam.flatten(1).any(1).all()


# ------------------------------------------------------------------------------------------------------ small networks


class Straight(nn.Module):
    """Two convolutions with batch norm and ReLU in place, pooling, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.body = nn.Sequential(*first, nn.Conv2d(6, 6, 3, 2, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(x).mean((2, 3)))
        return y


class Classes(nn.Module):
    """Fully convolutional: a class map is the last layer, and the model returns its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Dropout(0.5))
        self.classify = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classify(self.body(x)).mean((2, 3))
        return y


class Branches(nn.Module):
    """Two heads on two branches; the third branch is read by none."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.first = nn.Conv2d(6, 6, 3)
        self.second = nn.Conv2d(6, 6, 3)
        self.unread = nn.Conv2d(6, 6, 3)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x).tanh()
        first, second, _ = self.first(x), self.second(x), self.unread(x)
        return self.head(first.mean((2, 3))), self.head(second.mean((2, 3)))


class Mixed(nn.Module):
    """One block with a class token: its patches reach the score through the mixing alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 4, 4)
        self.norm = nn.LayerNorm(4)
        self.mix = nn.Linear(4, 4)
        self.last = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x).flatten(2).mT
        raw = self.norm(torch.cat([torch.zeros_like(patches[:, :1]), patches], 1))
        mixed = self.last(self.mix(raw + raw.square().mean(1, keepdim=True)))
        y: Tensor = self.head(mixed[:, 0])
        return y


def sequence(*modules: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*modules)


def finished(model: nn.Module, x: Any) -> list[str]:
    """Names of the modules in the order in which they finish."""
    order: list[str] = []
    handles = [
        module.register_forward_hook(lambda m, args, output, name=name: order.append(name))
        for name, module in model.named_modules()
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return order


SMALL: list[Any] = [
    pytest.param(lambda: seeded(Straight), "body", id="straight"),
    pytest.param(lambda: seeded(Classes), "body", id="class map"),
    pytest.param(lambda: seeded(Mixed), "norm", id="class token"),
    pytest.param(lambda: seeded(Shared), "pair.conv", id="shared"),
    pytest.param(lambda: seeded(Net), "blocks.1", id="late shortcut"),
]


@pytest.mark.parametrize(("build", "name"), SMALL)
def test_lists_from_the_last_to_the_first(build: Callable[[], nn.Module], name: str) -> None:
    model, x = build(), images(2, 3, 8, 12)
    found, order = suggest(model, x), finished(model, x)
    assert found[0].name == name
    for group in ([s for s in found if s.depends], [s for s in found if not s.depends]):
        places = [order.index(suggestion.name) for suggestion in group]
        assert places == sorted(places, reverse=True)
    assert [s.depends for s in found] == sorted((s.depends for s in found), reverse=True)


@pytest.mark.parametrize(("build", "name"), SMALL)
def test_every_suggestion_can_be_captured_and_says_whether_the_score_depends_on_it(
    build: Callable[[], nn.Module], name: str
) -> None:
    model, x = build(), images(2, 3, 8, 12)
    for suggestion in suggest(model, x):
        captured = capture(model, suggestion.name, layout=suggestion.layout)(x)
        assert captured.activations.shape == (2, suggestion.channels, *suggestion.spatial)
        assert bool(captured.grads.any()) == suggestion.depends
        assert suggestion.depends or "the score does not depend on it at any place" in suggestion.reason


def test_leaves_out_what_holds_no_features() -> None:
    parts = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout(), nn.MaxPool2d(2), nn.Identity(), nn.Conv2d(4, 4, 1)
    model = seeded(sequence(*parts, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)))
    assert [s.name for s in suggest(model, images(1, 3, 10, 10))] == ["5", "1", "0"]
    assert "classify" not in [s.name for s in suggest(seeded(Classes), images(1, 3, 8, 8))]


@pytest.mark.parametrize("container", [lambda y: y, lambda y: {"out": y}], ids=["tensor", "dict"])
@pytest.mark.parametrize("stride", [1, 2])
def test_leaves_out_the_score_map_of_a_segmenter(container: Callable[[Tensor], Any], stride: int) -> None:
    class Segmenter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 6, 3, stride, padding=1), nn.ReLU())
            self.classify = nn.Conv2d(6, 5, 1)

        def forward(self, x: Tensor) -> Any:
            return container(nn.functional.interpolate(self.classify(self.body(x)), x.shape[2:], mode="bilinear"))

    def score(outputs: Any) -> Tensor:
        y: Tensor = outputs["out"] if isinstance(outputs, dict) else outputs
        return y[:, 1].mean((1, 2))

    assert [s.name for s in suggest(seeded(Segmenter), images(2, 3, 8, 12), score)] == ["body", "body.0"]


class Added(nn.Module):
    """A segmenter whose scores are the sum of a fine and a coarse map of them, as FCN-8s and LR-ASPP have it."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(5, 8, 3, 2, 1), nn.ReLU())
        self.score_fine, self.score_coarse = nn.Conv2d(5, 5, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        scores = nn.functional.interpolate(self.score_coarse(self.coarse(fine)), fine.shape[2:], mode="bilinear")
        return nn.functional.interpolate(scores + self.score_fine(fine), x.shape[2:], mode="bilinear")


def test_leaves_out_score_maps_that_are_added_up() -> None:
    """But not features that happen to have a channel for each class: `fine` has five, as there are classes."""
    model = seeded(Added)
    with unchanged(model):
        found = suggest(model, images(2, 3, 16, 24), lambda outputs: outputs[:, 1:3].mean((1, 2, 3)))
    assert [s.name for s in found] == ["coarse", "coarse.0", "fine", "fine.0"]


def test_leaves_out_both_score_maps_of_lraspp() -> None:
    import torchvision

    make = torchvision.models.segmentation.lraspp_mobilenet_v3_large
    model = seeded(lambda: make(weights=None, weights_backbone=None)).requires_grad_(False)
    names = [s.name for s in suggest(model, images(1, 3, 64, 64), lambda outputs: outputs["out"][:, 3].mean((1, 2)))]
    assert names[0] == "classifier.cbr"
    assert not {"classifier", "classifier.low_classifier", "classifier.high_classifier"} & set(names)


class Turned(nn.Module):
    """As many channels as rows, and a layer that no fact tells anything about."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act, self.head = nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.act(self.norm(x.movedim(1, -1).repeat(1, 1, 1, 3)[..., :8])).mean((1, 2)))
        return y


def test_places_settle_what_facts_leave_open() -> None:
    """`act` may have its channels first or last, as far as shapes tell; only last do its places see their own parts."""
    model = seeded(Turned)
    found = suggest(model, images(1, 3, 8, 8))
    assert [(one.name, one.layout) for one in found] == [("act", channels_last()), ("norm", channels_last())]


def test_leaves_out_what_cannot_be_captured() -> None:
    names = [s.name for s in suggest(seeded(Shared), images(1, 3, 8, 8))]
    assert not {"twice", "never", "pair"} & set(names)
    assert {"stem", "pair.conv"} <= set(names)


def test_outermost_stands_for_layers_that_return_one_tensor() -> None:
    inner = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Identity())
    model = seeded(sequence(inner, nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)))
    assert [s.name for s in suggest(model, images(1, 3, 8, 8))] == ["0", "0.0.0"]


@pytest.mark.parametrize(
    ("build", "shape", "name", "spatial"),
    [
        (sequence(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(56, 5)), (2, 16), "1", (14,)),
        (
            sequence(nn.Conv3d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 5)),
            (2, 8, 10, 9),
            "1",
            (6, 8, 7),
        ),
    ],
    ids=["1-D", "3-D"],
)
def test_signals_and_volumes(
    build: Callable[[], nn.Module], shape: tuple[int, ...], name: str, spatial: tuple[int, ...]
) -> None:
    first = suggest(seeded(build), images(2, *shape))[0]
    assert (first.name, first.spatial, first.channels, first.layout) == (name, spatial, 4, None)


# ------------------------------------------------------------------------------------------- what a person would name

QUICK_NAMES = {
    "ResNetModel", "ConvNext, hidden states", "Segformer, segmenter", "DepthAnything", "DETR", "LLaVA", "CLIPModel",
    "resnet18, pooled", "resnet18, levels", "resnet18, logits and features", "resnet18, no fc",
}  # fmt: skip


def named(network: Made) -> Any:
    return pytest.param(network, id=str(network), marks=[] if network.name in QUICK_NAMES else [pytest.mark.sweep])


@pytest.mark.filterwarnings("ignore")  # the libraries' own
@pytest.mark.parametrize("network", [named(network) for network in [*OTHERS, *FOREIGN] if network.layer])
def test_names_the_layer_that_a_person_would_name(network: Made) -> None:
    pytest.importorskip(network.package)
    model, inputs = network.build(1)
    first = suggest(model, inputs, network.score)[0]
    assert (first.name, first.depends) == (network.layer, True)


def test_there_are_names_for_networks_of_many_kinds() -> None:
    assert sum(bool(network.layer) for network in [*OTHERS, *FOREIGN]) > 100


class Returns(nn.Module):
    """Features, and what is made of them."""

    def __init__(self, result: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.net, self.result = Straight(), result

    def forward(self, x: Tensor) -> Any:
        features = self.net.body(x)
        return self.result(features, self.net.head(features.mean((2, 3))))


RETURNS: list[Any] = [
    pytest.param(lambda features, logits: features.mean((2, 3)), lambda out: out[:, 1], id="the mean of features"),
    pytest.param(lambda features, logits: features, lambda out: out[:, 1].mean((1, 2)), id="features"),
    pytest.param(lambda features, logits: (logits, features), lambda out: out[0][:, 1], id="logits and features"),
    pytest.param(
        lambda features, logits: {"last_hidden_state": features, "pooler_output": features.mean((2, 3))},
        lambda out: out["pooler_output"].square().sum(1),
        id="by name",
    ),
]


@pytest.mark.parametrize(("result", "score"), RETURNS)
def test_features_that_are_returned_are_no_scores(result: Any, score: Any) -> None:
    model = seeded(lambda: Returns(result))
    assert suggest(model, images(2, 3, 16, 24), score)[0].name == "net.body"


class Levels(nn.Module):
    """A detector of three levels, of which the coarsest is made of the one before, and a head with a part for each."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classes = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 3, 1)) for _ in range(3))

        def forward(self, levels: list[Tensor]) -> Tensor:
            return torch.cat([part(x).flatten(2) for part, x in zip(self.classes, levels)], 2)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 4, 8, 8), nn.Conv2d(4, 4, 3, 2, 1)
        self.fine, self.coarse, self.extra = (nn.Conv2d(4, 4, 3, stride, 1) for stride in (1, 2, 2))
        self.head = Levels.Head()

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x).relu()
        fine = self.fine(stem)
        coarse = self.coarse(self.down(fine).relu())
        y: Tensor = self.head([fine, coarse, self.extra(coarse)])
        return y


def test_takes_a_level_that_the_head_of_a_detector_reads() -> None:
    found = suggest(seeded(Levels), images(1, 3, 128, 192), lambda out: out[:, 1].sum(1))
    assert (found[0].name, found[0].spatial) == ("coarse", (4, 6))
    assert found[0].reason.startswith("the last level that the head head reads (Conv2d")
    assert {one.name for one in found[:3]} == {"coarse", "extra", "fine"}


class Strided(nn.Module):
    """A backbone of stride 64, as EfficientViT-M has it at 224 pixels, with a layer over windows of its map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 4, 16, 16), nn.Conv2d(4, 4, 1)
        self.down, self.last, self.head = nn.Conv2d(4, 6, 2, 2), nn.Conv2d(6, 6, 2, 2), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x).relu()
        windows = stem.unflatten(3, (2, -1)).permute(0, 3, 1, 2, 4).flatten(0, 1)
        stem = stem + self.mix(windows).unflatten(0, (len(x), 2)).permute(0, 2, 3, 1, 4).flatten(3)
        y: Tensor = self.head(self.last(self.down(stem).relu()).relu().mean((2, 3)))
        return y


def test_takes_a_coarse_layer_that_is_no_extra_level() -> None:
    assert suggest(seeded(Strided), images(1, 3, 128, 192))[0].name == "last"


class Levelled(nn.Module):
    """A class token for each stage, in a parameter of a name of its own, as CoaT has it; time before channels."""

    def __init__(self, video: bool) -> None:
        super().__init__()
        self.video = video
        stage = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 2, 2))
        self.embed = nn.Conv3d(3, 16, (2, 4, 4), (2, 4, 4)) if video else stage
        self.cls_token1 = nn.Parameter(torch.randn(1, 0 if video else 1, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.transpose(1, 2) if self.video else x).flatten(2).mT
        x = self.block(torch.cat([self.cls_token1.expand(len(x), -1, -1), x], 1))
        y: Tensor = self.head(x.mean(1))
        return y


@pytest.mark.parametrize(
    ("video", "shape", "grid"), [(False, (1, 3, 32, 48), (4, 6)), (True, (1, 8, 3, 16, 24), (4, 4, 6))]
)
def test_takes_a_late_layer_that_no_fact_supports_where_its_places_see_their_own(
    video: bool, shape: tuple[int, ...], grid: tuple[int, ...]
) -> None:
    first = suggest(seeded(lambda: Levelled(video)), torch.rand(shape))[0]
    assert (first.name, first.spatial) == ("block", grid)
    assert "see their own parts" in first.reason
    assert "no reading" not in first.reason


class Decoded(nn.Module):
    """Features as tokens, with embeddings of their places, that queries read, as in a transformer for detection."""

    class Places(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(1, 6, 8, 12))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight.expand(len(x), -1, -1, -1)

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 2, 2), nn.ReLU())
        self.places, self.queries = Decoded.Places(), nn.Parameter(torch.randn(1, 5, 6))
        self.norm, self.last, self.head = nn.LayerNorm(6), nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        tokens = (features + self.places(features)).flatten(2).mT
        read = (self.queries @ tokens.mT).softmax(-1) @ tokens
        y: Tensor = self.head(self.last(self.norm(read) + self.queries)).mean(1)
        return y


def test_says_which_later_layers_have_no_reading_and_leaves_out_what_the_image_does_not_change() -> None:
    found = suggest(seeded(Decoded), images(1, 3, 16, 24))
    assert [one.name for one in found] == ["body", "body.0"]
    assert found[0].reason.startswith(
        "the last layer that can be read as a grid; 2 later layers, norm to last, have no reading as a map of the "
        "image (camfn.layout.find(model, 'last', inputs) says why): to take one, pass its name and its layout"
    )


class Deep(nn.Module):
    """Depths (B, H, W) out of a head that ends in a squeeze."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.depth = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(4, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.depth(self.mix(x).relu()).exp()
            return y.squeeze(1)

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 6, 3, padding=1), Deep.Head()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(x))
        return y


def test_depths_are_no_features() -> None:
    found = suggest(seeded(Deep), images(1, 3, 16, 24), lambda out: out.mean((1, 2)))
    assert [one.name for one in found] == ["head.mix", "body"]
    assert found[0].reason.startswith("the last features with a grid, just before the map of scores")


class Masks(nn.Module):
    """Masks that are products of queries and of the decoder's features, and a head that reads coarser features."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 6, 4, 4), nn.Conv2d(6, 6, 4, 4)
        self.query = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x).relu()
        return torch.einsum("bqc,bchw->bqhw", self.query(self.coarse(fine).flatten(2).mT), fine)


def test_features_as_fine_as_the_masks_come_first() -> None:
    found = suggest(seeded(Masks), images(1, 3, 32, 48), lambda out: out[:, 1].mean((1, 2)))
    assert [one.name for one in found] == ["fine", "coarse"]


class Words(nn.Module):
    """An image and words: a tower for the image, whose features stand among the words."""

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.norm = nn.Conv2d(3, 6, 4, 4), nn.LayerNorm(6)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(self.patches(x).flatten(2).mT)
            return y

    def __init__(self) -> None:
        super().__init__()
        self.tower, self.words = Words.Tower(), nn.Embedding(9, 6)
        self.act, self.norm, self.head = nn.GELU(), nn.LayerNorm(6), nn.Linear(6, 5)

    def forward(self, pixels: Tensor, ids: Tensor) -> Tensor:
        tokens = torch.cat([self.words(ids), self.act(self.tower(pixels))], 1)
        tokens = self.norm(tokens + tokens.mean(1, keepdim=True))
        y: Tensor = self.head(tokens[:, -1])
        return y


def test_takes_the_tower_that_reads_the_image() -> None:
    ids = torch.tensor([[1, 2, 3]])
    for inputs in ({"pixels": images(1, 3, 16, 24), "ids": ids}, {"ids": ids, "pixels": images(1, 3, 16, 24)}):
        first = suggest(seeded(Words), inputs, 1)[0]
        assert first.name == "tower"
        assert first.reason.startswith("the last layer of tower, which reads the image, that can be read as a grid")


# ------------------------------------------------------------------------------------------------- targets and reasons


def test_target_decides_what_the_score_depends_on() -> None:
    model, x = seeded(Branches), images(2, 3, 8, 12)
    first = suggest(model, x, lambda outputs: outputs[0][:, 1])
    second = suggest(model, x, lambda outputs: outputs[1][:, 1])
    assert (first[0].name, second[0].name) == ("first", "second")
    assert {s.name: s.depends for s in first} == {"stem": True, "first": True, "second": False, "unread": False}
    assert {s.name: s.depends for s in second} == {"stem": True, "first": False, "second": True, "unread": False}
    assert "it no longer does at unread" in first[0].reason


def test_head_of_zeros() -> None:
    model = seeded(Straight)
    nn.init.zeros_(head_of(model, "head").weight)
    found = suggest(model, images(2, 3, 8, 12))
    assert not any(suggestion.depends for suggestion in found)
    assert found[0].name == "body"
    assert "depends on no layer: are the weights of the head zero?" in found[0].reason


def test_zero_head_of_torchvision() -> None:
    import torchvision

    model = seeded(lambda: torchvision.models.VisionTransformer(32, 16, 2, 2, 8, 16))
    first = suggest(model, images(1, 3, 32, 32))[0]
    assert not first.depends
    assert "are the weights of the head zero?" in first.reason
    nn.init.normal_(head_of(model, "heads.head").weight)
    first = suggest(model, images(1, 3, 32, 32))[0]
    assert (first.name, first.depends) == ("encoder.layers.encoder_layer_1.ln_1", True)


PER_SAMPLE: list[Any] = [
    pytest.param(1, id="int"),
    pytest.param([1, 2, 3], id="list"),
    pytest.param(torch.tensor([1, 2, 3]), id="tensor"),
    pytest.param([class_score(1), 2, lambda outputs: outputs.sum(1)], id="mixed"),
    pytest.param((1, 2, 3), id="tuple"),
    pytest.param(
        class_score([1, 2, 3]),
        id="score",
    ),
]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("target", [None, *(p.values[0] for p in PER_SAMPLE[:4])], ids=range(5))
def test_target_per_sample(target: Any, training: bool) -> None:
    model, x = seeded(Straight).train(training), images(3, 3, 8, 12)
    with unchanged(model):
        assert suggest(model, x, target)[0].name == "body"


@pytest.mark.parametrize("target", PER_SAMPLE)
def test_target_per_sample_fits_what_capture_takes(target: Any) -> None:
    model, x = seeded(Straight), images(3, 3, 8, 12)
    assert capture(model, "body")(x, target).grads.any()
    assert suggest(model, x, target)[0].name == "body"


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Straight()

    def forward(self, count: Tensor, image: Tensor, scale: Tensor) -> Tensor:
        y: Tensor = self.net(image * scale[:, None, None, None]) + count[:, None]
        return y


COUNT, SCALE = torch.tensor([1, 2, 3]), torch.tensor([1.0, 0.5, 2.0])


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: (COUNT, x, SCALE),
        lambda x: [COUNT, x, SCALE],
        lambda x: {"count": COUNT, "image": x, "scale": SCALE},
        lambda x: UserDict(count=COUNT, image=x, scale=SCALE),
    ],
    ids=["tuple", "list", "dict", "UserDict"],
)
def test_inputs_of_every_kind(wrap: Callable[[Tensor], Any], training: bool) -> None:
    model = seeded(Scaled).train(training)
    assert suggest(model, wrap(images(3, 3, 8, 12)))[0].name == "net.body"


# -------------------------------------------------------------------------------------------------------------- errors


def test_no_layer_with_a_grid() -> None:
    model = seeded(sequence(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 5)))
    with pytest.raises(
        CaptureError, match=r"no layer of this Sequential has a grid like the image's, \(8, 8\).*layout"
    ):
        suggest(model, images(1, 3, 8, 8))


@pytest.mark.parametrize("inputs", [torch.zeros(2, 8), torch.zeros(2, 3, 8, 8).long(), {}], ids=["2-D", "long", "none"])
def test_no_image(inputs: Any) -> None:
    with pytest.raises(CaptureError, match=r"suggest: expected an image \(B, C, \*spatial\) among the inputs, got a "):
        suggest(seeded(Straight), inputs)


def test_wrong_target() -> None:
    with pytest.raises(ValueError, match="class 5 is out of range"):
        suggest(seeded(Straight), images(2, 3, 8, 8), 5)
    with pytest.raises(ValueError, match="needs logits"):
        suggest(seeded(Branches), images(2, 3, 8, 8), 1)


class VolumeUnet(nn.Module):
    """Convolutions of a volume at several sizes, of which the last stride leaves one dimension as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.down = nn.Conv3d(1, 4, 3, 1, 1), nn.Conv3d(4, 6, 2, 2)
        self.deep, self.up = nn.Conv3d(6, 8, (1, 2, 2), (1, 2, 2)), nn.ConvTranspose3d(8, 4, (2, 4, 4), (2, 4, 4))
        self.out = nn.Conv3d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x).relu()
        up = self.up(self.deep(self.down(fine).relu()).relu())
        y: Tensor = self.out(torch.cat([fine, up], 1))
        return y


def test_volumes_whose_layers_state_their_channels_cost_few_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[VolumeUnet] = []
    forward = VolumeUnet.forward

    def counted(self: VolumeUnet, x: Tensor) -> Tensor:
        runs.append(self)
        return forward(self, x)

    monkeypatch.setattr(VolumeUnet, "forward", counted)
    assert suggest(seeded(VolumeUnet), images(1, 1, 8, 16, 16), lambda out: out[:, 1].flatten(1).sum(1))[0].name == "up"
    assert len(runs) < 6


class Repeated(nn.Module):
    """A stem, and a convolution that runs twice."""

    def __init__(self, *, stem: bool = True) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU()) if stem else nn.Identity()
        self.again = nn.Conv2d(4 if stem else 3, 4 if stem else 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        scores: Tensor = self.again(self.again(x).relu()).relu().mean((2, 3))
        return scores


def test_a_layer_that_runs_several_times_is_named() -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 3, 16, 16)
    with pytest.raises(CaptureError, match="again runs 2 times: to take a run of it, pass its name and which, call=0"):
        suggest(Repeated(stem=False).eval(), images)
    model = Repeated().eval()
    first = suggest(model, images)[0]
    assert first.name == "stem"
    assert first.reason.startswith("the last layer with a grid that runs once; again runs 2 times")
    assert explainer(grad_cam, model, "again", call=1)(images, 0).shape == (1, 8, 8)
