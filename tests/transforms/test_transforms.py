"""All transformations composed."""

from __future__ import annotations

import torch

from camfn import explainer, methods, targets
from camfn.transforms import (
    augment,
    eigen_smooth,
    flip,
    fuse,
    multi_scale,
    multiply,
    path_integral,
    smooth,
)
from tests.nets.small import images

from .common import LAYER, generator, net64, x64


def test_transformations_compose_in_any_order() -> None:
    net, x = net64(), x64()
    eigen = explainer(eigen_smooth(methods.grad_cam), net, LAYER)
    assert augment(eigen)(x).shape == eigen(x).shape
    fused = fuse(eigen_smooth(methods.layer_cam), net, ["blocks.0", LAYER], how="product")
    assert augment(fused, "flips")(x, [1, 2]).shape == (2, 8, 8)
    noise = images(3, 2, 3, 8, 8, dtype=torch.float64, seed=9)
    # flips and a set of noise that is mirrored with them commute
    mirrored = torch.cat([noise, noise.flip(-1)])
    explain = explainer(methods.grad_cam, net, LAYER)
    one = smooth(augment(explain, "flips"), noise=mirrored)(x)
    two = augment(smooth(explain, noise=mirrored.repeat_interleave(1, 0)), "flips", chunk_size=1)(x, net(x).argmax(1))
    torch.testing.assert_close(one, two)


def test_all_of_them_compose() -> None:
    net, x = net64(), x64()
    eigen = eigen_smooth(methods.grad_cam)
    path = path_integral(eigen, net, LAYER, space="inputs", steps=3)
    scales = multi_scale(eigen, net, LAYER, [12])
    for explain in (path, scales, fuse(eigen, net, ["stem", LAYER])):
        expected = (explain(x) + explain(x.flip(-1), net(x).argmax(1)).flip(-1)) / 2
        torch.testing.assert_close(augment(explain, [multiply(1), flip(-1)])(x, net(x).argmax(1)), expected)
        assert smooth(augment(explain, "flips"), 2, generator=generator())(x).shape == expected.shape
        assert augment(smooth(explain, 2, generator=generator()), "flips")(x).shape == expected.shape
    assert path(x, targets.contrast()).isfinite().all()
