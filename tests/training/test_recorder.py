"""A training with a `MapRecorder` ends in the same bits as one without; and what the recorder keeps is right."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camfn import capture, explainer, tiny
from camfn._shared.errors import CamfnError
from camfn.methods import eigen_cam, grad_cam, hires_cam, score_cam
from camfn.training import MapRecorder
from camfn.training._recorder import _correlations

WORLD = tiny.scenes(8, digits=1, generator=torch.Generator().manual_seed(1))
DIGITS = WORLD.labels[:, 0]


class Hard(nn.Module):
    """What a run may disturb: statistics, dropout, power iteration, random numbers in evaluation too, a counter."""

    def __init__(self) -> None:
        super().__init__()
        normed = nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 1))
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), normed, nn.BatchNorm2d(8), nn.ReLU())
        self.old = torch.nn.utils.spectral_norm(nn.Conv2d(8, 8, 1))
        self.drop, self.fc = nn.Dropout(0.3), nn.Linear(8, 10)
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        self.calls += 1
        x = functional.dropout(self.old(self.body(x)), 0.1, training=True) + 0.01 * random.random()
        return self.fc(self.drop(x.mean((2, 3)))) + 0.01 * float(np.random.rand())  # type: ignore[no-any-return]  # noqa: NPY002


def made(wrap: Callable[[nn.Module], nn.Module]) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    net = Hard().train()
    net.fc.weight.requires_grad_(True)
    net.body[2].weight.requires_grad_(False)
    return net, wrap(net)


def trained(
    wrap: Callable[[nn.Module], nn.Module], context: Callable[[], Any], recorder: Callable[[nn.Module, int], Any] | None
) -> list[Any]:
    """Everything a training leaves: parameters, buffers, gradients, the optimizer, modes, counters, random states."""
    net, model = made(wrap)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 1e-2)
    found: list[Any] = []
    for step in range(4):
        order = torch.randperm(8)
        with context():
            if recorder:
                recorder(model, 4 * step)
            loss = functional.cross_entropy(model(WORLD.images[order]), DIGITS[order])
            if recorder:
                recorder(model, 4 * step + 1)  # between the forward and the backward
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        if recorder:
            recorder(model, 4 * step + 2)
        optimizer.step()
        if recorder:
            with torch.no_grad():
                recorder(model, 4 * step + 3)
        found.append(loss.detach())
    for module in net.modules():
        found += [module.training, len(module._forward_hooks), len(module._forward_pre_hooks)]
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        found += [name, tensor.detach().clone(), tensor.requires_grad, tensor.grad]
    found += [tensor for state in optimizer.state.values() for tensor in state.values()]
    return [*found, net.calls, torch.get_rng_state(), random.getstate(), str(np.random.get_state())]  # noqa: NPY002


def same(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in zip(first, second, strict=True)
    )


def autocast() -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16)


WRAPS: dict[str, Callable[[nn.Module], Any]] = {
    "plain": lambda model: model,
    "DataParallel": nn.DataParallel,
    "compiled": partial(torch.compile, backend="eager"),
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("context", [nullcontext, autocast])
@pytest.mark.parametrize("method", [grad_cam, eigen_cam])
def test_a_training_ends_in_the_same_bits(wrap: str, context: Any, method: Any, tmp_path: Path) -> None:
    if wrap == "compiled" and (context is autocast or method is eigen_cam):
        pytest.skip("the compiler is slow, and sees neither")
    recorder = MapRecorder(WORLD.images[:2], "body", method=method, target=DIGITS[:2], every=1, out=tmp_path)
    alone = trained(WRAPS[wrap], context, None)
    assert same(trained(WRAPS[wrap], context, recorder), alone)
    assert len(recorder.records) == 2 * 16
    assert not same(trained(WRAPS[wrap], context, lambda model, step: torch.rand(1)), alone)  # the test sees a draw
    assert not same(trained(WRAPS[wrap], context, lambda model, step: model(WORLD.images[:2])), alone)


def test_a_model_in_ddp_is_mapped_beside_it(tmp_path: Path) -> None:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrap = nn.parallel.DistributedDataParallel
        recorder = MapRecorder(WORLD.images[:2], "body", target=DIGITS[:2], every=1)
        assert same(trained(wrap, nullcontext, recorder), trained(wrap, nullcontext, None))
        assert len(recorder.records) == 2 * 16
    finally:
        torch.distributed.destroy_process_group()


def test_other_processes_than_the_first_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("camfn.training._recorder.is_first_process", lambda: False)
    recorder = MapRecorder(WORLD.images, "body")
    assert recorder(tiny.load("cnn"), 0) == recorder.records == []


@pytest.mark.parametrize("method", [grad_cam, hires_cam, eigen_cam])
def test_a_record_is_the_map_in_evaluation_mode(method: Any) -> None:
    net = tiny.load("cnn").train()
    recorder = MapRecorder(WORLD.images, "body", method=method, target=DIGITS)
    records = recorder(net, 0)
    assert net.training
    net.eval()
    expected = explainer(method, net, "body")(WORLD.images, DIGITS).detach()
    torch.testing.assert_close(torch.stack([record.cam for record in records]), expected)
    scores = net(WORLD.images).gather(1, DIGITS[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor([record.score for record in records]), scores.detach())


def test_a_record_costs_one_forward() -> None:
    net = tiny.load("cnn").train()
    runs = []
    net.register_forward_hook(lambda *_: runs.append(1))
    recorder = MapRecorder(WORLD.images, "body", target=DIGITS)
    recorder(net, 0)
    runs.clear()
    recorder.record(net, 1)
    assert len(runs) == 1


def test_the_layout_of_tokens_is_found_once() -> None:
    vit = tiny.load("vit").train()
    runs = []
    vit.register_forward_hook(lambda *_: runs.append(1))
    layer = next(name for name, module in vit.named_modules() if name.endswith(("norm1", "norm2")))
    recorder = MapRecorder(WORLD.images, layer, target=DIGITS)
    recorder(vit, 0)
    runs.clear()
    (first, *_) = recorder.record(vit, 1)
    assert len(runs) == 1
    vit.eval()
    torch.testing.assert_close(first.cam, grad_cam(*capture(vit, layer)(WORLD.images, DIGITS))[0].detach())


def test_correlations_are_those_of_numpy() -> None:
    net = tiny.load("cnn").train()
    recorder = MapRecorder(WORLD.images, "body", target=DIGITS, every=10)
    first = recorder(net, 0)
    assert [record.correlation for record in first] == [None] * 8
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    assert recorder(net, 9) == []
    second = recorder(net, 10)
    assert recorder(net, 10) == []
    for before, after in zip(first, second, strict=True):
        expected = np.corrcoef(before.cam.flatten().numpy(), after.cam.flatten().numpy())[0, 1]
        assert after.correlation == pytest.approx(expected, abs=1e-5)
        assert after.correlation is not None
        assert after.correlation < 0.9999


def test_a_network_that_diverged_is_recorded_as_such(tmp_path: Path) -> None:
    net = tiny.load("cnn").train()
    recorder = MapRecorder(WORLD.images[:1], "body", target=DIGITS[:1], out=tmp_path)
    recorder(net, 0)
    with torch.no_grad():
        next(net.parameters()).fill_(math.nan)
    (record,) = recorder.record(net, 1)
    assert math.isnan(record.correlation or 0.0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    (record,) = recorder.record(net, 2)
    assert math.isnan(record.correlation or 0.0)
    assert (tmp_path / "photo-0.png").is_file()


def test_a_part_of_the_model_is_mapped() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tiny.load("cnn")

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.net(batch["images"])  # type: ignore[no-any-return]

    recorder = MapRecorder(WORLD.images, "body", target=DIGITS, of=lambda module: module.net)  # type: ignore[arg-type, return-value]
    assert len(recorder(nn.DataParallel(Both()), 0)) == 8


class FullyShardedDataParallel(nn.Sequential):
    """Bears the name of torch's class."""


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: MapRecorder(WORLD.images[0], "body"), r"images: expected floats \(B, C, H, W\)"),
        (lambda: MapRecorder(WORLD.images.byte(), "body"), r"images: expected floats"),
        (lambda: MapRecorder(WORLD.images[:0], "body"), r"images: expected floats"),
        (lambda: MapRecorder(WORLD.images, "body", every=0), "every: expected a whole number from 1"),
        (lambda: MapRecorder(WORLD.images, "body", columns=1), "columns: expected a whole number from 2"),
        (
            lambda: MapRecorder(WORLD.images, "body", method=score_cam),
            "score_cam runs the network again, or reads its weights",
        ),
        (lambda: MapRecorder(WORLD.images, "body", names=["a"]), "names: expected 8 different names"),
        (lambda: MapRecorder(WORLD.images[:2], "body", names=["a", "A"]), "names: expected 2 different names"),
        (lambda: MapRecorder(WORLD.images[:1], "body", names=["../a"]), "names: expected letters"),
        (lambda: MapRecorder(WORLD.images, "body", photos=WORLD.images[:1]), "photos: expected 8"),
        (lambda: MapRecorder(WORLD.images.byte(), "body"), "got a tensor of shape .* of torch.uint8"),
        (lambda: MapRecorder(WORLD.images, "body", photos=WORLD.images[:, 0]), "photos: expected .B, 3, H, W."),
        (lambda: MapRecorder(WORLD.images, "body", photos=WORLD.images[..., None]), "photos: expected .B, 3, H, W."),
        (lambda: MapRecorder(WORLD.images, "body", photos=WORLD.images[..., :0]), "photos: expected .B, 3, H, W."),
        (lambda: MapRecorder(WORLD.images, "body", photos=WORLD.images * math.nan), "photos: expected finite"),
        (lambda: MapRecorder(WORLD.images, "body", photos=WORLD.images.to("meta")), "photos: expected finite"),
        (lambda: MapRecorder(WORLD.images, "body", photos=[1]), "photos: expected a tensor"),  # type: ignore[arg-type]
        (lambda: MapRecorder(WORLD.images[:2], "body", names=[1, 2]), "names: expected a list of words"),  # type: ignore[list-item]
        (lambda: MapRecorder(WORLD.images[:2], "body", names="ab"), "names: expected a list of words"),
        (lambda: MapRecorder(WORLD.images, "body", of=3), "of: expected a func"),  # type: ignore[arg-type]
        (
            lambda: MapRecorder(WORLD.images, "body", of=lambda net: None)(tiny.load("cnn"), 0),  # type: ignore[arg-type, return-value]
            "of: expected a torch.nn",
        ),
        (lambda: MapRecorder(WORLD.images, "body")(lambda x: x, 0), "model: expected a torch.nn.Module"),  # type: ignore[arg-type]
        (lambda: MapRecorder(WORLD.images, "body", out=3), "out: expected a folder, or a torch.utils.tensorboard"),
        (lambda: MapRecorder(WORLD.images, "nothing")(tiny.load("cnn"), 0), "nothing"),
        (
            lambda: MapRecorder(WORLD.images, "0")(FullyShardedDataParallel(nn.Conv2d(3, 3, 1)), 0),
            "whole in each process, got FullyShardedDataParallel",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build: Callable[[], Any], said: str) -> None:
    with pytest.raises(CamfnError, match=said):
        build()


def test_a_step_is_a_whole_number_and_photos_and_weights_are_there() -> None:
    net, images = tiny.load("cnn"), tiny.scenes(2, generator=torch.Generator().manual_seed(0)).images
    recorder = MapRecorder(images, "body", every=2)
    assert [type(record.step) for record in recorder(net, torch.tensor(4))] == [int, int]  # type: ignore[arg-type]
    for step in (None, "one", 1.5, [2]):
        for call in (recorder, recorder.record):
            with pytest.raises(CamfnError, match="step: expected a whole number"):
                call(net, step)  # type: ignore[arg-type]
    for wrong in (images * math.nan, images / 0, images.to("meta")):
        with pytest.raises(CamfnError, match="images: expected finite numbers"):
            MapRecorder(wrong, "body")
    with pytest.raises(CamfnError, match="device 'meta', without weights"):
        MapRecorder(images, "body")(tiny.load("cnn").to("meta"), 0)


def test_a_strip_has_the_steps_of_one_training_in_order(tmp_path: Path) -> None:
    recorder = MapRecorder(WORLD.images[:1], "body", target=DIGITS[:1], every=1, out=tmp_path)
    drawn: list[list[int]] = []
    for step in (0, 2, 4, 1, 4, 0, 4):
        recorder(tiny.load("cnn"), step)
        drawn.append(list(recorder._pictures[0]))
    assert drawn == [[0], [0, 2], [0, 2, 4], [0, 1], [0, 1, 4], [0], [0, 4]]
    assert [record.step for record in recorder.records] == [0, 2, 4, 1, 4, 0, 4]


def test_bytes_are_photos_too() -> None:
    photos = torch.full((8, 3, 4, 4), 51, dtype=torch.uint8)
    assert torch.equal(MapRecorder(WORLD.images, "body", photos=photos).photos, torch.full((8, 3, 4, 4), 0.2))


class Keeping(nn.Module):
    """Writes to what is no buffer, and draws from generators of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 5, stride=4), nn.Linear(8, 10)
        self.losses: list[Tensor] = []
        self.seen = {"calls": 0, "parts": [0]}
        self.mean, self.total = torch.zeros(()), np.zeros(1)
        self.torch, self.numpy, self.python = torch.Generator(), np.random.default_rng(0), random.Random(0)
        self.pair = (self.losses, self.mean)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        self.losses.append(x.mean())
        self.seen["calls"] += 1  # type: ignore[operator]
        self.seen["parts"].append(1)  # type: ignore[attr-defined]
        self.mean += 1
        self.total += 1
        noise = torch.rand((), generator=self.torch) + self.numpy.random() + self.python.random()
        return self.fc(x.mean((2, 3))) * (1 + noise)  # type: ignore[no-any-return]

    def state(self) -> list[Any]:
        drawn = self.torch.get_state().tolist(), str(self.numpy.bit_generator.state), self.python.getstate()
        return [len(self.losses), str(self.seen), float(self.mean), float(self.total[0]), *drawn]


def test_what_a_network_keeps_beside_its_buffers_stays() -> None:
    net = Keeping().train()
    before = net.state()
    assert len(MapRecorder(WORLD.images[:2], "conv", target=DIGITS[:2])(net, 0)) == 2
    assert net.state() == before
    assert net.pair[0] is net.losses
    net(WORLD.images)
    assert net.state() != before


@pytest.mark.parametrize(
    ("steps", "due"),
    [
        ((1, 3, 5, 7, 9), [1, 3, 5, 7, 9]),  # every multiple of 2 is passed
        ((0, 1, 2, 3, 4), [0, 2, 4]),
        ((0, 3, 6, 9), [0, 3, 6, 9]),
        ((5, 5, 5, 6, 6), [5, 6]),
        ((0, 4, 2, 3, 4), [0, 4, 2, 4]),  # back to a checkpoint
    ],
)
def test_a_step_past_a_multiple_is_due(steps: tuple[int, ...], due: list[int]) -> None:
    recorder, net = MapRecorder(WORLD.images[:1], "body", target=DIGITS[:1], every=2), tiny.load("cnn")
    for step in steps:
        recorder(net, step)
    assert [record.step for record in recorder.records] == due


@pytest.mark.parametrize(
    "name",
    ["con", "AUX", "nul.1", "Com1", "lpt9.x", "a.", "a ", " a", ".", "\u00e9" * 101, "\u4e2d" * 90, "a/b", "a\n", ""],
)
def test_names_that_some_system_has_no_file_for_are_refused(name: str) -> None:
    with pytest.raises(CamfnError, match="names: expected letters"):
        MapRecorder(WORLD.images[:1], "body", names=[name])


def test_names_are_the_same_however_an_accent_is_written() -> None:
    with pytest.raises(CamfnError, match="2 different names"):
        MapRecorder(WORLD.images[:2], "body", names=["caf\u00e9", "cafe\u0301"])
    assert MapRecorder(WORLD.images[:2], "body", names=["console", "auxiliary.1"]).names == ["console", "auxiliary.1"]


def test_a_map_that_is_constant_but_for_rounding_has_no_correlation() -> None:
    noise = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    flat, varied = 3 + 1e-7 * noise, 3 + noise
    assert all(map(math.isnan, _correlations(list(flat), list(varied))))
    assert _correlations(list(varied), list(varied)) == pytest.approx([1, 1])


def test_two_threads_that_record_at_once_are_refused() -> None:
    """With recorders of their own both work, and a copy of a recorder is one."""
    from concurrent.futures import ThreadPoolExecutor
    from copy import deepcopy

    net, inner = tiny.load("cnn"), []
    recorder = MapRecorder(WORLD.images[:2], "body", target=DIGITS[:2], of=lambda model: again(model))

    def again(model: nn.Module) -> nn.Module:
        with ThreadPoolExecutor(1) as pool:  # a thread in the midst of a record
            inner.append(pool.submit(recorder.record, net, 1).exception())
        return model

    assert len(recorder.record(net, 0)) == 2
    assert "two threads record at once: give each training a recorder" in str(inner[0])
    plain = MapRecorder(WORLD.images[:2], "body", target=DIGITS[:2])
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda one: one.record(net, 0), (plain, deepcopy(plain)))
    assert all(torch.equal(a.cam, b.cam) for a, b in zip(first, second, strict=True))


def test_a_network_of_nan_is_recorded_as_it_is() -> None:
    good, bad = tiny.load("cnn"), tiny.load("cnn")
    with torch.no_grad():
        next(bad.parameters()).fill_(math.nan)
    recorder = MapRecorder(WORLD.images[:1], "body", target=DIGITS[:1], every=1)
    (first,), (broken,), (after,) = (recorder(model, step) for step, model in enumerate((good, bad, good)))
    assert math.isnan(broken.score)
    assert not broken.cam.isfinite().any()
    assert broken.correlation is not None
    assert math.isnan(broken.correlation)
    assert torch.equal(first.cam, after.cam)
