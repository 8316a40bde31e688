"""CRAFT: crops, the importance of concepts against a loop and in closed form, and concepts that were planted."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, observe, resume, tiny
from camfn.factorize import concept_importance, craft, crops, project
from tests.nets.small import images

MAPS = images(2, 3, 4, 5, dtype=torch.float64).abs()
CONCEPTS = images(3, 6, dtype=torch.float64, seed=1).abs()
POINTS = torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


WEIGHTS = torch.linspace(-1, 1, 6 * 20, dtype=torch.float64)


def bent(a: Tensor) -> Tensor:
    return torch.tanh(0.1 * a.flatten(1) @ WEIGHTS)


def test_importance_equals_a_loop() -> None:
    found = concept_importance(MAPS, CONCEPTS, bent, points=POINTS)
    for maps, row in zip(MAPS, found, strict=True):

        def score(m: Tensor, maps: Tensor = maps) -> float:
            made = sum((m[k] * maps[k] * CONCEPTS[k].reshape(-1, 1, 1) for k in range(3)), torch.zeros(6, 4, 5))
            return float(bent(made[None])[0])

        first = [score(point[0]) for point in POINTS]
        for k in range(3):
            squares = []
            for point, y in zip(POINTS, first, strict=True):
                changed = point[0].clone()
                changed[k] = point[1, k]
                squares.append((y - score(changed)) ** 2)
            expected = math.fsum(squares) / (2 * len(first) * statistics.variance(first))
            assert float(row[k]) == pytest.approx(expected, rel=1e-9)


def test_importance_of_an_additive_score_is_the_share_of_squares() -> None:
    worth = (MAPS.sum((2, 3)) * CONCEPTS.sum(1)).square()
    found = concept_importance(MAPS, CONCEPTS, lambda a: a.sum((1, 2, 3)) + 9, designs=4096)
    torch.testing.assert_close(found, worth / worth.sum(1, keepdim=True), rtol=2e-2, atol=2e-2)


def test_a_concept_that_the_score_ignores_has_importance_zero() -> None:
    concepts = torch.eye(3, dtype=torch.float64)
    found = concept_importance(MAPS, concepts, lambda a: a[:, 1:].square().sum((1, 2, 3)))
    assert not found[:, 0].any()
    assert found[:, 1:].all()
    assert not concept_importance(MAPS, concepts, lambda a: 0 * a.sum((1, 2, 3)) + 2).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_score_that_is_constant_but_for_rounding_has_no_importance(dtype: torch.dtype) -> None:
    def ones(a: Tensor) -> Tensor:
        return torch.stack([9 * a.mean((1, 2, 3)), a.sum((1, 2, 3)) * 0], 1).softmax(1).sum(1)

    assert not concept_importance(MAPS.to(dtype), CONCEPTS.to(dtype), ones, designs=256).any()


def test_importance_equals_the_shares_of_a_grid() -> None:
    """Total indices of a product and a square, by sums over a fine grid."""

    def score(m: Tensor) -> Tensor:
        return m[..., 0] * m[..., 1] + m[..., 2].square()

    axis = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    values = score(torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1))
    expected = torch.stack([values.var(k, correction=0).mean() for k in range(3)]) / values.var(correction=0)
    maps, concepts = torch.ones(1, 3, 2, 2, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    found = concept_importance(maps, concepts, lambda a: score(a.mean((2, 3))), designs=8192)
    torch.testing.assert_close(found[0], expected, rtol=1e-2, atol=1e-2)


def test_negative_activations_are_cut_at_each_place() -> None:
    """A mean of positive parts is not the positive part of a mean."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).double().eval()
    x = images(4, 3, 16, 16, dtype=torch.float64)
    found = craft(x, observe(net, "0"), resume(net, "0"), 1, 8, size=8, negative="relu")
    cut = nn.functional.interpolate(found.crops, (16, 16), mode="bilinear")
    expected = net[0](cut).relu().mean((2, 3)).detach()
    assert net[0](cut).mean((2, 3)).min() < 0
    torch.testing.assert_close(found.strengths @ found.concepts, expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(found.maps, project(net[0](x).relu(), found.concepts))


def test_crops_are_the_squares_of_the_image() -> None:
    x = images(2, 3, 11, 9)
    cut = crops(x, 5, overlap=0.2)
    assert cut.shape == (2 * 2 * 2, 3, 5, 5)
    assert torch.equal(cut[3], x[0, :, 4:9, 4:9])
    assert torch.equal(cut[4], x[1, :, :5, :5])
    assert len(crops(x, 5, overlap=0.0)) == 2 * 2 * 1


class Colors(nn.Module):
    """Channels see red, green and blue; class 0 is red, and a little blue; green counts for class 1 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.ReLU()
        self.head = nn.Linear(3, 2, bias=False)
        self.head.weight.data = torch.tensor([[2.0, 0.0, 0.5], [0.0, 1.0, 0.0]])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.seen(x).mean((2, 3)))
        return out


def quartered() -> Tensor:
    """Three images of 32 pixels: a red, a green and a blue quarter."""
    x = torch.zeros(3, 3, 32, 32)
    x[:, 0, :16, :16] = 1
    x[:, 1, 16:, :16] = 1
    x[:, 2, :16, 16:] = 1
    return x


def test_planted_concepts_are_found_ordered_and_placed() -> None:
    net, x = Colors().eval(), quartered()
    found = craft(x, observe(net, "seen"), resume(net, "seen"), 0, rank=3, size=16, overlap=0.0)
    assert found.concepts.argmax(1).tolist()[:2] == [0, 2]
    assert found.importance.diff().le(0).all()
    assert found.importance[2] == 0
    torch.testing.assert_close(found.importance, found.of_images.mean(0))
    assert found.maps.shape == (3, 3, 32, 32)
    assert bool((found.maps[:, 0, :16, :16] > 0.9).all())
    assert float(found.maps[:, 0, 16:].max()) < 0.05
    for concept, channel in enumerate((0, 2, 1)):
        best = found.strongest(concept, 2)
        assert best.shape == (2, 3, 16, 16)
        assert bool((best[:, channel] == 1).all())
    assert len(found.crops) == 12
    # each photo has one crop of the color
    assert len(found.strongest(0, 1000)) == 3


def test_the_part_that_the_concepts_make_is_told() -> None:
    """By a loop, on a layer of which two concepts make a part; three make all of it, and nothing is made of nothing."""
    net, x = Colors().eval(), quartered() * torch.tensor([1.0, 0.7, 0.0]).reshape(3, 1, 1, 1)
    runs = observe(net, "seen"), resume(net, "seen")
    found = craft(x, *runs, 0, rank=2, size=16, overlap=0.0)
    made = torch.zeros_like(x)
    for b in range(3):
        for k in range(2):
            made[b] += found.maps[b, k] * found.concepts[k][:, None, None]
    seen = runs[0](x)[0]
    for b in range(2):
        assert found.error[b] == pytest.approx(float((seen[b] - made[b]).norm() / seen[b].norm()), rel=1e-4)
    assert 0.4 < float(found.explained[0]) < 0.9
    assert found.error[2] == 0
    assert float(craft(x, *runs, 0, rank=3, size=16, overlap=0.0).explained.min()) == pytest.approx(1, abs=1e-4)


def test_a_concept_that_no_crop_has_has_no_strongest_crop() -> None:
    net = Colors().eval()
    found = craft(torch.ones(2, 3, 16, 16), observe(net, "seen"), resume(net, "seen"), 0, rank=3, size=8)
    assert [len(found.strongest(k, 5)) for k in range(3)] == [5, 0, 0]
    assert not found.importance[1:].any()


def test_batches_do_not_matter_and_the_network_stays() -> None:
    net, x = Colors().eval(), quartered() * torch.tensor([1.0, 0.7, 0.4]).reshape(3, 1, 1, 1)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    told: list[tuple[int, int]] = []
    options: dict[str, Any] = {"rank": 2, "size": 16}
    whole = craft(x, observe(net, "seen"), resume(net, "seen"), 0, **options)
    parts = craft(
        x, observe(net, "seen"), resume(net, "seen"), 0, batch_size=2, progress=lambda *at: told.append(at), **options
    )
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)
    assert told[-2:] == [(len(whole.crops) + 2, len(whole.crops) + 3), (len(whole.crops) + 3, len(whole.crops) + 3)]
    assert [done for done, _ in told[:-2]] == list(range(2, len(whole.crops) + 1, 2))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


FOUND = craft(quartered(), lambda x: x, lambda x: lambda a: a.mean((2, 3)), 0, rank=2, size=16)

UNBOUND: Any = lambda x: x  # noqa: E731 - a network in the place of what binds one


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: crops(torch.zeros(1, 3, 8, 8), 9), "sides of 9 at least"),
        (lambda: crops(torch.zeros(1, 3, 8, 8), 4, overlap=1.0), r"overlap: expected a number in \[0, 1\)"),
        (lambda: concept_importance(MAPS, CONCEPTS[:2], bent), r"got \(2, 3, 4, 5\) and \(2, 6\)"),
        (lambda: concept_importance(MAPS, CONCEPTS, bent, designs=1), "designs: expected a whole number from 2"),
        (lambda: concept_importance(MAPS, CONCEPTS, bent, points=POINTS[:1]), r"shape \(n, 2, 3\), n at least 2"),
        (
            lambda: concept_importance(MAPS, CONCEPTS, bent, points=255 * POINTS),
            r"points: expected numbers in \[0, 1\]",
        ),
        (lambda: concept_importance(MAPS, CONCEPTS, lambda a: bent(a) * torch.inf), "infinite score for sample 0"),
        (lambda: concept_importance(MAPS[:, :0], CONCEPTS[:0], bent), "numbers a mask"),
        (lambda: FOUND.strongest(2), "concept: expected one of 2, from 0, got 2"),
        (lambda: FOUND.strongest(-1), "concept: expected a whole number from 0"),
        (lambda: FOUND.strongest(0, 0), "count: expected a whole number from 1"),
        (lambda: concept_importance(MAPS, CONCEPTS, lambda a: a), "must return one score a sample"),
        (lambda: craft(quartered(), lambda x: x, lambda x: lambda a: a, None), "expected one class or a function"),  # type: ignore[arg-type]
        (
            lambda: craft(quartered(), lambda x: x, UNBOUND, 0, rank=2, size=16),
            "tail: what it returns: expected a func",
        ),
        (lambda: craft(quartered() - 1, lambda x: x, lambda x: lambda a: a, 0, size=16), "negative"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, text: str) -> None:
    with pytest.raises(CamfnError, match=text):
        call()


def test_nothing_is_said_of_vmap_over_a_pooling(recwarn: pytest.WarningsRecorder) -> None:
    """`AdaptiveAvgPool2d(1)` of channels last has no batching rule."""
    pool = torch.nn.AdaptiveAvgPool2d(1)
    concept_importance(MAPS, CONCEPTS, lambda a: pool(a).flatten(1).square().sum(1), designs=2)
    assert not [one for one in recwarn if "batching rule" in str(one.message)]


def test_activations_that_make_no_concepts_are_refused() -> None:
    net = tiny.load("cnn")
    x = tiny.scenes(2, generator=torch.Generator().manual_seed(0)).images

    def found(layer: str, rank: int = 2, images: Tensor = x, **options: Any) -> Any:
        return craft(images, observe(net, layer), resume(net, layer), 3, rank, size=24, **options)

    with pytest.raises(CamfnError, match=r"activations are negative, down to -.*negative='relu' \(--negative relu\)"):
        found("body.0.0")
    with pytest.raises(
        CamfnError, match="2 images give 18 crops of 24 pixels, and the layer has 64 channels: expected 18"
    ):
        found("body", 19)
    with pytest.raises(CamfnError, match="at least one image, got none"):
        found("body", images=x[:0])
    with pytest.raises(CamfnError, match="negative: expected"):
        found("body", negative="abs")
    with torch.no_grad():
        next(net.parameters())[0, 0, 0, 0] = torch.nan
    with pytest.raises(CamfnError, match="activations are NaN or infinite, of finite images"):
        found("body")


@pytest.mark.parametrize("part", [nn.BatchNorm2d(6), nn.Dropout(0.5)], ids=["norm", "dropout"])
def test_a_network_in_training_mode_is_refused_before_it_runs(part: nn.Module) -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 3), part, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    net.eval()
    part.train()
    state = torch.random.get_rng_state()
    with pytest.raises(CamfnError, match=r"training mode; call model.eval\(\)"):
        craft(images(4, 3, 16, 16), observe(net, "2"), resume(net, "2"), 2, rank=3, size=8)
    assert torch.equal(torch.random.get_rng_state(), state)
