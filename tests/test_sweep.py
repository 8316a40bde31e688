"""Every torchvision model, a member of each family of timm, and Hugging Face architectures, held to docs/coverage.md.

Weights are random, with a seed; images are small where the network allows. The quick half runs in `make test`, all of
it in `make test-all`.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.coverage import COLUMNS, PAGE, check
from tests.nets.zoo import SWEEP, Member

QUICK = {
    "resnet18", "densenet121", "googlenet", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5",
    "squeezenet1_1", "efficientnet_b0", "regnet_y_400mf", "alexnet", "dla34", "mobileone_s0", "fastvit_t8", "test_vit",
    "test_coatnet", "ViT", "Swin", "Segformer",
}  # fmt: skip


def recorded() -> dict[str, dict[str, str]]:
    """The table of the page, by name."""
    rows = re.findall(r"^\| (\w+:\w+) \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: dict(zip(COLUMNS, cells.split(" | "), strict=True)) for name, cells in rows}


def cases() -> list[Any]:
    return [
        pytest.param(member, id=str(member), marks=[] if member.name in QUICK else [pytest.mark.sweep])
        for member in SWEEP
    ]


@pytest.mark.filterwarnings("ignore")  # the libraries' own, of networks that are no longer kept up
@pytest.mark.parametrize("member", cases())
def test_does_what_the_page_says(member: Member) -> None:
    # over 5 s for one or two members: a network of real size, its layers, layouts and a map
    found = check(member)
    assert {column: found[column] for column in COLUMNS} == recorded()[str(member)]


def test_the_page_is_in_step_with_the_families() -> None:
    assert list(recorded()) == [str(member) for member in SWEEP]
