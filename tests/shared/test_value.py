"""Values compare by what they hold, print like their call, and are pytrees if asked."""

import copy
import pickle
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn._shared.value import Value


@dataclass(frozen=True, eq=False, repr=False)
class Scale(Value, tree=True):
    by: Any
    _: KW_ONLY
    offset: float = 0.0
    name: Any = None

    def __call__(self, x: Tensor) -> Tensor:
        return torch.add(x * self.by, self.offset)


def test_equality_is_by_value() -> None:
    assert Scale(torch.ones(3)) == Scale(torch.ones(3))
    assert hash(Scale(torch.ones(3))) == hash(Scale(torch.ones(3)))
    assert Scale(torch.ones(3)) != Scale(torch.zeros(3))
    assert Scale(1, name=partial(max, key=[1])) == Scale(1, name=partial(max, key=[1]))
    assert hash(Scale(1, name=partial(max, key=[1]))) == hash(Scale(1, name=partial(max, key=[1])))
    assert Scale(1) != Scale(1.0)
    assert Scale(1) != 1
    one, other = nn.Linear(1, 1), nn.Linear(1, 1)
    assert Scale(one) == Scale(one) != Scale(other)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Scale(3), "Scale(3)"),
        (Scale(nn.Linear(1, 1), offset=2.0), "Scale(Linear, offset=2.0)"),
        (Scale(partial(max, 3, key=len)), "Scale(partial(max, 3, key=len))"),
        (Scale((torch.ones(9),), name=[int]), "Scale((<tensor (9,)>,), name=[int])"),
    ],
)
def test_the_text_reads_like_the_call(value: Scale, text: str) -> None:
    assert repr(value) == text


def test_copies_are_equal() -> None:
    value = Scale(torch.arange(3.0), offset=1.0, name=("a", 2))
    assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == copy.copy(value) == replace(value) == value
    assert replace(value, offset=2.0) != value


def test_vmap_goes_over_the_tensors_of_a_value() -> None:
    scales = Scale(torch.arange(3.0), offset=1.0)
    got = torch.vmap(lambda scale, x: scale(x), in_dims=(0, None))(scales, torch.ones(2))
    torch.testing.assert_close(got, torch.tensor([[1.0, 1], [2, 2], [3, 3]]))
