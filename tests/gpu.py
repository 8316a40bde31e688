"""Checks on a CUDA device, for tests/test_gpu.py, and for `make gpu` where pytest is missing."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from camfn import explainer, methods, prepare
from tests.calls import CALLS, WAITS, World, world

TOLERANCE = 2e-3
"""Relative to the largest number: sums of a GPU go in another order, and what follows them amplifies that."""

STEPS = {"overlay like grad-cam": 1 / 255}
"""Calls that round to bytes: a number between two bytes becomes either."""


def on_the_gpu() -> World:
    w = world()
    put = partial(Tensor.to, device="cuda", non_blocking=True)
    return World(deepcopy(w.net).cuda(), deepcopy(w.vit).cuda(), w.x.cuda(), put)


def numbers_are_the_cpus(name: str) -> None:
    """A call gives on the GPU what it gives on the CPU, and leaves it there."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        theirs = pytree.tree_leaves(CALLS[name](world()))
    except ImportError:
        return  # an optional package is missing on this machine
    ours = pytree.tree_leaves(CALLS[name](on_the_gpu()))
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        if isinstance(one, Tensor):
            assert one.is_cuda, name
            scale = float(other.abs().max()) if other.is_floating_point() and other.numel() else 1.0
            atol = max(TOLERANCE * scale, 1.01 * STEPS.get(name, 0.0))
            torch.testing.assert_close(one.cpu(), other, atol=atol, rtol=TOLERANCE, equal_nan=True)
        else:
            assert one == other, name


def never_waits(name: str) -> None:
    """CUDA itself reports a wait as an error; a first run may wait while it is set up."""
    w = on_the_gpu()
    try:
        CALLS[name](w)
    except ImportError:
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        CALLS[name](w)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def deep_network() -> nn.Module:
    """Thirty convolutions with BatchNorm: as deep as those where TF32 shows in the last layers."""
    with torch.random.fork_rng(devices=[0]):
        torch.manual_seed(0)
        parts = [nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()) for _ in range(30)]
        net = nn.Sequential(nn.Conv2d(3, 16, 1), *parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = torch.randn(16)
                module.running_var = torch.rand(16) + 0.5
                nn.init.uniform_(module.weight, 0.5, 1.5)
    return net.cuda().eval()


def prepared_keeps_its_layers(compile: bool) -> None:  # noqa: A002  (named as in `prepare`)
    """With TF32, as torch sets it, a prepared network still shows the layers around its BatchNorm."""
    net, images = deep_network(), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)).cuda()
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, True
    try:
        prepared = prepare(net, images, compile=compile)
        for layer in ("15", "30"):
            own, theirs = (explainer(methods.score_cam, model, layer)(images, 1) for model in (prepared, net))
            torch.testing.assert_close(own, theirs, rtol=0.05, atol=0.02 * float(theirs.abs().max()))
    finally:
        torch.backends.cudnn.allow_tf32 = before


def masked_images_run_as_one_batch() -> None:
    """With TF32, as torch sets it, a trial still finds that masked images may run as one larger batch."""
    net, images = deep_network(), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)).cuda()
    engines = set()

    def told(done: int, total: int, *, engine: str) -> None:
        engines.add(engine)

    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, True
    try:
        explainer(partial(methods.score_cam, progress=told), net, "30")(images, 1)
    finally:
        torch.backends.cudnn.allow_tf32 = before
    assert engines == {"folded"}, engines


def checks() -> dict[str, Callable[[], None]]:
    """The checks by name."""
    found: dict[str, Callable[[], None]] = {f"numbers of {name}": partial(numbers_are_the_cpus, name) for name in CALLS}
    found |= {f"no wait in {name}": partial(never_waits, name) for name in CALLS if not WAITS.get(name, 0)}
    for compiled in (False, True):
        found[f"prepare, compile={compiled}"] = partial(prepared_keeps_its_layers, compiled)
    found["masked images run as one batch"] = masked_images_run_as_one_batch
    return found
