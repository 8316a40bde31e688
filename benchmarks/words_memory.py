"""Memory of word by word maps: 3,025 image tokens and a vocabulary of 150,000, each method in a process of its own.

Run `python -m benchmarks.words_memory`; it prints the peak above the loaded model, beside what all logits, and all rows
of attention, would take.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import Any

import torch

SIDE, VOCABULARY, LAYERS, HEADS, WORDS = 55, 150_000, 6, 8, 8
METHODS = (
    "all logits", "tam", "raw_attention", "grad_eclip", "grad_cam", "le_grad", "attention_rollout", "gradient_rollout",
    "drops", "carried", "region_curves",
)  # fmt: skip


def model() -> tuple[Any, dict[str, torch.Tensor]]:
    """A LLaVA with few channels, so that what grows with tokens and words is what is seen."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    sizes = {"hidden_size": 64, "num_attention_heads": HEADS, "intermediate_size": 128}
    tower = {
        **sizes,
        "num_hidden_layers": 2,
        "model_type": "clip_vision_model",
        "image_size": SIDE * 4,
        "patch_size": 4,
    }
    text = {
        **sizes, "num_hidden_layers": LAYERS, "model_type": "llama", "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
    }  # fmt: skip
    config = LlavaConfig(vision_config=tower, text_config=text, image_token_id=VOCABULARY - 1)
    ids = torch.tensor([[1, *[VOCABULARY - 1] * SIDE**2, 5, 6, 7]])
    pixels = torch.rand(1, 3, SIDE * 4, SIDE * 4)
    return LlavaForConditionalGeneration(config).eval(), {"input_ids": ids, "pixel_values": pixels}


def peak() -> float:
    """Peak memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(method: str) -> float:
    """Run one method, and return the peak above that of the loaded model."""
    from camfn import metrics, words

    net, inputs = model()
    net.requires_grad_(False)
    answer = list(range(10, 10 + WORDS))
    words.spans(net, inputs)
    before = peak()
    if method == "all logits":
        with torch.no_grad():
            net(**words.forced(net, inputs, answer)).logits.log_softmax(-1)
    elif method == "drops":
        words.drops(net, inputs, answer, side=28)
    elif method == "carried":
        words.carried(net, inputs, answer)
    elif method == "region_curves":
        words.region_curves(net, inputs, answer, metrics.grid_cells((SIDE, SIDE), 2), torch.rand(SIDE, SIDE))
    else:
        words.explain(net, inputs, answer, method=method)
    return peak() - before


def main() -> None:
    """Print a line for each method."""
    if sys.argv[1:]:
        print(f"{one(sys.argv[1]):.0f}")
        return
    tokens = SIDE**2 + 4 + WORDS
    print(f"{tokens} tokens, {VOCABULARY} words, {LAYERS} layers of {HEADS} heads, float32")
    print(f"logits at all tokens {tokens * VOCABULARY * 4 / 2**20:.0f} MB")
    print(f"attention of all layers {LAYERS * HEADS * tokens**2 * 4 / 2**20:.0f} MB")
    for method in METHODS:
        run = [sys.executable, "-m", "benchmarks.words_memory", method]
        print(f"{method:<18} {subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()} MB")


if __name__ == "__main__":
    main()
