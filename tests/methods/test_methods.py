"""The contract that every method on a layer, as the catalogue lists them, is held to."""

from __future__ import annotations

import doctest
import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import catalogue, methods
from camfn._shared import components, maps
from tests.methods.cases import CASES, SHAPES, Case, Context, flipped, mapped, permuted, sample_of

FLAT, PLANE, VOLUME = SHAPES
NAMES = sorted(info.name for info in catalogue.METHODS if info.kind == "layer")
# a method without a case still gets its first tests, and `test_every_method_has_a_case` says what is missing
every_name = pytest.mark.parametrize("name", NAMES)
every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=["1d", "2d", "3d"])
first_cases = pytest.mark.parametrize(
    "case",
    [next(case for case in CASES if case.name == name) for name in NAMES if name in {c.name for c in CASES}],
    ids=str,
)


def arrays(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Activations of both signs with channels that do not sum to zero, and gradients, in float64."""
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(shape, generator=generator, dtype=torch.float64) + 0.7
    return activations, torch.randn(shape, generator=generator, dtype=torch.float64)


def method_of(case: Case, context: Context) -> Callable[..., Tensor]:
    method: Callable[..., Tensor] = partial(getattr(methods, case.name), **case.options, **context)
    # a black box perturbs the input, which is the layer it is held to the contract with
    return (lambda x, *rest: method(x, *rest, inputs=x)) if case.black_box else method


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_every_method_has_a_case() -> None:
    assert {case.name for case in CASES} == set(NAMES)


def test_registry_is_what_the_modules_define() -> None:
    public = {
        name
        for name, value in vars(methods).items()
        if inspect.isfunction(value) and value.__module__.startswith("camfn.methods.")
    }
    assert public == set(methods.__all__) == set(NAMES)
    assert len(methods.__all__) == len(NAMES)


@every_case
@every_shape
def test_equals_the_oracle(case: Case, shape: tuple[int, ...]) -> None:
    activations, grads = arrays(shape)
    context = case.context(shape, 1)
    close(method_of(case, context)(activations, grads), case.oracle(activations, grads, **case.options, **context))


@every_case
@every_shape
def test_equals_the_oracle_on_what_a_relu_leaves(case: Case, shape: tuple[int, ...]) -> None:
    activations, grads = arrays(shape, seed=3)
    grads = grads * (activations > 0)
    activations = activations.relu()
    context = case.context(shape, 1)
    close(method_of(case, context)(activations, grads), case.oracle(activations, grads, **case.options, **context))


@every_case
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_keeps_shape_dtype_and_device(case: Case, dtype: torch.dtype) -> None:
    activations, grads = (x.to(dtype) for x in arrays(VOLUME))
    context = mapped(case.context(VOLUME, 1), lambda x: x.to(dtype))
    map_ = method_of(case, context)(activations, grads)
    assert map_.shape == (VOLUME[0], *VOLUME[2:])
    assert map_.dtype == dtype
    assert map_.device == activations.device


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_loses_no_more_than_the_last_cast(case: Case, dtype: torch.dtype) -> None:
    activations, grads = (x.to(dtype) for x in arrays(PLANE))
    context = mapped(case.context(PLANE, 1), lambda x: x.to(dtype))
    exact = method_of(case, mapped(context, Tensor.double))(activations.double(), grads.double())
    # masked inputs go to the network in its own dtype
    slack = 30 if "forward" in context else 1
    close(method_of(case, context)(activations, grads).double(), exact, slack * torch.finfo(dtype).eps)


@every_case
def test_does_not_write_to_its_inputs(case: Case) -> None:
    activations, grads = arrays(PLANE)
    context = case.context(PLANE, 1)
    given = [activations, grads, *(value for value in context.values() if isinstance(value, Tensor))]
    before = [(x.clone(), x._version) for x in given]
    method_of(case, context)(activations, grads)
    for x, (values, version) in zip(given, before, strict=True):
        assert torch.equal(x, values)
        assert x._version == version


@every_case
@every_shape
def test_a_batch_of_two_is_two_batches_of_one(case: Case, shape: tuple[int, ...]) -> None:
    activations, grads = arrays(shape)
    context = case.context(shape, 1)
    together = method_of(case, context)(activations, grads)
    for i in range(2):
        alone = method_of(case, sample_of(context, i))(activations[i : i + 1], grads[i : i + 1])
        close(together[i : i + 1], alone)


@every_case
@every_shape
def test_permuting_channels_changes_nothing(case: Case, shape: tuple[int, ...]) -> None:
    activations, grads = arrays(shape)
    context = case.context(shape, 1)
    order = torch.randperm(shape[1], generator=torch.Generator().manual_seed(5))
    moved = method_of(case, permuted(context, order))(activations[:, order], grads[:, order])
    close(moved, method_of(case, context)(activations, grads))


@every_case
@every_shape
def test_flipping_space_flips_the_map(case: Case, shape: tuple[int, ...]) -> None:
    activations, grads = arrays(shape)
    context = case.context(shape, 1)
    map_ = method_of(case, context)(activations, grads)
    for axis in range(2, len(shape)):
        moved = method_of(case, flipped(context, axis))(activations.flip(axis), grads.flip(axis))
        close(moved, map_.flip(axis - 1))


@every_case
def test_memory_layout_does_not_matter(case: Case) -> None:
    activations, grads = arrays(PLANE)
    context = case.context(PLANE, 1)
    strided = [x.to(memory_format=torch.channels_last) for x in (activations, grads)]
    close(method_of(case, context)(*strided), method_of(case, context)(activations, grads))


@every_case
@every_shape
@pytest.mark.parametrize("zeroed", ["activations", "grads", "both", "one channel"])
def test_zeros_in_finite_out_and_finite_back(case: Case, shape: tuple[int, ...], zeroed: str) -> None:
    activations, grads = arrays(shape)
    if zeroed in ("activations", "both"):
        activations = torch.zeros_like(activations)
    if zeroed in ("grads", "both"):
        grads = torch.zeros_like(grads)
    if zeroed == "one channel":
        activations, grads = (x.index_fill(1, torch.tensor([1]), 0) for x in (activations, grads))
    activations.requires_grad_()
    grads.requires_grad_()
    map_ = method_of(case, case.context(shape, 1))(activations, grads)
    assert map_.isfinite().all()
    if zeroed in ("activations", "both"):
        assert not map_.any()
    found = torch.autograd.grad(map_.square().sum(), (activations, grads), allow_unused=True)
    assert all(gradient is None or gradient.isfinite().all() for gradient in found)


@every_case
def test_constant_channels_are_no_noise(case: Case) -> None:
    # none of them is a binary fraction: rounded means and resized channels miss them by the last bits, to either side
    constants = torch.tensor([0.1, 0.7, 0.9], dtype=torch.float32)
    activations = constants[None, :, None, None].expand(1, 3, 7, 7).contiguous()
    grads = torch.ones_like(activations)
    context = mapped(case.context((1, 3, 7, 7), 1), Tensor.float)
    expected = case.oracle(activations, grads, **case.options, **context)
    close(method_of(case, context)(activations, grads).double(), expected, 1e-5)


@every_case
def test_one_position_and_one_channel(case: Case) -> None:
    for shape in ((2, 3, 1, 1), (2, 1, 2, 3), (1, 1, 1)):
        activations, grads = arrays(shape)
        context = case.context(shape, 1)
        close(
            method_of(case, context)(activations, grads),
            case.oracle(activations, grads, **case.options, **context),
        )


@every_case
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_sample_that_is_not_finite_leaves_the_others_alone(case: Case, bad: float) -> None:
    activations, grads = arrays(PLANE)
    context = case.context(PLANE, 1)
    expected = method_of(case, context)(activations, grads)
    broken = activations.clone()
    broken[0, 1, 2, 1] = bad
    map_ = method_of(case, context)(broken, grads)
    close(map_[1], expected[1])
    # a kernel that saturates may well be finite at infinity
    assert bad == float("inf") or not map_[0].isfinite().all()


@every_case
@every_shape
def test_vmap_equals_the_loop(case: Case, shape: tuple[int, ...]) -> None:
    stack = [(*arrays(shape, seed), case.context(shape, seed)) for seed in range(3)]
    tensors = [{key: value for key, value in context.items() if isinstance(value, Tensor)} for _, _, context in stack]
    functions = {key: value for key, value in stack[0][2].items() if key not in tensors[0]}

    def run(activations: Tensor, grads: Tensor, context: Context) -> Tensor:
        return method_of(case, {**functions, **context})(activations, grads)

    stacked = {key: torch.stack([context[key] for context in tensors]) for key in tensors[0]}
    together = torch.vmap(run)(torch.stack([s[0] for s in stack]), torch.stack([s[1] for s in stack]), stacked)
    for i, (activations, grads, context) in enumerate(stack):
        close(together[i], method_of(case, context)(activations, grads))


@first_cases
def test_compiles_whole_and_once(case: Case) -> None:
    torch._dynamo.reset()
    contexts = [case.context(PLANE, seed) for seed in (1, 2)]
    functions = {key: value for key, value in contexts[0].items() if not isinstance(value, Tensor)}

    def run(activations: Tensor, grads: Tensor, context: Context) -> Tensor:
        return method_of(case, {**functions, **context})(activations, grads)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for seed, context in enumerate(contexts):
        tensors = {key: value for key, value in context.items() if isinstance(value, Tensor)}
        activations, grads = arrays(PLANE, seed)
        with torch.compiler.set_stance("default" if seed == 0 else "fail_on_recompile"):
            close(compiled(activations, grads, tensors), run(activations, grads, tensors))


@every_case
def test_first_derivatives_are_exact(case: Case) -> None:
    shape = (1, *PLANE[1:])
    activations, grads = (x.requires_grad_() for x in arrays(shape))
    run = method_of(case, case.context(shape, 1))
    # torch.autograd.forward_ad does not nest, and shapley_cam is a forward derivative; torch.func.jvp does, see below
    forward = case.name != "shapley_cam"
    assert torch.autograd.gradcheck(run, (activations, grads), check_forward_ad=forward, check_batched_grad=False)


@every_case
@every_shape
def test_jvp_and_vjp_agree(case: Case, shape: tuple[int, ...]) -> None:
    run = method_of(case, case.context(shape, 1))
    point, direction = arrays(shape), arrays(shape, seed=7)
    map_, tangent = torch.func.jvp(run, point, direction)  # type: ignore[misc]
    _, pullback = torch.func.vjp(run, *point)  # type: ignore[misc]
    cotangent = map_ + 1
    back = sum(((x * d).sum() for x, d in zip(pullback(cotangent), direction, strict=True)), torch.zeros(()))
    close((tangent * cotangent).sum(), back)


@every_name
def test_signature_is_the_one_of_a_method(name: str) -> None:
    parameters = list(inspect.signature(getattr(methods, name)).parameters.values())
    assert [p.name for p in parameters[:3]] == ["activations", "grads", "outputs"]
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[3:])
    assert parameters[2].default is None


@every_case
def test_methods_whose_grads_have_a_default_need_none(case: Case) -> None:
    if "gradients" in catalogue.find(case.name).needs:
        with pytest.raises(TypeError, match="grads"):
            method_of(case, case.context(PLANE, 1))(arrays(PLANE)[0])
        return
    activations, grads = arrays(PLANE)
    run = method_of(case, case.context(PLANE, 1))
    assert torch.equal(run(activations), run(activations, grads, "outputs"))


@every_name
def test_docstring_says_shapes_source_and_options(name: str) -> None:
    method = getattr(methods, name)
    text = inspect.getdoc(method) or ""
    for part in ("(B, C, *S)", "(B, *S)", "Source: ", "Args:", "Returns:", "Example:", ">>> ", "`L"):
        assert part in text, part
    for option in inspect.signature(method).parameters:
        assert re.search(rf"^    {option}: ", text, re.MULTILINE), option
    assert "Raises:" in text or "    raise " not in inspect.getsource(method)


@every_name
def test_docstring_example_runs(name: str) -> None:
    run_examples(getattr(methods, name), name)


@pytest.mark.parametrize("name", ["resize", "leading_pair", "first_component", "orient"])
def test_examples_of_shared_lines_run(name: str) -> None:
    run_examples(getattr(maps if hasattr(maps, name) else components, name), name)


def run_examples(function: Callable[..., Any], name: str) -> None:
    found = [test for test in doctest.DocTestFinder(recurse=False).find(function, name) if test.examples]
    assert found
    for test in found:
        output: list[str] = []
        result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=output.append)
        assert result.failed == 0, "".join(output)
