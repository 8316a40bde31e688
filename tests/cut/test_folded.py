"""BatchNorm folded for many runs: the same numbers, a model that is left alone, and no pair that is not one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camfn import explainer, metrics, prepare, tiny
from camfn._cut.folded import BatchNormFolded, watched
from camfn.methods import score_cam
from tests.nets.small import Net, images, seeded, unchanged

X = images(2, 3, 8, 6, dtype=torch.float64)


def pairs(net: nn.Module) -> int:
    with torch.no_grad():
        return len(watched(net, X.clone())[1])


def runs(net: nn.Module) -> tuple[Tensor, Tensor]:
    """What the network gives, and what it gives folded."""
    folded = BatchNormFolded(net)
    with torch.no_grad(), unchanged(net):
        expected = net(X.clone())
        torch.testing.assert_close(folded(X.clone()), expected, rtol=0, atol=0)
        return folded(X.clone()), expected


def test_a_network_gives_the_same() -> None:
    net = seeded(Net, dtype=torch.float64)
    assert pairs(net) == 3
    found, expected = runs(net)
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, expected), "nothing was folded"


@pytest.mark.parametrize("options", [{"affine": False}, {"eps": 0.1}], ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_each_kind(ndim: int, bias: bool, options: dict[str, Any]) -> None:
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[ndim - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[ndim - 1]
    net = seeded(
        lambda: nn.Sequential(convolution(4, 6, 3, bias=bias, groups=2), norm(6, **options)), dtype=torch.float64
    )
    x = images(2, 4, *(5, 6, 7)[:ndim], dtype=torch.float64)
    folded = BatchNormFolded(net)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(folded(x), net(x))
        assert folded.graft is not None
        assert len(folded.graft.owned) == 3


class Odd(nn.Module):
    """A convolution, a BatchNorm, and what may come between."""

    def __init__(self, between: Callable[[Tensor], Tensor], *, twice: bool = False, elsewhere: bool = False) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.between, self.twice, self.elsewhere = between, twice, elsewhere

    def forward(self, x: Tensor) -> Tensor:
        if self.twice:
            x = self.norm(self.conv(x))
        x = made = self.between(self.conv(x))
        x = self.norm(x)
        return x * made if self.elsewhere else x


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (lambda: Odd(lambda x: x), 1),
        (lambda: Odd(functional.relu), 0),
        (lambda: Odd(functional.relu_), 0),
        (lambda: Odd(lambda x: x, twice=True), 0),
        (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)), 0),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.InstanceNorm2d(3, affine=True)), 0),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)), 0),
    ],
    ids=["pair", "between", "written to", "twice", "before", "another norm", "no statistics"],
)
def test_only_pairs_are_folded(build: Callable[[], nn.Module], count: int) -> None:
    net = seeded(build, dtype=torch.float64)
    assert pairs(net) == count
    torch.testing.assert_close(*runs(net))


def test_another_reader_of_the_convolution_is_noticed() -> None:
    net = seeded(lambda: Odd(lambda x: x, elsewhere=True), dtype=torch.float64)
    assert pairs(net) == 1
    found, expected = runs(net)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("place", ["conv", "norm"])
def test_hooks_of_the_user_see_what_they_saw(place: str) -> None:
    net = seeded(lambda: Odd(lambda x: x), dtype=torch.float64)
    seen: list[Tensor] = []
    net.get_submodule(place).register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    assert pairs(net) == 0
    runs(net)
    assert all(torch.equal(one, seen[0]) for one in seen)


def test_derivatives_are_those_of_the_network() -> None:
    net = seeded(Net, dtype=torch.float64)
    folded = BatchNormFolded(net)
    x = X.clone().requires_grad_()
    torch.testing.assert_close(folded(x), net(x), rtol=0, atol=0)
    assert folded.graft is None


@pytest.mark.parametrize("same", [False, True])
def test_the_layers_of_timm_are_folded(same: bool) -> None:
    layers = pytest.importorskip("timm.layers", reason="needs timm")
    convolution = layers.Conv2dSame(3, 4, 3, stride=2) if same else nn.Conv2d(3, 4, 3)
    net = seeded(lambda: nn.Sequential(convolution, layers.BatchNormAct2d(4)), dtype=torch.float64)
    found, expected = runs(net)
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, expected), "nothing was folded"
    prepared = prepare(net, X)
    torch.testing.assert_close(prepared(X), expected)
    assert [name for name, _ in prepared.named_modules()] == [name for name, _ in net.named_modules()]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in prepared.modules())


class Viewing(nn.Module):
    """A network that views what a convolution made, which works in the usual order in memory only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 6 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu()
        return torch.as_tensor(self.head(x.view(len(x), -1)))


def test_a_network_that_views_its_activations_is_folded_in_the_usual_order() -> None:
    net = seeded(Viewing, dtype=torch.float64)
    found, expected = runs(net)
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, expected), "nothing was folded"


def test_score_cam_runs_folded_and_gives_the_same() -> None:
    net = seeded(Net, dtype=torch.float64)

    def plain(activations: Tensor, *, forward: Any, inputs: Tensor) -> Tensor:
        return score_cam(activations, forward=lambda x: forward(x), inputs=inputs)

    with unchanged(net):
        folded = explainer(score_cam, net, "blocks.0")(X, 1)
    torch.testing.assert_close(folded, explainer(plain, net, "blocks.0")(X, 1))


def test_the_check_of_the_fold_is_not_taken_for_a_read_of_the_network(recwarn: pytest.WarningsRecorder) -> None:
    """All metrics of a network with BatchNorm run folded, and not under the slower `vmap`."""
    net, told = tiny.load("cnn"), list[str]()
    x = tiny.scenes(2, generator=torch.Generator().manual_seed(0)).images
    score, cells = metrics.scores_of(net, x), metrics.grid_cells((64, 64), 2)
    found = metrics.drops(score, x, cells, progress=lambda done, total, engine="": told.append(engine))
    assert set(told) == {"folded"}
    assert not recwarn.list
    torch.testing.assert_close(found, metrics.drops(lambda images: score(images), x, cells), rtol=1e-4, atol=1e-5)
