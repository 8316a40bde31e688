"""Laws of Sobel's edges: constants, ramps, turns, and that no network is read."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage

from camfn import CamfnError, explainer, methods
from tests.methods.laws import close, normal
from tests.nets.small import Net, images, seeded


@pytest.mark.parametrize("size", [(13,), (9, 11), (5, 8, 6)], ids=str)
def test_it_is_that_of_scipy(size: tuple[int, ...]) -> None:
    x = normal(2, 3, *size)
    found = methods.sobel_edges(x, inputs=x)
    for b in range(2):
        gray = x[b].mean(0).numpy()
        slopes = [ndimage.sobel(gray, axis, mode="nearest") / (2 * 4 ** (len(size) - 1)) for axis in range(len(size))]
        close(found[b], torch.as_tensor(sum(slope**2 for slope in slopes)).sqrt())


def test_constants_have_no_edge_and_a_ramp_has_its_slope() -> None:
    close(methods.sobel_edges(torch.ones(1, 2, 5, 5), inputs=torch.full((1, 2, 5, 5), 0.3)), torch.zeros(1, 5, 5))
    ramp = 0.7 * torch.arange(9.0)[None, None, None].expand(1, 1, 6, 9)
    close(methods.sobel_edges(ramp, inputs=ramp)[..., 1:-1], torch.full((1, 6, 7), 0.7), 1e-6)
    x = normal(1, 3, 7, 7)
    close(methods.sobel_edges(x, inputs=x.mT), methods.sobel_edges(x, inputs=x).mT)


def test_neither_the_network_nor_the_class_matters() -> None:
    one, other, x = seeded(Net), seeded(lambda: Net(8)), images(2, 3, 8, 8)
    maps = [explainer(methods.sobel_edges, net, "blocks.0")(x, k) for net in (one, other) for k in (0, 3)]
    assert all(torch.equal(maps[0], each) for each in maps)
    assert maps[0].shape == (2, 8, 8)


def test_what_does_not_fit_is_refused() -> None:
    for wrong in (torch.ones(2, 3), torch.ones(2, 3, 0), torch.ones(1, 1, 2, 2, 2, 2)):
        with pytest.raises(CamfnError, match="sobel_edges"):
            methods.sobel_edges(wrong, inputs=wrong)
