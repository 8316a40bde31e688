"""The laws of the suite's specification: exact numbers that a right implementation must give."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from camfn import capture, image, methods, metrics, network, tiny
from camfn.evaluate._inputs.cases import Case
from camfn.evaluate._suite.asked import Asked, Weighted, one_hot, sigmoids
from camfn.evaluate._suite.cells import Grid
from camfn.evaluate._suite.explain import CONTROLS, Explainer
from camfn.evaluate._suite.grade import order_of
from camfn.evaluate._suite.maker import Maker
from camfn.evaluate._suite.measures import tiny_measures
from camfn.evaluate._suite.plan import prepared
from camfn.evaluate._suite.protocol import Suite
from camfn.evaluate._suite.scenes import Scenes
from camfn.evaluate._suite.units import Picture
from camfn.zoo import Loaded, load

SUITE = Suite(grids=3, stitched=3, scenes=20, graded=2)

ELEMENTWISE = ["hires_cam", "layer_cam", "elementwise_grad_cam", "odam", "bag_cam", "eigen_grad_cam"]
"""Methods whose map is 0 wherever the gradient is."""

POOLED = ["grad_cam", "xgrad_cam", "grad_cam_plusplus"]
"""Methods that pool their weights over places."""

CLASS_FREE = ["eigen_cam", "kpca_cam", "fem"]
"""Methods that do not read the class."""


@cache
def loaded() -> Loaded:
    return load("tiny:cnn")


@cache
def maker() -> Maker:
    return prepared("tiny:cnn", loaded(), Scenes(SUITE), SUITE)[0]


def unit(name: str) -> Grid:
    found = maker().unit(name, loaded())
    assert isinstance(found, Grid)
    return found


def case(method: str, layer: str = "auto") -> Case:
    return Case("tiny:cnn", layer, method)


def native(setting: str, method: str, layer: str = "auto", grid: int = 0) -> Tensor:
    """The native shares of a method in one of the settings."""
    one = unit(f"{setting}/{grid:03}")
    return one.measure(one.explain(case(method, layer)).maps)[f"{setting}_native"]


@pytest.mark.parametrize("layer", ["auto", "body.3"])
@pytest.mark.parametrize("method", [*CLASS_FREE, "center", "random"])
def test_1_a_map_without_a_class_has_the_mean_of_chance(method: str, layer: str) -> None:
    for grid in range(3):
        one = unit(f"gridpg/{grid:03}")
        shares = one.measure(one.explain(case(method, layer)).maps)["gridpg"]
        assert shares.mean().item() == pytest.approx(1 / 4, abs=1e-6)


@pytest.mark.parametrize("layer", ["auto", "body.3"])
@pytest.mark.parametrize("method", ELEMENTWISE)
def test_2_a_map_that_multiplies_by_the_gradient_stays_in_its_cell(method: str, layer: str) -> None:
    torch.testing.assert_close(native("difull", method, layer), torch.ones(4, dtype=torch.float64), atol=2e-7, rtol=0)


@pytest.mark.parametrize("method", ["input_gradient", "guided_backprop", "integrated_gradients"])
def test_2_a_gradient_of_the_picture_is_zero_outside_exactly(method: str) -> None:
    one = unit("difull/000")
    maps = one.explain(case(method)).maps
    assert torch.equal(one.measure(maps)["difull_native"], torch.ones(4, dtype=torch.float64))
    assert not maps[0][:, 64:].any()
    assert not maps[3][:64].any()


@pytest.mark.parametrize("layer", ["auto", "body.3"])
@pytest.mark.parametrize("method", [*POOLED, *CLASS_FREE])
def test_3_a_map_that_pools_cannot_tell_twins_apart(method: str, layer: str) -> None:
    for grid in range(3):
        twin = unit(f"twin/{grid:03}")
        (cam,) = twin.explain(case(method, layer)).maps
        half = cam.shape[0] // 2
        own, other = cam[:half, :half].clamp(min=0), cam[half:, half:].clamp(min=0)
        if method in POOLED or method == "fem":
            assert torch.equal(own, other), "the same bits"
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-5)
        assert twin.measure(cam[None])["twin"].item() == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("method", ELEMENTWISE)
def test_3_a_map_that_multiplies_tells_twins_apart(method: str) -> None:
    twin = unit("twin/000")
    assert twin.measure(twin.explain(case(method)).maps)["twin"].item() == 1


@pytest.mark.parametrize("method", ELEMENTWISE)
def test_4_heads_that_pool_a_cell_of_the_last_layer_leave_the_rest_alone(method: str) -> None:
    torch.testing.assert_close(native("dipart", method), torch.ones(4, dtype=torch.float64), atol=2e-7, rtol=0)
    below = native("dipart", method, "body.3")
    assert (below > 0.5).all()
    assert (below < 1).any(), "below the last layer receptive fields cross the border"


def test_5_at_the_last_layer_of_a_linear_head_three_methods_are_one() -> None:
    shares = [native("gridpg", method, grid=1) for method in ("grad_cam", "hires_cam", "xgrad_cam")]
    torch.testing.assert_close(shares[1], shares[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(shares[2], shares[0], atol=1e-6, rtol=0)
    assert (shares[0] > 0.5).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_6_a_linear_network_has_the_exact_numbers(sign: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weights, images = torch.randn(1, 1, 16, 16, generator=generator), torch.rand(4, 1, 16, 16, generator=generator)

    def score(x: Tensor) -> Tensor:
        return (x * weights).sum((1, 2, 3))

    exact = sign * (weights * images)[:, 0]
    cells = metrics.grid_cells((16, 16), 4)
    torch.testing.assert_close(
        metrics.single_deletion(exact, metrics.drops(score, images, cells), cells), torch.full((4,), float(sign))
    )
    for size in (1, 5, 15):
        sets = metrics.random_cells(cells, size, 40, generator=generator)
        found = metrics.faithfulness_correlation(exact, metrics.drops(score, images, sets), sets)
        torch.testing.assert_close(found, torch.full((4,), float(sign)), atol=1e-4, rtol=0)
    saco = metrics.saco(score, images, exact, groups=8, baseline=0.0)
    torch.testing.assert_close(saco, torch.full((4,), float(sign)))


def test_7_ranks_do_not_change_with_a_positive_factor_and_pearson_not_with_a_constant() -> None:
    world = tiny.scenes(3, generator=torch.Generator().manual_seed(1))
    model, label = tiny.load("cnn"), world.labels[:, 0]
    cam = capture(model, "body.4")(world.images, label).activations[:, :4].sum(1)
    score = metrics.scores_of(model, world.images, label)
    cells = metrics.grid_cells((64, 64), 4)
    lost = metrics.drops(score, world.images, cells)
    ceiling = metrics.trace_ceiling(score, world.images, cells, generator=torch.Generator().manual_seed(0))
    numbers = [
        torch.stack(
            [
                metrics.single_deletion(each, lost, cells),
                metrics.trace(score, world.images, each, cells, ceiling),
                metrics.deletion(score, world.images, each, step=0.25).auc,
                metrics.faithfulness_correlation(each, lost, cells),
                metrics.saco(score, world.images, each, groups=8),
            ]
        )
        for each in (cam, 4 * cam, cam + 8)
    ]
    torch.testing.assert_close(numbers[1], numbers[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(numbers[2][3:], numbers[0][3:], atol=1e-3, rtol=1e-3)


def test_8_no_order_is_below_the_best() -> None:
    world = tiny.scenes(3, generator=torch.Generator().manual_seed(11))
    model, label = tiny.load("cnn"), world.labels[:, 0]
    score = metrics.scores_of(model, world.images, label)
    cells = metrics.grid_cells((64, 64), 3)
    best = metrics.trace_ceiling(score, world.images, cells, how="exact").best.auc
    greedy = metrics.trace_ceiling(score, world.images, cells, generator=torch.Generator().manual_seed(0)).best.auc
    assert (greedy >= best - 1e-5).all()
    for map_ in (world.masks[:, 0].float(), torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(2))):
        assert (metrics.region_curve(score, world.images, map_, cells).auc >= best - 1e-5).all()


@pytest.mark.parametrize("method", ["grad_cam", "layer_cam", "eigen_cam", "input_gradient", "both", "center", "random"])
def test_9_no_row_is_above_the_truth(method: str) -> None:
    picture = maker().unit("picture/scene-000-009", loaded())
    assert isinstance(picture, Picture)
    truth, found = (picture.of_masks(picture.explain(case(name)).maps) for name in ("truth", method))
    for name in ("own_share", "own_mass", "pxap_own"):
        assert (truth[name] >= found[name] - 1e-6).all()
        assert truth[name].min() == pytest.approx(1, abs=1e-6)


def test_9_the_mask_of_both_has_the_share_of_its_area() -> None:
    own, other = Scenes(SUITE).truth("scene-000-009")
    area, all_of_it = own.sum((1, 2)).double(), (own | other).sum((1, 2)).double()
    found = tiny_measures((own | other).float(), own, other)
    torch.testing.assert_close(found["own_share"], area / all_of_it)
    torch.testing.assert_close(found["own_mass"], area / all_of_it)


def test_9_a_map_that_is_not_shuffled_has_the_numbers_of_the_map() -> None:
    grade = maker().unit("grade/scene-000", loaded())
    maps = grade.explain(case("grad_cam")).maps
    levels = grade.measure(maps)
    picture = maker().unit("picture/scene-000-009", loaded())
    tables = grade.tables  # type: ignore[attr-defined]
    whole = tables.measures(maps, ("single", "groups", "ceiling"))
    for name in ("single", "saco", "subsets"):
        assert levels[name][0].item() == whole[name].double().item(), "bit for bit"
    own, other = Scenes(SUITE).truth("scene-000", 1)
    assert levels["own_share"][0].item() == tiny_measures(maps, own, other)["own_share"].item()
    assert picture.explain(case("grad_cam")).maps.shape == (20, 16, 16)


class Flat(torch.nn.Module):
    """A linear network of the pixels."""

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(pixels, classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Score the classes."""
        found: Tensor = self.linear(images.flatten(1))
        return found


def shown(method: str, model: torch.nn.Module, images: Tensor, classes: Tensor, layer: str = "body.3") -> Tensor:
    """Explain images by a method of the suite as a unit does."""
    weights = one_hot(classes, 10)
    asked = Asked(images, Weighted(weights), Weighted(weights), [""] * len(images), [""] * len(images))
    return Explainer(model, asked, SUITE, "a picture", {}, 1)(case(method, layer)).maps


def test_10_a_map_that_ignores_the_network_has_no_change_of_entropy() -> None:
    images = tiny.scenes(3, generator=torch.Generator().manual_seed(5)).images
    classes = torch.tensor([1, 2, 3])
    ignorant = lambda model: shown("sobel_edges", model, images, classes)  # noqa: E731
    found = metrics.efficient_randomization(ignorant, loaded().model, generator=torch.Generator().manual_seed(0))
    assert found.tolist() == [0.0, 0.0, 0.0]
    reading = lambda model: shown("grad_cam", model, images, classes)  # noqa: E731
    other = metrics.efficient_randomization(reading, loaded().model, generator=torch.Generator().manual_seed(0))
    assert (other.abs() > 1e-3).all()


@pytest.mark.parametrize("method", [*CLASS_FREE, "sobel_edges"])
def test_10_a_map_without_a_class_is_like_that_of_another_class(method: str) -> None:
    images = tiny.scenes(3, generator=torch.Generator().manual_seed(5)).images
    explain = lambda classes: shown(method, loaded().model, images, classes)  # noqa: E731
    drawn = torch.Generator().manual_seed(1)
    found = metrics.random_logit(explain, torch.tensor([1, 2, 3]), 10, generator=drawn)
    torch.testing.assert_close(found, torch.ones(3), atol=1e-5, rtol=0)


def test_10_a_map_of_a_class_is_not_that_of_another() -> None:
    images = tiny.scenes(3, generator=torch.Generator().manual_seed(5)).images
    explain = lambda classes: shown("hires_cam", loaded().model, images, classes)  # noqa: E731
    drawn = torch.Generator().manual_seed(1)
    assert (metrics.random_logit(explain, torch.tensor([1, 2, 3]), 10, generator=drawn) < 0.9).all()


@pytest.mark.parametrize("control", ["center", "random"])
def test_10_an_explainer_that_reads_no_pixel_is_stable(control: str) -> None:
    images = tiny.scenes(2, generator=torch.Generator().manual_seed(5)).images
    still = lambda x: shown(control, loaded().model, x, torch.tensor([1, 2]))  # noqa: E731
    found = metrics.relative_input_stability(still, images, samples=4, generator=torch.Generator().manual_seed(2))
    assert found.tolist() == [0.0, 0.0]


def test_10_the_gradient_of_a_linear_network_does_not_move() -> None:
    torch.manual_seed(0)
    model, images = Flat(48, 10), torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    classes = torch.tensor([1, 2])
    gradient = lambda x: shown("input_gradient", model, x, classes)  # noqa: E731
    product = lambda x: shown("integrated_gradients", model, x, classes)  # noqa: E731
    noise = {"samples": 4, "generator": torch.Generator().manual_seed(2)}
    assert metrics.local_lipschitz(gradient, images, **noise).tolist() == [0.0, 0.0]  # type: ignore[arg-type]
    assert (metrics.local_lipschitz(product, images, **noise) > 0).all()  # type: ignore[arg-type]


def test_11_sobol_of_an_additive_score_is_the_share_of_the_squares() -> None:
    parts = torch.tensor([[3.0, -1.0, 0.0], [2.0, 0.5, 0.0], [-4.0, 1.0, 0.25]])
    images = torch.ones(1, 1, 6, 6)
    wide = parts.repeat_interleave(2, 0).repeat_interleave(2, 1) / 4

    def forward(x: Tensor) -> Tensor:
        return (x * wide).sum((1, 2, 3))

    found = methods.sobol(images, forward=forward, inputs=images, designs=4096, grid=3)[0]
    torch.testing.assert_close(found, parts.square() / parts.square().sum(), atol=2e-3, rtol=0)
    assert found[parts == 0].tolist() == [0.0, 0.0]


def test_11_hsic_of_a_cell_that_the_score_ignores_falls_with_the_masks() -> None:
    images = torch.ones(1, 1, 4, 4)
    reads = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).repeat_interleave(2, 0).repeat_interleave(2, 1)

    def forward(x: Tensor) -> Tensor:
        return (x * reads).sum((1, 2, 3))

    ignored = []
    for samples in (50, 500, 5000):
        drawn = torch.Generator().manual_seed(3)
        found = methods.hsic(images, forward=forward, inputs=images, samples=samples, grid=2, generator=drawn)[0]
        ignored.append((found / found.max())[[0, 1], [1, 0]].abs().max().item())
    assert ignored[0] > ignored[1] > ignored[2]
    assert ignored[2] < 1e-2


def test_11_expected_gradients_of_a_linear_network_sum_to_the_difference_from_the_mean() -> None:
    torch.manual_seed(0)
    model, drawn = Flat(48, 10), torch.Generator().manual_seed(1)
    images, references = torch.rand(2, 3, 4, 4, generator=drawn), torch.rand(4, 3, 4, 4, generator=drawn)
    # each reference twice, at two points
    uniform = torch.stack([torch.arange(8) / 8 + 1 / 16, torch.rand(8, generator=drawn)], 1)
    explain = network.expected_gradients(model, references=references, uniform=uniform)
    with torch.no_grad():
        expected = model(images)[:, 3] - model(references)[:, 3].mean()
    torch.testing.assert_close(explain(images, 3).sum((1, 2, 3)), expected)


def test_the_figures_of_the_prototype_come_again() -> None:
    # 50 scenes of the prototype, the first digit asked; its loops had these numbers
    world = tiny.scenes(50, generator=torch.Generator().manual_seed(5))
    images, classes, (own, other) = world.images, world.labels[:, 0], world.masks.unbind(1)
    weights, mean = one_hot(classes, 10), world.images.mean((0, 2, 3)).view(1, 3, 1, 1)
    model, cells = loaded().model, metrics.grid_cells((64, 64), 4)
    scores = [metrics.scores_of(model, images, Weighted(weights, *read)) for read in ((), (sigmoids,))]
    drops = metrics.drops(scores[0], images, cells, baseline=mean)

    def figures(maps: Tensor) -> list[float]:
        maps = image.upsample(maps, (64, 64))
        found = tiny_measures(maps, own, other)
        single = metrics.single_deletion(maps, drops, cells)
        saco = metrics.saco(scores[1], images, image.normalize(maps), groups=10)
        each = [found["own_share"], found["own_mass"], found["pxap_own"], single, saco]
        return [round(value.double().mean().item(), 3) for value in each]

    assert figures(shown("grad_cam", model, images, classes, "body.4")) == pytest.approx(
        [0.989, 0.356, 0.611, 0.713, 0.941], abs=1.1e-3
    )
    assert figures(shown("eigen_cam", model, images, classes, "body.4")) == pytest.approx(
        [0.507, 0.156, 0.368, 0.196, 0.417], abs=1.1e-3
    )
    assert figures((own | other).float()) == pytest.approx([0.504, 0.504, 0.504, 0.261, 0.951], abs=1.1e-3)


def test_12_the_grade_of_known_metrics_is_exact() -> None:
    levels = [k / 10 for k in range(11)]
    assert order_of([-level for level in levels], 1) == 1
    assert order_of(levels, -1) == 1
    assert order_of(levels, 1) == -1
    assert order_of([0.5] * 11, 1) == 0
    generator = torch.Generator().manual_seed(0)
    noise = [order_of(torch.rand(11, generator=generator).tolist(), 1) for _ in range(400)]
    assert abs(sum(noise) / len(noise)) < 4 / (10 * 400) ** 0.5


def test_a_method_costs_the_same_whether_another_came_before() -> None:
    names = ["grad_cam", "hires_cam", "eigen_cam", "kpca_cam"]

    def costs(order: list[str]) -> dict[str, float]:
        one = Picture(maker().context(loaded()), "picture/scene-000-001")
        found = {name: one.explain(case(name, "body.3")).forwards for name in order}
        return {name: value for name, value in found.items() if value is not None}

    forth, back = costs(names), costs(names[::-1])
    assert forth == pytest.approx(back)
    each = len(Picture(maker().context(loaded()), "picture/scene-000-001").asked.images)
    # one forward, and the way back to the layer
    assert each < forth["hires_cam"] < 2 * each
    assert forth["eigen_cam"] == pytest.approx(each, rel=0.1)


def test_every_control_is_a_row_of_every_unit() -> None:
    for name in ("gridpg/000", "dipart/000", "difull/000", "twin/000", "parts/parts-000-009"):
        one = maker().unit(name, loaded())
        for control in CONTROLS:
            assert one.measure(one.explain(case(control)).maps), (name, control)
