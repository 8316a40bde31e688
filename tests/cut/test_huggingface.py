"""Hugging Face models: keyword inputs, outputs of their own classes, modules that collect hidden states by class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch.func import vmap

from camfn import capture, explainer, layers, observe, resume
from camfn.methods import ablation_cam, grad_cam
from tests.nets.small import images, unchanged

CONFIGS: dict[str, tuple[str, dict[str, Any], str]] = {
    "ViT": (
        "ViT",
        {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 64, "patch_size": 16},
        "layernorm_before",
    ),
    "Swin": (
        "Swin",
        {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        "layernorm",
    ),
    "Segformer": (
        "Segformer",
        {"hidden_sizes": [16, 32, 32, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 2]},
        "",
    ),
    "ResNet": ("ResNet", {"embedding_size": 16, "hidden_sizes": [16, 32, 32, 32], "depths": [1, 1, 1, 1]}, ""),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_suggest_capture_resume(name: str) -> None:
    family, options, expected = CONFIGS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**options, num_labels=7)
        model = getattr(transformers, f"{family}ForImageClassification")(config).eval()
    batch = {"pixel_values": images(2, 3, 64, 64)}
    with torch.no_grad():
        plain = model(**batch)
    with unchanged(model):
        best = layers.suggest(model, batch)[0]
        assert best.depends
        assert best.name.endswith(expected)
        captured = capture(model, best.name, layout=best.layout)(batch, [1, 2])
        assert type(captured.outputs) is type(plain)
        torch.testing.assert_close(captured.outputs.logits, plain.logits)
        assert grad_cam(*captured).shape == (2, *best.spatial)
        assert captured.grads.any()
        explain = explainer(ablation_cam, model, best.name, layout=best.layout)
        assert explain(batch, [1, 2]).shape == (2, *best.spatial)
        tail = resume(model, best.name, layout=None)(batch)
        activations, _ = observe(model, best.name, layout=None)(batch)
        rows = torch.stack([activations, activations / 2])
        with torch.no_grad():
            torch.testing.assert_close(tail(activations).logits, plain.logits)
            loop = torch.stack([tail(row).logits for row in rows])
            torch.testing.assert_close(vmap(lambda row: tail(row).logits)(rows), loop, rtol=1e-4, atol=1e-5)
