"""Scattered and packed tokens: where each place stands, what is kept, and that of other sizes is refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any, cast

import pytest
import torch

from camfn import CamfnError
from camfn.layout import packed, spans, tokens
from tests.nets.small import images


def test_spans_with_one_range_are_tokens() -> None:
    raw = images(2, 20, 4)
    for layout, same in ((spans(range(1, 16), (3, 5)), tokens((3, 5), suffix=4)),):
        assert torch.equal(layout.to_map(raw), same.to_map(raw))
        cam = images(2, 4, 3, 5, seed=1)
        assert torch.equal(layout.from_map(cam, raw), same.from_map(cam, raw))


def test_spans_in_any_order() -> None:
    order = [7, 3, 0, 5, 4, 1]
    layout, raw = spans(order, (2, 3)), images(2, 9, 4)
    assert torch.equal(layout.to_map(raw).flatten(2).mT, raw[:, order])
    back = layout.from_map(torch.zeros(2, 4, 2, 3), raw)
    assert torch.equal(back[:, [2, 6, 8]], raw[:, [2, 6, 8]])
    assert not back[:, order].any()
    assert layout.to_map(raw[0]).shape == (1, 4, 2, 3)


def test_equal_positions_are_equal_values() -> None:
    one, other = spans([*range(98), *range(99, 197)], (14, 14)), spans([range(98), range(99, 197)], [14, 14])
    assert one == other
    assert hash(one) == hash(other)
    assert len(repr(one)) < 80
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == eval(repr(one))
    assert one != spans([range(1, 99), range(100, 198)], (14, 14))


def by_hand(t: int, h: int, w: int, merge: int) -> torch.Tensor:
    """The order of patches in Qwen-VL's processor: transposed so that the blocks follow each other."""
    grid = torch.arange(t * h * w).reshape(t, h // merge, merge, w // merge, merge)
    return grid.permute(0, 1, 3, 2, 4).flatten()


@pytest.mark.parametrize("size", [(1, 4, 6), (2, 4, 4), (1, 2, 2)])
def test_blocks_as_the_processor_makes_them(size: tuple[int, int, int]) -> None:
    raw = by_hand(*size, 2)[:, None].float()
    cam = packed([size], 2).to_map(raw)
    assert torch.equal(cam.flatten(), torch.arange(float(len(raw))))
    assert cam.shape == (1, 1, *(size if size[0] > 1 else size[1:]))


def test_several_images() -> None:
    raw = images(24 + 16, 3)
    one = packed([(1, 4, 6), (1, 4, 4)], 2, image=1)
    assert torch.equal(one.to_map(raw), packed([(1, 4, 4)], 2).to_map(raw[24:]))
    back = one.from_map(torch.zeros(1, 3, 4, 4), raw)
    assert torch.equal(back[:24], raw[:24])
    assert not back[24:].any()
    both = packed(torch.tensor([[1, 4, 6], [1, 4, 6]]), 2)
    raw = images(1, 48, 3)
    assert torch.equal(both.to_map(raw)[1:], packed([1, 4, 6], 2).to_map(raw[:, 24:]))
    assert torch.equal(both.from_map(both.to_map(raw), raw), raw)
    changed = images(2, 3, 4, 6, seed=4)
    assert torch.equal(both.to_map(both.from_map(changed, raw)), changed)


def test_windows_permute_the_blocks() -> None:
    """As Qwen2.5-VL does: hidden states in groups of merge**2, taken by the index of windows."""
    plain, index = images(24, 3), [2, 0, 5, 1, 4, 3]
    permuted = plain.reshape(6, 4, 3)[index].reshape(24, 3)
    layout = packed([(1, 4, 6)], 2, order=index)
    assert torch.equal(layout.to_map(permuted), packed([(1, 4, 6)], 2).to_map(plain))
    assert torch.equal(layout.from_map(layout.to_map(permuted), permuted), permuted)
    merged = images(6, 3)
    assert torch.equal(layout.to_map(merged[index]), packed([(1, 4, 6)], 2, order="merged").to_map(merged))


def test_rows() -> None:
    raw = torch.arange(24.0)[:, None]
    assert torch.equal(packed([(1, 4, 6)], 2, order="rows").to_map(raw).flatten(), raw.flatten())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: spans([0, 1], (1, 3)), "as many positions as the grid"),
        (lambda: spans([0, 0], (1, 2)), "each position once"),
        (lambda: spans(cast(Any, [0.5]), (1,)), "expected a whole number"),
        (lambda: spans(cast(Any, 3), (1,)), "expected a list of whole numbers"),
        (lambda: spans([0, 9], (2,)).to_map(images(1, 4, 2)), "positions up to 9"),
        (lambda: packed([(1, 4, 6), (1, 4, 4)]), "say which to map, image=0 to image=1"),
        (lambda: packed([(1, 3, 4)], 2), "multiples of merge=2"),
        (lambda: packed([(1, 4, 4)], order="cols"), "expected one of"),
        (lambda: packed([(1, 4, 4)], order=[0, 0]), "each index once"),
        (lambda: packed([(1, 4, 4)], 2, order=[1, 0]).to_map(images(16, 2)), "the indices of 4 blocks, got 2"),
        (lambda: packed([(1, 4, 4)], image=1), "out of range"),
        (lambda: packed([(1, 4)]), "expected 3 whole numbers"),
        (lambda: packed(cast(Any, "1, 4")), "grid_thw: expected"),
        (lambda: packed([(1, 4, 4)], 2).to_map(images(4, 2)), "stands for 16 tokens; the layer gives 4"),
        (lambda: packed([(1, 4, 4)]).to_map(images(2, 16, 2)), r"stands for \(N, C\) or \(1, N, C\)"),
    ],
)
def test_what_does_not_fit_is_refused(make: Any, words: str) -> None:
    with pytest.raises(CamfnError, match=words):
        make()


@pytest.mark.parametrize("layout", [spans([2, 0, 1, 4], (2, 2)), packed([(1, 2, 3)], order="rows")])
def test_in_compiled_code(layout: Any) -> None:
    raw = images(6, 3)
    there = torch.compile(lambda x: layout.from_map(layout.to_map(x) * 2, x), backend="eager", fullgraph=True)
    assert torch.equal(there(raw), layout.from_map(layout.to_map(raw) * 2, raw))
