"""The rows of `benchmarks/test_quantus.py`: one or several metrics of Quantus, and their twins."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camfn import explainer, image, metrics, observe, tiny
from camfn.adapters import quantus_explain
from camfn.methods import grad_cam
from camfn.targets import class_probability

BATCH, MAPS, OWN, LAYER, SIDE = 8, 15, 3, "net.body.4", 64
GROUPS, SETS, SAMPLES = 64, 50, 10
STEP = SIDE * SIDE // GROUPS
Numbers = list[Tensor]


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
        """The probability of each class, shared by the metrics of a row."""
        target = class_probability(self.classes.tolist())
        return metrics.shared(metrics.scores_of(self.model, self.images, target))

    def cam(self, x: Tensor) -> Tensor:
        """Grad-CAM at the size of the images."""
        return image.upsample(explainer(grad_cam, self.model, LAYER)(x, self.classes), (SIDE, SIDE))


@lru_cache(maxsize=1)
def world() -> World:
    """The one world of all rows."""
    scenes = tiny.scenes(BATCH, generator=torch.Generator().manual_seed(0))
    coarse = torch.rand(MAPS, BATCH, 7, 7, generator=torch.Generator().manual_seed(1))
    maps = [image.upsample(one, (SIDE, SIDE)) for one in coarse]
    images = scenes.images.mean(1, keepdim=True).contiguous()
    return World(Gray().eval(), images, scenes.labels[:, 0], maps, scenes.masks[:, 0].bool())


class Row(NamedTuple):
    """One or several metrics of both.

    Attributes:
        what: what the table calls it.
        ours: camfn's numbers of all maps.
        theirs: Quantus'.
        off: how far apart they may be; None where they are not the same by design.
    """

    what: str
    ours: Callable[[], Numbers]
    theirs: Callable[[], Numbers]
    off: float | None = 1e-4


def quantus_metric(name: str, **options: Any) -> Any:
    """A metric of Quantus that takes maps as they are, or a skip."""
    quantus = pytest.importorskip("quantus", reason="needs Quantus: pip install quantus")
    return getattr(quantus, name)(normalise=False, disable_warnings=True, **{"abs": False, **options})


def called(peer: Any, heatmap: Tensor | None, *, softmax: bool = True, **more: Any) -> Tensor:
    """Call a metric of Quantus with a map of each scene, or with an explanation."""
    w = world()
    given = {"a_batch": None if heatmap is None else heatmap[:, None].numpy()}
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(np, "trapz", np.trapezoid, raising=False)
        found = peer(
            model=w.model,
            x_batch=w.images.numpy(),
            y_batch=w.classes.numpy(),
            device="cpu",
            softmax=softmax,
            **{**given, **more},
        )
    return torch.empty(0) if isinstance(found, dict) else torch.as_tensor(np.array(found, dtype=float))


def of_maps(run: Callable[[Tensor], Tensor], count: int = MAPS) -> Callable[[], Numbers]:
    """Run a metric once for each of so many maps."""
    return lambda: [run(one) for one in world().maps[:count]]


def calls_of(peers: Sequence[Any], count: int = MAPS, **more: Any) -> Callable[[], Numbers]:
    """Call metrics of Quantus for each of so many maps."""
    return lambda: [called(peer, one, **more) for peer in peers for one in world().maps[:count]]


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
    options = {"nr_runs": SETS, "subset_size": 512, "perturb_baseline": 0.0, "return_aggregate": False}
    peer = quantus_metric("FaithfulnessCorrelation", **options)

    def theirs() -> Numbers:
        found = []
        for heatmap in w.maps:
            np.random.seed(0)  # noqa: NPY002
            found.append(called(peer, heatmap))
        return found

    def ours() -> Numbers:
        lost = metrics.drops(w.score, w.images, sets)
        return [metrics.faithfulness_correlation(one, lost, sets) for one in w.maps]

    return Row(f"faithfulness correlation, {SETS} sets of 512 pixels, 15 maps", ours, theirs, 1e-3)


def sensitivity() -> Row:
    w = world()
    options = {"features_in_step": STEP, "perturb_baseline": 0.0, "n_max_percentage": 0.8, "return_aggregate": False}

    def ours() -> Numbers:
        generator = torch.Generator().manual_seed(0)
        sets = [metrics.random_pixels((SIDE, SIDE), n, 16, generator=generator) for n in (64, 256, 1024, 2048)]
        lost = metrics.drops(w.score, w.images, torch.cat(sets))
        parts = list(zip(torch.split(lost, 16, 1), sets, strict=True))
        return [metrics.faithfulness_correlation(m, d, s) for m in w.maps for d, s in parts]

    return Row("sensitivity-n, 64 forwards, 15 maps", ours, calls_of([quantus_metric("SensitivityN", **options)]), None)


def infidelity() -> Row:
    w = world()
    peer = quantus_metric("Infidelity", n_perturb_samples=1, perturb_patch_sizes=[8], perturb_baseline=0.0)

    def ours() -> Numbers:
        noise = 0.2 * torch.randn(GROUPS, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        score = w.score
        lost = metrics.noise_drops(score, w.images, noise)
        return [metrics.infidelity(score, w.images, m, noise=noise, drops=lost) for m in w.maps]

    return Row(f"infidelity, {GROUPS} forwards, 15 maps", ours, calls_of([peer]), None)


def completeness() -> Row:
    w = world()

    def ours() -> Numbers:
        score = w.score
        drop = score(w.images) - score(torch.zeros_like(w.images))
        return [metrics.completeness_residual(score, w.images, m, drop=drop) for m in w.maps]

    theirs = calls_of([quantus_metric("Completeness", perturb_baseline="black")])
    return Row("completeness, 15 maps", ours, theirs, None)


def localized(what: str, name: str, run: Callable[[Tensor], Tensor], off: float | None = 1e-4, **options: Any) -> Row:
    """A metric of a map and the digit's mask."""
    peer = quantus_metric(name, **options)
    return Row(f"{what}, 15 maps", of_maps(run), calls_of([peer], s_batch=world().masks[:, None].numpy()), off)


def ranking() -> Row:
    run = lambda one: metrics.rank_accuracy(one, world().masks)  # noqa: E731
    return localized("relevance rank accuracy", "RelevanceRankAccuracy", run, 0.02)


def top_k() -> Row:
    run = lambda one: metrics.rank_accuracy(one, world().masks, k=100)  # noqa: E731
    return localized("top-100 intersection", "TopKIntersection", run, k=100)


def auc() -> Row:
    return localized("ROC AUC", "AUC", lambda one: metrics.roc_auc(one, world().masks))


def pointing() -> Row:
    run = lambda one: metrics.pointing_game(one, world().masks, tolerance=0)  # noqa: E731
    return localized("pointing game", "PointingGame", run, None)


def mass() -> Row:
    run = lambda one: metrics.energy_in_box(one, world().masks)  # noqa: E731
    return localized("relevance mass accuracy", "RelevanceMassAccuracy", run)


def attribution() -> Row:
    run = lambda one: metrics.energy_in_box(one, world().masks)  # noqa: E731
    return localized("attribution localisation", "AttributionLocalisation", run)


def effective() -> Row:
    peer = quantus_metric("EffectiveComplexity", abs=True, eps=1e-5)
    return Row("effective complexity, 15 maps", of_maps(metrics.effective_complexity), calls_of([peer]))


def sparse() -> Row:
    peer = quantus_metric("Sparseness", abs=True)
    return Row("sparseness, 15 maps", of_maps(metrics.sparseness), calls_of([peer]), 1e-3)


def entropic() -> Row:
    peer = quantus_metric("Complexity", abs=True)
    return Row("complexity (entropy), 15 maps", of_maps(metrics.entropy), calls_of([peer]), 1e-3)


def sufficient() -> Row:
    w = world()

    def ours() -> Numbers:
        with torch.no_grad():
            classes = w.model(w.images).argmax(1)
        return [metrics.sufficiency(one, classes) for one in w.maps]

    return Row("sufficiency, 15 maps", ours, calls_of([quantus_metric("Sufficiency")]), None)


def consistent() -> Row:
    w = world()

    def ours() -> Numbers:
        with torch.no_grad():
            classes = w.model(w.images).argmax(1)
        signs = lambda maps: maps.flatten(1)[:, :5].sign()  # noqa: E731
        return [metrics.consistency(one, classes, discretize=signs) for one in w.maps]

    return Row("consistency, 15 maps", ours, calls_of([quantus_metric("Consistency")]), 1e-6)


def superpixels(photo: Tensor) -> Tensor:
    """Cut a photo as Quantus does."""
    from skimage.segmentation import slic

    return metrics.label_masks(torch.as_tensor(slic(photo.movedim(0, -1).double().numpy(), start_label=0)))


def irof() -> Row:
    w = world()
    peer = quantus_metric("IROF", perturb_baseline=0.0, return_aggregate=False)

    def ours() -> Numbers:
        masks, score = torch.nn.utils.rnn.pad_sequence([superpixels(one) for one in w.images]), w.score
        return [metrics.irof(score, w.images, m, masks, baseline=0.0) for m in w.maps[:OWN]]

    return Row("IROF, superpixels by SLIC, 3 maps", ours, calls_of([peer], OWN), None)


def estimate_of(score: Any) -> Callable[[Tensor], Tensor]:
    return lambda one: metrics.faithfulness_estimate(score, world().images, one, groups=GROUPS)


def monotone_of(score: Any) -> Callable[[Tensor], Tensor]:
    values = torch.zeros(1, 1, SIDE, SIDE)
    return lambda one: metrics.monotonicity_correlation(score, world().images, one, groups=GROUPS, values=values)


def peer_estimate() -> Any:
    return quantus_metric("FaithfulnessEstimate", features_in_step=STEP, perturb_baseline=0.0)


def peer_monotone() -> Any:
    return quantus_metric(
        "MonotonicityCorrelation", features_in_step=STEP, perturb_baseline=0.0, nr_samples=1, abs=True
    )


def groups() -> Row:
    def ours() -> Numbers:
        score = world().score
        return [*of_maps(estimate_of(score), OWN)(), *of_maps(monotone_of(score), OWN)()]

    what = f"faithfulness estimate and monotonicity correlation, {GROUPS} groups, 3 maps"
    return Row(what, ours, calls_of([peer_estimate(), peer_monotone()], OWN), 0.1)


def estimate() -> Row:
    theirs = calls_of([peer_estimate()], OWN)
    ours = lambda: of_maps(estimate_of(world().score), OWN)()  # noqa: E731
    return Row(f"faithfulness estimate, {GROUPS} groups, 3 maps", ours, theirs, 0.05)


def monotonicity_correlation() -> Row:
    theirs = calls_of([peer_monotone()], OWN)
    ours = lambda: of_maps(monotone_of(world().score), OWN)()  # noqa: E731
    return Row(f"monotonicity correlation, {GROUPS} groups, 3 maps", ours, theirs, 0.1)


def own(what: str, peer: Any, run: Callable[[Any, Tensor], Tensor], off: float | None = None) -> Row:
    """A metric whose forwards follow the order of each map."""

    def ours() -> Numbers:
        score = world().score
        return [run(score, one) for one in world().maps[:OWN]]

    return Row(f"{what}, 3 maps", ours, calls_of([peer], OWN), off)


def monotonicity() -> Row:
    peer = quantus_metric("Monotonicity", features_in_step=STEP, perturb_baseline="black")
    run = lambda score, one: metrics.monotonicity(score, world().images, one, step=STEP)  # noqa: E731
    return own(f"monotonicity, {GROUPS} steps", peer, run)


def flipping() -> Row:
    peer = quantus_metric("PixelFlipping", features_in_step=STEP, perturb_baseline=0.0)
    run = lambda score, one: metrics.deletion(score, world().images, one, step=STEP).scores[:, 1:]  # noqa: E731
    return own(f"pixel flipping, {GROUPS} steps", peer, run, 0.05)


def perturbation() -> Row:
    peer = quantus_metric("RegionPerturbation", patch_size=16, regions_evaluation=16, perturb_baseline=0.0)
    squares = metrics.grid_cells((SIDE, SIDE), 4)
    run = lambda score, one: metrics.region_curve(score, world().images, one, squares).scores  # noqa: E731
    return own("region perturbation, 16 squares", peer, run)


def selectivity() -> Row:
    peer = quantus_metric("Selectivity", patch_size=8, perturb_baseline=0.0)
    squares = metrics.grid_cells((SIDE, SIDE), 8)
    run = lambda score, one: metrics.region_curve(score, world().images, one, squares).scores  # noqa: E731
    return own("selectivity, 64 squares", peer, run)


def road() -> Row:
    peer = quantus_metric("ROAD", percentages=[10, 30, 50, 70], noise=0.0)
    shares = (0.1, 0.3, 0.5, 0.7)
    run = lambda score, one: metrics.road(score, world().images, one, shares=shares, std=0.0).average  # noqa: E731
    return own("ROAD, 4 shares", peer, run)


EXPLAIN = quantus_explain(grad_cam, LAYER, signed=True)


@lru_cache(maxsize=1)
def noise() -> Tensor:
    """Ten perturbations, (n, 1, H, W)."""
    return 0.1 * torch.rand(SAMPLES, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def moving(name: str, **options: Any) -> Tensor:
    """Call a robustness metric of Quantus with these perturbations."""
    turns = iter(noise().numpy())

    def moved(arr: Any, indices: Any, **_: Any) -> Any:
        return arr + next(turns).reshape(1, -1)

    given = {"nr_samples": SAMPLES, "return_nan_when_prediction_changes": False, **options}
    peer = quantus_metric(name, perturb_func=moved, **given)
    return called(peer, world().cam(world().images), softmax=False, explain_func=EXPLAIN)


def represent(x: Tensor) -> Tensor:
    """The layer's output, before its pooling."""
    return observe(world().model, LAYER)(x)[0]


STABLE: dict[str, tuple[Callable[..., Tensor], dict[str, Any], bool]] = {
    "MaxSensitivity": (metrics.max_sensitivity, {}, False),
    "AvgSensitivity": (lambda *given, **more: metrics.max_sensitivity(*given, reduce="mean", **more), {}, False),
    "LocalLipschitzEstimate": (metrics.local_lipschitz, {}, False),
    "RelativeInputStability": (metrics.relative_input_stability, {}, False),
    "RelativeOutputStability": (metrics.relative_output_stability, {}, True),
    "RelativeRepresentationStability": (
        metrics.relative_representation_stability,
        {"layer_names": [f"{LAYER}.2"]},
        True,
    ),
}
"""Quantus' name, camfn's function, options of Quantus, and whether it looks at something beside the map."""


def stabilities(names: Sequence[str], what: str) -> Row:
    """Robustness metrics of one method and ten noisy copies of each scene."""

    def ours() -> Numbers:
        w = world()
        explain = metrics.shared(w.cam)
        looks = {"RelativeOutputStability": w.model, "RelativeRepresentationStability": represent}
        found = []
        for name in names:
            given = (explain, w.images, looks[name]) if STABLE[name][2] else (explain, w.images)
            found.append(STABLE[name][0](*given, noise=noise()))
        return found

    theirs = lambda: [moving(name, **STABLE[name][1]) for name in names]  # noqa: E731
    return Row(f"{what}, {SAMPLES} samples", ours, theirs, 2e-2)


def robustness() -> Row:
    return stabilities(list(STABLE), "maximum and average sensitivity, Lipschitz, three relative stabilities")


def maximum() -> Row:
    return stabilities(["MaxSensitivity"], "maximum sensitivity")


def average() -> Row:
    return stabilities(["AvgSensitivity"], "average sensitivity")


def lipschitz() -> Row:
    return stabilities(["LocalLipschitzEstimate"], "local Lipschitz")


def relative_input() -> Row:
    return stabilities(["RelativeInputStability"], "relative input stability")


def relative_output() -> Row:
    return stabilities(["RelativeOutputStability"], "relative output stability")


def relative_representation() -> Row:
    return stabilities(["RelativeRepresentationStability"], "relative representation stability")


def on_networks(what: str, peer: Any, ours: Callable[[], Tensor]) -> Row:
    """A sanity check: maps of other networks or classes."""
    theirs = lambda: [called(peer, world().cam(world().images), explain_func=EXPLAIN)]  # noqa: E731
    return Row(what, lambda: [ours()], theirs, None)


def cascade() -> Row:
    w = world()
    run = lambda net: explainer(grad_cam, net, LAYER)(w.images, w.classes)  # noqa: E731
    return on_networks(
        "MPRT, 11 modules",
        quantus_metric("MPRT", layer_order="top_down"),
        lambda: metrics.randomization(run, w.model, generator=torch.Generator().manual_seed(0)).similarity,
    )


def efficient() -> Row:
    w = world()
    run = lambda net: explainer(grad_cam, net, LAYER)(w.images, w.classes)  # noqa: E731
    return on_networks(
        "efficient MPRT",
        quantus_metric("EfficientMPRT", return_aggregate=False, skip_layers=True),
        lambda: metrics.efficient_randomization(run, w.model, generator=torch.Generator().manual_seed(0)),
    )


def logit() -> Row:
    w = world()
    similar = lambda a, b: metrics.ssim(image.normalize(a), image.normalize(b))  # noqa: E731
    run = lambda c: image.upsample(explainer(grad_cam, w.model, LAYER)(w.images, c), (SIDE, SIDE))  # noqa: E731

    def ours() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return metrics.random_logit(run, w.classes, 10, generator=generator, similarity=similar)

    return on_networks("random logit, SSIM", quantus_metric("RandomLogit", num_classes=10), ours)


ROWS = (
    correlation, sensitivity, infidelity, completeness, ranking, top_k, auc, pointing, mass, attribution, effective,
    sparse, entropic, sufficient, consistent, road, robustness, efficient,
)  # fmt: skip
"""What a comparison asks of the photos."""

ALONE = (
    groups, estimate, monotonicity_correlation, monotonicity, flipping, perturbation, selectivity, maximum, average,
    lipschitz, relative_input, relative_output, relative_representation, irof, cascade, logit,
)  # fmt: skip
"""Metrics with forwards or explanations of their own."""
