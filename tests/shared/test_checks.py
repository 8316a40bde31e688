"""Checks of arguments: what is refused, and in which words; a batch of none; no scale at which a map dies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from camfn import capture, explainer, image, methods, metrics, targets, transforms
from camfn._shared.checks import is_concrete, number, one_of, space, whole
from tests.methods.cases import CASES, SHAPES
from tests.nets.small import Net, images, seeded

PAIR = ["grad_cam", "hires_cam", "elementwise_grad_cam", "grad_cam_plusplus", "xgrad_cam", "layer_cam", "odam"]
PAIR += ["bag_cam", "eigen_grad_cam", "seg_eigen_cam"]


def both() -> tuple[Tensor, Tensor]:
    return images(2, 4, 5, 6), images(2, 4, 5, 6, seed=2)


@pytest.mark.parametrize("name", PAIR)
@pytest.mark.parametrize(
    "change",
    [
        lambda g: g[:1],
        lambda g: g[:, :1],
        lambda g: g[..., :1],
        lambda g: g.transpose(2, 3),
        lambda g: g.mean(),
        lambda g: g.mean((2, 3)),
        lambda g: g[None],
        lambda g: g.double(),
        lambda g: g.long(),
        lambda g: g.to("meta"),
    ],
)
def test_gradients_unlike_the_activations_are_refused(name: str, change: Callable[[Tensor], Tensor]) -> None:
    a, g = both()
    method = getattr(methods, name)
    with pytest.raises(
        ValueError, match=rf"{name}: expected grads like the activations, \(2, 4, 5, 6\) of torch.float32"
    ):
        method(a, change(g))


def test_shapes_are_compared_under_vmap_and_the_compiler_too() -> None:
    a, g = images(3, 2, 4, 5, 6), images(3, 2, 4, 5, 6)
    torch.testing.assert_close(torch.vmap(methods.grad_cam)(a, g)[1], methods.grad_cam(a[1], g[1]))
    with pytest.raises(ValueError, match="expected grads like the activations"):
        torch.vmap(methods.grad_cam)(a, g[..., :1])
    compiled = torch.compile(methods.grad_cam, backend="eager")
    with pytest.raises(Exception, match="expected grads like the activations"):
        compiled(a[0], g[0, :, :, :, :1])
    torch._dynamo.reset()


@pytest.mark.parametrize("name", [*PAIR, "eigen_cam", "kpca_cam", "fem"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_activations_of_no_floating_point_are_refused(name: str, dtype: torch.dtype) -> None:
    a = images(2, 4, 5, 6).to(dtype)
    with pytest.raises(TypeError, match=rf"{name}: expected activations of a floating-point dtype, got {dtype}"):
        getattr(methods, name)(*[a, a][: 2 if name in PAIR else 1])


OF_IMAGES = ("d_rise", "rise", "sobol", "hsic", "region_search", "occlusion", "sobel_edges")
"""Methods that read images, and no activations."""


@pytest.mark.parametrize("case", [case for case in CASES if case.name not in OF_IMAGES], ids=str)
def test_a_batch_of_none_has_a_map_of_none(case: Any) -> None:
    shape = SHAPES[1]
    context = case.context(shape, 0)
    x = images(*shape, dtype=torch.float64).relu()
    own = ("inputs", "deeper", "baseline", "context", "likeness")
    context = {key: value[:0] if key in own and isinstance(value, Tensor) else value for key, value in context.items()}
    if "weights" in context and context["weights"].ndim == 2:
        context["weights"] = context["weights"][:0]
    cam = getattr(methods, case.name)(x[:0], x[:0], **context, **case.options)
    assert cam.shape == (0, *shape[2:])


def test_a_batch_of_none_goes_through_the_whole_of_it() -> None:
    net, none = seeded(Net), images(2, 3, 12, 10)[:0]
    target: Any
    for target in (torch.empty(0, dtype=torch.long), [], 1, None, lambda y: y[:, 2], targets.contrast(1)):
        cam = explainer(methods.grad_cam, net, "blocks.0")(none, target)
        assert image.upsample(image.normalize(cam), (12, 10)).shape == (0, 12, 10)
        assert transforms.fuse(methods.layer_cam, net, ["stem", "blocks.0"])(none, target).shape[0] == 0
    assert metrics.entropy(image.normalize(torch.zeros(0, 4, 5))).shape == (0,)
    assert image.to_boxes(torch.zeros(0, 4, 5)) == []
    with pytest.raises(ValueError, match=r"expected one for each of the 0 samples, got 2"):
        capture(net, "blocks.0")(none, [0, 1])


@pytest.mark.parametrize("case", [case for case in CASES if case.name not in OF_IMAGES], ids=str)
@pytest.mark.parametrize("factor", [1e-3, 1e4])
def test_no_scale_of_the_activations_makes_a_map_die(case: Any, factor: float) -> None:
    shape = SHAPES[1]
    x, g = images(*shape, dtype=torch.float64).relu() + 0.01, images(*shape, dtype=torch.float64, seed=3)
    context = case.context(shape, 0)
    if "tail" in context:
        tail = context["tail"]
        context["tail"] = lambda a: tail(a / factor)
    cam = getattr(methods, case.name)(x * factor, g / factor, **context, **case.options)
    plain = getattr(methods, case.name)(x, g, **case.context(shape, 0), **case.options)
    assert cam.isfinite().all()
    assert torch.equal(cam.flatten(1).any(1), plain.flatten(1).any(1))


def test_plain_mistakes_say_what_works() -> None:
    net, x = seeded(Net), images(2, 3, 12, 10)
    explain = explainer(methods.grad_cam, net, "blocks.0")
    misspelt: dict[str, Any] = {"kernal": "rbf"}
    cam, bad = methods.grad_cam, partial(methods.kpca_cam, **misspelt)
    one_sample: Any = [lambda o: o[1], lambda o: o[1]]
    given: list[tuple[Any, Any, str]] = [
        (x.numpy(), 1, r"inputs: expected a tensor .*ndarray; torch.as_tensor"),
        (None, 1, r"inputs: expected a tensor .*got a NoneType"),
        ((x * 255).to(torch.uint8), 1, r"torch.uint8: pass images.float\(\) / 255"),
        ([x, x], 1, r"a model that takes \(x.*got a list of 2 .*too many positional"),
        ({"image": x}, 1, r"a model that takes \(x.*image"),
        (x, one_sample, r"targets: expected one for each of the 5 samples"),
        (x, [False, 0], r"expected integers"),
    ]
    made: list[tuple[Any, dict[str, Any], str]] = [
        ((cam, net, "blocks.0"), {"layout": "nope"}, r"layout: expected 'auto', None .*'nope'"),
        ((cam, net, "blocks.0"), {"layout": 3}, r"layout: expected 'auto', None .*got 3"),
        ((cam, net, 3), {}, r"layer: expected a dotted name .*suggest"),
        ((cam, net, ["stem"]), {}, r"transforms\.fuse\(method, model, layers\)"),
        ((bad, net, "stem"), {}, r"no keyword 'kernal'. Did you mean 'kernel'"),
        ((3, net, "stem"), {}, r"method: expected a function"),
    ]
    wrong: list[tuple[Callable[[], object], str]] = [
        *((partial(explain, inputs, target), text) for inputs, target, text in given),
        *((lambda a=a, k=k: explainer(*a, **k)(x, 1), text) for a, k, text in made),
    ]
    for call, text in wrong:
        with pytest.raises((ValueError, TypeError), match=text) as error:
            call()
        assert type(error.value).__module__.startswith("camfn")


def test_a_target_that_reads_one_sample_is_refused_where_its_shape_fits() -> None:
    square = images(3, 3)
    score = targets.as_score([lambda o: o[1], lambda o: o[1], lambda o: o[1]])
    with pytest.raises(ValueError, match="each function of a list takes the outputs of the whole batch"):
        score(square)
    torch.testing.assert_close(targets.as_score([lambda o: o[:, 1]] * 3)(square), square[:, 1])


def test_torchscript_is_refused() -> None:
    with pytest.raises(TypeError, match="TorchScript"):
        explainer(methods.grad_cam, torch.jit.trace(nn.Conv2d(3, 4, 3), images(1, 3, 8, 8)), "")  # type: ignore[no-untyped-call]


def test_a_mask_of_numbers_is_told_how_to_become_one() -> None:
    maps = images(2, 5, 6).abs()
    for mask in (torch.ones(2, 5, 6), torch.full((2, 5, 6), 255, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"expected a mask of bool, got .*pass mask > 0"):
            metrics.iou(maps, mask)


def test_numbers_words_and_sizes() -> None:
    value: Any
    for value in (0, 1.0, np.float32(0.5), np.int64(1), torch.tensor(0.5)):
        number("x", value, "[0, 1]")
    for value in (-1, 1.5, float("nan"), float("inf"), True, "1", None, [1], torch.tensor(2.0), torch.ones(2)):
        with pytest.raises(ValueError, match=r"x: expected a number in \[0, 1\], got"):
            number("x", value, "[0, 1]")
    with pytest.raises(ValueError, match=r"a finite number, got inf. Advice"):
        number("x", float("inf"), advice="Advice")
    whole("n", np.int64(3))
    for value in (0, -2, 1.0, True, "3", None):
        with pytest.raises(ValueError, match=r"n: expected a whole number from 1, got"):
            whole("n", value)
    one_of("word", "a", ("a", None))
    for value in ("b", 3, np.ones(2), torch.ones(2)):
        with pytest.raises(ValueError, match=r"word: expected 'a' or None, got"):
            one_of("word", value, ("a", None))
    assert space("size", [3, 4], 2) == (3, 4)
    for value in (3, (3,), (0, 4), (3.0, 4), "ab", torch.ones(2), None):
        with pytest.raises(ValueError, match=r"size.*\(height, width\)"):
            space("size", value, 2)


def test_data_is_read_only_where_there_is_some() -> None:
    x = torch.ones(2)
    assert is_concrete(x)
    assert not is_concrete(x.to("meta"))
    with FakeTensorMode() as fake:
        assert not is_concrete(fake.from_tensor(x))
    seen: list[bool] = []

    def note(y: Tensor) -> Tensor:
        seen.append(is_concrete(y))
        return y + 1

    make_fx(note)(x)
    torch.vmap(note)(x)
    torch.func.grad(lambda y: note(y).sum())(x)
    assert seen == [False, False, True]


def test_options_that_mean_nothing_are_refused() -> None:
    x, heat, nan, inf = images(2, 3, 8, 8), images(2, 8, 8).sigmoid(), float("nan"), float("inf")
    score, generator = (lambda y: y.flatten(1).mean(1)), torch.Generator().manual_seed(0)
    drawn: dict[str, Any] = {"generator": generator}
    calls: list[tuple[Callable[..., object], tuple[Any, ...], dict[str, Any], str]] = [
        (metrics.max_sensitivity, (lambda y: y.mean(1), x), {"radius": -1.0, **drawn}, "radius"),
        (metrics.infidelity, (score, x, heat), {"std": -1.0, **drawn}, "std"),
        (metrics.infidelity, (score, x, heat), {"samples": 0, **drawn}, "samples"),
        (metrics.road, (score, x, heat), {"std": -1.0, **drawn}, "std"),
        (metrics.road, (score, x, heat), {"std": nan, **drawn}, "std"),
        (metrics.road, (score, x, heat), {"tolerance": nan, **drawn}, "tolerance"),
        (metrics.road, (score, x, heat), {"shares": [0.1, 1.5], **drawn}, "shares"),
        (metrics.deletion, (score, x, heat), {"chunk_size": -3}, "chunk_size"),
        (metrics.deletion, (score, x, heat), {"step": -0.1}, "step"),
        (metrics.pointing_game, (heat, heat > 0.5), {"tolerance": nan}, "tolerance"),
        (metrics.impute, (x, heat > 0.5), {"tolerance": 0.0}, "tolerance"),
        (targets.contrast, (0, 1), {"gamma": inf}, "gamma"),
        (targets.contrast, (0, 0), {}, "against"),
        (methods.opti_cam, (x,), {"learning_rate": -1.0, "forward": score, "inputs": x}, "learning_rate"),
        (methods.fem, (x,), {"k": nan}, "k"),
        (methods.kpca_cam, (x,), {"gamma": -1.0}, "gamma"),
        (methods.kpca_cam, (x,), {"degree": 2.5}, "degree"),
        (transforms.multiply, (nan,), {}, "factor"),
        (transforms.flip, (-1, -1), {}, "flip"),
        (image.overlay, (x[0].sigmoid(), heat[:1]), {"alpha": True}, "alpha"),
        (image.upsample, (heat, (8.0, 8.0)), {}, "size"),
    ]
    for function, arguments, options, word in calls:
        with pytest.raises(ValueError, match=word):
            function(*arguments, **options)
