"""Laws of FD-CAM and Poly-CAM."""

from __future__ import annotations

from functools import partial

import torch

from camfn import explainer, methods, targets
from camfn._shared.maps import resize, spatial_sum
from tests.methods.laws import (
    close,
    image,
    linear,
    normal,
    smooth,
    stretched,
    weights_in,
)
from tests.nets.small import Net, images, seeded


def test_fd_cam_of_alike_and_orthogonal_channels_over_an_affine_tail() -> None:
    # channels 0 and 1 are a group, 2 and 3 are on their own; cosines 1, 1, 0, 0 and 1, 0, 0, 0
    a = torch.zeros(1, 4, 6, dtype=torch.float64)
    a[0, 0, :2] = torch.tensor([1.0, 3.0])
    a[0, 1], a[0, 2, 2:4], a[0, 3, 4:] = 2 * a[0, 0], 1.5, torch.tensor([0.5, -2.0])
    readout = normal(24, seed=1)
    g = readout.reshape(1, 4, 6)
    drops = spatial_sum(g * a)[0]
    scores = 2 * torch.stack([drops[0] + drops[1], drops[0] + drops[1], drops[2], drops[3]])
    slopes = g.mean(2)[0]
    low, high = scores.min(), scores.max()
    weights = torch.exp((scores - low) / (high - low)) * (slopes - slopes.min()) / (slopes.max() - slopes.min()) - 0.5
    map_ = methods.fd_cam(a, g, tail=lambda x: x.flatten(1) @ readout + 0.4, quantile=0.9)
    close(map_, methods.cam(a, weights=weights))


def test_fd_cam_groups_do_not_see_the_scale_of_a_channel() -> None:
    a, g = normal(3, 6, 4, 5), normal(3, 6, 4, 5, seed=1)
    # squares that leave the range of a float
    scale = torch.tensor([1e-200, 1e-170, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)[:, None, None]
    weights = weights_in(methods.fd_cam(a, g, tail=smooth, quantile=0.6), a)
    scaled = methods.fd_cam(a * scale, g, tail=lambda x: smooth(x / scale), quantile=0.6)
    close(scaled, methods.cam(a * scale, weights=weights), 1e-8)


def test_poly_cam_of_a_linear_network() -> None:
    a, x = normal(3, 6, 4, 5), image()
    masks = resize(stretched(a), (9, 11))
    through = torch.stack([linear(x * masks[:, k : k + 1]) for k in range(6)], 1)
    left = linear(x)[:, None] - torch.stack([linear(x * (1 - masks[:, k : k + 1])) for k in range(6)], 1)
    close(left, through - 0.4)
    for switch, weights in (("plus", through), ("minus", left.relu()), ("plus_minus", (through + left).relu())):
        found = methods.poly_cam(a, forward=linear, inputs=x, switch=switch)  # type: ignore[arg-type]
        close(found, methods.cam(a, weights=weights))


def test_poly_cam_of_a_network_that_sees_nothing_removed_is_zero() -> None:
    a = normal(3, 6, 4, 5)
    map_ = methods.poly_cam(a, forward=lambda x: 0 * x.sum((1, 2, 3)) + 2, inputs=image(), switch="minus")
    assert not map_.any()


def test_poly_cam_takes_the_strength_from_the_deeper_map_alone() -> None:
    a, x, deeper = normal(3, 6, 4, 6).relu(), image(), normal(3, 2, 3, seed=1)
    run = partial(methods.poly_cam, forward=lambda x: x.square().sum((1, 2, 3)), inputs=x)
    map_ = run(a, deeper=deeper)
    close(run(3 * a, deeper=deeper), map_)
    close(run(a, deeper=3 * deeper), 3 * map_)
    close(run(a, deeper=deeper.relu()), map_)
    assert not run(a, deeper=-deeper.abs()).any()


def test_poly_cam_folds_over_the_layers_of_a_network() -> None:
    net, x, cam = seeded(Net), images(2, 3, 12, 10), None
    for name in ("blocks.1", "blocks.0", "stem"):
        cam = explainer(partial(methods.poly_cam, deeper=cam), net, name)(x, targets.class_probability(2))
    assert cam is not None
    assert cam.shape == (2, 12, 10)
    assert cam.isfinite().all()
