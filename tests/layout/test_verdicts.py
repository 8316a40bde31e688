"""Verdicts on layouts that rest on a count: what is refused, when places are tried, and what they leave alone."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CaptureError, capture, explainer, functional
from camfn._cut import layouts
from camfn._cut.places import places_seen
from camfn.layout import find
from camfn.methods import grad_cam
from tests.layout.test_places import Patches, size
from tests.nets.small import images, seeded, unchanged


def test_tokens_that_are_places_and_queries_that_are_none() -> None:
    model, x = seeded(Patches), size()
    with unchanged(model):
        assert find(model, "blocks.1", x).spatial == (4, 6)
        with pytest.raises(CaptureError, match=r"see their own part of the image.*tokens\(\(4, 6\), prefix=0"):
            find(model, "norm", x)
        with pytest.raises(CaptureError, match="nothing in it depends on the image"):
            capture(model, "position")(x, 0)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("around", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_gradients_are_not_needed(cut: bool, dtype: torch.dtype, around: Callable[[], torch.no_grad]) -> None:
    model, x = seeded(lambda: Patches(cut=cut)).requires_grad_(False).to(dtype), size().to(dtype)
    with around():
        assert find(model, "blocks.0", x).prefix == 1
        with pytest.raises(CaptureError, match="see their own part"):
            find(model, "norm", x)


def test_asked_once_and_forgotten_with_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = seeded(Patches), size()
    calls = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return places_seen(*args, **kwargs)

    monkeypatch.setattr(layouts, "places_seen", counted)
    explain = explainer(grad_cam, model, "blocks.0.norm1")
    for _ in range(3):
        explain(x, 1)
    assert len(calls) == 1
    params, pure = functional(explain)
    assert torch.allclose(pure(params, x, 1), explain(x, 1), atol=1e-5)
    assert len(calls) == 1
    explain(size(3), 1)  # of a batch of another size
    assert len(calls) == 1
    explain(images(2, 3, 24, 16), 1)
    assert len(calls) == 2
    gone = weakref.ref(model)
    del model, explain, pure
    gc.collect()
    assert gone() is None


def test_where_no_value_can_be_read_the_facts_decide() -> None:
    model, x = seeded(Patches), size()
    maps = torch.vmap(lambda one: explainer(grad_cam, model, "blocks.0.norm1")(one[None], 1)[0])(x)
    assert torch.allclose(maps, explainer(grad_cam, model, "blocks.0.norm1")(x, 1), atol=1e-5)
    assert find(seeded(Patches).to("meta"), "norm", x.to("meta")).spatial == (4, 6)


def test_several_threads_ask_at_once() -> None:
    model, x = seeded(Patches), size()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: find(model, "blocks.1", x).spatial, range(4)))
    assert found == [(4, 6)] * 4


def test_a_verdict_for_one_function_never_holds_for_a_later_one_at_its_address() -> None:
    model, x = seeded(Patches), size()

    def choosing() -> Callable[[Any], Any]:
        return lambda inputs: inputs

    def key(images: Callable[[Any], Any]) -> Any:
        options = explainer(grad_cam, model, "blocks.1", images=images)
        return layouts._key(options, model, "blocks.1", (2, 25, 8), x)

    kept = choosing()
    assert key(kept) == key(kept)
    first, later = key(choosing()), key(choosing())
    gc.collect()
    assert first != later
    assert first != key(choosing())


class Folded(nn.Module):
    """A convolution of a spectrogram that was cut into pieces, laid side by side, as audio networks do."""

    def __init__(self, *, folded: bool) -> None:
        super().__init__()
        self.folded = folded
        self.conv = nn.Conv2d(1, 8, 4, 4 if folded else (16, 1), 0 if folded else (0, 2))

    def forward(self, x: Tensor) -> Tensor:
        if self.folded:
            x = x.reshape(len(x), 1, 4, 64, 16).permute(0, 1, 3, 2, 4).reshape(len(x), 1, 64, 64)
        scores: Tensor = self.conv(x).relu().mean((2, 3))
        return scores


def test_strides_that_are_far_apart_are_tried() -> None:
    spectrogram = torch.randn(1, 1, 256, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(CaptureError, match=r"see their own part of the image.*layout=None"):
        find(seeded(lambda: Folded(folded=True)), "conv", spectrogram)
    assert find(seeded(lambda: Folded(folded=False)), "conv", spectrogram).spatial == (16, 17)
    cam = explainer(grad_cam, seeded(lambda: Folded(folded=True)), "conv", layout=None)(spectrogram, 0)
    assert cam.shape == (1, 16, 16)
