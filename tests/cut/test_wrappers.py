"""A wrapper in place of its network: an error that names the part to pass, in every entry that checks the model."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from camfn import CamfnError, capture, capture_many, explainer, observe, prepare, resume
from camfn.attention import capture_attention
from camfn.layers import suggest
from camfn.methods import grad_cam
from tests.nets.small import Net, images, seeded


class Predictor(nn.Module):
    """A module that reads files when it is called, as ultralytics' `YOLO` does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def __call__(self, source: Any) -> Any:
        raise FileNotFoundError(source)


X = images(1, 3, 8, 8)
ENTRIES: list[Callable[[Any], Any]] = [
    lambda model: suggest(model, X),
    lambda model: capture(model, "blocks.1")(X),
    lambda model: capture_many(model, ["blocks.1"])(X),
    lambda model: observe(model, "blocks.1")(X),
    lambda model: resume(model, "blocks.1")(X),
    lambda model: explainer(grad_cam, model, "blocks.1")(X),
    lambda model: capture_attention(model)(X),
    lambda model: prepare(model, X),
]


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    ("wrap", "part"),
    [
        (Predictor, ".model"),
        (lambda net: SimpleNamespace(model=net), ".model"),
        (lambda net: SimpleNamespace(size=3, model=SimpleNamespace(net=net)), ".model.net"),
        (lambda net: SimpleNamespace(predictor=Predictor(net)), ".predictor.model"),
    ],
    ids=["module", "object", "object in an object", "module in an object"],
)
def test_names_the_network_in_a_wrapper(
    entry: Callable[[Any], Any], wrap: Callable[[nn.Module], Any], part: str
) -> None:
    with pytest.raises(CamfnError, match=rf"model: expected .*; pass its \{part}, a Net$"):
        entry(wrap(seeded(Net)))


def test_says_no_more_where_there_is_no_network() -> None:
    with pytest.raises(CamfnError, match=r"expected a torch\.nn\.Module, got a SimpleNamespace$"):
        suggest(SimpleNamespace(a=1), X)  # type: ignore[arg-type]


def test_takes_modules_whose_call_is_their_own_but_that_have_a_forward() -> None:
    """torch.fx and torch.compile make such modules."""
    traced = torch.fx.symbolic_trace(seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))))
    assert capture(traced, "0")(X).grads.any()
    compiled: Any = torch.compile(seeded(Net))
    assert capture(compiled, "blocks.1")(X).grads.any()
