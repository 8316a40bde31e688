"""Laws of Opti-CAM."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from camfn import methods
from camfn._shared.maps import resize
from tests.methods.laws import (
    close,
    curved,
    image,
    normal,
    stretched,
)


def seen_through(map_: Tensor, x: Tensor) -> Tensor:
    return x * stretched(resize(map_[:, None], x.shape[2:]))


def test_opti_cam_never_gets_worse_and_gets_better() -> None:
    a, x = normal(3, 6, 4, 5), image()
    scores = [
        curved(seen_through(methods.opti_cam(a, forward=curved, inputs=x, steps=n, patience=None), x))
        for n in (1, 3, 10, 40)
    ]
    close(scores[0], curved(seen_through(a.mean(1), x)))
    for worse, better in itertools.pairwise(scores):
        assert (better >= worse).all()
    assert (scores[-1] > scores[0] + 0.01).all()


def test_opti_cam_keeps_the_best_iterate_when_the_search_runs_away() -> None:
    a, x = normal(3, 6, 4, 5), image()
    for rate in (50.0, 5.0):
        # far too far
        map_ = methods.opti_cam(a, forward=curved, inputs=x, steps=8, learning_rate=rate)
        start = curved(seen_through(a.mean(1), x))
        assert (curved(seen_through(map_, x)) >= start - 1e-12).all()


def test_opti_cam_of_a_constant_network_stops_and_weighs_channels_alike() -> None:
    a, calls, told = normal(3, 6, 4, 5), [], []

    def forward(x: Tensor) -> Tensor:
        calls.append(len(x))
        return 0 * x.sum((1, 2, 3)) + 3

    def progress(done: int, count: int) -> None:
        told.append((done, count))

    map_ = methods.opti_cam(a, forward=forward, inputs=image(), patience=4, progress=progress)
    close(map_, a.mean(1))
    assert len(calls) == 5
    assert told == [(1, 100), (2, 100), (3, 100), (4, 100), (100, 100)]
    methods.opti_cam(a, forward=forward, inputs=image(), patience=None, steps=20)
    assert len(calls) == 25


def test_opti_cam_stops_each_sample_on_its_own() -> None:
    a, x = normal(2, 6, 4, 5), image()[:2]
    # the second sample's score never changes, and it must not be waited for, nor stop the first
    gate = torch.tensor([1.0, 0.0], dtype=torch.float64)
    both = methods.opti_cam(a, forward=lambda x: gate * curved(x), inputs=x, steps=30, patience=3)
    close(both[:1], methods.opti_cam(a[:1], forward=curved, inputs=x[:1], steps=30, patience=3))
    close(both[1], a[1].mean(0))
