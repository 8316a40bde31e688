"""`cases`: models, methods with their options, layers, and the two baselines."""

from __future__ import annotations

import pytest
import torch

from camfn import methods
from camfn._shared.errors import UsageError
from camfn.catalogue import METHODS
from camfn.evaluate import CAPPED, Case, cases, center
from camfn.evaluate._inputs.cases import method_of


def test_cases_cross_models_layers_methods_and_values() -> None:
    names = [str(case) for case in cases(["m", "n"], ["score_cam:top_k=0.1|0.2", "grad_cam"], ["a", "b"])]
    assert len(names) == len(set(names)) == 2 * 2 * 3 + 2 * 2
    assert names[:3] == ["m a score_cam:top_k=0.1", "m a score_cam:top_k=0.2", "m a grad_cam"]
    assert names[-4:] == ["m auto center", "m auto random", "n auto center", "n auto random"]


def test_one_case_is_listed_once() -> None:
    listed = cases(["net"], ["grad_cam", "grad_cam", "score_cam:top_k=0.10", "score_cam:top_k=0.1", "center"])
    assert [case.name for case in listed] == ["grad_cam", "score_cam:top_k=0.1", "center", "random"]


def test_capped_has_all_methods_with_their_options() -> None:
    every, capped = cases(["net"], ["all"]), cases(["net"], ["capped"])
    assert [case.method for case in every] == [case.method for case in capped]
    assert {case.method for case in capped if case.options} == set(CAPPED)
    cheap = {case.method for case in cases(["net"], ["cheap"])} - {"center", "random"}
    assert cheap == {info.name for info in METHODS if info.kind == "layer" and not info.perturbs}
    assert "grad_cam" in cheap
    assert "score_cam" not in cheap


def test_options_are_bound_to_the_method() -> None:
    bound = method_of(Case("net", "auto", "rise", "samples=7"), torch.Generator())
    assert bound.keywords["samples"] == 7  # type: ignore[attr-defined]
    assert isinstance(bound.keywords["generator"], torch.Generator)  # type: ignore[attr-defined]
    assert method_of(Case("net", "auto", "grad_cam"), torch.Generator()) is methods.grad_cam


def test_an_unknown_method_or_option_has_advice() -> None:
    with pytest.raises(UsageError, match=r"no method 'gradcam'.*grad_cam"):
        cases(["net"], ["gradcam"])
    with pytest.raises(UsageError, match=r"score_cam has no option 'top=1'.*Write score_cam:"):
        cases(["net"], ["score_cam:top=1"])


def test_the_center_is_a_gaussian() -> None:
    cam = center(4, 8)
    assert cam.shape == (1, 4, 8)
    assert torch.equal(cam, cam.flip(1))
    assert torch.equal(cam, cam.flip(2))
    # pixel centers lie at (0.5 + i) / n - 0.5 sides from the middle, and the deviation is a quarter of a side
    expected = torch.exp(torch.tensor(-((0.125 / 0.25) ** 2 + (0.0625 / 0.25) ** 2) / 2))
    torch.testing.assert_close(cam[0, 1, 3], expected)
