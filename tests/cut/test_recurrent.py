"""Recurrent layers after a cut: their steps written out are the kernels', under every transform."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils import _pytree as pytree

from camfn import capture, explainer, observe, resume
from camfn._cut.recurrent import stepwise
from camfn.methods import ablation_cam, grad_cam
from tests.nets.small import images, reference, seeded, unchanged

KINDS: list[Any] = [
    (nn.LSTM, {}),
    (nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    (nn.LSTM, {"proj_size": 3, "num_layers": 2, "bias": False}),
    (nn.LSTM, {"proj_size": 2, "bidirectional": True}),
    (nn.GRU, {"num_layers": 2, "bias": False}),
    (nn.GRU, {"bidirectional": True, "batch_first": True}),
    (nn.RNN, {"bidirectional": True}),
    (nn.RNN, {"nonlinearity": "relu", "num_layers": 3, "batch_first": True}),
]
LSTM, GRU, RNN = KINDS[1], KINDS[5], KINDS[7]


def build(kind: Any, dtype: torch.dtype = torch.float64) -> nn.RNNBase:
    module = seeded(lambda: kind[0](4, 5, **kind[1]), dtype=dtype)
    assert isinstance(module, nn.RNNBase)
    return module


def start(module: nn.RNNBase, x: Tensor) -> Any:
    """A state to start from, with the batch of an input that may have none."""
    batch = x.shape[x.ndim - 3 if module.batch_first else x.ndim - 2 : -1][:1] if x.ndim == 3 else ()
    count = len(module.all_weights)
    h = images(count, *batch, module.proj_size or module.hidden_size, dtype=x.dtype, seed=2)
    return (h, images(count, *batch, module.hidden_size, dtype=x.dtype, seed=3)) if isinstance(module, nn.LSTM) else h


@pytest.mark.parametrize("given", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("shape", [(6, 3, 4), (1, 1, 4), (6, 4)], ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_steps_are_the_kernel(kind: Any, shape: tuple[int, ...], given: bool) -> None:
    module, x = build(kind), images(*shape, dtype=torch.float64)
    steps, state = stepwise(module), start(module, x) if given else None
    assert steps is not None
    want = module(x, state)
    got = vmap(lambda x: steps(x, state))(torch.stack([x, 2 * x]))
    for one, other in zip(pytree.tree_leaves(got), pytree.tree_leaves(want), strict=True):
        torch.testing.assert_close(one[0], other)

    def total(x: Tensor, run: Any) -> Tensor:
        return torch.stack([leaf.square().sum() for leaf in pytree.tree_leaves(run(x, state))]).sum()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(total(leaf, module), leaf)
    torch.testing.assert_close(grad(total)(x, steps), expected)


def test_outside_of_transforms_the_kernel_itself_runs() -> None:
    module, x = build(LSTM, torch.float32), images(2, 3, 4)
    steps = stepwise(module)
    assert steps is not None
    assert torch.equal(steps(x)[0], module(x)[0])
    packed = pack_sequence([images(3, 4), images(2, 4)])
    found = steps(packed)[0]
    assert isinstance(found, PackedSequence)
    assert torch.equal(found.data, module(packed)[0].data)


class Own(nn.LSTM):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return x, None


def test_modules_with_a_forward_of_their_own_are_left_alone() -> None:
    assert stepwise(Own(4, 5)) is None
    assert stepwise(nn.Linear(4, 5)) is None
    changed = nn.GRU(4, 5)
    changed.forward = lambda x: x  # type: ignore[assignment]
    assert stepwise(changed) is None


class Sequencer(nn.Module):
    """A convolution whose pixels are read one after the other, as timm's Sequencer reads rows and columns."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.conv, self.rnn = nn.Conv2d(3, 4, 3, padding=1), kind[0](4, 5, **kind[1])
        self.head = nn.Linear(5 * (1 + self.rnn.bidirectional), 7)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(self.conv(x).relu().flatten(2).mT)
        scores: Tensor = self.head(y.square().mean(1))
        return scores


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", [LSTM, GRU, RNN], ids=str)
def test_a_recurrent_tail(kind: Any, frozen: bool) -> None:
    """float32: the type whose LSTM oneDNN runs."""
    net, x = seeded(lambda: Sequencer(kind)).requires_grad_(not frozen), images(2, 3, 4, 5)
    with unchanged(net):
        captured = capture(net, "conv")(x, 2)
        tail = resume(net, "conv")(x)
        per_class = vmap(lambda t: grad_cam(*capture(net, "conv")(x, t)))(torch.arange(7))
        cam = explainer(ablation_cam, net, "conv")(x, 2)
    for got, want in zip(captured, reference(net, "conv", lambda model: model(x), lambda y: y[:, 2])):
        torch.testing.assert_close(got, want.detach())
    torch.testing.assert_close(per_class[2], grad_cam(*captured))
    rows = torch.stack([captured.activations * factor for factor in (0.5, 1.0, -1.0)])
    torch.testing.assert_close(vmap(tail)(rows), torch.stack([tail(row) for row in rows]))
    drops = [
        (captured.outputs - tail(captured.activations * (torch.arange(4) != c)[:, None, None]))[:, 2] for c in range(4)
    ]
    expected = torch.einsum("cb,bchw->bhw", torch.stack(drops), captured.activations)
    torch.testing.assert_close(cam, expected)


@pytest.mark.parametrize("kind", [LSTM, GRU, RNN], ids=str)
def test_bfloat16(kind: Any) -> None:
    net, x = seeded(lambda: Sequencer(kind), dtype=torch.bfloat16), images(2, 3, 4, 5, dtype=torch.bfloat16)
    grads = capture(net, "conv")(x, 2).grads
    want = capture(net.float(), "conv")(x.float(), 2).grads
    assert grads.dtype == torch.bfloat16
    torch.testing.assert_close(grads.float(), want, rtol=0, atol=0.03 * float(want.abs().max()))


def test_a_recurrent_layer_is_a_layer() -> None:
    net, x = seeded(lambda: Sequencer(LSTM)), images(2, 3, 4, 5)
    head = net.get_submodule("head")
    assert isinstance(head, nn.Linear)
    activations, grads, _ = capture(net, "rnn", select=0, layout=None)(x, 2)
    torch.testing.assert_close(activations, observe(net, "rnn", select=0, layout=None)(x)[0])
    torch.testing.assert_close(grads, 2 * activations / 20 * head.weight[2].detach())


def test_dropout_between_layers_while_training() -> None:
    kind = (nn.LSTM, {"num_layers": 2, "dropout": 1.0, "batch_first": True})
    net, x = seeded(lambda: Sequencer(kind)).train(), images(2, 3, 4, 5)
    assert not capture(net, "conv")(x, 2).grads.any(), "all that the second layer sees is dropped"
    assert capture(net.eval(), "conv")(x, 2).grads.any()


@pytest.mark.parametrize("kind", [LSTM, GRU], ids=str)
def test_compiled(kind: Any) -> None:
    """The compiler takes recurrent modules only where it is told to."""
    net, x = seeded(lambda: Sequencer(kind)), images(2, 3, 3, 3)
    run = capture(net, "conv")
    compiled = torch.compile(lambda x: grad_cam(*run(x, 2)), fullgraph=True, backend="eager")
    with torch._dynamo.config.patch(allow_rnn=True):
        torch.testing.assert_close(compiled(x), grad_cam(*run(x, 2)))
