"""Scores before and after masking: closed forms, laws, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from camfn import metrics
from camfn.targets import class_probability, class_score
from tests.nets.small import Net, images, seeded, unchanged

share = st.floats(0, 1, width=32)
pairs = st.lists(st.tuples(share, share), min_size=1, max_size=6)


def columns(values: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    p, o = torch.tensor(values, dtype=torch.float64).unbind(1)
    return p, o


@given(pairs)
@settings(deadline=None)
def test_drop_gain_and_increase_are_the_papers(values: list[tuple[float, float]]) -> None:
    p, o = columns(values)
    drop = [max(0.0, a - b) / a if a else 0.0 for a, b in values]
    gain = [max(0.0, b - a) / (1 - a) if a < 1 else 0.0 for a, b in values]
    torch.testing.assert_close(metrics.average_drop(p, o), torch.tensor(drop, dtype=torch.float64))
    torch.testing.assert_close(metrics.average_gain(p, o), torch.tensor(gain, dtype=torch.float64))
    assert metrics.average_increase(p, o).tolist() == [float(b > a) for a, b in values]
    assert torch.equal(metrics.confidence_change(p, o), o - p)


@given(pairs)
@settings(deadline=None)
def test_a_sample_drops_or_gains(values: list[tuple[float, float]]) -> None:
    p, o = columns(values)
    drop, gain = metrics.average_drop(p, o), metrics.average_gain(p, o)
    assert not bool((drop * gain).any())
    assert bool(((drop >= 0) & (drop <= 1) & (gain >= 0) & (gain <= 1)).all())
    assert torch.equal(metrics.average_increase(p, o) > 0, gain > 0)


def test_a_mask_of_ones_changes_nothing() -> None:
    net, x = seeded(Net), images(2, 3, 12, 12)
    score = metrics.scores_of(net, x)
    before, after = score(x), score(metrics.masked(x, torch.ones(2, 12, 12)))
    for metric in (metrics.average_drop, metrics.average_gain, metrics.average_increase):
        assert metric(before, after).tolist() == [0, 0]


def test_fake_cam_pleases_the_drop_and_not_the_gain() -> None:
    net, x = seeded(Net), images(3, 3, 16, 16)
    fake = torch.ones(3, 16, 16)
    fake[:, 0, 0] = 0
    score = metrics.scores_of(net, x)
    before, after = score(x), score(metrics.masked(x, fake))
    assert metrics.average_drop(before, after).max() < 0.02
    assert metrics.average_gain(before, after).max() < 0.02


def test_masking_before_and_after_normalization_differ() -> None:
    photos, heatmap = torch.full((1, 1, 1, 2), 0.8), torch.tensor([[[0.0, 1.0]]])

    def normalize(x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25

    before = metrics.masked(photos, heatmap, normalize=normalize)
    after = metrics.masked(normalize(photos), heatmap)
    torch.testing.assert_close(before, torch.tensor([[[[-2.0, 1.2]]]]))
    torch.testing.assert_close(after, torch.tensor([[[[0.0, 1.2]]]]))


def test_a_map_of_another_size_is_resized_and_a_baseline_shows_through() -> None:
    x = torch.ones(2, 3, 8, 8)
    seen = metrics.masked(x, torch.zeros(2, 2, 2), baseline=torch.tensor([1.0, 2.0, 3.0])[:, None, None])
    assert torch.equal(seen[1, :, 4, 4], torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(metrics.masked(x, torch.zeros(2, 2, 2), baseline=lambda y: 5 * y), 5 * x)
    half = metrics.masked(x, torch.tensor([[[0.0, 1.0]]]).expand(2, 1, 2))
    torch.testing.assert_close(half[0, 0, 0], torch.tensor([0, 0, 1, 3, 5, 7, 8, 8]) / 8)


@given(st.integers(1, 40), share)
@settings(deadline=None)
def test_most_relevant_counts_exactly_under_ties(size: int, part: float) -> None:
    values = torch.randint(0, 3, (2, size), generator=torch.Generator().manual_seed(size)).float()
    mask = metrics.most_relevant(values, part)
    assert mask.sum(1).tolist() == [round(part * size)] * 2
    inside, outside = values.masked_fill(~mask, math.inf).amin(1), values.masked_fill(mask, -math.inf).amax(1)
    assert bool((inside >= outside).all())


def test_half_of_the_pixels_are_muted() -> None:
    x = torch.ones(1, 1, 4, 4)
    seen = metrics.masked(x, metrics.most_relevant(torch.zeros(1, 4, 4), 0.5))
    assert torch.equal(seen[0, 0], torch.tensor([[1.0], [1.0], [0.0], [0.0]]).expand(4, 4))


def test_scores_keep_their_classes_and_the_model_as_it_is() -> None:
    net, x = seeded(Net), images(3, 3, 12, 12)
    with unchanged(net):
        score = metrics.scores_of(net, x)
        found = score(-x)
        folded = score.score_many(torch.stack([x, -x]))  # type: ignore[attr-defined]
    with torch.no_grad():
        top = net(x).argmax(1)
        expected = net(-x).softmax(1).gather(1, top[:, None])[:, 0]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(folded, torch.stack([score(x), expected]))
    assert not found.requires_grad


def test_other_targets_and_other_outputs_can_be_scored() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = seeded(Net)

        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"logits": self.net(x), "loss": None}

    net, x = Wrapped().eval(), images(2, 3, 12, 12)
    score = metrics.scores_of(net, x, class_score([1, 2]))
    with torch.no_grad():
        expected = net(x)["logits"][[0, 1], [1, 2]]
    torch.testing.assert_close(score(x), expected)
    torch.testing.assert_close(score.score_many(x[None])[0], expected)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: metrics.average_drop(torch.tensor([-1.0]), torch.tensor([0.5])), "not logits"),
        (lambda: metrics.average_gain(torch.tensor([2.0]), torch.tensor([0.5])), "not logits"),
        (lambda: metrics.average_gain(torch.tensor([math.nan]), torch.tensor([0.5])), "sample 0"),
        (lambda: metrics.average_drop(torch.ones(2, 2), torch.ones(2)), "shape \\(B,\\)"),
        (lambda: metrics.masked(torch.ones(1, 3, 4, 4), torch.full((1, 4, 4), 2.0)), "normalize"),
        (lambda: metrics.masked(torch.ones(1, 3, 4, 4), torch.full((1, 4, 4), math.nan)), "samples: 0"),
        (lambda: metrics.masked(torch.ones(1, 3, 4, 4), torch.ones(2, 4, 4)), "as many samples"),
        (lambda: metrics.masked(torch.ones(1, 3, 4, 4), torch.ones(1, 4, 4), baseline=torch.ones(2)), "broadcast"),
        (lambda: metrics.most_relevant(torch.ones(1, 4), 1.5), "\\[0, 1\\]"),
        (lambda: metrics.scores_of(nn.Linear(2, 2).train(), torch.ones(1, 2)), "model.eval"),
    ],
)
def test_what_is_refused(call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()


def test_probabilities_a_rounding_above_one_are_fine() -> None:
    p = torch.tensor([1 + torch.finfo(torch.float32).eps])
    assert metrics.average_gain(p, p).tolist() == [0]


def test_the_default_is_the_probability_of_the_top_class() -> None:
    net, x = seeded(Net), images(2, 3, 12, 12)
    torch.testing.assert_close(metrics.scores_of(net, x)(x), metrics.scores_of(net, x, class_probability())(x))
