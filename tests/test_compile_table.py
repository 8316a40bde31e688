"""What `torch.compile` makes of each method: the table in docs/compile.md, row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import explainer
from camfn.attention import attention_explainer
from camfn.catalogue import METHODS, MethodInfo, find
from tests.nets.small import Net, images, seeded, unchanged
from tests.nets.transformer import transformer

PAGE = Path(__file__).parents[1] / "docs" / "compile.md"
WHOLE, BREAKS = "one graph", "runs eagerly"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def rows() -> dict[str, str]:
    """The words of the table's second column, by method."""
    cells = [line.split("|")[1:3] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return {name.strip(" `"): words.strip() for name, words in cells}


def explain(info: MethodInfo) -> tuple[Callable[[Tensor], Any], Tensor]:
    """Return the method on a network, and an image for it; what it draws is given."""
    if info.kind == "attention":
        vit = transformer()
        return attention_explainer(info.function, vit), images(2, 3, 16, 12).double()
    net, x = seeded(Net), images(2, 3, 12, 10)
    options: dict[str, Any] = {}
    parameters = signature(info.function).parameters
    if info.name in ("cam", "tam"):
        options["weights"] = torch.ones(2, 6)
    if info.name == "hsic":
        options |= {"masks": torch.eye(4).reshape(4, 2, 2), "grid": 2}
    elif info.name == "sobol":
        options |= {"points": torch.rand(3, 2, 2, 2, generator=torch.Generator().manual_seed(0)), "grid": 2}
    elif "masks" in parameters:
        options["masks"] = torch.rand(4, 12, 10, generator=torch.Generator().manual_seed(0))
    elif info.name == "random_cam":
        options["weights"] = torch.ones(2, 6)
    elif "noise" in parameters:
        options |= {"samples": 2, "noise": torch.ones(2, 12, 10) if info.name == "ss_cam" else torch.ones(2, *x.shape)}
    elif "uniform" in parameters:
        options["uniform"] = torch.rand(3, 2, generator=torch.Generator().manual_seed(0))
    if info.name == "ss_cam":
        options["noise"] = torch.ones(2, 12, 10)
    if info.name == "vit_cx":
        options = {"noise": torch.ones(3, 12, 10)}
    if info.name in ("guided_ig", "idgi"):
        options["steps"] = 3
    if info.name == "region_search":
        options["grid"] = 2
    if info.kind == "layer":
        method = partial(info.function, **options) if options else info.function
        run = explainer(method, net, "blocks.0")
        return lambda x: run(x, 1), x
    layer = ("blocks.0",) if "layer" in info.needs else ()
    whole = info.function(net, *layer, **options)
    return lambda x: whole(x, 1), x


def test_each_method_has_its_row() -> None:
    assert rows().keys() == {info.name for info in METHODS}
    assert set(rows().values()) == {WHOLE, BREAKS}


@pytest.mark.parametrize("name", [info.name for info in METHODS])
def test_the_row_says_what_happens(name: str) -> None:
    run, x = explain(find(name))
    want = run(x)
    one_graph = torch.compile(run, backend="eager", fullgraph=True)
    broken = torch.compile(run, backend="eager", fullgraph=False)
    if rows()[name] == WHOLE:
        torch.testing.assert_close(one_graph(x), want, rtol=1e-4, atol=1e-5)
    else:
        with pytest.raises(Exception, match=r"(?i)graph break|skip|disable|unsupported|camfn"):
            one_graph(x)
        torch._dynamo.reset()
        torch.testing.assert_close(broken(x), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["grad_cam", "ablation_cam", "score_cam", "full_grad"])
def test_made_inside_the_compiled_function(name: str) -> None:
    net, x = seeded(Net), images(2, 3, 12, 10)
    info = find(name)

    def inside(x: Tensor) -> Tensor:
        cam: Tensor = (explainer(info.function, net, "blocks.0") if info.kind == "layer" else info.function(net))(x, 1)
        return cam

    with unchanged(net):
        compiled = torch.compile(inside, backend="eager", fullgraph=name == "grad_cam")
        torch.testing.assert_close(compiled(x), inside(x), rtol=1e-4, atol=1e-5)
