"""Recurrent layers step by step, where the kernels that run them whole refuse the transforms of `torch.func`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from .._shared.levels import inside_transform

State: TypeAlias = tuple[Tensor, ...]
"""h, and of an LSTM c, (B, H) each."""

_Step: TypeAlias = Callable[[nn.RNNBase, Tensor, Tensor, State], State]
"""What the input and the last h give through their weights, and the last state, to the next state."""


def stepwise(module: nn.Module) -> Callable[..., Any] | None:
    """Return a forward for a recurrent module that every transform takes; None for any other module.

    oneDNN's LSTM keeps no workspace for the derivative inside `torch.func`, and no recurrent kernel has a rule for
    `vmap`. So inside a transform the steps are written out, and outside of them the module's own forward runs.
    """
    if not isinstance(module, nn.RNNBase) or "forward" in vars(module):
        return None
    steps: dict[Any, _Step] = {nn.LSTM.forward: _lstm, nn.GRU.forward: _gru, nn.RNN.forward: _rnn}
    step = steps.get(type(module).forward)
    return step and partial(_forward, module, step)


def _forward(module: nn.RNNBase, step: _Step, x: Any, state: Any = None) -> Any:
    if not inside_transform() or not isinstance(x, Tensor):
        return module.forward(x, state)
    single = x.ndim == 2
    if single:
        x = x[:, None]
    elif module.batch_first:
        x = x.transpose(0, 1)
    states = None if state is None else state if isinstance(module, nn.LSTM) else (state,)
    y, ends = _layers(module, step, x, None if states is None else tuple(s[:, None] if single else s for s in states))
    if single:
        y, ends = y[:, 0], tuple(end[:, 0] for end in ends)
    elif module.batch_first:
        y = y.transpose(0, 1)
    return y, ends if isinstance(module, nn.LSTM) else ends[0]


def _layers(module: nn.RNNBase, step: _Step, x: Tensor, states: State | None) -> tuple[Tensor, State]:
    """(T, B, C) to (T, B, directions H) and the last states, (layers directions, B, H) each."""
    directions = 2 if module.bidirectional else 1
    if states is None:
        sizes = [module.proj_size or module.hidden_size, module.hidden_size][: 2 if isinstance(module, nn.LSTM) else 1]
        states = tuple(x.new_zeros(len(module.all_weights), x.shape[1], size) for size in sizes)
    ends: list[State] = []
    along: list[Tensor] = []
    for i, weights in enumerate(module.all_weights):
        if i % directions == 0:
            if i:
                x = functional.dropout(x, module.dropout, module.training)
            along = []
        start = tuple(s[i] for s in states)
        y, end = _direction(module, step, x.flip(0) if i % directions else x, start, weights)
        along.append(y.flip(0) if i % directions else y)
        ends.append(end)
        if len(along) == directions:
            x = torch.cat(along, 2)
    return x, tuple(torch.stack(parts) for parts in zip(*ends))


def _direction(
    module: nn.RNNBase, step: _Step, x: Tensor, state: State, weights: Sequence[Tensor]
) -> tuple[Tensor, State]:
    """One direction of one layer; the input goes through its weights at all steps at once."""
    (w_x, w_h), (b_x, b_h) = weights[:2], weights[2:4] if module.bias else (None, None)
    found = []
    for given in functional.linear(x, w_x, b_x):
        state = step(module, given, functional.linear(state[0], w_h, b_h), state)
        if module.proj_size:
            state = (functional.linear(state[0], weights[-1]), *state[1:])
        found.append(state[0])
    return torch.stack(found), state


def _lstm(module: nn.RNNBase, x: Tensor, h: Tensor, state: State) -> State:
    i, f, g, o = (x + h).chunk(4, -1)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru(module: nn.RNNBase, x: Tensor, h: Tensor, state: State) -> State:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, -1), h.chunk(3, -1)
    z, n = (x_z + h_z).sigmoid(), torch.tanh(x_n + (x_r + h_r).sigmoid() * h_n)
    return ((1 - z) * n + z * state[0],)


def _rnn(module: nn.RNNBase, x: Tensor, h: Tensor, state: State) -> State:
    return (torch.tanh(x + h) if module.mode == "RNN_TANH" else torch.relu(x + h),)
