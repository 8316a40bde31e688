"""Changed images in one batch: one question for all of them, and the other inputs repeated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import explainer, methods, targets
from camfn.transforms import Augmentation, augment, flip, multiply
from tests.nets.small import Net, images, seeded

from .common import LAYER, net64, x64


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize(
    "target",
    [None, 2, torch.tensor([1, 2]), [1, 2], [targets.class_score(None), 2], targets.contrast(), lambda y: y[:, 1]],
    ids=["top", "class", "tensor", "list", "mixed", "contrast", "function"],
)
def test_choices_are_made_at_the_unchanged_images(target: Any, chunk_size: int | None) -> None:
    net, x = net64(), x64()
    explain = explainer(methods.layer_cam, net, LAYER)
    brighter: Any = (lambda x: x + 30, lambda cam: cam)
    changes = [multiply(100), flip(-1), Augmentation(*brighter)]
    pinned = targets.pin(target, net(x))
    tops = {tuple(net(one.forward(x)).argmax(1).tolist()) for one in [multiply(1), *changes]}
    assert len(tops) > 1  # else nothing would show a choice made anew
    expected = torch.stack([one.inverse(explain(one.forward(x), pinned)) for one in changes]).mean(0)
    torch.testing.assert_close(augment(explain, changes, chunk_size=chunk_size)(x, target), expected)


@pytest.mark.parametrize("method", ["ablation_cam", "score_cam", "shapley_cam"])
def test_the_top_class_is_pinned_for_methods_that_perturb_too(method: str) -> None:
    net, x = net64(), x64()
    explain = explainer(getattr(methods, method), net, LAYER)
    changes = [multiply(100), flip(-1)]
    top = net(x).argmax(1)
    torch.testing.assert_close(augment(explain, changes)(x), augment(explain, changes)(x, top))


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_other_inputs_are_repeated(form: str) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = seeded(Net)

        def forward(self, x: Tensor, scale: Tensor, shift: float = 0.0) -> Tensor:
            out: Tensor = self.net(x) * scale[:, None] + shift
            return out

    net, x, scale = Two().eval(), images(2, 3, 8, 8), torch.tensor([1.0, -2.0])
    explain = explainer(methods.grad_cam, net, "net.blocks.1")
    give = (lambda x: (x, scale, 1.0)) if form == "tuple" else (lambda x: {"x": x, "scale": scale})
    found = augment(explain, [multiply(2), flip(-1)])(give(x), [1, 2])
    expected = (explain(give(2 * x), [1, 2]) + explain(give(x.flip(-1)), [1, 2]).flip(-1)) / 2
    torch.testing.assert_close(found, expected)


def test_a_function_of_the_user_sees_one_batch() -> None:
    seen: list[tuple[Any, Any]] = []

    def explain(x: Tensor, target: Any) -> Tensor:
        seen.append((tuple(x.shape), target))
        return x.sum(1)

    x = x64()
    found = augment(explain, "flips")(x, 3)
    assert seen == [((4, 3, 8, 8), 3)]
    torch.testing.assert_close(found, x.sum(1))
    augment(explain, "flips", chunk_size=1)(x, [1, 2])
    assert seen[1:] == [((2, 3, 8, 8), [1, 2])] * 2
