"""The contract of every method of a whole network, over the registry."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from inspect import getdoc
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from camfn import CaptureError, network
from tests.nets.small import Net, images, seeded, unchanged
from tests.network.cases import CASES, SIZES, Case, Plain, layer_of

every_case = pytest.mark.parametrize("case", CASES, ids=str)
CLASSES = torch.tensor([1, 3])


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def close(got: Tensor, expected: Tensor, rtol: float = 1e-4) -> None:
    torch.testing.assert_close(got, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


def test_every_method_has_a_case() -> None:
    assert list(dict.fromkeys(case.name for case in CASES)) == network.__all__
    for name in network.__all__:
        assert "Source:" in (getdoc(getattr(network, name)) or "")


@every_case
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_one_value_a_position_at_the_resolution_of_the_image_or_of_the_layer(case: Case, dims: int) -> None:
    net, x = seeded(partial(Plain, dims)), images(2, 3, *SIZES[dims])
    kept = x.clone()
    with unchanged(net):
        found = case.build(net, x)(x, CLASSES)
    if case.name == "smooth_grad_cam_plusplus":
        assert found.shape == (2, *((n + 1) // 2 for n in SIZES[dims]))
    else:
        assert found.shape in ((2, *SIZES[dims]), x.shape)
    assert found.any()
    assert not found.requires_grad
    assert torch.equal(x, kept)


@every_case
def test_a_batch_is_its_samples_and_classes_are_theirs(case: Case) -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    both = case.build(net, x)(x, CLASSES)
    tensors = case.tensors(x)
    options, others = (
        {key: value if key == "uniform" else value[:, part] for key, value in tensors.items()}
        for part in (slice(1), slice(1, None))
    )
    method = partial(getattr(network, case.name), net, **case.options, **layer_of(case.name, net))
    close(both[:1], method(**options)(x[:1], 1))
    close(both[1:], method(**others)(x[1:], [3]))
    assert not torch.allclose(both[:1], method(**options)(x[:1], 3))


@every_case
def test_vmap_over_targets_is_the_loop(case: Case) -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    explain = case.build(net, x)
    each = torch.vmap(lambda target: explain(x, target))(torch.arange(5))
    close(each, torch.stack([explain(x, target) for target in range(5)]))


@every_case
def test_inputs_under_vmap(case: Case) -> None:
    net, x = seeded(Net), images(4, 2, 3, 8, 8)
    explain = case.build(net, x[0])
    close(torch.vmap(lambda one: explain(one, 2))(x), torch.stack([explain(one, 2) for one in x]))


@every_case
def test_float32_is_float64_and_bfloat16_is_near(case: Case) -> None:
    x = images(2, 3, 8, 8)
    double = seeded(Net).double()
    exact = case.build(double, x)(x.double(), CLASSES)
    assert exact.dtype == torch.float64
    single = case.build(seeded(Net), x)(x, CLASSES)
    assert single.dtype == torch.float32
    close(single.double(), exact)
    half = case.build(seeded(Net).bfloat16(), x)(x.bfloat16(), CLASSES)
    assert half.dtype == torch.bfloat16
    assert (half.double() - exact).abs().mean() < 0.1 * exact.abs().mean()


@every_case
def test_frozen_parameters_and_modes_of_the_caller_do_not_matter(case: Case) -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    expected = case.build(net, x)(x, CLASSES)
    with torch.no_grad():
        assert torch.equal(case.build(net, x)(x, CLASSES), expected)
    with torch.inference_mode():
        assert torch.equal(case.build(net, x)(x.clone(), CLASSES), expected)
    net.requires_grad_(False)
    with unchanged(net):
        assert torch.equal(case.build(net, x)(x, CLASSES), expected)


@every_case
def test_inputs_by_name_and_outputs_in_a_dict(case: Case) -> None:
    class Named(Net):
        def forward(self, x: Tensor, *, scale: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            return {"logits": super().forward(x) * scale}

    net, x = seeded(Net), images(2, 3, 8, 8)
    expected = case.build(net, x)(x, CLASSES)
    found = case.build(seeded(Named), x)({"x": x, "scale": torch.ones(())}, CLASSES)
    close(found, expected)


@every_case
def test_the_model_is_as_it_was_after_an_error(case: Case) -> None:
    class Broken(Net):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            raise RuntimeError("broken")

    net, x = seeded(Broken), images(2, 3, 8, 8)
    explain = case.build(net, x)
    with unchanged(net), pytest.raises(RuntimeError, match="broken"):
        explain(x, 1)
    good = seeded(Net)
    with unchanged(good), pytest.raises(ValueError, match="out of range"):
        case.build(good, x)(x, 5)
    with unchanged(good), pytest.raises(ValueError, match="one floating-point number a sample"):
        case.build(good, x)(x, lambda outputs: outputs)


@every_case
def test_a_later_change_of_the_model_is_seen(case: Case) -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    explain = case.build(net, x)
    before = explain(x, 1)
    with torch.no_grad():
        net.get_submodule("stem.0").weight.copy_(images(6, 3, 3, 3, seed=9))  # type: ignore[operator]
    assert not torch.allclose(explain(x, 1), before)
    assert torch.equal(explain(x, 1), case.build(net, x)(x, 1))


@every_case
def test_compiled_is_eager_in_one_graph(case: Case) -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    explain = case.build(net, x)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x, t: explain(x, t), fullgraph=True, backend=counter)
    with unchanged(net):
        for seed, classes in ((1, CLASSES), (2, CLASSES.flip(0))):
            batch = images(2, 3, 8, 8, seed=seed)
            close(compiled(batch, classes), explain(batch, classes))
    assert counter.frame_count == 1


def test_no_state_is_shared_between_threads() -> None:
    from concurrent.futures import ThreadPoolExecutor

    net, x = seeded(Net), images(2, 3, 8, 8)
    for case in CASES:
        explain = case.build(net, x)
        expected = [explain(x, k) for k in range(5)]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda k, explain=explain: explain(x, k % 5), range(20)))
        for k, map_ in enumerate(found):
            close(map_, expected[k % 5])


class Unrecorded(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(x)


class Detached(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


@every_case
@pytest.mark.parametrize(
    ("build", "target"),
    [(Unrecorded, 1), (Detached, 1), (Net, lambda outputs: outputs[:, 1].detach())],
    ids=["no_grad", "detached input", "detached score"],
)
def test_a_score_whose_graph_misses_the_image_is_refused(case: Case, build: type[Net], target: Any) -> None:
    if build is Detached and str(case).startswith("smooth_grad_cam"):
        pytest.skip("takes its gradients at a layer")
    net, x = seeded(build), images(2, 3, 8, 8)
    with unchanged(net), pytest.raises(CaptureError, match="the score has no gradient at"):
        case.build(net, x)(x, target)
