"""Resume: the network after the cut, replaying what came before."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap
from torch.nn.modules.module import register_module_forward_hook

from camfn import CaptureError, Layout, capture, capture_many, observe, resume
from tests.nets.small import Net, Shared, images, seeded, unchanged

LAYERS = ["stem", "stem.0", "stem.1", "blocks.0", "blocks.0.conv", "blocks.0.bn", "blocks.1", "blocks.1.downsample", ""]


@pytest.mark.parametrize("layer", LAYERS)
def test_the_tail_of_the_activations_is_the_output_every_time(layer: str) -> None:
    net, x = seeded(Net), images(2, 3, 9, 7)
    with unchanged(net):
        activations, outputs = observe(net, layer, layout=None)(x)
        tail = resume(net, layer, layout=None)(x)
        with torch.no_grad():
            for _ in range(2):
                torch.testing.assert_close(tail(activations), outputs, rtol=0, atol=0)


@pytest.mark.parametrize("layer", LAYERS)
def test_vmap_of_the_tail_is_the_loop_and_other_activations_give_other_outputs(layer: str) -> None:
    net, x = seeded(Net), images(2, 3, 9, 7)
    activations, outputs = observe(net, layer, layout=None)(x)
    tail = resume(net, layer, layout=None)(x)
    rows = torch.stack([activations, activations * 0.5, activations + 0.1])
    with unchanged(net), torch.no_grad():
        loop = torch.stack([tail(row) for row in rows])
        torch.testing.assert_close(vmap(tail)(rows), loop, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(vmap(tail, chunk_size=2)(rows), loop, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(loop[1], outputs)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_gradient_of_the_tail_is_the_captured_one(layer: str) -> None:
    net, x = seeded(Net, dtype=torch.float64), images(2, 3, 9, 7, dtype=torch.float64)
    activations, grads, _ = capture(net, layer, layout=None)(x, 1)
    tail = resume(net, layer, layout=None)(x)
    torch.testing.assert_close(grad(lambda a: tail(a)[:, 1].sum())(activations), grads)
    direction = images(*activations.shape, dtype=torch.float64, seed=4)
    slope: Tensor = jvp(lambda a: tail(a)[:, 1].sum(), (activations,), (direction,))[1]
    torch.testing.assert_close(slope, (direction * grads).sum())


def test_the_trunk_is_not_run_again() -> None:
    net, x, calls = seeded(Net), images(1, 3, 8, 8), []
    for name in ("stem.0", "blocks.0.conv", "blocks.1.conv", "head"):
        net.get_submodule(name).register_forward_pre_hook(lambda module, args, name=name: calls.append(name))
    activations, _ = observe(net, "blocks.0")(x)
    tail = resume(net, "blocks.0")(x)
    assert calls == 2 * ["stem.0", "blocks.0.conv", "blocks.1.conv", "head"]
    calls.clear()
    tail(activations)
    assert calls == ["blocks.1.conv", "head"]


class TestHabits:
    """Networks whose forward does to recorded values what real ones do."""

    x = images(2, 3, 6, 6)

    def check(self, net: nn.Module, layer: str, **options: Any) -> None:
        net.eval()
        activations, outputs = observe(net, layer, **options)(self.x)
        tail = resume(net, layer, **options)(self.x)
        rows = torch.stack([activations, activations * 0.5])
        with unchanged(net), torch.no_grad():
            for _ in range(2):
                torch.testing.assert_close(tail(activations), outputs)
            loop = torch.stack([tail(row) for row in rows])
            torch.testing.assert_close(vmap(tail)(rows), loop, rtol=1e-5, atol=1e-6)
            assert not torch.allclose(loop[0], loop[1])

    def net(self, forward: Callable[[Any, Tensor], Any], **modules: nn.Module) -> nn.Module:
        class Custom(nn.Module):
            pass

        Custom.forward = forward
        net = Custom()
        for name, module in modules.items():
            setattr(net, name, module)
        return net

    def convs(self, *names: str) -> dict[str, nn.Module]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return {name: nn.Conv2d(3, 3, 3, padding=1) for name in names}

    def test_a_recorded_value_is_the_target_of_an_addition_in_place(self) -> None:
        def forward(self: Any, x: Tensor) -> Any:
            side = self.side(x)
            side += self.main(x)
            return side.mean((2, 3))

        self.check(self.net(forward, **self.convs("side", "main")), "main")

    def test_what_a_recorded_value_became_by_a_function_is_the_target(self) -> None:
        def forward(self: Any, x: Tensor) -> Any:
            side = self.side(x).sigmoid()
            side += self.main(x)
            return side.mean((2, 3))

        self.check(self.net(forward, **self.convs("side", "main")), "main")

    def test_a_module_of_the_part_before_overwrites_a_recorded_value_and_its_return_is_ignored(self) -> None:
        def forward(self: Any, x: Tensor) -> Any:
            side = self.side(x)
            self.relu(side)
            return (side + self.main(x)).mean((2, 3))

        self.check(self.net(forward, relu=nn.ReLU(inplace=True), **self.convs("side", "main")), "main")

    def test_the_network_overwrites_a_recorded_value_between_two_modules(self) -> None:
        def forward(self: Any, x: Tensor) -> Any:
            out = self.side(x)
            out += x
            out = self.relu(out)
            return (out + self.main(out)).mean((2, 3))

        self.check(self.net(forward, relu=nn.ReLU(inplace=True), **self.convs("side", "main")), "main")

    def test_one_activation_module_serves_before_and_after(self) -> None:
        def forward(self: Any, x: Tensor) -> Any:
            return self.relu(self.last(self.relu(self.main(self.relu(self.side(x)))))).mean((2, 3))

        self.check(self.net(forward, relu=nn.ReLU(), **self.convs("side", "main", "last")), "main")

    def test_the_layers_own_output_is_overwritten(self) -> None:
        def forward(self: Any, x: Tensor) -> Any:
            out = self.main(x)
            out.mul_(2).relu_()
            return out.mean((2, 3))

        net = self.net(forward, **self.convs("main"))
        self.check(net, "main")
        activations, _ = observe(net, "main")(self.x)
        before = activations.clone()
        resume(net, "main")(self.x)(activations)
        assert torch.equal(activations, before)

    def test_the_input_is_overwritten(self) -> None:
        def forward(self: Any, x: Tensor) -> Any:
            x.mul_(2)
            return (x + self.main(x)).mean((2, 3))

        net = self.net(forward, **self.convs("main"))
        before = self.x.clone()
        self.check(net, "main")
        assert torch.equal(self.x, before)

    def test_a_mask_made_of_the_input_is_filled_by_slices(self) -> None:
        def forward(self: Any, x: Tensor) -> Any:
            mask = x.new_zeros(x.shape)
            out = self.main(x)
            mask[..., 2:] = out[..., 2:]
            return (mask * out).mean((2, 3))

        self.check(self.net(forward, **self.convs("main")), "main")

    def test_parts_of_an_uncalled_container_and_a_module_called_by_method(self) -> None:
        class Parts(nn.Module):
            def __init__(self, convs: dict[str, nn.Module]) -> None:
                super().__init__()
                self.list = nn.ModuleList([convs["a"], convs["b"]])
                self.dict = nn.ModuleDict({"c": convs["c"]})

            def features(self, x: Tensor) -> Tensor:
                for part in self.list:
                    x = x + part(x)
                return x

        def forward(self: Any, x: Tensor) -> Any:
            return self.main(self.parts.features(x) + self.parts.dict["c"](x)).mean((2, 3))

        net = self.net(forward, parts=Parts(self.convs("a", "b", "c")), **self.convs("main"))
        for layer in ("main", "parts.list.0", "parts.list.1", "parts.dict.c"):
            self.check(net, layer)

    def test_control_flow_on_data(self) -> None:
        def forward(self: Any, x: Tensor) -> Any:
            side = self.side(x)
            return (self.main(side) if bool(side.mean() > 0) else self.main(-side)).mean((2, 3))

        self.check(self.net(forward, **self.convs("side", "main")), "main")

    def test_hooks_of_the_user_are_not_applied_twice(self) -> None:
        net = seeded(Net)
        net.get_submodule("stem").register_forward_hook(lambda module, args, output: output * 2)
        net.get_submodule("blocks.0").register_forward_hook(lambda module, args, output: output + 1)
        for layer in ("stem", "blocks.0", "blocks.1"):
            self.check(net, layer)

    def test_tuple_layers(self) -> None:
        net = seeded(Shared)
        self.check(net, "pair", select=0)
        self.check(net, "pair", select=lambda output: output[1]["mean"], layout=None)

    def test_train_mode(self) -> None:
        net = seeded(Net).train()
        activations, outputs = observe(net, "blocks.0")(self.x)
        with unchanged(net), torch.no_grad():
            torch.testing.assert_close(resume(net, "blocks.0")(self.x)(activations), outputs)


def test_layout_goes_both_ways() -> None:
    layout = Layout(lambda raw: raw.movedim(-1, 1), lambda cam, like: cam.movedim(1, -1))
    net, x = seeded(Net), images(2, 3, 8, 8)
    activations, outputs = observe(net, "blocks.0", layout=layout)(x)
    with torch.no_grad():
        assert torch.equal(resume(net, "blocks.0", layout=layout)(x)(activations), outputs)


def test_under_inference_mode_and_inside_vmap() -> None:
    net, x = seeded(Net), images(3, 3, 8, 8)
    with torch.inference_mode():
        inside = x.clone()
        tail = resume(net, "blocks.0")(inside)
        assert torch.equal(tail(observe(net, "blocks.0")(inside)[0]), net(x))

    def rerun(row: Tensor) -> Tensor:
        activations, _ = observe(net, "blocks.0")(row[None])
        out: Tensor = resume(net, "blocks.0")(row[None])(activations)[0]
        return out

    torch.testing.assert_close(vmap(rerun)(x), net(x), rtol=1e-5, atol=1e-6)


def test_eight_threads_share_one_tail() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    tail = resume(net, "blocks.0")(x)
    rows = [images(2, 6, 8, 8, seed=i) for i in range(8)]
    with torch.no_grad():
        alone, together = [tail(row) for row in rows], dict[int, Tensor]()

    def work(i: int) -> None:
        with torch.no_grad():
            for _ in range(5):
                together[i] = tail(rows[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(together[i], alone[i]) for i in range(8))


def test_tails_leave_no_tensor_behind() -> None:
    net, x = seeded(Net), images(1, 3, 4, 4)
    activations, _ = observe(net, "blocks.0")(x)

    def once() -> None:
        with torch.no_grad():
            resume(net, "blocks.0")(x)(activations)

    once()
    gc.collect()
    gc.disable()
    try:
        before = sum(issubclass(type(o), Tensor) for o in gc.get_objects())
        for _ in range(100):
            once()
        after = sum(issubclass(type(o), Tensor) for o in gc.get_objects())
    finally:
        gc.enable()
    assert after <= before


def test_errors() -> None:
    net, x = seeded(Shared), images(1, 3, 8, 8)
    with pytest.raises(CaptureError, match="ran 2 times"):
        resume(net, "twice")(x)
    with pytest.raises(CaptureError, match="never ran"):
        resume(net, "never")(x)
    with pytest.raises(CaptureError, match="no layer"):
        resume(net, "nope")
    with pytest.raises(ValueError, match=r"expected shape \(4, 8, 8\), got \(4, 7, 8\)"):
        resume(net, "stem")(x)(images(1, 4, 7, 8))


def test_a_layer_that_was_given_nothing() -> None:
    """As a detector's heads are, where no box is found."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.boxes, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.body(x)
            return self.head(x.mean((2, 3))), self.boxes(x[:0])

    net, x = seeded(Detector), images(2, 3, 8, 8)
    tail = resume(net, "boxes", layout=None)(x)
    outputs, boxes = tail(torch.zeros(0, 2, 6, 6))
    torch.testing.assert_close(outputs, net(x)[0])
    assert boxes.shape == (0, 2, 6, 6)


class Encoded(nn.Module):
    """A transformer's encoder, which torch runs in a fused kernel where no graph and no hook prevents it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.encoder(self.stem(x).flatten(2).transpose(1, 2)).mean(1))
        return y


@pytest.mark.parametrize("layer", ["encoder.layers.0.linear1", "encoder.layers.1.norm1", "encoder.layers.1.dropout2"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_layer_inside_a_fused_kernel(layer: str, frozen: bool) -> None:
    net, x = seeded(Encoded).requires_grad_(not frozen), images(2, 3, 8, 8)
    found = capture(net, layer, layout=None)(x, 1)
    tail = resume(net, layer, layout=None)(x)
    with torch.no_grad():
        assert not torch.allclose(tail(found.activations * 2), found.outputs)
    grads = torch.func.grad(lambda a: tail(a)[:, 1].sum())(found.activations)
    torch.testing.assert_close(grads, found.grads)
    assert grads.any()
    both = capture_many(net, [layer, "head"], layout=None)(x, 1)
    torch.testing.assert_close(both[layer].grads, found.grads)


def test_a_hook_of_all_modules_changes_each_value_once() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    hook = register_module_forward_hook(lambda module, args, out: out * 2 if isinstance(module, nn.Conv2d) else None)
    try:
        for layer in ("stem.0", "blocks.0", "blocks.1.conv"):
            tail = resume(net, layer, layout=None)(x)
            torch.testing.assert_close(tail(observe(net, layer, layout=None)(x)[0]), net(x))
    finally:
        hook.remove()
