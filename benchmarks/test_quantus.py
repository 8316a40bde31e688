"""The twins of Quantus' metrics beside Quantus: checked, then timed in turns, in seconds of the processor.

Eight scenes of digits before the tiny network, in gray, since Quantus counts values of channels where camfn counts
pixels. Fifteen maps of each, as of the fifteen methods called "cheap", where the forwards do not look at the map, or
there are none; three maps where each has its own forwards. Where both draw, Quantus' draws are given to camfn, or
nothing is compared, as where they differ by design. Quantus 0.6 has no NonSensitivity of more than one pixel a step: it
raises ValueError. Its IROF calls `numpy.trapz`, which numpy 2.4 has no longer; the benchmark puts it back.

python -m pytest benchmarks/test_quantus.py --benchmark-enable --benchmark-only -s
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from camfn import explainer, image, metrics, observe, tiny
from camfn.adapters import quantus_explain
from camfn.methods import grad_cam
from camfn.targets import class_probability

BATCH, MAPS, OWN, LAYER, SIDE = 8, 15, 3, "net.body.4", 64
GROUPS, SETS, SAMPLES = 64, 50, 10


class Gray(nn.Module):
    """The tiny network on one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny.load("cnn")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x.expand(-1, 3, -1, -1))
        return out


class World(NamedTuple):
    """A network, scenes, a class each, maps of each scene, and the digit's pixels."""

    model: nn.Module
    images: Tensor
    classes: Tensor
    maps: list[Tensor]
    masks: Tensor

    @property
    def score(self) -> Any:
        """The probability of each class."""
        return metrics.scores_of(self.model, self.images, class_probability(self.classes.tolist()))

    def cam(self, x: Tensor) -> Tensor:
        """Grad-CAM at the size of the images."""
        return image.upsample(explainer(grad_cam, self.model, LAYER)(x, self.classes), (SIDE, SIDE))


@lru_cache(maxsize=1)
def world() -> World:
    scenes = tiny.scenes(BATCH, generator=torch.Generator().manual_seed(0))
    coarse = torch.rand(MAPS, BATCH, 7, 7, generator=torch.Generator().manual_seed(1))
    maps = [image.upsample(one, (SIDE, SIDE)) for one in coarse]
    images = scenes.images.mean(1, keepdim=True).contiguous()
    return World(Gray().eval(), images, scenes.labels[:, 0], maps, scenes.masks[:, 0].bool())


def quantus_metric(name: str, **options: Any) -> Any:
    """A metric of Quantus that takes maps as they are, or a skip."""
    quantus = pytest.importorskip("quantus", reason="needs Quantus: pip install quantus")
    return getattr(quantus, name)(normalise=False, disable_warnings=True, **options)


def called(peer: Any, heatmap: Tensor | None, *, softmax: bool = True, **more: Any) -> Tensor:
    """Call a metric of Quantus with a map of each scene, or with an explanation."""
    w = world()
    given = {"a_batch": None if heatmap is None else heatmap[:, None].numpy()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = peer(
            model=w.model,
            x_batch=w.images.numpy(),
            y_batch=w.classes.numpy(),
            device="cpu",
            softmax=softmax,
            **{**given, **more},
        )
    return torch.as_tensor(np.array(found, dtype=float))


class Row(NamedTuple):
    """One metric of both.

    Attributes:
        what: what the table calls it.
        ours: camfn's numbers of all maps.
        theirs: Quantus'.
        off: how far apart they may be; None where they are not the same by design.
    """

    what: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    off: float | None = 1e-4


def each(run: Callable[[Tensor], Tensor], count: int = MAPS) -> Callable[[], Tensor]:
    """Run once for each of so many maps."""
    return lambda: torch.stack([run(one) for one in world().maps[:count]])


def sets_of_quantus() -> Tensor:
    """The sets of pixels that Quantus draws for a seed, (n, B, H, W)."""
    np.random.seed(0)  # noqa: NPY002  the state that Quantus draws from
    masks = torch.zeros(SETS, BATCH, SIDE * SIDE, dtype=torch.bool)
    for run in range(SETS):
        for b in range(BATCH):
            masks[run, b, torch.as_tensor(np.random.choice(SIDE * SIDE, 512, replace=False))] = True  # noqa: NPY002
    return masks.reshape(SETS, BATCH, SIDE, SIDE)


def correlation() -> Row:
    w, sets = world(), sets_of_quantus()
    peer = quantus_metric("FaithfulnessCorrelation", nr_runs=SETS, subset_size=512, perturb_baseline=0.0, abs=False,
                          return_aggregate=False)  # fmt: skip

    def theirs() -> Tensor:
        found = []
        for heatmap in w.maps:
            np.random.seed(0)  # noqa: NPY002
            found.append(called(peer, heatmap))
        return torch.stack(found)

    def ours() -> Tensor:
        lost = metrics.drops(w.score, w.images, sets)
        return torch.stack([metrics.faithfulness_correlation(one, lost, sets) for one in w.maps])

    return Row(f"faithfulness correlation, {SETS} sets of 512 pixels, 15 maps", ours, theirs, 1e-3)


def estimate() -> Row:
    w = world()
    step = SIDE * SIDE // GROUPS
    peer = quantus_metric("FaithfulnessEstimate", features_in_step=step, perturb_baseline=0.0, abs=False)
    score = w.score
    ours = each(lambda one: metrics.faithfulness_estimate(score, w.images, one, groups=GROUPS), OWN)
    return Row(f"faithfulness estimate, {GROUPS} groups, 3 maps", ours, each(lambda one: called(peer, one), OWN), 0.05)


def monotonicity_correlation() -> Row:
    w = world()
    step = SIDE * SIDE // 16
    peer = quantus_metric(
        "MonotonicityCorrelation", features_in_step=step, perturb_baseline=0.0, nr_samples=1, abs=True
    )
    score, zeros = w.score, torch.zeros(1, 1, SIDE, SIDE)
    ours = each(lambda one: metrics.monotonicity_correlation(score, w.images, one, groups=16, values=zeros), OWN)
    return Row("monotonicity correlation, 16 groups, 3 maps", ours, each(lambda one: called(peer, one), OWN), 0.05)


def monotonicity() -> Row:
    w = world()
    peer = quantus_metric("Monotonicity", features_in_step=SIDE * SIDE // GROUPS, perturb_baseline="black", abs=False)
    score = w.score
    ours = each(lambda one: metrics.monotonicity(score, w.images, one, step=SIDE * SIDE // GROUPS), OWN)
    return Row(f"monotonicity, {GROUPS} steps, 3 maps", ours, each(lambda one: called(peer, one), OWN), None)


def sensitivity() -> Row:
    w = world()
    peer = quantus_metric("SensitivityN", features_in_step=SIDE * SIDE // GROUPS, perturb_baseline=0.0, abs=False,
                          n_max_percentage=0.8, return_aggregate=False)  # fmt: skip

    def ours() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        sets = [metrics.random_pixels((SIDE, SIDE), n, 16, generator=generator) for n in (64, 256, 1024, 2048)]
        lost = metrics.drops(w.score, w.images, torch.cat(sets))
        parts = list(zip(torch.split(lost, 16, 1), sets, strict=True))
        return torch.stack([metrics.faithfulness_correlation(m, d, s) for m in w.maps for d, s in parts])

    return Row("sensitivity-n, 64 forwards, 15 maps", ours, each(lambda one: called(peer, one)), None)


def superpixels(photo: Tensor) -> Tensor:
    from skimage.segmentation import slic

    return torch.as_tensor(slic(photo.movedim(0, -1).double().numpy(), start_label=0))


def irof() -> Row:
    w = world()
    peer = quantus_metric("IROF", perturb_baseline=0.0, abs=False, return_aggregate=False)

    def ours() -> Tensor:
        columns = []
        for b in range(BATCH):
            one = w.images[b : b + 1]
            score = metrics.scores_of(w.model, one, class_probability(int(w.classes[b])))
            masks = metrics.label_masks(superpixels(one[0]))
            columns.append(torch.cat([metrics.irof(score, one, m[b : b + 1], masks, baseline=0.0) for m in w.maps]))
        return torch.stack(columns, 1)

    def theirs(one: Tensor) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(np, "trapz", np.trapezoid, raising=False)
            return called(peer, one)

    return Row("IROF, superpixels by SLIC, 3 maps", ours, each(theirs, OWN), None)


def completeness() -> Row:
    w = world()
    peer = quantus_metric("Completeness", perturb_baseline="black", abs=False)

    def ours() -> Tensor:
        score = w.score
        return torch.stack([metrics.completeness_residual(score, w.images, m) for m in w.maps])

    return Row("completeness, 15 maps", ours, each(lambda one: called(peer, one)), None)


def truth(m: Tensor) -> dict[str, Any]:
    return {"s_batch": world().masks[:, None].numpy()}


def ranking() -> Row:
    w = world()
    peer = quantus_metric("RelevanceRankAccuracy", abs=False)
    ours = each(lambda one: metrics.rank_accuracy(one, w.masks))
    return Row("relevance rank accuracy, 15 maps", ours, each(lambda one: called(peer, one, **truth(one))), 0.02)


def top_k() -> Row:
    w = world()
    peer = quantus_metric("TopKIntersection", k=100, abs=False)
    ours = each(lambda one: metrics.rank_accuracy(one, w.masks, k=100))
    return Row("top-100 intersection, 15 maps", ours, each(lambda one: called(peer, one, **truth(one))))


def auc() -> Row:
    w = world()
    peer = quantus_metric("AUC", abs=False)
    ours = each(lambda one: metrics.roc_auc(one, w.masks))
    return Row("ROC AUC, 15 maps", ours, each(lambda one: called(peer, one, **truth(one))))


def effective() -> Row:
    peer = quantus_metric("EffectiveComplexity", abs=True, eps=1e-5)
    ours = each(metrics.effective_complexity)
    return Row("effective complexity, 15 maps", ours, each(lambda one: called(peer, one)))


EXPLAIN = quantus_explain(grad_cam, LAYER, signed=True)


def stability(name: str, what: str, ours: Callable[[Tensor], Tensor], **options: Any) -> Row:
    """Ten noisy copies of each scene, one method."""
    w = world()
    noise = 0.1 * torch.rand(SAMPLES, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    peer_options = {"nr_samples": SAMPLES, "return_nan_when_prediction_changes": False, "abs": False, **options}

    def theirs() -> Tensor:
        turns = iter(noise.numpy())

        def moved(arr: Any, indices: Any, **_: Any) -> Any:
            return arr + next(turns).reshape(1, -1)

        peer = quantus_metric(name, perturb_func=moved, **peer_options)
        return called(peer, w.cam(w.images), softmax=False, explain_func=EXPLAIN)

    return Row(f"{what}, {SAMPLES} samples", lambda: ours(noise), theirs, 2e-2)


def average() -> Row:
    w = world()
    run = lambda noise: metrics.max_sensitivity(w.cam, w.images, noise=noise, reduce="mean", chunk_size="auto")  # noqa: E731
    return stability("AvgSensitivity", "average sensitivity", run)


def lipschitz() -> Row:
    w = world()
    run = lambda noise: metrics.local_lipschitz(w.cam, w.images, noise=noise, chunk_size="auto")  # noqa: E731
    return stability("LocalLipschitzEstimate", "local Lipschitz", run)


def relative_input() -> Row:
    w = world()
    run = lambda noise: metrics.relative_input_stability(w.cam, w.images, noise=noise, chunk_size="auto")  # noqa: E731
    return stability("RelativeInputStability", "relative input stability", run)


def relative_output() -> Row:
    w = world()
    run = lambda noise: metrics.relative_output_stability(  # noqa: E731
        w.cam, w.images, w.model, noise=noise, chunk_size="auto"
    )
    return stability("RelativeOutputStability", "relative output stability", run)


def relative_representation() -> Row:
    w = world()
    run = lambda noise: metrics.relative_representation_stability(  # noqa: E731
        w.cam, w.images, lambda x: observe(w.model, LAYER)(x)[0], noise=noise, chunk_size="auto"
    )
    return stability("RelativeRepresentationStability", "relative representation stability", run, layer_names=[LAYER])


def efficient() -> Row:
    w = world()
    peer = quantus_metric("EfficientMPRT", abs=False, return_aggregate=False, skip_layers=True)

    def ours() -> Tensor:
        run = lambda net: explainer(grad_cam, net, LAYER)(w.images, w.classes)  # noqa: E731
        return metrics.efficient_randomization(run, w.model, generator=torch.Generator().manual_seed(0))

    return Row("efficient MPRT", ours, lambda: called(peer, w.cam(w.images), explain_func=EXPLAIN), None)


def logit() -> Row:
    w = world()
    peer = quantus_metric("RandomLogit", num_classes=10, abs=False)

    def ours() -> Tensor:
        run = lambda c: image.upsample(explainer(grad_cam, w.model, LAYER)(w.images, c), (SIDE, SIDE))  # noqa: E731
        similar = lambda a, b: metrics.ssim(image.normalize(a), image.normalize(b))  # noqa: E731
        generator = torch.Generator().manual_seed(0)
        return metrics.random_logit(run, w.classes, 10, generator=generator, similarity=similar)

    return Row("random logit, SSIM", ours, lambda: called(peer, w.cam(w.images), explain_func=EXPLAIN), None)


ROWS = (
    correlation, estimate, monotonicity_correlation, monotonicity, sensitivity, irof, completeness,
    ranking, top_k, auc, effective, average, lipschitz, relative_input, relative_output, relative_representation,
    efficient, logit,
)  # fmt: skip


def spent(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


@pytest.mark.parametrize("make", ROWS, ids=lambda make: make.__name__)
def test_beside_quantus(benchmark: BenchmarkFixture, make: Callable[[], Row]) -> None:
    row = make()
    found, expected = row.ours(), row.theirs()
    if row.off is not None:
        apart = (found.double() - expected.double()).abs().max() / expected.abs().max().clamp(min=1e-9)
        assert apart < row.off, f"{row.what}: {apart:.2g} apart"
    turns = [(spent(row.ours), spent(row.theirs)) for _ in range(3)]
    least, other = (min(times) for times in zip(*turns, strict=True))
    benchmark.pedantic(row.ours, rounds=1)  # type: ignore[no-untyped-call]
    benchmark.extra_info.update(kind="metrics", what=row.what, ours=least, quantus=other)
    print(f"\n| {row.what} | {1000 * least:.1f} ms | {1000 * other:.1f} ms | {other / least:.1f}x |")
