"""A small exported file made by hand: a convolution, its class activation map, and the facts that camfn writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

SIDE, CLASSES = 32, 6
NAMES = ["grass", "tall grass", "snow", "sand", "snow", 'a <b>bold</b> & "quoted" name </script>']
RECIPE = {
    "size": [SIDE, SIDE],
    "resize": 40,
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.25, 0.3],
    "interpolation": "bicubic",
}


def network(seed: int = 0) -> nn.Sequential:
    """A convolution and a linear head; the weights of the convolution are always the same."""
    torch.manual_seed(7)
    body = nn.Conv2d(3, 4, 8, stride=4, padding=2)
    torch.manual_seed(seed)
    return nn.Sequential(body, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)).eval()


def answers(net: nn.Sequential, images: torch.Tensor, target: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits and the class activation map of the classes."""
    with torch.no_grad():
        features = net[:2](images)
        logits = net(images)
        classes = logits.argmax(1) if target is None else torch.full((len(images),), target)
        return logits, torch.einsum("bk,bkyx->byx", net[4].weight[classes], features)  # type: ignore[index]


def about(**changes: Any) -> dict[str, Any]:
    facts = {
        "camfn": "0",
        "model": "handmade",
        "layer": "1",
        "method": "cam",
        "classes": NAMES,
        "preprocessing": RECIPE,
    }
    return facts | {"verified": {"batches": [3, 1], "differences": {"logits": 1e-7, "cam": 2e-7}}} | changes


def handmade(
    path: Path,
    net: nn.Sequential | None = None,
    *,
    batch: int | str = "batch",
    target: bool = True,
    cam: str = "cam",
    told: dict[str, Any] | None = None,
) -> Path:
    """Write the file; `told={}` for one that says nothing of itself."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = {name: value.detach().numpy() for name, value in (net or network()).named_parameters()}
    constants = weights | {"none": np.array(0), "last": np.array([2, 3])}
    node = helper.make_node
    nodes = [
        node("Conv", ["images", "0.weight", "0.bias"], ["convolved"], strides=[4, 4], pads=[2, 2, 2, 2]),
        node("Relu", ["convolved"], ["features"]),
        node("GlobalAveragePool", ["features"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("Gemm", ["flat", "4.weight", "4.bias"], ["logits"], transB=1),
        node("ArgMax", ["logits"], ["top"], axis=1, keepdims=0),
        *(
            [node("Less", ["target", "none"], ["asks"]), node("Where", ["asks", "top", "target"], ["class"])]
            if target
            else []
        ),
        node("Gather", ["4.weight", "class" if target else "top"], ["row"]),
        node("Unsqueeze", ["row", "last"], ["weight"]),
        node("Mul", ["weight", "features"], ["weighted"]),
        node("ReduceSum", ["weighted", "channels"], [cam], keepdims=0),
    ]
    constants["channels"] = np.array([1])
    value = helper.make_tensor_value_info
    inputs = [
        value("images", TensorProto.FLOAT, [batch, 3, SIDE, SIDE]),
        value("target", TensorProto.INT64, ["targets"]),
    ]
    outputs = [value("logits", TensorProto.FLOAT, [batch, CLASSES]), value(cam, TensorProto.FLOAT, [batch, 8, 8])]
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "handmade", inputs[: 1 + target], outputs, stored)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if told != {}:
        helper.set_model_props(proto, {"camfn": json.dumps(about() if told is None else told)})
    onnx.checker.check_model(proto)
    onnx.save(proto, str(path))
    return path
