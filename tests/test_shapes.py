"""The public API where tensors hold no data: `FakeTensorMode`, the meta device, and graphs that `make_fx` traces."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from camfn._shared.checks import holds_data, is_concrete
from tests.calls import ATTENTION, CALLS, CUTS, IMAGES, METHODS, METRICS, NETWORK, TARGETS, TRANSFORMS, World, world

READ = {"to_boxes", "road", "road_combined", "impute", "montage", "suggest", "diagnose", "deep_feature_factorization"}
READ |= {"completeness", "irof", "label_masks", "region_curve"}
"""What reads numbers: shapes of its results, or when to end, depend on them."""

KORNIA = {"insertion", "ssim"}
"""kornia reads a number of its own."""

IN_PLACE = {"shapley_cam"}
"""torch's forward mode fails where a network writes in place to fake tensors."""

DRAWN = {"d_rise", "rise", "hsic", "random_cam", "ss_cam", "vit_cx", "smooth", "infidelity"}
DRAWN |= {"network.smooth_grad", "network.smooth_full_grad", "network.smooth_grad_cam_plusplus"}
DRAWN |= {"network.expected_gradients", "f_fidelity", "random_cells"}
"""A graph goes on drawing from the generator that it was traced with."""

NAMES = sorted(set(METHODS | NETWORK | ATTENTION | CUTS | TARGETS | TRANSFORMS | IMAGES | METRICS) - READ - KORNIA)


def changed(module: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of a network with other parameters and buffers."""
    module = deepcopy(module)
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(change(parameter.detach()), requires_grad=False))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, change(buffer))
    return module


def tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def forms(value: Any) -> list[tuple[torch.Size, torch.dtype]]:
    return [(leaf.shape, leaf.dtype) for leaf in tensors(value)]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in IN_PLACE])
def test_fake_tensors_give_shapes(name: str) -> None:
    w = world()
    expected = forms(CALLS[name](w))
    mode = FakeTensorMode()
    net, vit, x = changed(w.net, mode.from_tensor), changed(w.vit, mode.from_tensor), mode.from_tensor(w.x)
    with mode:
        assert forms(CALLS[name](World(net, vit, x, lambda tensor: tensor))) == expected


@pytest.mark.parametrize("name", NAMES)
def test_the_meta_device_gives_shapes(name: str) -> None:
    w = world()
    expected = forms(CALLS[name](w))
    put = Tensor.to
    there = World(deepcopy(w.net).to("meta"), deepcopy(w.vit).to("meta"), w.x.to("meta"), lambda x: put(x, "meta"))
    found = CALLS[name](there)
    assert forms(found) == expected
    assert all(leaf.is_meta for leaf in tensors(found))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DRAWN])
def test_a_traced_graph_gives_the_numbers(name: str) -> None:
    w = world()

    def call(x: Tensor) -> list[Tensor]:
        return tensors(CALLS[name](World(w.net, w.vit, x, w.put)))

    graph = make_fx(call)(w.x)
    for x in (w.x, w.x.flip(0) * 0.7):
        torch.testing.assert_close(graph(x), call(x), atol=1e-5, rtol=1e-4)


def test_what_holds_no_data_is_not_concrete() -> None:
    x = torch.ones(3)
    seen: list[bool] = []

    def look(y: Tensor) -> Tensor:
        seen.extend([is_concrete(y), holds_data(y)])
        return y * 2

    def total(y: Tensor) -> Tensor:
        return look(y).sum()

    look(x)
    torch.func.grad(total)(x)
    assert seen == [True] * 4
    torch.vmap(look)(torch.ones(2, 3))
    assert seen[4:] == [False, True]
    seen.clear()
    for mode in ("real", "fake", "symbolic"):
        make_fx(look, tracing_mode=mode)(x)
        make_fx(torch.func.grad(total), tracing_mode=mode)(x)
    make_fx(look, pre_dispatch=True)(x)
    torch.func.functionalize(look)(x)
    look(x.to("meta"))
    with FakeTensorMode():
        fake = torch.ones(3)
        look(fake)
    look(fake)
    assert len(seen) >= 20
    assert not any(seen)
