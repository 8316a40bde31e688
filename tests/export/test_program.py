from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, capture, explainer, export, methods
from camfn.export._plan import plan
from camfn.targets import class_probability

from .nets import photos, small


def test_program_is_the_explainer_for_any_number_of_images() -> None:
    net = small()
    before = copy.deepcopy(net.state_dict())
    explain = explainer(methods.grad_cam, net, "last")
    made = export.program(explain, photos(), heatmap=(20, 24)).module()
    images, asked = photos(4), torch.tensor([3, -1, 0, 6])
    logits, cam, heatmap = made(images, asked)
    expected = net(images)
    torch.testing.assert_close(logits, expected)
    classes = torch.where(asked < 0, expected.argmax(1), asked)
    torch.testing.assert_close(cam, explain(images, classes), rtol=1e-4, atol=1e-6)
    assert heatmap.shape == (4, 20, 24)
    assert heatmap.amin((1, 2)).ge(0).all()
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_a_target_of_ones_own_is_fixed() -> None:
    net = small()
    explain = explainer(methods.hires_cam, net, "stem")
    made = export.program(explain, photos(), target=class_probability(3)).module()
    images = photos(4)
    torch.testing.assert_close(made(images)[1], explain(images, class_probability(3)), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["fd_cam", "ablation_cam"])
def test_a_fixed_target_keeps_the_batch_open_where_the_tail_runs_again(name: str) -> None:
    explain = explainer(getattr(methods, name), small(), "stem")
    cam = export.program(explain, photos(), target=3).module()(photos(4))[1]
    torch.testing.assert_close(cam, explain(photos(4), 3), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["score_cam", "rise", "random_cam", "opti_cam", "group_cam"])
def test_what_no_graph_holds_is_refused_by_name(name: str) -> None:
    method: Any = getattr(methods, name)
    if name in ("rise", "random_cam"):
        method = partial(method, generator=torch.Generator())
    with pytest.raises(CamfnError, match=f"{name} cannot be in a file: it .*grad_cam"):
        export.program(explainer(method, small(), "last"), photos())


@pytest.mark.parametrize(("layer", "affine"), [("last", True), ("stem", False)])
def test_a_file_takes_the_closed_form_of_ablation_where_eager_does(layer: str, affine: bool) -> None:
    method = partial(methods.ablation_cam, baseline=0.1, channels=[1, 4, -1])
    what = plan(explainer(method, small(), layer), photos(), "input", None, "dynamic")
    assert what.settled.method.keywords["closed_form"] is affine
    made = export.program(explainer(method, small(), layer), photos()).module()
    images = photos(4)
    expected = explainer(method, small(), layer)(images, 2)
    torch.testing.assert_close(made(images, torch.full((4,), 2))[1], expected, rtol=1e-4, atol=1e-6)


class Again(nn.Module):
    """A network whose middle layer runs twice, scaled by a tensor that is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.gain = small(), torch.tensor(1.5)

    def forward(self, x: Tensor) -> Any:
        x = self.net.stem(x) * self.gain
        x = self.net.middle(self.net.middle(x))
        return self.net.fc(self.net.pool(self.net.last(x)).flatten(1))


def test_all_runs_of_a_layer_are_in_the_file() -> None:
    net = Again().eval()
    explain = explainer(methods.grad_cam, net, "net.middle", call="all")
    images, asked = photos(4), torch.tensor([3, 1, 0, 6])
    cam = export.program(explain, photos()).module()(images, asked)[1]
    torch.testing.assert_close(cam, explain(images, asked), rtol=1e-4, atol=1e-6)


class Pair(nn.Module):
    """A block of tokens that returns its attention beside them."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        attention = (x @ x.mT).softmax(-1)
        return x + attention @ x, attention[:, None].repeat(1, 2, 1, 1)


class Tokens(nn.Module):
    """A network of such a block."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.block, self.fc = nn.Conv2d(3, 16, 8, 8), Pair(), nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.block(self.patches(x).flatten(2).mT)[0].square().mean(1))


def test_a_block_that_returns_its_attention_too_is_in_the_file() -> None:
    net, images = Tokens().eval(), photos(4)
    explain = explainer(methods.hires_cam, net, "block")
    cam = export.program(explain, photos()).module()(images, torch.full((4,), 2))[1]
    torch.testing.assert_close(cam, explain(images, 2), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("part", ["all", "gain"])
@pytest.mark.parametrize(("name", "file"), [("program", ()), ("onnx", ("net.onnx",)), ("aot", ("net.pt2",))])
def test_tensors_of_inference_mode_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, name: str, file: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    net = Again().eval()
    with torch.inference_mode():
        if part == "all":
            net = Again().eval()
        else:
            net.gain = torch.tensor(2.0)
    function: Any = getattr(export, name)
    with pytest.raises(CamfnError, match=r"was made under torch\.inference_mode.*copy\.deepcopy\(model\)"):
        function(explainer(methods.grad_cam, net, "net.last"), photos(), *file)
    assert not list(tmp_path.iterdir())
    if name == "program" and part == "all":
        export.program(explainer(methods.grad_cam, copy.deepcopy(net), "net.last"), photos())


class Several(nn.Module):
    """A network that returns what a function makes of the logits."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.net, self.make = small(), make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.net(x))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda y: {"logits": y, "extra": 2 * y}, ("logits", "cam", "extra")),
        (lambda y: (y,), ("logits", "cam")),
        (lambda y: {"logits": y, "images": 2 * y, "target": y}, ("logits", "cam", "model_images", "model_target")),
    ],
)
def test_other_outputs_are_named(make: Any, names: tuple[str, ...]) -> None:
    from camfn.export._plan import plan

    what = plan(explainer(methods.grad_cam, Several(make).eval(), "net.last"), photos(), "input", None, "dynamic")
    assert what.names == names


@pytest.mark.parametrize("make", [lambda y: (y, 2 * y), lambda y: [{"boxes": y}], lambda y: {"boxes": [{"a": y}]}])
def test_outputs_without_logits_are_refused(make: Any) -> None:
    with pytest.raises(CamfnError, match="logits"):
        export.program(explainer(methods.grad_cam, Several(make).eval(), "net.last"), photos())


def test_a_fixed_batch_is_said() -> None:
    mixing = Several(lambda y: y.reshape(int(y.shape[0]), 7) * 1.0)  # the batch is a number
    explain = explainer(methods.grad_cam, mixing.eval(), "net.last")
    with pytest.raises(CamfnError, match=r"fixes the batch.*batch='fixed'"):
        export.program(explain, photos())
    made = export.program(explain, photos(), batch="fixed")
    assert [tuple(value.shape) for value in made.module()(photos(), torch.tensor([1, 2]))] == [(2, 7), (2, 8, 8)]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda y: y if len(y.shape) and y.shape[0] <= 6 else 2 * y, "batch <= 6, as 5 images do and 7 do not"),
        (lambda y: 2 * y if y.shape[0] == 2 else y, "as 5 images do and 2 do not"),
        (lambda y: y if y.shape[0] % 2 else y.sigmoid(), "as 5 images do and 2 do not"),
        (lambda y: y * min(y.shape[0], 40), "batch <= 40, as 5 images do and 41 do not"),
        (lambda y: torch.cat([2 * part for part in y.split(4)]), "fixes the batch"),
        (lambda y: y if y.shape[0] < 1000 else 2 * y, "batch < 1000, as 5 images do and 1024 do not"),
        (lambda y: y if y.shape[0] != 777 else 2 * y, "as 5 images do and 777 do not"),
        (lambda y: y if y.numel() <= 2**20 else 2 * y, "as 5 images do and [0-9]+ do not"),
    ],
)
def test_a_decision_by_the_number_of_images_is_refused(make: Any, said: str) -> None:
    """The trace has five images and the check three and one: no run would show the other side."""
    explain = explainer(methods.grad_cam, Several(make).eval(), "net.last")
    with pytest.raises(CamfnError, match=rf"(?s)fixes the batch.*{said}.*batch='fixed'|{said}.*batch='fixed'"):
        export.program(explain, photos())
    assert export.program(explain, photos(3), batch="fixed")


def test_a_length_of_the_batch_is_said_with_what_stays_open() -> None:
    explain = explainer(methods.grad_cam, Several(lambda y: y.reshape(len(y), 7) * 1.0).eval(), "net.last")
    with pytest.raises(CamfnError, match=r"fixes the batch.*write y\.shape\[0\] for len\(y\)"):
        export.program(explain, photos())
    open_ = explainer(methods.grad_cam, Several(lambda y: y.reshape(y.shape[0], 7) * 1.0).eval(), "net.last")
    assert export.program(open_, photos())


@pytest.mark.parametrize("kind", ["draws", "counts"])
def test_a_model_that_gives_other_numbers_each_time_is_refused(kind: str) -> None:
    calls: list[int] = []

    def make(y: Tensor) -> Tensor:
        calls.append(1)
        return torch.nn.functional.dropout(y, 0.5, training=True) if kind == "draws" else y * len(calls)

    with pytest.raises(CamfnError, match=r"changes when the model runs again.*draws random numbers.*state"):
        export.program(explainer(methods.grad_cam, Several(make).eval(), "net.last"), photos())


def test_a_decision_that_reads_numbers_is_refused() -> None:
    reading = Several(lambda y: y if float(y.detach().sum()) > 0 else 2 * y)
    with pytest.raises(CamfnError, match="no decision that reads numbers"):
        export.program(explainer(methods.grad_cam, reading.eval(), "net.last"), photos())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda net, x: (net.train(), x, {}), "call model.eval"),
        (lambda net, x: (net.double(), x, {}), r"model\.float"),
        (lambda net, x: (net, {"x": x}, {}), "expected one tensor of images"),
        (lambda net, x: (net, x.double(), {}), "float32 on the CPU"),
        (lambda net, x: (net, x, {"target": "top"}), "target: expected 'input'"),
        (lambda net, x: (net, x, {"batch": "any"}), "batch"),
        (lambda net, x: (net, x, {"heatmap": 224}), "heatmap"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_any_work(change: Any, words: str) -> None:
    net, given, options = change(small(), photos())
    with pytest.raises(CamfnError, match=words):
        export.program(explainer(methods.grad_cam, net, "last"), given, **options)


@pytest.mark.parametrize("sides", [(40,), (8, 12, 12)], ids=["signals", "volumes"])
def test_signals_and_volumes_have_programs(sides: tuple[int, ...]) -> None:
    conv: Any = {1: nn.Conv1d, 3: nn.Conv3d}[len(sides)]
    pool: Any = {1: nn.AdaptiveAvgPool1d, 3: nn.AdaptiveAvgPool3d}[len(sides)]
    net = nn.Sequential(conv(2, 6, 3, 2, 1), nn.GELU(), conv(6, 4, 3, 1, 1), nn.ReLU(), pool(1), nn.Flatten())
    explain = explainer(methods.grad_cam, net.eval(), "0")
    inputs = torch.rand(4, 2, *sides, generator=torch.Generator().manual_seed(3))
    cam = export.program(explain, inputs[:3]).module()(inputs, torch.tensor([3, 1, 0, 2]))[1]
    torch.testing.assert_close(cam, explain(inputs, torch.tensor([3, 1, 0, 2])), rtol=1e-4, atol=1e-6)
    with pytest.raises(CamfnError, match=r"not \(H, W\): leave heatmap out"):
        export.program(explain, inputs, heatmap=(8, 8))


def test_what_is_told_of_the_stages_can_be_called() -> None:
    with pytest.raises(CamfnError, match="progress: expected a function of one text"):
        export.program(explainer(methods.grad_cam, small(), "last"), photos(), progress=3)  # type: ignore[arg-type]


def test_autocast_is_refused() -> None:
    explain = explainer(methods.grad_cam, small(), "last")
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(CamfnError, match=r"outside of torch\.autocast"):
        export.program(explain, photos())


def test_something_else_than_an_explainer_is_refused() -> None:
    with pytest.raises(CamfnError, match="capture gives a Captured"):
        export.program(capture(small(), "last"), photos())
    with pytest.raises(CamfnError, match="explainer"):
        export.program(small(), photos())


def test_eigh_of_the_model_is_not_that_of_a_method() -> None:
    """Of its own decompositions, eigen_cam reads the last pair alone; a model may read all."""

    def spread(y: Tensor) -> Tensor:
        values = torch.linalg.eigh(y[:, :, None] * y[:, None] + torch.eye(7))[0]
        return torch.cat([y, 1e-5 * values[:, :1]], 1)

    with pytest.raises(CamfnError, match="eigh"):
        export.onnx(explainer(methods.grad_cam, Several(spread).eval(), "net.last"), photos(), "never.onnx")
