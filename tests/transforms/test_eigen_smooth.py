"""The first component of weighted channels: singular vectors, signs, and the peer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from camfn import capture, methods
from camfn.transforms import eigen_smooth
from tests.nets.small import Net, images, seeded

from .common import LAYER, WEIGHING


def contributions(method: Callable[..., Tensor], a: Tensor, g: Tensor) -> Tensor:
    return torch.stack([method(a[:, k : k + 1], g[:, k : k + 1]) for k in range(a.shape[1])], 1)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("method", WEIGHING)
@pytest.mark.parametrize("size", [(5,), (3, 4), (2, 3, 2)])
def test_eigen_smooth_is_the_singular_vector_of_the_contributions(
    method: str, size: tuple[int, ...], centered: bool
) -> None:
    chosen = getattr(methods, method)
    a, g = (images(2, 7, *size, dtype=torch.float64, seed=s) for s in (1, 2))
    found = eigen_smooth(chosen, centered=centered)(a, g)
    for b in range(2):
        rows = contributions(chosen, a, g)[b].flatten(1).numpy().T
        u, s, _ = np.linalg.svd(rows - rows.mean(0) if centered else rows, full_matrices=False)
        expected = u[:, 0] * s[0]
        expected *= np.sign(expected @ chosen(a, g)[b].flatten().numpy())
        np.testing.assert_allclose(found[b].flatten().numpy(), expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("method", ["grad_cam", "hires_cam", "layer_cam"])
def test_channels_that_are_alike_give_the_map_itself_and_never_its_negative(method: str) -> None:
    shape, scales = images(2, 1, 4, 4, seed=3), torch.tensor([1.0, -0.5, 2.0, 0.25])[:, None, None]
    for turn in (1.0, -1.0):
        a = shape * scales
        g = turn * torch.ones(2, 4, 1, 1).expand(2, 4, 4, 4)
        whole = getattr(methods, method)(a, g)
        found = eigen_smooth(getattr(methods, method))(a, g)
        cosine = (found * whole).sum((1, 2)) / (found.norm(dim=(1, 2)) * whole.norm(dim=(1, 2)))
        if whole.any():
            torch.testing.assert_close(cosine, torch.ones(2), rtol=0, atol=1e-4)


def test_eigen_smooth_differs_from_the_peer_by_its_sign_rule_only() -> None:
    pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam: pip install 'camfn[bench]'")
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

    captured = capture(seeded(Net), "stem")(images(3, 3, 8, 8), [0, 1, 2])
    a, g = captured.activations, captured.grads
    theirs = torch.from_numpy(get_2d_projection((g.mean((2, 3), keepdim=True) * a).numpy()))
    ours = eigen_smooth(methods.grad_cam, centered=True)(a, g)
    sign = (ours * theirs).sum((1, 2)).sign()[:, None, None]
    torch.testing.assert_close(ours, sign * theirs, rtol=1e-3, atol=1e-5)
    assert ((ours * methods.grad_cam(a, g)).sum((1, 2)) >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eigen_smooth_keeps_the_type_and_runs_under_vmap_and_compile(dtype: torch.dtype) -> None:
    net, x = seeded(Net).to(dtype), images(2, 3, 8, 8, dtype=dtype)
    run, method = capture(net, LAYER), eigen_smooth(methods.grad_cam)
    found = method(*run(x, 1))
    assert found.dtype is dtype
    classes = torch.arange(3)
    looped = torch.stack([method(*run(x, c)) for c in classes])
    tolerance: Any = {"rtol": 0.05, "atol": 0.02} if dtype is torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.vmap(lambda c: method(*run(x, c)))(classes), looped, **tolerance)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, c: method(*run(x, c)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, classes[1]), looped[1], **tolerance)


def squared(activations: Tensor, grads: Tensor) -> Tensor:
    return (activations * grads).sum(1).square()


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (methods.eigen_cam, "takes no gradients.*eigen_cam"),
        (methods.fem, "takes no gradients"),
        (methods.ablation_cam, "ablation_cam asks for chunk_size, progress, tail"),
        (methods.shapley_cam, "shapley_cam asks for"),
        (methods.eigen_grad_cam, "not the sum"),
        (squared, "squared is not the sum"),
    ],
)
def test_methods_that_do_not_weigh_channels_are_refused(method: Any, words: str) -> None:
    a, g = images(2, 4, 3, 3), images(2, 4, 3, 3, seed=2)
    with pytest.raises(ValueError, match=words):
        eigen_smooth(method)(a, g)
    with pytest.raises(ValueError, match="sign='sum'"):
        eigen_smooth(methods.grad_cam, centered=True, sign="sum")
