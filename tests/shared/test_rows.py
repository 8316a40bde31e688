"""Rows in chunks: any chunk gives the same, budgets are kept, and several batches at once are one after the other."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import explainer, resume
from camfn._layout.pairs import channels_last
from camfn._shared import chunks as _chunks
from camfn._shared import memory as _memory
from camfn._shared.rows import run_in_chunks, score_variants
from camfn.methods import ablation_cam, lift_cam, score_cam
from camfn.metrics import max_sensitivity
from tests.nets.small import Net, images, seeded, unchanged
from tests.shared.rules import sums_of_at_most

ROWS = images(7, 3, 5)
CHUNKS: list[Any] = [None, 1, 2, 3, 7, 100, "auto"]
every_chunk = pytest.mark.parametrize("chunk_size", CHUNKS)


def wave(row: Tensor) -> Tensor:
    return (row.sin() @ row.T).sum(1)


def loop(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    return torch.stack([function(row) for row in rows])


class Told:
    """What a progress hook was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.calls.append((done, total))

    @property
    def chunks(self) -> list[int]:
        done = [0, *(done for done, _ in self.calls)]
        return [later - earlier for earlier, later in pairwise(done)]


# ----------------------------------------------------------------------------------------------------------- chunks


@every_chunk
def test_every_chunk_gives_what_the_loop_gives(chunk_size: Any) -> None:
    told = Told()
    torch.testing.assert_close(run_in_chunks(wave, ROWS, chunk_size=chunk_size, progress=told), loop(wave, ROWS))
    assert told.calls[-1] == (7, 7)
    assert all(total == 7 for _, total in told.calls)
    if chunk_size != "auto":
        # two rows are tried, and five are left
        size = min(chunk_size or 5, 5)
        assert told.chunks == [2] + [size] * (5 // size) + [5 % size] * (5 % size > 0)


@pytest.mark.parametrize("chunk_size", [0, -1, True, 2.0, "all"])
def test_a_chunk_that_is_none_is_refused(chunk_size: Any) -> None:
    with pytest.raises(ValueError, match=r"chunk_size: expected a number of rows from 1, None for all, or 'auto', got"):
        run_in_chunks(wave, ROWS, chunk_size=chunk_size)


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        run_in_chunks(wave, ROWS[:0])


@every_chunk
def test_under_vmap(chunk_size: Any) -> None:
    stack = torch.stack([ROWS, ROWS + 1])
    together = torch.vmap(lambda rows: run_in_chunks(wave, rows, chunk_size=chunk_size))(stack)
    torch.testing.assert_close(together, torch.stack([loop(wave, rows) for rows in stack]))


@pytest.mark.parametrize("chunk_size", [None, 3, "auto"])
def test_compiles_whole(chunk_size: Any) -> None:
    torch._dynamo.reset()
    run = torch.compile(
        lambda rows: run_in_chunks(wave, rows, chunk_size=chunk_size), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(run(ROWS), loop(wave, ROWS))


@pytest.mark.parametrize("chunk_size", [None, 3, "auto"])
def test_derivatives_go_through(chunk_size: Any) -> None:
    rows = ROWS.clone().requires_grad_()
    (found,) = torch.autograd.grad(run_in_chunks(wave, rows, chunk_size=chunk_size).sum(), rows)
    (expected,) = torch.autograd.grad(loop(wave, rows).sum(), rows)
    torch.testing.assert_close(found, expected)


# ---------------------------------------------------------------------------------------------------------- budgets


def doubled(row: Tensor) -> Tensor:
    """Two tensors of the row's size are alive at once."""
    return ((row + 1) * 2).sum()[None]


@pytest.mark.parametrize(("free", "largest"), [(4 * 80_000, 10**9), (10**12, 40_000)])
def test_auto_takes_as_many_rows_as_fit(monkeypatch: pytest.MonkeyPatch, free: int, largest: int) -> None:
    rows, told = torch.ones(50, 1000), Told()
    monkeypatch.setattr(_chunks, "free_bytes", lambda device: free)
    monkeypatch.setattr(_chunks, "_LARGEST", largest)
    torch.testing.assert_close(run_in_chunks(doubled, rows, progress=told), torch.full((50, 1), 4000.0))
    assert told.chunks[0] == 2
    assert told.chunks[1] in (9, 10)


def test_auto_never_takes_less_than_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    monkeypatch.setattr(_chunks, "free_bytes", lambda device: 1)
    run_in_chunks(wave, ROWS, progress=told)
    assert told.chunks == [2, 1, 1, 1, 1, 1]


def test_what_is_alive_at_once_is_counted_and_no_view_of_what_was_there() -> None:
    given = torch.ones(1000)
    with _memory.Allocated() as allocated:
        kept = given.reshape(10, 100).T + 1
        kept.mul_(2)
        assert (allocated.live, allocated.peak) == (4000, 4000)
        other = kept * 2
        assert (allocated.live, allocated.peak) == (8000, 8000)
        del other
        assert (allocated.live, allocated.peak, allocated.largest) == (4000, 8000, 4000)


def test_some_memory_is_free() -> None:
    assert _memory.free_bytes(torch.device("cpu")) > 0
    assert _memory.free_bytes(torch.device("meta")) > 0


# ---------------------------------------------------------------------------------------------------- out of memory


def test_running_out_of_memory_halves_the_chunk_and_says_so_once() -> None:
    rows, told = images(20, 2, 3), Told()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = run_in_chunks(sums_of_at_most(3), rows, chunk_size=16, progress=told)
    torch.testing.assert_close(found, rows.sum(-1))
    assert told.chunks == [2] * 10
    assert [str(warning.message) for warning in caught] == ["out of memory: going on with 8 rows at once"]


def test_one_row_that_does_not_fit_is_an_error() -> None:
    for chunk_size in (1, "auto"):
        with pytest.raises(torch.OutOfMemoryError, match="1 rows"):
            run_in_chunks(sums_of_at_most(0), images(4, 2, 3), chunk_size=chunk_size)


# ---------------------------------------------------------------------------------------------------------- folding


class Foldable:
    """Scores that note in which way they were run."""

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        self.run, self.folded = run, 0

    def __call__(self, x: Tensor) -> Tensor:
        return self.run(x)

    def score_many(self, batches: Tensor) -> Tensor:
        self.folded = max(self.folded, batches.shape[0])
        return self.run(batches.flatten(0, 1)).reshape(batches.shape[:2])


def mixing(x: Tensor) -> Tensor:
    return (x - x.mean(0)).square().sum(1)


def fixed(x: Tensor) -> Tensor:
    return x.reshape(2, 5).square().sum(1)


@pytest.mark.parametrize(
    ("run", "folds"),
    [(lambda x: x.sin().sum(1), True), (mixing, False), (fixed, False)],
    ids=["each", "mixed", "fixed"],
)
@every_chunk
def test_folded_where_that_is_the_same(run: Callable[[Tensor], Tensor], folds: bool, chunk_size: Any) -> None:
    x, rows = images(2, 5), images(7, 5)
    scores = Foldable(run)
    found = score_variants("scores", scores, lambda row: x * row, rows, chunk_size=chunk_size)
    torch.testing.assert_close(found, loop(lambda row: run(x * row), rows))
    # the trial takes four batches, or as many as a chunk has; a measured row, and the others, with one more beside them
    tried = {1: 1, 2: 2, 3: 2}.get(chunk_size, 4)
    expected = {"auto": 7, None: 8}.get(chunk_size, chunk_size)
    assert scores.folded == (max(tried, min(expected, 8)) if folds and chunk_size != 1 else tried)


def test_not_folded_where_data_cannot_be_read() -> None:
    x, rows = images(3, 2, 5), images(7, 5)
    scores = Foldable(lambda x: x.sin().sum(1))
    found = torch.vmap(lambda x: score_variants("scores", scores, lambda row: x * row, rows))(x)
    assert not scores.folded
    torch.testing.assert_close(found, torch.stack([(x * row).sin().sum(2) for row in rows], 1))


def test_scores_of_another_shape_are_refused() -> None:
    x = images(2, 5)
    for scores in (Foldable(lambda x: x), lambda x: x):
        with pytest.raises(ValueError, match=r"scores must return one score a sample, shape \(2,\); it returned"):
            score_variants("scores", scores, lambda row: x * row, images(7, 5))


def test_one_batch_that_does_not_fit_is_an_error() -> None:
    class Full(Foldable):
        def __call__(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError, match="full"):
        score_variants("scores", Full(lambda x: x.sum(1)), lambda row: images(2, 5) * row, images(7, 5))


# ------------------------------------------------------------------------------------- the network, n batches as one


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("layer", ["stem.0", "stem", "blocks.0.conv", "blocks.0.bn", "blocks.1.conv", "blocks.1"])
def test_a_tail_takes_several_batches(layer: str, batch: int) -> None:
    net = seeded(Net, dtype=torch.float64)
    x = images(batch, 3, 8, 6, dtype=torch.float64)
    with torch.no_grad():
        tail = resume(net, layer)(x)
        kept: list[Tensor] = []
        handle = net.get_submodule(layer).register_forward_hook(lambda *call: kept.append(call[2].clone()))
        net(x)
        handle.remove()
        rows = [kept[0], kept[0] * 0.5, kept[0].flip(1)]
        expected = [tail(row) for row in rows]
        with unchanged(net):
            torch.testing.assert_close(tail(torch.cat(rows)), torch.cat(expected))
        torch.testing.assert_close(torch.vmap(tail)(torch.stack(rows)), torch.stack(expected))


class Reading(nn.Module):
    """Channels last, a branch past the cut, and a batch size read from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.stem(x)
        tokens = self.body(maps.movedim(1, -1)).relu()
        pooled = tokens.reshape(x.shape[0], -1, 4).mean(1)
        logits: Tensor = self.head(torch.cat([pooled, maps.mean((2, 3))], 1)[:, 2:6]).tanh()
        return logits


@pytest.mark.parametrize("batch", [1, 2])
def test_a_tail_with_a_layout_takes_several_batches(batch: int) -> None:
    net = seeded(Reading)
    x = images(batch, 3, 6, 5)
    tail = resume(net, "body", layout=channels_last())(x)
    rows = [images(batch, 4, 4, 3, seed=seed) for seed in range(3)]
    with torch.no_grad():
        torch.testing.assert_close(tail(torch.cat(rows)), torch.cat([tail(row) for row in rows]))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("layer", ["stem.0", "blocks.0.conv", "blocks.1.conv", "blocks.1"])
@pytest.mark.parametrize("method", [ablation_cam, score_cam])
def test_folded_rows_are_the_vmapped_ones(method: Callable[..., Tensor], layer: str, batch: int) -> None:
    net = seeded(Net, dtype=torch.float64)
    x = images(batch, 3, 8, 6, dtype=torch.float64)
    seen: list[int] = []

    def spied(activations: Tensor, *, tail: Any, forward: Any, inputs: Any) -> Tensor:
        key, network = ("tail", tail) if method is ablation_cam else ("forward", forward)
        rest = {} if method is ablation_cam else {"inputs": inputs}

        class Noted(Foldable):
            def score_many(self, batches: Tensor) -> Tensor:
                seen.append(batches.shape[0])
                return torch.as_tensor(network.score_many(batches))

        noted = Noted(network)
        folded = method(activations, **{key: noted}, **rest)
        plain = method(activations, **{key: lambda a: network(a)}, **rest)
        torch.testing.assert_close(folded, plain)
        return folded

    classes = list(range(batch))
    with unchanged(net):
        explainer(spied, net, layer)(x, classes)
    # behind the last block all is affine: nothing is ablated
    assert max(seen) > 2 if seen else (method, layer) == (ablation_cam, "blocks.1")


def test_a_network_in_training_is_not_folded() -> None:
    net = seeded(Net)
    net.train()

    def method(activations: Tensor, *, tail: Any, forward: Any) -> Tensor:
        assert not hasattr(tail, "score_many")
        assert not hasattr(forward, "score_many")
        return activations.sum(1)

    explainer(method, net, "stem")(images(2, 3, 8, 6), 1)


def test_one_module_in_training_is_enough() -> None:
    net = seeded(Net)
    net.get_submodule("blocks.1.bn").train()

    def method(activations: Tensor, *, tail: Any) -> Tensor:
        assert not hasattr(tail, "score_many")
        return activations.sum(1)

    explainer(method, net, "stem")(images(2, 3, 8, 6), 1)


@pytest.mark.parametrize("method", [ablation_cam, score_cam])
def test_an_interrupt_leaves_the_model_as_it_was(method: Callable[..., Tensor]) -> None:
    net = seeded(Net)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    explain = explainer(method, net, "blocks.0", chunk_size=2, progress=interrupt)
    with unchanged(net), pytest.raises(KeyboardInterrupt):
        explain(images(2, 3, 8, 6), 1)
    again = explainer(method, net, "blocks.0", chunk_size=2)
    torch.testing.assert_close(again(images(2, 3, 8, 6), 1), explainer(method, net, "blocks.0")(images(2, 3, 8, 6), 1))


def test_explainer_binds_chunk_and_progress() -> None:
    told = Told()
    explainer(score_cam, seeded(Net), "blocks.0", chunk_size="auto", progress=told)(images(2, 3, 8, 6), 1)
    assert told.calls[-1] == (6, 6)
    told = Told()
    explainer(score_cam, seeded(Net), "blocks.0", chunk_size=4, progress=told)(images(2, 3, 8, 6), 1)
    assert told.calls == [(3, 6), (6, 6)]  # three rows, and one beside them


def test_a_score_says_how_many_rows_fill_it() -> None:
    """As a network compiled for one batch size does."""
    sizes: list[int] = []

    class Compiled:
        def __call__(self, x: Tensor) -> Tensor:
            return x.sum(1)

        def score_many(self, batches: Tensor) -> Tensor:
            sizes.append(len(batches))
            return batches.sum(2)

        def rows_at_once(self, batch: int) -> int:
            return 10 // batch

    images = torch.ones(2, 3)
    score_variants("sum", Compiled(), lambda row: images * row, torch.arange(12.0))
    assert sizes == [4, 5, 5, 5]


def test_rows_of_channels_last_values_pool_under_vmap_without_a_warning() -> None:
    seen = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    head = seeded(lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
    x = images(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    activations = seen(x).detach()

    def tail(a: Tensor) -> Tensor:
        scores: Tensor = head(a)
        return scores[:, 0]

    def gradient(z: Tensor) -> Tensor:
        found: Tensor = torch.func.grad(lambda y: tail(seen(y)).sum())(z)
        return found.sum(1)

    noise = 0.1 * images(3, 3, 8, 8)
    found = []
    for given in (x, x.contiguous()):
        engines: set[str] = set()

        def told(done: int, total: int, *, engine: str, engines: set[str] = engines) -> None:
            engines.add(engine)

        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            change = partial(torch.mul, given)
            scored = score_variants("net", lambda z: tail(seen(z)), change, ROWS[:, 0, 0], progress=told)
            moved = max_sensitivity(gradient, given, noise=noise, radius=1.0, chunk_size=3)
        assert engines == {"vmapped"}
        assert not [each for each in said if "performance drop" in str(each.message)]
        found.append((scored, moved))
    torch.testing.assert_close(found[0], found[1])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        lifted = lift_cam(activations, tail=tail)
    assert not [each for each in said if "performance drop" in str(each.message)]
    torch.testing.assert_close(lifted, lift_cam(activations.contiguous(), tail=tail))
