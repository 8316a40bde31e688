"""FunnyBirds' measures on scenes whose network is known."""

from __future__ import annotations

import torch
from torch import Tensor

from camfn.evaluate._suite.parts import part_measures

LABELS = torch.tensor([3, 1, 7, 5])
MASKS = torch.zeros(4, 8, 8, dtype=torch.bool)
for k in range(4):
    MASKS[k, 4 * (k // 2) : 4 * (k // 2) + 4, 4 * (k % 2) : 4 * (k % 2) + 4] = True


def outputs() -> Tensor:
    """A network that says of each digit whether it is there, 4 or -4, and is moved by no other."""
    found = torch.full((16, 10), -4.0)
    for gone in range(16):
        for i, label in enumerate(LABELS.tolist()):
            found[gone, label] = -4.0 if gone >> i & 1 else 4.0
    return found


def test_the_truth_is_complete_and_contrastive() -> None:
    found = part_measures(MASKS[:2].float(), outputs(), LABELS, MASKS)
    assert found["completeness"].tolist() == [1, 1]
    assert found["contrastivity"].tolist() == [1, 1]
    assert (found["correctness"] == 1).all(), "one part has all of the map, and all of the drop"


def test_a_map_of_all_digits_is_distracted() -> None:
    """All four are important: the class is named, stays and goes, so that the first half is 1; D is 0."""
    found = part_measures(MASKS.any(0).float().expand(2, -1, -1), outputs(), LABELS, MASKS)
    assert found["completeness"].tolist() == [0.5, 0.5]
    assert found["contrastivity"].tolist() == [0.5, 0.5]


def test_a_map_on_other_digits_is_wrong_in_all() -> None:
    """CSDC 0, PC 0, DC 0; of the three digits that do not matter it names one, so that D is 2/3."""
    found = part_measures(MASKS[[2, 3]].float(), outputs(), LABELS, MASKS)
    torch.testing.assert_close(found["completeness"], torch.full((2,), 1 / 3, dtype=torch.float64))
    assert found["contrastivity"].tolist() == [0.5, 0.5]
    swapped = part_measures(MASKS[[1, 0]].float(), outputs(), LABELS, MASKS)
    assert swapped["contrastivity"].tolist() == [0, 0]


def test_a_blank_map_names_nothing() -> None:
    """CSDC 0, PC 0 (all digits go), DC 0; nothing distracts it."""
    found = part_measures(torch.zeros(2, 8, 8), outputs(), LABELS, MASKS)
    assert found["completeness"].tolist() == [0.5, 0.5]
