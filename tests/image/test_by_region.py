"""Maps by regions: a loop over regions, XRAI's greedy order, what is refused; superpixels."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor

from camfn import CamfnError, image
from tests.nets.small import images


def greedy(values: Tensor, masks: Tensor, how: str) -> Tensor:
    """XRAI of one map (*S) over masks (n, *S), a pixel at a time."""
    flat, inside = values.double().flatten().tolist(), masks.flatten(1).tolist()
    free, left, out = set(range(len(flat))), set(range(len(inside))), [0.0] * len(flat)

    def worth(pixels: list[int]) -> float:
        total = math.fsum(flat[p] for p in pixels)
        return total / len(pixels) if how == "mean" and pixels else total

    while left:
        news = {i: [p for p in free if inside[i][p]] for i in left}
        news = {i: pixels for i, pixels in news.items() if pixels}
        if not news:
            break
        best = max(news, key=lambda i: (worth(news[i]), -i))
        for p in news[best]:
            out[p] = worth(news[best])
        free -= set(news[best])
        left.remove(best)
    for p in free:
        out[p] = worth(sorted(free))
    return torch.tensor(out, dtype=torch.float64).reshape(values.shape)


@pytest.mark.parametrize("how", ["mean", "sum"])
@pytest.mark.parametrize("size", [(9,), (5, 4), (3, 4, 2)], ids=str)
def test_masks_that_overlap_are_taken_greedily(size: tuple[int, ...], how: str) -> None:
    values = images(2, *size, dtype=torch.float64)
    masks = images(4, 2, *size, seed=1) > 0.3
    found = image.by_region(values, masks, how=how)  # type: ignore[arg-type]
    for b in range(2):
        torch.testing.assert_close(found[b], greedy(values[b], masks[:, b], how))
    shared = image.by_region(values, masks[:, 0], how=how)  # type: ignore[arg-type]
    torch.testing.assert_close(shared[1], greedy(values[1], masks[:, 0], how))


def test_labels_give_each_region_its_mean_and_keep_the_sum() -> None:
    values = images(2, 6, 7, dtype=torch.float64)
    labels = torch.arange(42).reshape(6, 7) % 5
    found = image.by_region(values, labels)
    for name in range(5):
        expected = values[:, labels == name].mean(1, keepdim=True)
        torch.testing.assert_close(found[:, labels == name], expected.expand(2, int((labels == name).sum())))
    torch.testing.assert_close(found.sum((1, 2)), values.sum((1, 2)))
    torch.testing.assert_close(image.by_region(found, labels), found)
    torch.testing.assert_close(image.by_region(3 * values, labels[None] * 9 - 4), 3 * found)


def test_one_region_is_the_mean_and_a_region_a_pixel_is_the_map() -> None:
    values = images(2, 3, 4)
    whole = image.by_region(values, torch.zeros(3, 4, dtype=torch.long))
    torch.testing.assert_close(whole, values.mean((1, 2), keepdim=True).expand(2, 3, 4))
    torch.testing.assert_close(image.by_region(values, torch.arange(12).reshape(3, 4)), values)
    assert image.by_region(values.bfloat16(), torch.arange(12).reshape(3, 4)).dtype == torch.bfloat16


def test_vmap_over_maps_is_the_loop() -> None:
    values, masks = images(3, 2, 5, 4), images(4, 5, 4, seed=1) > 0
    each = torch.vmap(lambda one: image.by_region(one, masks))(values)
    torch.testing.assert_close(each, torch.stack([image.by_region(one, masks) for one in values]))


def test_wrong_arguments_are_refused() -> None:
    values = images(2, 3, 4)
    with pytest.raises(CamfnError, match=r"by_region: regions: .* \(3, 4\).*got torch.int64 of \(4, 3\)"):
        image.by_region(values, torch.zeros(4, 3, dtype=torch.long))
    with pytest.raises(CamfnError, match="how: expected 'mean' or 'sum', got 'median'"):
        image.by_region(values, torch.zeros(3, 4, dtype=torch.long), how="median")  # type: ignore[arg-type]
    with pytest.raises(CamfnError, match="regions: expected masks without NaN"):
        image.by_region(values, torch.full((2, 3, 4), torch.nan))
    with pytest.raises(CamfnError, match="NaN"):
        image.by_region(values / 0, torch.zeros(3, 4, dtype=torch.long))


def test_superpixels_keep_to_edges() -> None:
    photo = torch.zeros(3, 40, 60)
    photo[0, :, 30:] = 1
    labels = image.superpixels(photo, count=12)
    assert labels.shape == (40, 60)
    assert labels.dtype == torch.int64
    assert not set(labels[:, :30].unique().tolist()) & set(labels[:, 30:].unique().tolist())  # type: ignore[no-untyped-call]
    assert int(labels.min()) == 0
    assert 6 <= int(labels.max()) < 24
    both = image.superpixels(torch.stack([photo, photo.flip(0)]), count=12)
    assert torch.equal(both[0], labels)
    assert torch.equal(image.superpixels((255 * photo).to(torch.uint8), count=12), labels)


def test_superpixels_without_scikit_image_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(CamfnError, match=r"superpixels needs scikit-image: pip install 'camfn\[demo\]'"):
        image.superpixels(torch.zeros(3, 8, 8))


def test_photos_out_of_range_are_refused() -> None:
    with pytest.raises(CamfnError, match="superpixels: photo"):
        image.superpixels(torch.full((3, 8, 8), 2.0))
    with pytest.raises(CamfnError, match="count: expected a whole number from 1"):
        image.superpixels(torch.zeros(3, 8, 8), count=0)
