"""What all methods that perturb share: chunks, progress, whole networks, refusals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, explainer, methods
from camfn.methods import ablation_cam, score_cam
from tests.methods.cases import Case
from tests.methods.laws import NEW, A, cases, close, given, nearly, normal
from tests.methods.test_methods import PLANE, method_of
from tests.nets.small import Net, images, seeded, unchanged


@cases
def test_chunks_do_not_matter_and_progress_reaches_the_end(case: Case) -> None:
    a, g, context = normal(*PLANE), normal(*PLANE, seed=1), case.context(PLANE, 1)
    options = {key: value for key, value in case.options.items() if key != "chunk_size"}
    run = method_of(case._replace(options=options), context)
    expected = run(a, g)
    told: list[tuple[int, int]] = []
    if case.name in ("shapley_cam", "opti_cam", "d_rise"):
        chunks: list[dict[str, Any]] = [{}]
    else:
        chunks = [{"chunk_size": size} for size in (1, 3, None, "auto")]
    for chunk in chunks:
        more = {} if case.name == "shapley_cam" else {"progress": lambda done, count: told.append((done, count))}
        close(method_of(case._replace(options={**options, **chunk, **more}), context)(a, g), expected)
        assert case.name == "shapley_cam" or told[-1][0] == told[-1][1] > 1


BOUND: dict[str, dict[str, Any]] = {
    "ss_cam": {"noise": normal(2, 12, 10, seed=1).float()},
    "d_rise": {"masks": normal(5, 12, 10, seed=2).float().abs()},
    "rise": {"masks": normal(5, 12, 10, seed=2).float().abs()},
    "sobol": {"designs": 2, "grid": 2},
    "hsic": {"masks": (normal(5, 3, 3, seed=2) > 0).float(), "grid": 3},
    "region_search": {"grid": 2},
    "opti_cam": {"steps": 4},
    "vit_cx": {"noise": normal(3, 12, 10, seed=1).float() / 10},
    "is_cam": {"steps": 2},
    "group_cam": {"groups": 3},
}


@pytest.mark.parametrize("layer", ["stem", "blocks.0", "blocks.1"])
@pytest.mark.parametrize("name", sorted(NEW))
def test_a_network_explained_with_a_class_a_sample_is_its_images_one_by_one(name: str, layer: str) -> None:
    net, x, classes = seeded(Net), images(3, 3, 12, 10), torch.tensor([4, 0, 2])
    explain = explainer(partial(getattr(methods, name), **BOUND.get(name, {})), net, layer)
    with unchanged(net):
        together = explain(x, classes)
    assert (
        together.shape == (3, 12, 10)
        if name in ("rise", "d_rise", "region_search", "vit_cx")
        else together.shape[0] == 3
    )
    for i in range(3):
        alone = explain(x[i : i + 1], int(classes[i]))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-3, atol=1e-4)
    swapped = explain(x, classes.flip(0))
    assert not torch.allclose(swapped[0], together[0])


@pytest.mark.parametrize("name", sorted(NEW))
def test_scores_that_are_not_one_a_sample_or_not_a_number_are_refused(name: str) -> None:
    a, g, context = normal(*PLANE), normal(*PLANE, seed=1), given(name)
    key = "tail" if "tail" in context else "forward"
    method = getattr(methods, name)

    def spoiled(x: Tensor) -> Tensor:
        scores = x.square().sum((1, 2, 3))
        return torch.stack([scores[0], (scores[1] - scores[1] - 1).log()])

    with pytest.raises(ValueError, match=rf"{name}: .*{key} must return one score a sample, shape \(2,\)"):
        method(a, g, **{**context, key: lambda x: x.mean((1, 2))})
    with pytest.raises(ValueError, match=rf"{name}: .*{key} returned NaN for sample 1"):
        method(a, g, **{**context, key: spoiled})


@pytest.mark.parametrize("name", sorted(NEW - {"shapley_cam", "opti_cam", "d_rise"}))
@pytest.mark.parametrize("size", [0, -1, "all"])
def test_chunk_sizes_that_are_none_are_refused(name: str, size: Any) -> None:
    with pytest.raises(ValueError, match="chunk_size: expected"):
        getattr(methods, name)(normal(*PLANE), normal(*PLANE, seed=1), **{**given(name), "chunk_size": size})


@pytest.mark.parametrize(
    "name", sorted(NEW - {"shapley_cam", "lift_cam", "recipro_cam", "rise", "d_rise", "sobol", "hsic", "region_search"})
)
def test_activations_without_a_channel_are_refused(name: str) -> None:
    empty = torch.zeros(PLANE[0], 0, *PLANE[2:], dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"{name}: expected .*at least one channel, .*got \(2, 0"):
        getattr(methods, name)(empty, empty, **given(name))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("recipro_cam", {"kernel": "box"}, "'gaussian' or 'point', got 'box'"),
        ("lift_cam", {"steps": 0}, "steps: expected a whole number from 1, got 0"),
        ("fd_cam", {"quantile": 1.5}, r"quantile: expected a number in \[0, 1\], got 1.5"),
        ("group_cam", {"quantile": -0.1}, r"quantile: expected a number in \[0, 1\]"),
        ("group_cam", {"groups": 0}, "groups: expected a whole number from 1"),
        ("group_cam", {"baseline": normal(2, 2, 3, 3)}, r"baseline: expected shape .*got \(2, 2, 3, 3\)"),
        ("group_cam", {"inputs": normal(2, 2, 8)}, r"number of spatial dimensions .*got \(2, 2, 8\)"),
        ("ss_cam", {"noise": None}, r"neither.*generator=torch\.Generator"),
        ("ss_cam", {"generator": torch.Generator()}, "got both"),
        ("ss_cam", {"noise": normal(3, 4)}, r"noise of shape \(n, \*T\), T = \(9, 5\); got \(3, 4\)"),
        ("vit_cx", {"noise": None}, r"neither.*generator=torch\.Generator"),
        ("vit_cx", {"noise": normal(2, 4)}, r"noise \(channels, \*T\)"),
        ("vit_cx", {"threshold": -0.1}, "threshold: expected"),
        ("ss_cam", {"form": "raw"}, "'softmax' or 'score', got 'raw'"),
        ("ss_cam", {"samples": 0}, "samples: expected a whole number from 1"),
        ("is_cam", {"steps": 0}, "steps: expected a whole number from 1"),
        ("is_cam", {"form": "raw"}, "'softmax' or 'score', got 'raw'"),
        ("poly_cam", {"switch": "off"}, "'plus_minus', got 'off'"),
        ("poly_cam", {"deeper": normal(1, 2, 2)}, r"deeper.*\(B, \*R\).*got \(1, 2, 2\)"),
        ("opti_cam", {"steps": 0}, "steps: expected a whole number from 1"),
        ("opti_cam", {"patience": 0}, "patience: expected a whole number from 1"),
        ("opti_cam", {"inputs": normal(3, 2, 8, 8)}, r"batch .*got \(3, 2, 8, 8\)"),
        ("rise", {"masks": None}, r"neither.*generator=torch\.Generator"),
        ("rise", {"generator": torch.Generator()}, "got both"),
        ("rise", {"masks": normal(3, 4)}, r"masks of shape \(n, \*T\), T = \(4, 2\); got \(3, 4\)"),
        ("rise", {"probability": 0.0}, r"probability: expected a number in \(0, 1\], got 0.0"),
        ("rise", {"grid": 0}, "grid: expected a whole number from 1"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        getattr(methods, name)(normal(*PLANE), normal(*PLANE, seed=1), **{**given(name), **options})


@pytest.mark.parametrize("method", [ablation_cam, score_cam])
@pytest.mark.parametrize(
    "layer", ["stem.0", "blocks.0", "blocks.0.conv", "blocks.1.conv", "blocks.1.downsample", "blocks.1"]
)
def test_networks_that_write_in_place(method: Callable[..., Tensor], layer: str) -> None:
    net = seeded(Net, dtype=torch.float64)
    x = images(2, 3, 8, 6, dtype=torch.float64)
    with unchanged(net):
        together = explainer(method, net, layer)(x, [1, 3])
    for chunk_size in (1, 4):
        nearly(explainer(method, net, layer, chunk_size=chunk_size)(x, [1, 3]), together)
    for i, target in enumerate([1, 3]):
        nearly(explainer(method, net, layer)(x[i : i + 1], target), together[i : i + 1])


@pytest.mark.parametrize("method", [ablation_cam, score_cam])
def test_bfloat16_is_close(method: Callable[..., Tensor]) -> None:
    net = seeded(Net)
    x = images(2, 3, 8, 6)
    expected = explainer(method, net, "blocks.0")(x, 1)
    scale = expected.abs().amax()
    half = explainer(method, seeded(Net, dtype=torch.bfloat16), "blocks.0")(x.bfloat16(), 1)
    assert half.dtype == torch.bfloat16
    assert ((half - expected).abs().amax() / scale) < 0.15
    with torch.autocast("cpu", torch.bfloat16):
        cast = explainer(method, net, "blocks.0")(x, 1)
    assert ((cast - expected).abs().amax() / scale) < 0.15


@pytest.mark.parametrize("method", [ablation_cam, score_cam])
def test_a_score_that_is_nan_is_refused(method: Callable[..., Tensor]) -> None:
    def lost(x: Tensor) -> Tensor:
        return torch.stack([x[0].sum(), (x[1].sum() * 0 - 1).sqrt()])

    x = images(2, 3, 6, 10, dtype=torch.float64)
    given: dict[str, Any] = {"tail": lost} if method is ablation_cam else {"forward": lost, "inputs": x}
    with pytest.raises(ValueError, match=f"{method.__name__}: .* returned NaN for sample 1"):
        method(A, **given)


DRAWN = ("ablation_cam", "score_cam", "recipro_cam", "lift_cam", "fd_cam", "group_cam", "ss_cam", "is_cam", "poly_cam")
"""Methods that run the network under `vmap`, RISE apart."""


class Dropping(nn.Module):
    """A network with a dropout, a BatchNorm and a stochastic depth of its own."""

    def __init__(self, drop: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv, self.norm, self.chance, self.last = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), drop(), nn.Conv2d(4, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.chance(self.norm(self.conv(x)).relu())).mean((2, 3))  # type: ignore[no-any-return]


@pytest.mark.parametrize("drop", [lambda: nn.Dropout(0.5), lambda: nn.Dropout2d(0.5), nn.AlphaDropout])
@pytest.mark.parametrize("name", [*DRAWN, "rise"])
def test_a_network_that_draws_is_named(name: str, drop: Callable[[], nn.Module]) -> None:
    net = seeded(lambda: Dropping(drop)).train()
    explain = explainer(partial(getattr(methods, name), **BOUND.get(name, {})), net, "norm")
    with pytest.raises(CamfnError, match=rf"^{name}: .*'chance', a \w*Dropout\w* in training.*Call model\.eval\(\)"):
        explain(images(2, 3, 12, 10), 1)
    assert (
        explainer(partial(getattr(methods, name), **BOUND.get(name, {})), net.eval(), "norm")(images(2, 3, 12, 10), 1)
        .isfinite()
        .all()
    )
