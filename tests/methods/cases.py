"""One table: for each method its oracle, and the keyword arguments it is held to the contract with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.oracles import methods as oracles
from tests.oracles import perturbation as oracles_perturbation
from tests.oracles import sensitivity as oracles_sensitivity

Context = dict[str, Any]
SHAPES = ((2, 5, 3), (2, 3, 4, 2), (2, 4, 2, 3, 2))
"""One to three spatial dimensions; fewer positions than channels, and more."""


def wave(*shape: int) -> Tensor:
    """Fixed generic numbers in (-1, 1)."""
    count = int(torch.Size(shape).numel())
    return (torch.arange(1, count + 1, dtype=torch.float64) * 1.7).sin().reshape(shape)


def network(x: Tensor) -> Tensor:
    """A smooth network that is not affine, (B, C, *S) -> (B,), in at least float32."""
    wide = x if x.dtype == torch.float64 else x.float()
    flat = wide.flatten(1)
    hidden = torch.tanh(flat @ wave(flat.shape[1], 3).to(flat))
    return hidden @ wave(3).to(flat) + 0.1 * flat.square().sum(1)


def rows(shape: Sequence[int], seed: int) -> Context:
    generator = torch.Generator().manual_seed(seed)
    return {"weights": torch.randn(*shape[:2], generator=generator, dtype=torch.float64)}


def one_row(shape: Sequence[int], seed: int) -> Context:
    return {"weights": rows(shape, seed)["weights"][0]}


def earlier(shape: Sequence[int], seed: int) -> Context:
    generator = torch.Generator().manual_seed(seed + 1)
    maps = torch.rand(shape[0], 3, *shape[2:], generator=generator, dtype=torch.float64)
    likeness = torch.rand(shape[0], 3, generator=generator, dtype=torch.float64)
    return {**rows(shape, seed), "context": maps, "likeness": likeness}


def tail(shape: Sequence[int], seed: int) -> Context:
    return {"tail": network}


def tail_and_baseline(shape: Sequence[int], seed: int) -> Context:
    means = rows(shape, seed)["weights"]
    return {"tail": network, "baseline": means.reshape(*shape[:2], *(1,) * (len(shape) - 2))}


def whole(shape: Sequence[int], seed: int) -> Context:
    generator = torch.Generator().manual_seed(seed)
    size = [2 * n + 1 for n in shape[2:]]
    return {"forward": network, "inputs": torch.randn(shape[0], 2, *size, generator=generator, dtype=torch.float64)}


def noisy(shape: Sequence[int], seed: int) -> Context:
    context = whole(shape, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    noise = torch.randn(3, *context["inputs"].shape[2:], generator=generator, dtype=torch.float64)
    return {**context, "noise": noise}


def fine(shape: Sequence[int], seed: int) -> Context:
    """Inputs of the layer's size, with a noise of their shape, for a method whose map has the size of the inputs."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(shape[0], 2, *shape[2:], generator=generator, dtype=torch.float64)
    return {"forward": network, "inputs": inputs, "noise": torch.randn(inputs.shape[1:], generator=generator).double()}


def blurred(shape: Sequence[int], seed: int) -> Context:
    return {**whole(shape, seed), "baseline": 0.3 * whole(shape, seed + 1)["inputs"]}


def deeper(shape: Sequence[int], seed: int) -> Context:
    generator = torch.Generator().manual_seed(seed + 1)
    size = [(n + 1) // 2 for n in shape[2:]]
    map_ = torch.randn(shape[0], *size, generator=generator, dtype=torch.float64) + 0.7
    return {**whole(shape, seed), "deeper": map_}


def seen(shape: Sequence[int], seed: int) -> Context:
    """For a method that perturbs the input alone: the input is its layer."""
    generator = torch.Generator().manual_seed(seed)
    return {"forward": network, "masks": torch.rand(4, *shape[2:], generator=generator, dtype=torch.float64)}


def designs(shape: Sequence[int], seed: int) -> Context:
    """Two sets of points, one cell a position."""
    generator = torch.Generator().manual_seed(seed)
    return {"forward": network, "points": torch.rand(4, 2, *shape[2:], generator=generator, dtype=torch.float64)}


def divided(shape: Sequence[int], seed: int) -> Context:
    """Regions that overlap, none of them empty."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(3, *shape[2:], generator=generator, dtype=torch.float64)
    highest = draws.amax(tuple(range(1, draws.ndim)), keepdim=True)
    return {"forward": network, "regions": ((draws > 0.5) | (draws == highest)).double()}


def forward_alone(shape: Sequence[int], seed: int) -> Context:
    """For a method that perturbs the input by patches of its own."""
    return {"forward": network}


def nothing(shape: Sequence[int], seed: int) -> Context:
    return {}


class Case(NamedTuple):
    """A method with its options, and the context that stands for a network.

    `context` takes the activations' shape and a seed, and gives the tensors and functions the method asks for.
    """

    name: str
    oracle: oracles.Oracle
    options: Mapping[str, Any] = MappingProxyType({})
    context: Callable[[Sequence[int], int], Context] = nothing

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])

    @property
    def black_box(self) -> bool:
        """Whether the method reads no layer, so that the input may stand for it."""
        return self.context in (seen, designs, divided, forward_alone) or self.name == "sobel_edges"


CASES = (
    Case("cam", oracles.cam, context=rows),
    Case("cam", oracles.cam, context=one_row),
    Case("tam", oracles.tam, context=rows),
    Case("tam", oracles.tam, {"filtered": False}, one_row),
    Case("tam", oracles.tam, context=earlier),
    Case("grad_cam", oracles.grad_cam),
    Case("hires_cam", oracles.hires_cam),
    Case("elementwise_grad_cam", oracles.elementwise_grad_cam),
    Case("grad_cam_plusplus", oracles.grad_cam_plusplus),
    Case("grad_cam_plusplus", oracles.grad_cam_plusplus, {"normalized": True}),
    Case("xgrad_cam", oracles.xgrad_cam),
    Case("layer_cam", oracles.layer_cam),
    Case("odam", oracles.odam),
    # windows from the first corner: a flip moves those that do not divide the map
    Case("seg_xres_cam", oracles.seg_xres_cam, {"pool": 4}),
    Case("seg_xres_cam", oracles.seg_xres_cam, {"pool": 4, "how": "max"}),
    Case("seg_xres_cam", oracles.seg_xres_cam, {"pool": 1}),
    Case("bag_cam", oracles.bag_cam),
    Case("eigen_cam", oracles.eigen_cam),
    Case("eigen_cam", oracles.eigen_cam, {"sign": "absmax"}),
    Case("eigen_cam", oracles.eigen_cam, {"centered": True}),
    Case("eigen_cam", oracles.eigen_cam, {"centered": True, "sign": "absmax"}),
    Case("eigen_grad_cam", oracles.eigen_grad_cam),
    Case("eigen_grad_cam", oracles.eigen_grad_cam, {"centered": True, "sign": "absmax"}),
    Case("seg_eigen_cam", oracles.seg_eigen_cam),
    Case("seg_eigen_cam", oracles.seg_eigen_cam, {"sign": "corr_mean"}),
    Case("kpca_cam", oracles.kpca_cam),
    Case("kpca_cam", oracles.kpca_cam, {"kernel": "rbf", "gamma": 0.3}),
    Case("kpca_cam", oracles.kpca_cam, {"kernel": "linear"}),
    Case("kpca_cam", oracles.kpca_cam, {"kernel": "cosine", "sign": "absmax"}),
    Case("kpca_cam", oracles.kpca_cam, {"kernel": "poly", "degree": 2, "coef0": 0.5}),
    Case("fem", oracles.fem, {"k": 0.4}),
    Case("fem", oracles.fem),
    Case("random_cam", oracles.random_cam, context=rows),
    Case("ablation_cam", oracles.ablation_cam, context=tail),
    Case("ablation_cam", oracles.ablation_cam, {"slope": "score", "chunk_size": 2}, tail),
    Case("ablation_cam", oracles.ablation_cam, {"slope": "l1", "chunk_size": None}, tail),
    Case("ablation_cam", oracles.ablation_cam, {"slope": "l1", "baseline": 0.5, "closed_form": False}, tail),
    Case("ablation_cam", oracles.ablation_cam, {"top_k": 2, "closed_form": False, "chunk_size": 2}, tail),
    Case("ablation_cam", oracles.ablation_cam, context=tail_and_baseline),
    Case("score_cam", oracles.score_cam, context=whole),
    Case("score_cam", oracles.score_cam, {"form": "score", "chunk_size": 2}, whole),
    Case("score_cam", oracles.score_cam, {"form": "score", "baseline": 0.25}, whole),
    Case("score_cam", oracles.score_cam, {"top_k": 0.5}, whole),
    Case("score_cam", oracles.score_cam, {"form": "score", "top_k": 2}, whole),
    Case("recipro_cam", oracles_perturbation.recipro_cam, context=tail),
    Case("recipro_cam", oracles_perturbation.recipro_cam, {"kernel": "point", "chunk_size": 2}, tail),
    Case("lift_cam", oracles_perturbation.lift_cam, {"steps": 3}, tail),
    Case("shapley_cam", oracles_perturbation.shapley_cam, context=tail),
    Case("shapley_cam", oracles_perturbation.shapley_cam, {"elementwise": True}, tail),
    Case("fd_cam", oracles_perturbation.fd_cam, context=tail),
    Case("fd_cam", oracles_perturbation.fd_cam, {"quantile": 0.5, "chunk_size": 3}, tail),
    Case("group_cam", oracles_perturbation.group_cam, context=whole),
    Case("group_cam", oracles_perturbation.group_cam, {"groups": 1, "quantile": 0.3, "chunk_size": 1}, blurred),
    Case("ss_cam", oracles_perturbation.ss_cam, context=noisy),
    Case("ss_cam", oracles_perturbation.ss_cam, {"form": "score", "chunk_size": 4}, noisy),
    Case("is_cam", oracles_perturbation.is_cam, {"steps": 3}, whole),
    Case("is_cam", oracles_perturbation.is_cam, {"steps": 2, "form": "score", "chunk_size": 3}, whole),
    Case("poly_cam", oracles_perturbation.poly_cam, context=whole),
    Case("poly_cam", oracles_perturbation.poly_cam, {"switch": "minus", "chunk_size": 2}, deeper),
    Case("poly_cam", oracles_perturbation.poly_cam, {"switch": "plus"}, deeper),
    Case("opti_cam", oracles_perturbation.opti_cam, {"steps": 4}, whole),
    Case("vit_cx", oracles_perturbation.vit_cx, context=fine),
    Case("vit_cx", oracles_perturbation.vit_cx, {"threshold": 0.5, "chunk_size": 3}, fine),
    Case("rise", oracles_perturbation.rise, context=seen),
    Case("rise", oracles_perturbation.rise, {"probability": 0.3, "chunk_size": 3}, seen),
    Case("rise", oracles_perturbation.rise, {"centered": True, "chunk_size": 2}, seen),
    Case("d_rise", oracles_perturbation.d_rise, context=seen),
    Case("sobol", oracles_sensitivity.sobol, context=designs),
    Case("sobol", oracles_sensitivity.sobol, {"chunk_size": 3}, designs),
    Case("hsic", oracles_sensitivity.hsic, context=seen),
    Case("region_search", oracles_sensitivity.region_search, context=divided),
    Case("region_search", oracles_sensitivity.region_search, {"steps": 2, "chunk_size": 3}, divided),
    Case("hsic", oracles_sensitivity.hsic, {"width": "score", "chunk_size": 3}, seen),
    Case("occlusion", oracles_perturbation.occlusion, {"patch": 1, "stride": 1}, forward_alone),
    Case("occlusion", oracles_perturbation.occlusion, {"patch": 1, "stride": 1, "chunk_size": 3}, forward_alone),
    Case("sobel_edges", oracles_perturbation.sobel_edges),
)


def unpermuted(run: Callable[[Tensor], Tensor], order: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: run(x[:, order.argsort()])


def unflipped(run: Callable[[Tensor], Tensor], axis: int) -> Callable[[Tensor], Tensor]:
    return lambda x: run(x.flip(axis))


def permuted(context: Context, order: Tensor) -> Context:
    """The context of the network whose channels come in another order."""
    change: dict[str, Callable[[Any], Any]] = {
        "weights": lambda value: value[..., order],
        "tail": lambda value: unpermuted(value, order),
    }
    if "inputs" not in context:
        change["forward"] = change["tail"]
        change["baseline"] = lambda value: value[:, order]
    return {key: change.get(key, lambda value: value)(value) for key, value in context.items()}


def flipped(context: Context, axis: int) -> Context:
    """The context of the network that sees the mirrored image."""
    change: dict[str, Callable[[Any], Any]] = {
        "tail": lambda value: unflipped(value, axis),
        "forward": lambda value: unflipped(value, axis),
        "inputs": lambda value: value.flip(axis),
        "baseline": lambda value: value.flip(axis),
        "context": lambda value: value.flip(axis),
        **dict.fromkeys(("noise", "masks", "regions", "deeper"), lambda value: value.flip(axis - 1)),
        "points": lambda value: value.flip(axis),
    }
    return {key: change.get(key, lambda value: value)(value) for key, value in context.items()}


def mapped(context: Context, change: Callable[[Tensor], Tensor]) -> Context:
    """The context with `change` applied to its tensors."""
    return {key: change(value) if isinstance(value, Tensor) else value for key, value in context.items()}


def sample_of(context: Context, index: int) -> Context:
    """The context of one sample of the batch."""
    one = mapped(context, lambda value: value if value.ndim == 1 else value[index : index + 1])
    return {**one, **{key: context[key] for key in ("noise", "masks", "regions", "points") if key in context}}
