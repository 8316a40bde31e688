"""The public API as a table of calls, each on a world of small networks and images that may lie on any device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

import camfn
from camfn import attention, factorize, image, layers, layout, methods, metrics, network, targets, transforms, words
from tests.nets.small import Net, images, seeded
from tests.nets.transformer import transformer

LAYER = "blocks.0"


@dataclass(frozen=True)
class World:
    """Networks and images on one device, and the function that puts other tensors there."""

    net: nn.Module
    vit: nn.Module
    x: Tensor
    put: Callable[[Tensor], Tensor]

    @property
    def heat(self) -> Tensor:
        return self.x[:, 0].sigmoid()

    @property
    def cells(self) -> Tensor:
        return self.put(metrics.grid_cells((12, 16), 2))

    @property
    def classes(self) -> Tensor:
        return self.put(torch.tensor([1, 2]))

    def score(self) -> Any:
        return metrics.scores_of(self.net, self.x, targets.class_probability(1))

    def explain(self, method: Callable[..., Tensor], target: Any = 1) -> Tensor:
        return camfn.explainer(method, self.net, LAYER)(self.x, target)


Call: TypeAlias = Callable[[World], Any]


def world(dtype: torch.dtype = torch.float32) -> World:
    """The world on the CPU."""
    x = images(2, 3, 12, 16, dtype=dtype)
    return World(seeded(Net, dtype=dtype), seeded(transformer, dtype=dtype), x, lambda tensor: tensor)


def draws() -> torch.Generator:
    """A generator of the CPU, which draws the same numbers for every device."""
    return torch.Generator().manual_seed(0)


def cam_of(w: World) -> Callable[[Tensor], Tensor]:
    """Images to maps of class 1."""
    return lambda x: camfn.explainer(methods.grad_cam, w.net, LAYER)(x, 1)


def _method(name: str) -> Call:
    options: dict[str, Callable[[World], dict[str, Any]]] = {
        "cam": lambda w: {"weights": w.put(torch.arange(-2.5, 3.0))},
        "tam": lambda w: {"weights": w.put(torch.arange(-2.5, 3.0))},
        "random_cam": lambda w: {"generator": draws()},
        "ss_cam": lambda w: {"generator": draws(), "samples": 2},
        "is_cam": lambda w: {"steps": 2},
        "group_cam": lambda w: {"groups": 2},
        "opti_cam": lambda w: {"steps": 3},
        "vit_cx": lambda w: {"generator": draws()},
        "rise": lambda w: {"generator": draws(), "samples": 6},
        "d_rise": lambda w: {"generator": draws(), "samples": 6},
        "sobol": lambda w: {"designs": 2, "grid": 2},
        "region_search": lambda w: {"grid": 2},
        "hsic": lambda w: {"generator": draws(), "samples": 6, "grid": 2},
    }
    given = options.get(name, lambda w: {})
    return lambda w: w.explain(partial(getattr(methods, name), **given(w)), w.classes)  # type: ignore[no-untyped-call]


def _network(name: str) -> Call:
    if name == "guided_grad_cam":
        return lambda w: network.guided_grad_cam(w.net, LAYER)(w.x, w.classes)
    if name == "smooth_grad_cam_plusplus":
        return lambda w: network.smooth_grad_cam_plusplus(w.net, LAYER, generator=draws(), samples=2)(w.x, w.classes)
    options: dict[str, Callable[[], dict[str, Any]]] = {
        "smooth_full_grad": lambda: {"generator": draws(), "samples": 2},
        "smooth_grad": lambda: {"generator": draws(), "samples": 2},
        "integrated_gradients": lambda: {"steps": 3, "baseline": 0.1},
        "idgi": lambda: {"steps": 3},
        "guided_ig": lambda: {"steps": 3},
        "expected_gradients": lambda: {"generator": draws(), "samples": 3, "references": 0.1},
    }
    given = options.get(name, lambda: dict[str, Any]())
    return lambda w: getattr(network, name)(w.net, **given())(w.x, w.classes)


def _attention(name: str) -> Call:
    return lambda w: attention.attention_explainer(getattr(attention, name), w.vit, grid=(3, 4))(w.x, w.classes)


def _target(target: Callable[[World], Any]) -> Call:
    return lambda w: w.explain(methods.grad_cam, target(w))


METHODS: dict[str, Call] = {name: _method(name) for name in methods.__all__}
NETWORK: dict[str, Call] = {f"network.{name}": _network(name) for name in network.__all__}
ATTENTION: dict[str, Call] = {
    f"attention.{name}": _attention(name)
    for name in ("attention_rollout", "grad_eclip", "gradient_rollout", "le_grad", "raw_attention")
}
CUTS: dict[str, Call] = {
    "capture": lambda w: camfn.capture(w.net, LAYER)(w.x, None),
    "capture by a list": lambda w: camfn.capture(w.net, LAYER)(w.x, [1, 2]),
    "capture_many": lambda w: list(camfn.capture_many(w.net, ["stem.0", LAYER])(w.x, w.classes).values()),
    "capture_each": lambda w: camfn.capture_each(w.net, LAYER)(w.x, [targets.class_score(1), targets.class_score(2)]),
    "capture_levels": lambda w: list(camfn.capture_levels(w.net, ["stem.0", LAYER])(w.x, [1, 2]).values()),
    "observe": lambda w: camfn.observe(w.net, LAYER)(w.x),
    "resume": lambda w: camfn.resume(w.net, LAYER)(w.x)(camfn.observe(w.net, LAYER)(w.x)[0]),
    "vmap over classes": lambda w: torch.vmap(lambda c: w.explain(methods.grad_cam, c))(w.classes),
    "capture_attention": lambda w: attention.capture_attention(w.vit)(w.x, 1).outputs,
}
TARGETS: dict[str, Call] = {
    "class_probability": _target(lambda w: targets.class_probability([1, 2])),
    "rest": _target(lambda w: targets.rest(w.classes)),
    "contrast": _target(lambda w: targets.contrast(1)),
    "contrast weighted": _target(lambda w: targets.contrast(w.classes, [0, 3], weighted=True)),
    "several": _target(lambda w: targets.several([1, 2])),
    "similarity": _target(lambda w: targets.similarity(torch.arange(5.0) + 1)),
}
TRANSFORMS: dict[str, Call] = {
    "fuse": lambda w: transforms.fuse(methods.grad_cam, w.net, ["stem.0", LAYER], how="weighted", weights=[1.0, 2.0])(
        w.x, w.classes
    ),
    "augment": lambda w: transforms.augment(camfn.explainer(methods.grad_cam, w.net, LAYER), "flips")(w.x, w.classes),
    "smooth": lambda w: transforms.smooth(camfn.explainer(methods.grad_cam, w.net, LAYER), 2, generator=draws())(
        w.x, w.classes
    ),
    "multi_scale": lambda w: transforms.multi_scale(methods.grad_cam, w.net, LAYER, sizes=[(12, 16), (18, 24)])(
        w.x, w.classes
    ),
    "path_integral": lambda w: transforms.path_integral(methods.grad_cam, w.net, LAYER, space="inputs", steps=3)(
        w.x, w.classes
    ),
    "windows": lambda w: transforms.windows(camfn.explainer(methods.grad_cam, w.net, LAYER), 8, weights="gaussian")(
        w.x, w.classes
    ),
    "eigen_smooth": lambda w: w.explain(transforms.eigen_smooth(methods.grad_cam), w.classes),
}
IMAGES: dict[str, Call] = {
    "normalize": lambda w: image.normalize(w.x[:, 0]),
    "normalize signed": lambda w: image.normalize(w.x[:, 0], signed=True),
    "upsample": lambda w: image.upsample(w.heat, (24, 32)),
    "overlay": lambda w: image.overlay(w.x.sigmoid(), w.heat),
    "overlay like grad-cam": lambda w: image.overlay(w.x.sigmoid(), w.x[:, 0], like="grad-cam"),
    "read": lambda w: image.read(w.x[0].sigmoid()),
    "colorize": lambda w: image.colorize(w.heat, "viridis"),
    "relief": lambda w: image.relief(w.x),
    "slices": lambda w: image.slices(w.x.sigmoid()[0], w.heat, count=3),
    "curve": lambda w: image.curve(w.x[0, 0], w.heat[0, 0]),
    "peer_postprocess": lambda w: image.peer_postprocess(w.x[:, 0], (24, 32)),
    "to_mask": lambda w: image.to_mask(w.heat),
    "to_boxes": lambda w: image.to_boxes(w.heat, threshold=0.9),
    "by_region": lambda w: image.by_region(w.heat, w.x[:, 1] > 0),
    "montage": lambda w: image.montage([w.x[0].sigmoid(), w.x[1].sigmoid()]),
}
METRICS: dict[str, Call] = {
    "deletion": lambda w: metrics.deletion(w.score(), w.x, w.heat, step=0.1),
    "insertion": lambda w: metrics.insertion(
        w.score(), w.x, w.heat, step=0.1, baseline=lambda x: metrics.blur(x, 3, 1.0)
    ),
    "pixel_flipping": lambda w: metrics.pixel_flipping(w.score(), w.x, w.heat, side=4, step=1),
    "road": lambda w: metrics.road(w.score(), w.x, w.heat, generator=draws()),
    "road_combined": lambda w: metrics.road_combined(w.score(), w.x, w.heat, shares=(0.2, 0.5), generator=draws()),
    "impute": lambda w: metrics.impute(w.x, w.heat > 0.6),
    "drops": lambda w: metrics.drops(w.score(), w.x, w.cells),
    "single_deletion": lambda w: metrics.single_deletion(w.heat, w.x[:, 0, 0, :4], w.cells),
    "faithfulness_correlation": lambda w: metrics.faithfulness_correlation(w.heat, w.x[:, 0, 0, :4], w.cells),
    "saco": lambda w: metrics.saco(w.score(), w.x, w.heat, groups=4),
    "mean_color": lambda w: metrics.mean_color(w.x),
    "faithfulness_estimate": lambda w: metrics.faithfulness_estimate(w.score(), w.x, w.heat, groups=4),
    "monotonicity": lambda w: metrics.monotonicity(w.score(), w.x, w.heat, step=0.2),
    "monotonicity_correlation": lambda w: metrics.monotonicity_correlation(
        w.score(), w.x, w.heat, groups=3, samples=2, generator=draws()
    ),
    "non_sensitivity": lambda w: metrics.non_sensitivity(w.heat, w.x[:, 0, 0, :4], w.cells),
    "irof": lambda w: metrics.irof(w.score(), w.x, w.heat, w.cells),
    "f_fidelity": lambda w: metrics.f_fidelity(w.score(), w.x, w.heat, shares=(0.2, 1.0), samples=2, generator=draws()),
    "completeness": lambda w: metrics.completeness(w.score(), w.x, w.heat, values=(0.2, 0.5)),
    "soundness": lambda w: metrics.soundness(w.score(), w.x, w.heat, shares=(0.2, 0.5), baseline=0.0),
    "noise_drops": lambda w: metrics.noise_drops(w.score(), w.x, w.x),
    "shared": lambda w: metrics.shared(w.score())(w.x),
    "completeness_residual": lambda w: metrics.completeness_residual(w.score(), w.x, w.heat),
    "effective_complexity": lambda w: metrics.effective_complexity(w.heat),
    "rank_accuracy": lambda w: metrics.rank_accuracy(w.heat, w.x[:, 1] > 0),
    "roc_auc": lambda w: metrics.roc_auc(w.heat, w.x[:, 1] > 0),
    "sufficiency": lambda w: metrics.sufficiency(w.heat, w.classes),
    "consistency": lambda w: metrics.consistency(w.heat, w.classes),
    "label_masks": lambda w: metrics.label_masks((w.heat[0] * 4).long()),
    "region_curve": lambda w: metrics.region_curve(w.score(), w.x, w.heat, w.cells),
    "region_sums": lambda w: metrics.region_sums(w.heat, w.cells),
    "random_cells": lambda w: metrics.random_cells(w.cells, 2, 3, generator=draws()),
    "infidelity": lambda w: metrics.infidelity(w.score(), w.x, w.heat, generator=draws(), samples=4),
    "average_drop": lambda w: metrics.average_drop(w.score()(w.x), w.score()(0.5 * w.x)),
    "masked": lambda w: metrics.masked(w.x, w.heat),
    "complexity": lambda w: metrics.complexity(w.heat),
    "entropy": lambda w: metrics.entropy(w.heat),
    "sparseness": lambda w: metrics.sparseness(w.heat),
    "coherency": lambda w: metrics.coherency(w.heat, w.x[:, 1].sigmoid()),
    "spearman": lambda w: metrics.spearman(w.heat, w.x[:, 1]),
    "ssim": lambda w: metrics.ssim(w.heat, w.x[:, 1].sigmoid()),
    "most_relevant": lambda w: metrics.most_relevant(w.heat, 0.3),
    "pointing_game": lambda w: metrics.pointing_game(w.heat, w.x[:, 1] > 0),
    "energy_in_box": lambda w: metrics.energy_in_box(w.heat, w.x[:, 1] > 0),
    "iou": lambda w: metrics.iou(w.heat, w.x[:, 1] > 0),
    "energy_in_box of boxes": lambda w: metrics.energy_in_box(
        w.heat, w.put(torch.tensor([[2, 2, 9, 9], [0, 0, 4, 8]]))
    ),
}
OTHERS: dict[str, Call] = {
    "prepare": lambda w: camfn.explainer(methods.grad_cam, camfn.prepare(w.net, w.x), LAYER)(w.x, w.classes),
    "max_sensitivity": lambda w: metrics.max_sensitivity(
        lambda x: camfn.explainer(methods.grad_cam, w.net, LAYER)(x, 1), w.x, generator=draws(), samples=3
    ),
    "sensitivity_n": lambda w: metrics.sensitivity_n(
        w.score(), w.x, w.heat, sizes=(1, 2), masks=w.cells, samples=3, generator=draws()
    ),
    "local_lipschitz": lambda w: metrics.local_lipschitz(cam_of(w), w.x, generator=draws(), samples=3),
    "relative_input_stability": lambda w: metrics.relative_input_stability(
        cam_of(w), w.x, generator=draws(), samples=3
    ),
    "relative_output_stability": lambda w: metrics.relative_output_stability(
        cam_of(w), w.x, w.net, generator=draws(), samples=3
    ),
    "relative_representation_stability": lambda w: metrics.relative_representation_stability(
        cam_of(w), w.x, lambda x: camfn.observe(w.net, LAYER)(x)[0], generator=draws(), samples=3
    ),
    "continuity": lambda w: metrics.continuity(cam_of(w), w.x, shifts=(-1, 2)),
    "random_logit": lambda w: metrics.random_logit(
        lambda c: camfn.explainer(methods.grad_cam, w.net, LAYER)(w.x, c), w.classes, 5, generator=draws()
    ),
    "efficient_randomization": lambda w: metrics.efficient_randomization(
        lambda net: camfn.explainer(methods.grad_cam, net, LAYER)(w.x, 1), w.net, generator=draws()
    ),
    "input_invariance": lambda w: metrics.input_invariance(
        lambda net, x: camfn.explainer(methods.hires_cam, net, LAYER)(x, 1).relu() + 1, w.net, w.x
    ),
    "trace": lambda w: metrics.trace(
        w.score(), w.x, w.heat, w.cells, metrics.trace_ceiling(w.score(), w.x, w.cells, how="exact")
    ),
    "trace_ceiling": lambda w: metrics.trace_ceiling(w.score(), w.x, w.cells, generator=draws(), orders=2).best.auc,
    "box_ious": lambda w: metrics.box_ious(w.heat, [torch.tensor([[2, 2, 9, 9]]), torch.tensor([[0, 0, 4, 8]])]),
    "pxap": lambda w: metrics.pxap(w.heat, w.x[:, 1] > 0),
    "confidence_change": lambda w: metrics.confidence_change(w.score()(w.x), w.score()(0.5 * w.x)),
    "average_gain": lambda w: metrics.average_gain(w.score()(w.x), w.score()(0.5 * w.x)),
    "concepts": lambda w: image.concepts(w.x.sigmoid(), w.x.sigmoid()[:, :2]),
    "nnls": lambda w: factorize.nnls(w.x.flatten(2).abs().mT, w.x[0].flatten(1).abs()[:2, :3]),
    "suggest": lambda w: [s._replace(layout=None) for s in layers.suggest(w.net, w.x)],
    "layout.find": lambda w: layout.find(w.net, LAYER, w.x) is None,
    "diagnose": lambda w: camfn.diagnose(captured := camfn.capture(w.net, LAYER)(w.x, 1), methods.grad_cam(*captured)),
    "concept_importance": lambda w: factorize.concept_importance(
        w.x.abs(), w.x[0].flatten(1).abs()[:, :4], lambda a: a.square().mean((1, 2, 3))
    ),
    "deep_feature_factorization": lambda w: factorize.deep_feature_factorization(
        camfn.observe(w.net, LAYER)(w.x)[0].relu(), 2
    ),
}
ANSWER = [7, 8, 9]


def _multimodal(w: World) -> tuple[nn.Module, dict[str, Tensor]]:
    """A tiny LLaVA, and a prompt with one picture, where the world puts tensors."""
    import transformers  # an extra: who has no transformers skips these calls

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    tower = {**sizes, "model_type": "clip_vision_model", "image_size": 32, "patch_size": 16}
    text = {**sizes, "model_type": "llama", "vocab_size": 99}
    config = transformers.LlavaConfig(vision_config=tower, text_config=text, image_token_id=98, vision_feature_layer=-1)
    net = seeded(lambda: transformers.LlavaForConditionalGeneration(config))
    for part in net.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(w.put(parameter.detach()), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = w.put(buffer)
    inputs = {"input_ids": torch.tensor([[1, 98, 98, 98, 98, 5, 6]]), "pixel_values": images(1, 3, 32, 32)}
    return net, {key: w.put(value) for key, value in inputs.items()}


def _words(call: Callable[..., Any], *given: Any, **options: Any) -> Call:
    return lambda w: call(*_multimodal(w), *given, **options)


HALVES = torch.tensor([[[True, False]], [[False, True]]])

WORDS: dict[str, Call] = {
    "words.spans": _words(words.spans),
    "words.forced": _words(words.forced, ANSWER),
    "words.explain": _words(words.explain, ANSWER),
    "words.explain by gradients": _words(words.explain, ANSWER, method="grad_cam"),
    "words.explain by attention": _words(words.explain, ANSWER, method="gradient_rollout"),
    "words.explain, an answer of its own": _words(words.explain, 2, method="raw_attention"),
    "words.drops": _words(words.drops, ANSWER),
    "words.carried": _words(words.carried, ANSWER),
    "words.hide": _words(words.hide, [HALVES[0]]),
    "words.draw": lambda w: words.draw(
        words.explain(*_multimodal(w), ANSWER), w.x[0].sigmoid(), ["a", "b", "c"], cell=20
    ),
    "words.object_iou": lambda w: words.object_iou(w.heat, w.x[0, 1] > 0),
    "words.function_iou": lambda w: words.function_iou(w.heat, 0.5),
    "words.f1_iou": lambda w: words.f1_iou(w.heat[0, 0], w.heat[1, 0]),
    "words.corrections": lambda w: words.corrections(w.heat[0] > 0.6, w.heat[0]),
    "words.when_shown": lambda w: words.when_shown(*_multimodal(w), ANSWER, 1)(w.x[:1, :1].sigmoid()),
    "words.region_curves": _words(words.region_curves, ANSWER, HALVES, torch.tensor([[1.0, 2.0]])),
}
CALLS: dict[str, Call] = METHODS | NETWORK | ATTENTION | CUTS | TARGETS | TRANSFORMS | IMAGES | METRICS | OTHERS | WORDS

EIGEN = 1
"""Decompositions on CUDA report to the host whether they converged."""

WAITS: dict[str, int] = {
    # ids, masks and placeholders are read, and a forward of transformers copies its masks
    **dict.fromkeys(WORDS, 65),
    **dict.fromkeys(("words.function_iou", "words.corrections", "words.spans"), 1),
    "words.f1_iou": 2,
    "words.object_iou": 9,
    "words.forced": 10,
    "words.hide": 5,
    **dict.fromkeys(("eigen_cam", "eigen_grad_cam", "seg_eigen_cam", "kpca_cam"), EIGEN),
    # NaN among the scores; whether batches of one sample agree with one by one, for the activations and the forwards;
    # whether the scores beside the rows stayed
    "ablation_cam": 7,
    "score_cam": 6,
    "recipro_cam": 3,
    "lift_cam": 3,  # the trial of vmap reads once more
    "shapley_cam": 2,
    "fd_cam": 3,
    "group_cam": 4,
    "ss_cam": 4,
    "is_cam": 4,
    "poly_cam": 4,
    "vit_cx": 6,  # how many masks there are
    "opti_cam": 5,  # one a step: whether the mask still improves
    "rise": 4,
    "occlusion": 5,
    "d_rise": 2,
    "sobol": 5,
    "hsic": 5,
    "region_search": 17,  # four a step
    "eigen_smooth": 1 + EIGEN,
    "to_mask": 1,
    "to_boxes": 3,  # components are found on the host
    # whether the folded network agrees; scores that are not finite, where they have no meaning
    "deletion": 5,
    "insertion": 5,
    "pixel_flipping": 5,
    "road": 6,
    "road_combined": 11,
    "impute": 2,
    "faithfulness_estimate": 7,
    "monotonicity": 8,
    "monotonicity_correlation": 8,
    "non_sensitivity": 3,
    "irof": 8,
    "f_fidelity": 7,
    "completeness": 11,
    "soundness": 4,
    "noise_drops": 5,
    "shared": 1,  # the bytes of the batch
    "completeness_residual": 5,
    "effective_complexity": 1,
    "rank_accuracy": 3,
    "roc_auc": 3,
    "sufficiency": 1,
    "consistency": 1,
    "label_masks": 1,
    "sensitivity_n": 11,
    "local_lipschitz": 2,
    "relative_input_stability": 3,
    "relative_output_stability": 3,
    "relative_representation_stability": 3,
    "continuity": 2,
    "random_logit": 3,
    "efficient_randomization": 2,
    "input_invariance": 2,
    "drops": 6,
    "single_deletion": 2,
    "faithfulness_correlation": 2,
    "saco": 7,
    "region_curve": 6,
    "region_sums": 1,
    "trace": 10,
    "trace_ceiling": 16,  # some a step of the greedy order
    "infidelity": 8,
    "average_drop": 2,
    "masked": 2,
    "complexity": 2,
    "entropy": 1,
    "sparseness": 1,
    "coherency": 2,
    "spearman": 2,
    "ssim": 5,
    "most_relevant": 1,
    "pointing_game": 2,
    "energy_in_box": 3,
    "iou": 3,
    "energy_in_box of boxes": 5,  # one a sample
    "several": 2,  # labels out of range, which no gather would find
    "prepare": 16,  # it is held to the network as it is
    "max_sensitivity": 2,
    "box_ious": 2,  # components are found on the host
    "pxap": 2,
    "confidence_change": 2,
    "average_gain": 2,
    "concepts": 3,
    "nnls": 23,  # grows with the steps until it converges
    "suggest": 2,  # what the image changes, and what the score depends on
    "diagnose": 10,  # some a sample
    "concept_importance": 3,
    "by_region": 2,
    "deep_feature_factorization": 30,  # grows with the steps until it converges
}
"""How often the host may wait for a device in each call; those that are not named here never do."""
