"""Detectors before suppression: their detections are among the candidates, and methods that perturb join their runs."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, capture, explainer, methods, resume
from camfn.targets import box_score, candidates_head, pin, unsuppressed
from tests.nets.detectors import DETECTORS, LAYER, detector
from tests.nets.small import Net, images, seeded, unchanged
from tests.oracles import methods as simple
from tests.oracles import perturbation as oracles

X = images(2, 3, 40, 30, dtype=torch.float64)
HEAD = candidates_head()


def opened(name: str, x: Tensor) -> tuple[nn.Module, unsuppressed]:
    net = detector(name)
    with unchanged(net):
        return net, unsuppressed(net, x if "rcnn" in name else None)


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detection_is_a_candidate(name: str) -> None:
    net, candidates = opened(name, X)
    with unchanged(net):
        outputs = candidates(X)
    for i, found in enumerate(net(X)):
        assert len(found["boxes"])
        for box, label, score in zip(found["boxes"], found["labels"], found["scores"]):
            off = (outputs["boxes"][i] - box).abs().amax(1) + (outputs["scores"][i, :, label] - score).abs()
            assert float(off.min()) < 1e-4


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("method", ["ablation_cam", "recipro_cam", "score_cam"])
def test_methods_join_the_runs(name: str, method: str) -> None:
    x = X[:1]
    _, candidates = opened(name, x)
    engines: set[str] = set()

    def progress(done: int, total: int, *, engine: str) -> None:
        engines.add(engine)

    target = box_score(None, head=HEAD)
    found = explainer(getattr(methods, method), candidates, LAYER, progress=progress)(x, target)
    assert engines == {"folded"}
    activations, grads, outputs = capture(candidates, LAYER)(x, target)
    score, tail = pin(target, outputs), resume(candidates, LAYER)(x)
    room = oracles if method == "recipro_cam" else simple
    context = {"forward": lambda x: score(candidates(x)), "inputs": x}
    if method != "score_cam":
        context = {"tail": lambda a: score(tail(a))}
    torch.testing.assert_close(found, getattr(room, method)(activations, grads, **context), rtol=0, atol=1e-5)
    assert found.abs().max() > 1e-4


@pytest.mark.parametrize("name", [name for name in DETECTORS if "rcnn" not in name])
def test_one_stage_detectors_run_under_vmap(name: str) -> None:
    _, candidates = opened(name, X)
    a = resume(candidates, LAYER)(X).cuts.maps[0]
    tail = resume(candidates, LAYER)(X)
    rows = torch.stack([a, a / 2, a.flip(1)])
    together = torch.vmap(tail)(rows)
    for i, row in enumerate(rows):
        for key, value in tail(row).items():
            torch.testing.assert_close(together[key][i], value)
    whole = torch.vmap(candidates)(torch.stack([X, X / 2]))
    torch.testing.assert_close(whole["scores"][1], candidates(X / 2)["scores"])


def test_a_box_is_named_by_its_index() -> None:
    _, candidates = opened("retinanet", X)
    index = candidates(X)["scores"].amax(2).argmax(1)
    best = explainer(methods.odam, candidates, LAYER)(X, box_score(None, head=HEAD))
    named = explainer(methods.odam, candidates, LAYER)(X, box_score(index, head=HEAD))
    assert best.any()
    torch.testing.assert_close(best, named)


def test_copies_and_pickles() -> None:
    _, candidates = opened("faster_rcnn", X)
    for other in (copy.deepcopy(candidates), pickle.loads(pickle.dumps(candidates))):
        torch.testing.assert_close(other(X)["scores"], candidates(X)["scores"])


def test_refusals() -> None:
    net = detector("faster_rcnn")
    with pytest.raises(CamfnError, match=r"unsuppressed\(model, images\)"):
        unsuppressed(net)
    with pytest.raises(CamfnError, match="proposals of 2 images are held"):
        unsuppressed(net, X)(images(3, 3, 40, 30, dtype=torch.float64))
    with pytest.raises(CamfnError, match=r"call model\.eval\(\)"):
        unsuppressed(detector("fcos").train())
    with pytest.raises(CamfnError, match=r"BoxHead\(boxes_of, scores_of\)"):
        unsuppressed(seeded(Net))
    with pytest.raises(TypeError, match="expected a detector of torchvision"):
        unsuppressed("retinanet")  # type: ignore[arg-type]
    with pytest.raises(CamfnError, match="one tensor"):
        unsuppressed(detector("fcos"))(list(X))
    with pytest.raises(CamfnError, match="candidates_head reads"):
        HEAD.boxes_of([{}])
