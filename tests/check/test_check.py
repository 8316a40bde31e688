"""The check: its numbers against loops, what it costs, what it works on, what it refuses, and good maps against bad."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, attention, check, explainer, methods, metrics, network, targets, tiny, transforms
from camfn._check.measure import mean_color, moves
from camfn._check.words import Line
from camfn.metrics import masked, most_relevant, resampled, spearman
from tests.nets.small import Net, images, seeded


@pytest.fixture
def forwards() -> Iterator[list[int]]:
    """The number of images in each forward of a `Net` or a `Sequential` at the root."""
    rows: list[int] = []

    def count(module: nn.Module, args: Any) -> None:
        if isinstance(module, Net):
            rows.append(len(args[0]))

    hook = nn.modules.module.register_module_forward_pre_hook(count)
    yield rows
    hook.remove()


def net() -> Net:
    made = seeded(Net)
    assert isinstance(made, Net)
    return made


def verdicts(lines: tuple[Line, ...]) -> dict[str, str]:
    return {line.name: line.verdict for line in lines}


def test_the_numbers_are_those_of_a_loop() -> None:
    model, x = net(), images(3, 3, 12, 12)
    explain = explainer(methods.grad_cam, model, "blocks.0")
    found = check(explain, x, [1, 0, 4], generator=torch.Generator().manual_seed(5), copies=2, redraws=2, parts=3)
    draws = torch.Generator().manual_seed(5)
    cam = explain(x, [1, 0, 4])
    with torch.no_grad():
        logits = model(x)
    runner_up = torch.tensor(
        [max((j for j in range(5) if j != c), key=logits[i].__getitem__) for i, c in enumerate((1, 0, 4))]
    )
    assert torch.equal(found.cam, cam)
    assert torch.equal(found.runner_up, runner_up)  # type: ignore[arg-type]
    torch.testing.assert_close(found.again, torch.ones(3))
    torch.testing.assert_close(found.other_class, spearman(cam, explain(x, runner_up)))
    noise = torch.randn(2, 3, 12, 12, generator=draws)
    for j in range(2):
        noisy = torch.stack([x[i] + 0.05 * (x[i].max() - x[i].min()) * noise[j] for i in range(3)])
        torch.testing.assert_close(found.noisy[:, j], spearman(cam, explain(noisy, [1, 0, 4])))
    assert found.redrawn is not None
    for j in range(2):
        copy = net()
        copy.head.weight.data = resampled("", copy.head.weight.data, draws)
        copy.head.bias.data = resampled("", copy.head.bias.data, draws)
        torch.testing.assert_close(
            found.redrawn[:, j], spearman(cam, explainer(methods.grad_cam, copy, "blocks.0")(x, [1, 0, 4]))
        )
    marks = most_relevant(torch.nn.functional.interpolate(cam[:, None], (12, 12), mode="bilinear")[:, 0], 0.2)
    parts = [marks, *(marks.roll(move, (1, 2)) for move in moves(3, (12, 12), draws))]
    assert found.kept is not None
    assert found.removed is not None
    chosen = torch.tensor([1, 0, 4])
    with torch.no_grad():
        torch.testing.assert_close(found.score, model(x).softmax(1)[torch.arange(3), chosen])
        for j, part in enumerate(parts):
            kept = model(masked(x, part, baseline=mean_color)).softmax(1)
            removed = model(masked(x, ~part, baseline=mean_color)).softmax(1)
            torch.testing.assert_close(found.kept[:, j], kept[torch.arange(3), chosen])
            torch.testing.assert_close(found.removed[:, j], removed[torch.arange(3), chosen])


@pytest.mark.parametrize(
    ("method", "each"),
    [(methods.grad_cam, 1), (methods.eigen_cam, 1), (methods.layer_cam, 1)],
    ids=lambda x: str(x)[:20],
)
@pytest.mark.parametrize("counts", [{}, {"copies": 1, "redraws": 2, "parts": 4}], ids=["defaults", "few"])
def test_it_costs_what_it_says(
    forwards: list[int], method: Callable[..., Tensor], each: int, counts: dict[str, Any]
) -> None:
    steps: list[tuple[int, int]] = []
    found = check(
        explainer(method, net(), "blocks.0"), images(2, 3, 12, 12), progress=lambda *step: steps.append(step), **counts
    )
    copies, redraws, parts = (
        counts.get(name, default) for name, default in (("copies", 6), ("redraws", 6), ("parts", 19))
    )
    assert (found.maps, found.forwards) == (3 + copies + redraws, 3 + 2 * parts)
    assert len(forwards) == each * found.maps + found.forwards
    assert set(forwards) == {2}
    total = found.maps + found.forwards
    assert steps[0] == (2, total)
    assert steps[1:] == [(done, total) for done in range(3, total + 1)]


def test_what_is_left_out_is_not_counted(forwards: list[int]) -> None:
    steps: list[tuple[int, int]] = []
    found = check(
        explainer(methods.grad_cam, net(), "blocks.0"),
        images(1, 3, 12, 12),
        lambda outputs: outputs[:, 1] - outputs[:, 2],
        progress=lambda *step: steps.append(step),
    )
    assert found.runner_up is found.other_class is found.classes is None
    assert not found.of_probability
    assert len(forwards) == found.maps + found.forwards == steps[0][1] == 55
    assert steps[-1] == (55, 55)
    (line,) = [line for line in found.lines() if line.name == "other class"]
    assert line.verdict == "none"
    assert "not the score of a class" in line.sentence


def test_the_model_and_the_global_generator_stay() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inside = [id(module) for module in model.modules()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    state, mine = torch.get_rng_state(), images(1, 3, 12, 12)
    kept = mine.clone()
    check(explainer(methods.grad_cam, model, "blocks.0"), mine)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(mine, kept)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [id(module) for module in model.modules()] == inside
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_equal_calls_agree_also_from_threads() -> None:
    explain, x = explainer(methods.grad_cam, net(), "blocks.0"), images(1, 3, 12, 12)
    first = check(explain, x)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(check(explain, x))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [first] * 4
    assert pickle.loads(pickle.dumps(first)) == first
    assert check(explain, x, generator=torch.Generator().manual_seed(1)) != first


def test_an_image_is_checked_alike_alone_and_in_a_batch() -> None:
    explain, x = explainer(methods.grad_cam, net(), "blocks.0"), images(3, 3, 12, 12)
    together, alone = check(explain, x), check(explain, x[1:2])
    assert together.record(1) == alone.record() or all(
        one["verdict"] == other["verdict"] for one, other in zip(together.record(1), alone.record(), strict=True)
    )
    torch.testing.assert_close(together.kept[1:2], alone.kept, rtol=1e-4, atol=1e-6)  # type: ignore[index]


class Series(nn.Module):
    """A network over one, two or three dimensions of space."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](2, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.conv(x).relu().flatten(2).mean(2))
        return y


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_one_to_three_dimensions_in_each_precision(dims: int, dtype: torch.dtype) -> None:
    model = seeded(lambda: Series(dims), dtype=dtype)
    found = check(explainer(methods.grad_cam, model, "conv"), images(2, 2, *(9, 8, 7)[:dims], dtype=dtype))
    assert found.cam.shape == (2, *(9, 8, 7)[:dims])
    assert found.missing == {}
    assert found.kept is not None
    assert found.kept.shape == (2, 20)
    assert len(str(found).splitlines()) >= 2 * 10
    json.dumps(found.record(1), allow_nan=False)


class Two(nn.Module):
    """Two images by keyword, and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.net = seeded(Net)

    def forward(self, *, left: Tensor, right: Tensor, weight: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(left) + weight[:, None] * self.net(right)}


def test_images_among_several_inputs() -> None:
    model = Two().eval()
    inputs = {"left": images(2, 3, 12, 12), "right": images(2, 3, 12, 12, seed=2), "weight": torch.ones(2)}
    explain = explainer(methods.grad_cam, model, "net.blocks.0", call=0, images="left")
    found = check(explain, inputs, images="left")
    assert found.missing == {}
    assert found.head == "net.head"
    with pytest.raises(CamfnError, match="images='left'"):
        check(explain, inputs)


VIT = tiny.load("vit")
CNN = tiny.load("cnn")
FIRST = tiny.scenes(2, generator=torch.Generator().manual_seed(0)).images


def drawing() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    "explain",
    [
        attention.attention_explainer(attention.attention_rollout, VIT),
        explainer(methods.grad_cam, VIT, "blocks.1"),
        network.full_grad(CNN),
        network.guided_backprop(CNN),
        transforms.augment(explainer(methods.grad_cam, CNN, "body")),
        transforms.smooth(explainer(methods.grad_cam, CNN, "body"), 2, generator=drawing()),
        transforms.fuse(methods.grad_cam, CNN, ["body.1", "body"]),
        explainer(methods.score_cam, CNN, "body", chunk_size=64),
        explainer(transforms.eigen_smooth(methods.grad_cam), CNN, "body"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_explainer(explain: Any) -> None:
    found = check(explain, FIRST, copies=1, redraws=1, parts=2)
    assert found.missing == {}
    assert found.head == "head"
    assert found.cam.ndim == 3


def test_a_function_with_its_model() -> None:
    def edges(x: Tensor, target: Any) -> Tensor:
        return x.diff(dim=2, append=x[:, :, -1:]).abs().sum(1)

    found = check(edges, FIRST, model=CNN)
    assert set(found.missing) == {"new head"}
    assert verdicts(found.lines())["other class"] == "bad"


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        (None, True),
        (3, True),
        (torch.tensor([1, 2]), True),
        (targets.class_probability(1), True),
        (targets.rest(), True),
        (targets.contrast(1, against=2), False),
        ([0, lambda outputs: outputs[:, 1]], False),
        (lambda outputs: outputs.sum(1), False),
        (lambda outputs: outputs.argmax(1).float() + 0 * outputs[:, 0], False),
    ],
)
def test_targets(target: Any, classes: bool) -> None:
    found = check(explainer(methods.grad_cam, CNN, "body"), FIRST, target, copies=1, redraws=1, parts=2)
    assert (found.classes is not None) is classes is found.of_probability
    assert found.head == "head"


def test_a_regression_has_a_score_but_no_class() -> None:
    model = seeded(lambda: Net(classes=1))
    found = check(explainer(methods.grad_cam, model, "blocks.0"), images(2, 3, 12, 12), targets.binary_score())
    assert found.runner_up is None
    assert "score" in found.table()
    assert "probability" not in found.table()
    assert check(explainer(methods.grad_cam, model, "blocks.0"), images(2, 3, 12, 12), 0).runner_up is None


def test_a_blank_map_has_nothing_to_check() -> None:
    found = check(lambda x, target: torch.zeros(2, 4, 4), FIRST, model=CNN)
    assert [line.verdict for line in found.lines()] == ["bad"]
    found = check(lambda x, target: torch.full((2, 4, 4), torch.nan), FIRST, model=CNN)
    assert "nothing to check" in str(found)
    json.dumps(found.record(), allow_nan=False)


def test_a_map_without_a_place_on_the_images_is_still_checked() -> None:
    found = check(lambda x, target: x.mean((1, 2)), FIRST, model=CNN)
    assert {"kept", "removed"} < set(found.missing)
    assert found.kept is None


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: check(3, FIRST), "explain"),  # type: ignore[arg-type]
        (lambda: check(lambda x, t: x[:, 0], FIRST), "model=model"),
        (lambda: check(lambda x, t: x[:, 0], FIRST, model="net"), "Module"),  # type: ignore[arg-type]
        (lambda: check(lambda x, t: x[:1, 0], FIRST, model=CNN), "maps"),
        (lambda: check(lambda x, t: 3, FIRST, model=CNN), "maps"),  # type: ignore[arg-type, return-value]
        (lambda: check(network.full_grad(CNN), FIRST, model=VIT), "one model"),
        (lambda: check(network.full_grad(CNN), FIRST, copies=0), "copies"),
        (lambda: check(network.full_grad(CNN), FIRST, redraws=1.5), "redraws"),  # type: ignore[arg-type]
        (lambda: check(network.full_grad(CNN), FIRST, parts=0), "parts"),
        (lambda: check(network.full_grad(CNN), FIRST, share=1), "share"),
        (lambda: check(network.full_grad(CNN), FIRST, generator=0), "generator"),  # type: ignore[arg-type]
        (lambda: check(network.full_grad(CNN), FIRST, noise=torch.zeros(2, 3, 5, 5)), "noise"),
        (lambda: check(network.full_grad(CNN), FIRST, noise=[1]), "noise"),  # type: ignore[arg-type]
        (lambda: check(network.full_grad(CNN), FIRST, progress=3), "progress"),  # type: ignore[arg-type]
        (lambda: check(network.full_grad(CNN), FIRST[:0]), "at least one image"),
        (lambda: check(network.full_grad(CNN), "photo.png"), "inputs"),  # type: ignore[arg-type]
        (lambda: check(network.full_grad(nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))), FIRST), "eval()"),
    ],
)
def test_refusals(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(CamfnError, match=text.replace("(", r"\(").replace(")", r"\)")):
        make()


def test_given_noise_stands_in_the_place_of_drawn_noise() -> None:
    explain = explainer(methods.grad_cam, CNN, "body")
    found = check(explain, FIRST, noise=torch.zeros(3, 3, 64, 64))
    torch.testing.assert_close(found.noisy, torch.ones(2, 3))


# -------------------------------------------------------------------------------------------- good maps and bad ones

WORLD = tiny.scenes(12, generator=torch.Generator().manual_seed(7))


def shares(explain: Any, model: nn.Module | None = None) -> dict[str, float]:
    """For each line, the share of images whose verdict is good."""
    found = check(explain, WORLD.images, WORLD.labels[:, 0], model=model)
    lines = [verdicts(found.lines(i)) for i in range(12)]
    return {name: sum(line[name] == "good" for line in lines) / 12 for name in lines[0]}


def test_a_good_map_of_a_known_world_is_called_good() -> None:
    assert min(shares(explainer(methods.grad_cam, CNN, "body")).values()) > 0.9


def test_a_random_network_shows_nothing() -> None:
    good = shares(explainer(methods.grad_cam, tiny.load("cnn", trained=False), "body"))
    assert good["kept"] == good["removed"] == 0


def test_a_random_map_is_found_out() -> None:
    good = shares(explainer(partial(methods.random_cam, generator=drawing()), CNN, "body"))
    assert good["same call"] == good["other class"] == good["new head"] == 0
    assert good["noise"] < 0.2


def test_a_map_without_class_and_an_edge_detector_are_found_out() -> None:
    good = shares(explainer(methods.eigen_cam, CNN, "body"))
    assert good["other class"] == good["new head"] == 0
    good = shares(lambda x, target: x.diff(dim=2, append=x[:, :, -1:]).abs().sum(1), CNN)
    assert good["other class"] == 0
    assert good["removed"] < 0.4


def test_the_check_agrees_with_the_sanity_check_of_metrics() -> None:
    """A cascade over the head alone is a new head."""
    explain = explainer(methods.eigen_cam, CNN, "body")
    cascade = metrics.randomization(
        lambda model: explainer(methods.eigen_cam, model, "body")(FIRST), CNN, generator=drawing(), names=["head"]
    )
    assert torch.equal(cascade.similarity[:, 0], check(explain, FIRST).redrawn[:, 0])  # type: ignore[index]
