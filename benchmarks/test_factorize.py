"""Nonnegative factors of a batch of eight, beside scikit-learn's: errors compared, then timed.

The matrices are the activations of EfficientNet-Lite0 for eight crops of four photos. scikit-learn runs one matrix
after the other with its own start, solver and stopping rule. Both have one thread, and their processor time counts, so
that a busy machine does not. Each line is printed as it is measured.

python -m pytest benchmarks/test_factorize.py --benchmark-enable --benchmark-only
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from camfn import observe
from camfn.factorize import nmf
from camfn.zoo import load

PHOTOS = ("chelsea", "coffee", "rocket", "astronaut")
ROUNDS = 5


@cache
def activations(layer: str) -> Tensor:
    """Eight images: four photos, and the middle of each."""
    from PIL import Image
    from skimage import data

    loaded = load("lite0")
    whole = [Image.fromarray(getattr(data, name)()) for name in PHOTOS]
    middles = [photo.crop((photo.width // 4, photo.height // 4, photo.width, photo.height)) for photo in whole]
    found, _ = observe(loaded.model, layer)(torch.stack([loaded.preprocess(photo) for photo in [*whole, *middles]]))
    return found.relu()


def scikit_learn(values: Tensor, rank: int) -> list[float]:
    from sklearn.decomposition import NMF

    errors = []
    for matrix in values.numpy():
        peer = NMF(rank)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that 200 iterations were not enough for its own tolerance
            weights = peer.fit_transform(matrix)
        errors.append(float(np.linalg.norm(matrix - weights @ peer.components_) / np.linalg.norm(matrix)))
    return errors


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


@pytest.fixture
def one_thread() -> Iterator[None]:
    import sklearn.decomposition  # noqa: F401  # only libraries that are loaded can be limited
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("rank", [3, 5, 8])
@pytest.mark.parametrize("layer", ["bn2", "blocks.5.0.bn1"])
@pytest.mark.parametrize("together", [False, True])
def test_factors(benchmark: BenchmarkFixture, together: bool, layer: str, rank: int) -> None:
    maps = activations(layer)
    values = maps.flatten(2).mT.contiguous()
    values = values.flatten(0, 1)[None] if together else values
    ratios = nmf(values, rank).error.double() / torch.tensor(scikit_learn(values, rank), dtype=torch.float64)
    assert ratios.mean() <= 1.001
    assert ratios.max() <= 1.01
    own, peer = [], []
    for _ in range(ROUNDS):
        peer.append(seconds(lambda: scikit_learn(values, rank)))
        own.append(seconds(lambda: nmf(values, rank)))
    benchmark(nmf, values, rank)
    benchmark.extra_info.update(
        kind="factors", layer=layer, rank=rank, together=together, peer=min(peer), error=float(ratios.mean())
    )
    print(
        f"\n{layer} {tuple(values.shape)} rank {rank}: camfn {1e3 * min(own):.1f} ms, "
        f"scikit-learn {1e3 * min(peer):.1f} ms ({min(peer) / min(own):.2f}x), "
        f"error {ratios.mean():.5f} of its, at most {ratios.max():.5f}"
    )
