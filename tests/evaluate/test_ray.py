"""`run(engine="ray")`: the rows of the local engine, also after a worker was killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from camfn.evaluate import Photo, Store
from camfn.zoo import Loaded
from tests.evaluate.common import load_net, numbers_of, run_quickly


class Dying:
    """A loader whose first process dies at its second call of a model's preprocessing."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __call__(self, spec: str) -> Loaded:
        held, calls = load_net(spec), [0]

        def preprocess(photo: Image.Image) -> Tensor:
            calls[0] += 1
            if calls[0] == 4 and os.environ.get("RAY_WORKER_MODE", "") != "" and not self.mark.exists():
                self.mark.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            return held.preprocess(photo)

        return held._replace(preprocess=preprocess)


@pytest.fixture(scope="module")
def cluster() -> Any:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'camfn[ray]'")
    environment = {"env_vars": {"PYTHONPATH": str(Path(__file__).parents[2]), "RAY_WORKER_MODE": "1"}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    yield ray
    ray.shutdown()


@pytest.mark.filterwarnings("default")
def test_ray_gives_the_rows_of_the_local_engine(cluster: Any, photos: list[Photo], tmp_path: Path) -> None:
    # over 5 s: Ray starts a cluster of its own, once in the suite
    local = run_quickly(photos, tmp_path / "local", "grad_cam", "random_cam")
    mark = tmp_path / "killed"
    far = run_quickly(photos, tmp_path / "ray", "grad_cam", "random_cam", engine="ray", workers=2, loader=Dying(mark))
    assert mark.exists(), "no worker was killed"
    assert len(far.rows) == 16
    assert numbers_of(Store(tmp_path / "ray")) == numbers_of(Store(tmp_path / "local"))
    assert numbers_of(far).keys() == numbers_of(local).keys()
    for row in far.rows:
        cam, other = far.cam(row), local.cam(row)
        assert cam is not None
        assert other is not None
        assert torch.equal(cam, other)
