"""The catalogue agrees with the functions that it lists, and leaves no method out."""

from __future__ import annotations

from functools import partial
from inspect import Parameter, signature
from typing import Any

import pytest
import torch
from torch import nn

from camfn import CamfnError, attention, methods, network
from camfn.catalogue import METHODS, MethodInfo, find, info_of

every_row = pytest.mark.parametrize("row", METHODS, ids=lambda row: row.name)


def of_kind(kind: str) -> pytest.MarkDecorator:
    rows = [row for row in METHODS if row.kind == kind]
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.name)


def required(row: MethodInfo) -> set[str]:
    """Parameters of a method that have no default."""
    return {key for key, p in signature(row.function).parameters.items() if p.default is Parameter.empty}


def test_every_public_method_has_a_row() -> None:
    names = [row.name for row in METHODS]
    assert names == [*methods.__all__, *attention.METHODS, *network.__all__]
    assert len(set(names)) == len(names)


@every_row
def test_a_row_names_its_function(row: MethodInfo) -> None:
    room = {"layer": methods, "attention": attention, "network": network}[row.kind]
    assert getattr(room, row.name) is row.function
    assert row.function.__name__ == row.name
    assert row.draws == ("generator" in signature(row.function).parameters)


@of_kind("layer")
def test_a_method_on_a_layer_needs_what_has_no_default(row: MethodInfo) -> None:
    names = {"grads": "gradients", "weights": "head", "tail": "tail", "forward": "forward"}
    assert row.needs - {"inputs"} == {names[key] for key in required(row) - {"activations", "inputs"}}
    assert ("inputs" in required(row)) == bool({"forward", "inputs"} & row.needs)
    assert (row.gives, row.takes_layer) == ("map", True)


@of_kind("attention")
def test_a_method_on_attention_needs_gradients_or_runs_without(row: MethodInfo) -> None:
    assert required(row) == {"records"}
    assert row.needs - {"gradients"} == {"attention"}
    net = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(), nn.Linear(40, 3)).eval()
    records = attention.observe_attention(net)(torch.randn(1, 5, 8)).records
    if "gradients" in row.needs:
        with pytest.raises(CamfnError):
            row.function(records)
    else:
        assert row.function(records).shape == (1, 4)
    assert (row.gives, row.takes_layer) == ("map", True)


@of_kind("network")
def test_a_method_of_a_network_takes_the_model(row: MethodInfo) -> None:
    assert row.needs == required(row) | {"gradients"}
    assert row.takes_layer == ("layer" in row.needs)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    options: dict[str, Any] = {"layer": "0"} if row.takes_layer else {}
    options |= {"generator": torch.Generator().manual_seed(0)} if row.draws else {}
    result = row.function(net, **options)(torch.randn(1, 3, 8, 8), 1)
    side = 6 if row.takes_layer else 8
    assert result.shape == ((1, 3, 8, 8) if row.gives == "picture" else (1, side, side))


@every_row
def test_perturbing_methods_run_the_network_again(row: MethodInfo) -> None:
    assert row.perturbs == bool({"tail", "forward", "inputs"} & row.needs)


def test_a_row_is_found_by_name_and_by_function() -> None:
    assert find("score_cam").function is methods.score_cam
    assert info_of(methods.score_cam) is find("score_cam")
    assert info_of(partial(partial(methods.score_cam, top_k=0.1), form="score")) is find("score_cam")


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(CamfnError, match="Did you mean 'grad_cam'"):
        find("gradcam")
    with pytest.raises(CamfnError, match="relu has no signature that can be read"):
        info_of(torch.relu)
