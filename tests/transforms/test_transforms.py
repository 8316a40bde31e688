"""Transformations of any explain: definitions in loops, laws, pinned targets, composition, and the peer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camfn import capture, explainer, image, methods, targets
from camfn.transforms import Augmentation, augment, eigen_smooth, flip, fuse, multiply, smooth
from tests.nets.small import Net, images, seeded, unchanged

WEIGHING = [
    "grad_cam",
    "hires_cam",
    "elementwise_grad_cam",
    "grad_cam_plusplus",
    "xgrad_cam",
    "layer_cam",
    "bag_cam",
]
LAYER = "blocks.1"


def net64() -> nn.Module:
    return seeded(Net, dtype=torch.float64)


def x64(batch: int = 2, seed: int = 1) -> Tensor:
    return images(batch, 3, 8, 8, dtype=torch.float64, seed=seed)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Segmenter(nn.Module):
    """A score map of each class at the resolution of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2))
        self.head = nn.Sequential(nn.Conv2d(5, 4, 3, padding=1), nn.Upsample(scale_factor=2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(x))
        return out


def region(c: int, mask: Tensor) -> targets.Score:
    """The score of a class inside a mask (B, H, W)."""
    return targets.Score(lambda outputs: (outputs[:, c] * mask).sum((1, 2)), moved=lambda move: region(c, move(mask)))


# ------------------------------------------------------------------------------------------------------------ augment


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


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize(
    "target",
    [None, 2, torch.tensor([1, 2]), [1, 2], [targets.class_score(None), 2], targets.contrast(), lambda y: y[:, 1]],
    ids=["top", "class", "tensor", "list", "mixed", "contrast", "function"],
)
def test_choices_are_made_at_the_unchanged_images(target: Any, chunk_size: int | None) -> None:
    net, x = net64(), x64()
    explain = explainer(methods.layer_cam, net, LAYER)
    brighter: Any = (lambda x: x + 30, lambda cam: cam)
    changes = [multiply(100), flip(-1), Augmentation(*brighter)]
    pinned = targets.pin(target, net(x))
    tops = {tuple(net(one.forward(x)).argmax(1).tolist()) for one in [multiply(1), *changes]}
    assert len(tops) > 1  # else nothing would show a choice made anew
    expected = torch.stack([one.inverse(explain(one.forward(x), pinned)) for one in changes]).mean(0)
    torch.testing.assert_close(augment(explain, changes, chunk_size=chunk_size)(x, target), expected)


@pytest.mark.parametrize("method", ["ablation_cam", "score_cam", "shapley_cam"])
def test_the_top_class_is_pinned_for_methods_that_perturb_too(method: str) -> None:
    net, x = net64(), x64()
    explain = explainer(getattr(methods, method), net, LAYER)
    changes = [multiply(100), flip(-1)]
    top = net(x).argmax(1)
    torch.testing.assert_close(augment(explain, changes)(x), augment(explain, changes)(x, top))


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
    for region in (mask, "predicted"):
        with pytest.raises(ValueError, match="where they go"):
            augment(explain, one_way)(x, targets.mask_score(1, region))


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


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_other_inputs_are_repeated(form: str) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = seeded(Net)

        def forward(self, x: Tensor, scale: Tensor, shift: float = 0.0) -> Tensor:
            out: Tensor = self.net(x) * scale[:, None] + shift
            return out

    net, x, scale = Two().eval(), images(2, 3, 8, 8), torch.tensor([1.0, -2.0])
    explain = explainer(methods.grad_cam, net, "net.blocks.1")
    give = (lambda x: (x, scale, 1.0)) if form == "tuple" else (lambda x: {"x": x, "scale": scale})
    found = augment(explain, [multiply(2), flip(-1)])(give(x), [1, 2])
    expected = (explain(give(2 * x), [1, 2]) + explain(give(x.flip(-1)), [1, 2]).flip(-1)) / 2
    torch.testing.assert_close(found, expected)


def test_a_function_of_the_user_sees_one_batch() -> None:
    seen: list[tuple[Any, Any]] = []

    def explain(x: Tensor, target: Any) -> Tensor:
        seen.append((tuple(x.shape), target))
        return x.sum(1)

    x = x64()
    found = augment(explain, "flips")(x, 3)
    assert seen == [((4, 3, 8, 8), 3)]
    torch.testing.assert_close(found, x.sum(1))
    augment(explain, "flips", chunk_size=1)(x, [1, 2])
    assert seen[1:] == [((2, 3, 8, 8), [1, 2])] * 2


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


# ------------------------------------------------------------------------------------------------------------- kornia


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


# ------------------------------------------------------------------------------------------------------------- smooth


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_smooth_is_its_definition(relative: bool, chunk_size: int | None) -> None:
    net, x = net64(), x64()
    noise = images(5, 2, 3, 8, 8, dtype=torch.float64, seed=9)
    explain = explainer(methods.grad_cam, net, LAYER)
    top = net(x).argmax(1)
    expected = []
    for b in range(2):
        span = float(x[b].max() - x[b].min()) if relative else 1.0
        copies = [explain(x[b : b + 1] + 0.5 * span * e[b : b + 1], int(top[b])) for e in noise]
        expected.append(torch.stack(copies).mean(0))
    found = smooth(explain, std=0.5, relative=relative, noise=noise, chunk_size=chunk_size)(x)
    torch.testing.assert_close(found, torch.cat(expected))


def test_smooth_without_noise_is_the_base_and_draws_from_the_generator_alone() -> None:
    net, x = net64(), x64()
    explain = explainer(methods.layer_cam, net, LAYER)
    torch.testing.assert_close(smooth(explain, 3, std=0.0, generator=generator())(x), explain(x))
    state = torch.get_rng_state()
    found = smooth(explain, 3, generator=generator(4))(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found, smooth(explain, 3, generator=generator(4))(x))
    assert not torch.equal(found, smooth(explain, 3, generator=generator(5))(x))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "neither"),
        ({"generator": generator(), "noise": torch.ones(1, 1, 3, 8, 8)}, "both"),
        ({"generator": generator(), "samples": 0}, "at least 1"),
        ({"generator": generator(), "std": -1.0}, "at least 0"),
        ({"noise": torch.ones(1, 1, 3, 8, 9)}, "expected noise of shape"),
    ],
)
def test_what_cannot_be_smoothed_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        smooth(explainer(methods.grad_cam, net64(), LAYER), **options)(x64(), 1)


# ------------------------------------------------------------------------------------------------------- eigen_smooth


def contributions(method: Callable[..., Tensor], a: Tensor, g: Tensor) -> Tensor:
    return torch.stack([method(a[:, k : k + 1], g[:, k : k + 1]) for k in range(a.shape[1])], 1)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("method", WEIGHING)
@pytest.mark.parametrize("size", [(5,), (3, 4), (2, 3, 2)])
def test_eigen_smooth_is_the_singular_vector_of_the_contributions(
    method: str, size: tuple[int, ...], centered: bool
) -> None:
    chosen = getattr(methods, method)
    a, g = (images(2, 7, *size, dtype=torch.float64, seed=s) for s in (1, 2))
    found = eigen_smooth(chosen, centered=centered)(a, g)
    for b in range(2):
        rows = contributions(chosen, a, g)[b].flatten(1).numpy().T
        u, s, _ = np.linalg.svd(rows - rows.mean(0) if centered else rows, full_matrices=False)
        expected = u[:, 0] * s[0]
        expected *= np.sign(expected @ chosen(a, g)[b].flatten().numpy())
        np.testing.assert_allclose(found[b].flatten().numpy(), expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("method", ["grad_cam", "hires_cam", "layer_cam"])
def test_channels_that_are_alike_give_the_map_itself_and_never_its_negative(method: str) -> None:
    shape, scales = images(2, 1, 4, 4, seed=3), torch.tensor([1.0, -0.5, 2.0, 0.25])[:, None, None]
    for turn in (1.0, -1.0):
        a = shape * scales
        g = turn * torch.ones(2, 4, 1, 1).expand(2, 4, 4, 4)
        whole = getattr(methods, method)(a, g)
        found = eigen_smooth(getattr(methods, method))(a, g)
        cosine = (found * whole).sum((1, 2)) / (found.norm(dim=(1, 2)) * whole.norm(dim=(1, 2)))
        if whole.any():
            torch.testing.assert_close(cosine, torch.ones(2), rtol=0, atol=1e-4)


def test_eigen_smooth_differs_from_the_peer_by_its_sign_rule_only() -> None:
    pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam: pip install 'camfn[bench]'")
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

    captured = capture(seeded(Net), "stem")(images(3, 3, 8, 8), [0, 1, 2])
    a, g = captured.activations, captured.grads
    theirs = torch.from_numpy(get_2d_projection((g.mean((2, 3), keepdim=True) * a).numpy()))
    ours = eigen_smooth(methods.grad_cam, centered=True)(a, g)
    sign = (ours * theirs).sum((1, 2)).sign()[:, None, None]
    torch.testing.assert_close(ours, sign * theirs, rtol=1e-3, atol=1e-5)
    assert ((ours * methods.grad_cam(a, g)).sum((1, 2)) >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eigen_smooth_keeps_the_type_and_runs_under_vmap_and_compile(dtype: torch.dtype) -> None:
    net, x = seeded(Net).to(dtype), images(2, 3, 8, 8, dtype=dtype)
    run, method = capture(net, LAYER), eigen_smooth(methods.grad_cam)
    found = method(*run(x, 1))
    assert found.dtype is dtype
    classes = torch.arange(3)
    looped = torch.stack([method(*run(x, c)) for c in classes])
    tolerance: Any = {"rtol": 0.05, "atol": 0.02} if dtype is torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.vmap(lambda c: method(*run(x, c)))(classes), looped, **tolerance)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, c: method(*run(x, c)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, classes[1]), looped[1], **tolerance)


def squared(activations: Tensor, grads: Tensor) -> Tensor:
    return (activations * grads).sum(1).square()


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (methods.eigen_cam, "takes no gradients.*eigen_cam"),
        (methods.fem, "takes no gradients"),
        (methods.ablation_cam, "ablation_cam asks for chunk_size, progress, tail"),
        (methods.shapley_cam, "shapley_cam asks for"),
        (methods.eigen_grad_cam, "not the sum"),
        (squared, "squared is not the sum"),
    ],
)
def test_methods_that_do_not_weigh_channels_are_refused(method: Any, words: str) -> None:
    a, g = images(2, 4, 3, 3), images(2, 4, 3, 3, seed=2)
    with pytest.raises(ValueError, match=words):
        eigen_smooth(method)(a, g)
    with pytest.raises(ValueError, match="sign='sum'"):
        eigen_smooth(methods.grad_cam, centered=True, sign="sum")


# -------------------------------------------------------------------------------------------------------- composition


def test_transformations_compose_in_any_order() -> None:
    net, x = net64(), x64()
    eigen = explainer(eigen_smooth(methods.grad_cam), net, LAYER)
    assert augment(eigen)(x).shape == eigen(x).shape
    fused = fuse(eigen_smooth(methods.layer_cam), net, ["blocks.0", LAYER], how="product")
    assert augment(fused, "flips")(x, [1, 2]).shape == (2, 8, 8)
    noise = images(3, 2, 3, 8, 8, dtype=torch.float64, seed=9)
    # flips and a set of noise that is mirrored with them commute
    mirrored = torch.cat([noise, noise.flip(-1)])
    explain = explainer(methods.grad_cam, net, LAYER)
    one = smooth(augment(explain, "flips"), noise=mirrored)(x)
    two = augment(smooth(explain, noise=mirrored.repeat_interleave(1, 0)), "flips", chunk_size=1)(x, net(x).argmax(1))
    torch.testing.assert_close(one, two)


def test_a_pair_is_an_augmentation() -> None:
    net, x = net64(), x64()
    explain = explainer(methods.grad_cam, net, LAYER)
    turn: Any = (lambda x: x.rot90(1, (-2, -1)), lambda cam: cam.rot90(-1, (-2, -1)))
    found = augment(explain, [turn])(x, 1)
    torch.testing.assert_close(found, turn[1](explain(turn[0](x), 1)))
    torch.testing.assert_close(augment(explain, [Augmentation(*turn)])(x, 1), found)
