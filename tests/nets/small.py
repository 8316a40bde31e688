"""Small networks with the habits that break captures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn


def seeded(build: Callable[[], nn.Module], *, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build a network from a seed, leaving the global generator alone, with statistics that are not 0 and 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build().to(dtype)
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.uniform_(-0.2, 0.2)
                assert module.running_var is not None
                module.running_var.uniform_(0.5, 1.5)
    return net.eval()


def images(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Block(nn.Module):
    """A residual block that adds in place, and overwrites its own input."""

    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Conv2d(width, width, 1, stride) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn(self.conv(x))
        out += x if self.downsample is None else self.downsample(x)
        return cast(Tensor, self.relu(out))


class Net(nn.Module):
    """Stem, two residual blocks, pooling, a linear head: in-place everywhere."""

    def __init__(self, width: int = 6, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList([Block(width), Block(width, 2)])
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.head(x.mean((2, 3))))


class Shared(nn.Module):
    """One convolution that runs twice, one that never runs, and one that returns a tuple, another a dict."""

    class Pair(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(width, width, 3, padding=1)

        def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            out = self.conv(x)
            return out, {"mean": out.mean((2, 3)), "sum": out.sum((2, 3))}

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.twice = nn.Conv2d(width, width, 3, padding=1)
        self.never = nn.Conv2d(width, width, 1)
        self.pair = Shared.Pair(width)
        self.head = nn.Linear(2 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.stem(x)).relu())
        maps, pooled = self.pair(x)
        out: Tensor = self.head(torch.cat([maps.relu().mean((2, 3)), pooled["mean"]], 1))
        return out


def reference(
    model: nn.Module, layer: str, run: Callable[[nn.Module], Any], score: Callable[[Any], Tensor]
) -> tuple[Tensor, Tensor, Any]:
    """Activations and gradient by `torch.autograd.grad`, with a hook on the model itself."""
    kept: dict[str, Tensor] = {}

    def hook(module: nn.Module, args: Any, output: Any) -> Tensor:
        kept["activations"] = output.detach().clone()
        kept["leaf"] = output.detach().clone().requires_grad_()
        return kept["leaf"].clone()

    handle = model.get_submodule(layer).register_forward_hook(hook)
    try:
        with torch.enable_grad():
            outputs = run(model)
            total = score(outputs).sum()
            (grads,) = torch.autograd.grad(total, kept["leaf"], allow_unused=True) if total.requires_grad else (None,)
    finally:
        handle.remove()
    return kept["activations"], torch.zeros_like(kept["activations"]) if grads is None else grads, outputs


class Snapshot:
    """Everything of a model that a capture must leave as it was."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters = {name: (p, p.detach().clone()) for name, p in model.named_parameters()}
        self.buffers = {name: (b, b.clone()) for name, b in model.named_buffers()}
        self.flags = {name: (p.requires_grad, p.grad, p._version) for name, p in model.named_parameters()}
        self.modules = dict(model.named_modules())
        self.state = {name: self._state(module) for name, module in model.named_modules()}

    @staticmethod
    def _state(module: nn.Module) -> dict[str, Any]:
        hooks = {key: list(value) for key, value in vars(module).items() if key.endswith("hooks")}
        return {"training": module.training, "keys": sorted(vars(module)), **hooks}

    def check(self) -> None:
        assert {id(module) for module in self.modules.values()} == {id(m) for m in self.model.modules()}
        for name, parameter in self.model.named_parameters():
            same, value = self.parameters[name]
            assert parameter is same
            assert torch.equal(parameter, value), name
            assert (parameter.requires_grad, parameter.grad, parameter._version) == self.flags[name], name
        for name, buffer in self.model.named_buffers():
            assert buffer is self.buffers[name][0]
            assert torch.equal(buffer, self.buffers[name][1]), name
        for name, module in self.model.named_modules():
            assert self._state(module) == self.state[name], name


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Check on the way out, also out of an exception, that the model is as it was."""
    snapshot = Snapshot(model)
    try:
        yield
    finally:
        snapshot.check()
