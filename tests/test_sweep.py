"""Every torchvision classifier, and timm networks that write in place: capture against autograd, and the tail.

Weights are random, with a seed; images are small where the network allows. The quick half runs in `make test`, all of
it in `make test-all`. No classifier is left out.
"""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.func import vmap
from torchvision import models as zoo
from torchvision.models import get_model, list_models

from camfn import capture_many, resume
from tests.nets import images, reference, unchanged

LAYERS = 5

# what 64 does not divide into patches, a fixed number of windows, and what pools away smaller images
SIZES = {"vit_h_14": 56, "maxvit": 224, "inception_v3": 96}
TIMM = [
    "dla34",
    "mobileone_s0",
    "fastvit_t8",
    "swin_tiny_patch4_window7_224",
    "maxvit_tiny_tf_224",
    "beit_base_patch16_224",
]
CLASSIFIERS = list_models(module=zoo)
QUICK = {
    "resnet18", "densenet121", "googlenet", "inception_v3", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5",
    "shufflenet_v2_x0_5", "squeezenet1_1", "efficientnet_b0", "regnet_y_400mf", "convnext_tiny", "swin_t", "alexnet",
    "dla34", "mobileone_s0", "fastvit_t8",
}  # fmt: skip


def cases() -> list[Any]:
    found = []
    for name in [*CLASSIFIERS, *(f"timm:{name}" for name in TIMM)]:
        quick = name.removeprefix("timm:") in QUICK
        found.append(pytest.param(name, marks=[] if quick else [pytest.mark.sweep], id=name))
    return found


def build(name: str) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name.startswith("timm:"):
            model = timm.create_model(name[5:])
            size = model.default_cfg["input_size"][-1] if "_224" in name else 64
        else:
            size = next((size for start, size in SIZES.items() if name.startswith(start)), 64)
            options: dict[str, Any] = {"image_size": size} if name.startswith("vit_") else {}
            if name in ("googlenet", "inception_v3"):
                options = {"init_weights": False, "aux_logits": False}
            model = get_model(name, **options)
        for module in model.modules():
            if isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.02)  # torchvision's ViT starts with a head of zeros
    # frozen, since torch's attention kernels for the CPU refuse a bias that asks for a gradient (BEiT, MaxViT)
    return model.eval().requires_grad_(False), images(2, 3, size, size)


def spread(model: nn.Module, x: Tensor) -> list[str]:
    """Names of layers spread over the depth, each of which runs once and returns one floating-point tensor."""
    runs: dict[str, int] = {}
    fits: set[str] = set()
    handles = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            runs[name] = runs.get(name, 0) + 1
            if isinstance(output, Tensor) and output.is_floating_point():
                fits.add(name)

        return hook

    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_hook(watch(name)))
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    once = [name for name, count in runs.items() if count == 1 and name in fits]
    return [once[round(i * (len(once) - 1) / (LAYERS - 1))] for i in range(LAYERS)]


def close(got: Tensor, expected: Tensor, layer: str) -> None:
    tolerance = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=tolerance, msg=lambda text: f"{layer}: {text}")


@pytest.mark.parametrize("name", cases())
def test_capture_is_autograds_gradient_and_the_tail_resumes(name: str) -> None:
    model, x = build(name)
    classes = torch.tensor([3, 7])
    layers = spread(model, x)
    alive = 0
    with unchanged(model):
        captured = capture_many(model, layers)(x, classes)
        for layer in layers:
            activations, grads, outputs = captured[layer]
            expected = reference(model, layer, lambda m: m(x), lambda y: y.gather(1, classes[:, None])[:, 0])
            for got, want in zip(captured[layer], expected):
                close(got, want.detach(), layer)
            alive += bool(grads.any())
            tail = resume(model, layer)(x)
            with torch.no_grad():
                for _ in range(2):
                    close(tail(activations), outputs, layer)
                rows = torch.stack([activations, activations * 0.5])
                close(vmap(tail)(rows), torch.stack([tail(row) for row in rows]), layer)
    assert alive >= 4, f"only {alive} of {layers} have a gradient, so little was compared"
