"""An explainer as one graph of plain operators, in which the batch alone is open."""

# tested in tests/export/test_program.py

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from linecache import getline
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .._shared.errors import CamfnError
from .._shared.levels import writing_graph
from ._rules import Sayings, decompositions

BATCH = 5
"""Images of the trace: few networks have another size of five, so that a batch that is fixed can be told by it."""


_COUNTS = (*range(2, 513), *(2**k for k in range(10, 25)))
"""Numbers of images at which a decision of the trace has to hold, beside those around its own numbers."""

_LAYOUTS = ("_subclasses/fake_impls.py", "_prims_common/__init__.py")
"""Files of torch that ask for sizes to choose a layout in memory, which changes no number."""


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

    class Sizes(ShapeEnv):
        """The sizes of a trace; what torch asks of a size does not narrow it, and hides no later decision."""

        def _refine_ranges(self, expr: Any) -> None:
            pass

    mode = FakeTensorMode(shape_env=Sizes(), static_shapes=False, allow_non_fake_inputs=True)

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
    if dynamic and mode.shape_env is not None:
        _refuse_decisions(mode.shape_env.guards)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _refuse_decisions(guards: Iterable[Any]) -> None:
    """Refuse a trace that took one side of a decision by the number of images: the graph would hold that side alone.

    Raises:
        CamfnError: names the decision and its line.
    """
    for guard in guards:
        where = getattr(getattr(guard, "sloc", None), "framework_loc", None)
        file = str(getattr(where, "filename", "a file"))
        fails = None if file.endswith(_LAYOUTS) else _number_that_fails(guard.expr)
        if fails is not None:
            said = re.sub(r"\bs\d+\b", "batch", str(guard.expr))
            raise CamfnError(
                f"{file}, line {getattr(where, 'lineno', '?')}, fixes the batch: it decides by the number of images, "
                f"{said}, as {BATCH} images do and {fails} do not, and a graph holds one side alone. Pass "
                "batch='fixed' with as many images as the file shall take, or leave the decision out of the model"
                f"{_by_length(file, where)}"
            )


def _by_length(file: str, where: Any) -> str:
    """Name what stays open in the place of `len(x)`, if the line of a decision has one."""
    line = getline(file, getattr(where, "lineno", 0))
    has_one = re.search(r"\blen\(([\w.]+)\)", line)
    return f". len() makes a number of the batch: write {has_one[1]}.shape[0] for {has_one[0]}" if has_one else ""


def _number_that_fails(expression: Any) -> int | None:
    """Return a number of images for which an expression of sympy does not hold."""
    from sympy import Integer, false

    symbols = expression.free_symbols
    own = {int(number) + k for number in expression.atoms(Integer) for k in (-1, 0, 1)}
    counts = (*_COUNTS, *sorted(n for n in own if n > 1))
    return next((n for n in counts if expression.xreplace(dict.fromkeys(symbols, Integer(n))) == false), None)


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
