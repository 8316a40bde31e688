"""A prepared network: the same numbers, a model that is left alone, and layers that are right or refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, CaptureError, capture, capture_many, explainer, metrics, network, observe, prepare, resume
from camfn._cut import folded
from camfn.methods import ablation_cam, grad_cam, score_cam
from tests.nets.small import Net, images, seeded, unchanged

X = images(2, 3, 8, 6, dtype=torch.float64)


def prepared_net(dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    net = seeded(Net, dtype=dtype)
    with unchanged(net):
        return net, prepare(net, X.to(dtype))


def test_the_copy_is_the_network_without_batch_norm() -> None:
    net, prepared = prepared_net()
    assert type(prepared) is Net
    assert not [module for module in prepared.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [name for name, _ in prepared.named_modules()] == [name for name, _ in net.named_modules()]
    assert not [name for name, parameter in prepared.named_parameters() if parameter.requires_grad]
    torch.testing.assert_close(prepared(X), net(X))
    other = images(3, 3, 16, 10, dtype=torch.float64)
    torch.testing.assert_close(prepared(other), net(other))


def test_it_shares_no_memory_with_the_network() -> None:
    net, prepared = prepared_net()
    before = prepared(X)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            tensor.zero_()
    torch.testing.assert_close(prepared(X), before, rtol=0, atol=0)


@pytest.mark.parametrize("method", [grad_cam, ablation_cam, score_cam])
@pytest.mark.parametrize("layer", ["stem.1", "stem", "blocks.0", "blocks.0.bn", "blocks.1.downsample", "blocks.1"])
def test_explanations_are_those_of_the_network(method: Callable[..., Tensor], layer: str) -> None:
    net, prepared = prepared_net()
    with unchanged(prepared):
        found = explainer(method, prepared, layer)(X, 1)
    torch.testing.assert_close(found, explainer(method, net, layer)(X, 1))


def test_every_layer_is_right_or_refused() -> None:
    net, prepared = prepared_net()
    refused = []
    for name, module in net.named_modules():
        if not name or isinstance(module, nn.ModuleList):
            continue
        try:
            found = observe(prepared, name, layout=None)(X)[0]
        except CaptureError as error:
            refused.append((name, str(error)))
        else:
            torch.testing.assert_close(found, observe(net, name, layout=None)(X)[0])
    assert [name for name, _ in refused] == ["stem.0", "blocks.0.conv", "blocks.1.conv"]
    assert "'blocks.0.bn'" in refused[1][1]


@pytest.mark.parametrize(
    "ask",
    [
        lambda net, layer: capture(net, layer),
        lambda net, layer: capture_many(net, ["stem", layer]),
        lambda net, layer: resume(net, layer),
        lambda net, layer: explainer(grad_cam, net, layer),
    ],
)
@pytest.mark.parametrize("by", ["name", "module"])
def test_a_convolution_without_an_output_of_its_own_is_refused(ask: Callable[[nn.Module, Any], Any], by: str) -> None:
    prepared = prepared_net()[1]
    for one in (prepared, copy.deepcopy(prepared), pickle.loads(pickle.dumps(prepared))):
        with pytest.raises(CaptureError, match=r"'stem\.1' is folded"):
            ask(one, "stem.0" if by == "name" else one.get_submodule("stem.0"))


class Wrapped(nn.Module):
    """A convolution inside of modules that hand its output on, one of them in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.body(x)).relu().mean((2, 3))  # type: ignore[no-any-return]


def test_a_container_of_the_convolution_is_refused_too() -> None:
    net = seeded(Wrapped, dtype=torch.float64)
    prepared = prepare(net, X)
    for layer in ("body", "body.0", "body.0.0"):
        with pytest.raises(CaptureError, match="'norm' is folded"):
            capture(prepared, layer)
    torch.testing.assert_close(*(capture(one, "norm")(X, 1).grads for one in (prepared, net)))


class Reading(nn.Module):
    """A network that reads a value of its BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        assert self.norm.running_mean is not None
        return self.norm(self.conv(x)).mean((2, 3)) + self.norm.running_mean  # type: ignore[no-any-return]


def test_a_network_that_reads_its_batch_norm_keeps_it() -> None:
    net = seeded(Reading, dtype=torch.float64)
    prepared = prepare(net, X)
    assert isinstance(prepared.get_submodule("norm"), nn.BatchNorm2d)
    torch.testing.assert_close(prepared(X), net(X), rtol=0, atol=0)
    torch.testing.assert_close(observe(prepared, "conv")(X)[0], observe(net, "conv")(X)[0])


def test_convolutions_are_channels_last_where_that_is_fast() -> None:
    def is_last(net: nn.Module) -> bool:
        return net.get_submodule("blocks.0.conv").weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[operator]

    assert is_last(prepared_net(torch.float32)[1])
    assert not is_last(prepared_net(torch.float64)[1])


def test_it_works_in_transforms() -> None:
    net, prepared = prepared_net(torch.float32)
    x = X.float()
    several = torch.vmap(lambda target: explainer(grad_cam, prepared, "blocks.0")(x, target))(torch.tensor([1, 3]))
    expected = torch.stack([explainer(grad_cam, net, "blocks.0")(x, target) for target in (1, 3)])
    torch.testing.assert_close(several, expected)
    with torch.inference_mode():
        torch.testing.assert_close(prepare(net, x.clone())(x), net(x))


@pytest.mark.parametrize("name", ["full_grad", "simple_full_grad", "input_gradient", "guided_backprop", "deconvnet"])
@pytest.mark.parametrize("bias", [False, True])
def test_methods_of_a_whole_network(name: str, bias: bool) -> None:
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)
        ),
        dtype=torch.float64,
    )
    prepared = prepare(net, X)
    method = getattr(network, name)
    if bias and "full" in name:
        with pytest.raises(CamfnError, match="Give it the model that was prepared"):
            method(prepared)(X, 1)
    else:
        torch.testing.assert_close(method(prepared)(X, 1), method(net)(X, 1))


@pytest.mark.parametrize("part", ["", "blocks.0.bn"])
def test_training_mode_is_refused(part: str) -> None:
    net = seeded(Net)
    net.get_submodule(part).train()
    with pytest.raises(CamfnError, match=rf"{part or 'Net'}.*training mode.*model\.eval\(\)"):
        prepare(net, X.float())


@pytest.mark.parametrize("example", [[], X[:0], torch.ones(2, dtype=torch.long)])
def test_an_example_without_images_is_refused(example: Any) -> None:
    with pytest.raises(CamfnError, match="at least one sample, got"):
        prepare(seeded(Net), example)


# ------------------------------------------------------------------------------------------------------------- compiled


def test_without_a_compiler_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder

    def missing() -> str:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    net = seeded(Net)
    net.register_forward_pre_hook(lambda *_: pytest.fail("the network ran"))
    with pytest.raises(CamfnError, match=r"C\+\+ compiler.*install g\+\+"):
        prepare(net, X.float(), compile=True)


@pytest.fixture(scope="module")
def compiled() -> tuple[nn.Module, nn.Module]:
    pytest.importorskip("torch._inductor")
    net = seeded(Net)
    with unchanged(net):
        return net, prepare(net, X.float(), compile=True)


def count_runs(prepared: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the runs of the compiled code."""
    runs: list[int] = []
    code = vars(prepared)[folded.PREPARED]
    run = code.run

    def counted(x: Tensor) -> Any:
        runs.append(len(x))
        return run(x)

    monkeypatch.setattr(code, "run", counted)
    return runs


def test_many_forwards_run_compiled(compiled: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    net, prepared = compiled
    runs = count_runs(prepared, monkeypatch)
    x = images(3, 3, 8, 6, seed=2)
    torch.testing.assert_close(
        explainer(score_cam, prepared, "blocks.0")(x, 1), explainer(score_cam, net, "blocks.0")(x, 1)
    )
    assert set(runs) == {2}
    runs.clear()
    heatmap = images(3, 8, 6, seed=4)
    curves = [metrics.deletion(metrics.scores_of(one, x, 1), x, heatmap, step=4).scores for one in (prepared, net)]
    torch.testing.assert_close(*curves)
    assert set(runs) == {2}


@pytest.mark.parametrize("case", ["size", "changed", "copied", "autocast", "derivative"])
def test_what_the_code_was_not_compiled_for_runs_as_it_is(
    compiled: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    _, prepared = compiled
    runs = count_runs(prepared, monkeypatch)
    x = images(3, 3, 16, 6) if case == "size" else images(3, 3, 8, 6)
    if case == "copied":
        prepared = copy.deepcopy(prepared)
        assert vars(prepared)[folded.PREPARED] is None
    head = prepared.get_submodule("head").weight
    assert isinstance(head, Tensor)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        if case == "changed":
            head.mul_(2)
        with torch.set_grad_enabled(case == "derivative"):
            found = folded.BatchNormFolded(prepared)(x)
        torch.testing.assert_close(found, prepared(x))
        if case == "changed":
            head.div_(2)
    assert not runs


def test_outputs_without_a_row_a_sample_are_not_compiled() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(0)).eval()
    with pytest.raises(CamfnError, match="a row for each of 2 samples"):
        prepare(net, X.float(), compile=True)
