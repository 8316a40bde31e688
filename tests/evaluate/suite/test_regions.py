"""Integrated gradients by superpixels, in a run and in its verification."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from camfn import network, tiny
from camfn.evaluate import Suite, truth, verify
from camfn.evaluate._suite.plan import cases_of
from camfn.evaluate._suite.regions import integrated_gradients_by_region
from camfn.image import superpixels
from camfn.zoo import load

pytest.importorskip("skimage")


def test_a_region_has_the_sum_of_its_pixels() -> None:
    model, images = load("tiny:cnn").model, tiny.scenes(2, generator=torch.Generator().manual_seed(0)).images
    found = integrated_gradients_by_region(model, steps=4, count=9)(images, 3)
    whole = network.integrated_gradients(model, steps=4)(images, 3).sum(1)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    labels = superpixels((images - low) / (high - low), count=9)
    for b in range(2):
        for label in set(labels[b].flatten().tolist()):
            region = labels[b] == label
            torch.testing.assert_close(
                found[b][region], whole[b][region].sum().expand(int(region.sum())), atol=1e-5, rtol=0
            )


def test_it_is_a_row_of_everything_that_is_verified(tmp_path: Path) -> None:
    case = next(case for case in cases_of("tiny:cnn", "everything", ["auto"]) if "by_region" in case.method)
    assert case.function is not None
    suite = Suite(tracks=("grid", "tiny"), scenes=2, grids=1, stitched=1, costly=1)
    (store,) = truth("tiny:cnn", [case.function], tmp_path, suite=suite)
    assert not [row.problem for row in store.rows if row.problem]
    (found,) = verify(tmp_path)
    assert not found.problems
