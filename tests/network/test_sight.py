"""Maps lie over what their layers saw: networks that read a crop, tiles, a zoom, or one of two images."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camfn import CamfnError, explainer
from camfn._cut.sight import lay_over, seen_by
from camfn.methods import (
    ablation_cam,
    eigen_cam,
    grad_cam,
    group_cam,
    hires_cam,
    is_cam,
    opti_cam,
    rise,
    score_cam,
    ss_cam,
    vit_cx,
)
from camfn.network import full_grad, full_gradients, guided_grad_cam, input_gradient, simple_full_grad, smooth_full_grad
from camfn.network._biases import on_a_grid
from camfn.network._full import _rescaled
from camfn.transforms import fuse, multi_scale
from tests.nets.small import images, seeded

X = images(2, 3, 16, 20, dtype=torch.float64)


def body(channels: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2, padding=1)
    )


class Crop(nn.Module):
    """Sees rows 4 to 12 and columns 10 to 20."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = body(), nn.Linear(5, 4)

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x[..., 4:12, 10:20])
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(x).relu().mean((2, 3)))
        return out


class Grey(Crop):
    """The same of the mean color."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body(1)

    def features(self, x: Tensor) -> Tensor:
        return super().features(x.mean(1, keepdim=True))


class Bare(Crop):
    """The same network for a part that is cropped already."""

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


class BareGrey(Bare):
    """The same of the mean color."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body(1)

    def features(self, x: Tensor) -> Tensor:
        return super().features(x.mean(1, keepdim=True))


class Zoom(Crop):
    """Looks at the whole, and at a part that it enlarges to the size of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.near = body()

    def features(self, x: Tensor) -> Tensor:
        near: Tensor = self.near(functional.interpolate(x[..., 4:12, 10:20], size=(16, 20), mode="nearest"))
        out: Tensor = self.body(x) + near
        return out


class Tiles(Crop):
    """Looks at the left half and at the right half, one after the other."""

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x[..., :10]) * 2 - self.body(x[..., 10:])
        return out


class Rows(Crop):
    """Looks at both halves in one batch."""

    def features(self, x: Tensor) -> Tensor:
        both: Tensor = self.body(torch.cat(x.chunk(2, -1)))
        return both[: len(both) // 2] * 2 - both[len(both) // 2 :]


class Twins(Crop):
    """Compares two images."""

    def forward(self, one: Tensor, other: Tensor) -> Tensor:  # type: ignore[override]
        out: Tensor = self.head((self.body(one) * self.body(other)).mean((2, 3)))
        return out


def made(kind: Any) -> nn.Module:
    return seeded(kind, dtype=torch.float64)


def first_term(net: nn.Module, x: Tensor) -> Tensor:
    """The term of the image in a FullGrad map."""
    return _rescaled(input_gradient(net)(x, 1) * x)[:, 0]


def share(cam: Tensor, rows: slice, columns: slice) -> float:
    return float(cam[..., rows, columns].sum() / cam.sum())


@pytest.mark.parametrize(("kind", "uncropped"), [(Crop, Bare), (Grey, BareGrey)])
def test_a_crop(kind: Any, uncropped: Any) -> None:
    """The map is that of the cropped image, laid over its place."""
    net, alone = made(kind), made(uncropped)
    part = X[..., 4:12, 10:20]
    noise = images(2, 1, 3, 16, 20, dtype=torch.float64, seed=4)
    for method in (full_grad, simple_full_grad):
        cam = method(net)(X, 1)
        assert share(cam, slice(4, 12), slice(10, 20)) == pytest.approx(1)
        # but for the term of the image, whose values outside are zero
        layers = cam - first_term(net, X)
        torch.testing.assert_close(layers[:, 4:12, 10:20], method(alone)(part, 1) - first_term(alone, part))
    assert share(smooth_full_grad(net, noise=noise)(X, 1), slice(4, 12), slice(10, 20)) == pytest.approx(1)
    cam = guided_grad_cam(net, "body.3")(X, 1)
    torch.testing.assert_close(cam[..., 4:12, 10:20], guided_grad_cam(alone, "body.3")(part, 1))


def test_a_zoom_beside_the_whole() -> None:
    net = made(Zoom)
    image, whole = X.clone(), ((0, 16), (0, 20))
    seen = seen_by("full_grad", net, image, lambda x: x, on_a_grid)
    assert seen == {
        **{f"body.{i}": whole for i in (0, 1, 3)},
        **{f"near.{i}": ((4, 12), (10, 20)) for i in (0, 1, 3)},
    }
    with torch.no_grad():
        for parameter in net.get_submodule("body").parameters():
            parameter.zero_()
    assert share(simple_full_grad(net)(X, 1), slice(3, 13), slice(9, 20)) > 0.3


def test_tiles_one_after_the_other() -> None:
    net = made(Tiles)
    seen = seen_by("full_grad", net, X, lambda x: x, on_a_grid)
    for i in (0, 1, 3):
        assert seen[f"body.{i}"] == ((0, 16), (0, 10))
        assert seen[f"body.{i}#2"] == ((0, 16), (10, 20))
    terms = full_gradients(net)(X, 1)
    cam = full_grad(net)(X, 1)

    def scaled(term: Tensor) -> Tensor:
        size = term.abs()
        low = size.amin((1, 2, 3), keepdim=True)
        return ((size - low) / (size.amax((1, 2, 3), keepdim=True) - low)).sum(1, keepdim=True)

    expected = scaled(terms.input_grad * X)
    for key, term in terms.biases.items():
        if term.ndim == 4:
            half = functional.interpolate(scaled(term), size=(16, 10), mode="bilinear", align_corners=False)
            blank = torch.zeros_like(half)
            expected = expected + torch.cat([blank, half] if "#2" in key else [half, blank], -1)
    torch.testing.assert_close(cam, expected[:, 0])


@pytest.mark.parametrize("method", [full_grad, simple_full_grad])
def test_tiles_in_one_batch_are_refused(method: Any) -> None:
    with pytest.raises(CamfnError, match=r"has 4 rows for 2 images.*full_gradients"):
        method(made(Rows))(X, 1)
    terms = full_gradients(made(Rows))(X, 1)
    assert terms.biases["body.3"].shape == (4, 5, 8, 5)
    with pytest.raises(CamfnError, match="has 4 rows for 2 images"):
        terms.total  # noqa: B018


class Deep(Crop):
    """Goes on with a part of its features."""

    def cut(self, x: Tensor) -> Tensor:
        return x[..., 2:10, 5:12]

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = self.body[3](self.cut(self.body[2](self.body[1](self.body[0](x)))))
        return out


@pytest.mark.parametrize(
    "cut",
    [
        lambda x: x[..., 2:10, 5:12],
        lambda x: x.narrow(-1, 0, 12),
        lambda x: torch.chunk(x, 2, -2)[1],
        lambda x: x.split([4, 12], -2)[0],
    ],
)
def test_a_part_of_the_features_is_refused(cut: Any) -> None:
    net = made(Deep)
    net.cut = cut
    for method in (full_grad, simple_full_grad):
        with pytest.raises(CamfnError, match=rf"{method.__name__}: .*of its features \(2, 4, 16, 20\).*hires_cam"):
            method(net)(X, 1)
    assert full_gradients(net)(X, 1).completeness_gap.abs().max() < 1e-9


@pytest.mark.parametrize(
    "cut", [lambda x: x[..., 1:, 1:], lambda x: x[..., ::2, ::2], lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)]
)
def test_rims_strides_and_channels_are_no_parts(cut: Any) -> None:
    net = made(Deep)
    net.cut = cut
    assert full_grad(net)(X, 1).any()
    explain = full_grad(net)
    compiled = torch.compile(lambda x: explain(x, 1), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), full_grad(net)(X, 1))


def test_one_of_two_images() -> None:
    """Layers on the other image do not count, and the map of each image is that of its place."""
    net, other = made(Twins), images(2, 3, 16, 20, dtype=torch.float64, seed=8)
    with pytest.raises(CamfnError, match=r"images=0 of shape .*images=1"):
        full_grad(net)((X, other), 1)
    first, second = (full_grad(net, images=i)((X, other), 1) for i in (0, 1))
    torch.testing.assert_close(full_grad(net, images=1)((other, X), 1), first)
    assert not torch.allclose(first, second)
    rebuilt = seen_by("full_grad", net, X, lambda x: (x, other), on_a_grid)
    assert [key for key, box in rebuilt.items() if box is None] == [f"body.{i}#2" for i in (0, 1, 3)]
    same = [full_grad(net, images=0)(pair, 1) for pair in ((X, X), (X, X.clone()))]
    assert torch.equal(*same)


def test_a_network_that_sees_all_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No forward is added where shapes show that layers see the whole."""
    from camfn.network import _full

    monkeypatch.setattr(_full, "seen_by", lambda *args: pytest.fail("asked"))
    net = nn.Sequential(body(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)).double().eval()
    assert full_grad(net)(X, 1).any()


def test_strides_that_leave_out_a_border_are_no_crop() -> None:
    class Sparse(Crop):
        """Convolutions of one pixel of four, whose size differs from the image's."""

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 5, 1, stride=4), nn.BatchNorm2d(5))

        def features(self, x: Tensor) -> Tensor:
            out: Tensor = self.body(functional.avg_pool2d(x, 2))
            return out

    net = made(Sparse)
    seen = seen_by("full_grad", net, X, lambda x: x, on_a_grid)
    assert seen["body.0"] == ((0, 10), (0, 18))
    cam = torch.rand(2, 1, 2, 3)
    torch.testing.assert_close(
        lay_over(cam, seen["body.0"], (16, 20)),
        functional.interpolate(cam, size=(16, 20), mode="bilinear", align_corners=False),
    )


def test_where_no_value_can_be_read() -> None:
    net = made(Crop)
    each = torch.vmap(lambda target: full_grad(net)(X, target))(torch.arange(4))
    torch.testing.assert_close(each[2], full_grad(net)(X, 2))
    with pytest.raises(CamfnError, match=r"inside torch\.compile or vmap over images"):
        torch.vmap(lambda x: full_grad(net)(x, 1))(X[None])


class Both(Crop):
    """Looks at the whole, and at a part."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = body()

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = super().features(x) + self.wide(x).mean((2, 3), keepdim=True)
        return out


APART = [(Both, "wide.0", "body.3"), (Zoom, "body.0", "near.3"), (Deep, "body.0", "body.3")]
METHODS = [grad_cam, eigen_cam, ablation_cam, score_cam]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
@pytest.mark.parametrize(("kind", "whole", "part"), APART)
def test_layers_that_see_different_parts_are_not_fused(kind: Any, whole: str, part: str, method: Any) -> None:
    net = made(kind)
    with pytest.raises(CamfnError, match=rf"fuse: .*'{whole}', which sees the whole|'{part}', which sees \[\d+:"):
        fuse(method, net, [whole, part])(X, 1)
    assert fuse(method, net, [whole])(X, 1).any()


def test_layers_that_see_the_same_crop_are_fused() -> None:
    net, alone = made(Crop), made(Bare)
    part = X[..., 4:12, 10:20]
    for method in (grad_cam, eigen_cam, ablation_cam):
        cam = fuse(method, net, ["body.0", "body.3"])(X, 1)
        torch.testing.assert_close(cam, fuse(method, alone, ["body.0", "body.3"])(part, 1))


@pytest.mark.parametrize(
    "method",
    [
        score_cam,
        partial(group_cam, groups=2),
        partial(opti_cam, steps=1),
        partial(ss_cam, samples=1, noise=torch.ones(1, 16, 20, dtype=torch.float64)),
        is_cam,
        partial(vit_cx, noise=torch.zeros(3, 16, 20, dtype=torch.float64)),
    ],
)
def test_masks_from_a_crop_are_not_laid_over_the_image(method: Any) -> None:
    for kind in (Crop, Grey, Both):
        with pytest.raises(CamfnError, match=r"the whole image, got 'body.3', which sees \[4:12\] x \[10:20\]"):
            explainer(method, made(kind), "body.3")(X, 1)
    assert explainer(method, made(Both), "wide.3")(X, 1).any()


def test_masks_that_do_not_come_from_the_layer_may_be_anywhere() -> None:
    masks = torch.rand(4, 16, 20, dtype=torch.float64)
    assert explainer(partial(rise, masks=masks), made(Crop), "body.3")(X, 1).shape == (2, 16, 20)


def test_several_sizes_need_the_whole_image() -> None:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
    net = nn.Sequential(body(), head).double().eval()
    assert multi_scale(hires_cam, net, "0", [20])(X, 1).any()
    for kind in (Crop, Grey):
        with pytest.raises(CamfnError, match=r"multi_scale: .*'body.3', which sees \[4:12\] x \[10:20\]"):
            multi_scale(hires_cam, made(kind), "body.3", [20])(X, 1)

    class Window(Crop):
        """Sees the whole of an image of 16 by 20, and a part of a larger one."""

        def features(self, x: Tensor) -> Tensor:
            out: Tensor = self.body(x[..., :16, :20])
            return out

    with pytest.raises(CamfnError, match=r"which sees \[0:16\] x \[0:20\]"):
        multi_scale(hires_cam, made(Window), "body.3", [24])(X, 1)


class Stem(nn.Module):
    """Networks that read something of another size than the image, and see all of it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        channels = {"shuffled": 12}.get(kind, 3)
        self.body, self.head = body(channels), nn.Linear(5, 4)

    def read(self, x: Tensor) -> Tensor:
        if self.kind == "shuffled":
            return functional.pixel_unshuffle(x, 2)
        if self.kind == "shrunk":
            return functional.interpolate(x, size=(8, 12), mode="bilinear", antialias=True)
        return functional.pad(x, (2, 2, 0, 4), "reflect") if self.kind == "padded" else x

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(self.read(x)).relu().mean((2, 3)))
        return out


@pytest.mark.parametrize("kind", ["shuffled", "shrunk", "padded"])
def test_networks_that_read_all_in_another_form(kind: str) -> None:
    net = made(lambda: Stem(kind))
    assert fuse(grad_cam, net, ["body.0", "body.3"])(X, 1).any()
    assert explainer(score_cam, net, "body.3")(X, 1).any()
    assert multi_scale(hires_cam, net, "body.3", [24])(X, 1).any()


def test_shapes_that_leave_no_doubt_cost_no_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    from camfn._cut import sight

    monkeypatch.setattr(sight, "seen_by", lambda *args: pytest.fail("asked"))
    net = nn.Sequential(body(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)).double().eval()
    assert fuse(grad_cam, net, ["0.0", "0.3"])(X, 1).any()
    assert explainer(score_cam, net, "0.3")(X, 1).any()


class Colors(nn.Module):
    """A branch on the colors and one on the depth."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far, self.head = body(), body(1), nn.Linear(5, 4)

    def forward(self, x: Tensor, depth: Tensor) -> Tensor:
        both = self.near(x).mean((2, 3)) * self.far(depth[..., 4:]).mean((2, 3))
        out: Tensor = self.head(both)
        return out


def test_each_layer_is_asked_about_the_image_it_sees() -> None:
    net, pair = made(Colors), (X, images(2, 1, 16, 24, dtype=torch.float64, seed=5))
    assert fuse(grad_cam, net, ["near.0", "near.3"])(pair, 1).any()
    assert fuse(grad_cam, net, ["far.0", "far.3"])(pair, 1).any()
    assert explainer(score_cam, net, "near.3", images=0)(pair, 1).any()
    with pytest.raises(CamfnError, match=r"'far.3', which sees \[0:16\] x \[4:24\]"):
        explainer(score_cam, net, "far.3", images=1)(pair, 1)
