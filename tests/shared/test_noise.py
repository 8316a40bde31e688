"""One source of random numbers: a generator or a tensor, never both, never neither, never global state."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from camfn._shared.noise import draw_normal, draw_uniform, one_source


def test_the_source_that_is_given_is_returned() -> None:
    generator, noise = torch.Generator(), torch.ones(2)
    assert one_source("smooth", generator, None) is generator
    assert one_source("smooth", None, noise) is noise


def test_both_and_neither_are_refused_with_a_call_that_works() -> None:
    with pytest.raises(ValueError, match=r"one of generator and masks, got neither\. .*partial\(rise, gen"):
        one_source("rise", None, None, name="masks")
    with pytest.raises(ValueError, match=r"got both\. For example smooth\(explain, 25, generator=torch\.Gen"):
        one_source("smooth", torch.Generator(), torch.ones(2), arguments="explain, 25")


@pytest.mark.parametrize("draw", [draw_normal, draw_uniform])
def test_draws_follow_the_generator_alone(draw: Callable[..., Tensor]) -> None:
    state = torch.get_rng_state()
    first, second = (draw((3, 2), torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert torch.equal(first, draw((3, 2), torch.Generator().manual_seed(0)))
    assert not torch.equal(first, second)
    assert first.dtype == torch.float32
    assert torch.equal(state, torch.get_rng_state())
