"""The public API on a pretend accelerator (`tests/pretend.py`): the CPU's numbers, no more waits than written here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import camfn
from camfn import image, methods, metrics, network, targets, transforms
from tests.calls import CALLS, LAYER, WAITS, World, draws, world

pretend = pytest.importorskip("tests.pretend", reason="this torch has no backend in Python")


def device_world(w: World) -> World:
    return World(pretend.moved(w.net), pretend.moved(w.vit), pretend.on(w.x), pretend.on)


def same(found: Any, expected: Any) -> None:
    ours, theirs = pytree.tree_leaves(pretend.off(found)), pytree.tree_leaves(expected)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        if isinstance(one, Tensor):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4, equal_nan=True)
        else:
            assert one == other


def test_the_table_names_calls() -> None:
    assert set(WAITS) <= set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_a_device_gives_the_numbers_of_the_cpu_and_waits_no_more_than_written(name: str) -> None:
    w = world()
    expected = CALLS[name](w)
    with pretend.Pretend():
        there = device_world(w)
        # the first call on a model and a shape looks where the places lie, which waits
        CALLS[name](there)
        pretend.waits.clear()
        found = CALLS[name](there)
        waited = dict(+pretend.waits)
    assert sum(waited.values()) <= WAITS.get(name, 0), waited
    assert all(isinstance(leaf, pretend.On) for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor))
    same(found, expected)


# ----------------------------------------------------------------------------------------------------the device itself


READS: list[tuple[Callable[[Tensor], Any], int]] = [
    (lambda x: x[0].item(), 1),
    (lambda x: bool(x.sum() > 0), 1),
    (lambda x: float(x[0]), 1),
    (lambda x: int(x[0]), 1),
    (lambda x: x.tolist(), 1),
    (lambda x: x.cpu(), 1),
    (lambda x: repr(x), 1),
    (lambda x: x.nonzero(), 1),
    (lambda x: x[x > 1], 1),
    (lambda x: x[torch.tensor([0])], 1),
    (lambda x: x.unique(), 1),  # type: ignore[no-untyped-call]
    (lambda x: torch.equal(x, x), 1),
    (lambda x: torch.tensor([1.0, 2.0], device=x.device), 1),
    (lambda x: torch.ones(2).to(x.device), 1),
    (lambda x: torch.ones(2).to(x.device, non_blocking=True), 0),
    (lambda x: torch.full((2,), 2.0, device=x.device) + 1.5 * x[0], 0),
    (lambda x: torch.func.jvp(torch.func.grad(lambda y: y.pow(3).sum()), (x,), (x,)), 0),  # type: ignore[misc]
    (lambda x: torch.vmap(lambda y: y * 2)(x), 0),
]
"""What is done with a tensor of the device, and how often the host waits for it."""


@pytest.mark.parametrize(("read", "count"), READS)
def test_what_waits(read: Callable[[Tensor], Any], count: int) -> None:
    with pretend.Pretend():
        x = pretend.on(torch.arange(3.0))
        pretend.waits.clear()
        read(x)
        assert pretend.waits.total() == count


def test_two_devices_are_refused() -> None:
    with pretend.Pretend():
        x, here = pretend.on(torch.ones(3)), torch.ones(3)
        mixes: list[Callable[[], Tensor]] = [
            lambda: x + here,
            lambda: torch.cat([x, here]),
            lambda: x.gather(0, here.long()),
            lambda: x @ here,
        ]
        for mix in mixes:
            with pytest.raises(RuntimeError, match="same device"):
                mix()
        assert torch.equal(pretend.off(x + torch.ones(())), 2 * here)  # one number of the host may go along
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(3, generator=torch.Generator(), device=x.device)


# ---------------------------------------------------------------------------------------------------- two devices mixed

MIXED: dict[str, Callable[[World, World], Any]] = {
    "inputs elsewhere": lambda here, there: camfn.explainer(methods.grad_cam, there.net, LAYER)(here.x, 1),
    "model elsewhere": lambda here, there: camfn.capture(here.net, LAYER)(there.x, 1),
    "a network method": lambda here, there: network.full_grad(there.net)(here.x, 1),
    "grads elsewhere": lambda here, there: methods.grad_cam(here.x, there.x),
    "a heatmap elsewhere": lambda here, there: metrics.deletion(there.score(), there.x, here.heat, step=0.5),
    "an overlay": lambda here, there: image.overlay(here.x.sigmoid(), there.heat),
    "maps to fuse": lambda here, there: transforms.fuse_maps([here.heat, there.heat]),
}


@pytest.mark.parametrize("name", MIXED)
def test_tensors_of_two_devices_are_refused(name: str) -> None:
    w = world()
    with pretend.Pretend(), pytest.raises((camfn.CamfnError, RuntimeError), match=r"(?i)device|on cpu"):
        MIXED[name](w, device_world(w))


@pytest.mark.parametrize("target", [torch.tensor([1, 2]), [1, 2], targets.class_score(torch.tensor([1, 2]))])
def test_classes_of_the_host_go_to_the_device_and_are_checked_first(target: Any) -> None:
    w = world()
    expected = w.explain(methods.grad_cam, [1, 2])
    with pretend.Pretend():
        there = device_world(w)
        pretend.waits.clear()
        same(there.explain(methods.grad_cam, target), expected)
        assert not pretend.waits.total()
        with pytest.raises(camfn.CamfnError, match="class 5 is out of range"):
            there.explain(methods.grad_cam, torch.tensor([1, 5]))


def test_classes_of_the_device_that_are_out_of_range_are_an_error() -> None:
    with pretend.Pretend():
        there = device_world(world())
        with pytest.raises((camfn.CamfnError, RuntimeError), match=r"out of (range|bounds)"):
            there.explain(methods.grad_cam, pretend.on(torch.tensor([1, 5])))


# ----------------------------------------------------------------------------------------checks that would have to wait


def test_pictures_of_what_is_no_picture_are_nan() -> None:
    w = world()
    bad = w.heat.clone()
    bad[1, 0, 0] = torch.inf
    with pretend.Pretend():
        there = device_world(w)
        maps = pretend.on(bad)
        pretend.waits.clear()
        found = [image.normalize(maps), image.normalize(maps, signed=True), image.overlay(there.x.sigmoid(), maps)]
        found += [image.colorize(pretend.on(torch.stack([w.heat[0], w.heat[1] + 1])))]
        found += [image.overlay(pretend.on(torch.stack([w.x[0].sigmoid(), w.x[1].sigmoid() + 3])), there.heat)]
        assert not pretend.waits.total()
        for one in pretend.off(found):
            assert one[0].isfinite().all()
            assert one[1].isnan().all()
        with pytest.raises(camfn.CamfnError, match=r"\[0, 1\]"):
            image.save(found[-1][1], "never.png")


# ---------------------------------------------------------------------------------------------- generators and autocast

DRAWING: dict[str, Callable[[World], Any]] = {
    "random_cam": lambda w: w.explain(partial(methods.random_cam, generator=draws())),
    "rise": lambda w: w.explain(partial(methods.rise, generator=draws(), samples=3)),
    "d_rise": lambda w: w.explain(partial(methods.d_rise, generator=draws(), samples=3)),
    "hsic": lambda w: w.explain(partial(methods.hsic, generator=draws(), samples=3, grid=2)),
    "ss_cam": lambda w: w.explain(partial(methods.ss_cam, generator=draws(), samples=2)),
    "vit_cx": lambda w: w.explain(partial(methods.vit_cx, generator=draws())),
    "smooth_grad": lambda w: network.smooth_grad(w.net, samples=2, generator=draws())(w.x, 1),
    "smooth_full_grad": lambda w: network.smooth_full_grad(w.net, samples=2, generator=draws())(w.x, 1),
    "smooth_grad_cam_plusplus": CALLS["network.smooth_grad_cam_plusplus"],
    "smooth": CALLS["smooth"],
    "infidelity": CALLS["infidelity"],
    "road": CALLS["road"],
    "resampled": lambda w: metrics.resampled("", w.put(torch.arange(6.0)), draws()),
}


@pytest.mark.parametrize("name", DRAWING)
def test_a_generator_of_the_host_draws_for_a_device(name: str) -> None:
    w = world()
    expected = DRAWING[name](w)
    with pretend.Pretend():
        same(DRAWING[name](device_world(w)), expected)


def test_autocast_of_the_device_is_asked_for() -> None:
    w = world()
    expected = w.explain(methods.grad_cam)
    with pretend.Pretend(), torch.autocast("pretend", dtype=torch.bfloat16):
        same(device_world(w).explain(methods.grad_cam), expected)
