"""An explainer as one graph of plain operators, in which the batch alone is open."""

# tested in tests/export/test_program.py

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .._shared.levels import writing_graph
from ._rules import Sayings, decompositions

BATCH = 5
"""Images of the trace: few networks have another size of five, so that a batch that is fixed can be told by it."""


def traced(
    function: Callable[..., tuple[Tensor, ...]], state: Mapping[str, Tensor], inputs: tuple[Tensor, ...], dynamic: bool
) -> fx.GraphModule:
    """Trace `function(state, *inputs)` on tensors without data; the sizes of the inputs but their first are fixed.

    The state is an argument, so that the graph holds no parameter; with it as constants torch.export refuses the graph.
    """
    from torch._dispatch.python import enable_python_dispatcher
    from torch._dynamo.source import ConstantSource
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    mode = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=False, allow_non_fake_inputs=True)

    def fake(value: Tensor, name: str, opens: bool) -> Tensor:
        sizes = [DimDynamic.DYNAMIC if opens and not i else DimDynamic.STATIC for i in range(value.ndim)]
        context: Any = StatelessSymbolicContext(dynamic_sizes=sizes, constraint_sizes=[None] * value.ndim)
        return mode.from_tensor(value.detach(), source=ConstantSource(name), symbolic_context=context)

    known = {name: fake(value, f"state{i}", False) for i, (name, value) in enumerate(state.items())}
    given = [fake(value, f"input{i}", dynamic) for i, value in enumerate(inputs)]
    with ExitStack() as stack:
        for context in (sdpa_kernel(SDPBackend.MATH), mode, enable_python_dispatcher(), writing_graph(), Sayings()):
            stack.enter_context(context)
        make = make_fx(
            lambda *values: function(*values),
            decomposition_table=decompositions(),
            tracing_mode="real",
            _allow_non_fake_inputs=True,
        )
        graph = make(known, *given)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


class Frozen(nn.Module):
    """A model and the graph of its explanation: the parameters are the model's, and stored once."""

    def __init__(self, model: nn.Module, graph: fx.GraphModule) -> None:
        super().__init__()
        self.model, self.explained = model, graph  # a GraphModule has a `graph` of its own

    def forward(self, images: Tensor, target: Tensor | None = None) -> tuple[Tensor, ...]:
        asked = () if target is None else (target,)
        return tuple(self.explained(state_of(self.model), images, *asked))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model by name, each once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
