"""Engines: the first of folded, vmapped and one by one that a trial shows to be right, and how it is told."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, explainer, methods
from camfn._shared.rows import run_in_chunks, score_variants
from tests.nets.small import Net, images, seeded, unchanged
from tests.shared.rules import sums, sums_of_at_most

ROWS = images(5, 2, 6)


class Told:
    """What a progress function with the keyword `engine` was told."""

    def __init__(self) -> None:
        self.engines: list[str] = []
        self.calls: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int, *, engine: str) -> None:
        self.engines.append(engine)
        self.calls.append((done, total))


def boolean_mask(x: Tensor) -> Tensor:
    return torch.stack([row[row > 0].sum() for row in x])


def fresh(x: Tensor) -> Tensor:
    """Write batched values into a fresh tensor."""
    out = torch.zeros(x.shape[0])
    out[:] = x.square().sum(1)
    return out


def numbers(x: Tensor) -> Tensor:
    """Read the data in Python."""
    return torch.tensor([float(row.sum()) if float(row[0]) > 0 else 0.0 for row in x])


def array(x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy().sum(1))


def none_zero(x: Tensor) -> Tensor:
    return x.flatten().nonzero().sum()[None].expand(x.shape[0]).float()


UNBATCHED = [boolean_mask, fresh, numbers, array, none_zero]


@pytest.mark.parametrize("chunk_size", [None, 1, 2, "auto"])
@pytest.mark.parametrize("scores", UNBATCHED)
def test_what_vmap_refuses_runs_one_by_one(scores: Callable[[Tensor], Tensor], chunk_size: Any) -> None:
    told = Told()
    found = score_variants("f", scores, lambda row: row, ROWS, chunk_size=chunk_size, progress=told)
    torch.testing.assert_close(found, torch.stack([scores(row) for row in ROWS]))
    assert set(told.engines) == {"one by one"}
    assert told.calls == [(2, 5), (3, 5), (4, 5), (5, 5)]


def test_what_vmap_gives_wrong_runs_one_by_one() -> None:
    told = Told()
    found = run_in_chunks(sums(lambda rows, x: x.sum(-1) + 1), ROWS, progress=told)
    torch.testing.assert_close(found, ROWS.sum(-1))
    assert set(told.engines) == {"one by one"}


def test_the_engine_is_told() -> None:
    class Many:
        def __call__(self, x: Tensor) -> Tensor:
            return x.sin().sum(1)

        def score_many(self, batches: Tensor) -> Tensor:
            return batches.sin().sum(2)

    for scores, engine in ((Many(), "folded"), (lambda x: x.sin().sum(1), "vmapped")):
        told = Told()
        score_variants("f", scores, lambda row: row, ROWS, progress=told)
        assert set(told.engines) == {engine}
        assert told.calls[-1] == (5, 5)


@pytest.mark.parametrize(("digits", "engine"), [(0.5, "vmapped"), (0.3, "folded")])
def test_a_device_that_keeps_fewer_digits_still_folds(monkeypatch: Any, digits: float, engine: str) -> None:
    """As TF32 on a GPU: many samples take another algorithm, whose sums differ in the fourth digit."""

    class Many:
        def __call__(self, x: Tensor) -> Tensor:
            return x.sin().sum(1)

        def score_many(self, batches: Tensor) -> Tensor:
            return batches.sin().sum(2) * 1.001

    monkeypatch.setattr("camfn._shared.maps.kept_digits", lambda dtype, device: digits)
    told = Told()
    found = score_variants("f", Many(), lambda row: row, ROWS, progress=told)
    assert set(told.engines) == {engine}
    torch.testing.assert_close(found, ROWS.sin().sum(2), rtol=2e-3, atol=0)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_rows_are_enough(count: int) -> None:
    for scores in (lambda x: x.sin().sum(1), boolean_mask):
        told = Told()
        found = score_variants("f", scores, lambda row: row, ROWS[:count], progress=told)
        torch.testing.assert_close(found, torch.stack([scores(row) for row in ROWS[:count]]))
        assert told.calls[-1] == (count, count)


def test_an_error_of_the_function_is_raised_as_it_is() -> None:
    def refused(x: Tensor) -> Tensor:
        raise CamfnError("not so")

    def broken(x: Tensor) -> Tensor:
        return x @ x

    for scores, kind, text in ((refused, CamfnError, "not so"), (broken, RuntimeError, "shapes cannot be multiplied")):
        with pytest.raises(kind, match=text):
            score_variants("f", scores, lambda row: row, ROWS)


def test_running_out_of_memory_is_not_hidden() -> None:
    def full(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError, match="full"):
        score_variants("f", full, lambda row: row, ROWS)


def test_one_row_at_a_time_under_vmap_if_two_do_not_fit() -> None:
    told = Told()
    found = run_in_chunks(sums_of_at_most(1), ROWS, chunk_size=1, progress=told)
    torch.testing.assert_close(found, ROWS.sum(-1))
    assert set(told.engines) == {"vmapped"}


@pytest.mark.parametrize("masked", [False, True])
def test_what_draws_is_refused_in_every_engine(masked: bool) -> None:
    def scores(x: Tensor) -> Tensor:
        noisy = nn.functional.dropout(x, 0.5, training=True)
        return boolean_mask(noisy) if masked else noisy.sum(1)

    def numbered(x: Tensor) -> Tensor:
        """Draw where `vmap` does not come."""
        return boolean_mask(x) + torch.rand(x.shape[0])

    for draws in (scores, numbered):
        with pytest.raises(CamfnError, match="random numbers"):
            score_variants("f", draws, lambda row: row, ROWS)


def test_derivatives_go_through_the_trial() -> None:
    for scores in (lambda x: x.sin().sum(1), boolean_mask):
        rows = ROWS.clone().requires_grad_()
        (found,) = torch.autograd.grad(score_variants("f", scores, lambda row: row, rows).sum(), rows)
        (expected,) = torch.autograd.grad(torch.stack([scores(row) for row in rows]).sum(), rows)
        torch.testing.assert_close(found, expected)


class Detecting(nn.Module):
    """A network that keeps the places whose activation is positive, as suppression of boxes does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = seeded(Net)

    def forward(self, x: Tensor) -> Any:
        logits = self.net(x)
        return [{"scores": row[row > row.mean()]} for row in logits]


@pytest.mark.parametrize("name", ["ablation_cam", "recipro_cam", "lift_cam", "score_cam", "poly_cam", "fd_cam"])
def test_methods_on_a_network_that_reads_data(name: str) -> None:
    net, x, told = Detecting().eval(), images(2, 3, 12, 10), Told()

    def target(outputs: Any) -> Tensor:
        return torch.stack([one["scores"].square().sum() for one in outputs])

    explain = explainer(getattr(methods, name), net, "net.blocks.0", progress=told)
    with unchanged(net):
        cam = explain(x, target)
    assert told.engines
    assert set(told.engines) == {"one by one" if name == "lift_cam" else "folded"}
    for i in range(2):
        torch.testing.assert_close(explain(x[i : i + 1], target), cam[i : i + 1], rtol=1e-3, atol=1e-5)


class Together(nn.Module):
    """A network whose head decides something for all samples at once."""

    def __init__(self, decide: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(6, 4)
        self.decide = decide

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.decide(self.features(x).mean((2, 3))))
        return found + 100


def tripled(z: Tensor) -> Tensor:
    """Read whether any sample lacks channel 4, which no row of a trial does."""
    return z * 3 if bool((z[:, 4] == 0).any()) else z


def counted(z: Tensor) -> Tensor:
    """Write numbers of all samples to memory that holds none, and read that."""
    held = torch.zeros(1)
    held.add_((z[:, 4] == 0).sum())
    return z * (1 + int(held.view(1)[0]))


def zeros_counted(z: Tensor) -> Tensor:
    """Count the samples that lack channel 4, without a word to Python."""
    return z * (1 + (z[:, 4] == 0).sum())


def drifted(z: Tensor) -> Tensor:
    """Add so little of the mean over samples that the scores agree to half of their digits."""
    return z + 1e-3 * z.mean(0)


@pytest.mark.parametrize("chunk_size", [None, 3, "auto"])
@pytest.mark.parametrize("decide", [tripled, counted, zeros_counted, drifted])
def test_what_is_decided_for_all_samples_is_not_folded(decide: Callable[[Tensor], Tensor], chunk_size: Any) -> None:
    net: Any = seeded(lambda: Together(decide)).eval()
    x, told = images(1, 3, 8, 8), Told()
    with torch.no_grad():
        a = net.features(x)
        drops = []
        for channel in range(6):
            without = a.clone()
            without[:, channel] = 0
            drops.append(net.head(decide(a.mean((2, 3)))) - net.head(decide(without.mean((2, 3)))))
        expected = (a * torch.stack(drops, 1)[:, :, 1][:, :, None, None]).sum(1)
    explain = explainer(
        partial(methods.ablation_cam, closed_form=False), net, "features", chunk_size=chunk_size, progress=told
    )
    torch.testing.assert_close(explain(x, 1), expected, rtol=1e-3, atol=1e-3)
    assert "folded" not in told.engines


@pytest.mark.parametrize("scale", [1e-3, 0.0])
def test_numbers_that_are_drawn_count_if_they_are_used(scale: float) -> None:
    net, told = seeded(lambda: Together(lambda z: z + scale * torch.rand_like(z))).eval(), Told()
    explain = explainer(partial(methods.ablation_cam, closed_form=False), net, "features", progress=told)
    if scale:
        with pytest.raises(CamfnError, match="random numbers"):
            explain(images(1, 3, 8, 8), 1)
    else:
        explain(images(1, 3, 8, 8), 1)
        assert set(told.engines) == {"folded"}


def test_three_batches_that_do_not_fit_are_not_folded() -> None:
    class Two:
        """A device on which two batches of one fit."""

        def __call__(self, x: Tensor) -> Tensor:
            return x.sin().sum(1)

        def score_many(self, batches: Tensor) -> Tensor:
            if len(batches) > 2:
                raise torch.OutOfMemoryError("three batches")
            return batches.sin().sum(2)

    found = score_variants("f", Two(), lambda row: row, ROWS, chunk_size=2)
    torch.testing.assert_close(found, ROWS.sin().sum(2))


def test_nothing_that_a_network_keeps_becomes_nan() -> None:
    kept = torch.zeros(6)

    def keeping(z: Tensor) -> Tensor:
        kept.add_(z.mean(0).detach())
        return z

    explain = explainer(partial(methods.ablation_cam, closed_form=False), seeded(lambda: Together(keeping)), "features")
    explain(images(1, 3, 8, 8), 1)
    assert kept.isfinite().all()


def below_counted(z: Tensor) -> Tensor:
    """Count, in a channel that no trial makes zero alone, what only some rows hold."""
    return z * (1 + ((z[:, 3] == 0) & (z[:, 2] != 0) & (z[:, 4] != 0)).sum())


def one_counted(z: Tensor) -> Tensor:
    return z * (1 + (z[:, 3] == 0).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk_size", [None, 1, 4, 5, "auto"])
@pytest.mark.parametrize("decide", [below_counted, one_counted, zeros_counted])
def test_what_only_some_rows_hold_is_counted_in_no_other(
    decide: Callable[[Tensor], Tensor], chunk_size: Any, dtype: torch.dtype
) -> None:
    net: Any = seeded(lambda: Together(decide)).eval().to(dtype)
    rows, told, x = torch.eye(6, dtype=dtype), Told(), images(2, 3, 8, 8).to(dtype)
    with torch.no_grad():
        a = net.features(x)
        sizes: list[int] = []
        head: nn.Linear = net.head

        class Score:
            def __call__(self, batch: Tensor) -> Tensor:
                scores: Tensor = head(decide(batch.mean((2, 3))))[:, 1]
                return scores

            def score_many(self, batches: Tensor) -> Tensor:
                sizes.append(len(batches))
                return self(batches.flatten(0, 1)).reshape(batches.shape[:2])

        def change(row: Tensor) -> Tensor:
            left: Tensor = a * (1 - row)[:, None, None]
            return left

        score = Score()
        found = score_variants("f", score, change, rows, chunk_size=chunk_size, progress=told)
        torch.testing.assert_close(found, torch.stack([score(change(row)) for row in rows]), rtol=1e-2, atol=1e-2)
    if isinstance(chunk_size, int):
        assert max(sizes) <= chunk_size
    assert told.engines[-1] != "folded"


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 7])
def test_no_more_rows_than_a_chunk_has_run_at_once(chunk_size: int) -> None:
    sizes: list[int] = []

    class Noting:
        def __call__(self, x: Tensor) -> Tensor:
            return x.sin().sum(1)

        def score_many(self, batches: Tensor) -> Tensor:
            sizes.append(len(batches))
            return batches.sin().sum(2)

    found = score_variants("f", Noting(), lambda row: row, images(20, 2, 6), chunk_size=chunk_size)
    torch.testing.assert_close(found, images(20, 2, 6).sin().sum(2))
    assert max(sizes) == chunk_size
