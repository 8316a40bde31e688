"""Networks of any package and task, made from a short recipe: the module, its inputs, a score a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tests.nets.small import images


def plain(*shape: int) -> Callable[[int], Tensor]:
    """Inputs that are one tensor (B, *shape) of noise."""
    return lambda batch: images(batch, *shape)


def words(batch: int, length: int = 6, highest: int = 90) -> Tensor:
    """Word numbers (B, length), the highest last, as the end of a text has it."""
    ids = torch.arange(3, 3 + length).repeat(batch, 1)
    ids[:, -1] = highest
    return ids


def first_class(outputs: Any) -> Tensor:
    """The mean over all places of entry 1 of the scores: logits by name, else the first tensor of the outputs."""
    found = _scores(outputs)
    if found.ndim == 1:
        return found
    axis = -1 if found.ndim == 3 else 1
    return found.select(axis, min(1, found.shape[axis] - 1)).flatten(1).mean(1) if found.ndim > 2 else found[:, 1]


def everywhere(outputs: Any) -> Tensor:
    """The mean of the first tensor, for outputs of one channel such as depths, and for features."""
    return _scores(outputs).flatten(1).square().mean(1)


def detected(outputs: Any) -> Tensor:
    """The sum of the scores of class 1 over the queries or anchors (B, Q, K)."""
    found: Tensor = outputs["logits"] if isinstance(outputs, Mapping) else outputs
    return found[..., 1].sigmoid().sum(1)


def _scores(outputs: Any) -> Tensor:
    if isinstance(outputs, Mapping):
        for key in ("logits", "logits_per_image", "predicted_depth", "class_queries_logits", "out"):
            if isinstance(outputs.get(key), Tensor):
                found: Tensor = outputs[key]
                return found
        outputs = dict(outputs)
    return next(leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point())


class Made(NamedTuple):
    """A network with its inputs.

    Attributes:
        package: the package that has the network.
        name: of the network, with what sets it apart.
        make: builds the module; it runs under a seed.
        inputs: makes the inputs for a number of samples.
        score: outputs -> (B,).
        layer: the layer that a person would name; "" where several are as good.
        vmaps: whether what follows the layers can run under `vmap` at all.
    """

    package: str
    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int], Any] = plain(3, 64, 64)
    score: Callable[[Any], Tensor] = first_class
    layer: str = ""
    vmaps: bool = True

    def __str__(self) -> str:
        return f"{self.package}:{self.name}"

    def build(self, batch: int) -> tuple[nn.Module, Any]:
        """The network in evaluation mode, frozen, with no weights of zeros, and its inputs."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.make()
            for parameter in model.parameters():
                if parameter.ndim > 1 and parameter.is_floating_point() and not parameter.any():
                    nn.init.normal_(parameter, std=0.02)
        return model.eval().requires_grad_(False), self.inputs(batch)
