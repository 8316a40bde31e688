"""Maps averaged over changes of the images: definitions in loops, laws, places that move, kornia, and the peer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from camfn import explainer, image, methods, targets
from camfn.transforms import Augmentation, augment, flip, multiply
from tests.nets.small import Net, images, seeded, unchanged

from .common import LAYER, Segmenter, generator, net64, region, x64


@pytest.mark.parametrize("method", ["grad_cam", "eigen_cam", "ablation_cam", "score_cam", "recipro_cam", "cam"])
@pytest.mark.parametrize("chunk_size", [None, 1, 4])
def test_aug_smooth_is_its_definition(method: str, chunk_size: int | None) -> None:
    net, x = net64(), x64()
    chosen = getattr(methods, method) if method != "cam" else partial(methods.cam, weights=torch.ones(6))
    explain = explainer(chosen, net, LAYER)
    expected = []
    for factor in (0.9, 1.0, 1.1):
        expected.append(explain(x * factor, [1, 2]))
        expected.append(explain(x.flip(-1) * factor, [1, 2]).flip(-1))
    with unchanged(net):
        found = augment(explain, chunk_size=chunk_size)(x, [1, 2])
    torch.testing.assert_close(found, torch.stack(expected).mean(0))


def test_flips_are_a_group_and_the_identity_is_the_base() -> None:
    net, x = net64(), x64()
    explain = explainer(methods.grad_cam, net, LAYER)
    flips = augment(explain, "flips")
    torch.testing.assert_close(flips(x.flip(-1), 2), flips(x, 2).flip(-1), rtol=1e-12, atol=1e-14)
    both = augment(explain, [multiply(1), flip(-1), flip(-2), flip(-1, -2)])
    torch.testing.assert_close(both(x.flip(-2), 2), both(x, 2).flip(-2), rtol=1e-12, atol=1e-14)
    assert not torch.allclose(explain(x.flip(-1), 2), explain(x, 2).flip(-1))
    torch.testing.assert_close(augment(explain, [multiply(1)])(x, 2), explain(x, 2))


def test_multiplying_changes_nothing_where_the_network_has_no_bias() -> None:
    net = seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5, bias=False)),
        dtype=torch.float64,
    )
    explain = explainer(methods.hires_cam, net, "1")
    found = augment(explain, [multiply(0.5), multiply(1), multiply(1.5)])(x64(), 2)
    torch.testing.assert_close(found, explain(x64(), 2))


def test_places_of_a_target_move_with_the_image() -> None:
    net, x = seeded(Segmenter, dtype=torch.float64), x64()
    mask = torch.zeros(2, 8, 8, dtype=torch.float64)
    mask[:, 1:4, 0:3] = 1
    explain = explainer(methods.grad_cam, net, "features")
    found = augment(explain, [flip(-1)])(x, region(1, mask))
    torch.testing.assert_close(found, explain(x.flip(-1), region(1, mask.flip(-1))).flip(-1))
    flips = augment(explain, "flips")
    moved = flips(x.flip(-1), region(1, mask.flip(-1))).flip(-1)
    torch.testing.assert_close(moved, flips(x, region(1, mask)), rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="where they go"):
        augment(explain, [(lambda x: x.flip(-1), lambda cam: cam.flip(-1))])(x, region(1, mask))


@pytest.mark.parametrize("method", ["grad_cam", "ablation_cam"])
def test_a_region_moves_with_the_image(method: str) -> None:
    net, x = seeded(Segmenter, dtype=torch.float64), x64()
    explain = explainer(getattr(methods, method), net, "features")
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[:, 1:5, 0:3] = True
    found = augment(explain, [flip(-1)])(x, targets.mask_score(1, mask))
    torch.testing.assert_close(found, explain(x.flip(-1), targets.mask_score(1, mask.flip(-1))).flip(-1))
    predicted = net(x).argmax(1) == 1
    found = augment(explain, [flip(-1)])(x, targets.mask_score(1, "predicted"))
    torch.testing.assert_close(found, explain(x.flip(-1), targets.mask_score(1, predicted.flip(-1))).flip(-1))
    found = augment(explain, [flip(-1)])(x, targets.mask_score(1))
    torch.testing.assert_close(found, explain(x.flip(-1), targets.mask_score(1)).flip(-1))
    one_way: list[Any] = [(lambda x: x.flip(-1), lambda cam: cam.flip(-1))]
    for where in (mask, "predicted"):
        with pytest.raises(ValueError, match="where they go"):
            augment(explain, one_way)(x, targets.mask_score(1, where))


def test_a_batch_is_its_samples() -> None:
    net, x = net64(), x64()
    explain = augment(explainer(methods.grad_cam, net, LAYER))
    torch.testing.assert_close(explain(x)[:1], explain(x[:1]))
    torch.testing.assert_close(explain(x, [1, 2])[1:], explain(x[1:], 2))


@pytest.mark.parametrize("size", [(9,), (8, 7), (6, 5, 4)])
def test_one_to_three_dimensions(size: tuple[int, ...]) -> None:
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(size) - 1]
    net = seeded(lambda: nn.Sequential(conv(2, 4, 3, padding=1), nn.Tanh(), nn.Flatten(2), nn.LazyLinear(3)))
    x = images(2, 2, *size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net(x)
    explain = explainer(methods.hires_cam, net, "1")
    score = lambda y: y[:, :, 1].sum(1)  # noqa: E731
    found = augment(explain, [multiply(1), flip(-len(size))])(x, score)
    mirrored = explain(x.flip(-len(size)), score).flip(-len(size))
    torch.testing.assert_close(found, (explain(x, score) + mirrored) / 2)


def test_vmap_over_targets_and_compiled() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    explain = augment(explainer(methods.grad_cam, net, LAYER))
    classes = torch.arange(5)
    looped = torch.stack([explain(x, c) for c in classes])
    torch.testing.assert_close(torch.vmap(lambda c: explain(x, c))(classes), looped)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: explain(x), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), explain(x))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda e: augment(e, cast(Any, "flip")), "'aug_smooth', 'flips'"),
        (lambda e: augment(e, []), "at least one"),
        (lambda e: augment(e, cast(Any, [3])), "pairs"),
        (lambda e: augment(e, [nn.ReLU()]), "ReLU has no inverse"),
        (lambda e: augment(e, [(lambda x: x[..., 1:], lambda m: m)])(x64(), 1), "multi_scale"),
        (lambda e: augment(e, chunk_size=0)(x64(), 1), "chunk_size"),
        (lambda e: augment(lambda x, t: x[:1, 0])(x64(), 1), "one map a sample"),
        (lambda e: flip(1), "from the end"),
    ],
)
def test_what_cannot_be_augmented_is_refused(call: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(explainer(methods.grad_cam, net64(), LAYER))


def test_aug_smooth_is_that_of_pytorch_grad_cam() -> None:
    peer = pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam: pip install 'camfn[bench]'")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    own, x = seeded(Net), images(2, 3, 16, 16)
    with peer.GradCAM(own, [own.get_submodule(LAYER)]) as theirs:
        expected = torch.from_numpy(theirs(x, [ClassifierOutputTarget(1), ClassifierOutputTarget(2)], aug_smooth=True))
    one = explainer(methods.grad_cam, seeded(Net), LAYER)
    # the peer averages what it has clipped, stretched and resized
    found = augment(lambda x, t: image.peer_postprocess(one(x, t), (16, 16)))(x, [1, 2])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def kornia() -> Any:
    return pytest.importorskip("kornia.augmentation")


@pytest.mark.parametrize("name", ["RandomHorizontalFlip", "RandomVerticalFlip"])
def test_a_flip_of_kornia_is_a_flip(name: str) -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    explain = explainer(methods.grad_cam, net, "stem")  # a map of the size of the image
    found = augment(explain, [getattr(kornia(), name)(p=1.0)], generator=generator())(x, [1, 2])
    axis = -1 if "Horizontal" in name else -2
    torch.testing.assert_close(found, augment(explain, [flip(axis)])(x, [1, 2]), rtol=1e-4, atol=1e-6)


def test_augmentations_of_kornia_are_undone_and_leave_no_trace() -> None:
    ka = kornia()
    x = torch.nn.functional.interpolate(images(2, 3, 4, 4), (32, 32), mode="bicubic")
    rotation = ka.RandomAffine(20.0, translate=(0.1, 0.1), p=1.0)
    held = dict(vars(rotation))
    state = torch.get_rng_state()
    found = augment(lambda x, t: x.sum(1), [rotation], generator=generator())(x, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert held == dict(vars(rotation))
    inner = (slice(None), slice(12, 20), slice(12, 20))  # never out of sight
    assert (found - x.sum(1))[inner].abs().max() < 0.1 * x.sum(1).abs().max()
    again = augment(lambda x, t: x.sum(1), [rotation], generator=generator())(x, 1)
    assert torch.equal(found, again)
    other = augment(lambda x, t: x.sum(1), [rotation], generator=generator(1))(x, 1)
    assert not torch.equal(found, other)


def test_masks_move_with_kornia_and_colors_move_nothing() -> None:
    ka = kornia()
    mask = torch.zeros(2, 8, 8)
    mask[:, 1:4, 0:3] = 1
    seen: list[Tensor] = []

    def probe(m: Tensor) -> targets.Score:
        seen.append(m)
        return targets.Score(lambda outputs: outputs[:, 0].sum((1, 2)), moved=lambda move: probe(move(m)))

    net, x = seeded(Segmenter), images(2, 3, 8, 8).sigmoid()
    explain = explainer(methods.grad_cam, net, "features")
    sequence = ka.AugmentationSequential(ka.RandomHorizontalFlip(p=1.0), ka.ColorJiggle(0.2, 0.2, p=1.0))
    for change, moved in [(sequence, mask.flip(-1)), (ka.RandomHorizontalFlip(p=1.0), mask.flip(-1))]:
        seen.clear()
        augment(explain, [change], generator=generator())(x, probe(mask))
        torch.testing.assert_close(seen[-1], moved, rtol=0, atol=1e-4)
    colors = ka.ColorJiggle(0.5, 0.5, p=1.0)
    seen.clear()
    found = augment(explain, [colors], generator=generator())(x, probe(mask))
    assert torch.equal(seen[-1], mask)
    assert found.shape == (2, 4, 4)
    assert not torch.allclose(found, explain(x, probe(mask)))


def test_what_kornia_cannot_do_is_refused() -> None:
    ka = kornia()
    rotation = ka.RandomRotation(10.0, p=1.0)
    volume = seeded(lambda: nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.AdaptiveAvgPool3d(1), nn.Flatten()))
    explain = explainer(methods.grad_cam, volume, "0")
    with pytest.raises(ValueError, match=r"\(B, C, H, W\).*flip\(-3\)"):
        augment(explain, [rotation], generator=generator())(images(1, 1, 4, 4, 4), 1)
    with pytest.raises(ValueError, match="RandomRotation3D has no inverse"):
        augment(explain, [ka.RandomRotation3D((5.0, 5.0, 5.0), p=1.0)])
    with pytest.raises(ValueError, match="generator="):
        augment(explainer(methods.grad_cam, net64(), LAYER), [rotation])(x64(), 1)


def test_a_pair_is_an_augmentation() -> None:
    net, x = net64(), x64()
    explain = explainer(methods.grad_cam, net, LAYER)
    turn: Any = (lambda x: x.rot90(1, (-2, -1)), lambda cam: cam.rot90(-1, (-2, -1)))
    found = augment(explain, [turn])(x, 1)
    torch.testing.assert_close(found, turn[1](explain(turn[0](x), 1)))
    torch.testing.assert_close(augment(explain, [Augmentation(*turn)])(x, 1), found)
