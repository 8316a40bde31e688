"""Methods that perturb, on detectors that suppress boxes: each is a plain loop over the network after the cut."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import capture, explainer, methods, resume
from camfn.targets import box_score, pin, torchvision_head
from tests.nets.detectors import CLASSES, DETECTORS, LAYER, detector
from tests.nets.small import images, unchanged
from tests.oracles import methods as simple
from tests.oracles import perturbation as oracles
from tests.oracles import sensitivity

TAIL = {"ablation_cam": simple, "recipro_cam": oracles, "lift_cam": oracles}
FORWARD = {
    "score_cam": simple,
    "group_cam": oracles,
    "rise": oracles,
    "opti_cam": oracles,
    "hsic": sensitivity,
    "region_search": sensitivity,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "lift_cam": {"steps": 3},
    "group_cam": {"groups": 4},
    "opti_cam": {"steps": 3},
    "hsic": {"masks": (images(6, 4, 4, dtype=torch.float64, seed=3) > 0).double(), "grid": 4},
    "region_search": {"regions": (images(4, 32, 32, dtype=torch.float64, seed=3) > 0).double()},
    "rise": {"masks": (images(6, 32, 32, dtype=torch.float64, seed=3) > 0).double()},
}
TARGET = box_score((4.0, 4.0, 24.0, 24.0), head=torchvision_head(CLASSES))


def close(found: Tensor, expected: Tensor) -> None:
    assert float(expected.abs().max()) > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", [*TAIL, *FORWARD])
@pytest.mark.parametrize("name", DETECTORS)
def test_each_method_is_its_loop(name: str, method: str) -> None:
    net, x = detector(name), images(1, 3, 32, 32, dtype=torch.float64)
    options, engines = OPTIONS.get(method, {}), set()

    def progress(done: int, total: int, *, engine: str) -> None:
        engines.add(engine)

    explain = explainer(partial(getattr(methods, method), **options), net, LAYER, progress=progress)
    with unchanged(net):
        found = explain(x, TARGET)
    activations, grads, outputs = capture(net, LAYER)(x, TARGET)
    score = pin(TARGET, outputs)
    room = {**TAIL, **FORWARD}[method]
    if method in TAIL:
        tail = resume(net, LAYER)(x)
        expected = getattr(room, method)(activations, grads, tail=lambda a: score(tail(a)), **options)
        assert engines == {"one by one"}
    else:
        context: dict[str, Any] = {"forward": lambda images: score(net(images)), "inputs": x}
        if method in ("rise", "hsic", "region_search"):
            activations = context.pop("inputs")
        expected = getattr(room, method)(activations, grads, **context, **options)
        # Mask R-CNN reads its boxes to paste the masks
        assert engines == {"one by one" if method == "opti_cam" or name == "mask_rcnn" else "folded"}
    close(found, expected)
