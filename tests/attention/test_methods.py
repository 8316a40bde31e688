"""Methods on attention: against loops written from the papers, laws between them, and maps of whole models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn
from torch.testing import assert_close

from camfn import CamfnError, CaptureError, attention, explainer
from camfn.attention import (
    METHODS,
    AttentionRecord,
    attention_explainer,
    attention_rollout,
    capture_attention,
    grad_eclip,
    gradient_rollout,
    le_grad,
    observe_attention,
    raw_attention,
)
from camfn.methods import grad_cam
from tests.nets import transformer as oracle
from tests.nets.small import images, unchanged
from tests.nets.transformer import own_gradients, reference, transformer

TARGET = 3
NEEDS = {"le_grad": "layers"}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def batch(count: int = 2) -> Tensor:
    return images(count, 3, 12, 16, dtype=torch.float64)


def records_for(method: Any, net: nn.Module, x: Any, target: Any = TARGET) -> list[AttentionRecord]:
    scores: Any = NEEDS.get(method.__name__, "model")
    return capture_attention(net, scores=scores)(x, target).records


def made(probabilities: Tensor, grads: Tensor | None = None) -> AttentionRecord:
    """A record of which only probabilities and gradients matter."""
    rest = probabilities.new_zeros(*probabilities.shape[:-1], 2)
    keys = probabilities.new_zeros(*probabilities.shape[:2], probabilities.shape[3], 2)
    return AttentionRecord("made", probabilities, grads, rest, keys, keys, rest, None)


def random(layers: int = 3, tokens: int = 5, heads: int = 2, count: int = 2, seed: int = 1) -> list[AttentionRecord]:
    shape = (layers, count, heads, tokens, tokens)
    scores, grads = (images(*shape, dtype=torch.float64, seed=s) for s in (seed, seed + 1))
    return [made(a, g) for a, g in zip(scores.softmax(-1), grads)]


def each(record: AttentionRecord, change: Callable[[Tensor], Tensor]) -> AttentionRecord:
    """The record with every tensor changed."""
    changed: dict[str, Any] = {name: change(x) for name, x in record._asdict().items() if isinstance(x, Tensor)}
    return record._replace(**changed)


def whole(method: Any, records: list[AttentionRecord], **options: Any) -> Tensor:
    """The matrix R, (B, N, N): a row for each query."""
    count = records[0].probabilities.shape[-1]
    return torch.stack([method(records, prefix=0, query=i, **options) for i in range(count)], 1)


# -------------------------------------------------------------------------------------------------------------- oracles


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("discard", [0.0, 0.3, 0.9])
def test_rollout_equals_its_loops(fusion: Any, discard: float) -> None:
    records = random()
    expected = oracle.rollout([record.probabilities for record in records], fusion, discard)
    assert_close(whole(attention_rollout, records, how=fusion, discard=discard), expected)
    patches = attention_rollout(records, prefix=2, query=None, how=fusion, discard=discard)
    assert_close(patches, expected[:, 2:, 2:].mean(1))


def test_gradient_rollout_equals_its_loops() -> None:
    records = random()
    layers, grads = [r.probabilities for r in records], [r.grads for r in records if r.grads is not None]
    expected = oracle.gae(layers, grads) - torch.eye(5, dtype=torch.float64)
    assert_close(whole(gradient_rollout, records), expected)
    assert_close(gradient_rollout(records, prefix=2, query=None), expected[:, 2:, 2:].mean(1))
    assert_close(gradient_rollout(records, prefix=1, suffix=1, query="all"), expected.transpose(0, 1)[..., 1:4])


@pytest.mark.parametrize("scale", [1e-5, 1e-9])
@pytest.mark.parametrize("query", [0, 3, None])
def test_a_tiny_gradient_is_not_swallowed_by_the_identity(scale: float, query: int | None) -> None:
    """As where a network scales what a block adds (layer scale), and averages its patches."""
    records = [record._replace(grads=scale * record.grads) for record in random() if record.grads is not None]
    low = [each(record, Tensor.float) for record in records]
    grads = [record.grads for record in records if record.grads is not None]
    # the sum over layers, to first order in the scale
    expected = sum((r.probabilities * g).relu().mean(1) for r, g in zip(records, grads, strict=True))
    assert isinstance(expected, Tensor)
    row = expected[:, 1:].mean(1) if query is None else expected[:, query]
    found = gradient_rollout(low, query=query)
    assert_close(found.double(), gradient_rollout(records, query=query), rtol=1e-4, atol=0)
    assert_close(found.double(), row[:, 1:], rtol=1e-4, atol=0)


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_methods_on_a_transformer_equal_loops_on_the_exposed_one(pool: str) -> None:
    net, x = transformer("fused", pool=pool), batch()
    layers, _ = reference(x, lambda y: y[:, TARGET], pool=pool)
    layers = [oracle.Exposed(*(part.detach() for part in layer)) for layer in layers]
    a, g = [layer.probabilities for layer in layers], [layer.grads for layer in layers]
    records = capture_attention(net)(x, TARGET).records
    assert_close(raw_attention(records), a[-1].mean(1)[:, 0, 1:])
    assert_close(raw_attention(records, layer=0, how="max", query=4), a[0].amax(1)[:, 4, 1:])
    assert_close(raw_attention(records, query=None), a[-1].mean(1)[:, 1:, 1:].mean(1))
    assert_close(attention_rollout(records), oracle.rollout(a)[:, 0, 1:])
    assert_close(gradient_rollout(records), oracle.gae(a, g)[:, 0, 1:])
    query = 0 if pool == "token" else 2
    assert_close(grad_eclip(records, query=query), oracle.eclip(layers[-1], 1, query))
    assert_close(grad_eclip(records, query=query, layer=0), oracle.eclip(layers[0], 1, query))
    own = capture_attention(net, scores="layers")(x, TARGET).records
    assert_close(le_grad(own), oracle.legrad(own_gradients(x, TARGET, pool=pool))[:, 1:])


def test_grad_eclip_over_all_patches_sums_over_queries() -> None:
    (record,) = capture_attention(transformer("fused", pool="mean"), "blocks.2")(batch(), TARGET).records
    assert record.output_grads is not None
    q, k, v, g = (x.transpose(1, 2).flatten(2)[:, 1:] for x in (record.q, record.k, record.v, record.output_grads))
    expected = torch.zeros(2, 12, dtype=torch.float64)
    for b in range(2):
        for i in range(12):
            cosine = torch.stack([q[b, i] @ k[b, j] / (q[b, i].norm() * k[b, j].norm()) for j in range(12)])
            weight = (cosine - cosine.min()) / (cosine.max() - cosine.min())
            expected[b] += torch.stack([weight[j] * (g[b, i] @ v[b, j]) for j in range(12)])
    assert_close(grad_eclip([record], query=None), expected)


def test_grad_eclip_of_a_class_token_does_not_see_how_the_others_are_counted() -> None:
    """No gradient reaches the last layer's patches where the head reads the class token: all queries are that one."""
    (record,) = capture_attention(transformer("fused"), "blocks.2")(batch(), TARGET).records
    assert not grad_eclip([record], query=None).any()
    assert grad_eclip([record]).any()


def test_le_grad_equals_torchcam() -> None:
    pytest.importorskip("torchcam", reason="torchcam needs Python 3.11")
    from torchcam.methods import LeGrad

    net = torchvision.models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=4).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nn.init.normal_(net.heads.head.weight)
        nn.init.normal_(net.encoder.pos_embedding)
    x = images(2, 3, 32, 32)
    blocks = [f"encoder.layers.encoder_layer_{i}" for i in (1, 2)]
    with LeGrad(net, blocks) as peer:
        (theirs,) = peer.compute_cams([1, 3], net(x), normalized=False)
    ours = attention_explainer(le_grad, net, blocks)(x, [1, 3])
    assert ours.any()
    assert_close(ours, theirs.detach(), rtol=1e-3, atol=1e-6)


# ----------------------------------------------------------------------------------------------------------------- laws


def test_rows_of_rollout_sum_to_one() -> None:
    for options in ({}, {"how": "max"}, {"how": "min", "discard": 0.5}):
        total = whole(attention_rollout, random(), **options).sum(-1)
        assert_close(total, torch.ones_like(total))


def test_rollout_of_identities_is_the_identity() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    records = [made(eye.expand(2, 3, 4, 4))] * 3
    assert_close(whole(attention_rollout, records), eye.expand(2, 4, 4))


def test_rollout_of_one_layer_is_the_mean_of_it_and_the_identity() -> None:
    records = random(layers=1)
    fused = records[0].probabilities.mean(1)
    assert_close(whole(attention_rollout, records), (fused + torch.eye(5, dtype=torch.float64)) / 2)


def test_rollout_is_associative() -> None:
    records = random(layers=4)
    assert_close(
        whole(attention_rollout, records), whole(attention_rollout, records[2:]) @ whole(attention_rollout, records[:2])
    )


def test_gradient_rollout_without_a_gradient_is_zero() -> None:
    records = [record._replace(grads=torch.zeros_like(record.probabilities)) for record in random()]
    assert not whole(gradient_rollout, records).any()


def test_gradient_rollout_only_grows_with_the_layers() -> None:
    maps = [whole(gradient_rollout, random(layers=4)[:count]) for count in range(1, 5)]
    for one, other in pairwise(maps):
        assert (other >= one - 1e-12).all()


def test_le_grad_is_not_negative_and_zero_where_the_head_ignores_attention() -> None:
    net = transformer("fused")
    assert (attention_explainer(le_grad, net)(batch(), TARGET) >= 0).all()
    assert attention_explainer(le_grad, net)(batch(), TARGET).any()
    for block in net.blocks:
        nn.init.zeros_(block.attn.out.weight)  # type: ignore[union-attr, arg-type]
    assert not attention_explainer(le_grad, net)(batch(), TARGET).any()
    assert not attention_explainer(grad_eclip, net)(batch(), TARGET).any()
    assert not attention_explainer(gradient_rollout, net)(batch(), TARGET).any()


def test_le_grad_is_the_mean_over_layers() -> None:
    records = random()
    assert_close(le_grad(records), torch.stack([le_grad([record]) for record in records]).mean(0))


@every_method
def test_heads_can_be_in_any_order(method: Any) -> None:
    records = records_for(method, transformer("fused"), batch())
    turned = [each(record, lambda x: x.flip(1)) for record in records]
    assert_close(method(turned), method(records))


@every_method
def test_patches_can_be_in_any_order(method: Any) -> None:
    """Permuting the patches' keys and queries permutes the map."""
    records = records_for(method, transformer("fused"), batch())
    order = torch.tensor([0, *(torch.randperm(12, generator=torch.Generator().manual_seed(0)) + 1).tolist()])
    turned = [
        record._replace(
            probabilities=record.probabilities[:, :, order][..., order],
            grads=record.grads[:, :, order][..., order] if record.grads is not None else None,
            q=record.q[:, :, order],
            k=record.k[:, :, order],
            v=record.v[:, :, order],
            output_grads=record.output_grads[:, :, order] if record.output_grads is not None else None,
        )
        for record in records
    ]
    assert_close(method(turned), method(records)[:, order[1:] - 1])


SHUFFLED = [11, 3, 5, 12, 1, 2, 4, 6, 7, 8, 9, 10]


@every_method
def test_patches_stand_where_the_positions_say(method: Any) -> None:
    records = records_for(method, transformer("fused"), batch())
    plain = method(records, query=0)
    at = torch.tensor(SHUFFLED)
    assert_close(method(records, query=0, positions=slice(1, 13)), plain)
    assert_close(method(records, query=0, positions=range(1, 13)), plain)
    if method is not grad_eclip:  # the cosine is stretched over the patches
        assert_close(method(records, query=0, positions=slice(3, 13, 2)), plain[:, 2::2])
        assert_close(method(records, query=0, prefix=2, suffix=3), plain[:, 1:9])
    assert_close(method(records, query=0, positions=at), plain[:, at - 1])
    apart = torch.stack([at, at.flip(0)])
    assert_close(method(records, query=0, positions=apart), plain.gather(1, apart - 1))
    mean = method(records, query=None)
    assert_close(method(records, query=None, positions=apart), mean.gather(1, apart - 1))


@every_method
def test_several_queries_give_a_map_each(method: Any) -> None:
    records = records_for(method, transformer("fused"), batch())
    one = [method(records, query=i) for i in range(13)]
    assert_close(method(records, query="all"), torch.stack(one))
    assert_close(method(records, query=[4, -1, 0]), torch.stack([one[4], one[12], one[0]]))
    assert_close(method(records, query=torch.tensor(-2)), one[11])
    apart = method(records, query=torch.tensor([[4, 5], [6, -1], [0, 0]]))
    assert_close(apart[:, 0], torch.stack([one[4][0], one[6][0], one[0][0]]))
    assert_close(apart[:, 1], torch.stack([one[5][1], one[12][1], one[0][1]]))
    batched = torch.vmap(lambda at: method(records, query=at))(torch.tensor([3, -3]))
    assert_close(batched, torch.stack([one[3], one[10]]))


@every_method
def test_positions_and_queries_that_are_none_are_refused(method: Any) -> None:
    records = records_for(method, transformer("fused"), batch())
    for query, words in (
        (13, "none of the 13 queries: expected 0 to 12"),
        (-14, "none of the 13"),
        ([0, 13], "none of the 13"),
        ("mean", "'all' or None, got 'mean'"),
        (True, "got True"),
        (0.5, "got a float"),
        ([], "got a list"),
        (torch.zeros(2, 3, dtype=torch.long), r"\(Q, B\) for 2 samples"),
        (torch.zeros(1, 2, 3, dtype=torch.long), r"\(Q,\) or \(Q, B\)"),
    ):
        with pytest.raises(CamfnError, match=f"{method.__name__}: query.*{words}"):
            method(records, query=query)
    for positions, words in (
        ([0, 13], "expected 0 to 12, got 0 to 13"),
        ([-1, 2], "expected 0 to 12, got -1 to 2"),
        ([3, 3], "each token once"),
        (slice(2, 20), "are not among the 13 tokens"),
        (slice(5, 5), "are not among the 13 tokens"),
        (torch.ones(3, 4, dtype=torch.long), r"\(B, N\) for 2 samples"),
        (torch.tensor(3), r"\(N,\) or \(B, N\)"),
        ("image", "a slice"),
        (torch.ones(4), "a slice"),
    ):
        with pytest.raises(CamfnError, match=f"{method.__name__}: positions.*{words}"):
            method(records, positions=positions)
    with pytest.raises(CamfnError, match="prefix=5 and suffix=8 leave none of the 13 tokens"):
        method(records, prefix=5, suffix=8)


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_is_kept(method: Any, dtype: torch.dtype) -> None:
    records = records_for(method, transformer("fused"), batch())
    low = [each(record, lambda x: x.to(dtype)) for record in records]
    exact, found = method(records), method(low)
    assert found.dtype == dtype
    assert_close(
        found.double(), exact, rtol=1e-4 if dtype == torch.float32 else 0.1, atol=1e-2 * float(exact.abs().max())
    )


@every_method
def test_a_batch_of_two_is_two_batches_of_one(method: Any) -> None:
    explain, x = attention_explainer(method, transformer("fused")), batch()
    both = explain(x, [1, TARGET])
    assert both.shape == (2, 3, 4)
    assert_close(both, torch.cat([explain(x[:1], 1), explain(x[1:], TARGET)]))


@pytest.mark.parametrize("name", ["gradient_rollout", "le_grad", "grad_eclip"])
def test_vmap_over_targets_equals_the_loop(name: str) -> None:
    explain, x = attention_explainer(METHODS[name], transformer("fused")), batch()
    loop = torch.stack([explain(x, target) for target in range(3)])
    assert_close(torch.vmap(lambda target: explain(x, target))(torch.arange(3)), loop)


@every_method
def test_a_map_of_one_layer_compiles_in_one_piece(method: Any) -> None:
    records = records_for(method, transformer("fused"), batch())
    compiled = torch.compile(lambda given: method(given), fullgraph=True, backend="eager")
    assert_close(compiled(records), method(records))


@every_method
@pytest.mark.parametrize("kind", ["fused", "folded"])
def test_differentiable_maps_agree_with_finite_differences(method: Any, kind: str) -> None:
    """In the inputs, and in every parameter before, in and after the attention."""
    net, x = transformer(kind), batch()
    explain = attention_explainer(method, net, differentiable=True)
    weights = images(2, 3, 4, dtype=torch.float64, seed=5)
    tensors = [x.requires_grad_(), *net.parameters()]
    found = torch.autograd.grad((explain(x, 1) * weights).sum(), tensors, materialize_grads=True)
    for i, (tensor, grad) in enumerate(zip(tensors, found, strict=True)):
        step = 1e-5 * images(*tensor.shape, dtype=torch.float64, seed=i)
        ends = []
        with torch.no_grad():
            for sign in (1, -2):
                tensor += sign * step
                ends.append((explain(x, 1) * weights).sum())
            tensor += step
        torch.testing.assert_close((grad * step).sum(), (ends[0] - ends[1]) / 2, rtol=1e-4, atol=1e-11)


@every_method
def test_a_map_without_a_graph_is_refused_where_its_derivative_is_asked_for(method: Any) -> None:
    net, x = transformer("fused"), batch()
    explain = attention_explainer(method, net)
    with pytest.raises(CamfnError, match="differentiable=True"):
        torch.func.grad(lambda images: explain(images, 1).sum())(x)
    with pytest.raises(CamfnError, match="differentiable=True"):
        torch.func.jacrev(lambda images: explain(images, 1))(x)
    kept = attention_explainer(method, net, differentiable=True)
    (expected,) = torch.autograd.grad(kept(x.requires_grad_(), 1).square().sum(), x)
    assert_close(torch.func.grad(lambda images: kept(images, 1).square().sum())(x.detach()), expected)
    assert expected.any()


class Cut(nn.Module):
    """A transformer whose head does not hand the gradient on, or does not read the last block."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.net, self.how = transformer("fused"), how

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.net.patches(x).flatten(2).transpose(1, 2)
        first = self.net.blocks[0](tokens)
        tokens = self.net.blocks[1](first)
        if self.how == "detach":
            tokens = tokens.detach()
        if self.how == "no_grad":
            with torch.no_grad():
                tokens = self.net.blocks[2](tokens)
        return self.net.head((first if self.how == "unused" else tokens).mean(1))  # type: ignore[no-any-return]


GRADIENT_METHODS = pytest.mark.parametrize("method", [gradient_rollout, grad_eclip], ids=lambda one: one.__name__)


@GRADIENT_METHODS
@pytest.mark.parametrize(
    ("how", "target", "words"),
    [
        ("detach", 1, "the model cuts the graph"),
        ("no_grad", 1, "runs under no_grad"),
        ("unused", 1, "the score does not use this layer"),
        ("", lambda outputs: outputs[:, 1].detach(), "the target cuts the graph"),
    ],
)
def test_a_gradient_that_cannot_exist_is_an_error(method: Any, how: str, target: Any, words: str) -> None:
    net, x = Cut(how).eval(), batch()
    layers = ["net.blocks.0", "net.blocks.1"]
    with pytest.raises(CaptureError, match=f"no gradient.*{words}"):
        attention_explainer(method, net, layers, grid=(3, 4))(x, target)
    zeros = attention_explainer(partial(method, query=None), net, layers, grid=(3, 4), unused="zeros")(x, target)
    assert zeros.shape == (2, 3, 4)
    with pytest.raises(CamfnError, match="unused"):
        attention_explainer(method, net, unused="nothing")  # type: ignore[arg-type]


@every_method
def test_compiled_code_breaks_off_before_attention(method: Any) -> None:
    net, x = transformer("fused"), batch()
    explain = attention_explainer(method, net)
    compiled = torch.compile(lambda images: 2 * explain(images, 1).relu(), backend="eager")
    assert_close(compiled(x), 2 * explain(x, 1).relu())


@every_method
def test_the_outputs_come_with_the_map(method: Any) -> None:
    net, x = transformer("fused"), batch()
    cam, outputs = attention_explainer(method, net, has_aux=True)(x, 1)
    assert_close(outputs, net(x))
    assert_close(cam, attention_explainer(method, net)(x, 1))


class WithTable(nn.Module):
    """A transformer that also takes a table of numbers, first."""

    def __init__(self) -> None:
        super().__init__()
        self.net = transformer("fused")
        self.mix = nn.Linear(7, 5).double()

    def forward(self, table: Tensor, image: Tensor) -> Tensor:
        return self.net(image) + self.mix(table)  # type: ignore[no-any-return]


@every_method
def test_the_image_is_the_input_with_space(method: Any) -> None:
    net, x, table = WithTable().eval(), batch(), images(2, 7, dtype=torch.float64)
    cam = attention_explainer(method, net)((table, x), 1)
    assert_close(cam, attention_explainer(method, net.net)(x, 1))


# --------------------------------------------------------------------------------------------------------------- places


def test_a_bright_patch_is_bright_at_its_place() -> None:
    """A class token that looks at one patch only: row 1, column 2 of 3 by 4, in every library's order of patches."""

    class Looking(nn.Module):
        num_prefix_tokens = 1

        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(1, 1, 4, stride=4, bias=False)
            nn.init.ones_(self.patches.weight)

        def forward(self, x: Tensor) -> Tensor:
            v = self.patches(x).flatten(2).transpose(1, 2)  # bright where the image is
            tokens = torch.cat([v.new_ones(x.shape[0], 1, 1), v], 1)
            return ((tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens)[:, 0]

    x = torch.zeros(1, 1, 12, 16)
    x[..., 4:8, 8:12] = 1
    for method in METHODS.values():
        if method is not le_grad:  # a network without blocks
            cam = attention_explainer(method, Looking())(x, 0)
            assert cam.shape == (1, 3, 4)
            assert divmod(int(cam.argmax()), 4) == (1, 2), method.__name__


FAMILIES: dict[str, tuple[Any, int, int | None]] = {
    "vit_tiny_patch16_224": ({"img_size": (64, 96)}, 1, 0),
    "deit_tiny_distilled_patch16_224": ({"img_size": (64, 96)}, 2, 0),
    "vit_small_patch14_reg4_dinov2": ({"img_size": (56, 84), "embed_dim": 48, "num_heads": 3}, 5, 0),
    "vit_base_patch16_siglip_224": ({"img_size": (64, 96), "embed_dim": 48, "num_heads": 3}, 0, 0),
    "beit_base_patch16_224": ({"img_size": (64, 96), "embed_dim": 48, "num_heads": 3}, 1, None),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_timm_models_of_every_layout(name: str) -> None:
    options, prefix, query = FAMILIES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, depth=2, num_classes=7, **options).eval()
    x = images(2, 3, *options["img_size"])
    for method in METHODS.values():
        layers = "blocks" if method is le_grad else None
        with unchanged(model):
            cam = attention_explainer(method, model, layers)(x, 2)
        assert cam.shape == (2, 4, 6)
        assert cam.isfinite().all()
        assert cam.any()
    records = observe_attention(model)(x).records
    expected = attention_rollout(records, prefix=prefix, query=query)
    assert_close(attention_explainer(attention_rollout, model)(x), expected.view(2, 4, 6))


@pytest.mark.parametrize("family", ["ViT", "DeiT", "Dinov2", "Beit"])
def test_hugging_face_models(family: str) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = getattr(transformers, f"{family}Config")(image_size=64, patch_size=16, num_labels=7, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForImageClassification")(config).eval()
    x = {"pixel_values": images(2, 3, 64, 64)}
    for method in METHODS.values():
        assert attention_explainer(method, model)(x, 2).shape == (2, 4, 4)


def test_grid_prefix_and_query_can_be_said() -> None:
    net, x = transformer("fused"), batch()
    said = attention_explainer(attention_rollout, net, grid=(3, 4), prefix=1, query=0)(x)
    assert_close(said, attention_explainer(attention_rollout, net)(x))
    flat = attention_explainer(attention_rollout, net, grid=(12,))(x)
    assert_close(flat.view(2, 3, 4), said)
    mean = attention_explainer(attention_rollout, net, query=None)(x)
    assert_close(mean.flatten(1), attention_rollout(observe_attention(net)(x).records, query=None))
    one = attention_explainer(partial(raw_attention, layer=0, how="max"), net)(x)
    assert_close(one.flatten(1), raw_attention(observe_attention(net)(x).records, layer=0, how="max"))


def test_a_function_of_ones_own_gets_the_records() -> None:
    def mine(records: list[AttentionRecord], *, prefix: int) -> Tensor:
        assert records[0].grads is not None
        return records[0].grads.mean((1, 2))[:, prefix:]

    net, x = transformer("fused"), batch()
    grads = capture_attention(net)(x, TARGET).records[0].grads
    assert grads is not None
    assert_close(attention_explainer(mine, net)(x, TARGET).flatten(1), grads.mean((1, 2))[:, 1:])


def test_the_call_is_that_of_explainer() -> None:
    net, x = transformer("fused"), batch()
    from camfn._layout.pairs import tokens

    maps = [
        explainer(grad_cam, net, "blocks.1", layout=tokens((3, 4)))(x, target=TARGET),
        attention_explainer(gradient_rollout, net)(x, target=TARGET),
    ]
    assert maps[0].shape == maps[1].shape


def test_rollout_without_gradients_runs_no_backward() -> None:
    net, x = transformer("fused"), batch()

    def target(outputs: Tensor) -> Tensor:
        raise AssertionError("no score is needed")

    assert attention_explainer(attention_rollout, net)(x, target).shape == (2, 3, 4)


# --------------------------------------------------------------------------------------------------------------- errors


def test_networks_without_attention_are_told_what_to_take() -> None:
    for method in METHODS.values():
        with pytest.raises(CaptureError, match=r"no attention ran in this ResNet.*grad_cam"):
            attention_explainer(method, torchvision.models.resnet18().eval())(images(1, 3, 64, 64))


def test_windows_are_told_what_to_take() -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224", embed_dim=12, num_classes=7).eval()
    x = images(2, 3, 224, 224)
    for method in (attention_rollout, gradient_rollout):
        with pytest.raises(ValueError, match=r"same tokens of the whole image.*49 tokens, in windows.*grad_cam"):
            attention_explainer(method, model)(x)
    with pytest.raises(CamfnError, match="windows"):
        attention_explainer(le_grad, model)(x)
    with pytest.raises(CaptureError, match=r"in windows.*grad_cam"):
        attention_explainer(raw_attention, model, "layers.0")(x)


def test_attention_over_channels_is_no_map() -> None:
    model = timm.create_model("xcit_nano_12_p16_224", embed_dim=32, num_heads=4, depth=1, num_classes=7).eval()
    with pytest.raises(ValueError, match=r"Attention|attention"):
        attention_explainer(raw_attention, model, "blocks")(images(1, 3, 224, 224))


def test_options_out_of_range() -> None:
    records = random()
    with pytest.raises(ValueError, match=r"discard: expected a number in \[0, 1\), got 1"):
        attention_rollout(records, discard=1)
    with pytest.raises(ValueError, match="prefix=5 leaves none of the 5 tokens"):
        raw_attention(records, prefix=5)
    with pytest.raises(ValueError, match="query=7 is none of the 5 queries"):
        gradient_rollout(records, query=7)
    with pytest.raises(ValueError, match="'mean', 'max' or 'min'"):
        raw_attention(records, how="sum")  # type: ignore[arg-type]
    for method in METHODS.values():
        with pytest.raises(ValueError, match=f"{method.__name__}: expected the records of at least one"):
            method([])
    seen = observe_attention(transformer("fused"))(batch()).records
    for method in (gradient_rollout, le_grad, grad_eclip):
        with pytest.raises(ValueError, match=f"{method.__name__} needs gradients: take the records of capture"):
            method(seen)


def test_a_grid_that_does_not_fit() -> None:
    net, x = transformer("fused"), batch()
    for options in ({"grid": (4, 4)}, {"grid": (3, 4), "prefix": 2}):
        with pytest.raises(CaptureError, match="13 tokens, which are not a grid"):
            attention_explainer(raw_attention, net, **options)(x)
    with pytest.raises(CaptureError, match=r"1 to 12 come from the image: 12 are no grid"):
        attention_explainer(raw_attention, net, prefix=3)(x)
    with pytest.raises(CaptureError, match=r"expected an image"):
        attention_explainer(raw_attention, nn.MultiheadAttention(8, 2))([torch.ones(3, 8)] * 3)


def test_the_registry_names_the_methods_of_the_module() -> None:
    assert list(METHODS) == ["raw_attention", "attention_rollout", "gradient_rollout", "le_grad", "grad_eclip"]
    for name, method in METHODS.items():
        assert getattr(attention, name) is method
