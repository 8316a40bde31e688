"""Metrics beside pytorch-grad-cam, torch-cam and Quantus: checked, then timed, every library in one run.

ROAD takes four shares of four images, scores included, once with a map that has no ties, so that the peer removes what
it is asked to, and once with a map of many zeros, of which it removes everything. Deletion and insertion take the same
steps in torch-cam. Of grad-cam, which has no sensitivity, the unit is the explanation that it repeats.

Quantus 0.6 counts values of channels where camfn counts pixels. Its pixel flipping is then deletion, but for a pixel of
which one or two colors are gone. Its ROAD raises IndexError on color images, and would return a share of right classes,
not a score: what is comparable is its imputation.

python -m pytest benchmarks/test_metrics.py --benchmark-enable --benchmark-only -s
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from camfn import explainer, metrics
from camfn.adapters import quantus_explain
from camfn.image import upsample
from camfn.methods import grad_cam
from camfn.targets import class_probability

from .models import SIZE, Subject, load, question

SHARES = (0.1, 0.3, 0.5, 0.7)
STEPS = 20
CLOSE = 2e-2
"""How far two ROAD scores in [0, 1] may be apart, both solved to a tolerance; each peer's own check is stricter."""


@lru_cache(maxsize=1)
def subject_and_map() -> tuple[Subject, Tensor, list[int], Tensor]:
    """A network, four smooth images, a class each, and maps without ties."""
    subject = load("efficientnet_b0")
    noise, classes = question(subject, 4)
    images = torch.nn.functional.avg_pool2d(noise, 9, 1, 4) * 9
    coarse = torch.rand(4, 7, 7, generator=torch.Generator().manual_seed(1))
    return subject, images, classes, upsample(coarse, SIZE)


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    found = run()
    return found, time.perf_counter() - start


def scores() -> Any:
    subject, images, classes, _ = subject_and_map()
    return metrics.scores_of(subject.model, images, class_probability(classes))


def peer_road(heatmap: Tensor) -> tuple[Tensor, float]:
    """ROADCombined of pytorch-grad-cam, and the seconds that it took."""
    from pytorch_grad_cam.metrics import road
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    subject, images, classes, _ = subject_and_map()
    targets = [ClassifierOutputSoftmaxTarget(index) for index in classes]
    peer = road.ROADCombined(percentiles=[100 * (1 - share) for share in SHARES])
    found, seconds = timed(lambda: peer(images, heatmap.numpy(), targets, subject.model))
    return torch.as_tensor(found), seconds


def our_road(heatmap: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return metrics.road_combined(scores(), subject_and_map()[1], heatmap, shares=SHARES, generator=generator)


# of tensors in NumPy functions, in the peer
ignored = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
singular = pytest.mark.filterwarnings("ignore:Matrix is exactly singular")


@ignored
def test_road_without_ties(benchmark: BenchmarkFixture) -> None:
    from pytorch_grad_cam.metrics import road

    _, images, _, heatmap = subject_and_map()
    missing = metrics.most_relevant(heatmap, 0.5)
    imputer = road.NoisyLinearImputer(noise=0.0)
    theirs = torch.stack([imputer(image, mask) for image, mask in zip(images, (~missing).float())])
    off = (metrics.impute(images, missing) - theirs).abs().amax() / images.abs().amax()
    assert off < 1e-3, f"imputed images differ by {off:.2g} of the largest value"
    found, seconds = peer_road(heatmap)
    assert (our_road(heatmap) - found).abs().max() < CLOSE
    benchmark(our_road, heatmap)
    _, forwards = timed(lambda: [scores()(images) for _ in SHARES])
    print_and_record(
        benchmark, "ROADCombined, 4 shares, 4 images, no ties", {"grad-cam": seconds, "its forwards": forwards}
    )


@ignored
@singular
def test_road_of_a_map_with_many_zeros(benchmark: BenchmarkFixture) -> None:
    """Half of the map is 0, as after a ReLU: the peer removes whole images, so only camfn's counts can be checked."""
    heatmap = subject_and_map()[3]
    ties = (heatmap - 0.5).relu()
    for share in SHARES:
        gone = metrics.most_relevant(ties, share).flatten(1).sum(1)
        assert gone.tolist() == [round(share * ties[0].numel())] * len(ties)
    assert bool(our_road(ties).isfinite().all())
    _, seconds = peer_road(ties)
    benchmark(our_road, ties)
    print_and_record(benchmark, "ROADCombined, 4 shares, 4 images, half of the map 0", {"grad-cam": seconds})


def quantus_metric(name: str, **options: Any) -> Any:
    """A metric of Quantus that takes maps as they are, or a skip."""
    quantus = pytest.importorskip("quantus", reason="needs Quantus: pip install quantus")
    return getattr(quantus, name)(normalise=False, disable_warnings=True, **options)


def quantus_call() -> dict[str, Any]:
    """What its metrics are called with."""
    subject, images, classes, _ = subject_and_map()
    return {"model": subject.model, "x_batch": images.numpy(), "y_batch": np.array(classes), "device": "cpu"}


def test_road_of_quantus(benchmark: BenchmarkFixture) -> None:
    functions = pytest.importorskip("quantus.functions.perturb_func", reason="needs Quantus: pip install quantus")
    _, images, _, heatmap = subject_and_map()
    score = scores()

    def impute(missing: Tensor) -> Tensor:
        places = [np.flatnonzero(mask) for mask in missing.numpy()]
        pairs = zip(images.numpy(), places)
        filled = [functions.noisy_linear_imputation(image, place, noise=0.0) for image, place in pairs]
        return torch.from_numpy(np.stack(filled)).float()

    def theirs() -> list[Tensor]:
        return [score(impute(metrics.most_relevant(heatmap, share))) for share in SHARES]

    def run() -> Tensor:
        return metrics.road(score, images, heatmap, shares=SHARES, std=0.0).scores

    found, seconds = timed(theirs)
    assert (run() - torch.stack(found, 1)).abs().max() < CLOSE
    benchmark(run)
    print_and_record(benchmark, "ROAD, 4 shares, 4 images", {"a loop over quantus' imputation": seconds})


def test_pixel_flipping(benchmark: BenchmarkFixture) -> None:
    _, images, _, heatmap = subject_and_map()
    steps = 21  # Quantus wants a step that divides the pixels, and then counts three channels
    peer = quantus_metric("PixelFlipping", features_in_step=images[0].numel() // steps, perturb_baseline=0.0)
    colored = heatmap[:, None].expand_as(images).numpy()

    def theirs() -> Any:
        return peer(a_batch=colored, softmax=True, **quantus_call())

    found, score = theirs(), scores()

    def run() -> Tensor:
        return metrics.deletion(score, images, heatmap, step=1 / steps).scores

    off = (run()[:, 1:] - torch.as_tensor(np.array(found))).abs().max()
    assert off < CLOSE, f"scores differ by {off:.2g}"
    compare_in_turn(benchmark, f"pixel flipping, {steps} steps, 4 images", run, "quantus", theirs)


def test_deletion_and_insertion(benchmark: BenchmarkFixture) -> None:
    from torchcam.methods import GradCAM
    from torchcam.metrics import DeletionInsertionMetric

    subject, images, classes, _ = subject_and_map()

    def theirs() -> Any:
        with GradCAM(subject.model, subject.layer) as extractor:
            metric = DeletionInsertionMetric(extractor, partial(torch.softmax, dim=-1), steps=STEPS)
            metric.update(images, classes)
            return metric.summary()

    found = theirs()
    explain = explainer(grad_cam, subject.model, subject.layer)
    score = scores()

    def run() -> list[Tensor]:
        heatmap = upsample(explain(images, classes).relu(), SIZE)
        step = -(-heatmap[0].numel() // STEPS)
        both = (
            metrics.deletion(score, images, heatmap, step=step),
            metrics.insertion(score, images, heatmap, baseline=0.0, step=step),
        )
        return [curve.auc.mean() for curve in both]

    ours = torch.stack(run())
    areas = torch.tensor([found["deletion_auc"], found["insertion_auc"]])
    assert (ours - areas).abs().max() < CLOSE, f"areas {ours.tolist()}, torch-cam {areas.tolist()}"
    compare_in_turn(benchmark, f"deletion and insertion, {STEPS} steps, 4 images", run, "torchcam", theirs)


def test_sensitivity(benchmark: BenchmarkFixture) -> None:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    subject, images, classes, _ = subject_and_map()
    explain = explainer(grad_cam, subject.model, subject.layer)
    targets = [ClassifierOutputTarget(index) for index in classes]
    peer = GradCAM(subject.model, [subject.model.get_submodule(subject.layer)])
    fields = 0.02 * (2 * torch.rand(10, *images.shape[1:], generator=torch.Generator().manual_seed(2)) - 1)

    def theirs() -> Tensor:
        def see(x: Tensor) -> Tensor:
            return torch.as_tensor(peer(input_tensor=x, targets=targets))

        plain = see(images)
        moved = torch.stack([(see(images + field) - plain).flatten(1).norm(dim=1) for field in fields])
        ratio: Tensor = moved.amax(0) / plain.flatten(1).norm(dim=1)
        return ratio

    try:
        _, seconds = timed(theirs)
    finally:
        peer.activations_and_grads.release()
        subject.model.zero_grad()

    turns = iter(fields.numpy())

    def moved(arr: Any, indices: Any, **_: Any) -> Any:
        """Our samples in the place of those that Quantus would draw."""
        return arr + next(turns).reshape(1, -1)

    quantus = quantus_metric("MaxSensitivity", nr_samples=len(fields), perturb_func=moved)
    signed = quantus_explain(grad_cam, subject.layer, signed=True)
    other, seconds_of_quantus = timed(lambda: quantus(a_batch=None, explain_func=signed, **quantus_call()))

    def enlarged() -> Tensor:
        return metrics.max_sensitivity(lambda x: upsample(explain(x, classes), SIZE), images, noise=fields)

    torch.testing.assert_close(enlarged(), torch.tensor(other).float(), rtol=1e-3, atol=0)

    def run() -> Tensor:
        return metrics.max_sensitivity(lambda x: explain(x, classes), images, noise=fields)

    plain = explain(images, classes)
    slow = torch.stack([(explain(images + one, classes) - plain).flatten(1).norm(dim=1) for one in fields]).amax(0)
    torch.testing.assert_close(run(), slow / plain.flatten(1).norm(dim=1))
    benchmark(run)
    print_and_record(
        benchmark,
        "max-sensitivity of Grad-CAM, 10 samples, 4 images",
        {"a loop over grad-cam": seconds, "quantus, of camfn's maps": seconds_of_quantus},
    )


def compare_in_turn(
    benchmark: BenchmarkFixture, what: str, ours: Callable[[], Any], peer: str, theirs: Callable[[], Any]
) -> None:
    """Compare the least of several turns, so that both see the same machine."""
    turns = [(timed(ours)[1], timed(theirs)[1]) for _ in range(4)]
    least, other = (min(times) for times in zip(*turns, strict=True))
    benchmark.pedantic(ours, rounds=1)  # type: ignore[no-untyped-call]
    benchmark.extra_info.update(kind="metrics", what=what, ours=least, **{peer: other})
    print(f"\n{what}: camfn {least:.2f} s, {peer} {other:.2f} s ({other / least:.1f}x)")


def print_and_record(benchmark: BenchmarkFixture, what: str, seconds: dict[str, float]) -> None:
    benchmark.extra_info.update(kind="metrics", what=what, **seconds)
    ours = benchmark.stats.stats.min if benchmark.stats else None
    if ours is not None:
        others = ", ".join(f"{name} {value:.2f} s ({value / ours:.1f}x)" for name, value in seconds.items())
        print(f"\n{what}: camfn {ours:.2f} s, {others}")
