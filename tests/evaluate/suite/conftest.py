"""One small run of the suite, for the tests that read a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from camfn.evaluate import Store, Suite, truth

FEW = Suite(grids=3, stitched=1, costly=1, scenes=3, measured=3, graded=2, subsets=5, orders=2, levels=(0.0, 0.5, 1.0))


@pytest.fixture(scope="session")
def submission(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one model, with all tracks."""
    folder = tmp_path_factory.mktemp("submission")
    methods = "grad_cam, hires_cam, eigen_cam"
    (store,) = truth("tiny:cnn", methods, folder, suite=FEW, metrics=["complexity"])
    return store.folder


@pytest.fixture
def store(submission: Path) -> Store:
    """The store of that folder."""
    return Store(submission)
