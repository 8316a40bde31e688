"""The networks of docs/coverage.md, held to the page: torchvision, timm, transformers, what `camfn[sweep]` installs.

Weights are random, with a seed; images are small where the network allows. The quick half runs in `make test`, all of
it in `make test-all`.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.coverage import COLUMNS, NETWORKS, PAGE, check, part_of, right
from tests.nets.made import Made
from tests.nets.zoo import Member

QUICK = {
    "resnet18", "densenet121", "googlenet", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5",
    "squeezenet1_1", "efficientnet_b0", "regnet_y_400mf", "alexnet", "dla34", "mobileone_s0", "fastvit_t8", "test_vit",
    "test_coatnet", "ViT", "Swin", "Segformer",
}  # fmt: skip


def written() -> dict[str, dict[str, Any]]:
    """The rows of the page, by network."""
    rows: dict[str, dict[str, Any]] = {}
    package = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        package = line[3:] if line.startswith("## ") else package
        cells = line.strip("| ").split(" | ")
        if package and len(cells) == 1 + len(COLUMNS) and cells[0] not in ("network", "---"):
            name = f"{package}:{cells[0]}"
            rows[name] = {"name": name} | dict(zip(COLUMNS, cells[1:], strict=True))
    return rows


ON_PAGE = written()


def cases() -> list[Any]:
    return [
        pytest.param(network, id=str(network), marks=[] if network.name in QUICK else [pytest.mark.sweep])
        for network in NETWORKS
        if str(network) in ON_PAGE
    ]


@pytest.mark.filterwarnings("ignore")  # the libraries' own, of networks that are no longer kept up
@pytest.mark.parametrize("network", cases())
def test_does_what_the_page_says(network: Member | Made) -> None:
    # over 5 s for one or two networks: of real size, their layers, layouts and a map
    pytest.importorskip(network.package)
    found = check(network)
    page = ON_PAGE[str(network)]
    assert {column: found[column].replace("|", "/") for column in COLUMNS} == {c: page[c] for c in COLUMNS}


def test_every_row_of_the_page_is_of_a_network_and_is_right_or_refused() -> None:
    assert set(ON_PAGE) <= set(map(str, NETWORKS))
    assert [name for name, row in ON_PAGE.items() if not right(row)] == []


def test_the_networks_have_names_of_their_own_and_come_in_parts() -> None:
    assert len(set(map(str, NETWORKS))) == len(NETWORKS) > 400
    parts = [part_of(NETWORKS, f"{i}/7") for i in range(1, 8)]
    assert sorted(str(network) for part in parts for network in part) == sorted(map(str, NETWORKS))
    assert {len(part) for part in parts} <= {len(NETWORKS) // 7, len(NETWORKS) // 7 + 1}
