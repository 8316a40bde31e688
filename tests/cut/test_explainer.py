"""Explainer: what it binds and runs for a method's signature, and that it equals loops over a network cut by hand."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from types import MappingProxyType
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camfn import CamfnError, CaptureError, Layout, capture, explainer, methods, network, resume, transforms
from camfn._layout.pairs import tokens
from camfn.methods import ablation_cam, cam, eigen_cam, fem, grad_cam, layer_cam, random_cam, score_cam
from camfn.targets import class_probability, class_score, contrast
from tests.nets.small import Net, images, seeded, unchanged

MODEL = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))

Inputs = Any


class Counting(nn.Module):
    """Counts its calls in a list, which copies of the module share."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[torch.Size] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(x.shape)
        return x


class Watched(torch.autograd.Function):
    """The identity, which remembers its backwards."""

    generate_vmap_rule = True
    backwards = 0

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        Watched.backwards += 1
        return grads[0]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return tangents[0].clone()


class Small(nn.Module):
    """A trunk and a nonlinear tail, each counted, and a scale that may be given."""

    def __init__(self, width: int = 5, classes: int = 5) -> None:
        super().__init__()
        self.entry = Counting()
        self.conv = nn.Conv2d(3, width, 3, stride=2)
        self.act = nn.ReLU()
        self.exit = Counting()
        self.next = nn.Conv2d(width, 4, 2)
        self.head = nn.Linear(4, classes)

    def forward(self, image: Tensor, scale: Tensor | float = 1.0, flip: bool = False) -> Tensor:
        a = self.act(self.conv(self.entry(image * scale)))
        return self.after(a.flip(-1) if flip else a)

    def before(self, image: Tensor) -> Tensor:
        a: Tensor = self.act(self.conv(image))
        return a

    def after(self, a: Tensor) -> Tensor:
        hidden = self.next(self.exit(Watched.apply(a))).tanh()
        y: Tensor = self.head(hidden.amax((2, 3)))
        return y


@pytest.fixture
def net() -> Small:
    return cast(Small, seeded(Small, dtype=torch.float64))


def photos(count: int = 3) -> Tensor:
    return images(count, 3, 9, 11, dtype=torch.float64)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


ROWS = torch.linspace(-1, 1, 5, dtype=torch.float64)
BOUND: dict[str, Callable[..., Tensor]] = {
    **{name: getattr(methods, name) for name in methods.__all__},
    "cam": partial(cam, weights=ROWS),
    "tam": partial(methods.tam, weights=ROWS),
    "hsic": partial(methods.hsic, masks=images(6, 3, 3, dtype=torch.float64).sigmoid(), grid=3),
    "sobol": partial(methods.sobol, designs=4, grid=3),
    "random_cam": partial(random_cam, weights=ROWS.expand(3, 5)),
    "ss_cam": partial(methods.ss_cam, noise=images(3, 9, 11, dtype=torch.float64)),
    "vit_cx": partial(methods.vit_cx, noise=images(3, 9, 11, dtype=torch.float64)),
    "d_rise": partial(methods.d_rise, masks=images(4, 9, 11, dtype=torch.float64).sigmoid()),
    "rise": partial(methods.rise, masks=images(4, 9, 11, dtype=torch.float64).sigmoid()),
}
NO_GRADIENT = ["cam", "eigen_cam", "kpca_cam", "fem", "random_cam", "ablation_cam", "score_cam", "recipro_cam"]
NO_GRADIENT += ["ss_cam", "is_cam", "poly_cam", "rise", "d_rise", "tam", "sobol", "hsic"]
NO_GRADIENT += ["vit_cx", "region_search", "occlusion", "sobel_edges"]
OWN_GRADIENT = ["lift_cam", "shapley_cam", "opti_cam"]
"""Methods that differentiate the tail or the network themselves."""
PERTURB_INPUT = ["score_cam", "group_cam", "ss_cam", "is_cam", "poly_cam", "opti_cam", "rise", "d_rise"]
PERTURB_INPUT += ["vit_cx", "sobol", "hsic", "region_search", "occlusion"]
every_method = pytest.mark.parametrize("name", methods.__all__)


# ---------------------------------------------------------------------------------------------- what a signature asks


class Asking:
    """A method that keeps what it was given."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}

    def everything(
        self,
        activations: Tensor,
        grads: Tensor,
        outputs: Any,
        *,
        tail: Callable[[Tensor], Tensor],
        forward: Callable[[Tensor], Tensor],
        inputs: Tensor,
        chunk_size: int | None = 7,
    ) -> Tensor:
        self.given = dict(locals())
        return activations.sum(1)

    def tail_only(self, activations: Tensor, *, tail: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        self.given = dict(locals())
        return activations.sum(1)


@pytest.mark.parametrize("target", [None, 2, [4, 0, 2], lambda outputs: outputs.square().sum(1)], ids=range(4))
def test_binds_by_name(net: Small, target: Any) -> None:
    asking, x = Asking(), photos()
    explainer(asking.everything, net, "act")(x, target)
    expected = capture(net, "act")(x, target)
    given = asking.given
    assert torch.equal(given["activations"], expected.activations)
    assert torch.equal(given["grads"], expected.grads)
    assert torch.equal(given["outputs"], expected.outputs)
    assert torch.equal(given["inputs"], x)
    assert given["chunk_size"] == 7
    score = target if callable(target) else class_score(target)
    close(given["tail"](expected.activations), score(net(x)))
    close(given["forward"](x), score(net(x)))
    close(given["tail"](expected.activations / 2), _scored(target, net.after(expected.activations / 2), net(x)))
    close(given["forward"](x / 2), _scored(target, net(x / 2), net(x)))


def _scored(target: Any, outputs: Tensor, unperturbed: Tensor) -> Tensor:
    """Score perturbed outputs; the top class is that of the unperturbed ones."""
    if target is None:
        return class_score(unperturbed.argmax(1))(outputs)
    scores: Tensor = (target if callable(target) else class_score(target))(outputs)
    return scores


@pytest.mark.parametrize("size", [1, 3])
def test_binds_chunk_size(net: Small, size: int) -> None:
    asking = Asking()
    explainer(asking.everything, net, "act", chunk_size=size)(photos())
    assert asking.given["chunk_size"] == size


def test_binds_what_has_a_default(net: Small) -> None:
    asking, x = Asking(), photos()
    explainer(asking.tail_only, net, "act")(x, 1)
    close(asking.given["tail"](net.before(x)), net(x)[:, 1])


@pytest.mark.parametrize("name", ["ablation_cam", "score_cam"])
def test_chunk_size_is_how_many_run_at_once(net: Small, name: str) -> None:
    x, whole = photos(), explainer(BOUND[name], net, "act")(photos())
    for chunk_size in (1, 2, 5, 9):
        net.exit.calls.clear()
        close(explainer(BOUND[name], net, "act", chunk_size=chunk_size)(x), whole)
        # three photos a channel, and those as they are beside them; no run has more than a chunk
        assert max(shape[0] for shape in net.exit.calls) == 3 * min(chunk_size, 5 + 1)


def test_options_are_bound_with_partial(net: Small) -> None:
    x = photos()
    activations = net.before(x)
    plain = explainer(ablation_cam, net, "act")(x, 2)
    slope = explainer(partial(ablation_cam, slope="l1"), net, "act")(x, 2)
    tail: Callable[[Tensor], Tensor] = lambda a: net.after(a)[:, 2]  # noqa: E731
    close(plain, ablation_cam(activations, tail=tail))
    close(slope, ablation_cam(activations, tail=tail, slope="l1"))
    assert not torch.allclose(plain, slope)
    for chunk_size in (3, 4):
        net.exit.calls.clear()
        explainer(partial(ablation_cam, chunk_size=chunk_size), net, "act")(x, 2)
        assert max(shape[0] for shape in net.exit.calls) == 3 * chunk_size


def test_what_partial_binds_stays_bound(net: Small) -> None:
    mine: Callable[[Tensor], Tensor] = lambda a: a[:, 0].sum((1, 2))  # noqa: E731
    actual = explainer(partial(ablation_cam, tail=mine), net, "act")(photos())
    close(actual, ablation_cam(net.before(photos()), tail=mine))


def test_user_functions_take_as_many_as_they_name(net: Small) -> None:
    x = photos()
    activations, grads, outputs = capture(net, "act")(x, 1)
    close(explainer(lambda a: a.amax(1), net, "act")(x, 1), activations.amax(1))
    close(explainer(lambda a, g: (a * g).sum(1), net, "act")(x, 1), (activations * grads).sum(1))
    close(explainer(lambda a, g, o: a.sum(1) * o.sum(), net, "act")(x, 1), activations.sum(1) * outputs.sum())
    close(explainer(lambda *cut: grad_cam(*cut), net, "act")(x, 1), grad_cam(activations, grads))
    close(explainer(lambda a, g=None, o=None: a.sum(1) * o.sum(), net, "act")(x), activations.sum(1) * outputs.sum())
    close(explainer(lambda a, /, g, **context: (a * g).sum(1), net, "act")(x, 1), (activations * grads).sum(1))


def test_any_callable_object_is_a_method(net: Small) -> None:
    class Weighted:
        def __call__(self, activations: Tensor, grads: Tensor) -> Tensor:
            return grad_cam(activations, grads) * 2

    close(explainer(Weighted(), net, "act")(photos(), 1), 2 * explainer(grad_cam, net, "act")(photos(), 1))


# ---------------------------------------------------------------------------------------------------------- what is run


@every_method
def test_runs_a_backward_only_for_gradients(net: Small, name: str) -> None:
    Watched.backwards = 0
    explainer(BOUND[name], net, "act")(photos())
    if name in OWN_GRADIENT:
        assert Watched.backwards > 0
    else:
        assert Watched.backwards == (0 if name in NO_GRADIENT else 1)


@every_method
def test_runs_the_trunk_once(net: Small, name: str) -> None:
    """But for the methods that perturb the input, and for those that need both the gradients and the tail."""
    explainer(BOUND[name], net, "act")(photos())
    if name in PERTURB_INPUT:
        assert len(net.entry.calls) > 1
    else:
        assert len(net.entry.calls) == (2 if name == "fd_cam" else 1)
    assert net.entry.calls[0] == (3, 3, 9, 11)


# -------------------------------------------------------------------------------------------------- against hand loops


Score = Callable[[Tensor], Tensor]


def ablation_by_hand(activations: Tensor, tail: Score) -> Tensor:
    drops = []
    for k in range(activations.shape[1]):
        ablated = activations.clone()
        ablated[:, k] = 0
        drops.append(tail(activations) - tail(ablated))
    return torch.einsum("kb, bkhw -> bhw", torch.stack(drops), activations).detach()


def score_cam_by_hand(activations: Tensor, x: Tensor, forward: Score) -> Tensor:
    scores = []
    for k in range(activations.shape[1]):
        mask = functional.interpolate(activations[:, k : k + 1], x.shape[2:], mode="bilinear", align_corners=False)
        low, high = mask.amin((2, 3), keepdim=True), mask.amax((2, 3), keepdim=True)
        assert (high > low).all()
        scores.append(forward(x * (mask - low) / (high - low)))
    return torch.einsum("kb, bkhw -> bhw", torch.stack(scores).softmax(0), activations).detach()


@pytest.mark.parametrize("target", [None, 2, [4, 0, 2], class_probability()], ids=range(4))
def test_perturbation_methods_equal_the_hand_loop(net: Small, target: Any) -> None:
    x = photos()
    activations, score = net.before(x), partial(_pinned, target, net(x))
    close(explainer(ablation_cam, net, "act")(x, target), ablation_by_hand(activations, lambda a: score(net.after(a))))
    close(
        explainer(score_cam, net, "act")(x, target),
        score_cam_by_hand(activations, x, lambda changed: score(net(changed))),
    )


def _pinned(target: Any, unperturbed: Tensor, outputs: Tensor) -> Tensor:
    classes = torch.as_tensor(unperturbed.argmax(1) if target is None or callable(target) else target).expand(3)
    values = outputs.softmax(1) if callable(target) else outputs
    return values[torch.arange(3), classes]


# ------------------------------------------------------------------------------------------------------------- targets

PER_SAMPLE = [4, 0, 2]


@pytest.mark.parametrize("method", [grad_cam, layer_cam, ablation_cam, score_cam], ids=lambda m: m.__name__)
@pytest.mark.parametrize(
    ("target", "single"),
    [
        (PER_SAMPLE, lambda i: PER_SAMPLE[i]),
        (torch.tensor(PER_SAMPLE), lambda i: PER_SAMPLE[i]),
        ([class_probability(1), 0, lambda outputs: outputs.sum(1)], lambda i: [class_probability(1), 0, _sum][i]),
        (contrast(PER_SAMPLE), lambda i: contrast(PER_SAMPLE[i])),
        (2 * class_score(PER_SAMPLE) - class_score(), lambda i: 2 * class_score(PER_SAMPLE[i]) - class_score()),
        (None, lambda i: None),
    ],
    ids=["list", "tensor", "mixed", "contrast", "combination", "top"],
)
def test_target_per_sample(net: Small, method: Any, target: Any, single: Callable[[int], Any]) -> None:
    explain, x = explainer(method, net, "act"), photos()
    batch = explain(x, target)
    for i in range(3):
        close(batch[i : i + 1], explain(x[i : i + 1], single(i)))


def _sum(outputs: Tensor) -> Tensor:
    return outputs.sum(1)


@pytest.mark.parametrize("method", [ablation_cam, score_cam], ids=lambda m: m.__name__)
@pytest.mark.parametrize(
    ("free", "fixed"),
    [
        (None, class_score),
        (contrast(count=1), lambda top: contrast(top, torch.tensor([[1 - int(t)] for t in top]))),
        (-class_score(), lambda top: -class_score(top)),
        ([class_score(), class_score()], class_score),
    ],
    ids=["top", "contrast", "negative", "list"],
)
def test_perturbed_forwards_keep_the_top_class(method: Any, free: Any, fixed: Callable[[Tensor], Any]) -> None:
    """A network whose top class changes as soon as a channel goes, or as the image is masked."""
    same, head = nn.Conv2d(2, 2, 1, bias=False), nn.Linear(8, 2, bias=False)
    same.weight.data = torch.eye(2)[..., None, None]
    head.weight.data = torch.tensor([[1.0] * 8, [2.0] * 4 + [0.0] * 4])
    model = nn.Sequential(same, nn.Flatten(), head).double()
    x = torch.tensor([[3.0, 1.0, 0.0, 0.0, 1.0, 2.0, 2.0, 0.0], [0.0, 4.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0]]).double()
    x = x.reshape(2, 2, 2, 2)
    top = model(x).argmax(1)
    assert top.tolist() == [0, 1]
    assert model(x * torch.tensor([[[1.0]], [[0.0]]])).argmax(1)[0] != top[0]
    assert model(x * torch.tensor([[[0.0]], [[1.0]]])).argmax(1)[1] != top[1]
    close(explainer(method, model, "0")(x, free), explainer(method, model, "0")(x, fixed(top)))


def test_vmap_over_targets(net: Small) -> None:
    x = photos()
    for method in (grad_cam, ablation_cam, score_cam):
        explain = explainer(method, net, "act")
        mapped = torch.vmap(lambda c, explain=explain: explain(x, c))(torch.arange(5))
        close(mapped, torch.stack([explain(x, c) for c in range(5)]))


# -------------------------------------------------------------------------------------------------------------- inputs


class Keywords(Mapping[str, Any]):
    """A mapping that is neither a dict nor known to torch's trees."""

    def __init__(self, **items: Any) -> None:
        self.items_ = items

    def __getitem__(self, key: str) -> Any:
        return self.items_[key]

    def __iter__(self) -> Any:
        return iter(self.items_)

    def __len__(self) -> int:
        return len(self.items_)


SCALE = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64).reshape(3, 1, 1, 1)


def ways(name: str) -> list[Any]:
    """Every way to call the network with an image and a scale."""
    found: dict[str, Callable[[Tensor], Any]] = {
        "tuple": lambda x: (x, SCALE),
        "list": lambda x: [x, SCALE],
        "dict": lambda x: {"image": x, "scale": SCALE, "flip": False},
        "UserDict": lambda x: UserDict(image=x, scale=SCALE),
        "MappingProxyType": lambda x: MappingProxyType({"image": x, "scale": SCALE}),
        "Mapping": lambda x: Keywords(image=x, scale=SCALE),
    }
    return [pytest.param(name, way, id=f"{name}-{key}") for key, way in found.items()]


@pytest.mark.parametrize(
    ("name", "wrap"), [way for name in ("grad_cam", "eigen_cam", "ablation_cam", "score_cam") for way in ways(name)]
)
def test_inputs_of_every_kind(net: Small, name: str, wrap: Callable[[Tensor], Inputs]) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.net(x, SCALE)
            return y

    expected = explainer(BOUND[name], Scaled(), "net.act")(photos(), 1)
    close(explainer(BOUND[name], net, "act")(wrap(photos()), 1), expected)
    assert not torch.allclose(expected, explainer(BOUND[name], net, "act")(photos(), 1))


def test_forward_changes_the_image_alone(net: Small) -> None:
    asking, x = Asking(), photos()
    count = torch.tensor(3)
    explainer(asking.everything, Last(net), "net.act")({"count": count, "image": x, "scale": SCALE}, 1)
    assert torch.equal(asking.given["inputs"], x)
    close(asking.given["forward"](x / 2), net(x / 2, SCALE)[:, 1])


class Last(nn.Module):
    """Takes a whole number, then the image, then a scale: the image is the only tensor with space."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, count: Tensor, image: Tensor, scale: Tensor) -> Tensor:
        y: Tensor = self.net(image, scale)
        return y


def test_inputs_without_an_image() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 4)
            self.conv = nn.Conv1d(4, 6, 3)

        def forward(self, words: Tensor) -> Tensor:
            y: Tensor = self.conv(self.table(words).mT).mean(2)
            return y

    words = torch.tensor([[1, 2, 3, 4, 5]])
    assert explainer(ablation_cam, seeded(Embedded), "conv")(words).shape == (1, 3)
    with pytest.raises(TypeError, match=r"perturbs the images.*no floating-point tensor: a tensor of shape \(1, 5\)"):
        explainer(score_cam, seeded(Embedded), "conv")(words)


class Overwriting(nn.Module):
    """A network that begins by writing to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2).sub_(1)
        y: Tensor = self.conv(x).relu().mean((2, 3))
        return y


@every_method
def test_inputs_are_not_written_to(name: str) -> None:
    model, x = seeded(Overwriting, dtype=torch.float64), photos()
    explain = explainer(BOUND[name], model, "conv")
    first = explain(x, 1)
    assert torch.equal(x, photos())
    assert torch.equal(explain(x, 1), first)


def test_forward_and_tail_may_be_called_again() -> None:
    model, asking, x = seeded(Overwriting, dtype=torch.float64), Asking(), photos()
    explainer(asking.everything, model, "conv")(x, 1)
    for run, value in ((asking.given["forward"], x), (asking.given["tail"], asking.given["activations"])):
        before = value.clone()
        first = run(value)
        assert torch.equal(run(value), first)
        assert torch.equal(value, before)


# ---------------------------------------------------------------------------------------------------- the cut's options


class Tokens(nn.Module):
    """Two prefix tokens and a grid of patches; the block returns a tuple, and the head reads every token."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.mix(x).tanh(), x.mean()

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 4, 4)
        self.prefix = nn.Parameter(torch.randn(2, 4))
        self.block = Tokens.Block()
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x).flatten(2).mT
        return self.after(self.block(torch.cat([self.prefix.expand(len(x), 2, 4), patches], 1))[0])

    def after(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(x.softmax(1).square().sum(1))
        return y


@pytest.mark.parametrize("keep", [True, False], ids=["keep", "zero"])
def test_perturbs_tokens_through_a_layout(keep: bool) -> None:
    model, x = seeded(Tokens, dtype=torch.float64), images(2, 3, 8, 12, dtype=torch.float64)
    assert isinstance(model, Tokens)
    raw = model.block(torch.cat([model.prefix.expand(2, 2, 4), model.embed(x).flatten(2).mT], 1))[0]
    expected = torch.zeros(2, 6, dtype=torch.float64)
    full = raw.clone()
    if not keep:
        full[:, :2] = 0
    for k in range(4):
        ablated = full.clone()
        ablated[:, 2:, k] = 0
        expected += (model.after(full) - model.after(ablated))[:, 1, None] * raw[:, 2:, k]
    layout = tokens((2, 3), prefix=2, keep_prefix=keep)
    actual = explainer(ablation_cam, model, "block", select=0, layout=layout)(x, 1)
    close(actual, expected.reshape(2, 2, 3).detach())


def test_map_as_a_part_of_a_loss() -> None:
    """Grad-CAM under pooling and a linear head is `sum_k w_k A_k / N`, whose derivatives are known."""
    body, head = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), nn.Linear(4, 5)
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).double()
    x = photos().requires_grad_()
    wanted = [x, *body.parameters(), head.weight]
    explain = explainer(grad_cam, model, "0", differentiable=True)
    expected = torch.einsum("c, bchw -> bhw", head.weight[2], body(x)) / (7 * 9)
    found = torch.autograd.grad(explain(x, 2).square().sum(), wanted)
    naive = torch.autograd.grad(expected.square().sum(), wanted)
    for actual, derivative in zip(found, naive, strict=True):
        close(actual, derivative)


@every_method
def test_keeps_no_graph_unless_asked(net: Small, name: str) -> None:
    x = photos().requires_grad_()
    assert not explainer(BOUND[name], net, "act")(x, 1).requires_grad
    assert explainer(BOUND[name], net, "act", differentiable=True)(x, 1).requires_grad
    with torch.no_grad():
        assert not explainer(BOUND[name], net, "act", differentiable=True)(x, 1).requires_grad


@every_method
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad], ids=lambda m: m.__name__)
def test_outer_modes_change_nothing(net: Small, name: str, mode: Any) -> None:
    expected = explainer(BOUND[name], net, "act")(photos(), [4, 0, 2])
    with mode():
        assert torch.equal(explainer(BOUND[name], net, "act")(photos(), [4, 0, 2]), expected)


# ----------------------------------------------------------------------------------------------------- the user's model


@every_method
def test_model_is_left_as_it_was(name: str) -> None:
    model, x = seeded(lambda: Net(width=5), dtype=torch.float64), photos()
    with unchanged(model):
        explainer(BOUND[name], model, "blocks.1")(x)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", ["ablation_cam", "score_cam"])
def test_perturbs_a_network_with_statistics(name: str, training: bool) -> None:
    model, x = seeded(Net, dtype=torch.float64).train(training), images(3, 3, 8, 10, dtype=torch.float64)
    with unchanged(model):
        actual = explainer(BOUND[name], model, "blocks.0")(x, 1)
    activations = capture(model, "blocks.0")(x).activations
    if name == "ablation_cam":
        expected = ablation_by_hand(activations, lambda a: resume(model, "blocks.0")(x)(a)[:, 1])
    else:
        expected = score_cam_by_hand(activations, x, lambda changed: deepcopy(model)(changed)[:, 1])
    close(actual, expected)


@pytest.mark.parametrize("name", ["grad_cam", "ablation_cam", "score_cam"])
def test_model_is_left_as_it_was_by_a_target_that_raises(name: str) -> None:
    model, x, calls = seeded(Net), images(2, 3, 8, 10), []

    def target(outputs: Tensor) -> Tensor:
        calls.append(1)
        if name != "ablation_cam" or len(calls) > 1:  # within the perturbed runs
            raise KeyError("target")
        return outputs[:, 0]

    with unchanged(model), pytest.raises(KeyError, match="target"):
        explainer(BOUND[name], model, "blocks.1")(x, target)


# --------------------------------------------------------------------------------------------------------------- errors


def test_keyword_that_is_not_bound(net: Small) -> None:
    def mine(activations: Tensor, *, masks: Tensor, tail: Callable[[Tensor], Tensor], steps: int) -> Tensor:
        return activations.sum(1)

    with pytest.raises(
        TypeError, match=r"mine needs masks, steps, which.*explainer\(functools.partial\(mine, masks=\.\.\.\), model"
    ):
        explainer(mine, net, "act")
    with pytest.raises(TypeError, match="needs steps, which"):
        explainer(partial(mine, masks=torch.ones(1)), net, "act")
    assert explainer(partial(mine, masks=torch.ones(1), steps=2), net, "act")(photos()).shape == (3, 4, 5)


@pytest.mark.parametrize("method", [grad_cam, eigen_cam, fem, ablation_cam, score_cam], ids=lambda m: m.__name__)
def test_layer_without_a_grid(net: Small, method: Any) -> None:
    with pytest.raises(CaptureError, match=r"layer 'head' gives shape \(3, 5\), in which no map.*before the pooling"):
        explainer(method, net, "head")(photos())


def test_layer_that_a_layout_leaves_without_a_grid(net: Small) -> None:
    layout = Layout(lambda raw: raw.flatten(1), tokens((4, 5), prefix=0).from_map)
    with pytest.raises(CaptureError, match=r"gives shape \(3, 100\) after its layout"):
        explainer(grad_cam, net, "act", layout=layout)(photos())


def test_layer_is_looked_up_before_any_run(net: Small) -> None:
    with pytest.raises(CaptureError, match=r"Small has no layer 'acct'. Did you mean 'act'"):
        explainer(grad_cam, net, "acct")
    assert not net.entry.calls


@pytest.mark.parametrize("name", ["grad_cam", "ablation_cam", "score_cam"])
@pytest.mark.parametrize(
    ("target", "words"),
    [
        (5, "class 5 is out of range"),
        ([0, 1], "one for each of the 3 samples, got 2"),
        (lambda outputs: outputs, "one "),
        (lambda outputs: outputs.sum(), "one "),
    ],
    ids=["class", "length", "(B, K)", "()"],
)
def test_wrong_target_in_every_path(net: Small, name: str, target: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        explainer(BOUND[name], net, "act")(photos(), target)


@pytest.mark.parametrize(
    "method",
    [explainer, network.full_grad, transforms.fuse, explainer(grad_cam, MODEL, "0"), network.full_grad(MODEL)],
    ids=lambda method: getattr(method, "__name__", type(method).__name__ + "()"),
)
def test_what_explains_a_model_is_no_method(method: Any) -> None:
    name = getattr(method, "__name__", type(method).__name__)
    for compose in (explainer, transforms.fuse):
        with pytest.raises(CamfnError, match=rf"method: expected a function .*got {name}, which explains a model by"):
            compose(method, MODEL, "0")
