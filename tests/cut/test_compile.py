"""Capture and method compiled into one graph, by inductor on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from inspect import Parameter, signature
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call

from camfn import capture, capture_many, explainer, functional, methods, observe, targets
from camfn.image import normalize, upsample
from camfn.methods import eigen_cam, grad_cam, layer_cam
from camfn.transforms import fuse
from tests.nets.small import Net, images, seeded, unchanged

PARAMETERS = {name: signature(getattr(methods, name)).parameters for name in methods.__all__}
GRADIENT_METHODS = [
    name
    for name, parameters in PARAMETERS.items()
    if parameters["grads"].default is Parameter.empty and not {"tail", "forward"} & set(parameters)
]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def check(function: Callable[..., Tensor], *batches: tuple[Any, ...], backend: str = "inductor") -> None:
    """Compile without a graph break, and find each batch equal to eager with no second compilation."""
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(function, fullgraph=True, backend=counter)
    for batch in batches:
        torch.testing.assert_close(compiled(*batch), function(*batch), rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1


def batches() -> list[tuple[Tensor, Tensor]]:
    return [(images(2, 3, 12, 10, seed=i), torch.tensor([i, 3])) for i in (1, 2)]


@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_capture_and_every_gradient_method(name: str) -> None:
    net, method = seeded(Net), getattr(methods, name)
    run = capture(net, "blocks.0")
    with unchanged(net):
        check(lambda x, t: method(*run(x, t)), *batches())


def test_compiled_code_leaves_registries_that_take_hooks() -> None:
    net = seeded(Net)
    kinds = {(name, key): type(value) for name, part in net.named_modules() for key, value in vars(part).items()}
    run = capture(net, "blocks.0")
    torch.compile(lambda x: grad_cam(*run(x, 1)), backend="aot_eager")(images(2, 3, 12, 10))
    assert kinds == {(n, key): type(value) for n, part in net.named_modules() for key, value in vars(part).items()}
    for part in net.modules():
        part.register_forward_hook(lambda *_: None).remove()
        part.register_forward_pre_hook(lambda *_: None).remove()


def test_the_gradient_methods_are_the_ones_meant() -> None:
    assert len(GRADIENT_METHODS) >= 9
    assert {"grad_cam", "eigen_grad_cam", "bag_cam"} <= set(GRADIENT_METHODS)


@pytest.mark.parametrize("training", [False, True])
def test_several_layers_and_train_mode(training: bool) -> None:
    net = seeded(Net).train(training)
    run = capture_many(net, ["stem", "blocks.0"])

    def fused(x: Tensor, t: Tensor) -> Tensor:
        found = run(x, t)
        return layer_cam(*found["stem"]) + layer_cam(*found["blocks.0"])

    with unchanged(net):
        check(fused, *batches(), backend="aot_eager")


def test_every_kind_of_target_and_an_explainer() -> None:
    net = seeded(Net)
    kinds: list[Any] = [None, 3, targets.class_log_probability(), targets.rest(1), targets.contrast(weighted=True)]
    for target in [*kinds, targets.class_score(1) - 0.5 * targets.class_score(2), lambda y: y.square().sum(1)]:
        explain = partial(explainer(grad_cam, net, "blocks.0"), target=target)
        check(explain, *[b[:1] for b in batches()], backend="eager")


def test_observe_and_an_activation_method() -> None:
    see = observe(seeded(Net), "blocks.0")
    check(lambda x: eigen_cam(see(x)[0]), *[b[:1] for b in batches()], backend="aot_eager")


def test_vmap_over_targets_inside_the_graph() -> None:
    run = capture(seeded(Net), "blocks.0")
    many = torch.arange(5)
    check(lambda x: torch.vmap(lambda t: grad_cam(*run(x, t)))(many), *[b[:1] for b in batches()], backend="aot_eager")


def test_outputs_that_are_not_tensors() -> None:
    class Wrapped(Net):
        def forward(self, x: Tensor) -> Any:
            return {"logits": super().forward(x), "note": "a"}

    run = capture(seeded(Wrapped), "blocks.0")
    check(lambda x, t: grad_cam(*run(x, t)), *batches(), backend="aot_eager")


class Looped(Net):
    """One convolution that runs three times."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = self.blocks[0](x)
        y: Tensor = self.head(x.mean((2, 3)))
        return y


@pytest.mark.parametrize("call", [0, -1, "all"])
def test_a_layer_that_runs_several_times(call: Any) -> None:
    net = seeded(Looped)
    run, see = capture(net, "blocks.0.conv", call=call), observe(net, "blocks.0.conv", call=call)
    with unchanged(net):
        check(lambda x, t: grad_cam(*run(x, t)), *batches(), backend="aot_eager")
        check(lambda x: eigen_cam(see(x)[0]), *[b[:1] for b in batches()], backend="aot_eager")


def test_inside_a_larger_compiled_pipeline() -> None:
    net, head = seeded(Net), nn.Linear(12 * 10, 2)
    run = capture(net, "blocks.0")

    def pipeline(x: Tensor, t: Tensor) -> Tensor:
        mask = grad_cam(*run(x.sigmoid(), t)).relu()
        return torch.as_tensor(head(mask.flatten(1)))

    with torch.no_grad():
        check(pipeline, *batches(), backend="aot_eager")


def sizes() -> list[Tensor]:
    """Batches of 2 to 5, in several resolutions."""
    return [images(b, 3, h, w, seed=b) for b, h, w in ((2, 12, 10), (3, 14, 16), (4, 18, 13), (5, 12, 10))]


def check_open_sizes(function: Callable[..., Tensor], batches: list[tuple[Tensor, ...]], *, marked: bool) -> None:
    """Compile once for all sizes: with `dynamic=True`, or with each dimension of the inputs but channels marked."""
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=None if marked else True)
    for batch in batches:
        given = tuple(x.clone() for x in batch)
        for x in given if marked else ():
            for dim in {0, *range(2, x.ndim)}:
                torch._dynamo.mark_dynamic(x, dim)
        torch.testing.assert_close(compiled(*given), function(*batch), rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("target", ["tensor", None, 3, lambda y: y[:, 2], targets.contrast(1), targets.rest(2)])
def test_one_graph_for_all_batches_and_resolutions(target: Any, marked: bool) -> None:
    explain = explainer(grad_cam, seeded(Net), "blocks.0")

    def picture(x: Tensor, classes: Tensor) -> Tensor:
        cam = explain(x, classes if target == "tensor" else target)
        return upsample(normalize(cam), x.shape[-2:])

    check_open_sizes(picture, [(x, torch.arange(len(x)) % 5) for x in sizes()], marked=marked)


@pytest.mark.parametrize("marked", [False, True])
def test_one_graph_for_all_sizes_of_several_layers_fused(marked: bool) -> None:
    explain = fuse(layer_cam, seeded(Net), ["stem", "blocks.0"])
    check_open_sizes(explain, [(x, torch.arange(len(x)) % 5) for x in sizes()], marked=marked)


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("name", [*GRADIENT_METHODS, "eigen_cam", "kpca_cam", "fem"])
def test_one_graph_for_all_sizes_of_a_method_called_directly(name: str, marked: bool) -> None:
    method, both = getattr(methods, name), name in GRADIENT_METHODS
    pairs = [(images(b, 4, h, w), images(b, 4, h, w, seed=1)) for b, h, w in ((2, 5, 6), (3, 7, 5), (4, 6, 8))]
    check_open_sizes(method, [pair if both else pair[:1] for pair in pairs], marked=marked)


class Whole(nn.Module):
    """A module that explains the network it holds."""

    def __init__(self, net: nn.Module, **options: Any) -> None:
        super().__init__()
        self.net = net
        self.explain = explainer(grad_cam, net, "blocks.0", **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.explain(x, 1)


def parameters_of(net: nn.Module, seed: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"net.{name}": 0.3 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in net.named_parameters()
    }


def equal(got: Any, want: Any) -> None:
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


BACKENDS = pytest.mark.parametrize("backend", ["eager", "aot_eager"])


class TestTheModelAtTheCall:
    """Compiled code sees what eager code sees at the time of the call."""

    x = images(2, 3, 12, 10)

    @BACKENDS
    def test_other_parameters(self, backend: str) -> None:
        whole = Whole(seeded(Net))
        given = parameters_of(whole.net)
        with unchanged(whole.net):
            run = torch.compile(lambda p, x: functional_call(whole, p, (x,)), backend=backend, fullgraph=True)
            equal(run(given, self.x), functional_call(whole, given, (self.x,)))
            other = parameters_of(whole.net, 4)
            equal(run(other, self.x), functional_call(whole, other, (self.x,)))

    @BACKENDS
    def test_an_ensemble(self, backend: str) -> None:
        whole = Whole(seeded(Net))
        stacked = {name: torch.stack([value, 2 * value]) for name, value in parameters_of(whole.net).items()}
        many = torch.vmap(lambda p, x: functional_call(whole, p, (x,)), in_dims=(0, None))
        equal(torch.compile(many, backend=backend, fullgraph=True)(stacked, self.x), many(stacked, self.x))

    @BACKENDS
    def test_derivative_of_a_loss_of_the_map(self, backend: str) -> None:
        whole = Whole(seeded(Net), differentiable=True)
        given = parameters_of(whole.net)

        def grads(p: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
            found: dict[str, Tensor] = torch.func.grad(lambda p: functional_call(whole, p, (x,)).square().sum())(p)
            return found

        got, want = torch.compile(grads, backend=backend, fullgraph=True)(given, self.x), grads(given, self.x)
        for name in given:
            equal(got[name], want[name])
        assert want["net.blocks.0.conv.weight"].any()

    @pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")  # where the trace was broken off before
    @pytest.mark.parametrize("fullgraph", [False, True])
    def test_a_graph_that_is_dropped_is_refused(self, fullgraph: bool) -> None:
        """Of the inputs, and of parameters; a map that is a constant of the derivative is none of these."""
        net = seeded(Net)
        explain = explainer(grad_cam, net, "blocks.0")
        given, pure = functional(explain)

        def of_inputs(x: Tensor) -> Tensor:
            return torch.as_tensor(torch.func.grad(lambda x: explain(x, 1).square().sum())(x))

        def of_parameters(p: dict[str, Tensor]) -> Any:
            return torch.func.jacrev(lambda p: pure(p, self.x, 1))(p)

        def of_another(x: Tensor) -> Tensor:
            return torch.as_tensor(torch.func.grad(lambda y: (explain(x, 1).square().sum() * y).sum())(x))

        options: Any = {"backend": "eager", "fullgraph": fullgraph}
        for refused, value in ((of_inputs, self.x), (of_parameters, given)):
            run: Any = torch.compile(refused, **options)
            with pytest.raises(Exception, match="differentiable=True"):
                run(value)
        assert torch.equal(torch.compile(of_another, **options)(self.x), of_another(self.x))

        def of_classes(x: Tensor) -> Tensor:
            return torch.vmap(lambda t: explain(x, t))(torch.arange(3))

        equal(torch.compile(of_classes, **options)(self.x)[1], explain(self.x, 1))

    def test_mode_children_and_tensors_that_change(self) -> None:
        net = seeded(Net).train()
        explain = explainer(grad_cam, net, "blocks.0")
        run = torch.compile(lambda x: explain(x, 1), backend="eager", fullgraph=True)

        def agrees() -> None:
            with unchanged(net):
                equal(run(self.x), explain(self.x, 1))

        agrees()
        net.eval()
        agrees()
        blocks: Any = net.get_submodule("blocks")
        blocks[1] = copy.deepcopy(blocks[0])
        agrees()
        blocks[0] = copy.deepcopy(blocks[0])
        with torch.no_grad():
            blocks[0].conv.weight *= -2
        agrees()
        head: Any = net.get_submodule("head")
        net.add_module("head", nn.Linear(head.in_features, 5))
        agrees()
        net.load_state_dict({k: v + 0.1 for k, v in net.state_dict().items()}, assign=True)
        agrees()

    @pytest.mark.skipif(torch.__version__ < "2.14", reason="the compiler puts plain dicts for empty registries")
    def test_in_place_registries_stay(self) -> None:
        net = seeded(Net)
        hooks = [module._forward_hooks for module in net.modules()]
        explain = explainer(grad_cam, net, "blocks.0")
        torch.compile(lambda x: explain(x, 1), backend="eager", fullgraph=True)(self.x)
        assert all(module._forward_hooks is held for module, held in zip(net.modules(), hooks, strict=True))
        assert "forward" not in vars(net)
