"""What does not look at the map runs once for all methods, and changes no bit of a row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import metrics
from camfn._shared.rows import score_variants
from camfn.evaluate import METRICS, Photo, Protocol, Row, Shared, evaluate_photo
from camfn.evaluate._measures.cost import flops_of
from camfn.evaluate._measures.memo import Scores, digest
from camfn.targets import class_probability
from camfn.zoo import Loaded
from tests.evaluate.common import Net, load_net, make_cases

COUNTED: list[int] = []


class Counted(Net):
    """The small network, which notes how many images each forward takes."""

    def forward(self, x: Tensor) -> Tensor:
        COUNTED.append(len(x))
        return super().forward(x)


def load_counted(spec: str = "net") -> Loaded:
    held = load_net(spec)
    model = Counted().eval()
    model.load_state_dict(held.model.state_dict())
    return held._replace(model=model)


def counted(photos: list[Photo], metrics_: tuple[str, ...], *names: str, layers: str = "last") -> tuple[int, list[Row]]:
    """Forwards and rows of all photos and methods."""
    held, shared = load_counted(), Shared()
    cases = [case for case in make_cases(*names, layers=(layers,)) if case.method not in ("center", "random")]
    COUNTED.clear()
    rows = [
        row
        for photo in photos
        for row in evaluate_photo(photo, cases, held, Protocol(metrics=metrics_, step=0.25), shared=shared)
    ]
    assert not any(row.problem for row in rows)
    return len(COUNTED), rows


@pytest.mark.parametrize("layer", ["last", "auto"])
@pytest.mark.parametrize("names", [("grad_cam",), ("grad_cam", "layer_cam", "eigen_cam"), ("cam", "fem")])
def test_a_row_costs_at_most_two_forwards_above_its_metrics(
    names: tuple[str, ...], layer: str, photos: list[Photo]
) -> None:
    # the run finds the layer once a model, with 1 forward where its name is there and 3 where not
    found = 1 if layer == "last" else 3
    forwards, rows = counted(photos, ("complexity",), *names, layers=layer)
    assert forwards - found <= 2 * len(rows)
    assert forwards <= 2 * len(rows) + found
    if len(names) > 1:
        assert forwards <= 2 * len(rows)


def test_methods_of_the_same_tensors_share_one_capture(photos: list[Photo]) -> None:
    names = ("grad_cam", "hires_cam", "xgrad_cam", "layer_cam", "grad_cam_plusplus", "odam")
    forwards, rows = counted(photos[:1], ("complexity",), *names)
    assert forwards == 1 + 1 + 1  # the layer, the photo, the capture
    assert len(rows) == 6
    assert {round(row.forwards or 0, 1) for row in rows} == {round(rows[0].forwards or 0, 1)}
    assert all(row.seconds for row in rows)


@pytest.mark.parametrize(("name", "at_most"), [("infidelity", 0.4), ("max_sensitivity", 0.3), ("deletion", 0.9)])
def test_metrics_share_what_does_not_look_at_the_map(name: str, at_most: float, photos: list[Photo]) -> None:
    names = ("grad_cam", "hires_cam", "layer_cam", "grad_cam_plusplus")
    together, rows = counted(photos[:2], (name,), *names)
    alone = [counted(photos[:2], (name,), each) for each in names]
    assert together < at_most * sum(forwards for forwards, _ in alone)
    # a row is the same to the bit whether others are measured beside it or not
    by_key = {row.key: row.values for _, found in alone for row in found}
    assert {row.key: row.values for row in rows} == by_key


def test_every_metric_is_the_same_beside_other_methods(photos: list[Photo]) -> None:
    names = ("grad_cam", "eigen_cam", "score_cam:top_k=2")
    protocol = Protocol(metrics=tuple(METRICS), step=0.25, infidelity_samples=5)
    cases = make_cases(*names)
    together = list(evaluate_photo(photos[0], cases, load_net(), protocol))
    alone = [row for case in cases for row in evaluate_photo(photos[0], [case], load_net(), protocol)]
    backwards = list(evaluate_photo(photos[0], cases[::-1], load_net(), protocol))[::-1]
    for first, second, third in zip(together, alone, backwards, strict=True):
        assert first.values == second.values == third.values
        assert first.vectors == second.vectors == third.vectors
        assert first.cam is not None
        assert second.cam is not None
        assert torch.equal(first.cam, second.cam)


class Normed(Net):
    """The small network with BatchNorm, which may refuse what is no photo."""

    def __init__(self, refuses: bool = False) -> None:
        super().__init__()
        self.refuses = refuses
        self.features.insert(1, nn.BatchNorm2d(6))

    def forward(self, x: Tensor) -> Tensor:
        if self.refuses and x.min() < -1:
            raise ValueError("no photo")
        return super().forward(x)


@pytest.mark.parametrize("refuses", [False, True])
def test_batch_norm_is_folded_once_a_model_and_a_row_is_the_same_behind_another_photo(
    refuses: bool, photos: list[Photo]
) -> None:
    protocol = Protocol(metrics=("deletion", "infidelity", "max_sensitivity"), step=0.25, infidelity_samples=16)
    cases, shared = make_cases("grad_cam", "eigen_cam"), Shared()
    held = load_net()._replace(model=Normed(refuses).eval())
    first = list(evaluate_photo(photos[0], cases, held, protocol, shared=shared))
    second = list(evaluate_photo(photos[1], cases, held, protocol, shared=shared))
    (kept,) = shared.foldings.values()
    assert (kept is None) == refuses  # the noise has numbers below -1
    alone = list(evaluate_photo(photos[1], cases, held, protocol))
    assert [row.values for row in second] == [row.values for row in alone] != [row.values for row in first]
    assert not any(row.problem for row in first) or refuses  # infidelity's noise may be below -1 too


def test_methods_without_a_gradient_take_the_activations_of_those_with_one(photos: list[Photo]) -> None:
    noises = Protocol().sensitivity_samples
    for names, of_photo in ((("grad_cam",), 1), (("eigen_cam",), 1), (("grad_cam", "eigen_cam"), 2)):
        forwards, _ = counted(photos[:1], ("max_sensitivity",), *names)
        assert forwards == 1 + 1 + of_photo + noises  # the layer, the photo


def test_scores_are_those_of_the_network() -> None:
    model, images = load_net().model, torch.rand(1, 3, 64, 64)
    plain = metrics.scores_of(model, images, class_probability(1))
    shared = Scores(plain, images)
    assert torch.equal(shared(images), plain(images))
    many = torch.rand(3, 1, 3, 64, 64)
    assert torch.equal(shared.score_many(many), shared.score_many(many.clone()))
    assert torch.allclose(shared.with_folded_norms()(images), plain(images), atol=1e-6)
    assert shared.with_folded_norms() is shared.with_folded_norms()


def test_whether_photos_run_as_one_is_tried_once_for_the_same_shape_and_chunk() -> None:
    model, images = load_counted().model, torch.rand(1, 3, 64, 64)
    plain = metrics.scores_of(model, images, class_probability(1))
    shared = Scores(plain, images)
    tried = 0

    def run(first: float, chunk_size: int | None, scores: Any = shared) -> tuple[Tensor, int]:
        COUNTED.clear()
        found = score_variants(
            "f", scores, lambda row: images * row, torch.tensor([first, 0.5, 2.0, 3.0]), chunk_size=chunk_size
        )
        return found, sum(COUNTED)

    for first, chunk_size in ((1.0, None), (1.0, 4), (0.7, None)):
        expected, alone = run(first, chunk_size, plain)
        found, forwards = run(first, chunk_size)
        again, more = run(first, chunk_size)
        assert torch.equal(found, expected)
        assert torch.equal(found, again)
        assert more == 0 < forwards <= alone
        tried += alone - forwards
    assert len(shared.trials) == 2
    assert tried > 0  # the second first photo is not tried again
    assert flops_of(lambda: run(1.0, None))[1] > 0  # what counts operations sees each run


def test_a_digest_tells_tensors_apart() -> None:
    images = torch.rand(1, 3, 4, 4)
    others = [
        images + 1e-7,
        images.to(memory_format=torch.channels_last),
        images.reshape(3, 1, 4, 4),
        images.double(),
        images.transpose(2, 3),
        images[..., :3],
    ]
    assert digest(images) == digest(images.clone())
    assert len({digest(each) for each in [images, *others]}) == 7
