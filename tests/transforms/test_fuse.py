"""Several layers: each rule against its definition in loops, laws, one forward and one backward, and the peer."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from camfn import CaptureError, capture, explainer, image, methods
from camfn.transforms import fuse, fuse_maps
from camfn.transforms._fuse import Fusion, Scaling
from tests.nets.small import Net, images, seeded, unchanged

HOWS: tuple[Any, ...] = get_args(Fusion)
SCALINGS: tuple[Any, ...] = get_args(Scaling)
LAYERS = ["stem", "blocks.0", "blocks.1"]


def maps(*sizes: tuple[int, ...], seed: int = 3, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [images(2, *size, dtype=dtype, seed=seed + i) for i, size in enumerate(sizes)]


def weights_for(how: str, count: int) -> dict[str, Any]:
    return {"weights": [float(i + 1) for i in range(count)]} if how == "weighted" else {}


def up(values: list[float], size: int) -> list[float]:
    """Linear with half-pixel centers, one dimension."""
    out = []
    for i in range(size):
        place = min(max((i + 0.5) * len(values) / size - 0.5, 0.0), len(values) - 1.0)
        low = math.floor(place)
        high = min(low + 1, len(values) - 1)
        out.append(values[low] + (place - low) * (values[high] - values[low]))
    return out


def stretched(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(v - low) / (high - low) if high > low else 0.0 for v in values]


def oracle(how: str, given: list[list[float]], size: int, weights: list[float]) -> list[float]:
    positive = [[max(v, 0.0) for v in m] for m in given]
    if how == "product":
        resized = [stretched([max(v, 0.0) for v in up(m, size)]) for m in given]
    elif how == "tanh_max":
        resized = [up([math.tanh(2.0 * v / max(m)) if max(m) else 0.0 for v in m], size) for m in positive]
    else:
        resized = [up(stretched(m), size) for m in positive]
    columns = list(zip(*resized, strict=True))
    if how == "mean":
        return [sum(c) / len(c) for c in columns]
    if how == "weighted":
        return [sum(w * v for w, v in zip(weights, c, strict=True)) / sum(weights) for c in columns]
    return [math.prod(c) if how == "product" else max(c) for c in columns]


@pytest.mark.parametrize("how", HOWS)
def test_rule_equals_its_definition(how: Fusion) -> None:
    given = maps((3,), (7,), (5,))
    given[2][1] = -1.0  # nothing above zero in one map of the second sample
    found = fuse_maps(given, how=how, size=(9,), **weights_for(how, 3))
    for b in range(2):
        expected = oracle(how, [m[b].tolist() for m in given], 9, [1.0, 2.0, 3.0])
        torch.testing.assert_close(found[b], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("how", [how for how in HOWS if how != "tanh_max"])
def test_one_layer_is_its_map_rescaled(how: Fusion, scaling: Scaling) -> None:
    (m,) = maps((4, 5))
    expected = {
        "relu_minmax": image.normalize(m),
        "relu_max": m.relu() / m.relu().amax((1, 2), keepdim=True),
        "minmax": (m - m.amin((1, 2), keepdim=True)) / (m.amax((1, 2), keepdim=True) - m.amin((1, 2), keepdim=True)),
        "max": m / m.abs().amax((1, 2), keepdim=True),
        "none": m,
    }
    torch.testing.assert_close(fuse_maps([m], how=how, scaling=scaling, **weights_for(how, 1)), expected[scaling])


def test_the_product_is_never_above_the_smallest_factor_and_zero_where_one_is() -> None:
    given = maps((6, 6), (6, 6), (6, 6))
    factors = torch.stack([image.normalize(m) for m in given])
    product = fuse_maps(given, how="product")
    assert (product <= factors.amin(0)).all()
    assert torch.equal(product == 0, (factors == 0).any(0))
    assert (product > 0).any()


def test_mean_then_stretched_is_what_the_peer_returns_but_for_its_constant() -> None:
    given = maps((3, 4), (7, 6), dtype=torch.float32)
    found = image.normalize(fuse_maps(given, size=(24, 20)))
    torch.testing.assert_close(found, image.peer_postprocess(given, (24, 20)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sizes", [((3,), (5,)), ((2, 3), (4, 4)), ((2, 2, 2), (3, 4, 5))])
@pytest.mark.parametrize("how", HOWS)
def test_result_is_of_the_finest_map_and_of_the_type_of_the_first(how: Fusion, sizes: Any) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        found = fuse_maps(maps(*sizes, dtype=dtype), how=how, **weights_for(how, 2))
        assert found.shape == (2, *sizes[1])
        assert found.dtype is dtype
        assert found.isfinite().all()


@pytest.mark.parametrize("how", HOWS)
def test_order_of_the_layers_and_constant_maps(how: Fusion) -> None:
    given = maps((4, 4), (4, 4))
    if how != "weighted":
        torch.testing.assert_close(fuse_maps(given, how=how), fuse_maps(given[::-1], how=how))
    blank = fuse_maps([torch.full((2, 4, 4), 3.0), torch.zeros(2, 3, 3)], how=how, **weights_for(how, 2))
    assert blank.isfinite().all()


def test_equal_weights_are_the_mean_and_weights_may_differ_by_sample() -> None:
    given = maps((4, 4), (4, 4))
    torch.testing.assert_close(fuse_maps(given, how="weighted", weights=[2.0, 2.0]), fuse_maps(given))
    each = fuse_maps(given, how="weighted", weights=torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(each[0], image.normalize(given[0])[0])
    torch.testing.assert_close(each[1], image.normalize(given[1])[1])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fuse_maps([]), "one a layer"),
        (lambda: fuse_maps([torch.ones(2, 3), torch.ones(3, 3)]), "same samples"),
        (lambda: fuse_maps([torch.ones(2, 3)], how="median"), "'tanh_max'"),  # type: ignore[arg-type]
        (lambda: fuse_maps([torch.ones(2, 3)], scaling="std"), "'relu_minmax'"),  # type: ignore[arg-type]
        (lambda: fuse_maps([torch.ones(2, 3)], how="weighted"), "one a layer"),
        (lambda: fuse_maps([torch.ones(2, 3)], how="weighted", weights=[1.0, 2.0]), "one a layer"),
        (lambda: fuse_maps([torch.ones(2, 3)], weights=[1.0]), "how='weighted'"),
        (lambda: fuse_maps([torch.ones(2, 3)], size=(3, 3)), "spatial"),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


# ------------------------------------------------------------------------------------------------------- on a network


class Counted:
    """Forwards of a model, and backwards through its head."""

    def __init__(self, model: nn.Module) -> None:
        self.forwards = self.backwards = 0
        model.register_forward_pre_hook(self._forward)
        model.register_forward_hook(self._forwarded)

    def _forward(self, *_: Any) -> None:
        self.forwards += 1

    def _forwarded(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(self._backward)  # type: ignore[no-untyped-call]

    def _backward(self, grad: Tensor) -> None:
        self.backwards += 1


GRADIENT = ["grad_cam", "hires_cam", "grad_cam_plusplus", "layer_cam", "eigen_grad_cam"]


@pytest.mark.parametrize("method", GRADIENT)
def test_one_forward_and_one_backward_for_any_number_of_layers(method: str) -> None:
    net = seeded(Net)
    counted = Counted(net)
    fuse(getattr(methods, method), net, LAYERS)(images(2, 3, 8, 8), [1, 2])
    assert (counted.forwards, counted.backwards) == (1, 1)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("method", ["grad_cam", "eigen_cam", "ablation_cam", "score_cam"])
def test_fused_maps_are_those_of_each_layer(method: str, how: Fusion) -> None:
    net, x = seeded(Net, dtype=torch.float64), images(2, 3, 8, 8, dtype=torch.float64)
    chosen = getattr(methods, method)
    with unchanged(net):
        found = fuse(chosen, net, LAYERS, how=how, size=(8, 8), chunk_size=2, **weights_for(how, 3))(x, [1, 2])
    apart = [explainer(chosen, net, layer)(x, [1, 2]) for layer in LAYERS]
    torch.testing.assert_close(found, fuse_maps(apart, how=how, size=(8, 8), **weights_for(how, 3)))


def test_a_batch_is_its_samples() -> None:
    net, x = seeded(Net, dtype=torch.float64), images(2, 3, 8, 8, dtype=torch.float64)
    explain = fuse(methods.grad_cam, net, LAYERS, how="tanh_max")
    both = explain(x, [1, 2])
    torch.testing.assert_close(both[:1], explain(x[:1], 1))
    torch.testing.assert_close(both[1:], explain(x[1:], 2))


def test_vmap_over_targets_and_compiled() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    explain = fuse(methods.layer_cam, net, LAYERS, how="product")
    classes = torch.arange(5)
    looped = torch.stack([explain(x, c) for c in classes])
    torch.testing.assert_close(torch.vmap(lambda c: explain(x, c))(classes), looped)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, t: explain(x, t), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, classes[2]), looped[2])


def test_a_fused_map_may_be_part_of_a_loss() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8).requires_grad_()
    loss = fuse(methods.hires_cam, net, LAYERS, scaling="none", differentiable=True)(x, 1).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("blocks.[01]", ["blocks.0", "blocks.1"]),
        ("blocks.*.bn", ["blocks.0.bn", "blocks.1.bn"]),
        (["stem", "blocks.?"], ["stem", "blocks.0", "blocks.1"]),
        ("stem", ["stem"]),
        (["blocks.1", "blocks.*.bn", "blocks.1"], ["blocks.1", "blocks.0.bn", "blocks.1.bn"]),
    ],
)
def test_layers_by_pattern(layers: Any, names: list[str]) -> None:
    net, x = seeded(Net), images(1, 3, 8, 8)
    found = fuse(methods.grad_cam, net, layers)(x, 1)
    expected = fuse_maps([methods.grad_cam(*capture(net, name)(x, 1)) for name in names])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ("block[01]", r"fits 'block\[01\]'.*'blocks"),
        ("blok.*.bn", r"Did you mean .*bn"),
        (["stem", "block.1"], "no layer 'block.1'.*Did you mean"),
        ([], "at least one layer"),
    ],
)
def test_no_such_layer_is_refused_before_any_forward(layers: Any, words: str) -> None:
    with pytest.raises(CaptureError, match=words):
        fuse(methods.grad_cam, seeded(Net), layers)


def test_the_mean_of_two_layers_is_that_of_pytorch_grad_cam() -> None:
    peer = pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam: pip install 'camfn[bench]'")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    net, x = seeded(Net), images(2, 3, 16, 16)
    layers = ["blocks.0.conv", "blocks.1"]  # whose outputs nothing overwrites: the peer keeps what is left of others
    targets = [ClassifierOutputTarget(1), ClassifierOutputTarget(2)]
    own = seeded(Net)
    with peer.GradCAM(own, [own.get_submodule(name) for name in layers]) as theirs:
        expected = torch.from_numpy(theirs(x, targets))
    cams = [methods.grad_cam(*capture(net, name)(x, [1, 2])) for name in layers]
    torch.testing.assert_close(image.peer_postprocess(cams, (16, 16)), expected, rtol=0, atol=1e-5)
    ours = image.normalize(fuse(methods.grad_cam, net, layers, size=(16, 16))(x, [1, 2]))
    # the peer adds 1e-7 to the range of each map, and the smallest of these is about 1e-3
    torch.testing.assert_close(ours, expected, rtol=0, atol=5e-4)


def test_a_partial_of_a_method_will_do() -> None:
    net, x = seeded(Net), images(1, 3, 8, 8)
    plus = partial(methods.grad_cam_plusplus, normalized=True)
    found = fuse(plus, net, ["stem", "blocks.0"], how="max")(x, 1)
    assert torch.equal(found, fuse_maps([plus(*capture(net, n)(x, 1)) for n in ("stem", "blocks.0")], how="max"))
