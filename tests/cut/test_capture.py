"""Capture: the gradient that autograd gives, whatever the network does to the layer's output."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import UserDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.func import jvp, vmap

from camfn import Captured, CaptureError, Layout, capture, capture_many, observe
from camfn.methods import grad_cam
from tests.nets.small import Block, Net, Shared, images, reference, seeded, unchanged


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, x * 2


class First(nn.Module):
    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return pair[0]


LAYERS = ["stem", "stem.0", "stem.1", "stem.2", "blocks.0", "blocks.0.bn", "blocks.1", "blocks.1.downsample"]


def score_of(cls: int) -> Callable[[Tensor], Tensor]:
    return lambda outputs: outputs[:, cls]


def assert_close(captured: Captured, expected: tuple[Tensor, Tensor, Any], rtol: float = 1e-12) -> None:
    for got, want in zip(captured, expected):
        torch.testing.assert_close(got, want.detach(), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("layer", LAYERS)
def test_equals_autograd_on_a_net_that_writes_in_place(layer: str) -> None:
    net, x = seeded(Net, dtype=torch.float64), images(2, 3, 9, 7, dtype=torch.float64)
    expected = reference(net, layer, lambda model: model(x), score_of(3))
    with unchanged(net):
        captured = capture(net, layer)(x, 3)
    assert_close(captured, expected)
    assert captured.grads.abs().sum() > 0


def test_hand_cut_network() -> None:
    head, tail = nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 5 * 5, 6))
    net, x = nn.Sequential(head, tail), images(2, 3, 7, 7)
    activations = head(x).detach().requires_grad_()
    outputs = tail(activations.clone())
    (grads,) = torch.autograd.grad(outputs[:, 2].sum(), activations)
    assert_close(capture(net, "0")(x, 2), (activations, grads, outputs), rtol=1e-6)


def test_module_or_name() -> None:
    net, x = seeded(Net), images(1, 3, 8, 8)
    assert_close(capture(net, net.get_submodule("blocks.0"))(x, 1), capture(net, "blocks.0")(x, 1))


def test_many_layers_are_each_what_one_is() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    many = capture_many(net, LAYERS)(x, 1)
    assert list(many) == LAYERS
    for layer in LAYERS:
        assert_close(many[layer], capture(net, layer)(x, 1), rtol=1e-6)


def test_the_root_is_a_layer() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    activations, grads, outputs = capture(net, net, layout=None)(x, 1)
    assert torch.equal(activations, outputs)
    assert torch.equal(grads, torch.eye(5)[1].expand(2, 5))


def test_observe_sees_the_output_before_it_is_overwritten() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    with unchanged(net):
        activations, outputs = observe(net, "stem.1")(x)
    with torch.no_grad():
        assert torch.equal(activations, net.get_submodule("stem.1")(net.get_submodule("stem.0")(x)))
        assert torch.equal(outputs, net(x))
    assert activations.min() < 0


class TestWhateverTheModelsState:
    net, x = seeded(Net), images(2, 3, 8, 8)

    def expected(self) -> Captured:
        return capture(self.net, "blocks.0")(self.x, 1)

    def test_frozen_parameters(self) -> None:
        net = seeded(Net).requires_grad_(False)
        with unchanged(net):
            assert_close(capture(net, "blocks.0")(self.x, 1), self.expected())

    def test_outer_no_grad_and_inference_mode(self) -> None:
        with torch.no_grad():
            assert_close(capture(self.net, "blocks.0")(self.x, 1), self.expected())
        with torch.inference_mode():
            inside = self.x.clone()
            captured = capture(self.net, "blocks.0")(inside, 1)
        assert not captured.grads.is_inference()
        assert_close(captured, self.expected())

    def test_no_graph_is_kept(self) -> None:
        assert not any(t.requires_grad for t in capture(self.net, "blocks.0")(self.x.clone().requires_grad_(), 1))

    def test_train_mode_runs_as_it_is_and_writes_no_statistic(self) -> None:
        net = seeded(Net).train()
        expected = reference(seeded(Net).train(), "blocks.0", lambda model: model(self.x), score_of(1))
        run = capture(net, "blocks.0")
        with unchanged(net):
            for _ in range(2):
                assert_close(run(self.x, 1), expected, rtol=1e-5)
            observe(net, "blocks.0")(self.x)
            vmap(lambda t: run(self.x, t).grads)(torch.arange(5))

    def test_one_module_in_training(self) -> None:
        net = seeded(Net)
        net.get_submodule("blocks.1.bn").train()
        with unchanged(net):
            capture(net, "blocks.0")(self.x, 1)
            capture(net, "blocks.1.bn")(self.x, 1)

    def test_a_change_of_the_model_is_seen(self) -> None:
        net = seeded(Net)
        run = capture(net, "blocks.0")
        before = run(self.x, 1)
        net.head = nn.Linear(6, 5)
        assert not torch.equal(run(self.x, 1).outputs, before.outputs)
        assert torch.equal(run(self.x, 1).outputs, net(self.x).detach())

    def test_hooks_of_the_user_run_and_stay(self) -> None:
        net, calls = seeded(Net), []

        def doubled(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            calls.append(1)
            return output * 2

        net.get_submodule("blocks.0").register_forward_hook(doubled)
        with unchanged(net):
            activations, _, outputs = capture(net, "blocks.0")(self.x, 1)
        assert len(calls) == 1
        assert torch.equal(outputs, net(self.x).detach())
        torch.testing.assert_close(activations, self.expected().activations)

    def test_parametrized_modules(self) -> None:
        net = seeded(Net)
        nn.utils.parametrizations.weight_norm(net.get_submodule("blocks.0.conv"))
        torch.testing.assert_close(capture(net, "blocks.0.conv")(self.x, 1).grads, self._grads("blocks.0.conv"))

    def _grads(self, layer: str) -> Tensor:
        return capture(self.net, layer)(self.x, 1).grads

    def test_the_input_is_not_written_to(self) -> None:
        net = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
        x, before = self.x.clone(), self.x.clone()
        capture(net, "1")(x, 0)
        assert torch.equal(x, before)

    def test_a_layer_that_hands_on_its_input_which_is_then_overwritten(self) -> None:
        class Alias(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.same, self.conv, self.head = nn.Identity(), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

            def forward(self, x: Tensor) -> Tensor:
                x = self.conv(x)
                y = self.same(x)
                x.mul_(0)
                out: Tensor = self.head((x + y).mean((2, 3)))
                return out

        net = Alias()
        activations, _, _ = capture(net, "same")(self.x, 0)
        assert torch.equal(activations, net.conv(self.x).detach())


class TestTheModelAfterwards:
    def test_when_the_target_raises(self) -> None:
        net, x = seeded(Net), images(2, 3, 8, 8)

        def target(outputs: Tensor) -> Tensor:
            raise ZeroDivisionError

        with unchanged(net), pytest.raises(ZeroDivisionError):
            capture(net, "blocks.0")(x, target)
        with unchanged(net.train()), pytest.raises(ZeroDivisionError):
            capture(net, "blocks.0")(x, target)

    def test_when_the_forward_raises(self) -> None:
        net = seeded(Net).train()
        with unchanged(net), pytest.raises(RuntimeError, match="channels"):
            capture(net, "blocks.0")(images(1, 4, 8, 8), 0)

    def test_a_grad_of_the_users_stays(self) -> None:
        net, x = seeded(Net), images(2, 3, 8, 8)
        net(x).sum().backward()
        with unchanged(net):
            capture(net, "stem")(x, 1)

    def test_a_thousand_captures_leave_no_tensor_behind(self) -> None:
        net, x = seeded(Net), images(1, 3, 4, 4)
        run = capture(net, "blocks.0")
        run(x, 1)
        gc.collect()
        gc.disable()
        try:
            before = sum(issubclass(type(o), Tensor) for o in gc.get_objects())
            for i in range(1000):
                run(x, i % 5)
            after = sum(issubclass(type(o), Tensor) for o in gc.get_objects())
        finally:
            gc.enable()
        assert after <= before

    def test_a_result_dies_with_its_last_reference(self) -> None:
        net, x = seeded(Net), images(1, 3, 4, 4)
        run = capture(net, "blocks.0")
        gc.disable()
        try:
            activations, grads, outputs = run(x, 1)
            refs = [weakref.ref(t) for t in (activations, grads, outputs)]
            del activations, grads, outputs
            assert [ref() for ref in refs] == [None] * 3
        finally:
            gc.enable()

    @pytest.mark.parametrize("training", [False, True])
    def test_eight_threads_give_what_one_gives(self, training: bool) -> None:
        net = seeded(Net).train(training)
        run, batches = capture(net, "blocks.0"), [images(2, 3, 8, 8, seed=i) for i in range(8)]
        alone = [[run(x, t) for t in range(5)] for x in batches]
        together: dict[int, list[Captured]] = {}
        barrier = threading.Barrier(8)

        def work(i: int) -> None:
            barrier.wait()
            together[i] = [run(batches[i], t) for t in range(5)]

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        with unchanged(net):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        for i, results in enumerate(alone):
            for got, want in zip(together[i], results):
                assert all(torch.equal(a, b) for a, b in zip(got, want))


class TestTransforms:
    net, x = seeded(Net), images(2, 3, 8, 8)

    def test_vmap_over_a_hundred_targets_runs_the_forward_once(self) -> None:
        calls: list[str] = []

        class Counted(Net):
            def forward(self, x: Tensor) -> Tensor:
                calls.append("root")
                return super().forward(x)

        class CountedConv(nn.Conv2d):
            def forward(self, x: Tensor) -> Tensor:
                calls.append("conv")
                return super().forward(x)

        net = seeded(lambda: Counted(classes=100))
        net.get_submodule("stem")[0] = CountedConv(3, 6, 3, padding=1)  # type: ignore[operator]
        run = capture(net, "blocks.0")
        maps = vmap(lambda t: grad_cam(*run(self.x, t)))(torch.arange(100))
        assert calls == ["root", "conv"]
        loop = torch.stack([grad_cam(*run(self.x, t)) for t in range(100)])
        torch.testing.assert_close(maps, loop, rtol=1e-5, atol=1e-6)

    def test_vmap_over_inputs_equals_the_batch(self) -> None:
        run = capture(self.net, "blocks.0")
        rows = vmap(lambda x: run(x[None], 1).grads[0])(self.x)
        torch.testing.assert_close(rows, run(self.x, 1).grads, rtol=1e-5, atol=1e-6)

    def test_a_batch_of_two_is_two_batches_of_one(self) -> None:
        run = capture(self.net, "blocks.0")
        both = run(self.x, torch.tensor([1, 4]))
        for i, t in enumerate([1, 4]):
            for got, want in zip(both, run(self.x[i : i + 1], t)):
                torch.testing.assert_close(got[i : i + 1], want, rtol=1e-5, atol=1e-6)

    def test_jvp_is_the_directional_derivative(self) -> None:
        net, x = seeded(_smooth, dtype=torch.float64), images(1, 3, 6, 6, dtype=torch.float64)
        run, v, h = capture(net, "0"), images(1, 3, 6, 6, dtype=torch.float64, seed=5), 1e-6
        tangent: Tensor = jvp(lambda x: grad_cam(*run(x, 1)), (x,), (v,))[1]
        slope = (grad_cam(*run(x + h * v, 1)) - grad_cam(*run(x - h * v, 1))) / (2 * h)
        torch.testing.assert_close(tangent, slope, rtol=1e-6, atol=1e-8)

    def test_gradcheck_through_the_map_in_the_input_and_in_a_weight(self) -> None:
        net, x = seeded(_smooth, dtype=torch.float64), images(1, 3, 5, 5, dtype=torch.float64)
        weight = net.get_parameter("2.weight").detach().clone()

        def of_input(x: Tensor) -> Tensor:
            return grad_cam(*capture(net, "0", differentiable=True)(x, 1))

        def of_weight(w: Tensor) -> Tensor:
            changed = seeded(_smooth, dtype=torch.float64)
            del changed.get_submodule("2").weight
            changed.get_submodule("2").weight = w  # a plain tensor, so that autograd reaches the caller's
            return grad_cam(*capture(changed, "0", differentiable=True)(x, 1))

        assert torch.autograd.gradcheck(of_input, (x.requires_grad_(),))
        assert torch.autograd.gradcheck(of_weight, (weight.requires_grad_(),))

    def test_a_map_as_a_loss_trains_the_parameters(self) -> None:
        net = seeded(_smooth)
        loss = grad_cam(*capture(net, "0", differentiable=True)(self.x, 1)).square().mean()
        weights = [p for p in net.parameters() if p.ndim > 1]
        assert all(grad.abs().sum() > 0 for grad in torch.autograd.grad(loss, weights))

    def test_func_grad_through_the_map(self) -> None:
        net = seeded(_smooth)
        run = capture(net, "0", differentiable=True)
        x = self.x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(grad_cam(*run(x, 1)).square().sum(), x)
        got = torch.func.grad(lambda x: grad_cam(*run(x, 1)).square().sum())(self.x)
        torch.testing.assert_close(got, expected)


def _smooth() -> nn.Module:
    conv = [nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Conv2d(4, 4, 3), nn.Tanh()]
    return nn.Sequential(*conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3), nn.Softplus())


class TestShapes:
    def test_non_square_one_channel_one_position_batch_of_one(self) -> None:
        net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
        assert capture(net, "1")(images(1, 1, 5, 9), 1).grads.shape == (1, 1, 3, 7)
        assert capture(net, "2")(images(1, 1, 5, 9), 1).grads.shape == (1, 1, 1, 1)

    @pytest.mark.parametrize(("conv", "shape"), [(nn.Conv1d, (12,)), (nn.Conv3d, (6, 5, 4))])
    def test_series_and_volumes(self, conv: Callable[..., nn.Module], shape: tuple[int, ...]) -> None:
        net = nn.Sequential(conv(2, 3, 3), nn.Flatten(), nn.ReLU(), nn.Linear(3 * _size(shape), 4))
        x = images(2, 2, *shape)
        assert_close(capture(net, "0")(x, 1), reference(net, "0", lambda m: m(x), score_of(1)), rtol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_dtype_is_kept(self, dtype: torch.dtype) -> None:
        net = seeded(Net, dtype=dtype)
        captured = capture(net, "blocks.0")(images(2, 3, 8, 8).to(dtype), 1)
        assert {t.dtype for t in captured} == {dtype}

    def test_channels_last_memory_is_kept(self) -> None:
        x = images(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
        net = seeded(Net).to(memory_format=torch.channels_last)
        captured = capture(net, "blocks.0")(x, 1)
        assert captured.activations.is_contiguous(memory_format=torch.channels_last)

    def test_layout(self) -> None:
        layout = Layout(lambda raw: raw.movedim(-1, 1), lambda cam, like: cam.movedim(1, -1))
        net, x = seeded(Net), images(2, 3, 8, 8)
        plain, turned = capture(net, "blocks.0")(x, 1), capture(net, "blocks.0", layout=layout)(x, 1)
        assert torch.equal(turned.grads, plain.grads.movedim(-1, 1))
        assert torch.equal(observe(net, "blocks.0", layout=layout)(x)[0], plain.activations.movedim(-1, 1))


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.tensor([n - 2 for n in shape]).prod())


class Output(NamedTuple):
    logits: Tensor
    note: str


class TestInputsAndOutputs:
    net, x = seeded(Net), images(2, 3, 8, 8)

    @pytest.mark.parametrize("kind", ["tuple", "list", "dict", "mapping"])
    def test_inputs(self, kind: str) -> None:
        given: Any = {"tuple": (self.x,), "list": [self.x], "dict": {"x": self.x}, "mapping": UserDict(x=self.x)}[kind]
        assert_close(capture(self.net, "stem")(given, 1), capture(self.net, "stem")(self.x, 1))

    @pytest.mark.parametrize("wrap", [lambda y: (y, 3), lambda y: {"logits": y, "n": None}, lambda y: Output(y, "a")])
    def test_outputs_come_back_as_they_are(self, wrap: Callable[[Tensor], Any]) -> None:
        class Wrapped(Net):
            def forward(self, x: Tensor) -> Any:
                return wrap(super().forward(x))

        net = seeded(Wrapped)
        expected = wrap(self.net(self.x).detach())
        target = (lambda out: out[0][:, 1]) if isinstance(expected, tuple) and not hasattr(expected, "logits") else 1
        outputs = capture(net, "stem")(self.x, target).outputs
        assert type(outputs) is type(expected)
        flat = list(outputs.values()) if isinstance(outputs, dict) else list(outputs)
        want = list(expected.values()) if isinstance(expected, dict) else list(expected)
        assert torch.equal(flat[0], want[0])
        assert flat[1:] == want[1:]

    def test_select(self) -> None:
        net = seeded(Shared)
        for select in (0, lambda output: output[0]):
            assert capture(net, "pair", select=select)(self.x, 1).grads.shape == (2, 4, 8, 8)
        got = capture(net, "pair", select=lambda output: output[1]["mean"], layout=None)(self.x, 1)
        torch.testing.assert_close(got.grads, net.get_parameter("head.weight")[1, 4:].detach().expand(2, 4))
        only = capture(net, "pair", select=lambda output: output[1]["sum"], layout=None, unused="zeros")(self.x, 1)
        assert not only.grads.any()


class TestErrors:
    net, x = seeded(Shared), images(2, 3, 8, 8)

    @pytest.mark.parametrize(
        ("layer", "text"),
        [
            ("pair.con", "no layer 'pair.con'.*Did you mean 'pair.conv'"),
            ("conv", "Did you mean 'pair.conv'"),
            ("zzz", "It has 'stem'"),
            (nn.Conv2d(1, 1, 1), "not a part of this Shared"),
        ],
    )
    def test_unknown_layer_before_any_forward(self, layer: Any, text: str) -> None:
        with pytest.raises(CaptureError, match=text):
            capture(self.net, layer)

    def test_wrong_types(self) -> None:
        with pytest.raises(TypeError, match="or a module, got a int"):
            capture(self.net, 3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="expected a torch"):
            capture(lambda x: x, "stem")  # type: ignore[arg-type]
        with pytest.raises(CaptureError, match="at least one layer"):
            capture_many(self.net, [])
        with pytest.raises(CaptureError, match="lazy modules"):
            capture(nn.Sequential(nn.LazyConv2d(2, 1)), "0")

    def test_a_layer_that_ran_twice_or_never(self) -> None:
        with pytest.raises(CaptureError, match="'twice' ran 2 times"):
            capture(self.net, "twice")(self.x, 0)
        with pytest.raises(CaptureError, match="'never' never ran"):
            capture(self.net, "never")(self.x, 0)
        with pytest.raises(CaptureError, match=r"'blocks' never ran.*'blocks\.0'"):
            capture(seeded(Net), "blocks")(self.x, 0)

    def test_a_tuple_without_select(self) -> None:
        with pytest.raises(CaptureError, match=r"returns a tuple of 2 \(Tensor, Tensor\).*select=0"):
            capture(nn.Sequential(Two(), First()), "0")(self.x, lambda y: y.sum((1, 2, 3)))
        with pytest.raises(CaptureError, match="does not fit the output"):
            capture(self.net, "pair", select=7)(self.x, 0)
        with pytest.raises(CaptureError, match="must pick one of the tensors"):
            capture(self.net, "pair", select=lambda output: output[0] * 2)(self.x, 0)

    def test_no_gradient_of_whole_numbers(self) -> None:
        class Rounded(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.long()

        net = nn.Sequential(nn.Flatten(), Rounded(), nn.Embedding(9, 2))
        with pytest.raises(CaptureError, match="int64"):
            capture(net, "1")(torch.ones(1, 4), lambda out: out.sum((1, 2)))


def test_a_shared_module_is_found_under_each_of_its_names() -> None:
    conv = nn.Conv2d(3, 3, 1)
    net = nn.Sequential(conv, nn.ReLU(), conv, nn.Flatten(), nn.Linear(3 * 16, 2))
    for name in ("0", "2"):
        with pytest.raises(CaptureError, match="ran 2 times"):
            capture(net, name)(images(1, 3, 4, 4), 0)


def test_blocks_of_blocks() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Sequential(Block(6), nn.Sequential(Block(6))), nn.Flatten(1))
    x = images(1, 3, 4, 4)
    for layer in ("1", "1.1.0.bn", "1.0.conv"):
        assert_close(capture(net, layer)(x, 5), reference(net, layer, lambda m: m(x), score_of(5)), rtol=1e-6)


def test_a_notebook_shows_shapes_and_ranges() -> None:
    shown = Captured(torch.tensor([[[-2.0, 3.5]]]), torch.zeros(0, 4), {"logits": torch.ones(1)})._repr_html_()
    assert "<tr><th>activations</th><td>(1, 1, 2)</td><td>float32</td><td>-2</td><td>3.5</td>" in shown
    assert "<tr><th>grads</th><td>(0, 4)</td><td>float32</td><td></td><td></td>" in shown
    assert "<tr><th>outputs</th><td>dict</td><td></td><td></td><td></td>" in shown
