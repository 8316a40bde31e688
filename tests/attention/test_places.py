"""The attentions over the image are found, and its patches in their sequence; or the error says what to pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn
from torch.testing import assert_close

from camfn import CamfnError, CaptureError, capture, resume
from camfn.attention import (
    METHODS,
    attention_explainer,
    attention_rollout,
    capture_attention,
    grad_eclip,
    gradient_rollout,
    le_grad,
    observe_attention,
    raw_attention,
)
from camfn.layout import tokens
from tests.nets.small import images, unchanged
from tests.nets.transformer import Block, transformer

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SEES: dict[str, Any] = {**SIZES, "image_size": 32, "patch_size": 8}
READS: dict[str, Any] = {**SIZES, "vocab_size": 99, "max_position_embeddings": 64}
WORDS = torch.tensor([[1, 5, 6, 7, 8, 2]])
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def built(make: Callable[[], nn.Module]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def picture(height: int = 32, width: int = 32) -> Tensor:
    return images(1, 3, height, width)


def clip() -> Any:
    config = transformers.CLIPConfig(
        text_config={**READS, "bos_token_id": 1, "eos_token_id": 2, "projection_dim": 16},
        vision_config={**SEES, "projection_dim": 16},
        projection_dim=16,
    )
    return built(lambda: transformers.CLIPModel(config))


def llava() -> Any:
    config = transformers.LlavaConfig(
        vision_config={**SEES, "model_type": "clip_vision_model"},
        text_config={**READS, "model_type": "llama", "num_key_value_heads": 4},
        image_token_index=98,
    )
    return built(lambda: transformers.LlavaForConditionalGeneration(config))


def seen_by_llava() -> dict[str, Any]:
    return {"input_ids": torch.tensor([[1, 5, *[98] * 16, 7, 8]]), "pixel_values": picture()}


def last_word(outputs: Any) -> Tensor:
    return outputs.logits[:, -1, 3]  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------ which attentions


@every_method
def test_the_vision_tower_of_two(method: Any) -> None:
    model = clip()
    inputs = {"input_ids": WORDS.repeat(2, 1), "pixel_values": picture()}

    def target(outputs: Any) -> Tensor:
        return outputs.logits_per_image[:, 1]  # type: ignore[no-any-return]

    with unchanged(model):
        found = attention_explainer(method, model)(inputs, target)
    assert found.shape == (1, 4, 4)
    assert found.any()
    for layers in ("vision_model", "vision_model.encoder.layers.*.self_attn"):
        assert_close(attention_explainer(method, model, layers)(inputs, target), found)
    turned = dict(reversed(inputs.items()))
    assert_close(attention_explainer(method, model)(turned, target), found)


def test_a_text_as_long_as_the_image_is_no_image() -> None:
    model = clip()
    inputs = {"input_ids": WORDS.repeat(1, 3)[:, :17], "pixel_values": picture()}
    found = attention_explainer(raw_attention, model)(inputs)
    records = observe_attention(model, "vision_model")(inputs).records
    assert_close(found.flatten(1), raw_attention(records))
    with pytest.raises(CaptureError, match="17 tokens, which do not depend on the image"):
        attention_explainer(raw_attention, model, "text_model")(inputs)


def test_le_grad_ends_at_the_tower_of_the_layers_named() -> None:
    model = clip()
    inputs = {"input_ids": WORDS, "pixel_values": picture()}

    def score(outputs: Any) -> Tensor:
        return outputs.logits_per_image[:, 0]  # type: ignore[no-any-return]

    texts = model.get_text_features(input_ids=WORDS)
    texts = getattr(texts, "pooler_output", texts)
    texts = (texts / texts.norm(dim=-1, keepdim=True)).detach()

    def readout(hidden: Tensor) -> Tensor:
        vision = model.vision_model
        one = model.visual_projection(vision.post_layernorm(hidden[:, 0]))
        one = one / one.norm(dim=-1, keepdim=True)
        return one @ texts.T * model.logit_scale.exp()  # type: ignore[no-any-return]

    layers = "vision_model.encoder.layers.*.self_attn"
    found = attention_explainer(le_grad, model, layers)(inputs, score)
    said = attention_explainer(le_grad, model, layers, readout=lambda x: _Logits(readout(x)))(inputs, score)
    assert_close(found, said)


class _Logits:
    def __init__(self, logits_per_image: Tensor) -> None:
        self.logits_per_image = logits_per_image


@every_method
def test_a_block_that_no_score_uses_is_left_out(method: Any) -> None:
    """LLaVA reads its tower's last block but one, and of it the patches."""
    model, inputs = llava(), seen_by_llava()
    found = attention_explainer(method, model)(inputs, last_word)
    first = "model.vision_tower.encoder.layers.0.self_attn"
    query: Any = {} if method is le_grad else {"query": None}
    assert_close(found, attention_explainer(method, model, first, **query)(inputs, last_word))
    assert found.any()


def test_stages_of_several_sizes() -> None:
    model = built(lambda: timm.create_model("pit_ti_224", num_classes=5))
    x = images(1, 3, 224, 224)
    assert attention_explainer(raw_attention, model)(x).shape == (1, 7, 7)
    with pytest.raises(CamfnError, match=r"say which, layers=.*over 730 tokens; .*layers=\['transformers\.2.*over 50"):
        attention_explainer(attention_rollout, model)(x)
    assert attention_explainer(attention_rollout, model, "transformers.2")(x).shape == (1, 7, 7)


def test_queries_are_no_places() -> None:
    """The 16 queries of a Q-Former are as many as the patches."""
    config = transformers.Blip2Config(
        vision_config=SEES,
        qformer_config={**SIZES, "vocab_size": 99, "encoder_hidden_size": 32},
        text_config={
            "model_type": "opt",
            "vocab_size": 99,
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "ffn_dim": 32,
            "word_embed_proj_dim": 32,
            "max_position_embeddings": 64,
        },
        num_query_tokens=16,
        image_token_index=98,
    )
    model = built(lambda: transformers.Blip2ForConditionalGeneration(config))
    inputs = {"pixel_values": picture(), "input_ids": torch.tensor([[98] * 16 + [1, 7]])}
    assert attention_explainer(raw_attention, model)(inputs).shape == (1, 4, 4)
    with pytest.raises(CaptureError, match="16 tokens, which do not depend on the image"):
        attention_explainer(raw_attention, model, "qformer.encoder.layer.*.attention")(inputs)
    with pytest.raises(CaptureError, match=r"0 to 15 come from the image, through .* pass positions=slice\(0, 16\)"):
        attention_explainer(raw_attention, model, "language_model")(inputs)


def test_hooks_that_transformers_sets_on_the_first_run_stay_off_the_model() -> None:
    """LLaVA collects hidden states by hooks that its first forward registers: on copies, where a cut runs it first."""
    inputs = seen_by_llava()
    expected = llava()(**inputs).logits
    for run in (capture, resume):
        model = llava()
        cut: Any = run(model, "model.vision_tower.encoder.layers.0", layout=None)
        for _ in range(2):
            cut(inputs, last_word) if run is capture else cut(inputs)
        assert not any(module._forward_hooks for module in model.modules())
        assert_close(model(**inputs).logits, expected)


# ------------------------------------------------------------------------------------------------ where the patches are


class Arranged(nn.Module):
    """Patches of 4 and a token, in an order of one's own; the head reads the token, or the mean of the patches."""

    def __init__(self, order: str, reads: str = "token") -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, stride=4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 12))
        self.blocks = nn.Sequential(*(Block(12, 2, "fused", 0.0) for _ in range(2)))
        self.head = nn.Linear(12, 5)
        self.order, self.reads = order, reads

    def forward(self, x: Tensor) -> Tensor:
        maps = self.patches(x)
        x = (maps.transpose(2, 3) if self.order == "columns" else maps).flatten(2).transpose(1, 2)
        token = self.cls_token.expand(x.shape[0], -1, -1)
        at = {"middle": x.shape[1] // 2, "last": x.shape[1]}.get(self.order, 0)
        x = self.blocks(torch.cat([x[:, :at], token, x[:, at:]], 1))
        patches = torch.cat([x[:, :at], x[:, at + 1 :]], 1)
        return self.head(x[:, at] if self.reads == "token" else patches.mean(1))  # type: ignore[no-any-return]


@every_method
@pytest.mark.parametrize("order", ["middle", "last"])
def test_a_token_among_the_patches_is_none(method: Any, order: str) -> None:
    """The facts of the model say a prefix of one; the patches that see the image say where it is."""
    x = images(2, 3, 12, 16)
    plain = built(lambda: Arranged("first"))
    other = Arranged(order).eval()
    other.load_state_dict(plain.state_dict())
    assert_close(attention_explainer(method, other)(x, 1), attention_explainer(method, plain)(x, 1))


@every_method
def test_a_token_that_is_not_read_is_no_query(method: Any) -> None:
    x, model = images(2, 3, 12, 16), built(lambda: Arranged("first", "patches"))
    found = attention_explainer(method, model)(x, 1)
    assert found.any()
    if method is not le_grad:
        assert_close(found, attention_explainer(method, model, query=None)(x, 1))
        batched = torch.vmap(lambda target: attention_explainer(method, model)(x, target))(torch.arange(2))
        assert_close(batched[1], found)


def test_patches_that_stand_in_columns_are_refused() -> None:
    model, x = built(lambda: Arranged("columns")), images(2, 3, 12, 16)
    for options in ({}, {"grid": (3, 4)}, {"prefix": 1}):
        with pytest.raises(CaptureError, match=r"1 to 12 come from the image, but not row by row.*Pass positions="):
            attention_explainer(raw_attention, model, **options)(x)
    columns = torch.arange(1, 13).view(4, 3).T.flatten()
    found = attention_explainer(raw_attention, model, positions=columns, grid=(3, 4))(x)
    assert_close(found, attention_explainer(raw_attention, model, grid=(4, 3), prefix=1)(x).transpose(1, 2))


def test_tokens_in_another_order_are_laid_out_as_the_model_says() -> None:
    model = built(
        lambda: timm.create_model("hiera_tiny_224", img_size=(64, 96), stages=(1, 1, 2, 2), embed_dim=16, num_heads=1)
    )
    x = images(2, 3, 64, 96)
    (record,) = observe_attention(model, "blocks.3")(x).records
    found = attention_explainer(raw_attention, model, "blocks.3")(x)
    order = attention_explainer(raw_attention, model, "blocks.3", positions=slice(0, 24), grid=(24,))(x)
    assert record.probabilities.shape[-1] == 24
    assert found.shape == (2, 4, 6)
    assert_close(found.flatten(1).sort(1).values, order.sort(1).values)
    assert not torch.equal(found.flatten(1), order)


def test_what_is_said_is_taken() -> None:
    net, x = transformer("fused"), images(2, 3, 12, 16, dtype=torch.float64)
    plain = attention_explainer(gradient_rollout, net)(x, 1)
    for options in (
        {"layout": tokens((3, 4), prefix=1)},
        {"positions": slice(1, 13)},
        {"positions": torch.arange(1, 13), "grid": (3, 4)},
        {"positions": torch.arange(1, 13).expand(2, 12)},
        {"grid": (3, 4), "prefix": 1},
        {"grid": (3, 4), "suffix": 0},
    ):
        said = attention_explainer(gradient_rollout, net, query=0, **options)
        assert_close(said(x, 1), plain)
        assert attention_explainer(gradient_rollout, net, query=0, **options) == said
    several = attention_explainer(gradient_rollout, net, query=[0, 5])(x, 1)
    assert several.shape == (2, 2, 3, 4)
    assert_close(several[0], plain)
    for options, words in (
        ({"layout": tokens((3, 4)), "grid": (3, 4)}, "layout= says where the patches are"),
        ({"positions": slice(1, 13), "prefix": 1}, "in place of prefix="),
    ):
        with pytest.raises(CamfnError, match=words):
            attention_explainer(gradient_rollout, net, **options)  # type: ignore[arg-type]
    with pytest.raises(CaptureError, match=r"the 11 positions are not no grid"):
        attention_explainer(gradient_rollout, net, positions=slice(1, 12))(x, 1)


def test_sound_and_packed_patches_need_a_grid() -> None:
    config = transformers.Wav2Vec2Config(
        **SIZES,
        conv_dim=[16, 16],
        conv_stride=[5, 4],
        conv_kernel=[10, 4],
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=8,
        num_labels=3,
    )
    model = built(lambda: transformers.Wav2Vec2ForSequenceClassification(config))
    sound = images(2, 400)
    with pytest.raises(CaptureError, match=r"19 tokens, expected an image .* or grid="):
        attention_explainer(raw_attention, model)(sound)
    for method in METHODS.values():
        assert attention_explainer(method, model, grid=(19,))(sound, 1).shape == (2, 19)
    spectral = transformers.ASTConfig(
        **SIZES, patch_size=8, frequency_stride=8, time_stride=8, max_length=48, num_mel_bins=32, num_labels=3
    )
    model = built(lambda: transformers.ASTForAudioClassification(spectral))
    x = images(2, 48, 32)
    for method in METHODS.values():
        found = attention_explainer(method, model, grid=(4, 6))(x, 1)
        assert_close(found, attention_explainer(method, model, grid=(4, 6), prefix=2)(x, 1))
        assert found.shape == (2, 4, 6)


def packed() -> Any:
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    config = Qwen2VLVisionConfig(depth=2, embed_dim=32, hidden_size=16, num_heads=2, patch_size=4)
    return built(lambda: Qwen2VisionTransformerPretrainedModel(config))


@every_method
def test_patches_packed_into_one_sequence(method: Any) -> None:
    model = packed()

    def target(outputs: Any) -> Tensor:
        return outputs.pooler_output.sum()[None]  # type: ignore[no-any-return]

    one = {"hidden_states": images(24, 96), "grid_thw": torch.tensor([[1, 4, 6]])}
    found = attention_explainer(method, model, grid=(4, 6), prefix=0)(one, target)
    assert found.shape == (1, 4, 6)
    assert found.any()
    for sizes in ([[1, 4, 6], [1, 4, 6]], [[2, 4, 6]]):
        several = {"hidden_states": images(48, 96), "grid_thw": torch.tensor(sizes)}
        with pytest.raises(CaptureError, match=r"several images or frames|windows"):
            attention_explainer(method, model, grid=(4, 6), prefix=0)(several, target)


# ----------------------------------------------------------------------------------------------------- amid text


@every_method
def test_the_image_amid_text(method: Any) -> None:
    model, inputs = llava(), seen_by_llava()
    layers = "model.language_model.layers.*.self_attn"
    with pytest.raises(CaptureError, match=r"2 to 17 come from the image, .* positions=slice\(2, 18\)"):
        attention_explainer(method, model, layers)(inputs, last_word)
    found = attention_explainer(method, model, layers, positions=slice(2, 18))
    if method in (raw_attention, attention_rollout):  # every word is read, but for a target
        with pytest.raises(CamfnError, match=r"outputs read several tokens.*query=0"):
            found(inputs)
    else:
        with unchanged(model):
            cam = found(inputs, last_word)
        assert cam.shape == (1, 4, 4)
        assert cam.any()
    three = attention_explainer(method, model, layers, positions=slice(2, 18), query=[-1, 18, 3])(inputs, last_word)
    assert three.shape == (3, 1, 4, 4)
    if method in (gradient_rollout, grad_eclip):  # the score reads the last token
        assert_close(three[0], cam)
    if method in (raw_attention, attention_rollout):
        records = observe_attention(model, layers)(inputs).records
        assert_close(three[0].flatten(1), method(records, positions=slice(2, 18), query=19))


def test_le_grad_of_a_word_is_that_of_its_own_token() -> None:
    """Each layer's token goes through the norm and the head; no other row of the attention sees the word."""
    model, inputs = llava(), seen_by_llava()
    layers = "model.language_model.layers.*.self_attn"
    found = attention_explainer(le_grad, model, layers, positions=slice(2, 18), query=-1)(inputs, last_word)
    records = capture_attention(model, layers, scores="layers", average=False)(inputs, last_word).records
    expected = torch.zeros(16)
    for record in records:
        assert record.grads is not None
        assert not record.grads[:, :, :-1].any()
        for head in range(4):
            for j in range(16):
                expected[j] += record.grads[0, head, 19, 2 + j].clamp(min=0) / 8
    assert_close(found.flatten(), expected)


def test_several_tokens_that_are_read_are_listed() -> None:
    model, inputs = llava(), seen_by_llava()
    explain = attention_explainer(
        grad_eclip, model, "model.language_model.layers.*.self_attn", positions=slice(2, 18), grid=(4, 4)
    )
    with pytest.raises(CamfnError, match=r"reads 2 tokens beside the patches, 18 to 19: .*query=\[18, 19\]"):
        explain(inputs, lambda outputs: outputs.logits[:, -2:, 3].sum(1))
    with pytest.raises(CamfnError, match="inside vmap"):
        torch.vmap(lambda word: explain(inputs, lambda o: (o.logits[:, -1] * word).sum(-1)))(torch.eye(99)[:2])
    config = transformers.YolosConfig(**SIZES, image_size=[32, 48], patch_size=8, num_detection_tokens=5)
    detector = built(lambda: transformers.YolosForObjectDetection(config))
    x = picture(32, 48)
    with pytest.raises(CamfnError, match=r"several tokens beside the patches.*query=25"):
        attention_explainer(raw_attention, detector)(x)
    one = attention_explainer(grad_eclip, detector)(x, lambda outputs: outputs.logits[:, 3, 0])
    said = attention_explainer(grad_eclip, detector, query=28)(x, lambda outputs: outputs.logits[:, 3, 0])
    assert_close(one, said)


def test_a_random_order_of_patches_is_refused_and_draws_nothing() -> None:
    """ViLT shuffles the patches in every forward."""
    config = transformers.ViltConfig(**SIZES, image_size=32, patch_size=8, vocab_size=99, num_labels=5)
    model = built(lambda: transformers.ViltForQuestionAnswering(config))
    inputs = {"input_ids": WORDS, "pixel_values": picture()}
    state = torch.get_rng_state()
    with pytest.raises(CaptureError, match="7 to 22 come from the image, but not row by row"):
        attention_explainer(raw_attention, model)(inputs)
    assert torch.equal(state, torch.get_rng_state())


def test_a_change_of_the_model_is_seen() -> None:
    x, model = images(2, 3, 12, 16), built(lambda: Arranged("first"))
    explain = attention_explainer(raw_attention, model)
    first = explain(x)
    model.reads = "patches"
    assert_close(explain(x), attention_explainer(raw_attention, model, query=None)(x))
    model.reads = "token"
    assert_close(explain(x), first)
