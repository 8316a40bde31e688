"""Targets of segmentations, embeddings, regressions, several labels, and captions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import capture, explainer, layout
from camfn.methods import grad_cam, hires_cam
from camfn.targets import mask_score, moved, pin, regression, several, similarity, token_log_probability
from tests.nets.small import images, reference, unchanged


def dense(batch: int = 2, classes: int = 3, *size: int) -> Tensor:
    return images(batch, classes, *(size or (4, 6)), dtype=torch.float64)


# ----------------------------------------------------------------------------------------------------------- mask_score


@pytest.mark.parametrize("size", [(5,), (4, 6), (2, 3, 4)])
@pytest.mark.parametrize("label", [1, [2, 0]])
def test_a_mask_of_one_s_own(size: tuple[int, ...], label: Any) -> None:
    logits = dense(2, 3, *size)
    mask = torch.rand(2, *size, generator=torch.Generator().manual_seed(0)) > 0.5
    found = mask_score(label, mask)(logits)
    for i, value in enumerate(found.tolist()):
        own = label if isinstance(label, int) else label[i]
        wanted = sum(y for y, inside in zip(logits[i, own].flatten().tolist(), mask[i].flatten()) if inside)
        assert value == pytest.approx(wanted)


def test_all_positions_and_those_predicted() -> None:
    logits = dense()
    torch.testing.assert_close(mask_score(1)(logits), logits[:, 1].sum((1, 2)))
    won = logits.argmax(1) == 1
    torch.testing.assert_close(mask_score(1, "predicted")(logits), (logits[:, 1] * won).sum((1, 2)))


def test_the_class_that_is_left_open() -> None:
    logits = dense()
    counts = torch.stack([(logits.argmax(1) == k).sum((1, 2)) for k in range(3)], 1)
    most = counts.argmax(1)
    torch.testing.assert_close(mask_score(None, "predicted")(logits), mask_score(most, "predicted")(logits))
    torch.testing.assert_close(mask_score()(logits), logits.sum((2, 3)).amax(1))
    corner = torch.zeros(4, 6)
    corner[0, 0] = 1
    torch.testing.assert_close(mask_score(None, corner)(logits), logits[:, :, 0, 0].amax(1))


def test_a_pinned_region_stays_where_it_was() -> None:
    logits = dense()
    target = pin(mask_score(None, "predicted"), logits)
    torch.testing.assert_close(target(logits + 1), target(logits) + _predicted_count(logits))


def _predicted_count(logits: Tensor) -> Tensor:
    winner = logits.argmax(1)
    return torch.stack([(winner == k).sum((1, 2)) for k in range(3)], 1).amax(1).to(logits)


@pytest.mark.parametrize("scale", [2, 3])
def test_a_mask_of_another_size_is_averaged(scale: int) -> None:
    logits = dense()
    mask = torch.rand(2, 4 * scale, 6 * scale, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means = mask.reshape(2, 4, scale, 6, scale).mean((2, 4))
    torch.testing.assert_close(mask_score(2, mask)(logits), (logits[:, 2] * means).sum((1, 2)))


def test_a_mask_moves_with_the_image() -> None:
    logits, mask = dense(), torch.zeros(4, 6)
    mask[:, :2] = 1
    target = moved(mask_score(1, mask), lambda m: m.flip(-1))
    torch.testing.assert_close(target(logits.flip(-1)), mask_score(1, mask)(logits))
    assert mask_score(1).moved is None


def test_where_the_logits_are() -> None:
    logits = dense()
    for outputs in ({"out": logits, "aux": logits + 1}, {"logits": logits}):
        torch.testing.assert_close(mask_score(1)(outputs), mask_score(1)(logits))


# -------------------------------------------------------------------------------------- embeddings, regressions, labels


@pytest.mark.parametrize("rows", [True, False])
def test_similarity_is_the_cosine(rows: bool) -> None:
    a, b = dense(3, 5, 2).unbind(2)
    b = b if rows else b[0]
    found = similarity(b)(a)
    torch.testing.assert_close(found, torch.cosine_similarity(a, b.expand_as(a)))
    for name in ("image_embeds", "text_embeds", "pooler_output"):
        assert torch.equal(similarity(b)({name: a}), found)
    assert similarity(torch.zeros(5))(a).tolist() == [0, 0, 0]


def test_similarity_does_not_differentiate_the_reference() -> None:
    a = torch.ones(1, 3, requires_grad=True)
    b = torch.tensor([1.0, 2.0, 0.0], requires_grad=True)
    similarity(b)(a).sum().backward()  # type: ignore[no-untyped-call]
    assert b.grad is None
    assert a.grad is not None


def test_regression() -> None:
    values = images(3, 2)
    assert torch.equal(regression()(values), values[:, 0])
    assert torch.equal(regression(-1, sign=-1)({"logits": values}), -values[:, 1])
    assert torch.equal(regression()(values[:, 0]), values[:, 0])


def test_a_regression_s_signs_give_opposite_maps() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 1))
    explain = explainer(grad_cam, model, "1")
    up, down = (explain(images(2, 3, 6, 6), regression(sign=sign)) for sign in (1, -1))
    torch.testing.assert_close(up, -down)
    assert up.any()


def test_several_labels() -> None:
    logits = images(2, 4)
    torch.testing.assert_close(several([0, 2])(logits), logits[:, 0] + logits[:, 2])
    own = torch.tensor([[True, False, False, True], [False, True, False, False]])
    torch.testing.assert_close(several(own)(logits), torch.stack([logits[0, 0] + logits[0, 3], logits[1, 1]]))
    torch.testing.assert_close(several()(logits), logits.relu().sum(1))
    torch.testing.assert_close(pin(several(), logits)(logits - 5), logits.relu().sum(1) - 5 * (logits > 0).sum(1))


def test_token_log_probability() -> None:
    logits, text = images(2, 3, 7), torch.tensor([[4, 2, -100], [1, 0, 6]])
    each = torch.zeros(2, 3)
    for i, t in (text >= 0).nonzero().tolist():
        each[i, t] = logits[i, t].log_softmax(0)[text[i, t]]
    torch.testing.assert_close(token_log_probability(text)(logits), each.sum(1))
    torch.testing.assert_close(token_log_probability(text, position=1)(logits), each[:, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mask_score(0, "there"), "'predicted' or a mask"),  # type: ignore[arg-type]
        (lambda: mask_score(0)(torch.zeros(2, 3)), "spatial"),
        (lambda: mask_score(3)(dense()), "class 3 is out of range"),
        (lambda: mask_score(0, torch.ones(3))(dense()), "2 spatial dimensions"),
        (lambda: mask_score(0, torch.ones(3, 4, 6))(dense()), "region: expected one for each"),
        (lambda: similarity(torch.ones(4))(torch.ones(2, 3)), "reference: expected"),
        (lambda: similarity(torch.ones(4))(torch.ones(2, 3, 4)), "CLIPVisionModelWithProjection"),
        (lambda: regression(sign=0), "expected 1 to explain a high output, or -1"),  # type: ignore[arg-type]
        (lambda: regression(2)(torch.ones(3, 2)), "output 2 is out of range"),
        (lambda: regression()(torch.ones(3, 2, 1)), r"\(B, n\)"),
        (lambda: several([5])(torch.ones(2, 3)), "class 5 is out of range"),
        (lambda: several(torch.ones(3, dtype=torch.bool))(torch.ones(2, 3)), "labels: expected bool"),
        (lambda: several()(torch.ones(2, 3, 4)), r"\(B, K\)"),
        (lambda: token_log_probability([1])(torch.ones(2, 3)), r"\(B, T, V\)"),
        (lambda: token_log_probability([1])(torch.ones(1, 2, 3)), "tokens: expected"),
        (lambda: token_log_probability([1, 9])(torch.ones(1, 2, 3)), "class 9 is out of range"),
        (lambda: token_log_probability([1, 2], position=2)(torch.ones(1, 2, 3)), "the text has 2 tokens"),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# ---------------------------------------------------------------------------------------------------------- real models


def seeded(build: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def agrees(model: Any, layer: str, batch: dict[str, Tensor], target: Any) -> Tensor:
    """Hold a capture to plain autograd, and return the gradient."""
    _, grads, _ = reference(
        model, layer, lambda m: m(**batch), target
    )  # Hugging Face's own hooks come with a first run
    with unchanged(model):
        captured = capture(model, layer, layout=None)(batch, target)
    torch.testing.assert_close(captured.grads, grads)
    assert grads.any()
    return grads


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_torchvision_segmenters(name: str) -> None:
    from torchvision.models import segmentation

    model = seeded(lambda: getattr(segmentation, name)(weights=None, weights_backbone=None))
    layer = {"fcn_resnet50": "backbone.layer4"}.get(name, "backbone.16")
    mask = torch.zeros(64, 64)
    mask[:32, :32] = 1
    x = images(2, 3, 64, 64)
    for target in (mask_score(3, mask), mask_score(None, "predicted")):
        captured = capture(model, layer)(x, target)
        _, grads, _ = reference(model, layer, lambda m: m(x), target)
        torch.testing.assert_close(captured.grads, grads)
        assert grads.any()
    assert explainer(hires_cam, model, layer)(x, target).shape == grads[:, 0].shape


def test_segformer() -> None:
    import transformers

    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[7, 3], strides=[4, 2],
        num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16, num_labels=4,
    )  # fmt: skip
    model = seeded(lambda: transformers.SegformerForSemanticSegmentation(config))
    mask = torch.zeros(2, 64, 64)
    mask[:, :20] = 1
    agrees(model, "decode_head.batch_norm", {"pixel_values": images(2, 3, 64, 64)}, mask_score(2, mask))


VISION: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT: dict[str, Any] = {**VISION, "vocab_size": 20, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}


@pytest.mark.parametrize("family", ["CLIP", "Siglip"])
def test_pairs_of_towers(family: str) -> None:
    import transformers

    suffix, projection = ("WithProjection", {"projection_dim": 16}) if family == "CLIP" else ("", {})

    def tower(kind: str, options: dict[str, Any]) -> Any:
        config = getattr(transformers, f"{family}{kind}Config")(**options, **projection)
        return seeded(lambda: getattr(transformers, f"{family}{kind}Model{suffix}")(config))

    vision = tower("Vision", {**VISION, "image_size": 32, "patch_size": 8})
    text = tower("Text", {**TEXT, "pad_token_id": 0})
    with torch.no_grad():
        words = text(input_ids=torch.tensor([[1, 4, 5, 2]]))
    reference_ = words.text_embeds if family == "CLIP" else words.pooler_output
    layer = "vision_model.encoder.layers.1.layer_norm1" if family == "CLIP" else "encoder.layers.1.layer_norm1"
    batch = {"pixel_values": images(2, 3, 32, 32)}
    target = similarity(reference_[0])
    agrees(vision, layer, batch, target)
    tokens = layout.tokens((4, 4), prefix=1 if family == "CLIP" else 0)
    assert explainer(hires_cam, vision, layer, layout=tokens)(batch, target).shape == (2, 4, 4)


def test_a_caption() -> None:
    import transformers

    encoder = transformers.ViTConfig(**VISION, image_size=32, patch_size=8)
    decoder = transformers.GPT2Config(vocab_size=20, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    model = seeded(lambda: transformers.VisionEncoderDecoderModel(config=config))
    text = torch.tensor([[4, 5, 2], [6, 7, 2]])
    batch = {"pixel_values": images(2, 3, 32, 32), "labels": text}
    layer = "encoder.layers.1.layernorm_before"
    target = token_log_probability(text)
    with torch.no_grad():
        outputs = model(**batch)
    torch.testing.assert_close(-target(outputs).sum() / 6, outputs.loss)
    whole = agrees(model, layer, batch, target)
    parts = [agrees(model, layer, batch, token_log_probability(text, position=t)) for t in range(3)]
    torch.testing.assert_close(torch.stack(parts).sum(0), whole)
    cam = explainer(hires_cam, model, layer, layout=layout.tokens((4, 4)))(batch, target)
    assert cam.shape == (2, 4, 4)


def test_a_caption_of_blip() -> None:
    """A decoder that is given the text itself: its logits at one token are for the next."""
    import transformers

    text_config: dict[str, Any] = {
        **VISION, "vocab_size": 20, "encoder_hidden_size": 16, "max_position_embeddings": 16, "bos_token_id": 1,
        "eos_token_id": 2, "sep_token_id": 2, "pad_token_id": 0, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    config = transformers.BlipConfig(
        text_config=text_config, vision_config={**VISION, "image_size": 32, "patch_size": 8}, projection_dim=16
    )
    model = seeded(lambda: transformers.BlipForConditionalGeneration(config))
    text = torch.tensor([[1, 4, 5, 2], [1, 6, 7, 2]])
    batch = {"pixel_values": images(2, 3, 32, 32), "input_ids": text}
    target = token_log_probability(torch.cat([text[:, 1:], torch.full((2, 1), -100)], 1))
    with torch.no_grad():
        outputs = model(**batch, labels=text)
    torch.testing.assert_close(-target(outputs).sum() / 6, outputs.loss)
    layer = "vision_model.encoder.layers.1.layer_norm1"
    assert agrees(model, layer, batch, target).any()
    cam = explainer(hires_cam, model, layer)(batch, target)
    assert cam.shape == (2, 4, 4)


def test_one_logit_is_predicted_where_it_is_positive() -> None:
    logits = torch.tensor([[[[5.0, -9.0, 2.0]]], [[[-1.0, -2.0, -3.0]]]])
    for target in (mask_score(region="predicted"), mask_score(0, "predicted")):
        torch.testing.assert_close(target(logits), torch.tensor([7.0, 0.0]))
        torch.testing.assert_close(pin(target, logits)(logits + 10), torch.tensor([27.0, 0.0]))
