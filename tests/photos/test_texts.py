"""`text:` targets of models of Hugging Face that compare images with texts, from a folder with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from typer.testing import CliRunner

from camfn import explainer, layers
from camfn._photos.words import pick_target
from camfn._shared.errors import LoadError, UsageError
from camfn.cli._app import app
from camfn.cli._files.records import read_lines
from camfn.methods import grad_cam
from camfn.targets import similarity
from camfn.zoo import load

WORDS = ["pad", "eos", "a", "photo", "of", "dog", "car"]
SIDES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
TEXT = {**SIDES, "vocab_size": 8, "max_position_embeddings": 8, "eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0}
VISION = {**SIDES, "image_size": 32, "patch_size": 8}


@pytest.fixture(params=["clip", "siglip"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    net: Any
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if request.param == "clip":
            net = transformers.CLIPModel(transformers.CLIPConfig(text_config=TEXT, vision_config=VISION))
        else:
            net = transformers.SiglipModel(transformers.SiglipConfig(text_config=TEXT, vision_config=VISION))
    path = tmp_path / str(request.param)
    net.save_pretrained(path)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="pad", eos_token="eos").save_pretrained(path)
    kind = transformers.CLIPImageProcessor if request.param == "clip" else transformers.SiglipImageProcessor
    sizes = {"size": {"height": 32, "width": 32}}
    kind(**sizes, do_center_crop=False).save_pretrained(path) if request.param == "clip" else kind(
        **sizes
    ).save_pretrained(path)
    return path


def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))


def test_a_text_is_the_cosine_of_the_two_towers(folder: Path) -> None:
    loaded = load(f"hf:{folder}")
    choice = pick_target("text:a photo of a dog", loaded)
    inputs = loaded.preprocess(photo())[None]
    outputs = loaded.model(inputs)
    (picked,) = choice.pick(outputs)
    whole: Any = transformers.AutoModel.from_pretrained(folder)
    padded = {"padding": "max_length", "max_length": 8} if "siglip" in folder.name else {}
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(["a photo of a dog"], return_tensors="pt", **padded)
    with torch.no_grad():
        found = whole(pixel_values=inputs, input_ids=tokens["input_ids"], attention_mask=tokens.get("attention_mask"))
    cosine = torch.nn.functional.cosine_similarity(found.image_embeds, found.text_embeds)
    torch.testing.assert_close(picked.score(outputs), cosine, atol=1e-6, rtol=1e-5)


def test_from_a_shell(folder: Path, tmp_path: Path) -> None:
    photo().save(tmp_path / "a.png")
    out = tmp_path / "out"
    words = ["explain", f"{tmp_path}/a.png", "--model", f"hf:{folder}", "--out", str(out), "--target"]
    result = CliRunner().invoke(app, [*words, "text:a photo of a dog"])
    assert result.exit_code == 0, result.output
    loaded = load(f"hf:{folder}")
    score = similarity(loaded.model.embed("a photo of a dog"))  # type: ignore[operator]
    inputs = loaded.preprocess(photo())[None]
    name = layers.suggest(loaded.model, inputs, score)[0].name
    raw = np.load(out / "a.grad_cam.text-a-photo-of-a-dog.npy")
    np.testing.assert_allclose(raw, explainer(grad_cam, loaded.model, name)(inputs, score)[0], rtol=1e-4, atol=1e-7)
    result = CliRunner().invoke(app, [*words, "top"])
    assert (result.exit_code, "--target 'text:" in result.output) == (2, True)


NAMES = ["dog", "car", "photo of a car"]


def test_names_become_zero_shot_classes(folder: Path) -> None:
    loaded = load(f"hf:{folder}", classes=NAMES, template="a {}")
    inputs = torch.stack([loaded.preprocess(photo()), loaded.preprocess(photo().rotate(90))])
    whole: Any = transformers.AutoModel.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    columns = []
    for name in NAMES:  # a text at a time, as transformers scores it
        padded = {"padding": "max_length", "max_length": 8} if "siglip" in folder.name else {}
        tokens = tokenizer([f"a {name}"], return_tensors="pt", **padded)
        kept = {key: tokens[key] for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            columns.append(whole(pixel_values=inputs, **kept).logits_per_image)
    outputs = loaded.model(inputs)
    torch.testing.assert_close(outputs["logits"], torch.cat(columns, 1), atol=1e-5, rtol=1e-5)
    assert loaded.about["classes"] == "3 zero-shot classes, 'a {}' of each name"
    assert loaded.classes == NAMES
    (picked,) = pick_target("contrast:dog,car", loaded).pick(outputs)
    torch.testing.assert_close(picked.score(outputs), outputs["logits"][:, 0] - outputs["logits"][:, 1])
    (text,) = pick_target("text:a dog", loaded).pick(outputs)
    cosine = torch.nn.functional.cosine_similarity(outputs["image_embeds"], loaded.model.embed("a dog")[None])  # type: ignore[operator]
    torch.testing.assert_close(text.score(outputs), cosine)
    default = load(f"hf:{folder}", classes=NAMES, weights="none")
    assert default.about["classes"] == "3 zero-shot classes, 'a photo of a {}' of each name"


def test_zero_shot_classes_from_a_shell(folder: Path, tmp_path: Path) -> None:
    photo().save(tmp_path / "a.png")
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    words = ["explain", f"{tmp_path}/a.png", "--model", f"hf:{folder}", "--classes", f"{tmp_path}/names.txt"]
    words += ["--out", f"{tmp_path}/out", "--colormap", "seismic"]
    done = CliRunner().invoke(app, [*words, "--target", "top:2", "--check"])
    assert done.exit_code == 0, done.output
    assert "classes: 3 zero-shot classes, 'a photo of a {}' of each name" in done.stdout
    for line in read_lines(tmp_path / "out" / "explanations.jsonl"):
        assert line["name"] in NAMES
        assert len(line["top"]) == 3
        assert line["about"]["classes"].startswith("3 zero-shot classes")
        assert line["check"]["lines"]
    assert CliRunner().invoke(app, [*words, "--target", "car", "--template", "a {}"]).exit_code == 0
    for more, said in (
        (["--template", "a dog"], "expected a text with one {}"),
        (["--template", "a {} {}"], "expected a text with one {}"),
        (["--target", "cat"], "no class 'cat'"),
    ):
        refused = CliRunner().invoke(app, [*words, *more])
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert said in refused.stderr


def test_templates_and_names_that_make_no_classes(folder: Path) -> None:
    for arguments, said in (
        ({"classes": ["dog"]}, "nothing to compare it with"),
        ({"template": "a {}"}, "there are no names to put into it"),
        ({"classes": ["dog " * 9, "car"]}, "the model reads 8"),
    ):
        with pytest.raises(LoadError, match=said):
            load(f"hf:{folder}", **arguments)
    with pytest.raises(LoadError, match="does not compare images with texts"):
        load("tiny:cnn", classes=list("abcdefghij"), template="a {}")


def test_what_is_no_text_is_refused(folder: Path) -> None:
    loaded = load(f"hf:{folder}", weights="none")
    for words in ("top", "3", "dog"):
        with pytest.raises(UsageError, match="compares images with texts and has no classes"):
            pick_target(words, loaded)
    with pytest.raises(LoadError, match="the model reads 8"):
        pick_target("text:" + "dog " * 9, loaded)
