"""`run(engine="ray")`: the rows of the local engine, also after workers were killed at random five times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from camfn.evaluate import Photo, Suite, truth
from tests.evaluate.common import Dying, check_same, many_photos, run_quickly


@pytest.fixture(scope="module")
def cluster() -> Any:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'camfn[ray]'")
    environment = {"env_vars": {"PYTHONPATH": str(Path(__file__).parents[3]), "RAY_WORKER_MODE": "1"}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    yield ray
    ray.shutdown()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.sweep)])
def test_ray_gives_the_rows_of_the_local_engine(kills: int, cluster: Any, photos: list[Photo], tmp_path: Path) -> None:
    # over 5 s: Ray starts a cluster of its own, once in the suite
    photos = photos if kills < 3 else many_photos(tmp_path / "many", 16)
    local = run_quickly(photos, tmp_path / "local", "grad_cam", "random_cam")
    loader = Dying(tmp_path / "kills", kills, seed=3)
    far = run_quickly(photos, tmp_path / "ray", "grad_cam", "random_cam", engine="ray", workers=2, loader=loader)
    assert loader.kills() == kills
    check_same(far, local)


@pytest.mark.filterwarnings("default")
@pytest.mark.sweep
def test_two_actors_make_the_rows_of_the_suite(cluster: Any, tmp_path: Path) -> None:
    suite = Suite(grids=1, stitched=1, costly=1, scenes=2, measured=1, graded=1, subsets=3, orders=2, levels=(0.0, 1.0))
    methods, metrics = "grad_cam, rise:samples=3", ["complexity"]
    (local,) = truth("tiny:cnn", methods, tmp_path / "local", suite=suite, metrics=metrics)
    far = tmp_path / "ray"
    (found,) = truth("tiny:cnn", methods, far, suite=suite, metrics=metrics, engine="ray", workers=2)
    assert [row.key for row in found.rows] == [row.key for row in local.rows]
    assert [row.values for row in found.rows] == [row.values for row in local.rows]
    assert all((far / "tiny-cnn" / "maps" / row.map).is_file() for row in found.rows if row.map)
    assert found.header["protocols"] == local.header["protocols"]
