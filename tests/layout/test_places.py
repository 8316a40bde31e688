"""Whether the places of a map see their own parts of the image, on networks whose tokens are places or are none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from camfn._cut.parts import spread
from camfn._cut.places import places_seen
from camfn._cut.trial import Laid
from camfn.layout import tokens
from tests.nets.small import images, seeded


class Patches(nn.Module):
    """A vision transformer of two blocks, and an attentional pool of as many queries as patches."""

    def __init__(self, prefix: int = 1, cut: bool = False) -> None:
        super().__init__()
        self.embed, self.cls_token = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, prefix, 16))
        block = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
        self.blocks = nn.ModuleList([block, nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)])
        self.queries, self.pool = nn.Parameter(torch.randn(1, 24, 16)), nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm, self.position, self.head = nn.LayerNorm(16), Position(24), nn.Linear(16, 5)
        self.cut = cut

    def forward(self, image: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.cut and torch.is_grad_enabled()):
            x = self.embed(image).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x + self.position(x)], 1)
        for block in self.blocks:
            x = block(x)
        queries = self.queries.expand(len(x), -1, -1)
        y: Tensor = self.head(self.norm(queries + self.pool(queries, x, x)[0]).mean(1) + x[:, 0])
        return y


class Position(nn.Module):
    """Numbers that do not depend on the image."""

    def __init__(self, places: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(places, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.table.expand(len(x), -1, -1) * 1.0


def size(batch: int = 2) -> Tensor:
    return images(batch, 3, 16, 24)


def test_the_share_of_the_places() -> None:
    model, x = seeded(Patches), size()
    laid = {"blocks.0": [Laid(tokens((4, 6))), Laid(tokens((4, 6), prefix=0, suffix=1)), Laid(tokens((1, 24)))]}
    right, shifted, _ = places_seen(model, laid, x, [x])["blocks.0"]
    assert right is not None
    assert shifted is not None
    assert right[:3] == (4, 4, True)
    (one_by_one, *_) = places_seen(model, laid, x, [x], thorough=True)["blocks.0"]
    assert one_by_one is not None
    assert one_by_one[:3] == (6, 6, True)
    assert right.clearer_than(shifted)
    assert right.right
    assert not shifted.right
    assert shifted.depends


def test_a_run_ends_at_the_last_layer_whose_places_are_in_question(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = seeded(Patches), size()
    calls: list[Position] = []
    forward = Position.forward

    def counted(self: Position, x: Tensor) -> Tensor:
        calls.append(self)
        return forward(self, x)

    monkeypatch.setattr(Position, "forward", counted)
    laid = {"embed": [Laid(None)], "blocks.0": [Laid(tokens((2, 12)))]}
    places_seen(model, laid, x, [x], thorough=True)
    assert len(calls) == 7  # the first run, and six for the tokens; none of the six for the convolution
    places_seen(model, {"embed": [Laid(None)]}, x, [x])
    assert len(calls) == 7
    places_seen(model, {"blocks.0": [Laid(tokens((4, 6)))]}, x, [x])
    assert len(calls) == 9  # the first run, and one for four places


def test_random_numbers_are_the_users() -> None:
    """A network that draws, in training mode."""
    model, x = seeded(Patches).train(), size()
    torch.manual_seed(3)
    (places,) = places_seen(model, {"blocks.1": [Laid(tokens((4, 6)))]}, x, [x])["blocks.1"]
    assert places is not None
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(3))
    assert model.training


@pytest.mark.parametrize("grid", [(1,), (5,), (2, 2), (14, 14), (1, 30), (3, 4, 5)])
def test_places_are_spread(grid: tuple[int, ...]) -> None:
    places = spread(grid, 6)
    assert len(set(places)) == len(places) == min(6, torch.Size(grid).numel())
    assert all(0 <= i < n for place in places for i, n in zip(place, grid))
