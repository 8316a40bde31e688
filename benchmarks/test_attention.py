"""Methods on attention of ViT-B/16, in bare forwards, and torch-cam's LeGrad beside ours."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from copy import deepcopy
from time import perf_counter
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from camfn.attention import METHODS, attention_explainer, attention_rollout, gradient_rollout, le_grad

from .models import Subject, load, question

ROUNDS = 5
BLOCKS = [f"encoder.layers.encoder_layer_{i}" for i in range(12)]


def written_out(model: nn.Module) -> tuple[nn.Module, list[Tensor]]:
    """Copy a torchvision transformer, with attention that keeps its probabilities: the reference, without camfn."""
    copy, kept = deepcopy(model), list[Tensor]()

    def forward_of(attn: Any) -> Callable[..., Any]:
        def forward(x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
            batch, count, width = x.shape
            qkv = nn.functional.linear(x, attn.in_proj_weight, attn.in_proj_bias)
            q, k, v = qkv.view(batch, count, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
            kept.append((q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1))
            return attn.out_proj((kept[-1] @ v).transpose(1, 2).reshape(batch, count, width)), None

        return forward

    for module in copy.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.forward = forward_of(module)  # type: ignore[method-assign]
    return copy, kept


def reference(name: str, subject: Subject, images: Tensor, classes: list[int]) -> Tensor:
    """Rollout, its gradient-weighted form, or LeGrad with torch-cam."""
    if name == "le_grad":
        return torchcam(subject, classes)(images)
    model, kept = written_out(subject.model)
    scores = model(images)[range(len(classes)), classes].sum()
    grads = torch.autograd.grad(scores, kept)
    eye = product = torch.eye(kept[0].shape[-1])
    for a, g in zip(kept, grads):
        step = (a.mean(1) + eye) / 2 if name == "attention_rollout" else eye + (a * g).relu().mean(1)
        product = step @ product
    return product[:, 0, 1:].reshape(-1, 14, 14).detach()


def torchcam(subject: Subject, classes: list[int]) -> Callable[[Tensor], Tensor]:
    """LeGrad as torch-cam's documentation calls it, on every block, without its normalization."""
    from torchcam.methods import LeGrad

    def explain(images: Tensor) -> Tensor:
        with LeGrad(subject.model, list(BLOCKS)) as peer:
            (cam,) = peer.compute_cams(classes, subject.model(images), normalized=False)
        return cam.detach()  # type: ignore[no-any-return]

    return explain


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("method", [attention_rollout, gradient_rollout, le_grad], ids=lambda method: method.__name__)
def test_attention(benchmark: BenchmarkFixture, method: Callable[..., Tensor], batch: int) -> None:
    subject = load("vit_b_16")
    images, classes = question(subject, batch)
    name = method.__name__
    assert METHODS[name] is method
    explain = attention_explainer(method, subject.model)
    expected = reference(name, subject, images, classes)
    scale = float(expected.abs().max())
    torch.testing.assert_close(explain(images, classes), expected, rtol=1e-3, atol=1e-3 * scale)

    def forward() -> None:
        with torch.no_grad():
            subject.model(images)

    work: dict[str, Callable[[], Any]] = {"camfn": lambda: explain(images, classes), "forward": forward}
    if name == "le_grad":
        model: Any = subject.model
        said = attention_explainer(method, model, readout=lambda tokens: model.heads(model.encoder.ln(tokens[:, 0])))
        torch.testing.assert_close(said(images, classes), expected, rtol=1e-3, atol=1e-3 * scale)
        work["camfn, readout said"] = lambda: said(images, classes)
        peer = torchcam(subject, classes)
        work["torchcam"] = lambda: peer(images)
    times: dict[str, list[float]] = {library: [] for library in work}
    for _ in range(ROUNDS):  # in turn, so that all see the same machine
        for library, run in work.items():
            start = perf_counter()
            run()
            times[library].append(perf_counter() - start)
    benchmark.pedantic(work["camfn"], rounds=1)  # type: ignore[no-untyped-call]
    best = {library: 1e3 * min(found) for library, found in times.items()}
    spread = {library: 1e3 * statistics.pstdev(found) for library, found in times.items()}
    benchmark.extra_info.update(kind="attention", device="cpu", batch=batch, work=name, best=best, spread=spread)
    rows = ", ".join(f"{library} {ms:.0f} ms ({ms / best['forward']:.2f} forwards)" for library, ms in best.items())
    print(f"\n{name}, batch {batch}: {rows}")
